"""What a run is about to do and about how long it takes, said before it starts.

    say(forecast(load("paper", seeds="1-5")))

Times are those of earlier runs of the profile on a device like this one (a processor or a GPU):
here, else in the published record."""

import pandas as pd

from lib.precision import default_device
from lib.study.engine import default_workers
from lib.study.jobs import PRODUCTS
from lib.study.profile import ROOT, Profile
from lib.study.store import rows


def forecast(profile: Profile, workers: int | None = None) -> str:
    """One line: seeds, runs still to do, hours, what would make it less."""
    missing = {seed: _missing(profile, seed) for seed in profile.seed_list}
    todo = [arm for arms in missing.values() for arm in arms]
    seeds = len(profile.seed_list)
    many = f"{seeds} seed{'s' * (seeds > 1)}"
    head = f"profile {profile.name}: {many}, {len(todo)} runs of arms to do"
    if not todo:
        return head
    side, seconds = min(default_workers(workers), len(todo)), _seconds(profile.name)
    if seconds.empty:
        took = "how long they take is not known"
    else:
        each = [seconds.get(arm, seconds.median()) for arm in todo]
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


def _missing(profile: Profile, seed: int) -> list[str]:
    """Arms whose row a seed lacks. Reference arms due on a new checkpoint are not counted: to know
    them it would have to be trained."""
    run = PRODUCTS["run"]
    return [arm for arm in run.parts(profile, seed) if not run.there(profile, seed, arm)]


def _restorable(profile: Profile, missing: dict[int, list[str]]) -> str:
    """A word on seeds that are published and have no row here."""
    folder, run = ROOT / "results/published" / profile.name / "runs", PRODUCTS["run"]
    whole = [s for s, arms in missing.items() if len(arms) == len(run.parts(profile, s))]
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
