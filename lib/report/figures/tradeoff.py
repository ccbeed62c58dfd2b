"""What is kept of task 1 against what is learned of task 2: the plane, and arm by arm."""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lib.report import paper
from lib.report.beside import apart, best_share
from lib.report.figures.against_chance import message
from lib.report.figures.style import (
    GREY,
    VERMILLION,
    Look,
    caption,
    counted,
    ground,
    in_order,
    ink,
    legend_below,
    line_of,
    looks_of,
    new,
    percent,
    seeds_of,
    spread,
    standing_out,
    written,
)
from lib.report.statistics import (
    MARGIN,
    by_seed,
    checkpoints,
    gained,
    interval,
    retained,
    tasks_in,
)

CONTROLS = {  # no arms: they cost no training of their own
    "trajectory": ("fine-tuning's trajectory", ":", VERMILLION),
    "interpolation": ("line of weights, before to after", "--", GREY),
}
ACC2 = (  # of two tasks, of more
    "acc2: test accuracy on task 2 (plasticity)",
    "acc2: test accuracy on task 2 after the last task (what is left of it)",
)
LINE = 0.15  # inches from one label to the next
TOGETHER = 0.09  # of a panel: marks of one fraction that lie closer share their number
MOST_NAMES = 24  # in a panel; with more, none is found


class Mark(NamedTuple):
    """One arm in the plane: its rows and look; note: its fraction, where its label has several;
    curve: the label whose curve it is part of, "" for none; words: what is written beside it, ""
    where its curve has its name elsewhere."""

    arm: str
    rows: pd.DataFrame
    look: Look
    note: str
    curve: str
    words: str

    @property
    def place(self) -> tuple[float, float]:
        """Means of acc2 and acc1 over seeds."""
        return by_seed(self.rows, "acc2").mean(), by_seed(self.rows, "acc1").mean()


def _marks(runs: pd.DataFrame, arms: pd.DataFrame) -> list[Mark]:
    """The arms of the plane: label by label along their fractions, then those on no curve."""
    looks, marks = looks_of(arms), []
    lines = pd.DataFrame([line_of(arms, arm) for arm in in_order(arms, runs["arm"])])
    fractions = lines["fraction"].astype(float)
    on_curve = (fractions > 0) & (fractions < 1)
    for label, members in lines[on_curve].groupby("label", sort=False):
        shares = sorted(members["fraction"].unique())
        names = [members[members["fraction"] == share]["arm"] for share in shares]
        rows = [runs[runs["arm"].isin(some)] for some in names]
        words = f"{label} {', '.join(f'{100 * f:.0f}' for f in shares)} %, {seeds_of(rows)}"
        for share, some, part in zip(shares, names, rows):
            note = f"{100 * share:.0f}" * (len(shares) > 1)
            said = words if share == shares[0] else ""
            marks.append(Mark(some.iloc[0], part, looks[label], note, label, said))
    for arm, label in zip(lines["arm"][~on_curve], lines["label"][~on_curve]):
        rows = runs[runs["arm"] == arm]
        marks.append(Mark(arm, rows, looks[label], "", "", f"{arm}, {seeds_of([rows])}"))
    return marks


def _cross(ax, mark: Mark) -> None:
    """Mean of an arm with its 95 % intervals (t, over seeds; none for a single seed)."""
    (x, x0, x1, n), (y, y0, y1, _) = (interval(by_seed(mark.rows, c)) for c in ("acc2", "acc1"))
    bars = {} if n < 2 else {"xerr": [[x - x0], [x1 - x]], "yerr": [[y - y0], [y1 - y]]}
    size = 6 if mark.curve else 8
    ax.errorbar(x, y, ls="", ms=size, elinewidth=0.8, **mark.look.shape, **bars)


def _draw_marks(ax, marks: Sequence[Mark]) -> None:
    """Crosses, and for each label a curve through its means."""
    for mark in marks:
        _cross(ax, mark)
    for label in dict.fromkeys(mark.curve for mark in marks if mark.curve):
        parts = [mark for mark in marks if mark.curve == label]
        look = parts[0].look
        ax.plot(*np.array([m.place for m in parts]).T, look.dash, lw=1, color=look.colour)


def _without_names(marks: Sequence[Mark], box) -> tuple[list[Mark], list[Mark]]:
    """(marks to be drawn in full, marks that are dots): rankings that freeze a single share, where
    the box would hold more names than can be told apart."""
    crowd = [mark for mark in marks if _inside(mark, box)]
    if sum(bool(mark.words) for mark in crowd) <= MOST_NAMES:
        return [*marks], []
    single = [m for m in crowd if m.curve and not m.note and set(m.rows["method"]) == {"freeze"}]
    return [mark for mark in marks if mark not in single], single


