"""Rows -> intervals, tests and verdicts. No torch.

    found = claims(rows("compact"), rows("compact", "accuracy"), rows("compact", "trajectory"))
    differences = paired(runs, frozen_by("mse", 0.5), frozen_by("random", 0.5))  # one for each seed
    mean, low, high, n = interval(differences)

Accuracies, margins and estimates are fractions of 1, never points. A seed is the unit of every
interval and test; two arms of a seed are compared on the same task-1 checkpoint (`lineage`) only.
Sections are PROTOCOL.md's."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

ALPHA = 0.05  # of every test; intervals are at 1 - ALPHA unless Holm asks for more
MARGIN = 0.01  # one point: what a difference must reach to matter (section 5)
FORGETTING = 0.05  # C0: five points
OVERLAP = 0.9  # C5b and C5c: at most this share of filters in common
NEARLY_TWICE = 1.5  # C2c: a ratio that rounds to two
FIRST = 1.5  # C2c: a mean rank that rounds to one
WIDEST, FEWEST = 0.05, 10  # C4: half-width of a prediction interval and seeds that allow a verdict
PAPER = {
    ("before", "acc1"): 0.4566,
    ("before", "acc2"): 0.1322,
    (0.25, "acc1"): 0.207,
    (0.25, "acc2"): 0.392,
    (0.75, "acc1"): 0.384,
    (0.75, "acc2"): 0.257,
}  # the paper's six numbers, of tasks with ten classes
PAPER_CLASSES = 10
NULL_MAPS = ("mse_flat", "mse_gaussian", "mse_permuted")
DOSES = (0.25, 0.5, 0.75)  # C1's fractions
EXACT, DRAWS = (
    20,
    100_000,
)  # sign flips: all of them up to this many seeds, else so many random ones

SCRATCH = "scratch"  # the lineage of arms that start from no checkpoint
Arm = str | Mapping  # an arm's display name, or the columns of `runs` that single it out
FINE_TUNE = {"method": "finetune", "curriculum": "sequence"}
JOINT = {"curriculum": "joint20"}
USUAL = {"rule": "turns", "scope": "weights"}  # what an arm's line means by leaving these out
COLUMNS = [
    "claim",
    "text",
    "setting",
    "estimate",
    "low",
    "high",
    "n",
    "p",
    "verdict",
    "level",
    "high95",
]


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
    """The rows of one arm. Several draws of "random" belong together. Of any other arms alike in
    all columns asked for (one that differs in its budget rule or freeze scope, in a table without
    these columns) the first is meant."""
    if isinstance(arm, str):
        return runs[runs["arm"] == arm]
    keep = pd.Series(True, runs.index)
    for column, value in arm.items():
        keep &= (
            np.isclose(runs[column].astype(float), value)
            if column == "fraction"
            else runs[column] == value
        )
    for column in USUAL.keys() & set(runs.columns):
        keep &= runs[column].isna() | (runs[column] == USUAL[column])
    found = runs[keep]
    if arm.get("ranking") != "random":
        found = found[
            found["arm"] == found.groupby("fraction", dropna=False)["arm"].transform("first")
        ]
    return found


def _by_checkpoint(rows: pd.DataFrame, column: str) -> pd.Series:
    """One number for each (seed, lineage): the mean over draws."""
    return rows.groupby(["seed", rows["lineage"].astype(str)])[column].mean()


def _by_seed(rows: pd.DataFrame, column: str) -> pd.Series:
    """One number for each seed: the mean over its lineages."""
    return _by_checkpoint(rows, column).groupby("seed").mean().dropna()


def paired(runs: pd.DataFrame, arm_a: Arm, arm_b: Arm, column: str = "acc1") -> pd.Series:
    """Differences a - b of a column, one for each seed (index) that has both arms (section 6).

    Rows are paired on (seed, lineage) and averaged within a seed; where just one of the arms starts
    from no checkpoint, on the seed alone. arm_a, arm_b: display names or `frozen_by(...)`. Empty if
    nothing pairs."""
    a, b = (_by_checkpoint(pick(runs, arm), column) for arm in (arm_a, arm_b))
    scratch_a, scratch_b = (SCRATCH in x.index.get_level_values("lineage") for x in (a, b))
    if scratch_a != scratch_b:
        a, b = a.groupby("seed").mean(), b.groupby("seed").mean()
    return (a - b).dropna().groupby("seed").mean()


def average(runs: pd.DataFrame) -> pd.Series:
    """Mean accuracy over all tasks, row by row: (acc1 + acc2) / 2 with two. In [0, 1]."""
    return runs.filter(regex=r"^acc\d+$").mean(axis=1)


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


# --- intervals and tests --------------------------------------------------------------------------


def _finite(values) -> np.ndarray:
    x = np.asarray(values, float).ravel()
    return x[~np.isnan(x)]


def _t_interval(values, level: float, spread) -> tuple[float, float, float, int]:
    x = _finite(values)
    n, mean = len(x), float(x.mean()) if len(x) else np.nan
    if n < 2:
        return mean, np.nan, np.nan, n
    half = float(stats.t.ppf((1 + level) / 2, n - 1) * x.std(ddof=1) * spread(n))
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
    if np.ptp(x) == 0:  # scipy would divide by zero
        return float(x[0] == 0)
    return float(stats.ttest_1samp(x, 0).pvalue)


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


def _curves(rows: pd.DataFrame, acc2: str, acc1: str) -> dict[tuple, np.ndarray]:
    """(seed, lineage) -> its points (acc2, acc1)."""
    if rows.empty:
        return {}
    return {
        key: part[[acc2, acc1]].to_numpy()
        for key, part in rows.groupby(["seed", rows["lineage"].astype(str)])
    }


def ranking_curves(runs: pd.DataFrame, ranking: str) -> dict[tuple, np.ndarray]:
    """(seed, lineage) -> points (acc2, acc1), one for each fraction of a ranking. Nothing and all
    frozen are left out: there every ranking is the same."""
    rows = pick(runs, frozen_by(ranking))
    rows = rows[(rows["fraction"] > 0) & (rows["fraction"] < 1)]
    keys = [rows["seed"], rows["lineage"].astype(str), rows["fraction"]]
    return _curves(rows.groupby(keys)[["acc2", "acc1"]].mean().reset_index(), "acc2", "acc1")


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


def doses(runs: pd.DataFrame, ranking: str, column: str) -> pd.DataFrame:
    """(seeds, fractions): a column at 25, 50 and 75 % frozen by a ranking, for the seeds that have
    all three."""
    arms = {f: _by_checkpoint(pick(runs, frozen_by(ranking, f)), column) for f in DOSES}
    return pd.DataFrame(arms).dropna().groupby("seed").mean()


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
    found = stats.page_trend_test(table.to_numpy()[:, ::-1] if falling else table.to_numpy())
    return float(found.statistic), float(found.pvalue)


def joint_scores(runs: pd.DataFrame, accuracy: pd.DataFrame) -> dict[str, pd.Series]:
    """Joint training read three ways (C3), mean over tasks, one number for each seed: "a" after the
    last epoch over all outputs, as in the paper; "b" masked to each task's own; "c" as "a" after 1
    / tasks of the epochs (as many steps as the rounds have together)."""
    rows = (
        accuracy[accuracy["arm"].isin(set(pick(runs, JOINT)["arm"]))] if len(accuracy) else accuracy
    )
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


def ranks(runs: pd.DataFrame, fraction: float = 0.5) -> pd.Series:
    """Rank of MSE by average accuracy among the frozen arms at this fraction and fine-tuning (C2c),
    one number for each seed that has all of them: 1 = highest, ties share their mean rank. Empty
    without another arm to rank among."""
    runs = runs.assign(average=average(runs))
    at = runs[(runs["method"] == "freeze") & np.isclose(runs["fraction"].astype(float), fraction)]
    arms = {r: frozen_by(r, fraction) for r in at["ranking"].unique()} | {"fine-tune": FINE_TUNE}
    table = pd.DataFrame(
        {name: _by_checkpoint(pick(runs, arm), "average") for name, arm in arms.items()}
    )
    table = table.dropna(axis=1, how="all").dropna().round(12)  # equal averages stay equal
    if "mse" not in table or table.shape[1] < 2:
        return pd.Series(dtype=float)
    return table.rank(axis=1, ascending=False)["mse"].groupby("seed").mean()


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


# --- claims ---------------------------------------------------------------------------------------


def claims(
    runs: pd.DataFrame,
    accuracy: pd.DataFrame,
    trajectory: pd.DataFrame,
    overlap: pd.DataFrame | None = None,
    classes_per_task: int = 10,
) -> pd.DataFrame:
    """Every claim of section 5 that these tables of one profile can answer, one row each, with a
    verdict.

    estimate, low, high: fractions of 1 (C1: per unit of fraction; C2c: a ratio, a rank); intervals
    at `level`: t intervals at 95 %, prediction intervals for C4, and for the four primary claims at
    the level of their Holm step by the t test (`holm_levels`). Section 5 adjusts their lower bound
    only: *contradicted* and *equivalent* are read off the plain intervals (`high95`, 90 %). p:
    sign-flip test of the mean against 0 or the claim's threshold, Holm-adjusted for the primary
    four; Page's L for C1; none for C4. n: seeds that count. Claims whose arms are missing are left
    out, C4 also where tasks have not the paper's ten classes. Raises ValueError for several
    settings."""
    setting = runs["setting"].unique()
    if len(setting) > 1:
        raise ValueError(
            f"claims of settings {', '.join(map(str, setting))} at once: expected the runs of "
            "one profile"
        )
    runs = runs.assign(average=average(runs))
    found = [
        *_bounds(runs),
        *_primary(runs),
        *_curve_controls(runs, trajectory),
        *_trade(runs),
        *_against_joint(runs, accuracy),
        *_numbers(runs, classes_per_task),
        *_overlaps(overlap),
    ]
    return pd.DataFrame([{**row, "setting": setting[0]} for row in found], columns=COLUMNS)


def _row(
    claim: str, text: str, found, p: float, verdict: str, level=1 - ALPHA, high95=np.nan
) -> dict:
    estimate, low, high, n = found
    return {
        "claim": claim,
        "text": text,
        "estimate": estimate,
        "low": low,
        "high": high,
        "n": n,
        "p": p,
        "verdict": verdict if n else "undecided (n = 0)",
        "level": level,
        "high95": high if np.isnan(high95) else high95,
    }


def _difference(
    claim: str, text: str, values, level: float = 1 - ALPHA, p: float | None = None
) -> Iterator[dict]:
    if len(values):
        mean, low, high, n = interval(values, level)
        high95, (_, low90, high90, _) = interval(values)[2], interval(values, 0.9)
        verdict = verdict_difference(low, high95, mean, low90, high90)
        yield _row(
            claim,
            text,
            (mean, low, high, n),
            sign_flip(values) if p is None else p,
            verdict,
            level,
            high95,
        )


def _threshold(
    claim: str, text: str, values, threshold: float, above: bool = True, p: float | None = None
):
    if len(values):
        found = interval(values)
        p = sign_flip(np.asarray(values) - threshold) if p is None else p
        yield _row(claim, text, found, p, verdict_threshold(found[1], found[2], threshold, above))


def _bounds(runs: pd.DataFrame) -> Iterator[dict]:
    """C0, C1."""
    if "acc1_before" in runs:
        fine_tune = pick(runs, FINE_TUNE)
        lost = _by_seed(fine_tune.assign(lost=fine_tune["acc1_before"] - fine_tune["acc1"]), "lost")
        yield from _threshold(
            "C0", "fine-tuning loses more than five points of acc1", lost, FORGETTING
        )
    for ranking, name in (("mse", ""), ("random", "-random")):
        for column, word, rises in (("acc1", "rises", True), ("acc2", "falls", False)):
            table = doses(runs, ranking, column)
            yield from _threshold(
                f"C1-{column}{name}",
                f"{column} {word} with the fraction frozen ({ranking} ranking; "
                "slope from 25 to 75 %)",
                slopes(table),
                0,
                rises,
                page_l(table, not rises)[1],
            )


def _primary(runs: pd.DataFrame) -> Iterator[dict]:
    """C2 and C2b against random: the four claims that share Holm's adjustment."""
    mse = frozen_by("mse", 0.5)
    tests = {
        "C2-random": (
            "MSE retains more of task 1 than random at 50 %",
            paired(runs, mse, frozen_by("random", 0.5)),
        ),
        "C2-bottom": (
            "MSE retains more of task 1 than the least similar filters at 50 %",
            paired(runs, mse, frozen_by("bottom", 0.5)),
        ),
        "C2-Pearson": (
            "MSE retains more of task 1 than Pearson at 50 %",
            paired(runs, mse, frozen_by("pearson", 0.5)),
        ),
        "C2b-random": (
            "MSE's curve lies above random's at equal acc2",
            curve_distances(ranking_curves(runs, "mse"), ranking_curves(runs, "random")),
        ),
    }
    levels = holm_levels([t_test(values) for _, values in tests.values()])
    adjusted = holm([sign_flip(values) for _, values in tests.values()])
    for (claim, (text, values)), level, p in zip(tests.items(), levels, adjusted):
        yield from _difference(claim, text, values, float(level), float(p))


