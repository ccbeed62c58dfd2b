"""What the tables say, for a reader who has seen none of them: sentences and rows of a page. No
torch.

    against_chance(claims), forgetting(claims), of_the_map(claims)     # the answer, three sentences
    verdicts(claims)                                                   # a row for each claim

Every sentence follows from a verdict; its numbers come from the same line of the table."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from lib.report import paper, readings
from lib.report.claims import OVERLAPS, ROOM
from lib.report.figures import chance_differences
from lib.report.statistics import (
    ALPHA,
    FINE_TUNE,
    accuracy_matrix,
    average,
    heights,
    in_common,
    interval,
    paired,
    pick,
    rows_of,
    tasks_in,
)
from lib.report.statistics import forgetting as lost_over_rounds
from lib.report.words import headline, percent, plain, sameness, spread

Read = Callable[[str], pd.DataFrame]
MAIN = re.compile(r"C2-random(?:-(\d+))?")  # the question, at 50 % or at the fraction it names
SAYS = {  # a verdict's first word -> what it says of freezing by explanation
    "supported": "keeps more of the first task than freezing as many at random",
    "contradicted": "does not keep a point more of the first task than freezing as many at random",
    "inconclusive": "is not shown to keep more of the first task than freezing as many at random",
    "undecided": "cannot be told by a single seed from freezing as many at random",
    "no": "has no room here to keep more of the first task than freezing as many at random",
}
SIGNS = {"supported": "✓", "contradicted": "✗", "inconclusive": "≈", "undecided": "?", "no": "∅"}
SETTINGS_SAY = {  # the same, of the settings that an overview lists
    "supported": "it keeps more than random freezing",
    "contradicted": "it does not keep a point more than random freezing",
    "inconclusive": "it is not shown to keep more than random freezing",
    "no": "there is no room to tell, since even freezing every filter keeps less than "
    f"{100 * ROOM:.0f} points more than freezing none",
    "undecided": "a single seed cannot tell",
}


class Unit(NamedTuple):
    """How an estimate is written: what it is counted in, its factor and format."""

    words: str
    factor: float
    form: str

    def write(self, value: float) -> str:
        return f"{self.factor * value:{self.form}}"


POINTS = Unit("points", 100, "+.1f")
UNITS = (  # claims by the start of their name; the first that fits; points for all others
    ("C1-", Unit("points for each 10 % frozen", 10, "+.1f")),
    ("C2c-gain", Unit("gained for 1 lost", 1, ".2f")),
    ("C2c-average", Unit("mean rank, 1 is best", 1, ".1f")),
    ("C4-", Unit("% accuracy", 100, ".1f")),
    ("C5b", Unit("overlap, 1 is the same choice", 1, ".2f")),
    ("C5c", Unit("overlap, 1 is the same choice", 1, ".2f")),
    ("C5", Unit("rank correlation", 1, "+.2f")),
    ("C6", Unit("rank correlation", 1, "+.2f")),
)
GROUPS = (  # what claims are about, by their names; every claim is in one
    ("Does the explanation beat chance?", r"C2-.*|C2b-random"),
    ("Does it beat learning less, at no cost?", r"C2b-(trajectory|interpolation)"),
    ("Does the choice depend on the class and on the map?", r"C5[bc].*"),
    ("Does the score mean anything, and can it be made again?", r"C5|C6.*"),
    ("Forgetting, and what freezing trades", r"C0|C1.*|C2c.*"),
    ("Does it beat training both tasks at once?", r"C3.*"),
    ("Are the paper's numbers in our range?", r"C4.*"),
    ("Further claims", r".*"),
)
KEPT = {  # arms.csv, keeps: what is stored between tasks
    "nothing": "nothing but the network",
    "weights": "a copy of the old weights",
    "importances": "importances of the weights",
    "images": "images of the first task",
}


def unit_of(claim: str) -> Unit:
    """What a claim's estimate is counted in."""
    return next((unit for start, unit in UNITS if claim.startswith(start)), POINTS)


def bounded(
    row: Mapping, unit: Unit, name: str = "estimate", sign: float = 1, level: bool = True
) -> str:
    """`+0.4 [-0.2, +1.1 at 97.5 %]`: a number and its interval, if it has one, with the interval's
    level where the row says it (room's is 95 %) and `level` is asked for, without the unit's
    words."""
    low, high = ("low", "high") if name == "estimate" else (f"{name}_low", f"{name}_high")
    if pd.isna(row[name]):
        return "no common range"
    bounds = sorted((sign * row[low], sign * row[high]))
    text = unit.write(sign * row[name])
    of = row.get("level") if name == "estimate" else 1 - ALPHA
    at = "" if of is None or not level else f" at {percent(of)}"
    if np.isnan(bounds).any():
        return text
    return f"{text} [{', '.join(map(unit.write, bounds))}{at}]"


