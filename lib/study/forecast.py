"""What a run is about to do and about how long it takes, said before it starts.

    say(forecast(load("paper", seeds="1-5")))

Times are those of earlier runs of the profile on a device like this one (a processor or a GPU):
here, else in the published record. What is examined needs networks trained again, as the arms whose
rows keep no weights: these are counted too, at the time of these arms."""

import pandas as pd

from lib.precision import default_device
from lib.study.engine import at_once
from lib.study.examined import WAYS
from lib.study.jobs import PRODUCTS, lacking
from lib.study.profile import ROOT, Profile
from lib.study.store import rows

TRAINED = ("run", "left", "retrained")  # kinds of products that go through round 2


def forecast(profile: Profile, workers: int | None = None) -> str:
    """One line: seeds, runs still to do, networks to train again, hours, what would make it
    less."""
    missing = {seed: _missing(profile, seed) for seed in profile.seed_list}
    todo = [product for products in missing.values() for product in products]
    runs = [part for kind, part in todo if kind == "run"]
    again = sum(len(_as_arms(*product)) for product in todo) - len(runs)
    seeds = len(profile.seed_list)
    many = f"{seeds} seed{'s' * (seeds > 1)}"
    head = f"profile {profile.name}: {many}, {len(runs)} runs of arms to do"
    if again:
        head += f", {again} network{'s' * (again > 1)} trained again to be examined"
    if not todo:
        return head
    side, seconds = min(at_once(workers, profile.engine), len(todo)), _seconds(profile.name)
    if seconds.empty:
        took = "how long they take is not known"
    else:
        arms = [arm for product in todo for arm in _as_arms(*product)]
        each = [seconds.get(arm, seconds.median()) for arm in arms]
        took = f"about {duration(sum(each) / side)} with {side} at a time, by earlier runs"
    fewer = f"; SEEDS={profile.seed_list[0]} asks for one seed" if seeds > 1 else ""
    return f"{head}, {took}{fewer}{_restorable(profile, missing)}"


def _seconds(name: str) -> pd.Series:
    """arm -> median seconds of one run on a device like this one; empty if none was timed."""
    try:
        timing = rows(name, "timing")
    except FileNotFoundError:
        return pd.Series(dtype=float)
    made_here = timing["device"].fillna("cpu").eq("cpu") == (default_device().type == "cpu")
    timing = timing[made_here]
    return timing.groupby(timing["run"].str.split("/").str[0])["seconds"].median()


def _missing(profile: Profile, seed: int) -> list[tuple[str, str]]:
    """(kind, part) of what a seed lacks that goes through round 2. Reference arms due on a new
    checkpoint are not counted: to know them it would have to be trained."""
    lacks = lacking(profile, seed)
    asked = ((kind, part) for kind in TRAINED for part in PRODUCTS[kind].parts(profile, seed))
    return [product for product in asked if product in lacks]


def _as_arms(kind: str, part: str) -> tuple[str, ...]:
    """The arms that making a product trains as: itself, or one after the other."""
    return WAYS if kind == "retrained" else (part,)


def _restorable(profile: Profile, missing: dict[int, list[tuple[str, str]]]) -> str:
    """A word on seeds that are published and have no row here."""
    folder = ROOT / "results/published" / profile.name / "runs"
    runs = {s: {("run", part) for part in PRODUCTS["run"].parts(profile, s)} for s in missing}
    whole = [seed for seed, lacks in missing.items() if runs[seed] <= set(lacks)]
    there = [seed for seed in whole if (folder / f"seed{seed}.jsonl").exists()]
    if not there:
        return ""
    return (
        f"; make restore {profile.asked} first puts in the published rows of {len(there)} "
        "of these seeds"
    )


def duration(seconds: float) -> str:
    """`40 s`, `25 min`, `20 h`."""
    for unit, size, least in (("h", 3600, 2 * 3600), ("min", 60, 90)):
        if seconds >= least:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
