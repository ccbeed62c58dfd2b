"""Jobs one after the other in this process (ENGINE=here): for runs so short that starting workers,
seconds each, takes longer than the work. A step takes longer here: memory is not kept (see
`processes.memory_kept`). What is made is the same to the last bit."""

import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lib.study.engine import processes


@contextmanager
def alone(todo: Sequence, do: Callable[[Any], None], folder: Path, workers: int | None):
    """An engine like `processes.local`, of a single thread that works while the caller looks on;
    `workers` counts for nothing. After Ctrl-C the job it is at goes on to its end."""
    said, threads = queue.SimpleQueue(), torch.get_num_threads()
    one_thread = {"initializer": torch.set_num_threads, "initargs": (1,)}  # decides the last bits

    def lines() -> Iterator[str]:
        while not said.empty():
            yield said.get()

    processes.pass_on(said)
    try:
        with ThreadPoolExecutor(1, **one_thread) as pool:
            try:
                yield {pool.submit(do, job): job for job in todo}, lines
            finally:
                pool.shutdown(cancel_futures=True)
    finally:
        processes.pass_on(None)
        torch.set_num_threads(threads)