def kind_of(verdict: str) -> str:
    """Its first word: a key of SAYS."""
    return str(verdict).split()[0]


def main_claims(claims: pd.DataFrame) -> list[tuple[int, pd.Series]]:
    """(per cent frozen, its line) of the study's question, by fraction."""
    found = [(MAIN.fullmatch(str(row["claim"])), row) for _, row in claims.iterrows()]
    return sorted(((int(hit[1] or 50), row) for hit, row in found if hit), key=lambda x: x[0])


def _listed(parts: Sequence[str]) -> str:
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else "".join(parts)


def _unsigned(unit: Unit) -> Unit:
    return unit._replace(form=unit.form.lstrip("+"))


# --- the answer in three sentences ----------------------------------------------------------------


def against_chance(claims: pd.DataFrame) -> str:
    """Whether freezing by explanation beats freezing at random, at every fraction the claims ask
    of, and what there was to protect."""
    found = main_claims(claims)
    if not any(row["claim"] == "C2-random" for _, row in found):
        return headline(claims)  # says what is missing
    said = []
    for kind, words in SAYS.items():
        rows = [(share, row) for share, row in found if kind_of(row["verdict"]) == kind]
        values = [f"{bounded(row, POINTS)} points with {share} % frozen" for share, row in rows]
        if rows:
            seeds = " / ".join(dict.fromkeys(f"{int(row['n'])}" for _, row in rows))
            said.append(f"{words} ({'; '.join(values)}; n = {seeds})")
    return f"Freezing the filters that explanation chooses {'; it '.join(said)}{_room(found)}."


def _room(found) -> str:
    """What freezing everything keeps beyond freezing nothing."""
    row = found[0][1]
    if pd.isna(row.get("headroom")):
        return ""
    kept = bounded(row, _unsigned(POINTS), "headroom")
    none = any(kind_of(row["verdict"]) == "no" for _, row in found)
    words = (
        ", since even freezing every filter keeps only" if none else "; freezing every filter keeps"
    )
    return f"{words} {kept} points more than freezing none"


def forgetting(claims: pd.DataFrame, tasks: int = 2) -> str:
    """What is lost where nothing is frozen, and what a control that costs no training keeps; tasks:
    learned one after the other."""
    later = "the second task" if tasks == 2 else f"the other {tasks - 1} tasks"
    table, parts = claims.set_index("claim"), []
    if "C0" in table.index:
        lost = bounded(table.loc["C0"], _unsigned(POINTS))
        parts.append(
            f"with nothing frozen, learning {later} costs {lost} points of accuracy on the first"
        )
    if "C2b-interpolation" in table.index and pd.notna(table.loc["C2b-interpolation", "estimate"]):
        row = table.loc["C2b-interpolation"]
        sign, word = (-1, "more") if row["estimate"] < 0 else (1, "less")
        number = bounded(row, _unsigned(POINTS), sign=sign)
        said = {
            -1: f"keeps {number} points more of the first task than freezing by explanation",
            1: f"keeps {number} points less of the first task than freezing by explanation",
            0: "is not told apart from freezing by explanation in what it keeps of the first task "
            f"({number} points {word}, n = {int(row['n'])})",
        }[_side(row)]
        parts.append(
            "at equal accuracy on the second, averaging the weights from before and after it, "
            f"which costs no training, {said}"
        )
    text = "; ".join(parts) or "these tables do not tell what is forgotten"
    return text[0].upper() + text[1:] + "."


def _side(row: Mapping) -> int:
    """-1 or 1 where the whole 95 % interval lies below or above zero, else 0; 0 for a single
    seed."""
    low = row.get("low95", row["low"])  # a table of before has no such column, and low at 95 %
    return int(low > 0) - int(row["high95"] < 0)


CLASS_SAYS = {
    "supported": "which class a map belongs to changes which filters are chosen",
    "contradicted": "which class a map belongs to hardly changes which filters are chosen",
}
MAP_SAYS = {
    "supported": "a map without content chooses partly other filters",
    "contradicted": "a map without content chooses nearly the same filters",
}