def _draw_dots(ax, marks: Sequence[Mark]) -> None:
    if marks:
        words = f"{len(marks)} more rankings, each at one share (names: table of arms)"
        ax.plot(*np.array([m.place for m in marks]).T, "o", ms=4, color=GREY, mew=0, label=words)


def _draw_controls(ax, trajectory: pd.DataFrame | None) -> None:
    """Fine-tuning's trajectory and the straight line of weights."""
    if trajectory is None or trajectory.empty:
        return
    for control, (words, dash, tint) in CONTROLS.items():
        rows = trajectory[trajectory["control"] == control]
        places = rows.groupby(["place", "seed"])[["task1", "task2"]].mean()
        mean = places.groupby("place").mean()
        ax.plot(mean["task2"], mean["task1"], dash, color=tint, lw=1.6, label=words)


def _draw_paper(ax, setting: str) -> None:
    """The paper's three points, and whether they are this network's."""
    words = "the paper, one run" + ("" if setting in paper.NETWORK_IN else ": another network")
    for i, row in enumerate(row for row in paper.TABLES if row.numbers):
        place = row.numbers["acc2"], row.numbers["acc1"]
        ax.plot(*place, "x", color=standing_out("#555555"), ms=6, label=None if i else words)
        ax.annotate(
            f"paper: {row.name}",
            place,
            xytext=(5, -9),
            textcoords="offset points",
            fontsize=7,
            style="italic",
            bbox={"fc": ground(), "ec": "none", "alpha": 0.7, "pad": 0.5},
        )


def _box(marks: Sequence[Mark]) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """The limits in acc2 and acc1 of what is to be enlarged: the means of freezing in part and of
    fine-tuning, and a margin. None where no arm is frozen in part."""
    near = [mark for mark in marks if mark.curve]
    if not near:
        return None
    tuned = [m for m in marks if set(m.rows["method"]) == {"finetune"}]
    near += [m for m in tuned if set(m.rows["curriculum"]) == {"sequence"}]
    limits = []
    for found in np.array([mark.place for mark in near]).T:
        margin = max(0.15 * np.ptp(found), 0.005)
        limits.append((max(0, found.min() - margin), min(1, found.max() + margin)))
    return tuple(limits)


def _inside(mark: Mark, box) -> bool:
    return bool(box) and all(low <= x <= high for x, (low, high) in zip(mark.place, box))


def _draw_notes(ax, marks: Sequence[Mark]) -> None:
    """The fraction beside the marks that have it: once, below and left of all that lie so close
    that their numbers would cover each other."""
    size = np.array([np.ptp(ax.get_xlim()), np.ptp(ax.get_ylim())])
    for note in dict.fromkeys(mark.note for mark in marks if mark.note):
        groups: list[list[np.ndarray]] = []
        for place in (np.array(mark.place) for mark in marks if mark.note == note):
            near = [g for g in groups if any((abs(place - p) < TOGETHER * size).all() for p in g)]
            groups = [g for g in groups if not any(g is n for n in near)]
            groups.append([place, *(p for g in near for p in g)])
        for group in groups:
            place = np.min(group, axis=0)
            ax.annotate(
                note,
                place,
                xytext=(-9, -9),
                textcoords="offset points",
                ha="right",
                va="top",
                fontsize=8,
                color=ink(),
            )


def _draw_names(ax, marks: Sequence[Mark], height: float) -> None:
    """Names in a column at the right, in the order of their marks, each tied to its own. height: of
    the panel, in inches."""
    named = sorted((m for m in marks if m.words), key=lambda m: (m.place[1], m.words))
    if not named:
        return
    low, high = ax.get_ylim()
    places = [np.clip((mark.place[1] - low) / (high - low), 0, 1) for mark in named]
    for mark, y in zip(named, spread(places, LINE / height)):
        ax.annotate(
            mark.words,
            mark.place,
            xytext=(1.03, y),
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            color=written(mark.look.colour),
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "lw": 0.5,
                "alpha": 0.6,
                "color": mark.look.colour,
                "shrinkA": 1,
                "shrinkB": 3,
                "relpos": (0, 0.5),
            },
        )


