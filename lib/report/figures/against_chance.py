"""The main answer: freezing by explanation minus freezing at random."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.report import paper
from lib.report.claims import headroom
from lib.report.figures.style import (
    BLUE,
    GREY,
    VERMILLION,
    counted,
    in_words,
    ink,
    new,
    seeds_of,
    standing_out,
)
from lib.report.statistics import MARGIN, frozen_by, interval, paired, pick

SEEDS_AWAY = 2.5  # how far a forest reaches, in its farthest seed's distance from 0


def chance_differences(runs: pd.DataFrame, column: str = "acc1") -> pd.DataFrame:
    """The paper's ranking minus random in acc1, or another column, paired on the checkpoint:
    profile, fraction, seed, difference. runs: of one profile or several. Empty where nothing
    pairs."""
    found = []
    for profile, part in runs.groupby("profile", sort=False):
        shares = pick(part, frozen_by(paper.RANKING))["fraction"].unique()
        for share in sorted(s for s in shares if 0 < s < 1):
            pair = [frozen_by(ranking, share) for ranking in (paper.RANKING, "random")]
            for seed, value in paired(part, *pair, column).items():
                found.append((profile, share, seed, value))
    return pd.DataFrame(found, columns=["profile", "fraction", "seed", "difference"])


def _room_words(runs: pd.DataFrame) -> str:
    """What freezing everything keeps beyond fine-tuning."""
    mean, low, high = (100 * x for x in headroom(runs, "weights"))
    if np.isnan(mean):
        return "room not measured"
    return f"room {mean:+.1f}" + ("" if np.isnan(low) else f" [{low:+.1f}, {high:+.1f}]")


def forest(runs: pd.DataFrame, names: Mapping[str, str] | None = None) -> Figure:
    """The main answer: the paper's ranking minus random in acc1, in points, at every fraction of
    every profile: mean, 95 % t interval over seeds, seeds as dots; differences within the margin of
    one point lie in the shade. An interval that is far wider than the seeds lie apart ends in
    an arrow at the edge. *Room*: all frozen minus fine-tuning, what any choice could protect.

    names: profile -> what to call it; by its own name, if not given. Raises ValueError where no
    fraction has both arms."""
    table = chance_differences(runs)
    if table.empty:
        raise ValueError(
            "no checkpoint has both the paper's ranking and random freezing at one fraction: "
            "expected such arms (see profiles/)"
        )
    groups = table.groupby("profile", sort=False)
    lines = len(table.groupby(["profile", "fraction"])) + 1.2 * len(groups)
    figure, ax = new(7.2, 0.34 * lines + 1.3)
    ax.axvspan(-100 * MARGIN, 100 * MARGIN, color=GREY, alpha=0.22, lw=0)
    ax.axvline(0, color=ink(), lw=0.8)
    y, places, words = 0.0, [], []
    for profile, part in groups:
        name = (names or {}).get(profile, in_words(profile))
        room = _room_words(runs[runs["profile"] == profile])
        heading = {"transform": ax.get_yaxis_transform(), "fontsize": 8.5, "va": "center"}
        ax.text(0.01, y, name, weight="bold", **heading)
        ax.text(0.99, y, room, ha="right", **heading)
        for share, rows in part.groupby("fraction"):
            y += 1
            n = _difference(ax, y, 100 * rows["difference"])
            places.append(y)
            words.append(f"{100 * share:.0f} % frozen, {counted(n)}")
        y += 1.2
    far = 100 * table["difference"].abs().max()
    reach = 1.08 * max(2, min(np.abs(ax.dataLim.intervalx).max(), SEEDS_AWAY * far))
    _arrows(ax, reach)
    ax.set(xlim=(-reach, reach), ylim=(y - 0.4, -0.6), yticks=places, yticklabels=words)
    ax.set_xlabel("points of accuracy on task 1: left, random keeps more; right, explanation")
    ax.grid(axis="y", visible=False)
    figure.suptitle(
        "freezing by explanation minus freezing at random; bars: 95 % over seeds, dots: seeds\n"
        f"shade: less than {100 * MARGIN:.0f} point; room: all frozen minus fine-tuning",
        fontsize=9,
    )
    return figure


def _arrows(ax, reach: float) -> None:
    """At the edge, where an interval goes on beyond the picture: two seeds' can be that wide."""
    for bar in ax.collections:
        for (left, y), (right, _) in bar.get_segments():
            for end, mark in ((left, "<"), (right, ">")):
                if abs(end) > reach:
                    look = {"color": standing_out(BLUE), "ms": 7, "clip_on": False, "zorder": 4}
                    ax.plot(np.sign(end) * reach, y, mark, **look)


def _difference(ax, y: float, values: pd.Series) -> int:
    """Mean and interval on a line, seeds just below it; returns how many."""
    look = {"marker": "D", "color": standing_out(BLUE), "ms": 6, "elinewidth": 1.8, "capsize": 3}
    mean, low, high, n = interval(values)
    across = y + 0.22 + np.linspace(0, 0.16, n)  # dots below the line, not on each other
    ax.plot(values, across, "o", ms=3, color=VERMILLION, alpha=0.7, mew=0)
    bounds = None if n < 2 else [[mean - low], [high - mean]]
    ax.errorbar(mean, y, xerr=bounds, zorder=3, **look)
    return n


def message(runs: pd.DataFrame) -> str:
    """The main answer in a line: how the paper's ranking differs from random over its fractions,
    and what room there was. "" where nothing pairs."""
    table = chance_differences(runs)
    if table.empty:
        return ""
    shares = table.groupby("fraction")
    means, n = 100 * shares["difference"].mean(), seeds_of(part for _, part in shares)
    spread, at = f"{means.min():+.1f} to {means.max():+.1f}", ""
    if len(means) == 1:
        spread, at = f"{means.iloc[0]:+.1f}", f" at {100 * means.index[0]:.0f} %"
    room = 100 * headroom(runs, "weights")[0]
    notes = [] if np.isnan(room) else [f"room: {room:.1f}"]
    notes += [] if n == counted(runs["seed"].nunique()) else [n]
    said = f" ({'; '.join(notes)})" if notes else ""
    return f"explanation keeps {spread} points more than random{at}{said}"
