"""Timing, runs side by side, what the machine is, and the tables.

    seconds = median_seconds(lambda: work(), repeats=5, device=device)
    seconds = side_by_side(2, prepare, 1, repeats, *arguments)  # two processes of one thread each
    anything = fresh(measure, 2, *arguments)  # measure(*arguments) in a process of two threads

Ours runs in fresh processes set up as the study's workers are (`lib.study.engine.memory_kept`),
baselines as Python starts them."""

import multiprocessing
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import nn

from lib.kernels import use_triton
from lib.precision import resolve_precision
from lib.study.engine.processes import deaf_to_interruption, end_at_once, memory_kept
from lib.study.store import processor

IDLE = 0.1  # share of the processor's time that others may take while we measure
BUDGET = 20  # seconds for all repeats of one long piece of work
LOOK = 3  # seconds between two looks at the memory of a long command
PATIENCE = 300  # seconds a process waits for its neighbours before the measurement is given up


class Row(NamedTuple):
    """One line of the table of targets. ratio: baseline / ours in time; target: the least (or,
    marked <=, the most)."""

    measure: str
    baseline: str
    ours: str
    ratio: float
    target: str = ""
    note: str = ""

    @property
    def reached(self) -> str:
        """ "yes" or "no"; empty where there is no target."""
        if not self.target:
            return ""
        sign, _, number = self.target.partition(" ")
        return (
            "yes"
            if (self.ratio >= float(number) if sign == ">=" else self.ratio <= float(number))
            else "no"
        )


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def times(
    work: Callable[[], Any], repeats: int, device: torch.device, warm_up: int = 1
) -> list[float]:
    """Seconds of each of `repeats` calls, after `warm_up` calls that do not count."""
    found = []
    for _ in range(warm_up + repeats):
        synchronise(device)
        start = time.perf_counter()
        work()
        synchronise(device)
        found.append(time.perf_counter() - start)
    return found[warm_up:]


def median_seconds(
    work: Callable[[], Any], repeats: int, device: torch.device, warm_up: int = 1
) -> float:
    """The median of `times`."""
    return statistics.median(times(work, repeats, device, warm_up))


def median_within(
    work: Callable[[], Any], repeats: int, device: torch.device, budget: float = BUDGET
) -> tuple[float, int]:
    """Median seconds and how many repeats it is of: `repeats`, or fewer when they would take more
    than `budget` s.

    For work of many seconds; nothing is thrown away, so warm up before.
    """
    found: list[float] = []
    while len(found) < repeats and (not found or sum(found) + found[-1] < budget):
        found += times(work, 1, device, warm_up=0)
    return statistics.median(found), len(found)


# --- side by side ---------------------------------------------------------------------------------

_together = None  # the barrier, in a process of side_by_side


def _begin(barrier, number_of_threads: int) -> None:
    global _together
    _together = barrier
    torch.set_num_threads(number_of_threads)


def _take_part(prepare: Callable, repeats: int, arguments: tuple) -> list[tuple[float, float]]:
    """In one process: make the work, do it once to warm up, then `repeats` times, each begun
    together."""
    work, device = prepare(*arguments)
    work()
    spans = []
    for _ in range(repeats):
        synchronise(device)
        _together.wait(PATIENCE)  # which also hands each process exactly one part
        start = time.monotonic()  # one clock for all processes
        work()
        synchronise(device)
        spans.append((start, time.monotonic()))
    return spans


def side_by_side(
    processes: int, prepare: Callable, number_of_threads: int, repeats: int, *arguments
) -> float:
    """Median seconds from the first start to the last end of the same work in several fresh
    processes at once.

    `prepare(*arguments)` runs in each process and returns (the work, its device).
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    pool = ProcessPoolExecutor(processes, context, _begin, (barrier, number_of_threads))
    try:
        with memory_kept(), deaf_to_interruption():
            parts = [pool.submit(_take_part, prepare, repeats, arguments) for _ in range(processes)]
        spans = [part.result() for part in parts]
    finally:
        end_at_once(pool)
    return statistics.median(
        max(end for _, end in one) - min(start for start, _ in one) for one in zip(*spans)
    )


def fresh(measure: Callable, number_of_threads: int, *arguments, as_worker: bool = True) -> Any:
    """measure(*arguments) in a process of its own; as_worker: set up as the study's workers are."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(1, context, torch.set_num_threads, (number_of_threads,))
    try:
        with memory_kept() if as_worker else nullcontext(), deaf_to_interruption():
            part = pool.submit(measure, *arguments)
        return part.result()
    finally:
        end_at_once(pool)