def plane(
    runs: pd.DataFrame,
    arms: pd.DataFrame,
    trajectory: pd.DataFrame | None = None,
    beside_paper: bool = True,
) -> Figure:
    """The stability-plasticity plane: acc1 against acc2. A curve over fractions for each label,
    fine-tuning's own trajectory, the straight line of weights, the bounds, and the paper's three
    points where they apply. Above the whole plane; below, where filters are frozen in part,
    freezing and fine-tuning enlarged, with the fraction (per cent) at each mark that has
    neighbours. Every arm has its name beside it once, where it is seen best; where there are too
    many to be told apart, rankings tried at a single share are dots without."""
    marks = _marks(runs, arms)
    box = _box(marks)
    marks, dots = _without_names(marks, box)
    inner = [mark for mark in marks if _inside(mark, box)]
    outer = [mark for mark in marks if not _inside(mark, box)]
    most = max(sum(bool(m.words) for m in part) for part in (inner, outer))
    height = max(3.6, LINE * most)
    panels = 2 if box else 1
    figure, axes = new(7.6, panels * (height + 0.7) + 1.0, nrows=panels, squeeze=False)
    whole, *near = axes[:, 0]
    for ax in axes[:, 0]:
        _draw_dots(ax, dots)
        _draw_marks(ax, marks)
        _draw_controls(ax, trajectory)
        ax.set_xlabel(ACC2[tasks_in(runs) > 2])
        ax.set_ylabel("acc1: test accuracy on task 1 (stability)")
        percent(ax, "xy")
    start = checkpoints(runs)
    if len(start):
        means = (by_seed(start, f"acc{task}_before").mean() for task in (2, 1))
        whole.plot(*means, "+", color=ink(), ms=10, mew=2, label="before round 2")
    if beside_paper:
        _draw_paper(whole, runs["setting"].iloc[0])
    ends = box or ((0, 0), (0, 0))
    whole.set_xlim(0, min(1, max(whole.get_xlim()[1], ends[0][1] + 0.01)))
    whole.set_ylim(0, min(1, max(whole.get_ylim()[1], ends[1][1] + 0.01)))
    _draw_names(whole, outer, height)
    for ax in near:
        ax.set(xlim=box[0], ylim=box[1])
        ax.set_title("the box, enlarged; numbers: % of the filters frozen", fontsize=9)
        _draw_notes(ax, marks)
        _draw_names(ax, inner, height)
        size = (box[0][1] - box[0][0], box[1][1] - box[1][0])
        frame = Rectangle((box[0][0], box[1][0]), *size, fill=False, ec=ink(), lw=0.8, zorder=1)
        whole.add_patch(frame)
    several = runs["seed"].nunique() > 1
    words = "; means with 95 % intervals over seeds" if several else ": no intervals"
    said = message(runs)
    said = "\n".join(textwrap.wrap(said, 78)) + "\n" if said else ""
    figure.suptitle(said + caption(runs) + words, fontsize=9)
    legend_below(figure, *whole.get_legend_handles_labels(), columns=2)
    return figure


# --- arm by arm -----------------------------------------------------------------------------------


def _grouped(arms: pd.DataFrame, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Group -> arm -> what it is called there: rankings that freeze the same share side by side,
    between what bounds them and other methods."""
    known = [line_of(arms, arm) for arm in in_order(arms, names)]
    lines = pd.DataFrame(known, columns=arms.columns)
    shares = lines["fraction"].astype(float)
    bounds = lines["family"].isin(["finetune", "all frozen"])
    inner = (shares > 0) & (shares < 1) & ~bounds
    groups = {
        "nothing and everything frozen": dict(zip(lines["arm"][bounds], lines["arm"][bounds]))
    }
    for share in sorted(shares[inner].unique()):
        part = lines[inner & (shares == share)]
        groups[f"{100 * share:.0f} % frozen"] = dict(zip(part["arm"], part["label"]))
    rest = lines["arm"][~bounds & ~inner]
    groups["other methods"] = dict(zip(rest, rest))
    return {name: members for name, members in groups.items() if members}


MEASURES = {
    "retained": "retained: share of task 1's accuracy above chance",
    "gained": "gained: accuracy on task 2, after minus before",
}


def retained_arms(runs: pd.DataFrame, arms: pd.DataFrame, classes: int = 10) -> Figure:
    """Retained share of task 1 and gain on task 2 of every arm that starts from a checkpoint, those
    that were asked to freeze as many filters side by side: mean, 95 % t interval, seeds as dots;
    the band is fine-tuning's interval. classes: of a task, for chance."""
    about = caption(runs)
    runs = runs.assign(
        retained=retained(runs["acc1"], runs["acc1_before"].astype(float), classes),
        gained=gained(runs["acc2"], runs["acc2_before"].astype(float)),
    ).dropna(subset=["retained"])
    groups, looks = _grouped(arms, runs["arm"]), looks_of(arms)
    lines = sum(map(len, groups.values())) + 1.3 * len(groups)
    figure, axes = new(8.6, 0.2 * lines + 1.5, ncols=2, sharey=True)
    tuned, most = runs[runs["method"] == "finetune"], runs["seed"].nunique()
    tasks = tasks_in(runs)
    for ax, (column, words) in zip(axes, MEASURES.items()):
        ax.axvline(0, color=ink(), lw=0.8)
        ax.set_xlabel(words if tasks == 2 else words.replace("after", "at the end"), fontsize=8)
        # more ticks, and the two panels' outer ones would run into each other
        ax.locator_params(axis="x", nbins=5)
        percent(ax, "x")
        _, low, high, n = interval(by_seed(tuned, column)) if len(tuned) else (0, 0, 0, 0)
        if n > 1:
            ax.axvspan(low, high, color=VERMILLION, alpha=0.15, lw=0)
    y, places, names = 0.0, [], []
    for group, members in groups.items():
        at = axes[0].get_yaxis_transform()
        axes[0].text(
            -0.02, y, group, transform=at, ha="right", va="center", weight="bold", fontsize=8.5
        )
        for arm, name in members.items():
            y += 1
            part = runs[runs["arm"] == arm]
            for ax, column in zip(axes, MEASURES):
                _line(ax, y, by_seed(part, column), looks[line_of(arms, arm)["label"]])
            n = part["seed"].nunique()
            places.append(y)
            frozen = _really(part, line_of(arms, arm)["fraction"]) if tasks == 2 else ""
            names.append(name + frozen + ("" if n == most else f", {counted(n)}"))
        y += 1.3
    axes[0].set_yticks(places, names)
    axes[0].set_ylim(y - 0.4, -0.7)
    for ax in axes:
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="y", visible=False)
    several = "; bars: 95 % over seeds, dots: seeds; band: fine-tuning" if most > 1 else ""
    figure.suptitle(about + several, fontsize=9)
    return figure


