"""Jobs side by side in processes of one thread each, with progress and time left.

    side_by_side(todo, do, workers=2, log=results / "log.txt")        # calls do(job) for every job

Knows nothing of what a job is; a job's str() names it. What a job tells by `say` reaches the
parent's output and log."""

import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from lib.study.command import KEPT, explain
from lib.study.engine.progress import duration as _duration
from lib.study.engine.progress import show
from lib.study.store import sweep

KEEP_MEMORY = ":".join(
    f"glibc.malloc.{k}"
    for k in ("mmap_max=0", "trim_threshold=4294967296", "top_pad=67108864", "hugetlb=1")
)
_queue = None  # in a worker: where its lines go
_kept: list | None = None  # inside `workers_kept`: the pool and its queue, once there is one


def say(line: str) -> None:
    """Print a line, or send it to the parent if this is a worker."""
    if _queue is None:
        print(line, flush=True)
    else:
        _queue.put(line)


def pass_on(queue) -> None:
    """From now on lines of this process go to a queue."""
    global _queue
    _queue = queue


def _start_worker(queue, parent: int) -> None:
    """One thread; a worker whose parent was killed ends too."""
    torch.set_num_threads(1)
    pass_on(queue)

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def memory_kept():
    """Processes started inside keep the memory they free and use it again, in large pages where
    there are any.

    Every step frees and wants tensors of megabytes; by default glibc gives them back to the system,
    which hands them out anew in thousands of zeroed small pages. Changes no result. Elsewhere than
    glibc, and where GLIBC_TUNABLES is set already, it does nothing."""
    before = os.environ.get("GLIBC_TUNABLES")
    os.environ.setdefault("GLIBC_TUNABLES", KEEP_MEMORY)
    try:
        yield
    finally:
        if before is None:
            del os.environ["GLIBC_TUNABLES"]


@contextmanager
def deaf_to_interruption():
    """Processes started inside never see Ctrl-C, which a terminal sends to all: their parent ends
    them. What comes meanwhile reaches this process afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def default_workers(given: int | None = None) -> int:
    """Processes side by side: as given, else $WORKERS, else one for each core this process may use
    (where the system does not say which, as macOS, one for each core)."""
    text = os.environ.get("WORKERS") if given is None else given
    if text is None or text == "":
        allowed = getattr(os, "sched_getaffinity", None)
        return len(allowed(0)) if allowed else os.cpu_count() or 1
    if not re.fullmatch(r"[0-9]{1,4}", str(text)) or int(text) < 1:
        raise ValueError(f"WORKERS={text}: expected a number of processes, 1 or more")
    return int(text)


@contextmanager
def workers_kept() -> Iterator[None]:
    """Workers started inside stay for later calls of `side_by_side` inside, with as many workers:
    each takes seconds to start. The first failure ends them."""
    global _kept
    if _kept is not None:
        yield
        return
    _kept = []
    try:
        yield
    finally:
        for pool, _ in _kept:
            end_at_once(pool)
        _kept = None


def _pool(workers: int) -> tuple[ProcessPoolExecutor, Any]:
    """A pool and the queue its workers speak through; processes start when there are jobs."""
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    return ProcessPoolExecutor(workers, context, _start_worker, (queue, os.getpid())), queue


@contextmanager
def local(todo: Sequence, do: Callable[[Any], None], folder: Path, workers: int | None):
    """Processes of this machine at work: ({future: job}, lines), where lines() gives what the jobs
    have said since the last call. An engine is a context manager like this one."""
    most, waiting = default_workers(workers), {}
    if _kept is None:
        pool, queue = _pool(min(most, len(todo)))
    else:
        if not _kept:
            _kept.append(_pool(most))
        pool, queue = _kept[0]

    def lines() -> Iterator[str]:
        while not queue.empty():
            yield queue.get()

    try:
        with memory_kept(), deaf_to_interruption():
            waiting |= {pool.submit(do, job): job for job in todo}
        yield waiting, lines
        if _kept is None:
            end_at_once(pool)
    except BaseException:
        ended = end_at_once(pool)
        if _kept:
            _kept.clear()
        with suppress(OSError):  # what went wrong is told, not what could not be tidied
            sweep(folder, ended=ended)
        raise
    finally:
        # a traceback would keep these, and their semaphores, alive until the interpreter complains
        # of a leak
        pool = queue = None
        waiting.clear()


def side_by_side(
    todo: Sequence,
    do: Callable[[Any], None],
    log: Path,
    workers: int | None = None,
    engine: Callable = local,
) -> None:
    """Call do(job) for all jobs, `workers` at a time, one thread each; `do` and the jobs must
    pickle.

    Prints what the jobs say and a line for each finished one with the time left, also into the file
    `log`. The first failure ends it and is raised here; a killed worker and a full disk are raised
    with a sentence that says what to do."""
    if not todo:
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    start, done = time.time(), 0
    with open(log, "a") as file, engine(todo, do, log.parent, workers) as (waiting, lines):

        def tell(line: str) -> None:
            show(line)
            with suppress(OSError):  # on a full disk the job itself says so, better
                print(time.strftime("%F %T"), line, file=file, flush=True)

        while waiting:
            finished = [f for f in waiting if f.done()]
            for line in lines():
                tell(line)
            for future in finished:
                job = waiting.pop(future)
                _result(future, job, log.parent)
                done += 1
                left = (time.time() - start) / done * len(waiting)
                tell(f"done {done}/{len(todo)}  {job}  about {_duration(left)} left")
            wait(waiting, 0.2, FIRST_COMPLETED)  # lines are told while none is done
        for line in lines():
            tell(line)


def end_at_once(pool: ProcessPoolExecutor) -> list[int]:
    """Stop the workers at once, whatever they are at, and give their numbers: products are written
    whole or not at all, but a half may stay under its temporary name."""
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()
    for process in processes:
        process.join()
    return [process.pid for process in processes]


def _result(future: Future, job: Any, folder: Path) -> None:
    """The job's outcome; failures that are not the job's own get a sentence that says what to
    do."""
    try:
        future.result()
    except BrokenProcessPool:
        raise RuntimeError(
            f"a worker process was killed while at {job} (out of memory?): run with fewer workers "
            f"(WORKERS=1); {KEPT}"
        ) from None
    except (OSError, MemoryError) as error:  # in a notebook only their words would come through
        if isinstance(error, OSError) and not error.filename:
            error.filename = str(folder)
        raise RuntimeError(f"{job}: {explain(error)}") from None
