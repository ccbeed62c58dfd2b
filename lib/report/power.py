"""What could this study find, and how often would it be wrong? No torch.

    table(runs)                          # claim, spread, n, difference, power
    sentence(table(runs), seeds=20)      # the same for a reader
    made_up(runs, studies=200, seeds=12) # the verdicts of studies in which nothing is true

Power is of the verdict *supported* in PROTOCOL.md, section 5, at the strictest step of its family's
Holm adjustment; made-up studies go through the very claims a study goes through."""

import numpy as np
import pandas as pd
from scipy import stats

from lib.report.claims import Claim, Tables, claims_in, levels
from lib.report.statistics import ALPHA, MARGIN, average, pick

SEEDS = (5, 10, 20)  # for which power is told
DIFFERENCES = (0.01, 0.02)  # one point and two
STEPS = 2_000  # of the sum over possible measured spreads
COLUMNS = ["setting", "claim", "measured", "spread", "level", "n", "difference", "power"]


def power(
    difference: float, spread: float, seeds: int, level: float, margin: float = MARGIN
) -> float:
    """The probability that a true difference is called *supported*: lower bound of its t interval
    above 0 and mean at least the margin.

    spread: standard deviation over seeds, taken as known; all in fractions of 1. The sum over equal
    slices of what the sample's own spread may be is exact to three digits."""
    slices = (np.arange(STEPS) + 0.5) / STEPS
    error = spread / np.sqrt(seeds)  # of the mean
    seen = error * np.sqrt(stats.chi2.ppf(slices, seeds - 1) / (seeds - 1))
    least = np.maximum(margin, stats.t.ppf((1 + level) / 2, seeds - 1) * seen)
    return float(stats.norm.sf(least, difference, error).mean())


def family(setting: str) -> list[Claim]:
    """The claims that share a Holm adjustment in a setting."""
    return [claim for claim in claims_in(setting) if claim.family_in(setting)]


def _values(runs: pd.DataFrame, claims: list[Claim]) -> dict[str, pd.Series]:
    """Claim -> one number for each seed, by the claims' own estimates."""
    none = pd.DataFrame()
    tables = Tables(runs.assign(average=average(runs)), none, none, none)
    return {claim.id: claim.estimate(tables, *claim.arms).dropna() for claim in claims}


def table(runs: pd.DataFrame) -> pd.DataFrame:
    """The power of every claim of the family, a row for each (claim, n, difference). spread: over
    the `measured` seeds of these runs; claims of which fewer than two are there are left out."""
    setting = runs["setting"].iloc[0]
    claims, rows = family(setting), []
    level = 1 - ALPHA / len(claims)
    for claim, values in _values(runs, claims).items():
        spread = values.std(ddof=1)
        for n in SEEDS if spread > 0 else ():
            for d in DIFFERENCES:
                found = [setting, claim, len(values), spread, level, n, d]
                rows.append([*found, round(power(d, spread, n, level), 4)])
    return pd.DataFrame(rows, columns=COLUMNS)


def sentence(found: pd.DataFrame, seeds: int = max(SEEDS), claim: str = "C2-random") -> str:
    """What so many seeds would find of a claim, by `table`; or that its spread is not known."""
    rows = found[(found["claim"] == claim) & (found["n"] == seeds)]
    if rows.empty:
        return (
            f"What {seeds} seeds would find cannot be said yet: fewer than two seeds have both "
            f"arms of {claim}."
        )
    first = rows.iloc[0]
    parts = [
        f"a true difference of {100 * row['difference']:.0f} point"
        f"{'s' * (row['difference'] > 0.01)} would be found with probability {row['power']:.2f}"
        for _, row in rows.iterrows()
    ]
    return (
        f"With {seeds} seeds and the spread measured here (s = {100 * first['spread']:.1f} points, "
        f"from {int(first['measured'])} seeds), {' and '.join(parts)} (one of just the margin, 1 "
        "point, can be found half of the time at most, since the mean must reach the margin)."
    )


# --- studies in which nothing is true -------------------------------------------------------------


def _arms(runs: pd.DataFrame, claims: list[Claim]) -> pd.DataFrame:
    """(seeds, (arm, measure)): acc1 and acc2 of every arm the claims look at, of seeds that have
    all from one checkpoint."""
    parts = [pick(runs, arm) for claim in claims for arm in claim.arms]
    rows = pd.concat(parts).drop_duplicates(["arm", "seed", "lineage"])
    each = {"index": ["seed", "lineage"], "columns": "arm", "values": ["acc1", "acc2"]}
    return rows.pivot_table(**each).dropna().groupby("seed").mean()


def nothing_true(runs: pd.DataFrame, studies: int, seeds: int, seed: int = 0) -> pd.DataFrame:
    """Rows of `studies` times `seeds` made-up seeds of the arms that the family's claims look at.

    Arms have one mean at each fraction, whatever their ranking; what is left of each seed is drawn
    from a normal distribution with these runs' own covariance over arms and both accuracies. Seed
    number i belongs to study i // seeds."""
    claims = family(runs["setting"].iloc[0])
    real = _arms(runs, claims)
    lines = runs.drop_duplicates("arm").set_index("arm")
    fraction = lines["fraction"].reindex(real.columns.get_level_values("arm")).to_numpy()
    measure = real.columns.get_level_values(0)
    mean = real.mean().groupby([measure, fraction]).transform("mean")
    draw = np.random.default_rng(seed)
    made = draw.multivariate_normal(mean, real.cov(), studies * seeds, method="svd")
    wide = pd.DataFrame(made, columns=real.columns).rename_axis("seed")
    long = wide.stack("arm", future_stack=True).reset_index().assign(lineage="made up")
    columns = ["setting", "method", "curriculum", "ranking", "fraction", "rule", "scope"]
    return long.join(lines[[c for c in columns if c in lines]], on="arm")


def made_up(runs: pd.DataFrame, studies: int, seeds: int, seed: int = 0) -> pd.DataFrame:
    """(studies, claims): the verdict of each claim of the family in studies in which nothing is
    true; see `nothing_true`."""
    setting = runs["setting"].iloc[0]
    claims = family(setting)
    values = _values(nothing_true(runs, studies, seeds, seed), claims)
    study = {name: x.groupby(x.index // seeds) for name, x in values.items()}
    found = []
    for i in range(studies):
        own = {name: groups.get_group(i) for name, groups in study.items()}
        level = levels(claims, own, setting)
        found.append({c.id: c.rule.verdict(own[c.id], level[c.id]) for c in claims})
    return pd.DataFrame(found)
