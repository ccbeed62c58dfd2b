"""Tables and arrays -> matplotlib figures. No torch, no reading of files.

    looks = looks_of(arms)                  # arms.csv: what an arm is called, its family, its order
    figure = plane(runs, arms, trajectory)

No figure knows a ranking by name: colours follow the families of the table of arms, labels and
order are its own. Colours are Okabe and Ito's (distinguishable with any colour vision) and shades
of them; every label also has a marker of its own."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox
from PIL import Image

from lib.report import paper
from lib.report.claims import OVERLAP, RELIABLE, headroom
from lib.report.statistics import (
    MARGIN,
    by_seed,
    checkpoints,
    frozen_by,
    interval,
    paired,
    pick,
)

STYLE = {
    "figure.dpi": 100,
    "savefig.dpi": 100,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "svg.hashsalt": "study",
    "image.interpolation": "nearest",
    "text.parse_math": False,  # a name such as $x_{$ is a name, not a formula
}
BLUE, ORANGE, VERMILLION, GREEN = "#0072B2", "#E69F00", "#D55E00", "#009E73"
PURPLE, SKY, GREY = "#CC79A7", "#56B4E9", "#999999"
FAMILIES = {  # family of arms -> colours and markers of its first labels; more get shades of them
    "similarity": ((BLUE, GREEN, PURPLE), "o^v"),
    "chance": ((ORANGE,), "s"),
    "finetune": ((VERMILLION,), "D"),
    "all frozen": ((SKY,), "P"),
    "joint": (("#000000",), "*p"),
    "last": (("#666666",), "X"),
    "weights": (("#B8A800",), ""),  # Okabe and Ito's yellow, dark enough for white paper
    "gradients": (("#8F3F00",), ""),
    "activations": (("#006B4E",), ""),
    "hindsight": (("#8A4A70",), ""),
    "penalties": (("#004C77",), ""),
    "distillation": (("#3A8FC0",), ""),
    "rehearsal": (("#A87400",), ""),
    "packnet": (("#4D4D4D",), ""),
    "layers": (("#6FB79F",), ""),
    "merging": (("#E08CBC",), ""),
    "soft": (("#808000",), ""),
    "projection": (("#5A5A9A",), ""),
    "maps": (("#2F7F7F",), ""),
    "relevance": (("#B05A2C",), ""),
    "null": (("#9A9A9A",), ""),
}
NEW_FAMILY = (("#A06050", "#507090", "#707070"), "")  # a family not listed above
# for labels beyond a family's own: shapes with an inside (a cross would vanish in its error bars)
SPARE_MARKERS = ("<", ">", "d", "h", (4, 1, 0), (6, 1, 0), (3, 1, 0))
FILLS = {"full": "-", "none": "--", "left": "-.", "top": ":"}  # how much of a shape, and the dash
DASHES = tuple(FILLS.values())
HOLLOW = {"joint", "last"}  # targets that start from no checkpoint
CONTROLS = {  # no arms: they cost no training of their own
    "trajectory": ("fine-tuning's trajectory", ":", VERMILLION),
    "interpolation": ("line of weights, before to after", "--", GREY),
}
SHOWN_AT_MOST = 8  # arms over epochs


def use_style(name: str | None = None) -> None:
    """The study's style, or a matplotlib style by name laid over it; whatever this process was set
    to before plays no part, so that equal figures are equal bytes wherever they are drawn."""
    mpl.rcdefaults()
    mpl.rcParams.update(STYLE)
    if name:
        style.use(name)
        mpl.rcParams.update({k: STYLE[k] for k in ("svg.hashsalt", "text.parse_math")})


def save(figure: Figure, folder: Path, name: str, svg: bool = True) -> list[Path]:
    """Write `<folder>/<name>.png` and `.svg`: equal figures give equal bytes. Returns the paths.
    svg False: PNG only, for galleries, whose pixels an SVG would just wrap; these are kept in 256
    colours, a third of the bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", metadata={"Software": None})
    if svg:
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})
    else:
        with Image.open(folder / f"{name}.png") as full:
            few = full.convert("RGB").quantize(256)
        few.save(folder / f"{name}.png", optimize=True)
    return [folder / f"{name}.{kind}" for kind in ("png", "svg")[: 1 + svg]]


class SteadyLayout(ConstrainedLayoutEngine):
    """Constrained layout to six decimals of the figure's size. Its solver adds up in the order in
    which its terms lie in memory, so that a place's last bits differ from one process to the next;
    the ids in an SVG are hashes of all bits."""

    def execute(self, fig: Figure) -> None:
        super().execute(fig)
        for ax in fig.axes:
            place = ax.get_position(original=True)
            ax.set_position(Bbox(np.round(place.get_points(), 6)), which="original")
            ax.set_in_layout(True)  # a place set by hand would leave the layout


def _new(width: float, height: float, **subplots):
    use_style_once()
    figure = Figure(figsize=(width, height), layout=SteadyLayout())
    return figure, figure.subplots(**subplots)


def use_style_once() -> None:
    """Apply the study's style if nobody has chosen one."""
    if mpl.rcParams["svg.hashsalt"] != STYLE["svg.hashsalt"]:
        use_style()


