"""Rows of the store -> the tables of a profile.

tables = collect(profile)                # runs, accuracy, trajectory, masks, timing, arms
"""

from lib.study.arms import USUAL, table
from lib.study.jobs import fulfil
from lib.study.keys import digest
from lib.study.products import store, task1_rows
from lib.study.profile import FIRST_TUNING_SEED, Profile, load
from lib.study.runs import run_key


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
