"""Rows -> numbers: pairs, intervals, tests, curves, and the rules of a verdict. No torch.

    differences = paired(runs, frozen_by("mse", 0.5), frozen_by("random", 0.5))  # one for each seed
    mean, low, high, n = interval(differences)

Accuracies, margins and estimates are fractions of 1, never points. A seed is the unit of every
interval and test; two arms of a seed are compared on the same task-1 checkpoint (`lineage`) only.
Sections are PROTOCOL.md's."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit  # Student's t; scipy.stats takes a second to import

ALPHA = 0.05  # of every test; intervals are at 1 - ALPHA unless Holm asks for more
MARGIN = 0.01  # one point: what a difference must reach to matter (section 5)
WIDEST, FEWEST = 0.05, 10  # C4: half-width of a prediction interval and seeds that allow a verdict
DOSES = (0.25, 0.5, 0.75)  # C1's fractions
EXACT, DRAWS = 20, 100_000  # sign flips: all of them up to so many seeds, else so many random ones

SCRATCH = "scratch"  # the lineage of arms that start from no checkpoint
Arm = str | Mapping  # an arm's display name, or the columns of `runs` that single it out
FINE_TUNE = {"method": "finetune", "curriculum": "sequence"}
JOINT = {"method": "finetune", "curriculum": "joint20"}
# what an arm's line means by leaving these out; options: all else it says off its defaults
USUAL = {"rule": "turns", "scope": "weights", "options": ""}


def frozen_by(ranking: str, fraction: float | None = None) -> dict:
    """The columns that single out freezing by a ranking at a fraction of the filters (None: at
    every fraction)."""
    return {
        "method": "freeze",
        "curriculum": "sequence",
        "ranking": ranking,
        **({} if fraction is None else {"fraction": fraction}),
    }


# --- seeds and pairs ------------------------------------------------------------------------------


def pick(runs: pd.DataFrame, arm: Arm) -> pd.DataFrame:
    """The rows of one arm.

    Columns of `USUAL` that it does not ask for have their usual value, as has every row that says
    nothing of them. Of arms alike in all of that (another draw of a random ranking, in a table that
    does not tell draws apart) the one the profile lists first is meant: an arm added later never
    joins another."""
    if isinstance(arm, str):
        return runs[runs["arm"] == arm]
    keep = np.ones(len(runs), bool)  # plain arrays: a study's claims pick arms a hundred times
    for column, value in {**USUAL, **arm}.items():
        if column in USUAL:
            said = runs[column].fillna(USUAL[column]) if column in runs else USUAL[column]
            keep &= np.asarray(said == value)
        elif column == "fraction":
            keep &= np.isclose(runs[column].to_numpy(float), value)
        else:
            keep &= (runs[column] == value).to_numpy(bool)
    found = runs[keep]
    if found["arm"].nunique() < 2 and found["fraction"].nunique(dropna=False) < 2:
        return found
    parts = [part for _, part in found.groupby("fraction", dropna=False)]
    return pd.concat([p[p["arm"] == _first_listed(p)] for p in parts]) if parts else found


def _first_listed(rows: pd.DataFrame) -> str:
    """Of the arms in these rows, the one listed first. Rows of one seed stand in the profile's
    order, whatever other seeds each arm has; of arms that share no seed, the one with most."""
    names = rows["arm"].unique()
    if len(names) == 1:
        return names[0]
    once = rows[["arm", "seed"]].drop_duplicates()
    once = once.assign(place=once.groupby("seed").cumcount())
    last, seeds = (once.groupby("arm")["place"].agg(how) for how in ("max", "size"))
    return min(names, key=lambda name: (last[name], -seeds[name]))  # of equals the first


def checkpoints(runs: pd.DataFrame) -> pd.DataFrame:
    """The checkpoints fine-tuning started from: its rows with acc1_before, one for each (seed,
    lineage). Empty without them."""
    rows = pick(runs, FINE_TUNE).reindex(columns=runs.columns.union(["acc1_before"], sort=False))
    return rows.dropna(subset=["acc1_before"]).drop_duplicates(["seed", "lineage"])


def rows_of(runs: pd.DataFrame, arm: Arm, table: pd.DataFrame) -> pd.DataFrame:
    """An arm's rows in another table that tells arms by their display name (accuracy, trajectory).
    Empty where that table is."""
    return table[table["arm"].isin(set(pick(runs, arm)["arm"]))] if len(table) else table


def by_checkpoint(rows: pd.DataFrame, column: str) -> pd.Series:
    """One number for each (seed, lineage): the mean over draws."""
    return rows.groupby(["seed", rows["lineage"].astype(str)])[column].mean()


def by_seed(rows: pd.DataFrame, column: str) -> pd.Series:
    """One number for each seed: the mean over its lineages."""
    return by_checkpoint(rows, column).groupby("seed").mean().dropna()


def paired(runs: pd.DataFrame, arm_a: Arm, arm_b: Arm, column: str = "acc1") -> pd.Series:
    """Differences a - b of a column, one for each seed (index) that has both arms (section 6).

    Rows are paired on (seed, lineage) and averaged within a seed; where just one of the arms starts
    from no checkpoint, on the seed alone. arm_a, arm_b: display names or `frozen_by(...)`. Empty if
    nothing pairs."""
    a, b = (by_checkpoint(pick(runs, arm), column) for arm in (arm_a, arm_b))
    scratch_a, scratch_b = (SCRATCH in x.index.get_level_values("lineage") for x in (a, b))
    if scratch_a != scratch_b:
        a, b = a.groupby("seed").mean(), b.groupby("seed").mean()
    return (a - b).dropna().groupby("seed").mean()


def average(runs: pd.DataFrame) -> pd.Series:
    """Mean accuracy over all tasks, row by row: (acc1 + acc2) / 2 with two. In [0, 1]."""
    return runs.filter(regex=r"^acc\d+$").mean(axis=1)


def tasks_in(runs: pd.DataFrame) -> int:
    """How many tasks were learned one after the other; two where nothing tells."""
    return max(2, len(runs.filter(regex=r"^acc\d+$").columns))


def beside_paper(runs: pd.DataFrame) -> bool:
    """Whether the paper's numbers can stand beside these: the same data set, and two tasks."""
    return len(runs) > 0 and runs["data"].iloc[0] == "cifar100" and tasks_in(runs) == 2


