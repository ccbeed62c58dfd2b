"""Tables and arrays -> matplotlib figures. No torch, no reading of files.

Colours are Okabe and Ito's (distinguishable with any colour vision); every line also has a marker
or dash of its own."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.figure import Figure
from PIL import Image

from lib.statistics import interval

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
    "figure.constrained_layout.use": True,
    "image.interpolation": "nearest",
}
COLOURS = {
    "mse": "#0072B2",
    "random": "#E69F00",
    "pearson": "#009E73",
    "bottom": "#CC79A7",
    "finetune": "#D55E00",
    "all frozen": "#56B4E9",
    "joint20": "#000000",
    "joint10": "#000000",
    "last": "#666666",
    "trajectory": "#D55E00",
    "interpolation": "#999999",
}
MARKERS = {
    "mse": "o",
    "random": "s",
    "pearson": "^",
    "bottom": "v",
    "finetune": "D",
    "all frozen": "P",
    "joint20": "*",
    "joint10": "p",
    "last": "X",
}
OTHERS = ("#F0E442", "#56B4E9", "#009E73", "#CC79A7", "#000000")
LABELS = {
    "mse": "MSE",
    "pearson": "Pearson",
    "ssim": "SSIM",
    "bottom": "least similar",
    "mse_mean": "mean map of all classes",
    "mse_flat": "null: flat map",
    "mse_gaussian": "null: centred blob",
    "mse_permuted": "null: shuffled pixels",
}
SHOWN_OVER_EPOCHS = (
    "fine-tune",
    "MSE 50 %",
    "random 50 %",
    "MSE 90 %",
    "random 90 %",
    "Pearson 50 %",
    "bottom 50 %",
    "all frozen",
)
# the paper's prose numbers (acc1, acc2); its tables are pictures
PAPER = {"before round 2": (0.4566, 0.1322), "MSE 25 %": (0.207, 0.392), "MSE 75 %": (0.384, 0.257)}


def use_style(name: str | None = None) -> None:
    """The study's style, or a matplotlib style by name laid over it."""
    mpl.rcParams.update(STYLE)
    if name:
        style.use(name)
        mpl.rcParams["svg.hashsalt"] = STYLE["svg.hashsalt"]


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


def _new(width: float, height: float, **subplots):
    use_style_once()
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(**subplots)


def use_style_once() -> None:
    """Apply the study's style if nobody has chosen one."""
    if mpl.rcParams["svg.hashsalt"] != STYLE["svg.hashsalt"]:
        use_style()


def kind_of(row: Mapping) -> str:
    """The family an arm belongs to, for colour and marker: its ranking, or what it is without
    one."""
    if row["curriculum"] != "sequence":
        return row["curriculum"]
    if row["method"] == "finetune":
        return "finetune"
    if row["fraction"] == 1:
        return "all frozen"
    return row["ranking"] if isinstance(row["ranking"], str) else row["method"]


def colour(kind: str) -> str:
    """A fixed colour for known kinds, a stable other one for new ones."""
    return COLOURS.get(kind, OTHERS[sum(map(ord, kind)) % len(OTHERS)])


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


def learning_curves(accuracy: pd.DataFrame, about: str, paper: bool = True) -> Figure:
    """Test accuracy over the epochs of round 1: thin lines are seeds, thick ones their mean; with
    `paper`, its values as marks at the end. accuracy: seed, epoch, task, accuracy."""
    figure, ax = _new(5, 3.2)
    for task, tint, dash, value in zip(
        sorted(accuracy["task"].unique()),
        (COLOURS["mse"], COLOURS["finetune"]),
        ("-", "--"),
        PAPER["before round 2"],
    ):
        part = accuracy[accuracy["task"] == task]
        for _, seed in part.groupby("seed"):
            ax.plot(seed["epoch"], seed["accuracy"], dash, color=tint, lw=0.6, alpha=0.4)
        mean = part.groupby("epoch")["accuracy"].mean()
        ax.plot(
            mean.index,
            mean,
            dash,
            color=tint,
            lw=2,
            label=f"{task}, mean of {part['seed'].nunique()} seeds",
        )
        if paper:
            ax.plot(
                mean.index.max() * 1.04,
                value,
                "<",
                color=tint,
                mec="k",
                clip_on=False,
                label=f"paper: {value:.3f}",
            )
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
        color=COLOURS["mse"],
        alpha=0.5,
    )
    ax.plot(table["class"], table["accuracy"], "k.", ms=3)
    ax.set(ylabel="test accuracy", title=f"{about}; bars: mean, dots: seeds", ylim=(0, 1))
    ax.tick_params(axis="x", rotation=40)
    _percent(ax)
    return figure


