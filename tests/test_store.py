"""A product is made once, written whole or not at all, and checked when read; its key is what it
depends on."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pandas as pd
import pytest
import torch

from lib.seeds import seed_of
from lib.study.keys import digest
from lib.study.products import ARRAYS, CHECKPOINT
from lib.study.profile import ROOT
from lib.study.store import (
    JSON,
    FileType,
    Store,
    as_written,
    file_hash,
    holding,
    provenance,
    read_table,
    results_dir,
    rows,
    write_atomically,
)

KEY = {"seed": 1, "network": {"width": 0.25, "depth": 16}, "lists": [1, 2.5, None, True]}


class Maker:
    """Counts how often it makes its product."""

    def __init__(self, product):
        self.product, self.count = product, 0

    def __call__(self):
        self.count += 1
        return self.product


def refuse():
    pytest.fail("made again")


def files(folder):
    """Files below a folder, without the locks, which stay and are empty."""
    return sorted(
        str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock"
    )


# --- keys -----------------------------------------------------------------------------------------


def test_keys_are_the_same_for_ever():
    assert digest(KEY) == "346173afba76c847"  # stored products are found by these
    assert seed_of(1, "init") == 1614277956857364833


def test_a_key_depends_on_every_value_and_not_on_the_order():
    assert digest(dict(reversed(KEY.items()))) == digest(KEY) == digest(json.loads(json.dumps(KEY)))
    others = [
        {**KEY, "seed": 2},
        {**KEY, "network": {"width": 0.25, "depth": 19}},
        {**KEY, "lists": [1, 2.5, None]},
        {**KEY, "more": 0},
    ]
    assert len({digest(k) for k in [KEY, *others]}) == 5


def test_seeds_differ_by_every_part_and_fit_a_generator():
    parts = [(1, "order"), (1, "crops"), (2, "order"), ("1order",), (1, "order", 0), ("order", 1)]
    seeds = [seed_of(*p) for p in parts]
    assert len(set(seeds)) == len(seeds) and all(0 <= s < 2**63 for s in seeds)
    torch.Generator().manual_seed(max(seeds))


# --- once -----------------------------------------------------------------------------------------


def test_once_makes_once(tmp_path):
    make, store = Maker({"row": {"acc": 0.25}, "accuracy": [1, 2]}), Store(tmp_path)
    assert not store.has("run", KEY)
    assert store.once("run", KEY, make) == store.once("run", KEY, make) == make.product
    assert Store(tmp_path).once("run", KEY, refuse) == make.product and make.count == 1
    assert (
        store.has("run", KEY)
        and not store.has("maps", KEY)
        and not store.has("run", {**KEY, "seed": 2})
    )
    assert files(tmp_path) == [f"run/{digest(KEY)}.json", f"run/{digest(KEY)}.meta.json"]


def test_code_is_recorded_and_not_part_of_the_key(tmp_path, monkeypatch):
    Store(tmp_path).once("run", KEY, lambda: [1])
    monkeypatch.setattr("lib.study.store.provenance", lambda: {"commit": "another"})
    assert Store(tmp_path).once("run", KEY, refuse) == [1]


def test_meta_says_when_where_and_by_which_code(tmp_path):
    store, start = Store(tmp_path), time.time()
    store.once("run", KEY, lambda: time.sleep(0.05) or [1], branch="abc")
    ((path, meta),) = store.metas("run")
    assert path == store.path("run", KEY, branch="abc") and meta == json.loads(
        path.with_name(f"{digest(KEY)}.abc.meta.json").read_text()
    )
    assert (meta["kind"], meta["key"], meta["branch"], meta["sha256"]) == (
        "run",
        KEY,
        "abc",
        file_hash(path),
    )
    assert start - 1 <= meta["made"] <= time.time() + 1  # whole seconds
    assert 0.04 <= meta["seconds"] < 60
    assert {"commit", "dirty", "python", "machine", "processor", "cores"} <= meta.keys()
    assert meta["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_the_commit_is_the_repository_s():
    # a copy without history, maybe inside another repository, has no commit
    git = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    own = (ROOT / ".git").exists() and shutil.which("git")
    expected = subprocess.check_output(git, text=True).strip() if own else "unknown"
    assert provenance()["commit"] == expected and provenance()["dirty"] in (True, False)


def test_branches_tell_products_of_one_key_apart(tmp_path):
    store = Store(tmp_path)
    assert store.branches("run", KEY) == []
    store.once("run", KEY, lambda: ["none"])
    for name in ("b2", "a1"):
        store.once("run", KEY, lambda: [name], branch=name)
    store.once("run", {**KEY, "seed": 2}, lambda: [0], branch="c3")
    assert store.branches("run", KEY) == ["a1", "b2"]
    assert [store.once("run", KEY, refuse, branch=b) for b in ("a1", "b2", "")] == [
        ["a1"],
        ["b2"],
        ["none"],
    ]
    store.path("run", KEY, branch="b2").with_name(f"{digest(KEY)}.b2.meta.json").unlink()
    assert store.branches("run", KEY) == ["a1"]  # unfinished ones do not count
    assert len(list(store.metas("run"))) == 3


def test_without_its_meta_file_a_product_is_not_finished(tmp_path):
    store, make = Store(tmp_path), Maker([2])
    store.once("run", KEY, lambda: [1])
    (tmp_path / "run" / f"{digest(KEY)}.meta.json").unlink()
    assert not store.has("run", KEY) and list(store.metas("run")) == []
    assert store.once("run", KEY, make) == store.once("run", KEY, refuse) == [2]


def test_a_deleted_product_is_made_again(tmp_path):
    store = Store(tmp_path)
    store.once("run", KEY, lambda: [1])
    store.path("run", KEY).unlink()
    assert list(store.metas("run")) == []
    assert store.once("run", KEY, lambda: [2]) == store.once("run", KEY, refuse) == [2]


@pytest.mark.parametrize("kind", ["json", "npz", "pt"])
def test_a_damaged_product_is_named_and_deleting_it_helps(tmp_path, kind):
    filetype = {"json": JSON, "npz": ARRAYS, "pt": CHECKPOINT}[kind]
    product = {"json": {"a": [1, 2, 3]}, "npz": {"a": np.arange(9)}, "pt": {"a": torch.arange(9)}}[
        kind
    ]
    store = Store(tmp_path)
    store.once("thing", KEY, lambda: product, filetype)
    path = store.path("thing", KEY, filetype.suffix)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(
        ValueError, match="is damaged .*delete it, and the next run makes it again"
    ) as caught:
        store.once("thing", KEY, refuse, filetype)
    assert str(path) in str(caught.value)
    path.unlink()
    again = store.once("thing", KEY, lambda: product, filetype)
    assert (
        list(again["a"])
        == list(product["a"])
        == list(store.once("thing", KEY, refuse, filetype)["a"])
    )


def test_a_damaged_meta_file_is_named(tmp_path):
    store = Store(tmp_path)
    store.once("run", KEY, lambda: [1])
    meta = tmp_path / "run" / f"{digest(KEY)}.meta.json"
    meta.write_text("")
    with pytest.raises(ValueError, match=meta.name):
        store.once("run", KEY, refuse)


# --- writing --------------------------------------------------------------------------------------


def test_an_error_while_making_or_saving_leaves_nothing(tmp_path):
    def half(product, path):
        path.write_text("hal")
        raise OSError(28, "No space left on device")

    store = Store(tmp_path)
    with pytest.raises(OSError, match="No space left"):
        store.once("run", KEY, lambda: [1], FileType(".json", half, json.loads))
    with pytest.raises(ZeroDivisionError):
        store.once("run", KEY, lambda: 1 / 0)
    assert files(tmp_path) == [] and not store.has("run", KEY)
    assert store.once("run", KEY, lambda: [2]) == [2]  # no lock stays behind


def test_a_failed_write_leaves_the_earlier_file_intact(tmp_path):
    path = tmp_path / "deep" / "table.csv"
    write_atomically(path, lambda p: p.write_text("first"))

    def fail(p):
        p.write_text("sec")
        assert path.read_text() == "first"  # a reader sees the earlier file until the end
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, fail)
    assert path.read_text() == "first" and files(tmp_path) == ["deep/table.csv"]
    write_atomically(path, lambda p: p.write_text("second"))
    assert path.read_text() == "second"


@pytest.mark.parametrize("filetype", [JSON, ARRAYS, CHECKPOINT], ids=["json", "npz", "pt"])
def test_equal_products_are_equal_bytes_whichever_process_writes_them(
    tmp_path, filetype, monkeypatch
):
    a, b = (np.arange(3.0), np.ones(2)) if filetype is ARRAYS else ([1.5, 2], {"y": 1, "x": 2})
    if filetype is CHECKPOINT:
        a = torch.arange(3.0)
    written = []
    for process, product in enumerate(
        ({"a": a, "b": b}, {"b": b, "a": a} if filetype is JSON else {"a": a, "b": b})
    ):
        monkeypatch.setattr(os, "getpid", lambda: 1000 + process)
        store = Store(tmp_path / str(process))
        store.once("thing", KEY, lambda: product, filetype)
        written.append(store.path("thing", KEY, filetype.suffix).read_bytes())
    assert written[0] == written[1]


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    state = {
        "model": {
            "w": torch.randn(3, 4, 2, 2).to(memory_format=torch.channels_last),
            "n": torch.tensor(7),
        },
        "loss": [0.1, 0.2],
        "lineage": "abc",
    }
    Store(tmp_path).once("task1", KEY, lambda: state, CHECKPOINT)
    back = Store(tmp_path).once("task1", KEY, refuse, CHECKPOINT)
    assert torch.equal(back["model"]["w"], state["model"]["w"]) and back["model"]["n"] == 7
    assert (back["loss"], back["lineage"]) == ([0.1, 0.2], "abc")


def test_arrays_with_objects_are_not_read(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, a=np.array([{}]))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        ARRAYS.load(path)["a"]


# --- several processes ----------------------------------------------------------------------------

HOLDER = """
import sys, time
from pathlib import Path
from lib.study.store import Store
folder = Path(sys.argv[1])

