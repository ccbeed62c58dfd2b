"""Settings chosen fairly: small grids, on tuning seeds, scored on training images held out. No test
image is looked at, and none of the study's own seeds.

    tune(profile)              # every point of every grid, on every tuning seed; resumes
    table(profile)             # rows of tuning.csv
    lines(profile)             # what was chosen, as lines of a profile

The rule, written before: of each grid the point with the best mean accuracy over all tasks, of
equally good ones the smaller value; each profile (two heads, one head) by itself. A point that
diverges on any seed is never chosen.

Every run is an ordinary run, of a copy of the profile whose arms are the points of the grids and
whose data are without the held-out images; its rows lie in the profile's store beside the others,
and are published and restored with them.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import yaml

from lib.study import engine
from lib.study.arms import check, needs
from lib.study.jobs import Job, Making
from lib.study.materials import data_checksum, data_label, tasks
from lib.study.products import PRODUCTS, store, task1
from lib.study.profile import Arm, Grid, Profile, check_tuning_seeds, parse_seeds
from lib.study.runs import arm_named, run, run_key
from lib.study.store import results_dir


class Point(NamedTuple):
    """One run of a grid. setting: the options that are chosen; each: those that share the choice;
    arm: all of it as an arm."""

    grid: Grid
    setting: dict[str, float]
    each: dict[str, Any]
    arm: Arm


def points(profile: Profile) -> list[Point]:
    """Every point of the profile's grids, smaller values first."""
    return [
        Point(grid, setting, each, _arm(grid, setting, each))
        for grid in profile.tuning.grids
        for setting in _combinations(grid.grid)
        for each in _combinations(grid.each)
    ]


def _combinations(values: Mapping[str, Sequence]) -> list[dict[str, Any]]:
    return [dict(zip(values, chosen)) for chosen in product(*values.values())]


def _arm(grid: Grid, setting: Mapping[str, Any], each: Mapping[str, Any]) -> Arm:
    name = ", ".join([grid.name, *(f"{k} {v}" for k, v in {**each, **setting}.items())])
    return Arm(name=name, method=grid.method, options={**grid.options, **each, **setting})


def plan(profile: Profile, seeds: str | None = None) -> Profile:
    """The profile to run: its arms are the points, its seeds those for tuning (or `seeds`), its
    data without the held-out images, which are scored on. ValueError for a profile without grids,
    for a seed that is no tuning seed, and for an arm that cannot be."""
    if not profile.tuning.grids:
        raise ValueError(
            f"profile {profile.name} has nothing to tune: expected a `tuning` section with grids"
        )
    seeds = seeds or profile.tuning.seeds
    check_tuning_seeds(parse_seeds(seeds))
    data = profile.data.model_copy(update={"holdout": profile.tuning.holdout})
    arms = tuple(point.arm for point in points(profile))
    made = profile.model_copy(update={"seeds": seeds, "data": data, "arms": arms})
    check(made)
    return made


# --- running --------------------------------------------------------------------------------------


def tune(profile: Profile, seeds: str | None = None, workers: int | None = None) -> None:
    """Run every point that is still missing, side by side, after what it needs; a point that
    diverges is recorded and does not stop the others."""
    wanted = plan(profile, seeds)
    asked = [Job("run", seed, arm.name) for seed in wanted.seed_list for arm in wanted.arms]
    missing = [j for j in asked if not PRODUCTS["run"].there(wanted, j.seed, j.part)]
    engine.say(
        f"tuning {profile.name} on seeds {wanted.seeds}, scored on {wanted.data.holdout} held-out "
        f"training images a class: {len(missing)} of {len(asked)} runs are missing"
    )
    log = results_dir(profile.name) / "log.txt"
    for kind in PRODUCTS:
        engine.side_by_side(needed(wanted, missing, kind), Making(wanted), log, workers)
    engine.side_by_side(missing, Making(wanted, attempt), log, workers)


def needed(wanted: Profile, missing: Sequence[Job], kind: str) -> list[Job]:
    """What of a kind the missing runs need and is not there."""
    asking = {j.seed for j in missing if kind in needs(arm_named(wanted, j.part))}
    made = PRODUCTS[kind]
    return [
        Job(kind, seed, part)
        for seed in sorted(asking)
        for part in made.parts(wanted, seed)
        if not made.there(wanted, seed, part)
    ]


