"""Galleries of small pictures, maps laid over images, and tables shown as colours."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.report.figures.style import ORANGE, new, written_on

OVERLAY = "inferno"  # grows in brightness all the way: also read in grey


def picture(x: np.ndarray) -> np.ndarray:
    """(3, H, W) uint8 or float in [0, 1] -> (H, W, 3); (H, W) stays."""
    return x.transpose(1, 2, 0) if x.ndim == 3 else x


def image_grid(
    rows: Mapping[str, Sequence[np.ndarray]],
    titles: Sequence[str] = (),
    size: float = 0.75,
    heading: str = "",
    groups: Sequence[tuple[str, int]] = (),
    notes: Sequence[str] = (),
) -> Figure:
    """One line of small pictures for each label. (3, H, W) are shown in colour, (H, W) as maps
    (dark 0, bright 1).

    groups: names over so many columns each, set apart by a gap. notes: words at the right of each
    line."""
    columns = max(len(v) for v in rows.values())
    after = [sum(n for _, n in groups[: i + 1]) for i in range(len(groups) - 1)]  # a gap after each
    place = [i + sum(i >= a for a in after) for i in range(columns)]
    widths = [1.0 if i in place else 0.3 for i in range(place[-1] + 1)]
    figure, axes = new(
        size * sum(widths) + 1.3 + bool(notes),
        size * len(rows) + 0.6 + 0.2 * bool(groups),
        nrows=len(rows),
        ncols=len(widths),
        squeeze=False,
        width_ratios=widths,
    )
    for ax in axes.flat:
        ax.axis("off")
    for line, (label, pictures) in zip(axes, rows.items()):
        for i, x in zip(place, pictures):
            _show(line[i], x)
        _beside(line[0], label, left=True)
    for line, note in zip(axes, notes):
        _beside(line[place[-1]], note, left=False)
    for i, title in zip(place, titles):
        axes[0][i].set_title("\n" * bool(groups) + title, fontsize=8)  # a line above: groups
    _name_groups([axes[0][i] for i in place], groups)
    figure.suptitle(heading, fontsize=9)
    return figure


def _show(ax, x: np.ndarray) -> None:
    limits = {"vmin": 0, "vmax": 1} if np.ndim(x) == 2 else {}
    ax.imshow(picture(np.asarray(x)), cmap="viridis", **limits)


def _beside(ax, words: str, left: bool) -> None:
    place, side = (-0.15, "right") if left else (1.15, "left")
    ax.text(place, 0.5, words, transform=ax.transAxes, ha=side, va="center", fontsize=8)


def _name_groups(top: Sequence, groups: Sequence[tuple[str, int]]) -> None:
    """Each group's name over its first column, above the columns' own."""
    first = 0
    for name, n in groups:
        said = top[first].annotate(
            name,
            (0, 1),
            xytext=(0, 18),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=8.5,
            weight="bold",
            annotation_clip=False,
        )
        said.set_in_layout(False)  # it may be wider than its column
        first += n


def overlay(image: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    """The map (H, W) in [0, 1] as colour (dark violet 0 to yellow 1) on the image in grey, uint8
    (3, H, W) -> float (3, H, W) in [0, 1]."""
    grey = np.tensordot([0.299, 0.587, 0.114], image / 255, axes=1)[None]
    colour = mpl.colormaps[OVERLAY](saliency)[..., :3].transpose(2, 0, 1)
    return 0.5 * grey + 0.5 * colour


def score_heat_map(scores_cf: np.ndarray, names: Sequence[str], heading: str) -> Figure:
    """Scores (C, F) of one layer, filters sorted by their mean score: stripes along a column mean
    the class hardly matters."""
    order = np.argsort(-scores_cf.mean(0), kind="stable")
    figure, ax = new(7, 2.6)
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


def matrix(
    values: np.ndarray, names: Sequence[str], heading: str, label: str, chance: float = 0.0
) -> Figure:
    """A square table (C, C) of one number for each pair of classes, in the order given, on a scale
    of 0 to 1 whatever the values are: equal colours in two figures are equal numbers. chance: what
    two unrelated classes would have, marked on the scale."""
    figure, ax = new(0.42 * len(names) + 2.4, 0.36 * len(names) + 1.7)
    shown = ax.imshow(values, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        look = {"fontsize": 7.5, "color": written_on(shown.to_rgba(value)[:3])}
        ax.text(x, y, _short(value), ha="center", va="center", **look)
    ax.set(yticks=range(len(names)), yticklabels=names, xticks=range(len(names)))
    ax.set_xticklabels(names, rotation=50, ha="right", rotation_mode="anchor")
    ax.grid(False)
    scale = figure.colorbar(shown, ax=ax, label=label, extend="min" if values.min() < 0 else None)
    scale.ax.axhline(chance, color="w", lw=4, clip_on=False)
    scale.ax.axhline(chance, color=ORANGE, lw=2, clip_on=False)
    scale.set_ticks([*np.linspace(0, 1, 6)])
    figure.suptitle(f"{heading}\nmarked on the scale: unrelated, {chance:.2f}", fontsize=9)
    return figure


def of_class_maps(table: pd.DataFrame, setting: str, seed: int) -> Figure:
    """Correlation of every pair of class maps. table: class, then a column for each class."""
    heading = f"are class maps different? {setting}, seed {seed}"
    values = table.drop(columns="class").to_numpy(float)
    return matrix(values, list(table["class"]), heading, "Pearson correlation")


def of_class_choices(table: pd.DataFrame, setting: str, seed: int, fraction=0.5) -> Figure:
    """Overlap of what every pair of classes would choose alone. table: as above."""
    heading = f"filters each class would choose alone, {100 * fraction:.0f} %; "
    heading += f"{setting}, seed {seed}"
    values, chance = table.drop(columns="class").to_numpy(float), fraction / (2 - fraction)
    return matrix(values, list(table["class"]), heading, "overlap (IoU)", chance)


def _short(value: float) -> str:
    """.82, 1.0, -.05"""
    return "1.0" if value > 0.995 else f"{round(value, 2) + 0.0:.2f}".replace("0.", ".", 1)