def overlap_bars(overlap: pd.DataFrame, fraction: float, about: str) -> Figure:
    """Overlap (IoU) of the filters chosen by MSE with those chosen otherwise; dashed: two random
    choices.

    overlap: seed, fraction, ranking, other, iou. Dots are seeds."""
    part = overlap[(overlap["ranking"] == "mse") & (overlap["fraction"] == fraction)]
    names = list(dict.fromkeys(part["other"]))[::-1]
    figure, ax = _new(6, 0.32 * len(names) + 1.3)
    values = [part[part["other"] == n]["iou"] for n in names]
    ax.barh(
        [LABELS.get(n, n) for n in names],
        [v.mean() for v in values],
        color=COLOURS["mse"],
        alpha=0.5,
    )
    for y, v in enumerate(values):
        ax.plot(v, [y] * len(v), "k.", ms=4)
    chance = fraction / (2 - fraction)
    ax.axvline(chance, color="k", ls="--", lw=1, label=f"two random choices: {chance:.2f}")
    ax.axvline(0.9, color="k", ls=":", lw=1, label="margin of C5b and C5c: 0.90")
    ax.set(
        xlabel=f"overlap (IoU) with the filters MSE chooses at {fraction:.0%}",
        xlim=(0, 1),
        title=about,
    )
    ax.legend(
        fontsize=8,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.35 if len(names) < 5 else -0.2),
        ncols=2,
    )
    return figure


def realised_fractions(table: pd.DataFrame, about: str) -> Figure:
    """Fraction really frozen in each layer by each budget rule, one nominal fraction. table: rule,
    layer, fraction."""
    figure, ax = _new(6.5, 3)
    for (rule, part), mark, tint in zip(table.groupby("rule", sort=False), "osv", COLOURS.values()):
        ax.plot(part["layer"], part["fraction"], f"{mark}-", color=tint, label=rule)
    ax.set(ylabel="filters frozen / filters", title=about, ylim=(0, 1.02))
    ax.tick_params(axis="x", rotation=45)
    _percent(ax)
    ax.legend(fontsize=8)
    return figure