BESIDE = {
    "acc1": "points of accuracy on task 1",
    "average": "points of accuracy, mean of all tasks",
}


def methods(runs: pd.DataFrame, arms: pd.DataFrame) -> Figure:
    """Every other method minus the paper's way of freezing at its best share, in points, on task 1
    and over all tasks: mean, 95 % t interval, seeds as dots; highest over all tasks first. The band
    is the margin of one point. Raises ValueError where nothing stands beside it."""
    found = apart(runs)
    if not found:
        raise ValueError(
            "no other method starts from a checkpoint that freezing by explanation starts from: "
            "expected such arms (see profiles/)"
        )
    names = sorted(found, key=lambda arm: -found[arm]["average"].mean())
    most = max(len(table) for table in found.values())
    figure, axes = new(8.6, 0.24 * len(names) + 1.5, ncols=2, sharey=True)
    looks = looks_of(arms)
    for ax, (column, words) in zip(axes, BESIDE.items()):
        ax.axvspan(-100 * MARGIN, 100 * MARGIN, color=GREY, alpha=0.22, lw=0)
        ax.axvline(0, color=ink(), lw=0.8)
        ax.set_xlabel(words, fontsize=8)
        ax.locator_params(axis="x", nbins=6)
        for y, arm in enumerate(names):
            _line(ax, y, 100 * found[arm][column], looks[line_of(arms, arm)["label"]])
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="y", visible=False)
    counts = [len(found[arm]) for arm in names]
    labels = [a + ("" if n == most else f", {counted(n)}") for a, n in zip(names, counts)]
    axes[0].set_yticks(range(len(names)), labels)
    axes[0].set_ylim(len(names) - 0.4, -0.7)
    bars = "; bars: 95 % over seeds, dots: seeds" if most > 1 else ""
    figure.suptitle(
        f"{caption(runs)}\nother methods minus {best_share(runs)}{bars}; "
        f"shade: less than {100 * MARGIN:.0f} point",
        fontsize=9,
    )
    return figure


def _really(runs: pd.DataFrame, asked: float) -> str:
    """` (57 %)`: the share really frozen, where a rule makes it another than was asked for."""
    share = runs["realised"].mean() if 0 < float(asked) < 1 and "realised" in runs else asked
    return "" if np.isclose(share, asked, atol=0.01, equal_nan=True) else f" ({100 * share:.0f} %)"


def _line(ax, y: float, values: pd.Series, look: Look) -> None:
    """Mean, interval and seeds of one arm."""
    mean, low, high, n = interval(values)
    if n > 1:
        ax.plot(values, [y + 0.3] * n, "o", ms=2.5, color=standing_out(GREY), mew=0, alpha=0.8)
    bounds = None if n < 2 else [[mean - low], [high - mean]]
    ax.errorbar(mean, y, xerr=bounds, ms=5, elinewidth=1, capsize=2, zorder=3, **look.shape)
