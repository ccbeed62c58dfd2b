"""The claims of PROTOCOL.md, section 5, as a table; a loop answers them. No torch.

    found = claims(rows("compact"), rows("compact", "accuracy"), rows("compact", "trajectory"))

A claim names the arms it looks at, so an arm, or a seed that only another arm has, moves none.
A new claim is one line of CLAIMS."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lib.report import paper
from lib.report.statistics import (
    ALPHA,
    FINE_TUNE,
    JOINT,
    MARGIN,
    Arm,
    arm_curves,
    average,
    by_seed,
    curve_distances,
    curves,
    doses,
    frozen_by,
    gained,
    holm,
    holm_levels,
    in_common,
    interval,
    joint_scores,
    page_l,
    paired,
    pick,
    prediction_interval,
    ranks,
    rows_of,
    sign_flip,
    slopes,
    t_test,
    tasks_in,
    verdict_difference,
    verdict_prediction,
    verdict_threshold,
)

FORGETTING = 0.05  # C0: five points
OVERLAP = 0.9  # C5b and C5c: at most this share of filters in common
NEARLY_TWICE = 1.5  # C2c: a ratio that rounds to two
FIRST = 1.5  # C2c: a mean rank that rounds to one
MEANS = 0.0  # C5: the protocol names no value; any positive correlation counts
RELIABLE = 0.5  # C6: rank correlation of a ranking with itself made again
EQUIVALENCE = 0.9  # the level at which a difference within the margin is called equivalent
Interval = tuple[float, float, float, int]  # mean, low, high, n
NULL_MAPS = {  # maps without content: ranking -> in words
    "mse_flat": "a flat map",
    "mse_gaussian": "a centred blob",
    "mse_permuted": "maps of shuffled pixels",
}
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
    "low95",
    "high95",
    "headroom",
    "headroom_low",
    "headroom_high",
]
ROOM = 0.05  # five points: where not even this much could be protected, a comparison tells nothing
NO_ROOM = "no room to tell"


class Tables(NamedTuple):
    """What an estimate looks at: tables of one profile, as CSV has them; those from `overlap` on
    may be empty."""

    runs: pd.DataFrame
    accuracy: pd.DataFrame
    trajectory: pd.DataFrame
    overlap: pd.DataFrame
    atlas: pd.DataFrame = pd.DataFrame()
    reliability: pd.DataFrame = pd.DataFrame()


# --- rules: from one number for each seed to a verdict --------------------------------------------


@dataclass(frozen=True)
class Difference:
    """A difference that must reach a margin; p: sign-flip test of the mean against 0."""

    margin: float = MARGIN

    def interval(self, values: pd.Series, level: float) -> Interval:
        return interval(values, level)

    def verdict(self, values: pd.Series, level: float) -> str:
        """Only the lower bound is adjusted: *contradicted* and *equivalent* are read off the plain
        intervals."""
        mean, low, _, _ = interval(values, level)
        high95, (_, low90, high90, _) = interval(values)[2], interval(values, EQUIVALENCE)
        return verdict_difference(low, high95, mean, low90, high90, self.margin)

    def p(self, values: pd.Series) -> float:
        return sign_flip(values)


@dataclass(frozen=True)
class Threshold:
    """A mean above (or below) a value; p: sign-flip test of the mean against it."""

    value: float
    above: bool = True

    def interval(self, values: pd.Series, level: float) -> Interval:
        return interval(values, level)

    def verdict(self, values: pd.Series, level: float) -> str:
        _, low, high, _ = interval(values, level)
        return verdict_threshold(low, high, self.value, self.above)

    def p(self, values: pd.Series) -> float:
        return sign_flip(np.asarray(values) - self.value)


@dataclass(frozen=True)
class Trend:
    """Slopes above 0 (or below) over a table (seeds, fractions); p: Page's L, one-sided."""

    rises: bool = True

    def interval(self, values: pd.DataFrame, level: float) -> Interval:
        return interval(slopes(values), level)

    def verdict(self, values: pd.DataFrame, level: float) -> str:
        return Threshold(0, self.rises).verdict(slopes(values), level)

    def p(self, values: pd.DataFrame) -> float:
        return page_l(values, not self.rises)[1]