def watched(command: Sequence[str], environment: dict[str, str]) -> tuple[float, float]:
    """Seconds a command took and the most memory (GB) it and its descendants held at once, looked
    at every `LOOK` seconds (more often at first): to look stops the processes for a moment.

    Memory is the proportional set size, so that what processes share counts once; nan where there
    is no /proc. RuntimeError with the command's last words if it fails."""
    start, most = time.perf_counter(), float("nan")
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT
        )
        while process.poll() is None:
            held = sum(_held(pid) for pid in _family(process.pid))
            most = held if not most >= held else most
            with suppress(subprocess.TimeoutExpired):
                process.wait(min(LOOK, 0.5 + time.perf_counter() - start))
        if process.returncode:
            output.seek(0)
            raise RuntimeError(
                f"{' '.join(command)} ended with {process.returncode}: {output.read()[-500:]}"
            )
    return time.perf_counter() - start, most or float("nan")


def _family(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += [p for child in children.read_text().split() for p in _family(int(child))]
    return found


def _held(pid: int) -> float:
    """Proportional set size in GB; 0 for a process that ended meanwhile."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1e6
    return 0.0


# --- work and machine -----------------------------------------------------------------------------


def macs(model: nn.Module, image_size: int = 32) -> int:
    """Multiply-accumulates of the convolutions and linear layers of one forward pass of one
    image."""
    counted, handles = [], []

    def count(module, _inputs, output):
        per_output = module.weight[0].numel()  # a filter's, or a neuron's, weights
        counted.append(output[0].numel() * per_output)

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            handles.append(module.register_forward_hook(count))
    was_training = model.training
    p = next(model.parameters())
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, image_size, image_size, device=p.device, dtype=p.dtype))
    model.train(was_training)
    for handle in handles:
        handle.remove()
    return sum(counted)


def machine(device: torch.device, repeats: int) -> dict[str, str]:
    """Hardware, versions, precision: the head of every table."""
    cuda = device.type == "cuda"
    versions = {}
    for name in (
        "torch",
        "torchvision",
        "triton",
        "numpy",
        "scipy",
        "scikit-learn",
        "torchmetrics",
    ):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "missing"
    share = busy()
    return {
        "processor": f"{processor()}, {cores()} cores, {torch.get_num_threads()} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}",
        "GPU": torch.cuda.get_device_name(device) if cuda else "none",
        "precision": f"training {resolve_precision('auto', device)} (what auto means here), "
        "explanations float32, "
        "scores float64",
        "kernels": "Triton" if use_triton(device) else "PyTorch",
        "versions": ", ".join(
            f"{k} {v}" for k, v in {"Python": platform.python_version(), **versions}.items()
        ),
        "repeats": f"median of {repeats}",
        "before the start": f"{share:.0%} of the processor's time taken by others"
        + (": the machine is not idle, the times are not valid" if share > IDLE else ""),
    }


def busy(seconds: float = 2) -> float:
    """Share of all cores' time that is not idle while we wait; nan where the system does not tell
    (no /proc/stat)."""

    def ticks():
        user, nice, system, idle, waiting, *others = map(
            int, Path("/proc/stat").read_text().split("\n")[0].split()[1:]
        )
        return idle + waiting, user + nice + system + idle + waiting + sum(others[:3])

    if not Path("/proc/stat").exists():
        return float("nan")
    (idle, total), _ = ticks(), time.sleep(seconds)
    idle_now, total_now = ticks()
    return 1 - (idle_now - idle) / max(1, total_now - total)


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- tables ---------------------------------------------------------------------------------------


def targets_table(rows: Sequence[Row]) -> pd.DataFrame:
    """The rows with their column `reached`."""
    columns = ["measure", "baseline", "ours", "ratio", "target", "reached", "note"]
    return pd.DataFrame(
        [{**row._asdict(), "ratio": round(row.ratio, 3), "reached": row.reached} for row in rows],
        columns=columns,
    )


def markdown(frame: pd.DataFrame) -> str:
    """A Markdown table."""
    lines = [
        list(frame.columns),
        ["---"] * len(frame.columns),
        *frame.astype(object).values.tolist(),
    ]
    return "\n".join("| " + " | ".join(_cell(c) for c in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.4g}"
    return str(value).replace("|", "/")


def write_tables(
    out: Path, name: str, head: dict[str, str], rows: Sequence[Row], details: dict[str, list[dict]]
) -> list[Path]:
    """Writes `<name>.md` with everything, `<name>.csv` with the targets, `<section>.csv` for each
    section."""
    out.mkdir(parents=True, exist_ok=True)
    targets = targets_table(rows)
    text = [
        "# Benchmark",
        *(f"- {k}: {v}" for k, v in head.items()),
        "",
        "## Targets",
        "",
        markdown(targets),
        "",
    ]
    written = [out / f"{name}.md", out / f"{name}.csv"]
    targets.to_csv(written[1], index=False)
    for section, lines in details.items():
        frame = pd.DataFrame(lines)
        written.append(out / f"{section}.csv")
        frame.to_csv(written[-1], index=False)
        text += [f"## {section}", "", markdown(frame), ""]
    written[0].write_text("\n".join(text))
    return written
