"""The grid of readings to a reader: does any reading of the paper beat chance? No torch.

    found = by_reading(rows)     # rows of readings.csv -> a row for each reading, lowest first
    sentence(rows)
    figure(rows)                 # a specification curve (Simonsohn, Simmons & Nelson 2020)

A difference is acc1 of freezing by explanation minus acc1 of its random twin, which freezes as many
filters of every layer, on one checkpoint."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.special import ndtr

from lib.report.statistics import MARGIN, interval

CHOICES = {  # a column of readings.csv -> what it decides, and what its values are called
    "heads": ("heads", {"per_task": "one per task", "shared": "one for both"}),
    "recipe": ("recipe", {}),
    "scope": (
        "frozen of a filter",
        {"weights": "weights and bias", "filter": "its batch norm too"},
    ),
    "rule": ("the classes' lists", {"turns": "by turns", "union": "united"}),
    "heat_map": ("heat map", {"difference": "change from noise"}),
    "class_map": ("class map", {"mean of scaled maps": "mean of scaled maps"}),
}
PALE, DARK, SHADE = "#999999", "#0072B2", "#D55E00"


def with_differences(rows: pd.DataFrame) -> pd.DataFrame:
    """readings.csv with the recipe in words and `difference`: acc1 minus the random twin's."""
    words = [f"momentum {m:g}, batch {b}" for m, b in zip(rows["momentum"], rows["batch_size"])]
    return rows.assign(recipe=words, difference=rows["acc1"] - rows["acc1_random"])


def by_reading(rows: pd.DataFrame) -> pd.DataFrame:
    """A row for each reading, smallest mean difference first: its choices, difference (mean over
    seeds), low and high (95 % t interval; NaN for one seed), spread over seeds, n."""
    found = []
    for choices, part in with_differences(rows).groupby([*CHOICES], sort=False):
        values = part.groupby("seed")["difference"].mean()
        mean, low, high, n = interval(values)
        row = {"difference": mean, "low": low, "high": high, "spread": values.std(ddof=1), "n": n}
        found.append({**dict(zip(CHOICES, choices)), **row})
    return pd.DataFrame(found).sort_values("difference", kind="stable", ignore_index=True)