@dataclass(frozen=True)
class Prediction:
    """A number of the paper's inside our prediction interval; no p."""

    value: float

    def interval(self, values: pd.Series, level: float) -> Interval:
        return prediction_interval(values, level)

    def verdict(self, values: pd.Series, level: float) -> str:
        _, low, high, n = prediction_interval(values, level)
        return verdict_prediction(low, high, n, self.value)

    def p(self, values: pd.Series) -> float:
        return np.nan


def read_at(verdict: str, level: float) -> float:
    """The level of the interval a verdict is read from, which is the one to show beside it.

    level: what Holm asks of a claim's lower bound. *Equivalent* is read at 90 %, *contradicted* at
    a plain 95 %, every other verdict at `level` (section 5)."""
    if "equivalent" in verdict:
        return EQUIVALENCE
    return 1 - ALPHA if verdict.startswith("contradicted") else level


# --- estimates: (tables, *arms) -> one number for each seed; empty if it cannot be made -----------


def of_column(column: str) -> Callable:
    """An arm's column, such as acc1."""
    return lambda tables, arm: by_seed(pick(tables.runs, arm), column)


def of_checkpoint(column: str) -> Callable:
    """A column that all arms of a checkpoint share (acc1_before), for the checkpoints the first arm
    starts from. The record's number is the mean over the rows of all these arms, which differs from
    any one of them in the last bit; summed exactly, it is the same for one seed and for many."""

    def values(tables: Tables, first: Arm, *others: Arm) -> pd.Series:
        rows = pd.concat([pick(tables.runs, arm) for arm in (first, *others)])
        if column not in rows:
            return pd.Series(dtype=float)
        groups = rows.groupby(["seed", "lineage"])[column]
        means = groups.agg(lambda x: math.fsum(x) / len(x)).rename(column).reset_index()
        starts = pick(tables.runs, first)[["seed", "lineage"]].drop_duplicates()
        return by_seed(means.merge(starts), column)

    return values


def lost(tables: Tables, arm: Arm) -> pd.Series:
    """acc1 before - after."""
    rows = pick(tables.runs, arm)
    if "acc1_before" not in rows:
        return pd.Series(dtype=float)
    return by_seed(rows.assign(lost=rows["acc1_before"] - rows["acc1"]), "lost")


def gained_over_lost(tables: Tables, arm: Arm) -> pd.Series:
    """(acc2 - before) / (acc1 before - after); no number for a seed that lost nothing."""
    rows = pick(tables.runs, arm)
    if "acc1_before" not in rows or rows.empty:
        return pd.Series(dtype=float)
    loss = rows["acc1_before"] - rows["acc1"]
    ratio = gained(rows["acc2"], rows["acc2_before"]) / loss.where(loss > 0)
    return by_seed(rows.assign(ratio=ratio), "ratio")


def at_doses(column: str) -> Callable:
    """A column at 25, 50 and 75 % frozen: a table (seeds, fractions), for `Trend`."""
    return lambda tables, arm: doses(tables.runs, arm, column)


def difference(tables: Tables, arm_a: Arm, arm_b: Arm) -> pd.Series:
    """acc1 of a - acc1 of b, paired on the checkpoint."""
    return paired(tables.runs, arm_a, arm_b, "acc1")


def between_curves(tables: Tables, arm_a: Arm, arm_b: Arm) -> pd.Series:
    """Mean height in acc1 of a's curve over b's at equal acc2; empty where an arm was run at one
    fraction alone, whose curve is a point."""
    a, b = (arm_curves(tables.runs, arm) for arm in (arm_a, arm_b))
    return curve_distances(*({k: c for k, c in one.items() if len(c) > 1} for one in (a, b)))


