"""Jobs on a Ray cluster (ENGINE=ray; the package ray is an optional extra).

    python -m lib.study --profile paper --engine ray

It is the cluster at $RAY_ADDRESS, else the one this machine belongs to (`ray start`), else one that
is started here. Its nodes need the packages of requirements.txt and no file of ours: lib is sent to
them, the images and the products a job reads as well; what it made comes back as bytes and enters
the store of the machine that asked, under the same key. A node or worker that dies costs the jobs
it was at: they are begun again.

Beside being called, what does the jobs must say what travels: reads(job), the files; luggage(),
what every job needs; receive(fetch), called on the node, where fetch() is that luggage."""

import importlib
import json
import os
import queue
import re
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from lib.study.command import KEPT, one_line
from lib.study.engine import processes
from lib.study.profile import ROOT
from lib.study.store import adopt, sweep

ATTEMPTS = 4  # at one job, if nodes or workers are lost at it
LEFT_OVER = re.compile(r"study-job-(?P<pid>\d+)-\w+")  # by a worker that was killed
QUIET = {  # of Ray: no statistics sent, no warning about GPUs, no word of its own in our output
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": "^",
}
AS_HERE = ("CUDA_GRAPHS",)  # what in the environment decides how a node computes


def package() -> Any:
    """The package ray. RuntimeError, one sentence, if it is not installed."""
    for name, value in QUIET.items():  # read when it is imported
        os.environ.setdefault(name, value)
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise RuntimeError(
            f"ENGINE=ray needs the package ray, which cannot be imported ({error}): expected it "
            "where the other packages are; pip install ray, or leave ENGINE out, and jobs run in "
            "processes of this machine"
        ) from None


