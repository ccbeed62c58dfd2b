"""What every sentence is made of: an estimate in its unit with its interval, the first word of a
verdict, the lines of a table that answer the study's question."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from lib.report.statistics import ALPHA

Read = Callable[[str], pd.DataFrame]
MAIN = re.compile(r"C2-random(?:-(\d+))?")  # the question, at 50 % or at the fraction it names


class Unit(NamedTuple):
    """How an estimate is written: what it is counted in, its factor and format; most: what the
    number itself cannot exceed, either side of zero."""

    words: str
    factor: float
    form: str
    most: float = np.inf

    def write(self, value: float) -> str:
        text = f"{self.factor * value:{self.form}}"
        return text if float(text) else text.replace("-", "+" if "+" in self.form else "")


POINTS = Unit("points", 100, "+.1f", 1)
UNITS = (  # claims by the start of their name; the first that fits; points for all others
    ("C1-", Unit("points for each 10 % frozen", 10, "+.1f")),
    ("C2c-gain", Unit("gained for 1 lost", 1, ".2f")),
    ("C2c-average", Unit("mean rank, 1 is best", 1, ".1f")),
    ("C4-", Unit("% accuracy", 100, ".1f", 1)),
    ("C5b", Unit("overlap, 1 is the same choice", 1, ".2f", 1)),
    ("C5c", Unit("overlap, 1 is the same choice", 1, ".2f", 1)),
    ("C5", Unit("rank correlation", 1, "+.2f", 1)),
    ("C6", Unit("rank correlation", 1, "+.2f", 1)),
)


def percent(level: float) -> str:
    """`98.75 %`: the level of an interval, as a line that shows one says it."""
    return f"{100 * level:.4g} %"


def unit_of(claim: str) -> Unit:
    """What a claim's estimate is counted in."""
    return next((unit for start, unit in UNITS if claim.startswith(start)), POINTS)


def bounded(
    row: Mapping, unit: Unit, name: str = "estimate", sign: float = 1, level: bool = True
) -> str:
    """`+0.4 [-0.2, +1.1 at 97.5 %]`: a number and its interval, if it has one, with the interval's
    level where the row says it (room's is 95 %) and `level` is asked for, without the unit's
    words. An interval of two or three seeds may be wider than anything there is to measure: it is
    said, and its ends are left out."""
    low, high = ("low", "high") if name == "estimate" else (f"{name}_low", f"{name}_high")
    if pd.isna(row[name]):
        return "no common range"
    bounds = sorted((sign * row[low], sign * row[high]))
    text = unit.write(sign * row[name])
    of = row.get("level") if name == "estimate" else 1 - ALPHA
    at = "" if of is None or not level else f" at {percent(of)}"
    if np.isnan(bounds).any():
        return text
    if max(-bounds[0], bounds[1]) > unit.most:
        return f"{text} [wider than the scale{at}]"
    return f"{text} [{', '.join(map(unit.write, bounds))}{at}]"


def kind_of(verdict: str) -> str:
    """Its first word: a key of SAYS."""
    return str(verdict).split()[0]


def says(verdict: str) -> str:
    """What it comes to, a key of the sentences' words: *equivalent* where the difference is shown
    to lie within the margin (unless it is supported), else the verdict's first word."""
    kind = kind_of(verdict)
    return "equivalent" if "equivalent" in verdict and kind != "supported" else kind


def main_claims(claims: pd.DataFrame) -> list[tuple[int, pd.Series]]:
    """(per cent frozen, its line) of the study's question, by fraction."""
    found = [(MAIN.fullmatch(str(row["claim"])), row) for _, row in claims.iterrows()]
    return sorted(((int(hit[1] or 50), row) for hit, row in found if hit), key=lambda x: x[0])


def listed(parts: Sequence[str]) -> str:
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else "".join(parts)


def unsigned(unit: Unit) -> Unit:
    return unit._replace(form=unit.form.lstrip("+"))


def side(row: Mapping) -> int:
    """-1 or 1 where the whole 95 % interval lies below or above zero, else 0; 0 for a single
    seed."""
    low = row.get("low95", row["low"])  # a table of before has no such column, and low at 95 %
    return int(low > 0) - int(row["high95"] < 0)
