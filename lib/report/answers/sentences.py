"""The answer in a few sentences, of one setting and over several."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from lib.report.answers.numbers import (
    POINTS,
    Unit,
    bounded,
    kind_of,
    listed,
    main_claims,
    side,
    unit_of,
    unsigned,
)
from lib.report.claims import ROOM
from lib.report.statistics import average, in_common, interval, paired, tasks_in
from lib.report.words import headline, sameness

SAYS = {  # a verdict's first word -> what it says of freezing by explanation
    "supported": "keeps more of the first task than freezing as many at random",
    "contradicted": "does not keep a point more of the first task than freezing as many at random",
    "inconclusive": "is not shown to keep more of the first task than freezing as many at random",
    "undecided": "cannot be told by a single seed from freezing as many at random",
    "no": "has no room here to keep more of the first task than freezing as many at random",
}
SETTINGS_SAY = {  # the same, of the settings that an overview lists
    "supported": "it keeps more than random freezing",
    "contradicted": "it does not keep a point more than random freezing",
    "inconclusive": "it is not shown to keep more than random freezing",
    "no": "there is no room to tell, since even freezing every filter keeps less than "
    f"{100 * ROOM:.0f} points more than freezing none",
    "undecided": "a single seed cannot tell",
}


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
    kept = bounded(row, unsigned(POINTS), "headroom")
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
        lost = bounded(table.loc["C0"], unsigned(POINTS))
        parts.append(
            f"with nothing frozen, learning {later} costs {lost} points of accuracy on the first"
        )
    if "C2b-interpolation" in table.index and pd.notna(table.loc["C2b-interpolation", "estimate"]):
        row = table.loc["C2b-interpolation"]
        sign, word = (-1, "more") if row["estimate"] < 0 else (1, "less")
        number = bounded(row, unsigned(POINTS), sign=sign)
        said = {
            -1: f"keeps {number} points more of the first task than freezing by explanation",
            1: f"keeps {number} points less of the first task than freezing by explanation",
            0: "is not told apart from freezing by explanation in what it keeps of the first task "
            f"({number} points {word}, n = {int(row['n'])})",
        }[side(row)]
        parts.append(
            "at equal accuracy on the second, averaging the weights from before and after it, "
            f"which costs no training, {said}"
        )
    text = "; ".join(parts) or "these tables do not tell what is forgotten"
    return text[0].upper() + text[1:] + "."


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
    second = _range(two, "C0", unsigned(POINTS))
    sides = [
        side(row)
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
        said.append(f"It does in {listed(yes)}." if yes else "No setting shows that it does.")
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
    means = listed([POINTS.write(row["estimate"]) for row in rows])
    shares = listed([f"{share}" for share, _ in found])
    low, high = min(row["low"] for row in rows), max(row["high"] for row in rows)
    reach = f", with intervals between {POINTS.write(low)} and {POINTS.write(high)}"
    room = rows[0].get("headroom")
    whole = (
        ""
        if pd.isna(room)
        else f" (where freezing every filter keeps {unsigned(POINTS).write(room)} points more "
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
            shares = listed([f"{share}" for share, _ in of_kind])
            seeds = " / ".join(dict.fromkeys(str(n) for _, n in of_kind))
            if of_kind:
                where.append(f"{name} ({shares} % frozen, n = {seeds})")
        if where:
            said.append(f"{words}: {listed(where)}")
    return "; ".join(said)


NAMED = 4  # other methods that a sentence names


def _over_methods(runs: Mapping[str, pd.DataFrame]) -> list[str]:
    """A sentence on the setting in which most other methods have run; none if none has."""
    found = {name: against_methods(table) for name, table in runs.items()}
    name = max(found, key=lambda name: len(found[name][1]), default=None)
    if name is None or not (others := found[name][1]):
        return []
    ours, better = found[name][0], [o for o in others if o.low > 0]
    named = listed([f"{o.arm} ({o.written()})" for o in better[:NAMED]])
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
        shares = listed([str(share) for share, _ in rows])
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