def over_control(control: str) -> Callable:
    """Mean height in acc1 of an arm's curve over a control recorded by a traced arm."""

    def values(tables: Tables, arm: Arm, traced: Arm) -> pd.Series:
        rows = rows_of(tables.runs, traced, tables.trajectory)
        rows = rows[rows["control"] == control] if len(rows) else rows
        return curve_distances(arm_curves(tables.runs, arm), curves(rows, "task2", "task1"))

    return values


def rank_of_average(tables: Tables, arm: Arm, *others: Arm) -> pd.Series:
    """Rank of the first arm's average accuracy among these arms: 1 is highest."""
    return ranks(tables.runs, arm, others)


def over_joint(way: str) -> Callable:
    """An arm's average accuracy minus joint training's, read one of three ways."""

    def values(tables: Tables, arm: Arm, joint: Arm) -> pd.Series:
        scores = joint_scores(tables.runs, tables.accuracy, joint)
        if way not in scores:
            return pd.Series(dtype=float)
        return (by_seed(pick(tables.runs, arm), "average") - scores[way]).dropna()

    return values


def shared_with(*others: str) -> Callable:
    """The largest overlap at 50 % of the paper's choice of filters with these rankings' choices;
    empty unless all of them were measured: the worst of an incomplete set would flatter."""

    def values(tables: Tables) -> pd.Series:
        rows = tables.overlap
        if rows.empty:
            return pd.Series(dtype=float)
        half = np.isclose(rows["fraction"].astype(float), 0.5)
        rows = rows[(rows["ranking"] == paper.RANKING) & half & rows["other"].isin(others)]
        table = rows.pivot_table(index="seed", columns="other", values="iou", aggfunc="mean")
        whole = set(others) <= set(table)
        return table.dropna().max(axis=1) if whole else pd.Series(dtype=float)

    return values


def predicted_damage(tables: Tables) -> pd.Series:
    """The paper's ranking with the damage of ablation: Spearman's correlation, mean over layers."""
    rows = tables.atlas
    if rows.empty:
        return pd.Series(dtype=float)
    return rows[rows["ranking"] == paper.RANKING].groupby("seed")["spearman"].mean()


def made_again(*columns: str) -> Callable:
    """Rank correlation of the paper's ranking with itself made again, mean over layers; of several
    ways the lowest, seed by seed."""

    def values(tables: Tables) -> pd.Series:
        if tables.reliability.empty:
            return pd.Series(dtype=float)
        return tables.reliability.groupby("seed")[list(columns)].mean().min(axis=1)

    return values


# --- the table ------------------------------------------------------------------------------------


class Claim(NamedTuple):
    """One line of the table. family: whose Holm adjustment it shares, but for the settings
    `outside`; only: the settings it is made in (all, if none); classes: of each of two tasks, if
    it needs so many; room: it compares freezing with freezing in this scope, and is told nothing by
    where there was nothing to protect."""

    id: str
    text: str
    arms: tuple[Arm, ...]
    estimate: Callable[..., Any]
    rule: Difference | Threshold | Trend | Prediction
    family: str | None = None
    outside: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    classes: int | None = None
    room: str | None = None

    def family_in(self, setting: str) -> str | None:
        """The family under a setting."""
        return None if setting in self.outside else self.family


def MSE(fraction: float | None = None) -> dict:  # noqa: N802
    """Freezing by the paper's ranking."""
    return frozen_by(paper.RANKING, fraction)


def _against_random(name: str, fraction: float, **more) -> Claim:
    text = f"MSE retains more of task 1 than random at {100 * fraction:.0f} %"
    arms = MSE(fraction), frozen_by("random", fraction)
    return Claim(name, text, arms, difference, Difference(), "primary", room="weights", **more)


def _trend(name: str, ranking: str, column: str, word: str, rises: bool) -> Claim:
    text = f"{column} {word} with the fraction frozen ({ranking} ranking; slope from 25 to 75 %)"
    return Claim(name, text, (frozen_by(ranking),), at_doses(column), Trend(rises))


# the arms of the first instalment; fine-tuning first
FIRST_ARMS = (
    FINE_TUNE,
    *(frozen_by(ranking, f) for ranking in ("mse", "random") for f in (0.25, 0.5, 0.75, 0.9)),
    *(frozen_by(ranking, f) for ranking, f in (("random", 1), ("pearson", 0.5), ("bottom", 0.5))),
)