def of_the_map(claims: pd.DataFrame) -> str:
    """Whether the choice of filters depends on the class and on the map."""
    table, parts = claims.set_index("claim"), []
    for claim, says, open_words, other in (
        (
            "C5b",
            CLASS_SAYS,
            "whether the class matters to the choice is open",
            "the mean of all maps",
        ),
        (
            "C5c",
            MAP_SAYS,
            "whether the map's content matters to the choice is open",
            "the closest map without content",
        ),
    ):
        if claim in table.index:
            row = table.loc[claim]
            value = bounded(row, unit_of(claim))
            parts.append(
                f"{says.get(kind_of(row['verdict']), open_words)} (overlap with the choice "
                f"by {other}: {value} of 1; {sameness(row['estimate'])})"
            )
    text = "; ".join(parts) or "these tables do not tell whether the choice depends on the map"
    return text[0].upper() + text[1:] + "."


def answer_of(claims: pd.DataFrame, tasks: int = 2) -> list[str]:
    """The three sentences of a setting with so many tasks."""
    return [against_chance(claims), forgetting(claims, tasks), of_the_map(claims)]


TELLING = ("supported", "contradicted", "inconclusive")  # verdicts where there was room to tell


def answer_over(
    tables: Mapping[str, pd.DataFrame], runs: Mapping[str, pd.DataFrame] | None = None
) -> list[str]:
    """The three sentences over several settings, and one on other methods where some have run.
    tables: a setting's name -> its claims; runs: the same -> its runs."""
    runs = runs or {}
    two = {name: t for name, t in tables.items() if tasks_in(runs.get(name, pd.DataFrame())) == 2}
    second = _range(two, "C0", _unsigned(POINTS))
    sides = [
        _side(row)
        for table in two.values()
        for _, row in table[table["claim"] == "C2b-interpolation"].iterrows()
    ]
    third = [_range(tables, claim, unit_of(claim)) for claim in ("C5b", "C5c")]
    return [
        _over_chance(tables),
        f"With nothing frozen, learning the second task costs {second} points of accuracy on the "
        "first; at equal accuracy on the second, averaging the weights from before and after it, "
        "which costs no training, keeps more of the first than freezing by explanation in "
        f"{sides.count(-1)} of {len(sides)} settings, less in {sides.count(1)}, and is not told "
        f"apart in {sides.count(0)}.",
        f"The filters chosen by each class's own map overlap by {third[0]} with those chosen by "
        f"the mean map of all classes, and by {third[1]} with those chosen by the closest map "
        f"without content (1 is the same choice; {_same_in(tables, 'C5b')} and "
        f"{_same_in(tables, 'C5c')} % of the filters are the same).",
        *_over_methods(runs),
    ]


def _over_chance(tables: Mapping[str, pd.DataFrame]) -> str:
    """The main question over settings: whether any shows a difference, the numbers of the one with
    most seeds, and the verdicts of the others."""
    found = {name: main_claims(claims) for name, claims in tables.items()}
    yes = [n for n, rows in found.items() if any(_says(row) == "supported" for _, row in rows)]
    seeds = {
        name: max(int(row["n"]) for _, row in rows)
        for name, rows in found.items()
        if any(_says(row) in TELLING for _, row in rows)
    }
    said = ["Does freezing by explanation keep more of the first task than freezing at random?"]
    if surest := max(seeds, key=seeds.get, default=None):
        said.append(f"It does in {_listed(yes)}." if yes else "No setting shows that it does.")
        said.append(_most_seeds(surest, found.pop(surest)))
    others = _by_verdict(found)
    if surest and others:
        said.append(f"Elsewhere: {others}.")
    elif others:
        said.append(f"{others[0].upper()}{others[1:]}.")
    return " ".join(said) if len(said) > 1 else f"{said[0]} These tables do not tell."


def _says(row: Mapping) -> str:
    return kind_of(row["verdict"])


def _most_seeds(name: str, found: list[tuple[int, pd.Series]]) -> str:
    """The numbers of one setting: estimates at every fraction, how far their intervals reach, and
    what there was to protect."""
    rows, seeds = [row for _, row in found], max(int(row["n"]) for _, row in found)
    means = _listed([POINTS.write(row["estimate"]) for row in rows])
    shares = _listed([f"{share}" for share, _ in found])
    low, high = min(row["low"] for row in rows), max(row["high"] for row in rows)
    reach = f", with intervals between {POINTS.write(low)} and {POINTS.write(high)}"
    room = rows[0].get("headroom")
    whole = (
        ""
        if pd.isna(room)
        else f" (where freezing every filter keeps {_unsigned(POINTS).write(room)} points more "
        "than freezing none)"
    )
    return (
        f"With most seeds, {seeds}, in {name}{whole}, it keeps {means} points more at {shares} % "
        f"frozen{'' if np.isnan(low) else reach}."
    )


