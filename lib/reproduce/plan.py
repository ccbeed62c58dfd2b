"""The published plan: which seeds of which settings, most valuable first (PROTOCOL.md, section 8).

    make record                        # hours to days; a killed run goes on from its last row

Each seed goes on from its published rows, and its rows are published (not committed) when it is
whole.
"""

import argparse

from lib.reproduce.record import PUBLISHED, publish, restore
from lib.study.profile import Profile, load, parse_seeds

PLAN = (
    ("compact_two_heads", "21-40"),
    ("paper_batch_norm", "1-20"),
    ("paper_two_heads", "1-20"),
    ("compact_readings", "21-23"),
    ("compact_four_tasks", "41-50"),
    ("compact_64_pixels", "61-70"),
    ("compact_draws", "51-60"),
    ("compact_ten_tasks", "44"),
    ("compact", "1-12"),
    ("paper", "1-20"),
)


def record(profile: Profile, arguments: argparse.Namespace) -> None:
    """Whatever the plan still lacks, seed by seed. The data source given (`--data`) serves every
    setting."""
    from lib.study import readings
    from lib.study.inputs import check
    from lib.study.jobs import complete, lacking

    for name, seeds in PLAN:
        if (PUBLISHED / name / "runs").is_dir():
            restore(load(name), arguments)
        check(load(name, data=arguments.data))
        for seed in parse_seeds(seeds):
            one = load(name, str(seed), arguments.data)
            grid = bool(one.readings.recipes)  # which has readings in place of arms
            if readings.lacking(one) if grid else lacking(one, seed):
                print(f"{name}, seed {seed}", flush=True)
                readings.make(one) if grid else complete(one)
                publish(one, argparse.Namespace(rows=True))
    print(f"the record is complete: {_tables_next()}")


def _tables_next() -> str:
    """How tables are made of the rows that are published: a grid of readings has no notebooks."""
    grids = [name for name, _ in PLAN if load(name).readings.recipes]
    by_verify = "".join(
        f"; make verify PROFILE={name} WRITE=1 writes those of {name}, a grid" for name in grids
    )
    return f"make reproduce and make publish a profile for its tables{by_verify}"
