"""An arm of a seed from checkpoint to rows; all arms of a profile; resuming.

    payload = run(arm, seed, profile)  # {"row": {...}, "accuracy": [...], ...}, made once
    fulfil(jobs(profile, "run"), profile)         # everything still missing, side by side
    python -m lib.study --profile paper --seeds 1-10 --shard 2/4

Everything heavy goes through the store: what a killed run had finished is never made again.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from lib import data as data_room
from lib import pool
from lib.data import Task
from lib.kernels import recorder, use_triton
from lib.keys import SCIENCE, digest
from lib.methods import METHODS, Context, frozen_fraction
from lib.network import VGG
from lib.products import (
    data_checksum,
    data_label,
    epochs,
    evidence,
    filters,
    filters_key,
    fresh_network,
    layer_names,
    maps,
    maps_key,
    network_after_task1,
    overlap,
    overlap_key,
    reproducibly,
    store,
    task1,
    task1_key,
    task1_rows,
    tasks,
)
from lib.profile import FIRST_TUNING_SEED, Profile, load, parse_seeds
from lib.ranking import RANKINGS
from lib.store import results_dir
from lib.training import default_device, evaluate, fit, measure, resolve_precision

NO_LINEAGE = "scratch"  # arms that start from no checkpoint

SIGHTLESS = {
    "random"
}  # rankings that look at no map: their runs do not depend on how maps are made

REFERENCES = (
    "finetune",
    "random",
)  # run again on a new checkpoint, so that new arms have something to pair with


class Arm(NamedTuple):
    """One way to go from the task-1 checkpoint to the end of the last round: one line of a
    profile."""

    name: str
    method: str = "finetune"
    options: Mapping[str, Any] = MappingProxyType({})
    curriculum: str = "sequence"  # or joint20, joint10, last
    seeds: str | None = None


def arms(profile: Profile) -> list[Arm]:
    """The profile's arms in order."""
    return [Arm(a.name, a.method, dict(a.options), a.curriculum, a.seeds) for a in profile.arms]


def check(profile: Profile) -> None:
    """Raise ValueError, one sentence, if an arm names an unknown method, option, ranking or
    value."""
    for arm in arms(profile):
        if arm.method not in METHODS:
            raise ValueError(
                f"arm {arm.name!r}: no method {arm.method!r}; expected one of {', '.join(METHODS)}"
            )
        ranking = arm.options.get("ranking", "random")
        if not isinstance(ranking, str) or ranking not in RANKINGS:
            raise ValueError(
                f"arm {arm.name!r}: no ranking {ranking!r}; expected one of {', '.join(RANKINGS)}"
            )
        try:
            METHODS[arm.method](**arm.options)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"arm {arm.name!r}, method {arm.method}, options {dict(arm.options)}: {error}"
            ) from None


# --- runs -----------------------------------------------------------------------------------------


def run_key(arm: Arm, profile: Profile, seed: int) -> dict:
    """What a run depends on, except the lineage of its checkpoint and the arm's name."""
    key = {
        "science": SCIENCE["run"],
        "method": arm.method,
        "options": dict(arm.options),
        "seed": seed,
        "curriculum": arm.curriculum,
        "task1": task1_key(profile, seed),
    }
    if arm.options.get("ranking", "random") not in SIGHTLESS:
        key["explain"] = profile.explain.model_dump(), SCIENCE["maps"], SCIENCE["filters"]
    return key


def run(arm: Arm, seed: int, profile: Profile, again: bool = False) -> dict:
    """The arm's rows, made once: {"row": one line of runs.csv, "accuracy": [...], and what the
    method records}.

    If the row is there under any lineage it is read, without a checkpoint; `again` insists on this
    checkpoint's."""
    shelf, key = store(profile), run_key(arm, profile, seed)
    if arm.curriculum != "sequence":
        return shelf.once("run", key, lambda: _from_scratch(arm, seed, profile), branch=NO_LINEAGE)
    have = shelf.branches("run", key)
    if have and not again:
        return shelf.once("run", key, dict, branch=have[0])
    lineage = task1(profile, seed)["lineage"]
    return shelf.once("run", key, lambda: _sequence(arm, seed, profile, lineage), branch=lineage)


