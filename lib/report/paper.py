"""What the paper says, once: its numbers, its prose, and which ranking is its own. No torch."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from lib.report.statistics import FINE_TUNE, JOINT, frozen_by

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
