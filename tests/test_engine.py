"""What does the jobs: the choice, products as bytes, what a job reads; and a real Ray cluster of
two nodes, one of them killed, where Ray is installed."""

import hashlib
import importlib.util
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import lib.reproduce.__main__
import lib.study.__main__
from lib.study import engine, jobs, materials
from lib.study.engine import processes, ray
from lib.study.jobs import Job, Making
from lib.study.products import PRODUCTS
from lib.study.profile import ROOT, Arm, load
from lib.study.store import HOST, file_hash, provenance, sweep, write_atomically

TINY = """
setting: tiny
about: four made-up classes
seeds: {seeds}
data: {{source: {source}, classes: [[0, 1], [2, 3]]}}
network: {{depth: 11, width: 0.0625, batch_norm: true}}
recipe: {{epochs: {epochs}, batch_size: 16, lr: 0.01, flip: false}}
explain: {{map_images: 4, steps: 2}}
arms:
  - {{name: fine-tune}}
  - {{name: MSE 50 %, method: freeze, options: {{ranking: mse, fraction: 0.5}}}}
  - {{name: joint, curriculum: joint20}}
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, tiny_npz):
    """tiny(seeds, epochs) -> the path of a profile."""
    folder = tmp_path_factory.mktemp("tiny")
    source = tiny_npz(folder / "tiny.npz", per_class=32)

    def write(seeds="1", epochs=1):
        path = folder / "tiny.yaml"
        path.write_text(TINY.format(source=source, seeds=seeds, epochs=epochs))
        return str(path)

    return write


def files(folder):
    """Hashes of the products below a folder, by name."""
    return {
        path.relative_to(folder).as_posix(): file_hash(path)
        for path in sorted(folder.rglob("[!.]*"))
        if path.is_file() and not path.name.endswith((".meta.json", "log.txt"))
    }


# --- the choice -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "name"), [(None, "local"), ("", "local"), ("local", "local")])
def test_processes_of_this_machine_unless_told(monkeypatch, given, name):
    monkeypatch.delenv("ENGINE", raising=False)
    if given is not None:
        monkeypatch.setenv("ENGINE", given)
    assert engine.chosen() == name


def test_an_unknown_engine_is_told_which_there_are(monkeypatch):
    monkeypatch.setenv("ENGINE", "slurm")
    with pytest.raises(ValueError, match="^ENGINE=slurm: expected one of local, here, ray$"):
        engine.chosen()


@pytest.mark.parametrize(
    ("main", "command"), [(lib.study.__main__.main, []), (lib.reproduce.__main__.main, ["run"])]
)
def test_without_ray_one_sentence_before_anything_is_trained(
    tmp_path, monkeypatch, capsys, tiny, main, command
):
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    monkeypatch.setenv("ENGINE", "local")  # which the option goes before
    monkeypatch.setenv("RESULTS", str(tmp_path))
    assert main([*command, "--profile", tiny(), "--engine", "ray"]) == 1
    out, err = capsys.readouterr()
    assert err.startswith("error: ENGINE=ray needs the package ray, which cannot be imported")
    assert "pip install ray" in err and err.count("\n") == 1 and not out
    assert not list(tmp_path.rglob("*.json"))


def test_a_cluster_that_does_not_answer_is_told_in_a_sentence(monkeypatch):
    monkeypatch.setattr(ray, "package", lambda: SimpleNamespace(is_initialized=lambda: False))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(RuntimeError, match=f"no Ray cluster .*to answer at RAY_ADDRESS={address}"):
        ray._connected()


# --- this process alone ---------------------------------------------------------------------------


def test_alone_in_this_process_the_same_bytes_are_made(small_study, tmp_path, monkeypatch, capsys):
    arm = Arm(name="half", method="freeze", options={"ranking": "mse", "fraction": 0.5})
    profile = small_study(arm)
    todo = [Job(kind, 1, part) for kind, part in sorted(jobs.lacking(profile, 1))]
    todo.sort(key=lambda job: list(PRODUCTS).index(job.kind))
    for job in todo:
        jobs.do(job, profile)
    by_hand = files(tmp_path / profile.name)
    monkeypatch.setenv("RESULTS", str(tmp_path / "alone"))
    monkeypatch.setenv("ENGINE", "here")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        jobs.complete(profile)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert files(tmp_path / "alone" / profile.name) == by_hand != {}
    printed = capsys.readouterr().out
    log = (tmp_path / "alone" / profile.name / "log.txt").read_text()
    assert "seed 1  half  epoch 1/1" in log and "seed 1  half  epoch 1/1" in printed
    engine.say("mine again")
    assert capsys.readouterr().out == "mine again\n"


def test_alone_a_failure_ends_it_before_the_next_job(tmp_path, monkeypatch):
    monkeypatch.setenv("ENGINE", "here")
    do = partial(noted, folder=tmp_path)
    engine.side_by_side(["a"], do, tmp_path / "log.txt")
    assert (tmp_path / f"a {os.getpid()}").exists() and engine.at_once(usual="here") == 1
    with pytest.raises(ValueError, match="bad luck"):
        engine.side_by_side(["bad", "waits", "b"], slowly(do), tmp_path / "log.txt")
    assert not list(tmp_path.glob("b *"))


def slowly(do):
    """The same after a moment, in which the caller can see that a job before failed."""

    def work(job):
        if job != "bad":
            time.sleep(0.5)
        do(job)

    return work


# --- processes of this machine --------------------------------------------------------------------


def noted(job, folder):
    """A job that leaves word of the process that did it."""
    if job == "bad":
        raise ValueError("bad luck")
    (folder / f"{job} {os.getpid()}").touch()


def test_a_worker_stays_for_the_next_call_until_one_fails_or_all_is_done(tmp_path):
    def worker_of(job):
        do = partial(noted, folder=tmp_path)
        processes.side_by_side([job], do, tmp_path / "log.txt", 1)
        return int(next(tmp_path.glob(f"{job} *")).name.split()[1])

    with processes.workers_kept():
        first = worker_of("a")
        with processes.workers_kept():
            assert worker_of("b") == first != os.getpid()
        with pytest.raises(ValueError, match="bad luck"):
            worker_of("bad")
        with pytest.raises(ProcessLookupError):
            os.kill(first, 0)
        second = worker_of("c")
        assert worker_of("d") == second != first
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)


def halfway(job, folder):
    """A job that is killed while it writes a product, or fails once the other is at it."""
    if job == "writes":
        write_atomically(folder / "deep/product.pt", lambda path: (path.touch(), time.sleep(600)))
    while not list(folder.rglob(".product.pt.*.tmp")):
        time.sleep(0.01)
    raise ValueError("bad luck")


def test_half_a_product_of_another_machine_stays(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    theirs = tmp_path / f".product.pt.{'0' * 6}.{dead.pid}.tmp"
    ours = tmp_path / f".product.pt.{HOST}.{dead.pid}.tmp"
    theirs.touch()
    ours.touch()
    sweep(tmp_path)
    assert theirs.exists() and ours.exists()  # young, and nobody saw their process end
    sweep(tmp_path, ended=[dead.pid])
    assert theirs.exists() and not ours.exists()


@pytest.mark.parametrize("kept", [False, True], ids=["", "kept"])
def test_half_a_product_of_a_worker_that_is_ended_goes(kept, tmp_path):
    mine = tmp_path / f".mine.{HOST}.{os.getpid()}.tmp"
    mine.touch()
    with processes.workers_kept() if kept else nullcontext():
        with pytest.raises(ValueError, match="bad luck"):
            processes.side_by_side(
                ["writes", "bad"], partial(halfway, folder=tmp_path), tmp_path / "log.txt", 2
            )
        assert list(tmp_path.rglob("*.tmp")) == [mine] and not list(tmp_path.rglob("*.pt"))


# --- products as bytes ----------------------------------------------------------------------------


class NoCluster:
    """What the engine uses of Ray, in this process. lost: so many jobs lose their worker."""

    class exceptions:
        class RayError(Exception): ...

        class RayTaskError(RayError):
            def __init__(self, cause):
                self.cause = cause

        class TaskCancelledError(RayError): ...

    def __init__(self, lost=0, cores=2, gpus=0):
        self.lost, self.have, self.asked, self.put_there = lost, {"CPU": cores, "GPU": gpus}, {}, []

    def cluster_resources(self):
        return self.have

    def nodes(self):
        return [{"Alive": True}, {"Alive": False}]

    def remote(self, **asked):
        self.asked = asked
        return lambda work: SimpleNamespace(remote=lambda *given: self._run(work, given))

    def _run(self, work, given):
        self.lost -= 1
        if self.lost >= 0:
            yield self.exceptions.RayError("the node died")
        try:
            yield from work(*given)
        except ValueError as error:
            yield self.exceptions.RayTaskError(error)

    def wait(self, running, timeout):
        return running, []

    def put(self, thing):
        self.put_there.append(thing)
        return thing

    def get(self, thing):
        if isinstance(thing, Exception):
            raise thing
        return thing


class Doing:
    """Jobs that write their name into the store."""

    def __init__(self, fails=()):
        self.fails, self.received = fails, []

    def __call__(self, job):
        processes.say(f"at {job}")
        if job in self.fails:
            raise ValueError(f"{job} cannot be")

    def reads(self, job):
        return []

    def luggage(self):
        return "images"

    def receive(self, fetch):
        self.received.append(fetch())


@pytest.fixture
def pretend(monkeypatch, tmp_path):
    """pretend(NoCluster(...)): the engine works on it; nothing stays in this process."""
    monkeypatch.setattr(processes, "_queue", None)
    monkeypatch.setenv("RESULTS", str(tmp_path))
    monkeypatch.delenv("WORKERS", raising=False)

    def begin(ray_of_tests):
        monkeypatch.setattr(ray, "_connected", lambda: ray_of_tests)
        monkeypatch.setattr(ray, "package", lambda: ray_of_tests)
        return ray_of_tests

    return begin


def test_a_job_reads_what_it_needs_and_that_alone_comes_back(
    tiny, tmp_path, monkeypatch, pretend, capsys
):
    """On a "node" without the images, in a store of its own."""
    pretend(NoCluster())
    profile = load(tiny())
    here, job = tmp_path / profile.name, Job("task1_rows", 1)
    making = Making(profile)
    assert making.reads(job) == []  # nothing is made yet
    making(Job("task1", 1))
    making(Job("maps", 1))  # which these rows do not need
    reads = making.reads(job)
    assert [path.suffix for path in reads] == [".pt", ".json"] and all(p.exists() for p in reads)
    sent = {p.relative_to(here).as_posix(): p.read_bytes() for p in reads}
    pictures = making.luggage()
    materials._images.cache_clear()
    materials._tasks.cache_clear()
    monkeypatch.setattr(materials, "_received", {})
    monkeypatch.setattr(materials.data_room, "load", lambda *_: pytest.fail("no images on a node"))
    *said, made = ray.there(making, job, profile.name, sent, [pictures])
    assert {Path(name).parent.name for name in made} == {"task1_rows"} and len(made) == 2
    assert not said and Path(os.environ["RESULTS"]) != tmp_path
    assert not Path(os.environ["RESULTS"]).exists()

    monkeypatch.setenv("RESULTS", str(tmp_path))
    ray.take(here, made)
    assert jobs.PRODUCTS["task1_rows"].there(profile, 1)
    again = jobs.PRODUCTS["task1_rows"].get(profile, 1)
    assert again["lineage"] == jobs.PRODUCTS["task1"].get(profile, 1)["lineage"]
    meta = json.loads(next(v for k, v in made.items() if k.endswith("meta.json")))
    assert meta["commit"] == provenance()["commit"]


def test_a_product_that_comes_back_says_whose_code_made_it_and_replaces_nothing(tmp_path):
    elsewhere, here = tmp_path / "elsewhere", tmp_path / "here"
    ray.unpack(elsewhere, {"runs/run/a.json": b"1\n", "runs/run/.a.json.lock": b"", "sent": b""})
    meta = {"sha256": file_hash(elsewhere / "runs/run/a.json"), "commit": "unknown", "cores": 7}
    ray.unpack(elsewhere, {"runs/run/a.meta.json": json.dumps(meta).encode()})
    made = ray.pack(elsewhere, ["sent"])
    assert sorted(made) == ["runs/run/a.json", "runs/run/a.meta.json"]

    ray.take(here, made)
    assert (here / "runs/run/a.json").read_bytes() == b"1\n"
    found = json.loads((here / "runs/run/a.meta.json").read_text())
    code = {name: provenance()[name] for name in ("commit", "dirty")}
    assert found == {**meta, **code}

    with pytest.raises(ValueError, match="a.json came back damaged"):
        ray.take(here, {**made, "runs/run/a.json": b"2\n"})
    other = json.dumps({**meta, "sha256": hashlib.sha256(b"2\n").hexdigest()}).encode()
    ray.take(here, {"runs/run/a.json": b"2\n", "runs/run/a.meta.json": other})
    assert (here / "runs/run/a.json").read_bytes() == b"1\n"
    assert json.loads((here / "runs/run/a.meta.json").read_text()) == found


def test_the_same_lines_and_a_lost_worker_costs_its_job_alone(pretend, tmp_path, capsys):
    pretended = pretend(NoCluster(lost=1))
    doing = Doing()
    processes.side_by_side(["a", "b"], doing, tmp_path / "p/log.txt", 1, ray.cluster)
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "on a Ray cluster: nodes 1, cores 2, GPUs 0; 1 jobs at once"
    told = [line for line in out[1:] if "b" not in line.split()]  # b may begin before a is told of
    assert told[:2] == ["a  lost with its worker or node (RayError)", "at a"]
    assert told[2].startswith("done 1/2  a  about ") and len(told) == 3
    assert out[-1] == "done 2/2  b  about 0 s left" and out.count("at b") == 1
    log = [line.split(" ", 2)[2] for line in (tmp_path / "p/log.txt").read_text().splitlines()]
    assert log == out  # after date and time
    assert doing.received == ["images"] * 2 and pretended.put_there == ["images"]


def test_a_job_that_loses_every_worker_ends_the_run_in_a_sentence(pretend, tmp_path):
    pretend(NoCluster(lost=99))
    with pytest.raises(RuntimeError, match="^a: 4 workers were lost at it .*WORKERS=1"):
        processes.side_by_side(["a"], Doing(), tmp_path / "p/log.txt", None, ray.cluster)


def test_the_error_of_a_job_is_its_own(pretend, tmp_path):
    pretend(NoCluster())
    with pytest.raises(ValueError, match="^b cannot be$"):
        processes.side_by_side(["a", "b"], Doing("b"), tmp_path / "p/log.txt", 1, ray.cluster)


@pytest.mark.parametrize(
    ("gpus", "workers", "at_once", "share"),
    [(0, None, 2, 0), (2, None, 2, 1), (2, 4, 4, 1 / 2), (2, 3, 3, 1 / 2), (4, 1, 1, 1)],
)
def test_a_gpu_each_and_more_workers_share_them(pretend, tmp_path, gpus, workers, at_once, share):
    pretended = pretend(NoCluster(gpus=gpus))
    with ray.cluster([*"abcdef"], Doing(), tmp_path, workers) as (waiting, lines):
        assert next(lines()).endswith(f"; {at_once} jobs at once") and len(waiting) == 6
    assert pretended.asked == {"num_cpus": 1, "num_gpus": share, "max_retries": 0}


def test_when_all_ends_a_job_is_cancelled(pretend):
    pretended, ended, cancelled = pretend(NoCluster()), threading.Event(), []
    pretended.cancel = lambda running, force: cancelled.append((running, force))
    ended.set()
    with pytest.raises(NoCluster.exceptions.TaskCancelledError):
        ray._followed(pretended, "running", queue.SimpleQueue(), ended)
    assert cancelled == [("running", True)]


# --- a real cluster -------------------------------------------------------------------------------


def workers_of(node):
    """Process ids of the workers of a node that are at a job (Linux)."""
    raylet, found = node.all_processes["raylet"][0].process.pid, []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == raylet and b"ray::there" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue  # it has just ended
    return found


@pytest.fixture
def two_nodes():
    """A head node and another, of one core each."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        yield cluster, cluster.add_node(num_cpus=1)
    finally:
        cluster.shutdown()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray: pip install ray")
