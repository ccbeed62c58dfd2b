"""Arms from checkpoint to rows: same seed = same bytes, killed and resumed = the same, lineages,
joint readings."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from lib.study import arms, engine, forecast, jobs, materials, runs
from lib.study.__main__ import main
from lib.study.jobs import Job, fulfil
from lib.study.products import lineage_of
from lib.study.profile import Arm, load
from lib.study.runs import run_key
from lib.study.store import file_hash
from lib.study.tables import collect

ROOT = Path(__file__).parents[1]
TINY = """
extends: smoke
seeds: 1-2
data: {source: SOURCE, classes: [[0, 1], [2, 3]]}
network: {width: 0.0625, depth: 11, batch_norm: true}
recipe: {epochs: 2, batch_size: 32, lr: 0.005, momentum: 0.9, flip: false}
explain: {map_images: 2, steps: 1}
arms:
  - {name: fine-tune, options: {trace: true}}
  - {name: MSE 50 %, method: freeze, options: {ranking: mse, fraction: 0.5}}
  - {name: random 50 %, method: freeze, options: {ranking: random, fraction: 0.5}}
  - {name: joint 20-way, curriculum: joint20, seeds: "1"}
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, tiny_npz):
    path = tmp_path_factory.mktemp("profile") / "tiny.yaml"
    path.write_text(TINY.replace("SOURCE", tiny_npz(path.with_name("tiny.npz"), classes=10)))
    return path