def _by_verdict(found: Mapping[str, list[tuple[int, pd.Series]]]) -> str:
    """Settings, fractions and seeds by verdict."""
    said = []
    for kind, words in SETTINGS_SAY.items():
        where = []
        for name, rows in found.items():
            of_kind = [(share, int(row["n"])) for share, row in rows if _says(row) == kind]
            shares = _listed([f"{share}" for share, _ in of_kind])
            seeds = " / ".join(dict.fromkeys(str(n) for _, n in of_kind))
            if of_kind:
                where.append(f"{name} ({shares} % frozen, n = {seeds})")
        if where:
            said.append(f"{words}: {_listed(where)}")
    return "; ".join(said)


NAMED = 4  # other methods that a sentence names


def _over_methods(runs: Mapping[str, pd.DataFrame]) -> list[str]:
    """A sentence on the setting in which most other methods have run; none if none has."""
    found = {name: against_methods(table) for name, table in runs.items()}
    name = max(found, key=lambda name: len(found[name][1]), default=None)
    if name is None or not (others := found[name][1]):
        return []
    ours, better = found[name][0], [o for o in others if o.low > 0]
    named = _listed([f"{o.arm} ({o.written()})" for o in better[:NAMED]])
    first = "the first of them " if len(better) > NAMED else ""
    seeds = _from_to([o.n for o in others], Unit("seeds", 1, ".0f"))
    return [
        f"Other ways of keeping the first task, in {name}: {len(better)} of {len(others)} have a "
        "higher accuracy, averaged over both tasks, than freezing by explanation has at its best "
        f"({ours}){f', {first}{named} points' if named else ''}; "
        f"{sum(o.high < 0 for o in others)} have a lower one ({seeds} seeds, 95 % intervals, not "
        "corrected for their number)."
    ]


class Other(NamedTuple):
    """Another method beside freezing by explanation at its best: how far the average accuracy over
    all tasks lies above it, seed by seed."""

    arm: str
    mean: float
    low: float
    high: float
    n: int

    def written(self) -> str:
        ends = ", ".join(map(POINTS.write, (self.low, self.high)))
        return f"{POINTS.write(self.mean)} [{ends}]"


def against_methods(runs: pd.DataFrame) -> tuple[str, list[Other]]:
    """The arm of the main ranking with the highest average accuracy over tasks, and every method
    that does not freeze filters beside it, highest first; of those with two seeds or more in
    common."""
    table = runs[runs["curriculum"] == "sequence"]
    table = table.assign(average=average(table))
    wanted = {"method": "freeze", "ranking": "mse", "rule": "turns", "scope": "weights"}
    how = table.reindex(columns=list(wanted))
    mine = table[(how == pd.Series(wanted)).all(axis=1)]
    if mine.empty:
        return "", []
    ours, found = mine.groupby("arm")["average"].mean().idxmax(), []
    for arm in table.loc[~table["method"].isin(["freeze", "finetune"]), "arm"].unique():
        apart = paired(table, arm, ours, "average")
        if len(apart) > 1:
            found.append(Other(arm, *interval(apart)))
    return ours, sorted(found, key=lambda other: -other.mean)


IN_SHORT = {  # a verdict's first word -> what it says to somebody who has read nothing else
    "supported": "explanation keeps more of the first task than chance",
    "contradicted": "explanation keeps no more of the first task than chance, not by a point",
    "inconclusive": "explanation is not shown to keep more of the first task than chance",
    "no": "nothing to tell: even freezing everything hardly keeps more of the first task",
    "undecided": "one run, which cannot tell",
}


def in_short(claims: pd.DataFrame) -> str:
    """A setting's answer in one line, verdict by verdict: how much more of the first task is kept
    by freezing the filters that explanation chooses than by as many at random."""
    found, said = main_claims(claims), []
    for kind, words in IN_SHORT.items():
        rows = [(share, row) for share, row in found if kind_of(row["verdict"]) == kind]
        shares = _listed([str(share) for share, _ in rows])
        numbers = ", ".join(f"{POINTS.write(row['estimate'])}" for _, row in rows)
        seeds = " / ".join(dict.fromkeys(f"{int(row['n'])}" for _, row in rows))
        if rows:
            said.append(f"{shares} % frozen: {words} ({numbers} points, n = {seeds})")
    return "; ".join(said) or "no verdict: its tables lack explanation and chance at 50 % frozen"