def test_two_nodes_one_killed_make_the_same_bytes(tiny, tmp_path, two_nodes):
    """A node is killed while it is at a job, later a worker: their jobs are done again."""
    cluster, second = two_nodes
    profile = tiny(seeds="1-2", epochs=8)

    def start(engine_name):
        return subprocess.Popen(
            [sys.executable, "-m", "lib.study", "--profile", profile, "--engine", engine_name],
            cwd=ROOT,
            env={
                **os.environ,
                "RESULTS": str(tmp_path / engine_name),
                "RAY_ADDRESS": cluster.address,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    running, said, killed = start("ray"), [], []
    for line in running.stdout:
        said.append(line)
        if not killed and workers_of(second):
            cluster.remove_node(second, allow_graceful=False)
            killed.append("node")
        elif killed == ["node"] and "epoch 2/" in line and (pids := workers_of(cluster.head_node)):
            os.kill(pids[0], signal.SIGKILL)
            killed.append("worker")
    assert (running.wait(60), running.stderr.read(), len(killed)) == (0, "", 2), said
    lost = [line for line in said if "lost with its worker or node" in line]
    assert len(lost) == 2
    log = (tmp_path / "ray/tiny/log.txt").read_text().splitlines()
    others = {line.strip() for line in said} - {line.split(" ", 2)[2] for line in log}
    ours = r"profile tiny: .*|[\w ]+: \d+ done in .*|\{.*\}"  # and no word of Ray's own
    assert others and all(re.fullmatch(ours, line) for line in others), others

    alone = start("local")
    assert alone.communicate()[0].splitlines()[-1] == said[-1].strip()
    assert files(tmp_path / "ray") == files(tmp_path / "local") != {}
    assert not list((tmp_path / "ray").rglob("*.tmp"))