def comparable(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of readings that all lie on the same seeds, where a grid is still being run: without the
    seeds that lack a reading, or without the readings that lack a seed, whichever leaves more."""
    seeds = rows.groupby("seed")["acc1"].transform("size")
    readings = with_differences(rows).groupby([*CHOICES])["seed"].transform("nunique")
    return max(rows[seeds == seeds.max()], rows[readings == readings.max()], key=len)


def above_and_below(found: pd.DataFrame, margin: float = MARGIN) -> tuple[int, int]:
    """Readings whose mean lies at least the margin above zero, and at least as far below."""
    means = found["difference"].round(12)
    return int((means >= margin).sum()), int((means <= -margin).sum())


def by_luck(found: pd.DataFrame, margin: float = MARGIN) -> float:
    """Of as many readings that make no difference at all, how many would have a mean at least the
    margin above zero: by the spread over seeds, pooled over readings. NaN below two seeds."""
    variance = (found["spread"] ** 2).mean()
    error = np.sqrt(variance / found["n"])
    return float(ndtr(-margin / error).sum()) if variance > 0 else np.nan


def sentence(rows: pd.DataFrame, where: str = "") -> str:
    """How many readings lie above the margin, how many below, and what few seeds cannot say; where:
    words on the network they were run with."""
    found, first = by_reading(comparable(rows)), rows.iloc[0]
    (above, below), n = above_and_below(found), int(found["n"].max())
    points, of = f"{100 * MARGIN:.0f} point", int(first["of_readings"])
    done = f"{len(found)} readings" if len(found) == of else f"{len(found)} of {of} readings"
    one_head = int((found["heads"] == "shared").sum())
    little = f"; the {one_head} with one head have little room to differ" if one_head else ""
    share = round(100 * rows.loc[rows["rule"] == "turns", "realised"].mean())
    said = (
        f"Of {done} of the paper ({where}{share} % of each layer's filters frozen, or each class's "
        f"{share} % united), {above} keep on average at least {points} more of the first task "
        f"than freezing as many filters at random, {below} at least {points} less, and "
        f"{len(found) - above - below} lie between{little}"
    )
    seeds = f"{n} seed{'s' if n > 1 else ''} of each"
    if n < int(first["of_seeds"]):
        seeds += f" so far, of {int(first['of_seeds'])}"
    luck = by_luck(found)
    if np.isnan(luck):
        return f"{said}. With {seeds}, nothing can be said of any one."
    return (
        f"{said}. With {seeds}, about {luck:.0f} would lie above, and as many below, if none made "
        "any difference and all were independent. They are not: readings of one head and recipe "
        f"start from the same network on each seed{_gathered(rows, found)}, and all twins of a "
        "seed share one random order of filters. Which reading is best, so few seeds cannot say."
    )


def _gathered(rows: pd.DataFrame, found: pd.DataFrame) -> str:
    """Of the readings above the margin, how many have the head and recipe that most have, and what
    these come to on each seed."""
    above = found[found["difference"].round(12) >= MARGIN]
    if above.empty:
        return ""
    sizes = above.groupby(["heads", "recipe"]).size()
    (heads, recipe), count = sizes.idxmax(), sizes.max()
    table = with_differences(comparable(rows))
    same = table[(table["heads"] == heads) & (table["recipe"] == recipe)]
    means = [f"{100 * x:+.1f}" for x in same.groupby("seed")["difference"].mean()]
    return (
        f" ({count} of the {len(above)} above have heads {CHOICES['heads'][1][heads]} and "
        f"{recipe}, whose means seed by seed are {', '.join(means)} points)"
    )


def figure(rows: pd.DataFrame) -> Figure:
    """The specification curve: readings sorted by their mean difference, seeds as dots, the margin
    shaded; below, a mark for what each reading chooses."""
    rows = with_differences(comparable(rows))
    found = by_reading(rows)
    lines = [(c, v) for c in CHOICES for v in dict.fromkeys(rows[c])]
    drawn = Figure(figsize=(8.2, 3.4 + 0.17 * (len(lines) + len(CHOICES))), layout="constrained")
    heights = [2.6, 0.17 * (len(lines) + len(CHOICES))]
    top, below = drawn.subplots(2, sharex=True, height_ratios=heights)
    _curve(top, rows, found)
    _choices(below, found, lines)
    drawn.suptitle(
        f"{len(found)} reading{'s' if len(found) > 1 else ''} of the paper, sorted by what "
        f"explanation keeps beyond chance; diamonds: means, dots: seeds "
        f"(n = {found['n'].max()})\nshade: less than "
        f"{100 * MARGIN:.0f} point; orange: a mean at least as far from zero",
        fontsize=9,
    )
    return drawn


def _curve(ax, rows: pd.DataFrame, found: pd.DataFrame) -> None:
    place = {tuple(row[[*CHOICES]]): x for x, row in found.iterrows()}
    x = [place[tuple(row)] for row in rows[[*CHOICES]].to_numpy()]
    ax.axhspan(-100 * MARGIN, 100 * MARGIN, color=PALE, alpha=0.22, lw=0)
    ax.axhline(0, color="k", lw=0.8)
    ax.plot(x, 100 * rows["difference"], "o", ms=2.5, color=PALE, mew=0)
    far = found["difference"].abs().round(12) >= MARGIN
    for some, colour in ((~far, DARK), (far, SHADE)):
        ax.plot(found.index[some], 100 * found["difference"][some], "D", ms=4, color=colour)
    ax.set_ylabel("points of acc1\nexplanation minus chance")
    ax.grid(axis="x", visible=False)
    ax.tick_params(axis="x", length=0)


def _choices(ax, found: pd.DataFrame, lines: list[tuple[str, str]]) -> None:
    y, places, words = 0.0, [], []
    for i, (column, value) in enumerate(lines):
        title, names = CHOICES[column]
        first = i == 0 or lines[i - 1][0] != column
        y += 1.6 if first and i else 1
        chosen = found.index[found[column] == value]
        ax.plot(chosen, np.full(len(chosen), y), "|", color="k", ms=5, mew=1)
        places.append(y)
        words.append(f"{title}:  {names.get(value, value)}" if first else names.get(value, value))
    ax.set_yticks(places, words, fontsize=7.5)
    ax.set(ylim=(y + 0.8, 0.2), xticks=[], xlabel="readings, smallest difference first")
    ax.grid(False)


def from_tables(read: Callable[[str], pd.DataFrame]) -> dict[str, Figure]:
    """The figure by name, where there is such a table."""
    try:
        rows = read("readings")
    except FileNotFoundError:
        return {}
    return {"readings": figure(rows)} if len(rows) else {}