def _row(
    profile: Profile, arm: Arm, seed: int, lineage: str, model: VGG, split: Sequence[Task], **more
) -> dict:
    precision = profile.recipe.precision
    after = {t.name: measure(model, t, precision) for t in split}
    return {
        "data": data_label(profile),
        "data_checksum": data_checksum(profile, seed),
        "seed": seed,
        "lineage": lineage,
        "method": arm.method,
        "curriculum": arm.curriculum,
        "ranking": arm.options.get("ranking"),
        "fraction": arm.options.get("fraction"),
        "precision": precision,
        **{f"acc{k}": after[t.name]["accuracy"] for k, t in enumerate(split, 1)},
        "loss1": after[split[0].name]["loss"],
        "acc1_train": measure(model, split[0], precision, "train")["accuracy"],
        **more,
    }


def _sequence(arm: Arm, seed: int, profile: Profile, lineage: str) -> dict:
    """Round 2 and later rounds from the task-1 checkpoint, by the arm's method."""
    with reproducibly():
        split, model = tasks(profile, seed), network_after_task1(profile, seed)
        look = evidence(profile, seed, network_after_task1(profile, seed))
        context = Context(
            split,
            seed,
            profile.recipe,
            lambda name, **o: RANKINGS[name](look, **o),
            lambda m: {t.name: evaluate(m, t, profile.recipe.precision) for t in split},
        )
        before = {
            f"acc{k}_before": evaluate(model, t, profile.recipe.precision)
            for k, t in enumerate(split, 1)
        }
        before["loss1_before"] = measure(model, split[0], profile.recipe.precision)["loss"]
        method, accuracy = METHODS[arm.method](**arm.options), []
        for number, task in enumerate(split[1:], 2):
            method.before(model, task, context)
            label = f"seed {seed}  {arm.name}" + (f"  round {number}" if len(split) > 2 else "")
            history = fit(model, task, profile.recipe, method, seed, split, epochs(label))
            accuracy += [{"round": number, **row} for row in history.accuracy]
            method.after(model, task, context)
        row = _row(
            profile,
            arm,
            seed,
            lineage,
            model,
            split,
            realised=frozen_fraction(model, method),
            **before,
        )
        return {"row": row, "accuracy": accuracy, **method.records()}


def _from_scratch(arm: Arm, seed: int, profile: Profile) -> dict:
    """Upper and lower targets that start from the network's initialisation.

    joint20: all classes at once, one output each, T times the epochs; every epoch is scored over
    all outputs (as in the paper) and masked to each task's own. joint10: the same with the shared
    head. last: the last task alone."""
    with reproducibly():
        split, recipe = tasks(profile, seed), profile.recipe
        if arm.curriculum == "last":
            task, watch = split[-1], split
        else:
            shared, k = arm.curriculum == "joint10", len(split[0].classes)
            if shared:
                split = [t._replace(first_output=0) for t in split]
            task = data_room.join(split, shared)
            recipe = recipe.model_copy(update={"epochs": recipe.epochs * len(split)})
            # scored over all outputs: classes widened to the joint list, labels moved to their
            # place in it
            watch = (
                split
                if shared
                else [
                    t._replace(
                        classes=task.classes, first_output=0, y=t.y + i * k, y_test=t.y_test + i * k
                    )
                    for i, t in enumerate(split)
                ]
            )
            masked = (
                []
                if shared
                else [
                    t._replace(name=f"{t.name} masked", first_output=i * k)
                    for i, t in enumerate(split)
                ]
            )
        model = fresh_network(profile, seed, max(t.outputs.stop for t in [task, *watch]))
        seen = watch if arm.curriculum == "last" else [*watch, *masked]
        history = fit(model, task, recipe, None, seed, seen, epochs(f"seed {seed}  {arm.name}"))
        row = _row(profile, arm, seed, NO_LINEAGE, model, watch, realised=0.0)
        return {"row": row, "accuracy": [{"round": 0, **r} for r in history.accuracy]}


# --- all of them ----------------------------------------------------------------------------------


class Job(NamedTuple):
    """One product still to be made. kind: task1, maps, filters, overlap or run; what: the layer's
    or the arm's name."""

    kind: str
    seed: int
    what: str = ""
    again: bool = False

    def __str__(self) -> str:
        return f"seed {self.seed}  {self.what or self.kind}"