def _range(tables: Mapping[str, pd.DataFrame], claim: str, unit: Unit) -> str:
    """`26.6 to 45.8`: a claim's estimate over settings."""
    return _from_to(_estimates(tables, claim), unit)


def _estimates(tables: Mapping[str, pd.DataFrame], claim: str) -> list[float]:
    return [
        row["estimate"] for t in tables.values() for _, row in t[t["claim"] == claim].iterrows()
    ]


def _same_in(tables: Mapping[str, pd.DataFrame], claim: str) -> str:
    """`84 to 97`: per cent of filters that two choices have in common, over settings."""
    return _from_to([in_common(x) for x in _estimates(tables, claim)], Unit("%", 100, ".0f"))


def _from_to(values: Sequence[float], unit: Unit) -> str:
    if not values:
        return "an unknown number of"
    low, high = unit.write(min(values)), unit.write(max(values))
    return low if low == high else f"{low} to {high}"


# --- rows -----------------------------------------------------------------------------------------


def spoken(text: str) -> str:
    """A claim's sentence without short names of columns."""
    text = text.replace("acc1", "accuracy on task 1").replace("acc2", "accuracy on task 2")
    return text.replace("mse ranking", "MSE ranking")


class Verdict(NamedTuple):
    """A claim as a line of the page; kind: one of SAYS."""

    claim: str
    text: str
    value: str
    unit: str
    n: int
    verdict: str
    kind: str
    sign: str
    room: str


def verdict_of(row: pd.Series) -> Verdict:
    """One line of claims.csv."""
    unit, kind = unit_of(row["claim"]), kind_of(row["verdict"])
    room = "" if pd.isna(row.get("headroom")) else bounded(row, POINTS, "headroom", level=False)
    same = f"; {sameness(row['estimate'])}" if row["claim"] in OVERLAPS else ""
    value, words = bounded(row, unit), unit.words + same
    return Verdict(
        *(row["claim"], spoken(row["text"]), value, words, int(row["n"])),
        *(row["verdict"], kind, SIGNS.get(kind, ""), room),
    )


def verdicts(claims: pd.DataFrame) -> dict[str, list[Verdict]]:
    """What claims are about -> their lines, in the order of GROUPS."""
    found = {title: [] for title, _ in GROUPS}
    for _, row in claims.iterrows():
        title = next(t for t, names in GROUPS if re.fullmatch(names, row["claim"]))
        found[title].append(verdict_of(row))
    return {title: rows for title, rows in found.items() if rows}


def beside_paper(table: pd.DataFrame) -> dict[str, list[dict]]:
    """The paper's tables beside ours (paper_tables.csv): title -> lines; "" for what it does not
    say."""
    table = table.astype(object).where(table.notna(), "")
    lines = [
        {
            **row,
            **{
                f"paper {c}": plain(float(row[f"paper {c}"])) if row[f"paper {c}"] != "" else ""
                for c in ("acc1", "acc2")
            },
        }
        for row in table.to_dict("records")
    ]
    return {
        paper.TITLES.get(name, name): [line for line in lines if line["table"] == name]
        for name in dict.fromkeys(line["table"] for line in lines)
    }


# --- what should I use ----------------------------------------------------------------------------


class Use(NamedTuple):
    """An arm as something one could use: what it keeps, learns, stores and costs, and how far it
    lies above the straight line of weights at equal accuracy on task 2 (side: 1 or -1 where the
    whole interval lies above or below it)."""

    arm: str
    kept: str
    learned: str
    average: float
    stores: str
    cost: str
    n: int
    height: str = ""
    side: int = 0


HALFWAY = (
    "weights averaged half and half"  # the middle of the straight line: no training of its own
)
JOINT = ("joint20", "joint10", "joint")


