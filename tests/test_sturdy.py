"""Nothing lost, nothing unclear: bad input by a table of cases (cases.yaml), destructive commands,
what is stale, and every exception as one sentence."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import pytest

from lib.report import session
from lib.reproduce import __main__ as reproduce
from lib.reproduce import commands, notebooks, record
from lib.study import __main__ as study
from lib.study import store
from lib.study.command import ADVICE, INTERRUPTED, advice_in, in_one_sentence
from lib.study.engine import default_workers, processes
from lib.study.keys import digest
from lib.study.profile import load
from tests import torture
from tests.cases import CASES, prepare, wrong

ROOT = Path(__file__).parents[1]


# --- the table of cases ---------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=[c["case"] for c in CASES])
def test_bad_input_ends_in_its_sentence(case, tmp_path, monkeypatch, capsys):
    arguments, environment = prepare(case, tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    before = published()
    code = reproduce.main(arguments)
    error = capsys.readouterr().err
    assert wrong(case, tmp_path, code, error) == [], error
    assert published() == before


def published():
    return {p: p.stat().st_mtime_ns for p in (ROOT / "results/published").rglob("*")}


# --- nothing is removed before what replaces it is whole ------------------------------------------

SMALL = ["--profile", "smoke"]


@pytest.fixture
def results(tmp_path, monkeypatch):
    """An empty folder of results, and a record of its own."""
    monkeypatch.setenv("RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(record, "PUBLISHED", tmp_path / "published")
    return tmp_path / "results"


def product(results, seed=1, kind="run", branch="abc"):
    """A finished product of the smoke profile, made of nothing."""
    key = {"seed": seed, "task1": {"seed": seed}}
    store.Store(results / "smoke/runs").once(kind, key, lambda: {"row": seed}, branch=branch)
    return results / "smoke/runs" / kind / f"{digest(key)}.{branch}.json"


def tree(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("elsewhere", [True, False])
def test_make_clean_removes_what_results_names_and_nothing_else(tmp_path, elsewhere):
    here, there = ROOT / "results/smoke_of_a_test", tmp_path / "r/smoke_of_a_test"
    profile = tmp_path / "smoke_of_a_test.yaml"
    profile.write_text("extends: smoke\n")
    try:
        for folder in (here, there):
            (folder / "tables").mkdir(parents=True)
        given = {"RESULTS": str(tmp_path / "r")} if elsewhere else {}
        done = subprocess.run(
            ["make", "-s", "clean", f"PROFILE={profile}", f"PYTHON={sys.executable}"],
            cwd=ROOT,
            env={**{k: v for k, v in os.environ.items() if k != "RESULTS"}, **given},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert (here.exists(), there.exists()) == (elsewhere, not elsewhere)
        assert str(there if elsewhere else here) in done.stdout
    finally:
        shutil.rmtree(here, ignore_errors=True)
        here.with_name(f".{here.name}.lock").unlink(missing_ok=True)


def test_clean_refuses_while_a_run_is_under_way(results, capsys):
    kept = product(results)
    with store.holding(results / "smoke"):
        assert reproduce.main(["clean", *SMALL]) == 1
    assert "in use by process" in capsys.readouterr().err and kept.exists()
    assert reproduce.main(["clean", *SMALL]) == 0 and not (results / "smoke").exists()
    assert reproduce.main(["clean", *SMALL]) == 0 and "nothing to remove" in capsys.readouterr().out


def test_clean_empties_the_folder_a_link_leads_to(results, tmp_path):
    (tmp_path / "large_disk").mkdir()
    results.mkdir()
    (results / "smoke").symlink_to(tmp_path / "large_disk")
    product(results)
    assert reproduce.main(["clean", *SMALL]) == 0
    assert (results / "smoke").is_dir() and not [*(tmp_path / "large_disk").iterdir()]
    assert {p.name for p in tmp_path.iterdir()} == {"large_disk", "results"}


@pytest.mark.parametrize("fails_at", [1, 3, 5])
def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path, fails_at):
    target = tmp_path / "record"
    for number in range(4):
        (target / f"{number}.txt").parent.mkdir(exist_ok=True)
        (target / f"{number}.txt").write_text("old")
    before = tree(target)

    def fill(new):
        for number in range(5):
            if number == fails_at:
                raise OSError(28, "No space left on device")
            store.write_atomically(new / f"{number}.txt", lambda p: p.write_text("new"))

    if fails_at < 5:
        with pytest.raises(OSError, match="No space"), store.replacing(target) as new:
            fill(new)
        assert tree(target) == before
    else:
        with store.replacing(target) as new:
            fill(new)
        assert set(tree(target).values()) == {b"new"} and len(tree(target)) == 5
    assert [p.name for p in tmp_path.iterdir()] == ["record"]


@pytest.mark.parametrize("killed", ["before the new one came", "before the old one went"])
def test_a_kill_between_two_renames_is_put_right(tmp_path, killed):
    (tmp_path / ".record.old").mkdir()
    (tmp_path / ".record.old/a").write_text("old")
    if killed == "before the old one went":
        (tmp_path / "record").mkdir()
        (tmp_path / "record/a").write_text("new")
    store.put_right(tmp_path / "record")
    assert (tmp_path / "record/a").read_text() == ("old" if "came" in killed else "new")
    assert not (tmp_path / ".record.old").exists()


def test_publish_on_a_full_disk_leaves_the_old_record_whole(results, monkeypatch, capsys):
    old = record.PUBLISHED / "smoke"
    (old / "tables").mkdir(parents=True)
    (old / "tables/runs.csv").write_text("old")
    product(results)
    monkeypatch.setattr(record, "is_current", lambda *_: True)
    monkeypatch.setattr(record, "_copies", lambda _: [results / "smoke/one.csv"])
    monkeypatch.setattr(record, "_packs", lambda _: {"seed1": ["{}"]})
    (results / "smoke/one.csv").write_text("new")

    def full(source, target):
        target.write_text("ne")
        raise OSError(28, "No space left on device")

    before = tree(record.PUBLISHED)
    monkeypatch.setattr(record.shutil, "copyfile", full)
    assert reproduce.main(["publish", *SMALL]) == 1
    error = capsys.readouterr().err
    assert "No space left" in error and "free some space" in error and "smoke" in error
    assert tree(record.PUBLISHED) == before


def lines_of(results, *changes):
    """Published lines of two products, the second changed."""
    lines = []
    for seed in (1, 2):
        path = product(results, seed)
        meta = json.loads(path.with_name(path.name[: -len("json")] + "meta.json").read_text())
        lines.append(
            {
                "kind": "run",
                "name": path.name,
                "meta": meta,
                "product": json.loads(path.read_text()),
            }
        )
    shutil.rmtree(results)
    for change in changes:
        change(lines[1])
    return [json.dumps(line) for line in lines]


DAMAGED = {
    "a kind that leaves the folder": lambda line: line.update(kind="../../../../x"),
    "an absolute kind": lambda line: line.update(kind="/tmp/x"),
    "another kind of both": lambda line: (
        line.update(kind="../x"),
        line["meta"].update(kind="../x"),
    ),
    "a name that leaves the folder": lambda line: line.update(name="../../x.json"),
    "an absolute branch": lambda line: (
        line["meta"].update(branch="/../../x"),
        line.update(name=f"{digest(line['meta']['key'])}./../../x.json"),
    ),
    "another key": lambda line: line["meta"]["key"].update(seed=3),
    "another product": lambda line: line["product"].update(row=9),
    "no meta": lambda line: line.pop("meta"),
    "nothing": lambda line: line.clear(),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_restore_writes_nothing_of_a_damaged_record(name, results, tmp_path, capsys):
    pack = record.PUBLISHED / "smoke/runs/seed1.jsonl"
    pack.parent.mkdir(parents=True)
    pack.write_text("\n".join(lines_of(results, DAMAGED[name])) + "\n")
    before = tree(tmp_path)
    assert reproduce.main(["restore", *SMALL]) == 1
    error = capsys.readouterr().err
    assert "seed1.jsonl, line 2: damaged" in error and "take the committed file again" in error
    assert tree(tmp_path) == before and not Path("/tmp/x").exists()


@pytest.mark.parametrize("line", ["{}", "[]", "null", '{"kind": "run"', "\x00", "\xff"])
def test_restore_names_the_line_that_is_no_row(line, results, capsys):
    pack = record.PUBLISHED / "smoke/runs/seed1.jsonl"
    pack.parent.mkdir(parents=True)
    pack.write_bytes("\n".join([*lines_of(results)[:1], line]).encode("latin1"))
    assert reproduce.main(["restore", *SMALL]) == 1
    assert "line 2: damaged (not a published row" in capsys.readouterr().err


def test_restore_puts_sound_lines_back(results, capsys):
    pack = record.PUBLISHED / "smoke/runs/seed1.jsonl"
    pack.parent.mkdir(parents=True)
    pack.write_text("\n".join(lines_of(results)) + "\n")
    assert reproduce.main(["restore", *SMALL]) == 0
    assert "restored 2 products" in capsys.readouterr().out
    assert [m["key"]["seed"] for _, m in store.Store(results / "smoke/runs").metas("run")] != []
    assert reproduce.main(["restore", *SMALL]) == 0
    assert "restored 0 products of profile smoke (2 were there)" in capsys.readouterr().out


MARKS = {
    "no end": "a\n<!-- answer -->\nx\n",
    "no beginning": "a\n<!-- /answer -->\nx\n",
    "another's end": "<!-- answer -->\nx\n<!-- costs -->\ny\n<!-- /answer -->\n<!-- /costs -->\n",
    "no marks": "nothing\n",
}


@pytest.mark.parametrize("name", MARKS)
def test_readme_without_its_marks_is_left_alone(name, tmp_path, monkeypatch, capsys):
    path = tmp_path / "README.md"
    path.write_text(MARKS[name])
    monkeypatch.setattr(commands, "ROOT", tmp_path)
    assert reproduce.main(["readme"]) == 1
    error = capsys.readouterr().err
    assert "expected each <!-- name --> to be followed" in error and str(path) in error
    assert path.read_text() == MARKS[name]


def test_what_killed_processes_left_is_swept_and_nothing_else(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    old = time.time() - 2 * store.LONG_AGO
    names = {
        f".table.csv.{dead.pid}.tmp": (old, False),  # name -> age, whether it stays
        f".folder.{dead.pid}.tmp": (old, False),
        f".young.csv.{dead.pid}.tmp": (time.time(), True),
        f".here.csv.{store.HOST}.{dead.pid}.tmp": (old, False),
        f".here.folder.{store.HOST}.{dead.pid}.tmp": (old, False),
        f".mine.csv.{os.getpid()}.tmp": (old, True),
        "table.csv": (old, True),
        ".table.csv.lock": (old, True),
    }
    for name, (age, _) in names.items():
        path = tmp_path / "deep" / name
        path.parent.mkdir(exist_ok=True)
        (path / "in").mkdir(parents=True) if "folder" in name else path.write_text("x")
        os.utime(path, (age, age))
    store.sweep(tmp_path)
    assert {p.name for p in (tmp_path / "deep").iterdir()} == {n for n in names if names[n][1]}


# --- what is stale, and what is damaged -----------------------------------------------------------


@pytest.mark.parametrize("change", ["content", "one more", "one less", "another name"])
def test_a_changed_folder_of_images_is_another_one(change, tmp_path):
    folder = tmp_path / "images"
    (folder / "cat").mkdir(parents=True)
    for name in "abc":
        (folder / "cat" / f"{name}.png").write_bytes(b"x")
    profile = load("smoke", data=str(folder))
    before = session._data_stamp(profile)
    assert before == session._data_stamp(profile) != "named"
    first = folder / "cat/a.png"
    {
        "content": lambda: first.write_bytes(b"yy"),
        "one more": lambda: (folder / "cat/d.png").write_bytes(b"x"),
        "one less": first.unlink,
        "another name": lambda: first.rename(folder / "cat/e.png"),
    }[change]()
    assert session._data_stamp(profile) != before


META = {
    "another key": lambda m: m["key"].update(seed=3),
    "another branch": lambda m: m.update(branch="xyz"),
    "another kind": lambda m: m.update(kind="task1"),
    "no key": lambda m: m.pop("key"),
    "no checksum": lambda m: m.pop("sha256"),
    "nothing": lambda m: m.clear(),
}


@pytest.mark.parametrize("name", META)
def test_an_altered_meta_file_is_named_and_its_row_does_not_vanish(name, tmp_path):
    path = product(tmp_path)
    place = path.with_name(path.name[: -len("json")] + "meta.json")
    meta = json.loads(place.read_text())
    META[name](meta)
    place.write_text(json.dumps(meta))
    shelf = store.Store(tmp_path / "smoke/runs")
    for look in (lambda: list(shelf.metas("run")), lambda: shelf.read(path)):
        with pytest.raises(ValueError, match=f"{place.name} is damaged .*delete it"):
            look()


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"inputs": [], "outputs": {}}', '{"in'])
def test_a_manifest_that_is_none_is_made_again(text, tmp_path):
    notebook = session.NOTEBOOKS[0]
    path = session.manifest_path(tmp_path, notebook)
    path.parent.mkdir()
    path.write_text(text)
    assert session.read_manifest(tmp_path, notebook) is None


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"cells": [1]}', '{"cells": []}', "\xff"])
def test_a_broken_notebook_is_named(text, tmp_path):
    path = tmp_path / "01.ipynb"
    path.write_bytes(text.encode("latin1"))
    with pytest.raises(ValueError, match="01.ipynb: not a notebook .*git checkout"):
        session.cells(path)


def test_a_table_is_read_as_it_was_written(tmp_path):
    frame = pd.DataFrame({"class": ["None", "NA", "nan", None], "acc": [0.5, None, 1, 2]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    back = store.read_table(tmp_path / "t.csv")
    assert back["class"].tolist()[:3] == ["None", "NA", "nan"] and back["class"].isna().sum() == 1
    assert back["acc"].isna().sum() == 1 and back["acc"].dtype == float
    (tmp_path / "t.csv").write_bytes(b"")
    assert store.read_table(tmp_path / "t.csv").empty


# --- which code it was ----------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["own", "inside another", "no repository", "no git"])
def test_the_commit_is_this_repository_s_or_unknown(place, tmp_path, monkeypatch):
    if shutil.which("git") is None:
        pytest.skip("needs git")
    inner = tmp_path / "outer/project" if place == "inside another" else tmp_path / "project"
    inner.mkdir(parents=True)
    if place != "no repository":
        top = inner.parent if place == "inside another" else inner
        for arguments in (
            ["init", "-q"],
            ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--allow-empty", "-qm", "x"],
        ):
            subprocess.run(["git", "-C", str(top), *arguments], check=True)
    if place == "no git":
        monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(store, "ROOT", inner)
    found = store.provenance.__wrapped__()
    assert (found["commit"] != "unknown", found["dirty"]) == (place == "own", place != "own")


# --- one at a time --------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from lib.study.store import holding
with holding(Path(sys.argv[1])):
    print("in", flush=True)
    while not Path(sys.argv[2]).exists():
        time.sleep(0.01)
    print("out", flush=True)
"""