def _number(place: str | float, column: str, value: float) -> Claim:
    """C4. Before round 2 means the checkpoints fine-tuning starts from."""
    name = place if place == "before" else f"{100 * place:.0f}"
    arms, estimate, words = (
        (FIRST_ARMS, of_checkpoint(f"{column}_before"), "before round 2")
        if place == "before"
        else ((MSE(place),), of_column(column), f"with MSE at {name} %")
    )
    return Claim(
        f"C4-{column}-{name}",
        f"the paper's {column} {words}, {value}, is in our prediction interval",
        arms,
        estimate,
        Prediction(value),
        classes=paper.CLASSES,
    )


def _overlap(name: str, source: str, *others: str) -> Claim:
    same = f"{100 * in_common(OVERLAP):.0f} %"
    text = (
        f"fewer than {same} of the filters are those chosen by {source} (IoU below {OVERLAP:.1f})"
    )
    return Claim(name, text, (), shared_with(*others), Threshold(OVERLAP, above=False))


def _reliable(name: str, words: str, *columns: str) -> Claim:
    text = f"the MSE ranking correlates above .5 with itself {words}"
    return Claim(name, text, (), made_again(*columns), Threshold(RELIABLE))


PATTERN = ", brightness and contrast taken out"
CLAIMS = (
    Claim(
        "C0",
        "fine-tuning loses more than five points of acc1",
        (FINE_TUNE,),
        lost,
        Threshold(FORGETTING),
    ),
    _trend("C1-acc1", "mse", "acc1", "rises", True),
    _trend("C1-acc2", "mse", "acc2", "falls", False),
    _trend("C1-acc1-random", "random", "acc1", "rises", True),
    _trend("C1-acc2-random", "random", "acc2", "falls", False),
    _against_random("C2-random-25", 0.25, only=("KT",)),
    _against_random("C2-random", 0.5),
    _against_random("C2-random-75", 0.75, only=("KT",)),
    _against_random("C2-random-90", 0.9, only=("KT",)),
    Claim(
        "C2-bottom",
        "MSE retains more of task 1 than the least similar filters at 50 %",
        (MSE(0.5), frozen_by("bottom", 0.5)),
        difference,
        Difference(),
        "primary",
        outside=("KT",),
        room="weights",
    ),
    Claim(
        "C2-Pearson",
        "MSE retains more of task 1 than Pearson at 50 %",
        (MSE(0.5), frozen_by("pearson", 0.5)),
        difference,
        Difference(),
        "primary",
        outside=("KT",),
        room="weights",
    ),
    Claim(
        "C2b-random",
        "MSE's curve lies above random's at equal acc2",
        (MSE(), frozen_by("random")),
        between_curves,
        Difference(),
        "primary",
        room="weights",
    ),
    Claim(
        "C2b-trajectory",
        "MSE lies above fine-tuning stopped early at equal acc2",
        (MSE(), FINE_TUNE),
        over_control("trajectory"),
        Difference(),
    ),
    Claim(
        "C2b-interpolation",
        "MSE lies above the straight line of weights at equal acc2",
        (MSE(), FINE_TUNE),
        over_control("interpolation"),
        Difference(),
    ),
    Claim(
        "C2c-gain",
        f"MSE at 50 % gains more than {NEARLY_TWICE:g} times on task 2 what it loses on task 1",
        (MSE(0.5),),
        gained_over_lost,
        Threshold(NEARLY_TWICE),
    ),
    Claim(
        "C2c-average",
        "MSE has the highest average accuracy at 50 % (rank among frozen arms and fine-tuning)",
        (MSE(0.5), *(frozen_by(r, 0.5) for r in ("random", "pearson", "bottom")), FINE_TUNE),
        rank_of_average,
        Threshold(FIRST, above=False),
    ),
    *(
        Claim(
            f"C3{way}",
            f"MSE at 50 % has a higher average than joint training, {words}",
            (MSE(0.5), JOINT),
            over_joint(way),
            Difference(),
        )
        for way, words in (
            ("a", "as scored in the paper"),
            ("b", "masked to each task's classes"),
            ("c", "after equally many steps"),
        )
    ),
    *(
        _number(place, column, value)
        for place, numbers in paper.NUMBERS.items()
        for column, value in numbers.items()
    ),
    _overlap("C5b", "the mean map of all classes", "mse_mean"),
    _overlap("C5c", "the closest map without content", *NULL_MAPS),
    *(
        _overlap(f"C5c-{name.removeprefix('mse_')}", words, name)
        for name, words in NULL_MAPS.items()
    ),
    Claim(
        "C5",
        "the MSE score rises with the damage of ablating the filter (Spearman, mean of layers)",
        (),
        predicted_damage,
        Threshold(MEANS),
    ),
    _reliable(
        "C6",
        "made again, in the worst of four ways",
        *("noise", "images", "noise_pattern", "images_pattern"),
    ),
    _reliable("C6-noise", "from another visualization noise", "noise"),
    _reliable("C6-images", "from the other half of the images", "images"),
    _reliable("C6-noise-pattern", f"from another visualization noise{PATTERN}", "noise_pattern"),
    _reliable("C6-images-pattern", f"from the other half of the images{PATTERN}", "images_pattern"),
)
# claims on the overlap of two choices, as IoU: said beside it is how many filters are the same
OVERLAPS = tuple(c.id for c in CLAIMS if c.rule == Threshold(OVERLAP, above=False))
# claims that read acc2 as what was learned: after more than two tasks it is what is left of task 2
LEARNED = ("C1-acc2", "C1-acc2-random", "C2c-gain")
LEARNED += ("C2b-random", "C2b-trajectory", "C2b-interpolation")
# claims of notebook 06: its tables come after the others' claims are written, so they have a table
# of their own, claims_examined.csv
EXAMINED = ("C5", "C6", "C6-noise", "C6-images", "C6-noise-pattern", "C6-images-pattern")