def retained(acc1, acc1_before, classes_per_task: int = 10):
    """(acc1 - chance) / (acc1 before - chance), chance = 1 / classes of the task (section 2). 1 =
    all is left, 0 = chance, below 0 = worse than chance; NaN where nothing above chance was there.
    Numbers, arrays or Series."""
    chance = 1 / classes_per_task
    before = np.where(np.asarray(acc1_before, float) > chance, acc1_before, np.nan) - chance
    return (acc1 - chance) / before


def gained(acc2, acc2_before):
    """acc2 - acc2 before round 2, in [-1, 1] (section 2). Numbers, arrays or Series."""
    return acc2 - acc2_before


def in_common(iou):
    """The share of filters that are the same in two choices of equally many, from their overlap
    (IoU): both / either = iou, so both / count = 2 iou / (1 + iou). In [0, 1]."""
    return 2 * iou / (1 + iou)


# --- intervals and tests --------------------------------------------------------------------------


def _finite(values) -> np.ndarray:
    x = np.asarray(values, float).ravel()
    return x[~np.isnan(x)]


def _t_interval(values, level: float, spread) -> tuple[float, float, float, int]:
    x = _finite(values)
    n, mean = len(x), float(x.mean()) if len(x) else np.nan
    if n < 2:
        return mean, np.nan, np.nan, n
    half = float(stdtrit(n - 1, (1 + level) / 2) * x.std(ddof=1) * spread(n))
    return mean, mean - half, mean + half, n


def interval(values, level: float = 0.95) -> tuple[float, float, float, int]:
    """Mean over seeds and its t interval (section 6): (mean, low, high, n). NaN values do not
    count; the bounds are NaN below n = 2."""
    return _t_interval(values, level, lambda n: np.sqrt(1 / n))