def shard(profile, results, *more, wait=True):
    command = [
        sys.executable,
        "-m",
        "lib.study",
        "--profile",
        str(profile),
        "--workers",
        "2",
        *more,
    ]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "RESULTS": str(results)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    if not wait:
        return process
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def living(session):
    """Processes of a session that have not ended (Linux)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue  # it has just ended
        if int(its_session) == session and state != "Z":
            found.append(path.parent.name)
    return found


def made(results, kinds=("run", "task1_rows", "overlap")):
    return {
        p.relative_to(results).as_posix(): file_hash(p)
        for kind in kinds
        for p in sorted((results / "tiny/runs" / kind).glob("*.json"))
        if not p.name.endswith("meta.json")
    }


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """The rows of an undisturbed run, in this process."""
    results, said = tmp_path_factory.mktemp("whole"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
        patch.setenv("RESULTS", str(results))
        patch.setattr(engine, "side_by_side", lambda todo, do, *_: [do(job) for job in todo])
        assert main(["--profile", str(tiny)]) == 0
    last = said.getvalue().splitlines()[-1]
    assert json.loads(last)["rows"] == 7  # the joint arm for the first seed only
    return results


@pytest.mark.slow  # random kills of a smaller study: tests/test_sturdy.py
def test_killed_and_resumed_is_the_same_and_nothing_finished_is_redone(tiny, whole, tmp_path):
    process = shard(tiny, tmp_path, wait=False)
    deadline = time.time() + 200
    while not list((tmp_path / "tiny/runs/run").glob("*.meta.json")):
        assert time.time() < deadline and process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)  # the parent only: its workers must not live on
    process.wait()
    time.sleep(3)
    assert not living(process.pid)
    finished = {p: p.stat().st_mtime_ns for p in (tmp_path / "tiny/runs").rglob("*.meta.json")}
    assert 0 < len([p for p in finished if p.parent.name == "run"]) < 7
    shard(tiny, tmp_path)
    assert made(tmp_path) == made(whole)
    assert all(p.stat().st_mtime_ns == then for p, then in finished.items())
    assert not list(
        tmp_path.rglob("*.tmp")
    ) or all(  # the kill may leave a temporary file, never a half product
        p.name.startswith(".") for p in tmp_path.rglob("*.tmp")
    )


def test_shards_make_the_same_rows(tiny, whole, tmp_path):
    """And two workers the same rows as one process."""
    out = shard(tiny, tmp_path, "--seeds", "1-2", "--shard", "2/2")
    assert json.loads(out.splitlines()[-1])["rows"] == 3
    part = made(tmp_path, ("run",))
    assert (
        len(part) == 3 and part.items() <= made(whole, ("run",)).items()
    )  # seed 2 has no joint arm


def test_rows_say_what_they_are(tiny, whole, monkeypatch):
    monkeypatch.setenv("RESULTS", str(whole))
    profile = load(str(tiny))
    tables = collect(profile)
    assert [row["arm"] for row in tables["runs"]] == [
        "fine-tune",
        "MSE 50 %",
        "random 50 %",
        "joint 20-way",
        "fine-tune",
        "MSE 50 %",
        "random 50 %",
    ]
    needed = {
        "profile",
        "setting",
        "data",
        "seed",
        "lineage",
        "arm",
        "method",
        "ranking",
        "fraction",
        "realised",
        "acc1",
        "acc2",
    }
    assert all(needed <= row.keys() for row in tables["runs"])
    fine = tables["runs"][0]
    last = [
        r for r in tables["accuracy"] if r["run"].startswith("fine-tune/1/") and r["epoch"] == 2
    ]
    assert {r["task"]: r["accuracy"] for r in last} == {
        "task1": fine["acc1"],
        "task2": fine["acc2"],
    }
    path = [r for r in tables["trajectory"] if r["seed"] == 1 and r["control"] == "trajectory"]
    assert path[0]["task1"] == fine["acc1_before"] and path[-1]["task1"] == fine["acc1"]
    line = [r for r in tables["trajectory"] if r["seed"] == 1 and r["control"] == "interpolation"]
    assert (line[0]["task1"], line[-1]["task1"]) == (fine["acc1_before"], fine["acc1"])


def test_joint_training_is_read_over_all_classes_and_masked(tiny, whole, monkeypatch):
    monkeypatch.setenv("RESULTS", str(whole))
    rows = [r for r in collect(load(str(tiny)))["accuracy"] if r["arm"] == "joint 20-way"]
    assert {r["task"] for r in rows} == {"task1", "task2", "task1 masked", "task2 masked"}
    assert max(r["epoch"] for r in rows) == 4  # twice the epochs of one task
    value = {(r["task"], r["epoch"]): r["accuracy"] for r in rows}
    # masking takes wrong answers away, never right ones
    assert all(
        value[f"task{k} masked", e] >= value[f"task{k}", e] for k in (1, 2) for e in (1, 2, 3, 4)
    )


def test_a_key_knows_what_a_run_depends_on(tiny):
    profile = load(str(tiny))
    fine, mse, random, _ = (arm.name for arm in profile.arms)
    key = lambda arm, **change: run_key(profile.model_copy(update=change), 1, arm)  # noqa: E731
    other_maps = profile.explain.model_copy(update={"steps": 4})
    assert key(mse, explain=other_maps) != key(mse)
    assert key(random, explain=other_maps) == key(random) and key(fine, explain=other_maps) == key(
        fine
    )
    assert key(fine, recipe=replace(profile.recipe, lr=0.1)) != key(fine)
    assert key(fine, name="other", about="else", setting="X", seeds="5") == key(fine)
    renamed = profile.arms[0].model_copy(update={"name": "renamed"})
    assert key("renamed", arms=(renamed,)) == key(fine)
    assert run_key(profile, 2, fine) != key(fine)


def test_rows_under_another_lineage_get_their_reference_arms_again(
    tiny, whole, tmp_path, monkeypatch
):
    """As after `restore` on another processor: old rows are there, the checkpoint is not and comes
    out different."""
    import shutil

    shutil.copytree(whole / "tiny/runs/run", tmp_path / "tiny/runs/run")
    for path in list((tmp_path / "tiny/runs/run").glob("*.*")):
        parts = path.name.split(".")
        if parts[1] != "scratch":
            path.rename(path.with_name(".".join([parts[0], "0123456789ab", *parts[2:]])))
    monkeypatch.setenv("RESULTS", str(tmp_path))
    profile = load(str(tiny), seeds="1")
    assert (
        jobs.jobs(profile, "run") == [] and jobs.jobs(profile, "maps") != []
    )  # the overlap table is missing
    new = Arm(
        name="random again",
        method="freeze",
        options={"ranking": "random", "fraction": 0.5, "draw": 1},
    )
    more = profile.model_copy(update={"arms": (*profile.arms, new)})
    todo = jobs.jobs(more, "run")
    assert [(j.part, j.again) for j in todo] == [  # a pair first, in case the run is killed
        ("fine-tune", True),
        ("random 50 %", True),
        ("random again", False),
    ]
    # killed, and the checkpoint gone: the row of an arm that no reference shares counts for nothing
    old, other = "0123456789ab", "ba9876543210"
    row = jobs.store(profile).path("run", run_key(profile, 1, "MSE 50 %"), branch=old)
    for path in row.parent.glob(f"{row.name.removesuffix('.json')}.*"):
        path.rename(path.with_name(path.name.replace(old, other)))
    assert ("run", "MSE 50 %") in jobs.lacking(profile, 1)
    todo = jobs.jobs(profile, "run")
    assert [(j.part, j.again) for j in todo] == [
        ("fine-tune", True),
        ("random 50 %", True),
        ("MSE 50 %", True),
    ]
    for job in todo:
        jobs.do(job, profile)
    assert jobs.jobs(profile, "run") == []


def test_tasks_drawn_by_the_seed_differ_between_seeds_and_heads_can_be_two(tiny):
    profile = load(str(tiny))
    drawn = profile.model_copy(
        update={
            "data": profile.data.model_copy(update={"classes": None, "draw": profile_draw()}),
            "network": profile.network.model_copy(update={"heads": "per_task"}),
        }
    )
    one, two = materials.tasks(drawn, 1), materials.tasks(drawn, 2)
    assert one[0].classes != two[0].classes and not set(one[0].classes) & set(one[1].classes)
    assert materials.outputs_of(one) == 10 and one[1].outputs == slice(5, 10)
    model = materials.fresh_network(drawn, 1, 10)
    assert model.head.out_features == 10


def profile_draw():
    from lib.study.profile import Draw

    return Draw(tasks=2, classes=5)


def test_the_network_of_a_seed_is_the_same_everywhere(tiny):
    profile = load(str(tiny))
    a, b, c = (materials.fresh_network(profile, s, 5).state_dict() for s in (1, 1, 2))
    assert lineage_of(a) == lineage_of(b) != lineage_of(c)
    a["head.bias"][0] = torch.nextafter(a["head.bias"][0], torch.tensor(9.0))
    assert lineage_of(a) != lineage_of(b)  # one bit is enough


@pytest.mark.parametrize("wrong", ["0/2", "3/2", "x", "1"])
def test_a_wrong_shard_is_refused(wrong, capsys):
    assert main(["--profile", "smoke", "--shard", wrong]) == 1
    assert "expected I/N" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("device", "bf16", "graphs", "words"),
    [
        (
            "cpu",
            True,
            "1",
            "on cpu: training in bf16, PyTorch kernels, training steps not recorded",
        ),
        ("cpu", False, "1", "on cpu: training in float32"),  # a processor without bf16
        (
            "cuda",
            True,
            "1",
            "on cuda: training in bf16, Triton kernels, training steps recorded as CUDA graphs",
        ),
        (
            "cuda",
            False,
            "0",
            "on cuda: training in float32, Triton kernels, training steps not recorded",
        ),
    ],
)  # a T4
def test_a_run_says_which_paths_it_takes(monkeypatch, capsys, device, bf16, graphs, words):
    monkeypatch.setenv("CUDA_GRAPHS", graphs)
    monkeypatch.setattr(jobs, "default_device", lambda: torch.device(device))
    monkeypatch.setattr("lib.precision.bf16_supported", lambda device: bf16)
    monkeypatch.setattr(jobs, "use_triton", lambda device: device.type == "cuda")
    monkeypatch.setattr(engine, "side_by_side", lambda *_: None)
    monkeypatch.setattr(jobs, "jobs", lambda *_: [Job("task1", 1)])
    fulfil(load("quick"), "task1")
    assert words in capsys.readouterr().out
    monkeypatch.setattr(jobs, "jobs", lambda *_: [])
    fulfil(load("quick"), "task1")
    assert not capsys.readouterr().out


def test_a_forecast_is_of_runs_on_a_device_like_this_one(small_study, monkeypatch):
    profile = small_study(
        *(Arm(name=n, options={"trace": t}) for n, t in (("a", False), ("b", True)))
    )
    timed = pd.DataFrame(
        {
            "run": ["a/1/x", "a/2/x", "a/1/y"],
            "seconds": [100, 120, 2],
            "device": ["cpu", None, "NVIDIA"],  # rows of before do not say: a processor
        }
    )
    monkeypatch.setattr(forecast, "rows", lambda name, table: timed)
    said = forecast.forecast(profile, workers=1)
    assert "2 runs of arms to do, about 4 min with 1 at a time" in said
    monkeypatch.setattr(forecast, "default_device", lambda: torch.device("cuda"))
    assert "about 4 s with 1 at a time" in forecast.forecast(profile, workers=1)
    timed["device"] = "cpu"
    assert "how long they take is not known" in forecast.forecast(profile, workers=1)


def test_arms_alike_but_for_their_names_are_refused():
    profile = load("smoke")
    twins = tuple(
        Arm(name=name, method="freeze", options={"ranking": "mse", "fraction": 0.5})
        for name in ("a", "b")
    )
    with pytest.raises(ValueError, match="arms 'a' and 'b' are the same but for their names"):
        arms.check(profile.model_copy(update={"arms": twins}))
    arms.check(profile.model_copy(update={"arms": twins[:1]}))


def test_accuracies_after_a_round_are_of_the_network_the_round_leaves_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("RESULTS", str(tmp_path / "results"))
    path = tmp_path / "three.yaml"
    path.write_text(
        "extends: smoke\nseeds: 1\ndata: {source: digits, classes: [[0, 1], [2, 3], [4, 5]]}\n"
        "recipe: {epochs: 1, batch_size: 32, lr: 0.01, momentum: 0.9, flip: false}\n"
        "arms: [{name: fine-tune}, {name: back, method: merge, options: {weight: 0.0}}]\n"
    )
    profile = load(str(path))
    left = {}
    for name in ("fine-tune", "back"):
        table = pd.DataFrame(runs.run(profile, 1, name)["accuracy"])
        table = table[(table["round"] == 2) & (table["epoch"] == 1)]
        left[name] = table.set_index("task")["accuracy"]
    before = runs.run(profile, 1, "back")["row"]
    # all the weight on the old network: round 2 leaves what was there before it
    assert left["back"]["task1"] == before["acc1_before"] != left["fine-tune"]["task1"]
