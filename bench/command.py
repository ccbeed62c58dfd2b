"""What `python -m bench` does."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from bench.measure import machine, markdown, synchronise, targets_table, write_tables
from bench.sections import NETWORKS, SECTIONS, Setup, measure_all, network, random_task
from lib.precision import default_device
from lib.study.command import Parser
from lib.study.store import results_dir
from lib.training import fit


def trace_step(file: Path, name: str, setup: Setup) -> None:
    """Write a Chrome trace of one training step (and what surrounds it in `fit`) after a
    warm-up."""
    from torch.profiler import ProfilerActivity, profile

    model, recipe = network(name, setup)
    recipe = replace(recipe, epochs=1)
    task = random_task(recipe.batch_size, setup.device)
    for _ in range(3):
        fit(model, task, recipe)
    synchronise(setup.device)
    activities = [
        ProfilerActivity.CPU,
        *([ProfilerActivity.CUDA] if setup.device.type == "cuda" else []),
    ]
    with profile(activities=activities, record_shapes=True) as profiler:
        fit(model, task, recipe)
        synchronise(setup.device)
    file.parent.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(file))
    print(
        profiler.key_averages().table(sort_by=f"self_{setup.device.type}_time_total", row_limit=12)
    )
    print(f"trace: {file}")


def obey(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and do what it asks for."""
    torch.manual_seed(0)
    parser = Parser(
        prog="python -m bench", description="The study's parts against plain baselines."
    )
    parser.add_argument(
        "--section", action="append", choices=SECTIONS, help="only this section; may be repeated"
    )
    parser.add_argument(
        "--out", type=Path, default=results_dir("bench"), help="folder for the tables"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--tiny", action="store_true", help="sizes for the tests; the times mean nothing"
    )
    parser.add_argument(
        "--trace", type=Path, metavar="FILE", help="only write a trace of one training step"
    )
    parser.add_argument(
        "--network", choices=NETWORKS, default="full width", help="the network of the trace"
    )
    given = parser.parse_args(arguments)
    if given.repeats < 1:
        parser.error(f"--repeats {given.repeats}: expected 1 or more")
    setup = Setup(default_device(), given.repeats, given.tiny)
    if given.trace:
        trace_step(given.trace, given.network, setup)
        return
    start = time.perf_counter()
    head = machine(setup.device, setup.repeats)  # first: it reads the load before we add to it
    details, rows = measure_all(
        given.section or SECTIONS, setup, lambda line: print(line, flush=True)
    )
    head["took"] = f"{time.perf_counter() - start:.0f} s" + (
        " (tiny sizes: the times mean nothing)" * given.tiny
    )
    name = "targets" if not given.section else "targets_" + "_".join(given.section)
    written = write_tables(given.out, name, head, rows, details)
    print("\n".join(f"{k}: {v}" for k, v in head.items()))
    for section, lines in details.items():
        print(f"\n{section}\n{markdown(pd.DataFrame(lines))}")
    if rows:
        print(f"\ntargets\n{markdown(targets_table(rows))}")
    print(f"\nwritten: {', '.join(str(p) for p in written)}")
