"""What the paper says, once: its numbers, its prose, and which ranking is its own. No torch."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd

from lib.report.statistics import FINE_TUNE, JOINT, by_seed, checkpoints, frozen_by, pick

RANKING = "mse"  # the paper's ranking: by the mean squared error of two maps
CLASSES = 10  # of each of its tasks
# the six numbers its prose gives (its tables are pictures): before round 2, and at a share frozen
NUMBERS = {
    "before": {"acc1": 0.4566, "acc2": 0.1322},
    0.25: {"acc1": 0.207, "acc2": 0.392},
    0.75: {"acc1": 0.384, "acc2": 0.257},
}


class Row(NamedTuple):
    """One row of its tables: what we call it, the arm it is, the numbers its prose gives, and what
    the prose says of cells that only its pictures hold."""

    table: str
    name: str
    arm: Mapping
    numbers: Mapping = MappingProxyType({})
    words: str = ""


NETWORK_IN = ("S1", "S2", "T")  # settings with the network it names, a whole VGG16
POST_HOC = ("S1", "S2", "T", "K", "KT")  # settings asked which comes nearest to its numbers
TITLES = {  # its tables, what they ask
    "before": "Before the second task",
    "Table 1": "Table 1: how many filters are frozen",
    "Table 2": "Table 2: how the filters are chosen",
    "Table 3": "Table 3: both tasks trained at once",
}
BEFORE = "before round 2"  # the row that is no arm's end: the checkpoints fine-tuning starts from
TABLES = (
    Row("before", BEFORE, FINE_TUNE, NUMBERS["before"]),
    Row("Table 1", "MSE 25 %", frozen_by(RANKING, 0.25), NUMBERS[0.25]),
    Row("Table 1", "MSE 75 %", frozen_by(RANKING, 0.75), NUMBERS[0.75]),
    Row(
        "Table 2",
        "MSE 50 %",
        frozen_by(RANKING, 0.5),
        words="acc1 roughly ten points below .457; best average of all metrics",
    ),
    Row("Table 2", "random 50 %", frozen_by("random", 0.5), words="clearly worse on acc1"),
    Row("Table 2", "Pearson 50 %", frozen_by("pearson", 0.5), words="not useful"),
    Row(
        "Table 3",
        "joint 20-way",
        JOINT,
        words="one accuracy over 20 classes, five points below MSE-freezing",
    ),
)


def nearness(runs: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """How far each setting lies from the paper's six numbers, nearest first: setting, our mean
    minus the paper's for each (acc1 before, ..., acc2 at 75 %), `off`, the root of their mean
    square, and n, the fewest seeds behind one. Settings without all six, or outside POST_HOC, are
    left out. runs: a setting's name -> its rows."""
    found = []
    for name, rows in runs.items():
        if len(rows) and rows["setting"].iloc[0] in POST_HOC:
            ours = {(place, c): _ours(rows, place, c) for place, of in NUMBERS.items() for c in of}
            off = {k: values.mean() - NUMBERS[k[0]][k[1]] for k, values in ours.items()}
            line = {f"{c} {_place(place)}": x for (place, c), x in off.items()}
            root, n = np.sqrt(np.mean(np.square([*off.values()]))), min(map(len, ours.values()))
            found += [{"setting": name, **line, "off": root, "n": n}] if n else []
    table = pd.DataFrame(found)
    return table.sort_values("off", kind="stable", ignore_index=True) if found else table


def _ours(runs: pd.DataFrame, place: str | float, column: str) -> pd.Series:
    if place == "before":
        return by_seed(checkpoints(runs), f"{column}_before")
    return by_seed(pick(runs, frozen_by(RANKING, place)), column)


def _place(place: str | float) -> str:
    return place if place == "before" else f"{100 * place:.0f} %"


def nearest(table: pd.DataFrame) -> str:
    """`nearness` in a sentence; "" without any setting that has all six."""
    if table.empty:
        return ""
    lines = [
        f"{row['setting']} ({100 * row['off']:.1f} points, n = {row['n']})"
        for _, row in table.iterrows()
    ]
    rest = f", then {', '.join(lines[1:])}" if lines[1:] else ""
    return (
        "Which setting comes nearest to the six numbers the paper's text gives, asked only after "
        f"all had been seen: {lines[0]}{rest} (points: root mean square over the six)."
    )
