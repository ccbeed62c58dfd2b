"""What does jobs: processes of this machine side by side, this one alone (ENGINE=here), or a Ray
cluster (ENGINE=ray).

An engine is a context manager like `processes.local`; the loop over it, and what is printed, are
the same."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lib.study.engine import here, processes, ray
from lib.study.engine.processes import default_workers, memory_kept, say, workers_kept

__all__ = [
    "at_once",
    "chosen",
    "default_workers",
    "memory_kept",
    "say",
    "side_by_side",
    "workers_kept",
]

ENGINES = {"local": processes.local, "here": here.alone, "ray": ray.cluster}


def chosen(usual: str = "local", workers: int | None = None) -> str:
    """The name of the engine: $ENGINE, else local where workers are asked for ($WORKERS too), else
    the usual one. ValueError if there is none of that name, RuntimeError if what it needs is not
    installed."""
    asked = workers is not None or os.environ.get("WORKERS")
    name = os.environ.get("ENGINE") or ("local" if asked else usual)
    if name not in ENGINES:
        raise ValueError(f"ENGINE={name}: expected one of {', '.join(ENGINES)}")
    if name == "ray":
        ray.package()
    return name


def at_once(workers: int | None = None, usual: str = "local") -> int:
    """How many jobs are done at a time, as far as this machine decides it."""
    return 1 if chosen(usual, workers) == "here" else default_workers(workers)


def side_by_side(
    todo: Sequence,
    do: Callable[[Any], None],
    log: Path,
    workers: int | None = None,
    usual: str = "local",
) -> None:
    """Call do(job) for all jobs, on the engine chosen; see `processes.side_by_side`."""
    processes.side_by_side(todo, do, log, workers, ENGINES[chosen(usual, workers)])