def uses(
    arms: pd.DataFrame,
    summary: pd.DataFrame,
    timing: pd.DataFrame,
    runs: pd.DataFrame | None = None,
    trajectory: pd.DataFrame | None = None,
) -> list[Use]:
    """Every arm of the summary, highest average accuracy first, and the middle of the straight line
    of weights. cost: the median over seeds of a run's time over that of fine-tuning with the same
    seed, which records the line as well; runs and trajectory: for the height over the line."""
    lines, cost = arms.set_index("arm"), _costs(arms, timing)
    none = runs is None or trajectory is None or trajectory.empty
    above = {} if none else heights(runs, trajectory)
    found = [] if none else _halfway(trajectory)
    for _, row in summary.iterrows():
        line = lines.loc[row["arm"]] if row["arm"] in lines.index else {}
        joint = line.get("curriculum", "") in JOINT
        stores = "all images of the first task" if joint else KEPT.get(line.get("keeps"), "")
        kept, learned, n = _mean(row, "acc1"), _mean(row, "acc2"), int(row["n"])
        use = Use(row["arm"], kept, learned, row["average"], stores, cost.get(row["arm"], ""), n)
        found.append(_over_the_line(use, above.get(row["arm"])))
    return sorted(found, key=lambda use: -use.average)


def _costs(arms: pd.DataFrame, timing: pd.DataFrame) -> dict[str, str]:
    """arm -> `1.3 ×`: its time over fine-tuning's, seed by seed."""
    run = timing["run"].str.rsplit("/", n=2, expand=True)
    table = timing.groupby([run[1], run[0]])["seconds"].median().unstack()
    usual = [a for a in arms.loc[arms["family"] == "finetune", "arm"] if a in table]
    if not usual:
        return {}
    ratio = table.div(table[usual[0]], axis=0).median().dropna()
    return {arm: f"{value:.1f} ×" for arm, value in ratio.items()}


def _over_the_line(use: Use, above: pd.Series | None) -> Use:
    """With its height, and how many seeds that counts where they are not all."""
    if above is None or above.empty:
        return use
    mean, low, high, n = interval(above)
    some = f" ({n} seeds)" if n < use.n else ""
    row = {"estimate": mean, "low": low, "high": high, "high95": high}
    return use._replace(height=bounded(row, POINTS) + some, side=_side(row))


def _halfway(trajectory: pd.DataFrame) -> list[Use]:
    """The middle of the straight line between the weights before and after task 2."""
    line = trajectory[trajectory["control"] == "interpolation"]
    middle = line[np.isclose(line["place"], 0.5)].groupby("seed")[["task1", "task2"]].mean()
    if middle.empty:
        return []
    kept, learned = (spread(middle[task]) for task in ("task1", "task2"))
    average = middle.to_numpy().mean()
    return [Use(HALFWAY, kept, learned, average, KEPT["weights"], "1.0 ×", len(middle))]


def _mean(row: pd.Series, column: str) -> str:
    text = plain(row[column])
    low, high = row[f"{column}_low"], row[f"{column}_high"]
    return text if pd.isna(low) else f"{text} [{plain(low)}, {plain(high)}]"


def advice(found: Sequence[Use]) -> list[str]:
    """Which arm has the highest average of all, and of those that store nothing; and fine-tuning's
    neighbours are not told apart by means alone."""
    if not found:
        return []
    best = found[0]
    said = [
        f"Highest average of both tasks: {best.arm}, {plain(best.average)} (n = {best.n}); it "
        f"stores {best.stores or 'what arms.csv does not say'}."
    ]
    free = [use for use in found if use.stores == KEPT["nothing"]]
    if free and free[0] is not best:
        said.append(
            f"Highest average of those that store nothing but the network: {free[0].arm}, "
            f"{plain(free[0].average)} (n = {free[0].n})."
        )
    if any(use.height for use in found):
        over = [use.arm for use in found if use.side > 0]
        said.append(
            "Shown to keep more of the first task than the straight line of weights, which costs "
            f"no training, at equal accuracy on the second: {_listed(over) or 'no arm'}."
        )
    said.append(
        "Arms whose intervals overlap are not told apart by their order in this table; the "
        "verdicts above compare them seed by seed."
    )
    return said


# --- more than two tasks --------------------------------------------------------------------------