def _curve_controls(runs: pd.DataFrame, trajectory: pd.DataFrame) -> Iterator[dict]:
    """C2b against the controls that need no training of their own."""
    for control, name in (
        ("trajectory", "fine-tuning's own trajectory"),
        ("interpolation", "weight interpolation"),
    ):
        rows = trajectory[trajectory["control"] == control] if len(trajectory) else trajectory
        found = curve_distances(ranking_curves(runs, "mse"), _curves(rows, "task2", "task1"))
        yield from _difference(
            f"C2b-{control}", f"MSE's curve lies above {name} at equal acc2", found
        )


def _trade(runs: pd.DataFrame) -> Iterator[dict]:
    """C2c."""
    rows = pick(runs, frozen_by("mse", 0.5))
    if len(rows):
        lost = rows["acc1_before"] - rows["acc1"]
        ratio = gained(rows["acc2"], rows["acc2_before"]) / lost.where(lost > 0)
        yield from _threshold(
            "C2c-gain",
            "MSE at 50 % gains nearly twice on task 2 what it loses on task 1 (ratio)",
            _by_seed(rows.assign(ratio=ratio), "ratio"),
            NEARLY_TWICE,
        )
    yield from _threshold(
        "C2c-average",
        "MSE has the highest average accuracy at 50 % (rank among frozen arms and fine-tuning)",
        ranks(runs),
        FIRST,
        above=False,
    )