def make():
    (folder / "started").touch()
    while not (folder / "go").exists():
        time.sleep(0.01)
    return ["the first's"]

Store(folder / "store").once("run", {"k": 1}, make)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that is in the middle of making the product {"k": 1}."""
    process = subprocess.Popen([sys.executable, "-B", "-c", HOLDER, str(tmp_path)], cwd=ROOT)
    end = time.time() + 60
    while not (tmp_path / "started").exists():
        assert process.poll() is None and time.time() < end
        time.sleep(0.01)
    yield process
    process.kill()
    process.wait()


def test_a_second_process_waits_for_the_first_and_makes_nothing(tmp_path, holder):
    timer = threading.Timer(0.3, (tmp_path / "go").touch)
    timer.start()
    start = time.time()
    assert Store(tmp_path / "store").once("run", {"k": 1}, refuse) == ["the first's"]
    assert time.time() - start > 0.25


def test_other_products_do_not_wait(tmp_path, holder):
    assert Store(tmp_path / "store").once("run", {"k": 2}, lambda: [2]) == [2]
    assert holder.poll() is None


def test_a_killed_process_releases_its_lock(tmp_path, holder):
    threading.Timer(0.2, holder.kill).start()
    assert Store(tmp_path / "store").once("run", {"k": 1}, lambda: ["the second's"]) == [
        "the second's"
    ]
    assert not (tmp_path / "go").exists()


def test_after_a_failure_only_one_of_those_waiting_goes_in(tmp_path, monkeypatch):
    """A is making when B comes and waits; A fails, B goes in; C, coming now, must wait for B.
    (Threads: a lock belongs to the open file, so they lock each other out as processes do.)"""
    events = {
        name: threading.Event()
        for name in ("A in", "A go", "B waits", "B in", "B go", "C waits", "C in")
    }
    flock = fcntl.flock

    def watched(file, how):
        events.get(f"{threading.current_thread().name} waits", events["A in"]).set()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", watched)

    def make():
        name = threading.current_thread().name
        events[f"{name} in"].set()
        if name != "C":
            assert events[f"{name} go"].wait(20)
        if name == "A":
            raise RuntimeError("on purpose")
        return [name]

    def once():
        try:
            Store(tmp_path).once("run", KEY, make)
        except (
            RuntimeError,
            OSError,
        ):  # A on purpose; threads that both went in stumble over one temporary name
            pass

    threads = {name: threading.Thread(target=once, name=name, daemon=True) for name in "ABC"}
    threads["A"].start()
    assert events["A in"].wait(20)
    threads["B"].start()
    assert events["B waits"].wait(20)
    time.sleep(0.1)
    events["A go"].set()
    assert events["B in"].wait(20)
    threads["C"].start()
    assert events["C waits"].wait(20)
    both = events["C in"].wait(0.3)
    events["B go"].set()
    for thread in threads.values():
        thread.join(20)
    assert not both and Store(tmp_path).once("run", KEY, refuse) == ["B"]


# --- tables ---------------------------------------------------------------------------------------


def test_rows_are_read_from_a_run_here_else_from_the_published_record(tmp_path, monkeypatch):
    monkeypatch.setenv("RESULTS", str(tmp_path / "here"))
    monkeypatch.setattr("lib.study.store.ROOT", tmp_path)
    assert results_dir("mine") == tmp_path / "here" / "mine"
    with pytest.raises(
        FileNotFoundError, match="no table 'claims' of profile 'mine': expected .*PROFILE=mine"
    ):
        rows("mine", "claims")
    for place, number in (
        (tmp_path / "results/published/mine/tables", 1),
        (tmp_path / "here/mine/tables", 2),
    ):
        place.mkdir(parents=True)
        (place / "runs.csv").write_text(f"arm,acc1\nx,{number}\n")
        assert rows("mine")["acc1"].tolist() == [number]
    monkeypatch.delenv("RESULTS")
    assert results_dir("mine") == tmp_path / "results" / "mine" and rows("mine")[
        "acc1"
    ].tolist() == [1]


def test_a_table_of_many_rows_a_run_holds_its_parts_once_in_the_file(tmp_path):
    rows = [
        {"run": f"{arm}/{seed}/{lineage}", "arm": arm, "seed": seed, "lineage": lineage, "acc": 0.5}
        for arm, seed, lineage in (("a/b", 3, "012345678901"), ("None", 12, "scratch"))
    ]
    path = tmp_path / "accuracy.csv"
    path.write_text(as_written(pd.DataFrame(rows)))
    assert path.read_text() == "run,acc\na/b/3/012345678901,0.5\nNone/12/scratch,0.5\n"
    back = read_table(path)[["run", "arm", "seed", "lineage", "acc"]]
    assert back.to_dict("records") == rows
    plain = pd.DataFrame(rows).drop(columns="run")
    path.write_text(as_written(plain))  # a table of runs has its own columns
    assert list(read_table(path)) == list(plain)


def test_parts_of_a_run_share_a_folder_that_nobody_removes_meanwhile(tmp_path):
    folder = tmp_path / "profile"
    with holding(folder, shared=True), holding(folder, wait=False, shared=True):
        with pytest.raises(RuntimeError, match="in use by process"):
            with holding(folder, wait=False):
                pass
    with holding(folder, wait=False):
        pass