def claims_in(setting: str, classes_per_task: int = paper.CLASSES, tasks: int = 2) -> list[Claim]:
    """The claims that are made in a setting of so many tasks with so many classes each."""
    usual = {None, classes_per_task} if tasks <= 2 else {None}
    return [
        claim
        for claim in CLAIMS
        if (not claim.only or setting in claim.only) and claim.classes in usual
    ]


# --- was there room? ------------------------------------------------------------------------------


class Room(NamedTuple):
    """acc1 that freezing all convolutions keeps beyond fine-tuning: mean and 95 % interval."""

    headroom: float
    headroom_low: float
    headroom_high: float


NO_COMPARISON = Room(np.nan, np.nan, np.nan)


def headroom(runs: pd.DataFrame, scope: str) -> Room:
    """How much of acc1 any choice of filters could protect in this scope: all frozen minus
    fine-tuning, paired (PROTOCOL, section 8). NaN without these arms."""
    all_frozen = {**frozen_by("random", 1), "scope": scope}
    found = paired(runs, all_frozen, FINE_TUNE, "acc1")
    return Room(*interval(found)[:3]) if len(found) else NO_COMPARISON


def _in_view_of(room: Room, verdict: str) -> str:
    """The verdict, or that there was no room for one: the interval's upper bound under five
    points."""
    return NO_ROOM if room.headroom_high < ROOM else verdict


def _shown(rule, values, level: float, room: Room) -> dict[str, Any]:
    """A verdict, the interval it is read from and that interval's level, beside a plain 95 %."""
    n, said = rule.interval(values, level)[3], rule.verdict(values, level)
    verdict = _in_view_of(room, said) if n else "undecided (n = 0)"
    level = read_at(verdict, level)
    found = dict(zip(("estimate", "low", "high", "n"), rule.interval(values, level)))
    plain = dict(zip(("low95", "high95"), rule.interval(values, 1 - ALPHA)[1:3]))
    return {**found, "verdict": verdict, "level": level, **plain}


