"""Settings chosen fairly: small grids, on tuning seeds, scored on training images held out. No test
image is looked at, and none of the study's own seeds.

    tune(profile)              # every point of every grid, on every tuning seed; resumes
    table(profile)             # rows of tuning.csv
    lines(profile)             # what was chosen, as lines of a profile

The rule, written before: of each grid the point with the best mean accuracy over all tasks, of
equally good ones the smaller value; each profile (two heads, one head) by itself. A point that
diverges on any seed is never chosen. Points are compared on the same task-1 networks alone: one
that a longer grid adds, on other networks of its seeds, stands against the choice so far, run again
there.

Every run is an ordinary run, of a copy of the profile whose arms are the points of the grids and
whose data are without the held-out images; its rows lie in the profile's store beside the others,
and are published and restored with them.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import yaml

from lib.study import engine
from lib.study.arms import check, needs
from lib.study.inputs import check_fit
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
    """Run every point that is still missing, side by side, after what it needs, then what links
    points that started from different networks; a point that diverges is recorded and does not
    stop the others."""
    wanted = plan(profile, seeds)
    check_fit(wanted)
    asked = [Job("run", seed, arm.name) for seed in wanted.seed_list for arm in wanted.arms]
    missing = [j for j in asked if not PRODUCTS["run"].there(wanted, j.seed, j.part)]
    engine.say(
        f"tuning {profile.name} on seeds {wanted.seeds}, scored on {wanted.data.holdout} held-out "
        f"training images a class: {len(missing)} of {len(asked)} runs are missing"
    )
    make_all(wanted, missing, workers, attempt)
    if apart := _apart(profile, wanted):
        first = {job.seed: job for job in apart}  # whose checkpoint says what is to be run
        _make_needs(wanted, list(first.values()), workers, ("task1",))
        links = _links(wanted, apart)
        engine.say(
            f"{len(links)} runs once more, from the networks that a later point started from"
        )
        make_all(wanted, links, workers, attempt)


def make_all(
    wanted: Profile, runs: Sequence[Job], workers: int | None, how: Callable[[Job, Profile], Any]
) -> None:
    """What these runs need and is not there, kind by kind; then the runs, each by how(run,
    wanted)."""
    _make_needs(wanted, runs, workers, PRODUCTS)
    log = results_dir(wanted.name) / "log.txt"
    engine.side_by_side(runs, Making(wanted, how), log, workers)


def _make_needs(
    wanted: Profile, runs: Sequence[Job], workers: int | None, kinds: Iterable[str]
) -> None:
    log = results_dir(wanted.name) / "log.txt"
    for kind in kinds:
        engine.side_by_side(_needed(wanted, runs, kind), Making(wanted), log, workers)


def _apart(profile: Profile, wanted: Profile) -> list[Job]:
    """Of every grid with a setting that shares no network with the choice among the others: the
    runs of both, on every seed."""
    found = []
    for tried in _tried(profile, wanted):
        best, others = _first_choice(tried), _outside(tried)
        if best is None or all(_shared(tried, best, one) for one in others):
            continue
        settings = [best, *(one for one in others if not _shared(tried, best, one))]
        names = [p.arm.name for p, _ in tried if p.setting in settings]
        found += [Job("run", seed, name, again=True) for seed in wanted.seed_list for name in names]
    return found


def _links(wanted: Profile, apart: Sequence[Job]) -> list[Job]:
    """Those of these runs that the checkpoints here have not seen."""
    here = {seed: task1(wanted, seed)["lineage"] for seed in {job.seed for job in apart}}
    shelf = store(wanted)
    return [
        job
        for job in apart
        if here[job.seed] not in shelf.branches("run", run_key(wanted, job.seed, job.part))
    ]


def _needed(wanted: Profile, missing: Sequence[Job], kind: str) -> list[Job]:
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
        return run(profile, job.seed, job.part, again=job.again)
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


# of one grid: its points, each with seed -> lineage -> the line of a run
Tried = list[tuple[Point, dict[int, dict[str, dict]]]]


def _tried(profile: Profile, wanted: Profile) -> list[Tried]:
    """Of each grid what is there."""
    return [
        [
            (point, {seed: _rows(wanted, seed, point) for seed in wanted.seed_list})
            for point in points(profile)
            if point.grid.name == grid.name
        ]
        for grid in profile.tuning.grids
    ]


def _usual(tried: Tried) -> dict[int, str | None]:
    """Seed -> the lineage that most points of the grid started from."""
    found: dict[int, Counter] = {}
    for _, of in tried:
        for seed, rows in of.items():
            found.setdefault(seed, Counter()).update([*rows])
    return {seed: max(many, key=many.get, default=None) for seed, many in found.items()}


def _means(
    tried: Tried, setting: Mapping, lineages: Mapping[int, str]
) -> list[float | None] | None:
    """A setting's averages on these networks, None for a failed one; None if one was not run."""
    lines = [of[s].get(lineages[s]) for p, of in tried if p.setting == setting for s in of]
    return None if None in lines else [line["average"] for line in lines]