def attempt(job: Job, profile: Profile) -> dict:
    """An arm's rows; or, if its training diverges, a row without accuracies that says so, under the
    same key."""
    try:
        return run(profile, job.seed, job.part)
    except FloatingPointError as error:
        failed = " ".join(str(error).split())
        lineage = task1(profile, job.seed)["lineage"]  # raises again if it is task 1 that fails
        engine.say(f"{job}  failed: {failed}")
    arm = arm_named(profile, job.part)
    row = {
        "data": data_label(profile),
        "data_checksum": data_checksum(profile, job.seed),
        "seed": job.seed,
        "lineage": lineage,
        "method": arm.method,
        "curriculum": arm.curriculum,
        "ranking": arm.options.get("ranking"),
        "fraction": arm.options.get("fraction"),
        "precision": profile.recipe.precision,
        **{f"acc{k}": None for k, _ in enumerate(tasks(profile, job.seed), 1)},
        "failed": failed,
    }
    key = run_key(profile, job.seed, job.part)
    return store(profile).once("run", key, lambda: {"row": row, "accuracy": []}, branch=lineage)


# --- what came out --------------------------------------------------------------------------------


def table(profile: Profile, seeds: str | None = None) -> list[dict]:
    """Rows of tuning.csv, those of the grids of today that are there: profile, setting, grid,
    method, options, seed, lineage, data, acc1, acc2, ..., average (over tasks), failed, chosen. A
    failed run has no accuracies. Nothing is chosen of a grid that is not complete, or of which
    every point failed."""
    wanted = plan(profile, seeds)
    found = []
    for grid in profile.tuning.grids:
        mine = [p for p in points(profile) if p.grid.name == grid.name]
        rows = [[_row(wanted, seed, p) for seed in wanted.seed_list] for p in mine]
        setting = chosen(mine, [[row and row["average"] for row in of] for of in rows])
        complete = all(row for of in rows for row in of)
        for point, of in zip(mine, rows):
            taken = complete and point.setting == setting
            found += [{**row, "chosen": taken} for row in of if row]
    return found


def chosen(tried: Sequence[Point], averages: Sequence[Sequence[float | None]]) -> dict | None:
    """The rule: the setting with the best mean over seeds and over what shares it; of equally good
    ones the one listed first. averages: of each point, one number a seed, None where it failed; a
    setting that failed once is out. None if all are."""
    best, setting = -1.0, None
    for one in {json.dumps(p.setting): p.setting for p in tried}.values():
        scores = [a for p, of in zip(tried, averages) if p.setting == one for a in of]
        if None not in scores and round(sum(scores) / len(scores), 12) > best:
            best, setting = round(sum(scores) / len(scores), 12), one
    return setting


def _row(wanted: Profile, seed: int, point: Point) -> dict | None:
    """A run's line of tuning.csv; None if it is not there."""
    shelf, key = store(wanted), run_key(wanted, seed, point.arm.name)
    branches = shelf.branches("run", key)
    if not branches:
        return None
    row = shelf.read(shelf.path("run", key, branch=branches[0]))["row"]
    accuracies = {k: v for k, v in row.items() if k.startswith("acc") and k[3:].isdigit()}
    failed = row.get("failed")
    return {
        "profile": wanted.name,
        "setting": wanted.setting,
        "grid": point.grid.name,
        "method": point.arm.method,
        "options": json.dumps(point.arm.options, sort_keys=True),
        "seed": seed,
        "lineage": row["lineage"],
        "data": row["data"],
        **accuracies,
        "average": None if failed else sum(accuracies.values()) / len(accuracies),
        "failed": failed,
    }


def lines(profile: Profile, seeds: str | None = None) -> str:
    """What was chosen as lines of a profile; a remark where nothing was, or where the choice lies
    at an end of its grid."""
    rows, wanted, found = table(profile, seeds), plan(profile, seeds), []
    for grid in profile.tuning.grids:
        mine = [p for p in points(profile) if p.grid.name == grid.name]
        here = [row for row in rows if row["grid"] == grid.name]
        options = {row["options"] for row in here if row["chosen"]}
        taken = [p for p in mine if json.dumps(p.arm.options, sort_keys=True) in options]
        if not taken:
            runs = len(mine) * len(wanted.seed_list)
            why = "every setting failed" if len(here) == runs else f"{len(here)} of {runs} runs"
            found.append(f"  # {grid.name}: nothing chosen, {why}")
        for point in taken:
            name = " ".join([grid.name, *map(str, point.each.values())])
            arm = {"name": name, "method": grid.method, "options": dict(point.arm.options)}
            text = yaml.safe_dump(arm, default_flow_style=True, sort_keys=False, width=10**6)
            found.append(f"  - {text.strip()}{_at_an_end(point)}")
    return "\n".join(found)


def _at_an_end(point: Point) -> str:
    ends = [
        f"{option} is the {'smallest' if value == values[0] else 'largest'} tried"
        for option, values in point.grid.grid.items()
        if (value := point.setting[option]) in (values[0], values[-1]) and len(values) > 1
    ]
    return f"  # {'; '.join(ends)}" if ends else ""