def test_a_second_run_waits_for_the_first_and_says_so(tmp_path):
    def start():
        return subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path / "quick"), str(tmp_path / "go")],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    first = start()
    assert first.stdout.readline() == "in\n"
    second = start()
    assert f"quick is in use by process {first.pid}: waiting" in second.stderr.readline()
    (tmp_path / "go").touch()
    assert second.communicate(timeout=60) == ("in\nout\n", "")
    assert first.communicate(timeout=60) == ("out\n", "")


def test_other_seeds_than_those_of_the_tables_are_said(results, capsys):
    path = session.manifest_path(results / "smoke", session.NOTEBOOKS[0])
    store.write_atomically(
        path, lambda p: p.write_text(json.dumps({"inputs": {}, "outputs": {}, "seeds": "3-4"}))
    )
    notebooks._say_whose_seeds(load("smoke"))
    said = capsys.readouterr().out
    assert "will hold seeds 1-2, in place of 3-4" in said and "runs.csv holds every seed" in said
    notebooks._say_whose_seeds(load("smoke", seeds="3-4"))
    assert capsys.readouterr().out == ""


# --- every exception is a sentence ----------------------------------------------------------------


def raising(error):
    def work():
        raise error

    return work


RAISED = {
    "a room's own sentence": (
        ValueError("a: given\n b,  expected c"),
        "error: a: given b, expected c\n",
    ),
    "a full disk": (OSError(28, "No space left on device", "/x/y"), ADVICE[28]),
    "a read-only disk": (OSError(30, "Read-only file system", "/x/y"), "error: /x/y: Read-only"),
    "no right": (PermissionError(13, "Permission denied", "/x/y"), "RESULTS=FOLDER"),
    "a disk without locks": (OSError(37, "No locks available", "/x/y"), "flock"),
    "a file in the way": (NotADirectoryError(20, "Not a directory", "/x/y"), "where a file stands"),
    "no memory": (MemoryError(), "WORKERS=1"),
    "no package": (ModuleNotFoundError("No module named 'pandas'", name="pandas"), "make setup"),
    "a defect": (KeyError("C2-random"), "error: KeyError: 'C2-random' (at test_sturdy.py, line "),
    "a defect without a word": (AssertionError(), "TRACEBACK=1"),
    "a library's cancelling": (BaseException("x"), "error: BaseException: x"),
}