def _first_choice(tried: Tried) -> dict | None:
    """The best of the settings that ran on the networks most of them started from."""
    usual = _usual(tried)
    inside = [(p, of) for p, of in tried if _means(tried, p.setting, usual) is not None]
    averages = [[of[seed][usual[seed]]["average"] for seed in of] for _, of in inside]
    return chosen([p for p, _ in inside], averages)


def _outside(tried: Tried) -> list[dict]:
    """The settings that did not, all of whose runs are there."""
    usual, found = _usual(tried), []
    for point, _ in tried:
        same = [of for p, of in tried if p.setting == point.setting]
        if _means(tried, point.setting, usual) is None and all(all(of.values()) for of in same):
            found += [point.setting] * (point.setting not in found)
    return found


def _shared(tried: Tried, one: Mapping, other: Mapping) -> dict[int, str]:
    """Seed -> a lineage on which all runs of both settings are there; empty if a seed has none."""
    both = [of for p, of in tried if p.setting in (one, other)]
    found = {s: set.intersection(*({*of[s]} for of in both)) for s in both[0]}
    return {s: min(shared) for s, shared in found.items()} if all(found.values()) else {}


def settled(tried: Tried) -> dict | None:
    """The rule: of the settings that ran on the networks most of them started from, the best; then
    each of the others in turn, smallest first, if it is better where the choice so far was run
    again beside it. One that shares no network with the choice is left out."""
    best = _first_choice(tried)
    for other in _outside(tried):
        if best is not None and (lineages := _shared(tried, best, other)):
            sides = [(setting, _means(tried, setting, lineages)) for setting in (best, other)]
            scores = [np.nan if None in m else round(float(np.mean(m)), 12) for _, m in sides]
            best = other if scores[1] > scores[0] or np.isnan(scores[0]) else best
    return best


def table(profile: Profile, seeds: str | None = None) -> list[dict]:
    """Rows of tuning.csv, those of the grids of today that are there: profile, setting, grid,
    method, options, seed, lineage, data, acc1, acc2, ..., average (over tasks), failed, chosen,
    again (run once more, beside a point that started from another network). A failed run has no
    accuracies. Nothing is chosen of a grid that is not complete, or of which every point failed."""
    wanted = plan(profile, seeds)
    found = []
    for tried in _tried(profile, wanted):
        complete = all(all(of.values()) for _, of in tried)
        best, usual = settled(tried) if complete else None, _usual(tried)
        for point, of in tried:
            for seed, rows in of.items():
                first = usual[seed] if usual[seed] in rows else next(iter(rows), None)
                for lineage, line in rows.items():
                    taken = {"chosen": best == point.setting, "again": lineage != first}
                    found.append({**line, **taken})
    return found


def chosen(tried: Sequence[Point], averages: Sequence[Sequence[float | None]]) -> dict | None:
    """The setting with the best mean over seeds and over what shares it; of equally good
    ones the one listed first. averages: of each point, one number a seed, None where it failed; a
    setting that failed once is out. None if all are."""
    best, setting = -1.0, None
    for one in {json.dumps(p.setting): p.setting for p in tried}.values():
        scores = [a for p, of in zip(tried, averages) if p.setting == one for a in of]
        if None not in scores and round(sum(scores) / len(scores), 12) > best:
            best, setting = round(sum(scores) / len(scores), 12), one
    return setting


def _rows(wanted: Profile, seed: int, point: Point) -> dict[str, dict]:
    """Lineage -> a run's line of tuning.csv, of those that are there."""
    shelf, key = store(wanted), run_key(wanted, seed, point.arm.name)
    found = {}
    for branch in shelf.branches("run", key):
        row = shelf.read(shelf.path("run", key, branch=branch))["row"]
        accuracies = {k: v for k, v in row.items() if k.startswith("acc") and k[3:].isdigit()}
        failed = row.get("failed")
        found[row["lineage"]] = {
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
    return found


def lines(profile: Profile, seeds: str | None = None) -> str:
    """What was chosen as lines of a profile; a remark where nothing was, or where the choice lies
    at an end of its grid."""
    rows, wanted, found = table(profile, seeds), plan(profile, seeds), []
    for grid in profile.tuning.grids:
        mine = [p for p in points(profile) if p.grid.name == grid.name]
        here = [row for row in rows if row["grid"] == grid.name and not row["again"]]
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
