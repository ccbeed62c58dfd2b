"""The answer over several settings in three plain sentences, for whoever reads no further."""

from collections.abc import Mapping

import pandas as pd

from lib.report.answers.explained import examined_most
from lib.report.answers.sentences import TELLING, Other, against_methods, between_classes, same_in
from lib.report.numbers import (
    POINTS,
    Read,
    bounded,
    kind_of,
    listed,
    main_claims,
    side,
    unit_of,
    unsigned,
)
from lib.report.statistics import tasks_in

Tables = Mapping[str, pd.DataFrame]


def in_three(claims: Tables, runs: Tables, reads: Mapping[str, Read]) -> list[str]:
    """The main question; what keeps more; what the choice depends on and what its score tells.
    Empty where no claim on the main question could be told. Each: a setting's name -> its table;
    reads: its tables by name."""
    found = {name: [row for _, row in main_claims(table)] for name, table in claims.items()}
    telling = {
        name: max(int(row["n"]) for row in rows)
        for name, rows in found.items()
        if any(kind_of(row["verdict"]) in TELLING for row in rows)
    }
    if not telling:
        return []
    name = max(telling, key=telling.get)
    said = [_of_chance(name, found), _of_others(claims, runs), _of_the_choice(claims, reads)]
    return [sentence for sentence in said if sentence]


def _of_chance(name: str, found: Mapping[str, list[pd.Series]]) -> str:
    yes = [n for n, rows in found.items() if any(row["verdict"] == "supported" for row in rows)]
    rows = found[name]
    who = f"{listed(yes)} show{'s' * (len(yes) == 1)}" if yes else "No setting shows"
    ends = sorted({POINTS.write(row["estimate"]) for row in rows}, key=float)
    apart = " and ".join(ends[:: max(1, len(ends) - 1)])
    between = f"lies between {apart}" if len(ends) > 1 else f"is {apart}"
    room = rows[0].get("headroom")
    whole = (
        f", where freezing every filter keeps {unsigned(POINTS).write(room)} points more than "
        "freezing none"
        if pd.notna(room)
        else ""
    )
    return (
        f"{who} that freezing by explanation keeps more of the first task than freezing as many "
        f"filters at random: in {name} ({max(int(row['n']) for row in rows)} seeds) the mean "
        f"difference {between} points, by the share frozen{whole}."
    )


def _of_others(claims: Tables, runs: Tables) -> str:
    """Of the straight line of weights, and of the setting in which most other methods have run."""
    lower = [
        side(row) < 0
        for name, table in claims.items()
        if tasks_in(runs.get(name, pd.DataFrame())) == 2
        for _, row in table[table["claim"] == "C2b-interpolation"].iterrows()
    ]
    if not lower:
        return ""
    methods = {name: _but_averages(table) for name, table in runs.items()}
    name = max(methods, key=lambda name: len(methods[name]), default=None)
    others = methods.get(name, [])
    better = sum(other.low > 0 for other in others)
    more = (
        f"; of {len(others)} further methods that ask no explanation, {better} are more accurate "
        f"over both tasks than the paper's way at its best share in {name}"
    )
    return (
        "Averaging the weights from before and after the second task, which needs no training of "
        "its own, keeps more of the first than freezing by explanation, at equal accuracy on the "
        f"second, in {sum(lower)} of {len(lower)} settings of two tasks{more if others else ''}."
    )


def _but_averages(runs: pd.DataFrame) -> list[Other]:
    """The methods beside the paper's way that do not average weights."""
    averages = runs.loc[runs["method"].str.startswith("merge"), "arm"].unique()
    return [other for other in against_methods(runs)[1] if other.arm not in averages]


def _of_the_choice(claims: Tables, reads: Mapping[str, Read]) -> str:
    verdicts = [
        kind_of(row["verdict"])
        for table in claims.values()
        for _, row in table[table["claim"] == "C5b"].iterrows()
    ]
    if not verdicts:
        return ""
    told = set(verdicts) - {"undecided", "inconclusive"}  # of settings with few seeds
    hardly = "hardly depends" if told == {"contradicted"} else "depends"
    said = (
        f"Which half of the filters is chosen {hardly} on the class: {same_in(claims, 'C5b')} % of "
        f"them are those that the mean map of all classes chooses{_class_by_class(reads)}"
    )
    if not (most := examined_most(reads)):
        return f"{said}."
    row = most[1].set_index("claim").loc["C5"]
    tells = "tells" if kind_of(row["verdict"]) == "supported" else "is not shown to tell"
    return (
        f"{said}; and a filter's score {tells} what the network loses without it (rank correlation "
        f"{bounded(row, unit_of('C5'))}, {int(row['n'])} seeds)."
    )


def _class_by_class(reads: Mapping[str, Read]) -> str:
    """What the choices of two single classes have in common, over settings."""
    same = between_classes(reads)
    return f", and two single classes' choices share {same} % (one network each)" if same else ""