def prediction_interval(values, level: float = 0.95) -> tuple[float, float, float, int]:
    """Where one more seed would fall (C4): mean +- t s sqrt(1 + 1/n). Returned as by `interval`."""
    return _t_interval(values, level, lambda n: np.sqrt(1 + 1 / n))


def t_test(values) -> float:
    """Two-sided p of the mean being 0, the test whose intervals `interval` gives; NaN below n =
    2."""
    x = _finite(values)
    if len(x) < 2:
        return np.nan
    if np.ptp(x) == 0:  # no spread to divide by
        return float(x[0] == 0)
    statistic = x.mean() / (x.std(ddof=1) / np.sqrt(len(x)))
    return float(2 * stdtr(len(x) - 1, -abs(statistic)))


def sign_flip(differences) -> float:
    """Two-sided p of the sign-flip test (section 6): the share of all 2^n choices of signs whose
    |mean| is at least the observed one. Exact up to n = 20 (never below 2 / 2^n), by 100,000 random
    choices beyond; NaN without values."""
    x = _finite(differences)
    if len(x) == 0:
        return np.nan
    # equal sums of fractions differ in their last bits: a little slack counts them as equal
    least = abs(x.sum()) - 1e-9 * np.abs(x).sum()
    if len(x) > EXACT:
        signs = np.random.default_rng(0).choice([-1.0, 1.0], (DRAWS, len(x)))
        return float((np.sum(np.abs(signs @ x) >= least) + 1) / (DRAWS + 1))
    sums = x[:1]  # the first sign stays: the other half of the choices are these negated
    for d in x[1:]:
        sums = np.concatenate([sums - d, sums + d])
    return float(np.mean(np.abs(sums) >= least))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm-adjusted p values, in the order given. A NaN (a test that could not be made) stays NaN
    and still counts in the family: its size was fixed before the run."""
    from statsmodels.stats.multitest import multipletests

    p = np.asarray(p_values, float)
    adjusted = multipletests(np.where(np.isnan(p), 1.0, p), ALPHA, "holm")[1]
    return np.where(np.isnan(p), np.nan, adjusted)


def holm_levels(p_values: Sequence[float], alpha: float = ALPHA) -> np.ndarray:
    """The interval level each of m tests gets from its Holm step.

    In the order of their p values, the k-th test (k = 0, 1, ...) is held against alpha / (m - k),
    so its interval has level 1 - alpha / (m - k). Holm stops at the first p above that; this test
    and all after it get the level of that step. With p from `t_test`, an interval then excludes 0
    exactly if the Holm-adjusted p is at most alpha."""
    p = np.where(np.isnan(p_values), 1.0, np.asarray(p_values, float))
    k, order, levels = np.arange(len(p)), np.argsort(p, kind="stable"), np.empty(len(p))
    steps = alpha / (len(p) - k)
    missed = np.flatnonzero(p[order] > steps)
    levels[order] = 1 - steps[np.minimum(k, missed[0])] if len(missed) else 1 - steps
    return levels


# --- curves and doses -----------------------------------------------------------------------------


def _knots(curve) -> tuple[np.ndarray, np.ndarray]:
    points = np.asarray(curve, float).reshape(-1, 2)
    acc2, place = np.unique(points[:, 0], return_inverse=True)
    return acc2, np.bincount(place, points[:, 1]) / np.bincount(place)


def curve_distance(curve_a, curve_b) -> float:
    """Mean vertical distance a - b in acc1 of two curves over their common range of acc2 (C2b), in
    [-1, 1].

    Each curve is points (acc2, acc1) in any order: sorted by acc2, equal acc2 averaged, joined by
    straight lines. The integral is exact (trapezoids over the knots of both), nothing is
    extrapolated. Where the ranges share a single acc2, the distance there; NaN where they share
    nothing."""
    (xa, ya), (xb, yb) = _knots(curve_a), _knots(curve_b)
    if not len(xa) or not len(xb):
        return np.nan
    low, high = max(xa[0], xb[0]), min(xa[-1], xb[-1])
    if low > high:
        return np.nan
    x = np.unique(np.clip(np.concatenate([xa, xb]), low, high))
    gap = np.interp(x, xa, ya) - np.interp(x, xb, yb)
    return float(np.trapezoid(gap, x) / (high - low)) if high > low else float(gap[0])


def curves(rows: pd.DataFrame, acc2: str, acc1: str) -> dict[tuple, np.ndarray]:
    """(seed, lineage) -> its points (acc2, acc1)."""
    if rows.empty:
        return {}
    points = rows[[acc2, acc1]].to_numpy()
    places = rows.groupby(["seed", rows["lineage"].astype(str)]).indices
    return {key: points[place] for key, place in sorted(places.items())}


def arm_curves(runs: pd.DataFrame, arm: Mapping) -> dict[tuple, np.ndarray]:
    """(seed, lineage) -> points (acc2, acc1), one for each fraction of an arm such as
    `frozen_by("mse")`. Nothing and all frozen are left out: there every ranking is the same."""
    rows = pick(runs, arm)
    rows = rows[(rows["fraction"] > 0) & (rows["fraction"] < 1)]
    keys = [rows["seed"], rows["lineage"].astype(str), rows["fraction"]]
    return curves(rows.groupby(keys)[["acc2", "acc1"]].mean().reset_index(), "acc2", "acc1")


def curve_distances(curves_a: Mapping, curves_b: Mapping) -> pd.Series:
    """`curve_distance` for each seed, over checkpoints that have both curves; NaN for a seed
    without common range."""
    found = {
        key: curve_distance(curve, curves_b[key])
        for key, curve in curves_a.items()
        if key in curves_b
    }
    index = (
        pd.MultiIndex.from_tuples(found, names=["seed", "lineage"])
        if found
        else pd.Index([], name="seed")
    )
    return pd.Series(list(found.values()), index, dtype=float).groupby("seed").mean()


def heights(
    runs: pd.DataFrame, trajectory: pd.DataFrame, control: str = "interpolation"
) -> dict[str, pd.Series]:
    """arm -> its height in acc1 over a control that fine-tuning recorded (the straight line of
    weights) at equal acc2, one number for each seed; seeds whose acc2 the control does not reach
    are left out. Arms that start from no checkpoint have none."""
    rows = rows_of(runs, FINE_TUNE, trajectory)
    lines = curves(rows[rows["control"] == control], "task2", "task1") if len(rows) else {}
    arms = {arm: curves(part, "acc2", "acc1") for arm, part in runs.groupby("arm", sort=False)}
    return {arm: curve_distances(points, lines).dropna() for arm, points in arms.items()}


def doses(runs: pd.DataFrame, arm: Mapping, column: str) -> pd.DataFrame:
    """(seeds, fractions): a column at 25, 50 and 75 % of an arm such as `frozen_by("mse")`, for
    the seeds that have all three."""
    parts = {f: by_checkpoint(pick(runs, {**arm, "fraction": f}), column) for f in DOSES}
    return pd.DataFrame(parts).dropna().groupby("seed").mean()


def slopes(table: pd.DataFrame) -> pd.Series:
    """Least-squares slope of each row of `doses` (C1), in accuracy per unit of fraction (0 to 1
    frozen)."""
    x = np.asarray(table.columns, float) - np.mean(table.columns)
    return table @ (x / (x**2).sum())


def page_l(table: pd.DataFrame, falling: bool = False) -> tuple[float, float]:
    """Page's L and its p for a rise along the columns of `doses` (C1), or for a fall; one-sided by
    its nature. NaN below two seeds."""
    if len(table) < 2:
        return np.nan, np.nan
    from scipy.stats import page_trend_test

    found = page_trend_test(table.to_numpy()[:, ::-1] if falling else table.to_numpy())
    return float(found.statistic), float(found.pvalue)


def joint_scores(
    runs: pd.DataFrame, accuracy: pd.DataFrame, joint: Arm = JOINT
) -> dict[str, pd.Series]:
    """Joint training read three ways (C3), mean over tasks, one number for each seed: "a" after the
    last epoch over all outputs, as in the paper; "b" masked to each task's own; "c" as "a" after 1
    / tasks of the epochs (as many steps as the rounds have together). Empty without such an arm."""
    rows = rows_of(runs, joint, accuracy)
    if rows.empty:
        return {}
    masked = rows["task"].str.endswith(" masked")
    last = rows.groupby("seed")["epoch"].transform("max")
    equal_steps = rows["epoch"] == last // rows["task"][~masked].nunique()
    parts = {
        "a": ~masked & (rows["epoch"] == last),
        "b": masked & (rows["epoch"] == last),
        "c": ~masked & equal_steps,
    }
    return {name: rows[part].groupby("seed")["accuracy"].mean() for name, part in parts.items()}


def ranks(runs: pd.DataFrame, arm: Arm, others: Sequence[Arm]) -> pd.Series:
    """Rank of an arm by average accuracy among itself and the others (C2c), one number for each
    seed that has all of those the table has: 1 = highest, ties share their mean rank. Empty without
    the arm, or without another to rank it among."""
    runs = runs.assign(average=average(runs))
    columns = [by_checkpoint(pick(runs, each), "average") for each in (arm, *others)]
    table = pd.DataFrame(dict(enumerate(columns)))
    table = table.dropna(axis=1, how="all").dropna().round(12)  # equal averages stay equal
    if 0 not in table or table.shape[1] < 2:
        return pd.Series(dtype=float)
    return table.rank(axis=1, ascending=False)[0].groupby("seed").mean()


# --- the accuracy matrix --------------------------------------------------------------------------


def accuracy_matrix(runs: pd.DataFrame, accuracy: pd.DataFrame, arm: Arm) -> pd.DataFrame:
    """R[i, j] of section 4: accuracy on task j (columns task1, task2, ...) after round i, one line
    for each (seed, round) of an arm that starts from a checkpoint; the mean over its lineages.

    Round 1 is the checkpoint (`acc1_before`, ...), the last round the row itself (`acc1`, ...), and
    rounds between are their last epoch in the table of accuracies. Empty without such rows."""
    rows = pick(runs, arm)
    tasks = [c for c in rows if c.startswith("acc") and c[3:].isdigit() and rows[c].notna().any()]
    columns = {c: f"task{c[3:]}" for c in sorted(tasks, key=lambda c: int(c[3:]))}
    if rows.empty or "acc1_before" not in rows or rows["acc1_before"].isna().all():
        index = pd.MultiIndex.from_tuples([], names=["seed", "round"])
        return pd.DataFrame(columns=list(columns.values()), index=index, dtype=float)
    before = rows[["seed"]].assign(**{t: rows[f"{c}_before"] for c, t in columns.items()})
    after = rows[["seed"]].assign(**{t: rows[c] for c, t in columns.items()})
    parts = [before.assign(round=1), after.assign(round=len(columns))]
    between = rows_of(runs, arm, accuracy)
    if len(between):
        between = between[between["round"].between(2, len(columns) - 1)]
        keys = ["seed", "lineage", "round"]
        last = between[between["epoch"] == between.groupby(keys)["epoch"].transform("max")]
        parts.append(last.pivot(index=keys, columns="task", values="accuracy").reset_index())
    table = pd.concat(parts)
    return table.groupby(["seed", "round"])[list(columns.values())].mean()


def forgetting(matrix: pd.DataFrame) -> pd.Series:
    """What is lost of each task but the last since its best round, the mean over them (Chaudhry et
    al. 2018), one number for each seed. matrix: see `accuracy_matrix`."""
    return _over_tasks(matrix, lambda r, j: r[: len(r) - 1, j].max() - r[-1, j])


def backward_transfer(matrix: pd.DataFrame) -> pd.Series:
    """R[T, j] - R[j, j], the mean over every task j but the last (Lopez-Paz & Ranzato 2017), one
    number for each seed: below 0 where learning on has harmed. matrix: see `accuracy_matrix`."""
    return _over_tasks(matrix, lambda r, j: r[-1, j] - r[j, j])


def forward_transfer(matrix: pd.DataFrame, classes_per_task: int = 10) -> pd.Series:
    """R[j - 1, j] - chance, the mean over every task j but the first, one number for each seed:
    above 0 where what was learned before already helps on a task not yet seen.

    Lopez-Paz & Ranzato (2017) subtract the accuracy of the untrained network, which the rows do not
    hold; here it is chance, 1 / classes of the task. With a head for each task, task j's has never
    been trained by then, and what is left of the number is luck of its start. matrix: see
    `accuracy_matrix`."""
    chance = 1 / classes_per_task
    return _over_tasks(matrix, lambda r, j: r[j, j + 1] - chance)


def _over_tasks(matrix: pd.DataFrame, change) -> pd.Series:
    rounds = {seed: part.sort_index().to_numpy() for seed, part in matrix.groupby("seed")}
    found = {s: np.mean([change(r, j) for j in range(r.shape[1] - 1)]) for s, r in rounds.items()}
    return pd.Series(found, dtype=float).rename_axis("seed")


# --- verdicts -------------------------------------------------------------------------------------


def _undecided(*bounds: float) -> bool:
    return bool(np.isnan(bounds).any())


def verdict_difference(
    low: float, high: float, estimate: float, low90: float, high90: float, margin: float = MARGIN
) -> str:
    """Section 5, a difference. supported: low above 0 and estimate at least the margin;
    contradicted: high below the margin; else inconclusive; "(equivalent)" is added where the 90 %
    interval lies within the margin on both sides. Bounds are NaN below two seeds: undecided."""
    if _undecided(low, high):
        return "undecided (n = 1)"
    low, high, estimate, low90, high90 = (
        round(x, 12) for x in (low, high, estimate, low90, high90)
    )  # .31 - .3 is .01
    word = (
        "supported"
        if low > 0 and estimate >= margin
        else "contradicted"
        if high < margin
        else "inconclusive"
    )
    return word + (" (equivalent)" if -margin <= low90 and high90 <= margin else "")


def verdict_threshold(low: float, high: float, threshold: float, above: bool = True) -> str:
    """Section 5, a threshold. supported: the 95 % interval lies wholly on the claimed side;
    contradicted: wholly on the other; else inconclusive. Bounds are NaN below two seeds:
    undecided."""
    if _undecided(low, high):
        return "undecided (n = 1)"
    over, under = round(low, 12) > threshold, round(high, 12) < threshold
    return (
        "supported"
        if (over if above else under)
        else "contradicted"
        if over or under
        else "inconclusive"
    )


def verdict_prediction(low: float, high: float, n: int, value: float) -> str:
    """Section 5, C4. supported: the paper's number lies in the prediction interval; contradicted:
    outside; with fewer than ten seeds or a half-width above five points inconclusive. Bounds are
    NaN below two seeds: undecided."""
    if _undecided(low, high):
        return "undecided (n = 1)"
    if n < FEWEST or round((high - low) / 2, 12) > WIDEST:
        return "inconclusive"
    return "supported" if low <= value <= high else "contradicted"


# --- every arm ------------------------------------------------------------------------------------


def summary(runs: pd.DataFrame, classes_per_task: int = 10) -> pd.DataFrame:
    """One row for each arm, in order of first appearance: setting, arm, n (seeds), and for acc1,
    acc2, average, retained and gained the mean over seeds with the bounds of its 95 % t interval
    (`acc1`, `acc1_low`, `acc1_high`, ...). retained and gained are NaN for arms that start from no
    checkpoint."""
    runs = runs.assign(average=average(runs))
    before = runs.reindex(columns=["acc1_before", "acc2_before"]).astype(float)
    runs["retained"] = retained(runs["acc1"], before["acc1_before"], classes_per_task)
    runs["gained"] = gained(runs["acc2"], before["acc2_before"])
    found = []
    for (setting, arm), part in runs.groupby(["setting", "arm"], sort=False):
        row = {"setting": setting, "arm": arm, "n": part["seed"].nunique()}
        for name in ("acc1", "acc2", "average", "retained", "gained"):
            row[name], row[f"{name}_low"], row[f"{name}_high"], _ = interval(by_seed(part, name))
        found.append(row)
    return pd.DataFrame(found)