class Look(NamedTuple):
    """How a label is drawn: fill is one of FILLS."""

    colour: str
    marker: str | tuple
    fill: str = "full"

    @property
    def dash(self) -> str:
        """Of its curve."""
        return FILLS[self.fill]

    @property
    def shape(self) -> dict:
        """Its marker, as matplotlib's lines take it."""
        face = "white" if self.fill == "none" else self.colour
        style = "full" if self.fill == "none" else self.fill
        more = {"markerfacecolor": face, "markerfacecoloralt": "white", "fillstyle": style}
        return {"marker": self.marker, "color": self.colour, **more}


def _shade(colour: str, step: int) -> str:
    """The colour itself at step 0; darker, lighter, darker still, ... after it."""
    if not step:
        return colour
    amount, towards = 1 - 0.65 ** ((step + 1) // 2), 1 if step % 2 == 0 else 0
    return to_hex([x + (towards - x) * amount for x in to_rgb(colour)])


def looks_of(arms: pd.DataFrame) -> dict[str, Look]:
    """label -> how it is drawn, for every label of the table of arms (arms.csv: arm, family, label,
    order, ...): the family's colours and markers in order of appearance, then shades of them with
    spare markers, full, hollow and half. No two of thirty labels share marker and fill."""
    labels = arms.sort_values("order").drop_duplicates("label")
    spare = [(marker, fill) for fill in FILLS for marker in SPARE_MARKERS]
    looks, members, given = {}, {}, 0
    for family, label in zip(labels["family"], labels["label"]):
        colours, markers = FAMILIES.get(family, NEW_FAMILY)
        place = members[family] = members.get(family, -1) + 1
        if place < len(markers):
            marker, fill = markers[place], "none" if family in HOLLOW else "full"
        else:
            marker, fill = spare[given % len(spare)]
            given += 1
        looks[label] = Look(
            _shade(colours[place % len(colours)], place // len(colours)), marker, fill
        )
    return looks


def _line_of(arms: pd.DataFrame, arm: str) -> pd.Series:
    """An arm's line in the table of arms."""
    found = arms[arms["arm"] == arm]
    if found.empty:
        raise ValueError(
            f"arm {arm!r}: expected a line in the table arms.csv, which is older than the runs "
            "(make reproduce writes it again)"
        )
    return found.iloc[0]


def _in_order(arms: pd.DataFrame, names) -> list[str]:
    """Arms in the order of the table."""
    return sorted(dict.fromkeys(names), key=lambda arm: _line_of(arms, arm)["order"])


def caption(runs: pd.DataFrame) -> str:
    """What every figure must say: setting, data, number of seeds."""
    return (
        f"setting {runs['setting'].iloc[0]}, {runs['data'].iloc[0]}, n = {runs['seed'].nunique()}"
    )


def _percent(ax, axis: str = "y") -> None:
    for name in axis:
        getattr(ax, f"{name}axis").set_major_formatter(mpl.ticker.PercentFormatter(1.0))


# --- pictures -------------------------------------------------------------------------------------


def picture(x: np.ndarray) -> np.ndarray:
    """(3, H, W) uint8 or float in [0, 1] -> (H, W, 3); (H, W) stays."""
    return x.transpose(1, 2, 0) if x.ndim == 3 else x


def image_grid(
    rows: Mapping[str, Sequence[np.ndarray]],
    titles: Sequence[str] = (),
    size: float = 0.75,
    heading: str = "",
) -> Figure:
    """One line of small pictures for each label. (3, H, W) are shown in colour, (H, W) as maps
    (dark 0, bright 1)."""
    columns = max(len(v) for v in rows.values())
    figure, axes = _new(
        size * columns + 1.3, size * len(rows) + 0.5, nrows=len(rows), ncols=columns, squeeze=False
    )
    for line, (label, pictures) in zip(axes, rows.items()):
        for ax in line:
            ax.axis("off")
        for ax, x in zip(line, pictures):
            ax.imshow(
                picture(np.asarray(x)),
                cmap="viridis",
                vmin=0 if x.ndim == 2 else None,
                vmax=1 if x.ndim == 2 else None,
            )
        line[0].text(
            -0.15, 0.5, label, transform=line[0].transAxes, ha="right", va="center", fontsize=8
        )
    for ax, title in zip(axes[0], titles):
        ax.set_title(title, fontsize=8)
    figure.suptitle(heading, fontsize=9)
    return figure


def overlay(image: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    """uint8 (3, H, W) dimmed where the map (H, W) in [0, 1] is low -> float (3, H, W) in [0, 1]."""
    return image / 255 * (0.25 + 0.75 * saliency[None])


def score_heat_map(scores_cf: np.ndarray, names: Sequence[str], heading: str) -> Figure:
    """Scores (C, F) of one layer, filters sorted by their mean score: stripes along a column mean
    the class hardly matters."""
    order = np.argsort(-scores_cf.mean(0), kind="stable")
    figure, ax = _new(7, 2.6)
    shown = ax.imshow(scores_cf[:, order], aspect="auto", cmap="cividis")
    ax.set(
        yticks=range(len(names)),
        yticklabels=names,
        xlabel="filters, sorted by mean score",
        title=heading,
    )
    ax.grid(False)
    figure.colorbar(shown, ax=ax, label="score")
    return figure


def matrix(values: np.ndarray, names: Sequence[str], heading: str, label: str) -> Figure:
    """A square table (C, C) of one number for each pair of classes, in the order given."""
    figure, ax = _new(5.4, 4.4)
    shown = ax.imshow(values, cmap="cividis")
    ax.set(yticks=range(len(names)), yticklabels=names, xticks=range(len(names)), title=heading)
    ax.set_xticklabels(names, rotation=50, ha="right")
    ax.grid(False)
    figure.colorbar(shown, ax=ax, label=label)
    return figure


# --- curves and bars ------------------------------------------------------------------------------


def learning_curves(accuracy: pd.DataFrame, about: str, beside_paper: bool = True) -> Figure:
    """Test accuracy over the epochs of round 1: thin lines are seeds, thick ones their mean; with
    `beside_paper`, the paper's values as marks at the end. accuracy: seed, epoch, task,
    accuracy."""
    figure, ax = _new(5, 3.2)
    said = list(paper.NUMBERS["before"].values()) if beside_paper else []
    for i, task in enumerate(sorted(accuracy["task"].unique())):
        tint, dash = (BLUE, VERMILLION, GREEN, PURPLE)[i % 4], DASHES[i % 4]
        part = accuracy[accuracy["task"] == task]
        for _, seed in part.groupby("seed"):
            ax.plot(seed["epoch"], seed["accuracy"], dash, color=tint, lw=0.6, alpha=0.4)
        mean = part.groupby("epoch")["accuracy"].mean()
        words = f"{task}, mean of {part['seed'].nunique()} seeds"
        ax.plot(mean.index, mean, dash, color=tint, lw=2, label=words)
        if i < len(said):
            words, end = f"paper: {said[i]:.3f}", mean.index.max() * 1.04
            ax.plot(end, said[i], "<", color=tint, mec="k", clip_on=False, label=words)
    ax.set(xlabel="epoch of round 1", ylabel="test accuracy", title=about, ylim=(0, 1))
    _percent(ax)
    ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    figure.legend(*ax.get_legend_handles_labels(), ncols=2, fontsize=8, loc="outside lower center")
    return figure


def per_class(table: pd.DataFrame, about: str) -> Figure:
    """Accuracy of each class of task 1: mean over seeds, dots are seeds. table: class, seed,
    accuracy."""
    figure, ax = _new(6, 3)
    names = list(dict.fromkeys(table["class"]))
    ax.bar(
        names,
        [table[table["class"] == n]["accuracy"].mean() for n in names],
        color=BLUE,
        alpha=0.5,
    )
    ax.plot(table["class"], table["accuracy"], "k.", ms=3)
    ax.set(ylabel="test accuracy", title=f"{about}; bars: mean, dots: seeds", ylim=(0, 1))
    ax.tick_params(axis="x", rotation=40)
    _percent(ax)
    return figure


def overlap_bars(
    overlap: pd.DataFrame, rankings: pd.DataFrame, fraction: float, about: str
) -> Figure:
    """Overlap (IoU) of the filters the paper's ranking chooses with those chosen otherwise; dashed:
    two random choices.

    overlap: seed, fraction, ranking, other, iou. rankings: ranking, label. Dots are seeds."""
    labels = dict(zip(rankings["ranking"], rankings["label"]))
    part = overlap[
        (overlap["ranking"] == paper.RANKING) & np.isclose(overlap["fraction"], fraction)
    ]
    names = list(dict.fromkeys(part["other"]))[::-1]
    figure, ax = _new(6, 0.32 * len(names) + 1.3)
    values, places = [part[part["other"] == n]["iou"] for n in names], range(len(names))
    ax.barh(places, [v.mean() for v in values], color=BLUE, alpha=0.5)
    ax.set_yticks(places, [labels.get(n, n) for n in names])
    for y, v in enumerate(values):
        ax.plot(v, [y] * len(v), "k.", ms=4)
    chance, share = fraction / (2 - fraction), f"{fraction:.0%}"
    ax.axvline(chance, color="k", ls="--", lw=1, label=f"two random choices: {chance:.2f}")
    ax.axvline(OVERLAP, color="k", ls=":", lw=1, label=f"margin of C5b and C5c: {OVERLAP:.2f}")
    ours = labels.get(paper.RANKING, paper.RANKING)
    ax.set(xlabel=f"overlap (IoU) with the filters {ours} chooses at {share}", xlim=(0, 1))
    ax.set_title(about)
    figure.legend(*ax.get_legend_handles_labels(), ncols=2, fontsize=8, loc="outside lower center")
    return figure


def realised_fractions(table: pd.DataFrame, about: str) -> Figure:
    """Fraction really frozen in each layer by each budget rule, one nominal fraction. table: rule,
    layer, fraction."""
    figure, ax = _new(6.5, 3)
    tints = (BLUE, ORANGE, GREEN)
    for (rule, part), mark, tint in zip(table.groupby("rule", sort=False), "osv", tints):
        ax.plot(part["layer"], part["fraction"], f"{mark}-", color=tint, label=rule)
    ax.set(ylabel="filters frozen / filters", title=about, ylim=(0, 1.02))
    ax.tick_params(axis="x", rotation=45)
    _percent(ax)
    ax.legend(fontsize=8)
    return figure


def shown_over_epochs(arms: pd.DataFrame) -> list[str]:
    """The arms worth a curve over epochs, at most eight, in order: fine-tuning and all frozen, of
    each label its 50 % and then its 90 % arm, then what else starts from a checkpoint."""
    arms = arms[arms["curriculum"] == "sequence"].sort_values("order")
    bounds = [arms[arms["family"] == f]["arm"].head(1) for f in ("finetune", "all frozen")]
    at = [arms[np.isclose(arms["fraction"].astype(float), f)]["arm"] for f in (0.5, 0.9)]
    wanted = list(dict.fromkeys(pd.concat([*bounds, *at, arms["arm"]])))
    return _in_order(arms, wanted[:SHOWN_AT_MOST])


def over_epochs(runs: pd.DataFrame, accuracy: pd.DataFrame, arms: pd.DataFrame) -> Figure:
    """Accuracy on both tasks over the epochs of round 2, mean over seeds; epoch 0 is before round
    2. Of the arms that were run, those of `shown_over_epochs`; solid at 50 % and without a
    fraction, else dashed."""
    figure, axes = _new(8, 3.6, ncols=2)
    looks = looks_of(arms)
    for arm in shown_over_epochs(arms[arms["arm"].isin(set(runs["arm"]))]):
        chosen, line = runs[runs["arm"] == arm], _line_of(arms, arm)
        look, fraction = looks[line["label"]], line["fraction"]
        for ax, task, column in zip(axes, ("task1", "task2"), ("acc1_before", "acc2_before")):
            part = accuracy[(accuracy["arm"] == arm) & (accuracy["task"] == task)]
            part = part[part["round"] == 2] if "round" in part else part
            mean = pd.concat(
                [pd.Series({0: chosen[column].mean()}), part.groupby("epoch")["accuracy"].mean()]
            )
            ax.plot(
                mean.index,
                mean,
                ms=4,
                **look.shape,
                label=arm,
                ls="-" if pd.isna(fraction) or fraction in (0.5, 1) else "--",
            )
    for ax, task in zip(axes, ("task 1", "task 2")):
        ax.set(xlabel="epoch of round 2 (0: before)", ylabel=f"test accuracy on {task}")
        ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
        _percent(ax)
    figure.suptitle(caption(runs), fontsize=9)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure


def _cross(ax, part: pd.DataFrame, look: Look, label: str | None, size: float = 6) -> None:
    """Mean of an arm in the plane with its 95 % intervals (t, over seeds; none for a single
    seed)."""
    (x, x0, x1, n), (y, y0, y1, _) = (interval(by_seed(part, c)) for c in ("acc2", "acc1"))
    bars = {} if n < 2 else {"xerr": [[x - x0], [x1 - x]], "yerr": [[y - y0], [y1 - y]]}
    ax.errorbar(x, y, ls="", ms=size, elinewidth=0.8, label=label, **look.shape, **bars)


class Mark(NamedTuple):
    """One arm in the plane: its rows, look and size; note: its fraction, where its label has
    several; curve: the label whose curve it is part of, "" for none; words: its legend's."""

    arm: str
    rows: pd.DataFrame
    look: Look
    size: float
    note: str
    curve: str
    words: str | None


def _marks(runs: pd.DataFrame, arms: pd.DataFrame) -> list[Mark]:
    """The arms of the plane: label by label along their fractions, then those on no curve."""
    looks, marks = looks_of(arms), []
    lines = pd.DataFrame([_line_of(arms, arm) for arm in _in_order(arms, runs["arm"])])
    fractions = lines["fraction"].astype(float)
    on_curve = (fractions > 0) & (fractions < 1)
    for label, members in lines[on_curve].groupby("label", sort=False):
        shares = sorted(members["fraction"].unique())
        words = f"{label}, {' / '.join(f'{100 * f:.0f}' for f in shares)} % frozen"
        for share in shares:
            names = members[members["fraction"] == share]["arm"]
            rows, note = runs[runs["arm"].isin(names)], f"{100 * share:.0f}"
            note = note * (len(shares) > 1)
            first = words if share == shares[0] else None
            marks.append(Mark(names.iloc[0], rows, looks[label], 6, note, label, first))
    for arm, label in zip(lines["arm"][~on_curve], lines["label"][~on_curve]):
        marks.append(Mark(arm, runs[runs["arm"] == arm], looks[label], 8, "", "", arm))
    return marks


def _draw_marks(ax, marks: Sequence[Mark]) -> None:
    """Crosses, and for each label a curve through its means."""
    for mark in marks:
        _cross(ax, mark.rows, mark.look, mark.words, mark.size)
    for label in dict.fromkeys(mark.curve for mark in marks if mark.curve):
        parts = [mark for mark in marks if mark.curve == label]
        points = [[by_seed(mark.rows, c).mean() for c in ("acc2", "acc1")] for mark in parts]
        look = parts[0].look
        ax.plot(*np.array(points).T, look.dash, lw=1, color=look.colour)


def _draw_controls(ax, trajectory: pd.DataFrame | None) -> None:
    """Fine-tuning's trajectory and the straight line of weights."""
    if trajectory is None or trajectory.empty:
        return
    for control, (words, dash, tint) in CONTROLS.items():
        rows = trajectory[trajectory["control"] == control]
        mean = rows.groupby("place")[["task1", "task2"]].mean()
        ax.plot(mean["task2"], mean["task1"], dash, color=tint, lw=1.6, label=words)


def _draw_paper(ax, setting: str) -> None:
    """The paper's three points, and whether they are this network's."""
    words = "the paper, one run" + ("" if setting in paper.NETWORK_IN else ": another network")
    for i, row in enumerate(row for row in paper.TABLES if row.numbers):
        place = row.numbers["acc2"], row.numbers["acc1"]
        ax.plot(*place, "x", color="#555555", ms=6, label=None if i else words)
        ax.annotate(
            row.name,
            place,
            xytext=(5, -9),
            textcoords="offset points",
            fontsize=7,
            bbox={"fc": "white", "ec": "none", "alpha": 0.7, "pad": 0.5},
        )


def _box(marks: Sequence[Mark]) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """The limits in acc2 and acc1 of what is to be enlarged: freezing and fine-tuning with their
    intervals, and a margin. None where no arm is frozen in part."""
    near = [m for m in marks if {"freeze", "finetune"} & set(m.rows["method"])]
    near = [m for m in near if set(m.rows["curriculum"]) == {"sequence"}]
    if not any(mark.curve for mark in near):
        return None
    limits = []
    for column in ("acc2", "acc1"):
        found = np.array([interval(by_seed(m.rows, column))[:3] for m in near])
        low, high = np.nanmin(found), np.nanmax(found)
        margin = max(0.12 * (high - low), 0.005)
        limits.append((max(0, low - margin), min(1, high + margin)))
    return tuple(limits)


def _draw_notes(ax, marks: Sequence[Mark]) -> None:
    """The fraction beside each mark, every label's on a side of its own."""
    corners = (("left", "bottom"), ("right", "top"), ("left", "top"), ("right", "bottom"))
    labels = list(dict.fromkeys(mark.curve for mark in marks if mark.note))
    for mark in (mark for mark in marks if mark.note):
        across, along = corners[labels.index(mark.curve) % len(corners)]
        shift = 4 if across == "left" else -4, 3 if along == "bottom" else -3
        place = by_seed(mark.rows, "acc2").mean(), by_seed(mark.rows, "acc1").mean()
        ax.annotate(
            mark.note,
            place,
            xytext=shift,
            textcoords="offset points",
            ha=across,
            va=along,
            fontsize=8,
            color=_shade(mark.look.colour, 1),
        )


def plane(
    runs: pd.DataFrame,
    arms: pd.DataFrame,
    trajectory: pd.DataFrame | None = None,
    beside_paper: bool = True,
) -> Figure:
    """The stability-plasticity plane: acc1 against acc2. A curve over fractions for each label,
    fine-tuning's own trajectory, the straight line of weights, the bounds, and the paper's three
    points where they apply. Left the whole plane; right, where filters are frozen in part, freezing
    and fine-tuning enlarged, with the fraction (per cent) at each mark that has neighbours."""
    marks = _marks(runs, arms)
    box = _box(marks)
    entries = sum(mark.words is not None for mark in marks) + len(CONTROLS) + 2
    # the legend is a line for each, two columns of them
    figure, axes = _new(
        *(9.6, 4.6 + 0.1 * entries) if box else (5.6, 4.6 + 0.1 * entries),
        ncols=2 if box else 1,
        squeeze=False,
    )
    whole, *near = axes[0]
    for ax in axes[0]:
        _draw_marks(ax, marks)
        _draw_controls(ax, trajectory)
        ax.set_xlabel("acc2: test accuracy on task 2 (plasticity)")
        _percent(ax, "xy")
    start = checkpoints(runs)
    if len(start):
        means = start["acc2_before"].mean(), start["acc1_before"].mean()
        whole.plot(*means, "k+", ms=10, mew=2, label="before round 2")
    if beside_paper:
        _draw_paper(whole, runs["setting"].iloc[0])
    ends = box or ((0, 0), (0, 0))
    whole.set_xlim(0, min(1, max(whole.get_xlim()[1], ends[0][1] + 0.01)))
    whole.set_ylim(0, min(1, max(whole.get_ylim()[1], ends[1][1] + 0.01)))
    whole.set_ylabel("acc1: test accuracy on task 1 (stability)")
    for ax in near:
        ax.set(xlim=box[0], ylim=box[1])
        ax.set_title("the box, enlarged; numbers: % of the filters frozen", fontsize=9)
        _draw_notes(ax, marks)
        size = (box[0][1] - box[0][0], box[1][1] - box[1][0])
        frame = Rectangle((box[0][0], box[1][0]), *size, fill=False, ec="k", lw=0.8, zorder=1)
        whole.add_patch(frame)
    several = runs["seed"].nunique() > 1
    words = "; means with 95 % intervals over seeds" if several else ": one seed, no intervals"
    figure.suptitle(caption(runs) + words, fontsize=9)
    handles, labels = whole.get_legend_handles_labels()
    figure.legend(handles, labels, ncols=3, loc="outside lower center", fontsize=8)
    return figure


def chance_differences(runs: pd.DataFrame) -> pd.DataFrame:
    """The paper's ranking minus random in acc1, paired on the checkpoint: profile, fraction, seed,
    difference. runs: of one profile or several. Empty where nothing pairs."""
    found = []
    for profile, part in runs.groupby("profile", sort=False):
        shares = pick(part, frozen_by(paper.RANKING))["fraction"].unique()
        for share in sorted(s for s in shares if 0 < s < 1):
            pair = [frozen_by(ranking, share) for ranking in (paper.RANKING, "random")]
            for seed, value in paired(part, *pair).items():
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
    one point lie in the shade. *Room*: all frozen minus fine-tuning, what any choice could protect.

    names: profile -> what to call it; its own name, if not given. Raises ValueError where no
    fraction has both arms."""
    table = chance_differences(runs)
    if table.empty:
        raise ValueError(
            "no checkpoint has both the paper's ranking and random freezing at one fraction: "
            "expected such arms (see profiles/)"
        )
    groups = table.groupby("profile", sort=False)
    lines = len(table.groupby(["profile", "fraction"])) + 1.2 * len(groups)
    figure, ax = _new(7.2, 0.34 * lines + 1.3)
    ax.axvspan(-100 * MARGIN, 100 * MARGIN, color=GREY, alpha=0.22, lw=0)
    ax.axvline(0, color="k", lw=0.8)
    y, places, words = 0.0, [], []
    look = {"marker": "D", "color": BLUE, "ms": 6, "elinewidth": 1.8, "capsize": 3, "zorder": 3}
    for profile, part in groups:
        name = (names or {}).get(profile, profile.replace("_", " "))
        room = _room_words(runs[runs["profile"] == profile])
        heading = {"transform": ax.get_yaxis_transform(), "fontsize": 8.5, "va": "center"}
        ax.text(0.01, y, name, weight="bold", **heading)
        ax.text(0.99, y, room, ha="right", **heading)
        for share, rows in part.groupby("fraction"):
            y += 1
            values = 100 * rows["difference"]
            mean, low, high, n = interval(values)
            across = y + 0.22 + np.linspace(0, 0.16, n)  # dots below the line, not on each other
            ax.plot(values, across, "o", ms=3, color=VERMILLION, alpha=0.7, mew=0)
            ax.errorbar(mean, y, xerr=None if n < 2 else [[mean - low], [high - mean]], **look)
            places.append(y)
            words.append(f"{100 * share:.0f} % frozen, n = {n}")
        y += 1.2
    reach = 1.08 * max(2, np.abs(ax.dataLim.intervalx).max())
    ax.set(xlim=(-reach, reach), ylim=(y - 0.4, -0.6), yticks=places, yticklabels=words)
    ax.set_xlabel("points of acc1: left, random keeps more; right, explanation keeps more")
    ax.grid(axis="y", visible=False)
    figure.suptitle(
        "freezing by explanation minus freezing at random; bars: 95 % over seeds, dots: seeds\n"
        f"shade: less than {100 * MARGIN:.0f} point; room: all frozen minus fine-tuning",
        fontsize=9,
    )
    return figure


def retained_bars(summary: pd.DataFrame, about: str) -> Figure:
    """Retained share of task 1 and gain on task 2 for each arm, with 95 % intervals. summary: see
    statistics."""
    part = summary.dropna(subset=["retained"]).iloc[::-1]
    figure, axes = _new(8, 0.3 * len(part) + 1.2, ncols=2, sharey=True)
    places = range(len(part))
    axes[0].set_yticks(places, part["arm"])
    axes[0].set_ylim(-0.7, len(part) - 0.3)
    for ax, column, label in zip(
        axes,
        ("retained", "gained"),
        (
            "retained: share of task 1's accuracy above chance",
            "gained: accuracy on task 2, after minus before",
        ),
    ):
        bars = [part[column] - part[f"{column}_low"], part[f"{column}_high"] - part[column]]
        ax.barh(
            places,
            part[column],
            color=BLUE if column == "retained" else ORANGE,
            alpha=0.6,
            xerr=bars,
            error_kw={"lw": 1},
        )
        ax.set_xlabel(label, fontsize=8)
        ax.axvline(0, color="k", lw=0.8)
        ax.locator_params(
            axis="x", nbins=5
        )  # the two panels' outer labels would run into each other
        _percent(ax, "x")
    figure.suptitle(about, fontsize=9)
    return figure


def from_tables(read: Callable[[str], pd.DataFrame]) -> dict[str, Figure]:
    """Every figure that needs tables only, by name. `read(name)` gives a table; missing ones leave
    their figure out. Raises FileNotFoundError for a record older than the tables of arms and
    rankings, which say what things are called."""

    def table(name):
        try:
            return read(name)
        except FileNotFoundError:
            return pd.DataFrame()

    runs, summary, accuracy = table("runs"), table("summary"), table("accuracy")
    overlap, arms, rankings = table("overlap"), table("arms"), table("rankings")
    for rows, needed, name in ((runs, arms, "arms"), (overlap, rankings, "rankings")):
        if len(rows) and needed.empty:
            profile = f" PROFILE={runs['profile'].iloc[0]}" if len(runs) else ""
            raise FileNotFoundError(
                f"no table {name}.csv, which gives figures their labels, beside tables that need "
                f"it: an older record; make it with `make reproduce{profile}`"
            )
    about = caption(runs) if len(runs) else ""
    beside_paper = len(runs) > 0 and runs["data"].iloc[0] == "cifar100"
    drawn = {}
    for name, source, draw in (
        (
            "learning_curves",
            table("accuracy_task1"),
            lambda t: learning_curves(t, about, beside_paper),
        ),
        ("per_class", table("per_class"), lambda t: per_class(t, about)),
        (
            "overlap",
            overlap,
            lambda t: overlap_bars(t, rankings, 0.5, f"{about}; bars: mean, dots: seeds"),
        ),
        ("over_epochs", accuracy, lambda t: over_epochs(runs, t, arms)),
        ("retained", summary, lambda t: retained_bars(t, about)),
        ("plane", runs, lambda t: plane(t, arms, table("trajectory"), beside_paper)),
        ("forest", chance_differences(runs) if len(runs) else runs, lambda t: forest(runs)),
        *(
            (name, table(name), lambda t, draw=draw: draw(t, of_examined(runs, t)))
            for name, draw in (("atlas", atlas), ("reliability", reliability), ("grafts", grafts))
        ),
        (
            "sanity",
            table("randomisation"),
            lambda t: sanity(t, table("deletion"), table("alike"), of_examined(runs, t)),
        ),
    ):
        if len(source):
            drawn[name] = draw(source)
    return drawn


# --- explanations, examined -----------------------------------------------------------------------


def of_examined(runs: pd.DataFrame, table: pd.DataFrame) -> str:
    """As `caption`, with the number of seeds that were examined."""
    return caption(runs).rpartition("n = ")[0] + f"n = {table['seed'].nunique()}"


def _layers_below(ax, layers: Sequence[str]) -> None:
    ax.set_xticks(range(len(layers)), layers, rotation=60, ha="right", fontsize=7)


def atlas(table: pd.DataFrame, about: str) -> Figure:
    """What each ranking tells of a filter's worth: Spearman's correlation of its score with the
    damage of ablation, by layer; mean over seeds. Rankings sorted by their mean over layers (last
    column); first line: damage on one half of the images with damage on the other.

    table: atlas.csv (seed, ranking, label, layer, spearman, ceiling)."""
    layers = list(dict.fromkeys(table["layer"]))
    cells = table.pivot_table(index="label", columns="layer", values="spearman")[layers]
    ceiling = table.groupby("layer")["ceiling"].mean()[layers]
    cells = cells.loc[cells.mean(axis=1).sort_values(ascending=False).index]
    whole = pd.concat([ceiling.to_frame("two halves of the damage").T, cells])
    whole["mean"] = whole.mean(axis=1)
    figure, ax = _new(0.42 * len(layers) + 3.4, 0.2 * len(whole) + 1.5)
    shown = ax.imshow(whole, aspect="auto", cmap="RdBu", vmin=-1, vmax=1)
    for (y, x), value in np.ndenumerate(whole.to_numpy()):
        words = f"{round(value, 1) + 0.0:.1f}".replace("0.", ".")  # + 0.0: no minus before a zero
        ax.text(x, y, words, ha="center", va="center", fontsize=6)
    ax.axhline(0.5, color="k", lw=1)
    ax.axvline(len(layers) - 0.5, color="k", lw=1)
    ax.set_yticks(range(len(whole)), whole.index, fontsize=7)
    _layers_below(ax, list(whole))
    ax.set_title(f"{about}; means over seeds and classes", fontsize=9)
    ax.grid(False)
    figure.colorbar(shown, ax=ax, label="Spearman with damage")
    return figure


RELIABLE_IN = (  # column of reliability.csv, words, colour, dash and marker
    ("images", "two halves of the images", BLUE, "o-"),
    ("images_pattern", "... pattern alone", BLUE, "o:"),
    ("noise", "two visualization noises", VERMILLION, "s-"),
    ("noise_pattern", "... pattern alone", VERMILLION, "s:"),
)
PARTS = {"brightness": ORANGE, "contrast": SKY, "pattern": GREEN}  # of the MSE


def reliability(table: pd.DataFrame, about: str) -> Figure:
    """Left: rank correlation of the MSE ranking with itself made again, by layer, mean over seeds;
    dashed line: the margin of C6. Right: each part's share in how the MSE of filters differs.

    table: reliability.csv (seed, layer, filters, noise, images, ..., share_brightness, ...)."""
    layers, filters = list(dict.fromkeys(table["layer"])), int(table["filters"].max())
    mean = table.groupby("layer").mean(numeric_only=True).loc[layers]
    figure, axes = _new(9.5, 3.9, ncols=2)
    for column, words, tint, line in RELIABLE_IN:
        axes[0].plot(range(len(layers)), mean[column], line, color=tint, ms=4, label=words)
    axes[0].axhline(RELIABLE, color="k", ls="--", lw=1, label=f"margin of C6: {RELIABLE:.1f}")
    axes[0].set(ylim=(-1, 1.05), ylabel="rank correlation over filters")
    axes[0].set_title(f"made again (noises: up to {filters} filters a layer)", fontsize=9)
    places, width = np.arange(len(layers)), 0.8 / len(PARTS)
    for i, (part, tint) in enumerate(PARTS.items()):
        where = places + (i - 1) * width
        hatch = ("", "//", "..")[i]
        axes[1].bar(where, mean[f"share_{part}"], width, color=tint, hatch=hatch, label=part)
    axes[1].axhline(0, color="k", lw=0.8)
    axes[1].set_ylabel("share of the variance over filters")
    axes[1].set_title("what the MSE ranking is made of", fontsize=9)
    for ax in axes:
        _layers_below(ax, layers)
        ax.legend(fontsize=7)
    figure.suptitle(f"{about}; means over seeds and classes", fontsize=9)
    return figure


def sanity(
    randomised: pd.DataFrame, deletion: pd.DataFrame, alike: pd.DataFrame, about: str
) -> Figure:
    """Three checks of FullGrad's maps, means over seeds: similarity as layers are randomised from
    the head down, deletion curves, similarity within and between classes.

    randomised: layer, pearson, ssim; deletion: map, deleted, probability; alike: within,
    between."""
    figure, axes = _new(10.5, 3.6, ncols=3, width_ratios=(1.4, 1.2, 0.7))
    layers = list(dict.fromkeys(randomised["layer"]))
    mean = randomised.groupby("layer")[["pearson", "ssim"]].mean().loc[layers]
    for column, words, tint, line in (
        ("pearson", "Pearson", BLUE, "o-"),
        ("ssim", "SSIM", ORANGE, "s--"),
    ):
        axes[0].plot(range(len(layers)), mean[column], line, color=tint, ms=4, label=words)
    axes[0].set(ylim=(-0.3, 1.02), ylabel="similarity with the map before")
    axes[0].set_title("randomised from the head down to ...", fontsize=9)
    _layers_below(axes[0], layers)
    for (name, part), tint, dash in zip(
        deletion.groupby("map", sort=False), (BLUE, ORANGE, GREY), ("-", "--", ":")
    ):
        curve = part.groupby("deleted")["probability"].mean()
        axes[1].plot(curve.index, curve, dash, color=tint, lw=2, label=name)
    axes[1].set(xlabel="pixels deleted, highest first", ylabel="probability of the class")
    axes[1].set_title("deletion", fontsize=9)
    _percent(axes[1], "x")
    values = alike[["within", "between"]]
    axes[2].bar(("same\nclass", "other\nclass"), values.mean(), color=[BLUE, ORANGE], alpha=0.6)
    for place, column in enumerate(values):
        axes[2].plot([place] * len(values), values[column], "k.", ms=4)
    axes[2].set(ylim=(min(0, values.min().min()), 1), ylabel="Pearson of two images' maps")
    axes[2].set_title("dots: seeds", fontsize=9)
    for ax in axes[:2]:
        ax.legend(fontsize=7)
    figure.suptitle(f"FullGrad, {about}; means over seeds", fontsize=9)
    return figure


def grafts(table: pd.DataFrame, about: str) -> Figure:
    """Accuracy on both tasks with a ranking's choice of filters put back into the fine-tuned
    network, a panel for each fraction: small dots are random choices, the other marks rankings
    (mean over seeds), the five best and the paper's named.

    table: grafts.csv (seed, ranking, label, family, fraction, draw, acc1, acc2)."""
    fractions = sorted(table["fraction"].unique())
    figure, axes = _new(3.6 * len(fractions), 3.9, ncols=len(fractions), sharey=True, squeeze=False)
    chance = table["family"] == "chance"
    for ax, fraction in zip(axes[0], fractions):
        part = table[table["fraction"] == fraction]
        some = part[chance.loc[part.index]]
        ax.plot(some["acc2"], some["acc1"], ".", color=ORANGE, ms=3, alpha=0.6, label="random")
        means = (
            part[~chance.loc[part.index]]
            .groupby(["label", "ranking"])[["acc1", "acc2"]]
            .mean()
            .reset_index()
        )
        ax.plot(means["acc2"], means["acc1"], "o", color=BLUE, ms=4, mfc="white", label="rankings")
        best = means.nlargest(5, "acc1")
        named = pd.concat([best, means[means["ranking"] == paper.RANKING]]).drop_duplicates()
        for _, row in named.iterrows():
            place = row["acc2"], row["acc1"]
            ax.annotate(row["label"], place, xytext=(3, 2), textcoords="offset points", fontsize=6)
        ax.set_title(f"{fraction:.0%} of each layer put back", fontsize=9)
        ax.set_xlabel("acc2")
        _percent(ax, "xy")
    axes[0][0].set_ylabel("acc1")
    axes[0][0].legend(fontsize=7)
    figure.suptitle(about, fontsize=9)
    return figure