def _families(table: list[Claim], setting: str) -> list[list[str]]:
    """The claims that share a Holm adjustment."""
    names = {claim.family_in(setting) for claim in table} - {None}
    return [[claim.id for claim in table if claim.family_in(setting) == name] for name in names]


def levels(table: list[Claim], values: dict[str, Any], setting: str) -> dict[str, float]:
    """The level of each claim's interval that its lower bound is held at: 95 %, or that of its Holm
    step. values: claim -> one number for each seed."""
    level = dict.fromkeys(values, 1 - ALPHA)
    for members in _families(table, setting):
        level |= zip(members, holm_levels([t_test(values[name]) for name in members]).tolist())
    return level


# --- the loop -------------------------------------------------------------------------------------


def claims(
    runs: pd.DataFrame,
    accuracy: pd.DataFrame,
    trajectory: pd.DataFrame,
    overlap: pd.DataFrame | None = None,
    classes_per_task: int = paper.CLASSES,
    **more: pd.DataFrame,
) -> pd.DataFrame:
    """Every claim of section 5 that these tables of one profile can answer, one row each, with a
    verdict.

    estimate, low, high: fractions of 1 (C1: per unit of fraction; C2c: a ratio, a rank); t
    intervals, prediction intervals for C4, at `level`, which is the one the verdict is read at
    (`read_at`): 95 %, or for claims of a family that of their Holm step by the t test
    (`holm_levels`), whose lower bound alone section 5 adjusts: *contradicted* is read at a plain
    95 %, *equivalent* at 90 %. low95, high95: the same interval at 95 % whatever the verdict. p:
    sign-flip test of the mean against 0 or the claim's threshold, Holm-adjusted within a family;
    Page's L for C1; none for C4. n: seeds that count. Claims whose arms are missing are left out
    (they still count in their family: its size was fixed before the run), C4 also where there are
    not two tasks of the paper's ten classes, LEARNED where there are more than two. more: the
    tables `atlas` and `reliability`, where there are any. Raises ValueError for several
    settings."""
    settings = [*runs["setting"].unique()]
    if len(settings) > 1:
        raise ValueError(
            f"claims of settings {', '.join(map(str, settings))} at once: expected the runs of "
            "one profile"
        )
    setting = settings[0] if settings else ""
    overlap = pd.DataFrame() if overlap is None else overlap
    tables = Tables(runs.assign(average=average(runs)), accuracy, trajectory, overlap, **more)
    tasks = tasks_in(pick(runs, FINE_TUNE).dropna(axis=1, how="all"))
    table = claims_in(setting, classes_per_task, tasks)
    untold = LEARNED if tasks > 2 else ()  # they count in their family all the same
    values = {
        c.id: pd.Series(dtype=float) if c.id in untold else c.estimate(tables, *c.arms)
        for c in table
    }
    p = {claim.id: claim.rule.p(values[claim.id]) for claim in table}
    level = levels(table, values, setting)
    for members in _families(table, setting):
        p |= zip(members, holm([p[name] for name in members]).tolist())
    rooms = {scope: headroom(runs, scope) for scope in {claim.room for claim in table} - {None}}
    rows = []
    for claim in table:
        if len(values[claim.id]):
            room = rooms.get(claim.room, NO_COMPARISON)
            row = {"claim": claim.id, "text": claim.text, "setting": setting, "p": p[claim.id]}
            shown = _shown(claim.rule, values[claim.id], level[claim.id], room)
            rows.append({**row, **shown, **room._asdict()})
    return pd.DataFrame(rows, columns=COLUMNS)


def examined(runs: pd.DataFrame, atlas: pd.DataFrame, reliability: pd.DataFrame) -> pd.DataFrame:
    """C5 and C6 of section 5 (see `claims`), from the tables of the examined explanations; runs
    says which setting it is."""
    none = pd.DataFrame()
    found = claims(runs, none, none, atlas=atlas, reliability=reliability)
    return found[found["claim"].isin(EXAMINED)].reset_index(drop=True)
