"""What does jobs side by side: processes of this machine, or (ENGINE=ray) a Ray cluster.

An engine is a context manager like `processes.local`; the loop over it, and what is printed, are
the same."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lib.study.engine import processes, ray
from lib.study.engine.processes import default_workers, memory_kept, say, workers_kept

__all__ = ["chosen", "default_workers", "memory_kept", "say", "side_by_side", "workers_kept"]

ENGINES = {"local": processes.local, "ray": ray.cluster}


def chosen() -> str:
    """The name of the engine: $ENGINE, else local. ValueError if there is none of that name,
    RuntimeError if what it needs is not installed."""
    name = os.environ.get("ENGINE") or "local"
    if name not in ENGINES:
        raise ValueError(f"ENGINE={name}: expected one of {', '.join(ENGINES)}")
    if name == "ray":
        ray.package()
    return name


def side_by_side(
    todo: Sequence, do: Callable[[Any], None], log: Path, workers: int | None = None
) -> None:
    """Call do(job) for all jobs, on the engine chosen; see `processes.side_by_side`."""
    processes.side_by_side(todo, do, log, workers, ENGINES[chosen()])