def over_epochs(runs: pd.DataFrame, accuracy: pd.DataFrame, arms: Sequence[str]) -> Figure:
    """Accuracy on both tasks over the epochs of round 2, mean over seeds; epoch 0 is before round
    2."""
    figure, axes = _new(8, 3.4, ncols=2)
    sequence = list(runs[runs["curriculum"] == "sequence"]["arm"].unique())
    for arm in [a for a in arms if a in sequence] or sequence[
        :8
    ]:  # a reader's profile may name none of them
        chosen = runs[runs["arm"] == arm]
        kind, fraction = kind_of(chosen.iloc[0]), chosen["fraction"].iloc[0]
        for ax, task, column in zip(axes, ("task1", "task2"), ("acc1_before", "acc2_before")):
            part = accuracy[(accuracy["arm"] == arm) & (accuracy["task"] == task)]
            mean = pd.concat(
                [pd.Series({0: chosen[column].mean()}), part.groupby("epoch")["accuracy"].mean()]
            )
            ax.plot(
                mean.index,
                mean,
                marker=MARKERS.get(kind, "."),
                ms=4,
                color=colour(kind),
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


def _cross(ax, part: pd.DataFrame, kind: str, label: str | None, size: float = 6) -> None:
    """Mean of an arm in the plane with its 95 % intervals (t, over seeds; none for a single
    seed)."""
    (x, x0, x1, n), (y, y0, y1, _) = interval(part["acc2"]), interval(part["acc1"])
    bars = {} if n < 2 else {"xerr": [[x - x0], [x1 - x]], "yerr": [[y - y0], [y1 - y]]}
    ax.errorbar(
        x,
        y,
        fmt=MARKERS.get(kind, "h"),
        color=colour(kind),
        ms=size,
        lw=0.8,
        label=label,
        mfc="white" if kind in ("joint20", "joint10", "last") else None,
        **bars,
    )


def plane(runs: pd.DataFrame, trajectory: pd.DataFrame | None = None, paper: bool = True) -> Figure:
    """The stability-plasticity plane: acc1 against acc2. A curve over fractions for each ranking,
    fine-tuning's own trajectory, the straight line of weights, the bounds, and the paper's three
    points where they apply."""
    figure, ax = _new(7.2, 5)
    frozen = runs[(runs["method"] == "freeze") & (runs["fraction"] < 1)]
    for ranking, part in frozen.groupby("ranking", sort=False):
        means = part.groupby("fraction")[["acc1", "acc2"]].mean().sort_index()
        for fraction, arm in part.groupby("fraction"):
            first = fraction == means.index[0]
            shares = " / ".join(f"{f * 100:.0f}" for f in means.index)
            _cross(
                ax,
                arm,
                ranking,
                f"{LABELS.get(ranking, ranking)}, {shares} % frozen" if first else None,
            )
        ax.plot(means["acc2"], means["acc1"], "-", lw=1, color=colour(ranking))
    for arm, part in runs[~runs.index.isin(frozen.index)].groupby("arm", sort=False):
        _cross(ax, part, kind_of(part.iloc[0]), arm, 8)
    if trajectory is not None and len(trajectory):
        for control, dash in (("trajectory", ":"), ("interpolation", "--")):
            mean = (
                trajectory[trajectory["control"] == control]
                .groupby("place")[["task1", "task2"]]
                .mean()
            )
            name = {
                "trajectory": "fine-tuning's trajectory",
                "interpolation": "line of weights, before to after",
            }
            ax.plot(
                mean["task2"],
                mean["task1"],
                dash,
                color=colour(control),
                lw=1.6,
                label=name[control],
            )
    start = runs.dropna(subset=["acc1_before"])
    ax.plot(
        start["acc2_before"].mean(),
        start["acc1_before"].mean(),
        "k+",
        ms=10,
        mew=2,
        label="before round 2",
    )
    if paper:
        for name, (y, x) in PAPER.items():
            ax.plot(x, y, "kx", ms=6)
            ax.annotate(
                f"paper, {name}", (x, y), xytext=(5, -9), textcoords="offset points", fontsize=7
            )
    ax.set(
        xlabel="acc2: test accuracy on task 2 (plasticity)",
        ylabel="acc1: test accuracy on task 1 (stability)",
        title=f"{caption(runs)}; means with 95 % intervals over seeds"
        if runs["seed"].nunique() > 1
        else f"{caption(runs)}: one seed, no intervals",
    )
    _percent(ax, "xy")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure


def retained_bars(summary: pd.DataFrame, about: str) -> Figure:
    """Retained share of task 1 and gain on task 2 for each arm, with 95 % intervals. summary: see
    statistics."""
    part = summary.dropna(subset=["retained"]).iloc[::-1]
    figure, axes = _new(8, 0.3 * len(part) + 1.2, ncols=2, sharey=True)
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
            part["arm"],
            part[column],
            color=COLOURS["mse" if column == "retained" else "random"],
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


def from_tables(read) -> dict[str, Figure]:
    """Every figure that needs tables only, by name. `read(name)` gives a table; missing ones leave
    their figure out."""

    def table(name):
        try:
            return read(name)
        except FileNotFoundError:
            return pd.DataFrame()

    runs, summary, accuracy = table("runs"), table("summary"), table("accuracy")
    about = caption(runs) if len(runs) else ""
    paper = len(runs) > 0 and runs["data"].iloc[0] == "cifar100"
    drawn = {}
    for name, source, draw in (
        ("learning_curves", table("accuracy_task1"), lambda t: learning_curves(t, about, paper)),
        ("per_class", table("per_class"), lambda t: per_class(t, about)),
        (
            "overlap",
            table("overlap"),
            lambda t: overlap_bars(t, 0.5, f"{about}; bars: mean, dots: seeds"),
        ),
        ("over_epochs", accuracy, lambda t: over_epochs(runs, t, SHOWN_OVER_EPOCHS)),
        ("retained", summary, lambda t: retained_bars(t, about)),
        ("plane", runs, lambda t: plane(t, table("trajectory"), paper)),
    ):
        if len(source):
            drawn[name] = draw(source)
    return drawn
