"""Explanations, examined: what each ranking tells, whether it can be repeated, whether maps depend
on what was learned, filters put back."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from lib.report import paper
from lib.report.claims import RELIABLE
from lib.report.figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    SKY,
    VERMILLION,
    counted,
    described,
    ground,
    ink,
    named,
    new,
    percent,
    spread,
    written_on,
)
from lib.report.words import as_square, beside_chance


def of_examined(runs: pd.DataFrame, table: pd.DataFrame) -> str:
    """As notebook 06 heads its figures: the number of seeds is of those that were examined."""
    first, n = runs.iloc[0], table["seed"].nunique()
    return described(named(first["profile"], first["setting"]), first["data"], n)


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
    figure, ax = new(0.42 * len(layers) + 3.4, 0.2 * len(whole) + 1.5)
    shown = ax.imshow(whole, aspect="auto", cmap="RdBu", vmin=-1, vmax=1)
    for (y, x), value in np.ndenumerate(whole.to_numpy()):
        last = x == len(
            layers
        )  # the mean, with a digit more; elsewhere what rounds to zero is left out
        words = f"{value:.2f}" if last else f"{value:.1f}" if abs(value) >= 0.05 else ""
        words = words.replace("-0.00", "0.00").replace("0.", ".")
        tint = written_on(shown.to_rgba(value)[:3])
        ax.text(x, y, words, ha="center", va="center", fontsize=6, color=tint)
    ax.axhline(0.5, color="black", lw=1)
    ax.axvline(len(layers) - 0.5, color="black", lw=1)
    ax.set_yticks(range(len(whole)), whole.index, fontsize=7)
    _layers_below(ax, list(whole))
    ax.set_title(f"{about}; means over seeds and classes", fontsize=9)
    ax.grid(False)
    figure.colorbar(shown, ax=ax, label="Spearman with damage")
    return figure


def choices(table: pd.DataFrame, atlas: pd.DataFrame, about: str, fraction: float = 0.5) -> Figure:
    """Overlap (IoU) of the filters that every two rankings choose, mean over seeds. Rankings that
    choose alike stand together (average linkage); chance, two random choices, is marked on the
    scale.

    table: choices.csv (seed, fraction, ranking, other, iou; empty where one ranking alone is
    examined); atlas: ranking, label."""
    if table.empty:
        figure, ax = new(5, 1)
        ax.set_axis_off()
        ax.text(0.5, 0.5, "one ranking: nothing to compare it with", ha="center", va="center")
        return figure
    labels = dict(zip(atlas["ranking"], atlas["label"]))
    square = as_square(table, fraction)
    apart = squareform(1 - square.to_numpy(), checks=False)
    order = leaves_list(linkage(apart, "average")) if len(square) > 2 else range(len(square))
    square = square.iloc[list(order), list(order)]
    names, chance = [labels.get(name, name) for name in square], fraction / (2 - fraction)
    figure, ax = new(0.26 * len(names) + 3.2, 0.23 * len(names) + 2.3)
    values = np.where(np.eye(len(square), dtype=bool), np.nan, square.to_numpy())
    shown = ax.imshow(values, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        if y != x:
            tint = written_on(shown.to_rgba(value)[:3])
            words = f"{value:.2f}".replace("0.", ".", 1)
            ax.text(x, y, words, ha="center", va="center", fontsize=5, color=tint)
    ax.set_yticks(range(len(names)), names, fontsize=7)
    ax.set_xticks(range(len(names)), names, fontsize=7, rotation=60, ha="right")
    for tick in ax.get_xticklabels():
        tick.set_rotation_mode("anchor")
    ax.grid(False)
    scale = figure.colorbar(shown, ax=ax, label="overlap (IoU) of two choices", aspect=40)
    scale.ax.axhline(chance, color="w", lw=4, clip_on=False)
    scale.ax.axhline(chance, color=ORANGE, lw=2, clip_on=False)
    figure.suptitle(
        f"{fraction:.0%} of each layer chosen; {about}; mean over seeds\n"
        f"marked on the scale: two random choices, {chance:.2f}",
        fontsize=9,
    )
    return figure


RELIABLE_IN = (  # column of reliability.csv, words, colour, dash and marker
    ("images", "two halves of the images", BLUE, "o-"),
    ("images_pattern", "... pattern alone", BLUE, "o:"),
    ("noise", "two visualization noises", VERMILLION, "s-"),
    ("noise_pattern", "... pattern alone", VERMILLION, "s:"),
)
PARTS = {"brightness": ORANGE, "contrast": SKY, "pattern": GREEN}  # of the MSE


def reliability(table: pd.DataFrame, about: str, pictures: pd.DataFrame | None = None) -> Figure:
    """Left: rank correlation of the MSE ranking with itself made again, by layer, mean over seeds;
    the correlation of the visualizations themselves; dashed line: the margin of C6. Right: each
    part's share in how the MSE of filters differs.

    table: reliability.csv (seed, layer, filters, noise, images, ..., share_brightness, ...);
    pictures: noise_reliability.csv (layer, correlation: Pearson of two heat maps of a filter)."""
    layers, filters = list(dict.fromkeys(table["layer"])), int(table["filters"].max())
    mean = table.groupby("layer").mean(numeric_only=True).loc[layers]
    figure, axes = new(9.5, 3.9, ncols=2)
    for column, words, tint, line in RELIABLE_IN:
        axes[0].plot(range(len(layers)), mean[column], line, color=tint, ms=4, label=words)
    if pictures is not None and len(pictures):
        alike = pictures.set_index("layer")["correlation"].reindex(layers)
        words = "not the ranking: a filter's heat map, two noises (one seed)"
        axes[0].plot(range(len(layers)), alike, "D--", color=ink(), ms=4, label=words)
    axes[0].axhline(RELIABLE, color=ink(), ls="--", lw=1, label=f"claim's margin: {RELIABLE:.1f}")
    axes[0].set(ylim=(-1, 1.05), ylabel="correlation (of ranks over filters)")
    axes[0].set_title(f"made again (noises: up to {filters} filters a layer)", fontsize=9)
    places, width = np.arange(len(layers)), 0.8 / len(PARTS)
    for i, (part, tint) in enumerate(PARTS.items()):
        where = places + (i - 1) * width
        hatch = ("", "//", "..")[i]
        axes[1].bar(where, mean[f"share_{part}"], width, color=tint, hatch=hatch, label=part)
    axes[1].axhline(0, color=ink(), lw=0.8)
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
    figure, axes = new(10.5, 3.6, ncols=3, width_ratios=(1.4, 1.2, 0.7))
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
    percent(axes[1], "x")
    values = alike[["within", "between"]]
    axes[2].bar(("same\nclass", "other\nclass"), values.mean(), color=[BLUE, ORANGE], alpha=0.6)
    for place, column in enumerate(values):
        axes[2].plot([place] * len(values), values[column], ".", color=ink(), ms=4)
    axes[2].set(ylim=(min(0, values.min().min()), 1), ylabel="Pearson of two images' maps")
    axes[2].set_title("dots: seeds", fontsize=9)
    for ax in axes[:2]:
        ax.legend(fontsize=7)
    figure.suptitle(f"FullGrad, {about}; means over seeds", fontsize=9)
    return figure


# what is read, as lib.examination.readouts calls it -> marker, colour, size: what often falls on
# another mark is drawn over it, smaller
READOUTS = {
    "as it is": ("o", VERMILLION, 8),
    "head put back": ("^", BLUE, 5),
    "statistics put back": ("v", SKY, 7),
    "both put back": ("s", GREEN, 4),
    "linear probe": ("D", ORANGE, 5),
}


def readouts(table: pd.DataFrame, about: str) -> Figure:
    """What is left of task 1 after round 2, and where: a line for each arm, means over seeds.

    table: readouts.csv (seed, way, readout, acc1)."""
    means = table.pivot_table(index="way", columns="readout", values="acc1", sort=False)
    figure, ax = new(7.2, 0.2 * len(means) + 1.5)
    places = np.arange(len(means))
    ax.hlines(places, means.min(axis=1), means.max(axis=1), color=GREY, lw=0.8, zorder=1)
    for name, (marker, tint, size) in READOUTS.items():
        if name in means:
            ax.plot(
                means[name], places, marker, color=tint, ms=size, label=name, mec=ground(), mew=0.4
            )
    seeds = table.groupby("way")["seed"].nunique()
    apart = seeds.nunique() > 1
    names = [f"{way}, {counted(seeds[way])}" if apart else way for way in means.index]
    ax.set_yticks(places, names, fontsize=7.5)
    ax.set(ylim=(len(means) - 0.4, -0.6), xlabel="accuracy on task 1")
    percent(ax, "x")
    ax.grid(axis="y", visible=False)
    ax.legend(fontsize=7, ncols=len(READOUTS), loc="lower center", bbox_to_anchor=(0.45, 1.0))
    figure.suptitle(f"{about}; means over seeds", fontsize=9)
    return figure


def grafts(table: pd.DataFrame, about: str) -> Figure:
    """Accuracy on both tasks with a ranking's choice of filters put back into the fine-tuned
    network, means over seeds, a panel for each fraction: small dots are random choices (each the
    mean of one draw for every seed), the other marks rankings, of which the three best and the
    paper's are named.

    table: grafts.csv (seed, lineage, ranking, label, family, fraction, draw, acc1, acc2). Shown are
    the checkpoints that have random choices too; all, if none has."""
    seeds, table = table["seed"].nunique(), beside_chance(table)
    if (shown := table["seeds"].iloc[0]) < seeds:
        about = f"{about}; random choices, and what stands beside them: {counted(shown)}"
    fractions = sorted(table["fraction"].unique())
    columns = min(2, len(fractions))
    rows = -(-len(fractions) // columns)
    figure, grid = new(4.2 * columns, 3.4 * rows + 0.5, ncols=columns, nrows=rows, squeeze=False)
    axes, chance, named = list(grid.flat), table["family"] == "chance", []
    for ax in axes[len(fractions) :]:
        ax.set_axis_off()
    for ax, fraction in zip(axes, fractions):
        part = table[table["fraction"] == fraction]
        some, means = part[chance.loc[part.index]], part[~chance.loc[part.index]]
        ax.plot(some["acc2"], some["acc1"], ".", color=ORANGE, ms=3, alpha=0.6, label="random")
        ax.plot(means["acc2"], means["acc1"], "o", color=BLUE, ms=4, mfc=ground(), label="rankings")
        best = means.nlargest(3, "acc1")
        ours = means[means["ranking"] == paper.RANKING]
        named.append(pd.concat([best, ours]).drop_duplicates().sort_values("acc1"))
        ax.set_title(f"{fraction:.0%} of each layer put back", fontsize=9)
        ax.set_xlabel("acc2")
        percent(ax, "xy")
    for ax, some in zip(axes, named):
        _names(ax, some)
    for ax in grid[:, 0]:
        ax.set_ylabel("acc1")
    grid[0][0].legend(fontsize=7, loc="lower left")
    figure.suptitle(about, fontsize=9)
    return figure


def _names(ax, rows: pd.DataFrame) -> None:
    """Labels beside their marks, apart from each other; in the right half, to the left of them.
    rows: label, acc2, acc1, ascending."""
    marks = rows[["acc2", "acc1"]].to_numpy()
    low, high = np.transpose([ax.get_xlim(), ax.get_ylim()])
    places = (marks - low) / (high - low)  # (x, y) in [0, 1]
    heights = spread(places[:, 1], 0.045)
    for label, mark, (x, _), height in zip(rows["label"], marks, places, heights):
        left = x > 0.55
        ax.annotate(
            label,
            mark,
            xytext=(x - 0.05 if left else x + 0.05, height),
            textcoords="axes fraction",
            ha="right" if left else "left",
            va="center",
            fontsize=6.5,
            bbox={"facecolor": ground(), "edgecolor": "none", "alpha": 0.6, "pad": 0.3},
            arrowprops={"arrowstyle": "-", "lw": 0.4, "color": ink(), "shrinkA": 0, "shrinkB": 2},
        )