def all_tasks(
    runs: pd.DataFrame, accuracy: pd.DataFrame, masks: pd.DataFrame
) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table over arms, highest mean first: accuracy on every task after the last
    round, their mean, what was forgotten (see `statistics.forgetting`), the share of filters that
    is still free, seeds."""
    tasks = list(runs.filter(regex=r"^acc\d+$"))
    free, rows = _free_at_the_end(masks), []
    for arm, of in runs.groupby("arm", sort=False):
        matrix = accuracy_matrix(runs, accuracy, arm)
        lost = spread(lost_over_rounds(matrix)) if len(matrix) else ""
        ends = [plain(of[task].mean()) for task in tasks]
        left = percent(free[arm]) if arm in free else ""
        mean = average(of)
        rows.append((mean.mean(), [arm, *ends, spread(mean), lost, left, str(len(of))]))
    names = [f"task {task[3:]}" for task in tasks]
    head = ["arm", *names, "mean [95 %]", "forgotten [95 %]", "filters still free", "seeds"]
    return head, [row for _, row in sorted(rows, key=lambda row: -row[0])]


def _free_at_the_end(masks: pd.DataFrame) -> dict[str, float]:
    """arm -> share of all filters that its last round leaves free."""
    if "free" not in masks:
        return {}
    last = masks[masks["round"] == masks["round"].max()]
    sums = (
        last.assign(free=last["free"] * last["filters"]).groupby("arm")[["free", "filters"]].sum()
    )
    return (sums["free"] / sums["filters"]).to_dict()


# --- what each figure lets one conclude -----------------------------------------------------------


def conclusions(read: Read) -> dict[str, str]:
    """Figure -> what its tables say, in a sentence with numbers; figures whose tables are not there
    are left out."""
    said = {}
    for name, (tables, tell) in TOLD.items():
        try:
            found = [read(table) for table in tables]
        except FileNotFoundError:
            continue
        if all(len(table) for table in found) and (sentence := tell(*found)):
            said[name] = sentence
    return said


def of_forest(runs: pd.DataFrame) -> str:
    """The spread of the main differences, and how many intervals leave zero to one side."""
    groups = chance_differences(runs).groupby(["profile", "fraction"])["difference"]
    found = [interval(values) for _, values in groups]
    if not found:
        return ""
    if len(found) == 1:
        names = "estimate", "low", "high", "n"
        return f"The mean difference is {bounded(dict(zip(names, found[0])), POINTS)} points."
    means = [POINTS.write(mean) for mean in (min(f[0] for f in found), max(f[0] for f in found))]
    above, below = (sum(ends) for ends in zip(*((f[1] > 0, f[2] < 0) for f in found)))
    single = sum(n < 2 for *_, n in found)
    words = f", {single} have one seed and no interval" if single else ""
    return (
        f"The mean differences run from {means[0]} to {means[1]} points; of {len(found)}, {above} "
        f"have an interval wholly above zero, {below} wholly below{words}."
    )


def _of_plane(claims: pd.DataFrame) -> str:
    table, parts = claims.set_index("claim"), []
    for claim, other in (
        ("C2b-random", "random freezing"),
        ("C2b-trajectory", "fine-tuning stopped early"),
        ("C2b-interpolation", "the straight line of weights"),
    ):
        if claim in table.index and pd.notna(table.loc[claim, "estimate"]):
            row = table.loc[claim]
            place = "above" if row["estimate"] >= 0 else "below"
            sign = 1 if row["estimate"] >= 0 else -1
            parts.append(f"{bounded(row, _unsigned(POINTS), sign=sign)} points {place} {other}")
    return (
        (
            f"At equal accuracy on task 2, freezing by explanation lies {_listed(parts)} in "
            "accuracy on task 1."
        )
        if parts
        else ""
    )


def _of_epochs(runs: pd.DataFrame, accuracy: pd.DataFrame) -> str:
    tuned = pick(runs, FINE_TUNE)
    rows = rows_of(runs, FINE_TUNE, accuracy)
    rows = rows[(rows["task"] == "task1") & (rows["round"] == 2)] if len(rows) else rows
    if rows.empty or "acc1_before" not in tuned:
        return ""
    start, means = tuned["acc1_before"].mean(), rows.groupby("epoch")["accuracy"].mean()
    return (
        f"Fine-tuning starts from {plain(start)} on task 1, has {plain(means.iloc[0])} after one "
        f"epoch of task 2 and {plain(means.iloc[-1])} after the last."
    )


def _of_retained(summary: pd.DataFrame) -> str:
    part = summary.dropna(subset=["retained"])
    if part.empty:
        return ""
    best = part.loc[part["retained"].idxmax()]
    return (
        f"Most is retained by {best['arm']}: {100 * best['retained']:.0f} % of the accuracy above "
        "chance."
    )


def _of_classes(table: pd.DataFrame) -> str:
    values = table.drop(columns="class").to_numpy(float)
    apart = values[~np.eye(len(values), dtype=bool)].mean()
    return f"Two classes share {apart:.2f} of their choice on average (1 is the same choice)."


def _of_filters(table: pd.DataFrame) -> str:
    first, last = table.iloc[0], table.iloc[-1]
    return (
        f"Started from other noise, a filter's picture correlates with itself at "
        f"{first['correlation']:.2f} in {first['layer']} and {last['correlation']:.2f} in "
        f"{last['layer']} (1 is the same picture)."
    )


def _of_learning(curves: pd.DataFrame) -> str:
    last = curves[(curves["task"] == "task1") & (curves["epoch"] == curves["epoch"].max())]
    return (
        f"Task 1 ends at {plain(last['accuracy'].mean())} before the second task."
        if len(last)
        else ""
    )


def _of_per_class(table: pd.DataFrame) -> str:
    means = table.groupby("class")["accuracy"].mean()
    return (
        f"From {means.idxmin()} ({plain(means.min())}) to {means.idxmax()} "
        f"({plain(means.max())}): what is forgotten is counted from here."
    )


def _of_examined(claims: pd.DataFrame, claim: str, words: str) -> str:
    table = claims.set_index("claim")
    if claim not in table.index:
        return ""
    row = table.loc[claim]
    return f"{words}: {bounded(row, unit_of(claim))}, n = {int(row['n'])}, {row['verdict']}."


def _of_atlas(claims: pd.DataFrame) -> str:
    words = "Rank correlation of the MSE score with the damage, mean of layers"
    return _of_examined(claims, "C5", words)


def _of_reliability(claims: pd.DataFrame) -> str:
    words = "Rank correlation of the MSE ranking with itself made again, in the worst of four ways"
    return _of_examined(claims, "C6", words)


def _of_budget(table: pd.DataFrame) -> str:
    whole = table[(table["layer"] == "all") & np.isclose(table["nominal"], 0.5)]
    shares = whole.set_index("rule")["fraction"]
    if not {"turns", "union"} <= set(shares.index):
        return ""
    return (
        f"Sharing each layer's budget by turns freezes {100 * shares['turns']:.0f} % where 50 % "
        f"are asked for; a list for each class, put together, {100 * shares['union']:.0f} %."
    )


TOLD = {  # figure -> its tables, and what tells of them
    "forest": (("runs",), of_forest),
    "readings": (("readings",), lambda rows: readings.sentence(readings.by_reading(rows))),
    "plane": (("claims",), _of_plane),
    "over_epochs": (("runs", "accuracy"), _of_epochs),
    "retained": (("summary",), _of_retained),
    "overlap": (("claims",), of_the_map),
    "class_overlap": (("class_overlap",), _of_classes),
    "learning_curves": (("accuracy_task1",), _of_learning),
    "per_class": (("per_class",), _of_per_class),
    "filter_grid": (("noise_reliability",), _of_filters),
    "realised": (("realised",), _of_budget),
    "atlas": (("claims_examined",), _of_atlas),
    "reliability": (("claims_examined",), _of_reliability),
}


# --- how it was made ------------------------------------------------------------------------------


def how_made(timing: pd.DataFrame) -> list[tuple[str, str]]:
    """(what, which) of the runs: machines, versions, precision, commits, dates, hours."""
    if timing.empty:
        return []
    day = (
        pd.to_datetime(timing["made"], unit="s").dt.strftime("%Y-%m-%d") if "made" in timing else []
    )
    dirty = int(timing["dirty"].astype(str).eq("True").sum()) if "dirty" in timing else 0
    found = [
        (
            "runs",
            f"{len(timing)}, {timing['seconds'].sum() / 3600:.1f} hours of one process in all "
            f"(median {timing['seconds'].median():.0f} s)",
        ),
        (
            "machines",
            "; ".join(
                f"{p}, {c} cores"
                for p, c in timing[["processor", "cores"]].drop_duplicates().to_numpy()
            ),
        ),
    ]
    for words, column in (("device", "device"), ("precision", "precision"), ("torch", "torch")):
        if column in timing and len(known := timing[column].dropna().unique()):
            found.append(
                (
                    words,
                    _listed([str(x) for x in known])
                    + (" (not recorded for earlier runs)" if timing[column].isna().any() else ""),
                )
            )
    if "commit" in timing:
        commits = timing["commit"].dropna().astype(str).str[:10].unique()
        found.append(
            (
                "commit",
                _listed(list(commits)) + (f"; {dirty} runs from uncommitted code" if dirty else ""),
            )
        )
    if len(day):
        found.append(
            ("made", day.min() if day.min() == day.max() else f"{day.min()} to {day.max()}")
        )
    return found
