"""Products of the store -> the tables of a profile, as rows.

tables = collect(profile)                # runs, accuracy, trajectory, masks, timing, arms
before = task1(profile)                  # every seed's accuracies before round 2
"""

import json
from collections.abc import Mapping
from typing import Any

from lib import data as data_room
from lib import examination
from lib.study import products
from lib.study.arms import USUAL, table
from lib.study.jobs import fulfil
from lib.study.keys import digest
from lib.study.materials import class_names, images, tasks
from lib.study.products import store, task1_rows
from lib.study.profile import FIRST_TUNING_SEED, Profile, load
from lib.study.runs import run_key

SAID = {"ranking", "fraction", "trace", *USUAL}  # options with a column of their own, or none


def collect(profile: Profile) -> dict[str, list[dict]]:
    """All tables of a profile from the rows in its store: every seed found there whose key is the
    profile's today, not just the seeds of this run; tuning seeds stay out."""
    tables: dict[str, list[dict]] = {
        name: [] for name in ("runs", "accuracy", "trajectory", "masks", "timing")
    }
    shelf = store(profile)
    for seed, place, lineage, path, meta in _rows_of_today(profile):
        product, arm = shelf.read(path), profile.arms[place].name
        run_id, options = f"{arm}/{seed}/{lineage}", meta["key"]["options"]
        how = {k: options.get(k, usual) for k, usual in USUAL.items()}
        tables["runs"].append(
            {
                "profile": profile.name,
                "setting": profile.setting,
                "arm": arm,
                **product["row"],
                **(how if product["row"]["method"] == "freeze" else {}),
                **_other_options(options),
                **{f"buffer_{k}": n for row in product.get("memory", ()) for k, n in row.items()},
            }
        )
        for name, rows in product.items():
            if name != "row":
                tables.setdefault(name, []).extend(
                    {"run": run_id, "arm": arm, "seed": seed, "lineage": lineage, **row}
                    for row in rows
                )
        tables["timing"].append({"run": run_id, "kind": "run", **_cost(meta)})
    return {**tables, "arms": table(profile)}


def _other_options(options: Mapping[str, Any]) -> dict[str, str]:
    """What sets an arm apart beside the columns of its own, such as a draw or a strength: a column
    only the rows that need it have, so that arms alike in all others are told apart."""
    other = {k: v for k, v in options.items() if k not in SAID}
    return {"options": json.dumps(other, sort_keys=True)} if other else {}


def _rows_of_today(profile: Profile) -> list[tuple]:
    """(seed, place of the arm, lineage, path, meta) of every row, in that order."""
    shelf, wanted = store(profile), {}
    metas = list(shelf.metas("run"))
    for seed in sorted({meta["key"]["seed"] for _, meta in metas} | set(profile.seed_list)):
        if seed < FIRST_TUNING_SEED or seed in profile.seed_list:
            for place, arm in enumerate(profile.arms):
                wanted[digest(run_key(profile, seed, arm.name))] = place
    found = []
    for path, meta in metas:
        if (place := wanted.get(digest(meta["key"]))) is not None:
            found.append((meta["key"]["seed"], place, meta["branch"], path, meta))
    return sorted(found, key=lambda row: row[:3])


def _cost(meta: dict) -> dict:
    """What a row cost, and where."""
    return {
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


# --- before round 2 -------------------------------------------------------------------------------


def data_card(profile: Profile, seed: int) -> list[dict]:
    """What the images of each task are, and how many of each."""
    return [
        {
            "task": t.name,
            "classes": len(t.classes),
            "training images": len(t.x),
            "test images": len(t.x_test),
            "size": "x".join(map(str, t.x.shape[1:])),
            "outputs": f"{t.outputs.start}-{t.outputs.stop - 1}",
        }
        for t in tasks(profile, seed)
    ]


def duplicates(profile: Profile, seed: int) -> list[dict]:
    """Pairs of exactly equal training and test images."""
    names = images(profile).names
    return [
        {"task": t.name, "class": names[t.classes[int(t.y_test[j])]], "train": i, "test": j}
        for t in tasks(profile, seed)
        for i, j in data_room.duplicates(t.x, t.x_test)
    ]


def accuracy_task1(profile: Profile) -> list[dict]:
    """Every seed's test accuracies after every epoch of round 1."""
    return [
        {"seed": seed, "lineage": found["lineage"], "round": 1, **row}
        for seed in profile.seed_list
        for found in [task1_rows(profile, seed)]
        for row in found["accuracy"]
    ]


def task1(profile: Profile) -> list[dict]:
    """Every seed's accuracies before round 2."""
    return [
        {
            "setting": profile.setting,
            "data": found["data"],
            "seed": seed,
            "lineage": found["lineage"],
            **{f"acc{k}_before": v for k, v in enumerate(found["before"].values(), 1)},
        }
        for seed in profile.seed_list
        for found in [task1_rows(profile, seed)]
    ]


def per_class(profile: Profile) -> list[dict]:
    """Every seed's accuracy on each class of task 1 before round 2."""
    return [
        {"class": name, "seed": seed, "accuracy": row[k] / sum(row)}
        for seed in profile.seed_list
        for k, (name, row) in enumerate(
            zip(
                class_names(profile, tasks(profile, seed)[0]),
                task1_rows(profile, seed)["confusion"]["task1"],
            )
        )
    ]


def pairings(profile: Profile) -> list[dict]:
    """What acc2 before round 2 would be under other pairings of classes with outputs; one row a
    seed."""
    return [
        {
            "seed": seed,
            **examination.pairings(task1_rows(profile, seed)["confusion"]["task2"]),
        }
        for seed in profile.seed_list
    ]


def class_maps(profile: Profile, seed: int) -> list[dict]:
    """From how many images each class map of a seed was made."""
    names, found = class_names(profile, tasks(profile, seed)[0]), products.maps(profile, seed)
    return [
        {
            "seed": seed,
            "class": name,
            "images": int(used),
            "correctly classified": bool(correct),
            "mean of the map": float(m.mean()),
        }
        for name, used, correct, m in zip(names, found["used"], found["correct"], found["maps"])
    ]


def overlap(profile: Profile) -> list[dict]:
    """Every seed's overlaps of the filters chosen by MSE with those chosen otherwise."""
    return [
        {"seed": found["seed"], "lineage": found["lineage"], **row}
        for seed in profile.seed_list
        for found in [products.overlap(profile, seed)]
        for row in found["overlap"]
    ]


# --- calibration ----------------------------------------------------------------------------------


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
        fulfil(setting, "task1", "task1_rows")
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