def missing_arms(profile: Profile, seed: int) -> list[Arm]:
    """Arms of a seed with no row under any lineage (some arms are asked for on a few seeds
    only)."""
    shelf = store(profile)
    return [
        arm
        for arm in arms(profile)
        if (arm.seeds is None or seed in parse_seeds(arm.seeds))
        and not shelf.branches("run", run_key(arm, profile, seed))
    ]


def jobs(profile: Profile, kind: str, show: int | None = None) -> list[Job]:
    """What is still missing of a kind, in the profile's order. A seed whose rows are all there
    needs no checkpoint, maps or filters; `show` names a seed whose products are wanted all the
    same, to be looked at."""
    shelf, found = store(profile), []
    for seed in profile.seed_list:
        missing = [a for a in missing_arms(profile, seed) if a.curriculum == "sequence"]
        compared = not profile.arms or shelf.has("overlap", overlap_key(profile, seed))
        sighted = (
            any(a.options.get("ranking", "random") not in SIGHTLESS for a in missing)
            or not compared
        )
        rows = shelf.has("task1_rows", task1_key(profile, seed))
        if kind == "task1" and (missing or seed == show or not compared or not rows):
            if not shelf.has("task1", task1_key(profile, seed), ".pt"):
                found.append(Job(kind, seed))
        if (
            kind == "maps"
            and (sighted or seed == show)
            and not shelf.has("maps", maps_key(profile, seed), ".npz")
        ):
            found.append(Job(kind, seed))
        if kind == "filters" and (sighted or seed == show):
            # deep layers take longest, so that the last job to finish is a short one
            found += [
                Job(kind, seed, layer)
                for layer in reversed(layer_names(profile))
                if not shelf.has("filters", filters_key(profile, seed, layer), ".npz")
            ]
        if kind == "overlap" and not compared:
            found.append(Job(kind, seed))
        if kind == "run":
            found += _run_jobs(profile, seed)
    return found


def _run_jobs(profile: Profile, seed: int) -> list[Job]:
    """Missing arms, and on a checkpoint whose lineage is new its reference arms, so that new rows
    have a pair."""
    shelf, missing = store(profile), missing_arms(profile, seed)
    found = [Job("run", seed, arm.name) for arm in missing]
    if any(arm.curriculum == "sequence" for arm in missing):
        lineage = task1(profile, seed)["lineage"]
        for arm in arms(profile):
            have = shelf.branches("run", run_key(arm, profile, seed))
            reference = (
                arm.options.get("ranking", arm.method) in REFERENCES
                and arm.curriculum == "sequence"
            )
            if reference and have and lineage not in have:
                found.append(Job("run", seed, arm.name, again=True))
    return found


def do(job: Job, profile: Profile) -> None:
    """Make one product (or read it, if it was made meanwhile)."""
    if job.kind == "task1":
        task1(profile, job.seed)
        task1_rows(profile, job.seed)
    elif job.kind == "maps":
        maps(profile, job.seed)
    elif job.kind == "filters":
        filters(profile, job.seed, job.what)
    elif job.kind == "overlap":
        overlap(profile, job.seed)
    else:
        run(next(a for a in arms(profile) if a.name == job.what), job.seed, profile, job.again)


def fulfil(todo: Sequence[Job], profile: Profile, workers: int | None = None) -> None:
    """Do all jobs side by side; progress goes to the output and into `<results>/log.txt` (see
    `lib.pool`), after a line that says which paths this machine gets."""
    if todo:
        device = default_device()
        pool.say(
            f"on {device.type}: training in {resolve_precision(profile.recipe.precision, device)}, "
            f"{'Triton' if use_triton(device) else 'PyTorch'} kernels, training steps "
            f"{'recorded as CUDA graphs' if recorder(device) else 'not recorded'}"
        )
    pool.side_by_side(
        todo, partial(do, profile=profile), results_dir(profile.name) / "log.txt", workers
    )


