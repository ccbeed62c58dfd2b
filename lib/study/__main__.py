"""`python -m lib.study --profile paper --seeds 1-10 --shard 2/4`: a part of the runs, anywhere, no
notebooks. Needs torch, numpy, pandas, scipy, pyyaml and pydantic alone.

`--tune` runs the grids of the profile's tuning section instead (see `lib.study.tuning`), and
`--readings` the grid over what the paper leaves open (see `lib.study.readings`)."""

from __future__ import annotations  # so that a Python too old gets as far as to say so

import argparse
import json
import os
from collections.abc import Sequence

from lib.study.command import Parser, in_one_sentence, leave


def main(arguments: Sequence[str] | None = None) -> int:
    """See the head of this module. Exit code 0, or 1 after one sentence on standard error, or 130
    after Ctrl-C."""
    return in_one_sentence(lambda: _work(arguments))


def _work(arguments: Sequence[str] | None) -> None:
    from lib.study.forecast import forecast
    from lib.study.inputs import check  # torch and all: inside, so that its absence is told
    from lib.study.jobs import complete
    from lib.study.profile import load, parse_seeds
    from lib.study.store import holding, results_dir, sweep
    from lib.study.tables import collect

    parser = Parser(prog="python -m lib.study", description=__doc__)
    parser.add_argument("--profile", required=True)
    parser.add_argument("--seeds", help="such as 1-10; the profile's own if not given")
    parser.add_argument("--data", help="a data source in place of the profile's")
    parser.add_argument(
        "--shard", default="1/1", help="I/N: the I-th of N parts; whole seeds, dealt in turn"
    )
    parser.add_argument(
        "--tune", action="store_true", help="the grids of the profile's tuning section instead"
    )
    parser.add_argument(
        "--readings",
        choices=("recipes", "grid"),
        help="the profile's grid of readings instead: which recipes learn, or all of it",
    )
    parser.add_argument("--workers", type=int, help="processes side by side, one thread each")
    parser.add_argument("--engine", help="what does jobs: local (workers), here (none) or ray")
    given = parser.parse_args(arguments)
    if given.engine:
        os.environ["ENGINE"] = given.engine
    if given.tune:
        return _tune(given)
    if given.readings:
        return _readings(given)
    seeds = _dealt(parse_seeds(given.seeds or load(given.profile).seeds), given.shard)
    profile = load(given.profile, ",".join(map(str, seeds)), given.data)
    check(profile, given.workers)
    with holding(results_dir(profile.name), shared=True):  # with other parts, but not with `clean`
        sweep(results_dir(profile.name))
        print(forecast(profile, given.workers), flush=True)
        complete(profile, workers=given.workers)
    rows = len(collect(profile)["runs"])
    print(json.dumps({"profile": profile.name, "seeds": seeds, "rows": rows}))


def _tune(given: argparse.Namespace) -> None:
    """The grids on the seeds dealt to this part; tables/tuning.csv and the chosen lines are of all
    that is there."""
    import pandas as pd

    from lib.study import tuning
    from lib.study.profile import load, parse_seeds
    from lib.study.store import results_dir, write_atomically

    profile = load(given.profile, None, given.data)
    seeds = given.seeds or profile.tuning.seeds
    mine = _dealt(parse_seeds(seeds), given.shard)
    tuning.tune(profile, ",".join(map(str, mine)), given.workers)
    rows, path = tuning.table(profile, seeds), results_dir(profile.name) / "tables/tuning.csv"
    text = pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")
    write_atomically(path, lambda p: p.write_text(text))
    print(f"chosen, as lines of a profile ({path}):\n{tuning.lines(profile, seeds)}")
    print(json.dumps({"profile": profile.name, "seeds": mine, "rows": len(rows)}))


def _readings(given: argparse.Namespace) -> None:
    """Which recipes learn (tables/recipes.csv), then every reading on the seeds dealt to this part
    (tables/readings.csv, of all that is there)."""
    import pandas as pd

    from lib.study import readings
    from lib.study.inputs import check
    from lib.study.profile import load, parse_seeds
    from lib.study.store import results_dir, write_atomically

    profile = load(given.profile, given.seeds, given.data)
    mine = ",".join(map(str, _dealt(parse_seeds(profile.seeds), given.shard)))
    check(profile, given.workers)
    readings.learn(profile, given.workers)
    made = {"recipes": readings.recipes_table(profile)}
    if given.readings == "grid":
        readings.run_all(profile.model_copy(update={"seeds": mine}), given.workers)
        usual = load(given.profile, None, given.data)  # another process may make other seeds
        more = [s for s in profile.seed_list if s not in usual.seed_list]
        seeds = ",".join([usual.seeds, *map(str, more)])
        made["readings"] = readings.table(usual.model_copy(update={"seeds": seeds}))
    for name, rows in made.items():
        text = pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")
        path = results_dir(profile.name) / "tables" / f"{name}.csv"
        write_atomically(path, lambda p, text=text: p.write_text(text))
        print(f"wrote {path}")
    rows = {name: len(table) for name, table in made.items()}
    print(json.dumps({"profile": profile.name, "seeds": mine, "rows": rows}))


def _dealt(seeds: list[int], shard: str) -> list[int]:
    """The seeds of part I of N, dealt in turn. ValueError if the shard is no I/N, or holds none."""
    from lib.study.profile import is_number

    part, _, parts = shard.partition("/")
    numbers = is_number(part) and is_number(parts)
    if not (numbers and 1 <= int(part) <= int(parts)):
        raise ValueError(f"shard {shard!r}: expected I/N with I from 1 to N, such as 2/4")
    if mine := seeds[int(part) - 1 :: int(parts)]:
        return mine
    raise ValueError(
        f"shard {shard} of {len(seeds)} seeds holds no seed: expected at most as many shards as "
        "seeds"
    )


if __name__ == "__main__":
    leave(main())