def _against_joint(runs: pd.DataFrame, accuracy: pd.DataFrame) -> Iterator[dict]:
    """C3."""
    ours = _by_seed(pick(runs, frozen_by("mse", 0.5)), "average")
    ways = {
        "a": "as scored in the paper",
        "b": "masked to each task's classes",
        "c": "after equally many steps",
    }
    for way, joint in joint_scores(runs, accuracy).items():
        yield from _difference(
            f"C3{way}",
            f"MSE at 50 % has a higher average than joint training, {ways[way]}",
            (ours - joint).dropna(),
        )


def _numbers(runs: pd.DataFrame, classes_per_task: int) -> Iterator[dict]:
    """C4."""
    for (place, column), value in PAPER.items() if classes_per_task == PAPER_CLASSES else ():
        before = place == "before"
        if before and f"{column}_before" not in runs:
            continue
        values = (
            _by_seed(runs, f"{column}_before")
            if before
            else _by_seed(pick(runs, frozen_by("mse", place)), column)
        )
        if len(values):
            found = prediction_interval(values)
            name = "before" if before else f"{place:.0%}".removesuffix("%")
            words = "before round 2" if before else f"with MSE at {name} %"
            yield _row(
                f"C4-{column}-{name}",
                f"the paper's {column} {words}, {value}, is in our prediction interval",
                found,
                np.nan,
                verdict_prediction(*found[1:], value),
            )


def _overlaps(overlap: pd.DataFrame | None) -> Iterator[dict]:
    """C5b, C5c."""
    if overlap is None or overlap.empty:
        return
    part = overlap[
        (overlap["ranking"] == "mse") & np.isclose(overlap["fraction"].astype(float), 0.5)
    ]
    table = part.pivot_table(
        index="seed", columns="other", values="iou", aggfunc="mean"
    )  # (seeds, others)
    rows = [
        ("C5b", "the mean map of all classes", ["mse_mean"]),
        ("C5c", "the worst null map", list(NULL_MAPS)),
        *(
            (f"C5c-{name.removeprefix('mse_')}", f"{name.removeprefix('mse_')} maps", [name])
            for name in NULL_MAPS
        ),
    ]
    for claim, source, others in rows:
        if set(others) <= set(table):
            yield from _threshold(
                claim,
                f"overlap with the filters chosen from {source} is below .9",
                table[others].dropna().max(axis=1),
                OVERLAP,
                above=False,
            )


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
            row[name], row[f"{name}_low"], row[f"{name}_high"], _ = interval(_by_seed(part, name))
        found.append(row)
    return pd.DataFrame(found)