def collect(profile: Profile) -> dict[str, list[dict]]:
    """All tables of a profile from the rows in its store: every seed found there whose key is the
    profile's today, not just the seeds of this run; tuning seeds stay out. Tables: runs, accuracy,
    trajectory, masks, timing."""
    tables: dict[str, list[dict]] = {
        name: [] for name in ("runs", "accuracy", "trajectory", "masks", "timing")
    }
    shelf, wanted = store(profile), {}
    for seed in sorted({m["key"]["seed"] for _, m in shelf.metas("run")} | set(profile.seed_list)):
        if seed < FIRST_TUNING_SEED or seed in profile.seed_list:
            for place, arm in enumerate(arms(profile)):
                wanted[digest(run_key(arm, profile, seed))] = place, arm.name
    found = []
    for path, meta in shelf.metas("run"):
        if (hit := wanted.get(digest(meta["key"]))) is not None:
            found.append((meta["key"]["seed"], hit[0], meta["branch"], hit[1], path, meta))
    for seed, _, lineage, arm, path, meta in sorted(found, key=lambda f: f[:3]):
        product = shelf.read(path)
        run_id = f"{arm}/{seed}/{lineage}"
        options = meta["key"]["options"]
        how = {k: options.get(k, usual) for k, usual in (("rule", "turns"), ("scope", "weights"))}
        tables["runs"].append(
            {
                "profile": profile.name,
                "setting": profile.setting,
                "arm": arm,
                **product["row"],
                **(how if product["row"]["method"] == "freeze" else {}),
            }
        )
        for name, rows in product.items():
            if name != "row":
                tables.setdefault(name, []).extend(
                    {"run": run_id, "arm": arm, "seed": seed, "lineage": lineage, **row}
                    for row in rows
                )
        tables["timing"].append(
            {
                "run": run_id,
                "kind": "run",
                "seconds": meta["seconds"],
                "made": meta["made"],
                "commit": meta["commit"],
                "dirty": meta["dirty"],
                "processor": meta["processor"],
                "cores": meta["cores"],
                "torch": meta["versions"].get("torch"),
                "device": meta.get("device"),
                "precision": meta.get("precision"),
            }
        )
    return tables


def calibrated(profile: Profile) -> list[Profile]:
    """The settings this profile reports beside its own: task 1 alone, on tuning seeds, kept in this
    profile's store."""
    wanted = profile.calibration
    return [
        load(name, wanted.seeds, profile.data.source).model_copy(
            update={"name": profile.name, "arms": ()}
        )
        for name in wanted.profiles
    ]


def calibration(profile: Profile) -> list[dict]:
    """Rows {setting, about, precision, seed, acc1_before, acc2_before} of the calibration runs,
    made if missing."""
    rows = []
    for setting in calibrated(profile):
        fulfil(jobs(setting, "task1"), setting)
        for seed in setting.seed_list:
            before = task1_rows(setting, seed)["before"]
            rows.append(
                {
                    "setting": setting.setting,
                    "about": setting.about,
                    "precision": setting.recipe.precision,
                    "seed": seed,
                    **{f"acc{k}_before": v for k, v in enumerate(before.values(), 1)},
                }
            )
    return rows


# --- the shard command ----------------------------------------------------------------------------


def complete(profile: Profile, show: int | None = None, workers: int | None = None) -> None:
    """Everything the profile's seeds still lack: checkpoints, class maps, visualizations, overlaps,
    then runs."""
    for kind in ("task1", "maps", "filters", "overlap", "run"):
        fulfil(jobs(profile, kind, show), profile, workers)


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m lib.study --profile paper --seeds 1-10 --shard 2/4`: a part of the runs, anywhere,
    no notebooks."""
    parser = argparse.ArgumentParser(prog="python -m lib.study", description=main.__doc__)
    parser.add_argument("--profile", required=True)
    parser.add_argument("--seeds", help="such as 1-10; the profile's own if not given")
    parser.add_argument("--data", help="a data source in place of the profile's")
    parser.add_argument(
        "--shard", default="1/1", help="I/N: the I-th of N parts; whole seeds, dealt in turn"
    )
    parser.add_argument("--workers", type=int, help="processes side by side, one thread each")
    given = parser.parse_args(arguments)
    try:
        part, _, parts = given.shard.partition("/")
        if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
            raise ValueError(f"shard {given.shard!r}: expected I/N with I from 1 to N, such as 2/4")
        seeds = parse_seeds(given.seeds or load(given.profile).seeds)[int(part) - 1 :: int(parts)]
        if not seeds:
            raise ValueError(
                f"shard {given.shard} of {given.seeds} holds no seed: expected at most as many "
                "shards as "
                "seeds"
            )
        profile = load(given.profile, ",".join(map(str, seeds)), given.data)
        check(profile)
        complete(profile, workers=given.workers)
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        json.dumps({"profile": profile.name, "seeds": seeds, "rows": len(collect(profile)["runs"])})
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