@contextmanager
def cluster(todo: Sequence, do: Any, folder: Path, workers: int | None):
    """A Ray cluster at work, as `processes.local`. `workers` jobs at a time, else one for each GPU
    there is, without any one for each core; more workers than GPUs share them."""
    ray, said, ended = _connected(), queue.SimpleQueue(), threading.Event()
    have = ray.cluster_resources()
    cores, gpus = int(have.get("CPU", 0)), int(have.get("GPU", 0))
    given = workers or os.environ.get("WORKERS")
    at_once = min(processes.default_workers(given) if given else gpus or cores or 1, len(todo))
    nodes = sum(node["Alive"] for node in ray.nodes())
    said.put(f"on a Ray cluster: nodes {nodes}, cores {cores}, GPUs {gpus}; {at_once} jobs at once")
    share = 1 / -(-at_once // gpus) if gpus else 0
    remote = ray.remote(num_cpus=1, num_gpus=share, max_retries=0)(there)
    send = _sender(ray, do, folder)

    def work(job: Any) -> None:
        for _ in range(ATTEMPTS):
            running = remote.remote(do, job, folder.name, *send(job))
            try:
                return take(folder, _followed(ray, running, said, ended))
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayError as error:
                if ended.is_set():
                    return
                said.put(f"{job}  lost with its worker or node ({type(error).__name__})")
        raise RuntimeError(
            f"{job}: {ATTEMPTS} workers were lost at it (out of memory?): run with fewer at once "
            f"(WORKERS=1); {KEPT}"
        )

    def lines() -> Iterator[str]:
        while not said.empty():
            yield said.get()

    pool = ThreadPoolExecutor(at_once)  # each waits for one job
    try:
        yield {pool.submit(work, job): job for job in todo}, lines
    finally:
        ended.set()
        pool.shutdown(cancel_futures=True)


def _connected() -> Any:
    """Ray, connected to a cluster, quiet, and lib on its way to the nodes."""
    ray = package()
    if not ray.is_initialized():
        here = {name: os.environ[name] for name in AS_HERE if name in os.environ}
        one_thread = {"OMP_NUM_THREADS": "1", "GLIBC_TUNABLES": processes.KEEP_MEMORY}
        travels = {"py_modules": [str(ROOT / "lib")], "excludes": ["__pycache__"]}
        address = os.environ.get("RAY_ADDRESS", "")
        try:
            if host := re.fullmatch(r"([\w.-]+):(\d+)", address):  # Ray itself asks for minutes
                socket.create_connection((host[1], int(host[2])), 10).close()
            ray.init(
                runtime_env={**travels, "env_vars": {**one_thread, **here}},
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
            )
        except Exception as error:  # Ray raises whatever it likes here
            expected = f"to answer at RAY_ADDRESS={address}" if address else "to start here"
            raise RuntimeError(
                f"no Ray cluster ({one_line(error)}): expected one {expected}; "
                "start it by hand (ray start --head) and look at what that says, or leave ENGINE "
                "out, and jobs run in processes of this machine"
            ) from None
    return ray


def _sender(ray: Any, do: Any, folder: Path) -> Callable[[Any], tuple[dict, list]]:
    """send(job): what a job reads, as references to bytes in the cluster's memory; each file and
    the luggage are put there once, and leave it when no job has asked for long."""
    lock, luggage = threading.Lock(), [ray.put(do.luggage())]

    @lru_cache(maxsize=128)
    def sent(path: Path) -> Any:
        return ray.put(path.read_bytes())

    def send(job: Any) -> tuple[dict, list]:
        with lock:  # so that two jobs do not send the same file
            return {p.relative_to(folder).as_posix(): sent(p) for p in do.reads(job)}, luggage

    return send


def _followed(ray: Any, running: Any, said: queue.SimpleQueue, ended: threading.Event) -> dict:
    """What a job made, when it has; until then what it says is passed on. If all is to end, so does
    the job: the error that comes of it is raised."""
    while True:
        ready, _ = ray.wait([running], timeout=0.5)
        if ended.is_set():
            ray.cancel(running, force=True)
            raise ray.exceptions.TaskCancelledError()
        if ready:
            item = ray.get(next(running))
            if isinstance(item, dict):
                return item
            said.put(item)


# --- on a node ------------------------------------------------------------------------------------


def there(do: Any, job: Any, name: str, sent: dict, luggage: list) -> Iterator[str | dict]:
    """Do a job on a node, in a store of its own that holds what it reads: the lines it says, and at
    last the files it made."""
    ray, lines = package(), queue.SimpleQueue()
    processes.pass_on(lines)
    do.receive(lambda: ray.get(luggage[0]))
    sweep(Path(tempfile.gettempdir()), LEFT_OVER, deep=False)
    with tempfile.TemporaryDirectory(prefix=f"study-job-{os.getpid()}-") as place:
        os.environ["RESULTS"] = place
        unpack(Path(place, name), dict(zip(sent, ray.get(list(sent.values())))))
        with ThreadPoolExecutor(1) as beside:
            done = beside.submit(do, job)
            while not (done.done() and lines.empty()):
                try:
                    yield lines.get(timeout=0.2)
                except queue.Empty:
                    pass
        done.result()
        yield pack(Path(place, name), sent)


# --- products as bytes ----------------------------------------------------------------------------


def unpack(folder: Path, files: dict[str, bytes]) -> None:
    """Write files, by their names in a folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def pack(folder: Path, but: Sequence[str] | dict = ()) -> dict[str, bytes]:
    """Finished files of a folder and below, by their names in it, but for those named."""
    paths = [p for p in sorted(folder.rglob("[!.]*")) if p.is_file()]
    named = {p.relative_to(folder).as_posix(): p for p in paths}
    return {name: path.read_bytes() for name, path in named.items() if name not in but}


def take(folder: Path, files: dict[str, bytes]) -> None:
    """Put products made elsewhere, with their meta files, into the store below a folder."""
    for name, content in files.items():
        if not name.endswith(".meta.json"):
            path = folder / name
            meta = files[f"{name.removesuffix(path.suffix)}.meta.json"]
            adopt(path, content, json.loads(meta))