@pytest.mark.parametrize("name", RAISED)
def test_any_exception_is_one_sentence(name, capsys):
    error, words = RAISED[name]
    assert in_one_sentence(raising(error)) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and words in said, said


def test_a_command_that_ends_well_or_asks_to_exit_is_left_alone(capsys):
    assert in_one_sentence(lambda: None) == 0 and in_one_sentence(lambda: 3) == 3
    with pytest.raises(SystemExit):
        in_one_sentence(raising(SystemExit(2)))
    assert capsys.readouterr().err == ""


def swallowed():
    """A library that turns Ctrl-C into an error of its own."""
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    except KeyboardInterrupt:
        raise ImportError("numpy could not be imported") from None


@pytest.mark.parametrize("work", [raising(KeyboardInterrupt()), swallowed])
def test_an_interruption_is_one_sentence_whatever_became_of_it(work, capsys):
    before = signal.getsignal(signal.SIGINT)
    try:
        assert in_one_sentence(work) == 130
        assert capsys.readouterr().err == f"\n{INTERRUPTED}\n"
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN  # the way out is quiet
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_traceback_is_there_for_who_asks(monkeypatch, capsys):
    monkeypatch.setenv("TRACEBACK", "1")
    assert in_one_sentence(raising(KeyError("x"))) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_error_of_the_system_in_a_notebook_gets_its_advice():
    assert advice_in("[Errno 28] No space left on device: '/x'") == f": {ADVICE[28]}"
    assert advice_in("no such thing") == advice_in("[Errno 9999] odd") == ""
    assert advice_in(f"[Errno 28] {ADVICE[28]}") == ""


def test_ctrl_c_while_workers_train_is_one_sentence_and_leaves_no_process(tmp_path, tiny_npz):
    images = tiny_npz(tmp_path / "tiny.npz", classes=10)  # the first epoch ends soon
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "lib.study", "--profile", "smoke"),
            *("--data", images, "--workers", "2"),
        ],
        cwd=ROOT,
        env={**os.environ, "RESULTS": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a terminal sends Ctrl-C to all of a group
    )
    while "epoch" not in process.stdout.readline():
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    error = process.communicate(timeout=300)[1]
    assert (process.returncode, error) == (130, f"\n{INTERRUPTED}\n")
    end = time.time() + 60  # multiprocessing's own helper goes a moment later
    with pytest.raises(ProcessLookupError):
        while time.time() < end:
            os.killpg(process.pid, 0)
            time.sleep(0.1)
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("words", [["walk"], ["run", "--colour", "red"], ["run", "--seeds"], []])
def test_a_command_line_that_is_none_is_one_sentence(words, capsys):
    assert reproduce.main(words) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert "python -m lib.reproduce --help shows what is expected" in error


@pytest.mark.parametrize("module", ["lib.reproduce", "lib.study", "bench"])
def test_a_python_without_the_packages_is_told_what_to_do(module):
    done = subprocess.run(
        [sys.executable, "-S", "-m", module, "readme"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1 and "make setup" in done.stderr and "PYTHON=" in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr


def test_an_old_python_is_told_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    assert in_one_sentence(lambda: None) == 1
    assert "too old: expected 3.11 or newer; name one by PYTHON=" in capsys.readouterr().err


@pytest.mark.parametrize("shard", ["²/2", "0/2", "3/2", "2", "a/b", "1/²", "-1/2", "9/9"])
def test_a_shard_that_is_none_is_told_so(shard, results, capsys):
    assert study.main([*SMALL, f"--shard={shard}"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: shard {shard}") or error.startswith(f"error: shard '{shard}'")
    assert "expected" in error and error.count("\n") == 1 and not results.exists()


# --- make -----------------------------------------------------------------------------------------

OLD_PYTHON = "#!/bin/sh\ncase $1 in --version) echo Python 2.7.18 >&2;; *) exit 1;; esac\n"
GIVEN_TO_MAKE = {  # what is given -> words of the sentence
    "quotes and backticks": (
        {"PROFILE": "a\"b`touch {tmp}/x`'c"},
        ["no profile 'a\"b`touch", "expected one"],
    ),
    "a word more": ({"PROFILE": "quick smoke"}, ["no profile 'quick smoke'", "expected one of"]),
    "a minus": ({"PROFILE": "smoke", "SEEDS": "-3"}, ["seeds '-3'", "such as 1-5"]),
    "seeds apart": ({"PROFILE": "smoke", "SEEDS": "1, x"}, ["seeds '1, x'", "such as 1-5"]),
    "no such Python": ({"PYTHON": "nosuch"}, ["no program nosuch", "PYTHON="]),
    "an old Python": ({"PYTHON": "{tmp}/old"}, ["Python 2.7.18 is too old", "3.11 or newer"]),
}


@pytest.mark.parametrize("name", GIVEN_TO_MAKE)
def test_what_is_given_to_make_reaches_the_command_as_it_is(name, tmp_path):
    (tmp_path / "old").write_text(OLD_PYTHON)
    (tmp_path / "old").chmod(0o755)
    given, words = GIVEN_TO_MAKE[name]
    given = {"PYTHON": sys.executable, "RESULTS": str(tmp_path / "results"), **given}
    done = subprocess.run(
        ["make", "-s", "reproduce", *(f"{k}={v.format(tmp=tmp_path)}" for k, v in given.items())],
        cwd=ROOT,
        capture_output=True,
        text=True,
        # these tests may run under a make themselves, whose messages then name a level
        env={k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))},
    )
    error = done.stderr.partition("\nmake: ")[0]
    assert done.returncode == 2 and error.startswith("error: ") and "\n" not in error, done.stderr
    assert all(word in error for word in words), error
    assert [p.name for p in tmp_path.iterdir()] == ["old"]


# --- a cluster ------------------------------------------------------------------------------------

ARRAY = ["bash", "cluster/array.sbatch"]
TASK = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4", "PYTHON": "echo"}
SUBMITTED = {  # what a task of an array is given -> what it runs
    "a profile alone": ({}, "-m lib.study --profile compact --shard 3/4\n"),
    "all there is": (
        {"PROFILE": "a b.yaml", "SEEDS": "1, 2", "DATA": "cifar100:/d", "PARTS": "9"},
        "-m lib.study --profile a b.yaml --seeds 1, 2 --data cifar100:/d --shard 3/9\n",
    ),
}


@pytest.mark.parametrize("name", SUBMITTED)
def test_a_task_of_a_slurm_array_makes_its_shard(name):
    given, command = SUBMITTED[name]
    usual = {k: v for k, v in os.environ.items() if k not in ("PROFILE", "SEEDS", "DATA", "PARTS")}
    done = subprocess.run(
        ARRAY, cwd=ROOT, env={**usual, **TASK, **given}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, command, "")


@pytest.mark.parametrize("where", ["no array", "another folder"])
def test_what_is_no_task_of_an_array_is_told_so(where, tmp_path):
    folder, task = (ROOT, {}) if where == "no array" else (tmp_path, TASK)
    done = subprocess.run(
        ["bash", str(ROOT / ARRAY[1])],
        cwd=folder,
        env={"PATH": os.environ["PATH"], **task},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stderr.startswith("error: ")
    assert "expected sbatch --array=1-5 cluster/array.sbatch" in done.stderr


# --- kills at random moments: more of them by make torture ----------------------------------------


def tortured(*words):
    command = [sys.executable, "-m", "tests.torture", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_a_run_killed_at_random_moments_ends_in_the_same_bytes():
    done = tortured("--only", "kills", "--kills", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("yes") == 3 and "3 of 3 ok" in done.stdout, done.stdout


@pytest.mark.slow
def test_two_at_once_a_full_disk_damage_and_interruptions_lose_nothing():
    done = tortured("--only", "kills,two,disk,damaged,interruptions")
    assert done.returncode == 0, done.stdout + done.stderr


def test_torture_tells_of_what_it_finds(monkeypatch, capsys):
    lines = [torture.Line("a", "whole", "whole"), torture.Line("b", "whole", "half")]
    monkeypatch.setitem(torture.PARTS, "kills", lambda bench, given: lines)
    monkeypatch.setattr(torture.Bench, "undisturbed", lambda self: None)
    monkeypatch.setattr(sys, "argv", ["torture", "--only", "kills"])
    assert torture.main() == 1
    assert "1 of 2 ok" in capsys.readouterr().out


def test_torture_sees_a_half_product_and_a_file_that_differs(tmp_path):
    here, there = tmp_path / "a", tmp_path / "b"
    path, _ = product(here), product(there)
    assert torture.compared(here, there) == "the same" and torture.unsound(here) == []
    path.write_text("half")
    assert torture.compared(here, there).startswith("1 files differ: smoke/runs/run/")
    assert torture.unsound(here) == [path.name.replace(".json", ".meta.json")]


# --- other systems --------------------------------------------------------------------------------


def test_without_sched_getaffinity_there_is_a_worker_for_each_core(monkeypatch):
    monkeypatch.delenv("WORKERS", raising=False)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert default_workers() == os.cpu_count()
    monkeypatch.setenv("WORKERS", "3")
    assert default_workers() == 3 and default_workers(2) == 2
    with pytest.raises(ValueError, match="WORKERS=0: expected"):
        default_workers(0)


@pytest.mark.parametrize("length", [10, 100])
def test_sockets_lie_in_a_folder_whose_path_is_short_enough(length, tmp_path, monkeypatch):
    place = "/" + "x" * length
    monkeypatch.setattr(notebooks.tempfile, "gettempdir", lambda: place)
    monkeypatch.setattr(notebooks.os, "access", lambda p, how: p != "/tmp")
    made = []
    monkeypatch.setattr(
        notebooks.tempfile,
        "TemporaryDirectory",
        lambda prefix, dir: made.append(dir) or nullcontext(f"{dir}/{prefix}abcdefgh"),
    )
    with notebooks._sockets() as talk:
        first, second = talk()["ip"], talk()["ip"]
        assert len(first) < 90 and first != second  # of one run no two kernels share any
    assert made == [place if length == 10 else "/var/tmp"]
    monkeypatch.setattr(notebooks.os, "access", lambda *_: False)
    with notebooks._sockets() as talk:
        assert talk() == {}  # ports


def test_a_full_disk_in_a_worker_says_which_folder_and_what_to_do(tmp_path):
    from concurrent.futures import Future

    future = Future()
    future.set_exception(OSError(28, "No space left on device"))
    with pytest.raises(RuntimeError, match=f"seed 1: {tmp_path}: No space left .*free some space"):
        processes._result(future, "seed 1", tmp_path)
