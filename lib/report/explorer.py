"""A trained seed by hand: controls for a notebook, and the pictures they draw.

    record = record_of(show)                         # show: a lib.study.showcase.Showcase
    panel = choices(show, record)                    # class, layer, ranking, share: moved by hand
    panel.controls["ranking"].value = "pearson"      # draws again
    draw_choice(show, *panel.state().values())       # the same picture without controls

No torch here: what is computed is asked of `show`."""

from collections.abc import Callable
from html import escape
from io import BytesIO
from typing import Any, NamedTuple

import ipywidgets as widgets
import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.report import figures
from lib.study.live import live
from lib.study.profile import ROOT
from lib.study.store import read_table, results_dir

SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)
BESIDE = {  # choices that every other is compared with
    "random": "random's choice",
    "mse_flat": "a flat map's",
    "mse": "the class maps' (MSE)",
}
SIDE = 7  # filters shown as the most and as the least alike
ACROSS = 32  # filters in a line of the mosaic
FIRST, LAST, WIDE = 2.3, 10.5, 18.2  # where the first and the last filters start, and the width
WHAT_IS_SHOWN = (
    "above: the image that raises the filter most; below: its heat map, which is compared with the "
    "class map"
)
NOT_LIVE = (
    "(The controls are for a live notebook; nobody looks on here. The picture below is one they "
    "draw.)"
)
CONTROLS = {  # of the table of trajectories: what it is called, how far, colour, dash
    "trajectory": ("fine-tuning, step by step", "after {:.0f} steps", figures.VERMILLION, "-"),
    "interpolation": ("straight line of weights", "{:.0%} of the way", "#555555", "--"),
}


# --- the record -----------------------------------------------------------------------------------


class Record(NamedTuple):
    """What the published tables say of one seed's checkpoint; arms: of all."""

    runs: pd.DataFrame
    trajectory: pd.DataFrame
    arms: pd.DataFrame


def record_of(show) -> Record:
    """The rows of the seed that is shown: published ones, else those here. ValueError if there are
    none."""
    about = show.about
    places = [ROOT / "results/published" / about["profile"], results_dir(about["profile"])]
    for folder in [place / "tables" for place in places]:
        names = ("runs", "trajectory", "arms")
        if all((folder / f"{name}.csv").exists() for name in names):
            runs, trajectory, arms = (read_table(folder / f"{name}.csv") for name in names)
            mine = [_of_seed(table, about) for table in (runs, trajectory)]
            if all(map(len, mine)):
                return Record(*mine, arms)
    raise ValueError(
        f"no rows of seed {about['seed']}, checkpoint {about['lineage']}, with a trajectory in "
        f"{' or '.join(map(str, places))}: run make reproduce PROFILE={about['profile']} first"
    )


def _of_seed(table: pd.DataFrame, about: dict[str, Any]) -> pd.DataFrame:
    if table.empty:
        return table
    return table[(table["seed"] == about["seed"]) & (table["lineage"] == about["lineage"])]


def arm_of(record: Record, ranking: str, fraction: float) -> pd.Series | None:
    """The row of this ranking and share (weights frozen, budget shared in turns), or None."""
    runs = record.runs
    found = runs[
        (runs["ranking"] == ranking)
        & np.isclose(runs["fraction"].astype(float), fraction)
        & (runs["scope"] == "weights")
        & (runs["rule"] == "turns")
    ]
    return None if found.empty else found.iloc[0]


# --- a choice of filters --------------------------------------------------------------------------


def order(show, name: str, layer: str, ranking: str) -> np.ndarray:
    """(F,) filters of a layer, the class's first choice first; ties by number."""
    scores_cf = np.asarray(show.scores(ranking)[layer])
    mine = scores_cf[show.classes.index(name) if len(scores_cf) > 1 else 0]
    return np.argsort(-mine, kind="stable")


def overlaps(show, ranking: str, fraction: float) -> dict[str, float]:
    """Words for another choice -> its overlap (IoU over all layers) with this one."""
    return {said: show.overlap(ranking, name, fraction) for name, said in BESIDE.items()}


def about_choice(
    show, record: Record, name: str, layer: str, ranking: str, fraction: float
) -> list[str]:
    """Sentences: what is frozen, with what that overlaps, what became of this arm."""
    masks = show.choice(ranking, fraction)
    here, label = masks[layer], show.labels[ranking]
    frozen, filters = (sum(map(f, masks.values())) for f in (lambda m: int(m.sum()), len))
    others = [(v, said) for said, v in overlaps(show, ranking, fraction).items()]
    shared = [f"{v:.2f} with {said}" for v, said in others if said != BESIDE.get(ranking)]
    return [
        f"{label} at {fraction:.0%} freezes {int(here.sum())} of {len(here)} filters of {layer}, "
        f"{frozen:,} of {filters:,} in all layers.",
        f"Overlap (IoU, all layers): {', '.join(shared)}; two random choices share "
        f"{fraction / (2 - fraction):.2f}.",
        about_arm(show, record, ranking, fraction),
    ]


def about_arm(show, record: Record, ranking: str, fraction: float) -> str:
    """A sentence: what the record says of the arm with this ranking and share."""
    arm, other = arm_of(record, ranking, fraction), arm_of(record, "random", fraction)
    if arm is None:
        return f"The record has no arm of {show.labels[ranking]} at {fraction:.0%}."
    said = (
        f"With the {fraction:.0%} frozen that {show.labels[ranking]} chooses, the network is right "
        f"on {arm['acc1']:.1%} of task 1 after task 2 (before: {arm['acc1_before']:.1%}) and on "
        f"{arm['acc2']:.1%} of task 2"
    )
    if ranking != "random" and other is not None:
        said += f"; with random filters, {other['acc1']:.1%} and {other['acc2']:.1%}"
    return f"{said} (one seed)."


def table_of_choices(show, record: Record, fraction: float) -> pd.DataFrame:
    """Every ranking that needs nothing else than what is shipped: overlaps of its choice, and its
    arm's accuracies after task 2 where the record has it."""
    rows = []
    for ranking, label in show.labels.items():
        arm, shared = arm_of(record, ranking, fraction), overlaps(show, ranking, fraction)
        row = {f"overlap with {said}": f"{value:.2f}" for said, value in shared.items()}
        for task in (1, 2):
            row[f"task {task} after"] = "" if arm is None else f"{arm[f'acc{task}']:.1%}"
        rows.append({"ranking": label, **row})
    return pd.DataFrame(rows).set_index("ranking")


def answer(show, record: Record, fraction: float = 0.5) -> str:
    """What can be seen by hand, in two sentences."""
    flat, chance = show.overlap("mse", "mse_flat", fraction), fraction / (2 - fraction)
    return (
        f"At {fraction:.0%}, a flat map in place of the class maps chooses filters that overlap "
        f"{flat:.2f} with the paper's (MSE); two random choices share {chance:.2f}.\n"
        f"{about_arm(show, record, 'mse', fraction)} What all seeds say stands in notebook 05."
    )


def draw_choice(show, name: str, layer: str, ranking: str, fraction: float) -> Figure:
    """A class's example and map; the layer's first and last filters by the ranking, as pictures and
    as heat maps; all filters of the layer in this order. Frozen ones are framed."""
    figures.use_style_once()
    figure = Figure(figsize=(9.4, 4.1), layout="none")
    ax, c = figure.add_axes((0.01, 0.01, 0.98, 0.98)), show.classes.index(name)
    ranked = order(show, name, layer, ranking)
    frozen = np.asarray(show.choice(ranking, fraction)[layer])
    _put(ax, show.evidence.task.x[c], 0, 0.4, 1.7, above=name)
    _put(ax, show.evidence.maps[c], 0, 2.6, 1.7, above="its class map")
    _draw_ends(ax, show, layer, ranked, frozen)
    ax.text(FIRST, 0.3, f"first filters of {layer} by {show.labels[ranking]}", fontsize=9)
    foot = _draw_all(ax, np.asarray(show.evidence.heat[layer])[ranked], frozen[ranked])
    ax.set(xlim=(-0.1, WIDE + 0.1), ylim=(max(7.7, foot), -0.3))
    ax.axis("off")
    return figure


def _draw_ends(ax, show, layer: str, ranked: np.ndarray, frozen: np.ndarray) -> None:
    """Both ends of the order: pictures in the upper line, heat maps in the lower."""
    side = min(SIDE, len(ranked) // 2)
    for start, part in ((FIRST, ranked[:side]), (LAST, ranked[len(ranked) - side :])):
        for place, f in enumerate(part):
            x = start + 1.1 * place
            _put(ax, show.pictures[layer][f], x, 0.5, 1, frozen[f])
            _put(ax, show.evidence.heat[layer][f], x, 2.0, 1, frozen[f])
            ax.text(x + 0.5, 3.35, f, ha="center", fontsize=8)
    ax.text(LAST, 0.3, "last filters", fontsize=9)
    ax.text(FIRST, 3.9, WHAT_IS_SHOWN, fontsize=8)


def _draw_all(ax, heat_fhw: np.ndarray, frozen_f: np.ndarray) -> float:
    """All filters of the layer; returns where they end."""
    tiles, top = mosaic(heat_fhw, frozen_f), 5.2
    width = WIDE * min(1, len(heat_fhw) / (ACROSS / 2))
    foot = top + width * len(tiles) / tiles.shape[1]
    ax.imshow(tiles, extent=(0, width, foot, top))
    said = f"all {len(heat_fhw)} of this layer, first to last"
    ax.text(0, 5.0, f"{said}; framed: frozen ({frozen_f.sum()}), pale: free", fontsize=9)
    return foot


def _put(ax, image, x: float, y: float, size: float, framed: bool = False, above: str = "") -> None:
    """A small picture with its upper left corner at (x, y)."""
    image = np.asarray(image)
    scale = {"vmin": 0, "vmax": 1} if image.ndim == 2 else {}
    ax.imshow(figures.picture(image), extent=(x, x + size, y + size, y), **scale)
    ax.text(x, y - 0.1, above, fontsize=9)
    if framed:
        corner, more = (x, y), {"fill": False, "lw": 2.5, "ec": figures.VERMILLION}
        ax.add_patch(mpl.patches.Rectangle(corner, size, size, **more))


def mosaic(heat_fhw: np.ndarray, frozen_f: np.ndarray) -> np.ndarray:
    """(F, H, W) in [0, 1] -> (height, width, 3): heat maps side by side, ACROSS in a line, frozen
    ones framed, free ones pale."""
    number, size = len(heat_fhw), heat_fhw.shape[-1] + 8  # three pixels of frame, one of paper
    is_frozen = frozen_f[:, None, None, None]
    tiles = mpl.colormaps["viridis"](heat_fhw)[..., :3]
    framed = np.ones((number, size, size, 3))
    framed[:, 1:-1, 1:-1] = np.where(is_frozen, mpl.colors.to_rgb(figures.VERMILLION), 1.0)
    framed[:, 4:-4, 4:-4] = np.where(is_frozen, tiles, 0.7 + 0.3 * tiles)
    across = min(ACROSS, number)
    lines = -(-number // across)
    grid = np.ones((lines * across, size, size, 3))
    grid[:number] = framed
    grid = grid.reshape(lines, across, size, size, 3).swapaxes(1, 2)
    return grid.reshape(lines * size, across * size, 3)


# --- two controls that cost no training -----------------------------------------------------------


def at_places(record: Record, step: float, alpha: float) -> dict[str, pd.Series]:
    """Fine-tuning's trajectory at the recorded step nearest to `step`, and the line of weights
    nearest to `alpha`: control -> row place, task1, task2."""
    found = {}
    for control, place in (("trajectory", step), ("interpolation", alpha)):
        rows = record.trajectory[record.trajectory["control"] == control]
        found[control] = rows.iloc[(rows["place"] - place).abs().argmin()]
    return found


def about_places(record: Record, step: float, alpha: float) -> list[str]:
    """Sentences: accuracies where the sliders stand."""
    return [
        f"{CONTROLS[k][0].capitalize()}, {CONTROLS[k][1].format(row['place'])}: {row['task1']:.1%} "
        f"of task 1, {row['task2']:.1%} of task 2."
        for k, row in at_places(record, step, alpha).items()
    ]


def draw_path(record: Record, step: float, alpha: float) -> Figure:
    """The plane of both accuracies: fine-tuning's way and the straight line of weights, with a
    large mark where the sliders stand, and where the arms of the seed ended."""
    figures.use_style_once()
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    ax = figure.subplots()
    for control, row in at_places(record, step, alpha).items():
        rows = record.trajectory[record.trajectory["control"] == control].sort_values("place")
        label, _, tint, dash = CONTROLS[control]
        ax.plot(rows["task2"], rows["task1"], dash, color=tint, lw=1.2, label=label)
        ax.plot(row["task2"], row["task1"], "o", color=tint, ms=11, mec="k", zorder=5)
    _draw_arms(ax, record)
    ax.set(xlabel="accuracy on task 2", ylabel="accuracy on task 1")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(mpl.ticker.PercentFormatter(1.0, decimals=0))
    seed = record.runs["seed"].iloc[0]
    said = "large dots: where the sliders stand; other marks: arms after task 2"
    ax.set_title(f"seed {seed} alone; {said}", fontsize=9)
    figure.legend(*ax.get_legend_handles_labels(), fontsize=8, loc="outside right upper")
    return figure


def _draw_arms(ax, record: Record) -> None:
    looks = figures.looks_of(record.arms)
    named = record.runs.merge(record.arms[["arm", "label"]], on="arm")
    named = named[named["curriculum"] == "sequence"]
    for label, part in named.groupby("label", sort=False):
        ax.plot(part["acc2"], part["acc1"], ls="", ms=6, label=label, **looks[label].shape)


# --- an image of one's own ------------------------------------------------------------------------


def draw_look(show, image: np.ndarray) -> Figure:
    """An image, where the network looks for its likeliest class, and how sure it is of each."""
    figures.use_style_once()
    seen, chances, saliency = (np.asarray(part) for part in show.look(image))
    figure = Figure(figsize=(8, 2.5), layout="constrained")
    axes = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.4))
    best = show.classes[int(chances.argmax())]
    both = figures.overlay(seen, saliency)
    titles = ("as the network sees it", f"FullGrad: {best}", "both")
    for ax, part, title in zip(axes, (seen, saliency, both), titles):
        ax.imshow(figures.picture(part))
        ax.set_title(title, fontsize=9)
        ax.axis("off")
    axes[3].barh(show.classes[::-1], chances[::-1], color=figures.BLUE)
    axes[3].set(xlim=(0, 1), xlabel="probability")
    axes[3].grid(axis="y", visible=False)
    axes[3].tick_params(labelsize=8)
    return figure


# --- controls -------------------------------------------------------------------------------------


class Panel:
    """Controls above sentences and a picture, which are made anew whenever a control moves.

    controls: name -> widget; the names are those of the arguments of `draw` and `say`. In a
    notebook that nobody looks at, one sentence stands in its place."""

    def __init__(
        self,
        controls: dict[str, widgets.Widget],
        draw: Callable[..., Figure],
        say: Callable[..., list[str]],
    ):
        self.controls, self._draw, self._say = controls, draw, say
        self.words, as_it_is = widgets.HTML(), widgets.Layout(align_self="flex-start")
        self.picture = widgets.Image(format="png", layout=as_it_is)  # not drawn out to the width
        for control in controls.values():
            control.observe(self._moved, names="value")
        row = widgets.HBox([*controls.values()], layout=widgets.Layout(flex_flow="row wrap"))
        self.box = widgets.VBox([row, self.words, self.picture])

    def state(self) -> dict[str, Any]:
        """Where the controls stand."""
        return {name: control.value for name, control in self.controls.items()}

    def _moved(self, change: Any = None) -> None:
        state = self.state()
        self.words.value = "<br>".join(map(escape, self._say(**state)))
        self.picture.value = png(self._draw(**state))

    def _ipython_display_(self) -> None:
        from IPython.display import display

        if not live():
            print(NOT_LIVE)
            return
        self._moved()
        display(self.box)


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG."""
    page = BytesIO()
    figure.savefig(page, format="png", metadata={"Software": None})
    return page.getvalue()


def choices(show, record: Record, ranking: str = "mse", fraction: float = 0.5) -> Panel:
    """Class, layer, ranking, share -> its map, the filters it likes most and least, which are
    frozen, what else would freeze them, and what became of that arm."""
    layers = list(show.pictures)
    rankings = [(label, name) for name, label in show.labels.items()]
    controls = {
        "name": widgets.Dropdown(options=show.classes, description="class"),
        "layer": widgets.Dropdown(
            options=layers, value=layers[len(layers) // 2], description="layer"
        ),
        "ranking": widgets.Dropdown(options=rankings, value=ranking, description="ranking"),
        "fraction": widgets.SelectionSlider(
            options=[(f"{share:.0%}", share) for share in SHARES],
            value=fraction,
            description="frozen",
        ),
    }

    def draw(**state) -> Figure:
        return draw_choice(show, **state)

    def say(**state) -> list[str]:
        return about_choice(show, record, **state)

    return Panel(controls, draw, say)


def path(record: Record) -> Panel:
    """A slider along fine-tuning's steps and one along the straight line of weights -> where both
    tasks are then."""

    def slider(control: str, description: str) -> widgets.SelectionSlider:
        rows = record.trajectory[record.trajectory["control"] == control]
        places = sorted(rows["place"])
        options = [(f"{place:g}", place) for place in places]
        return widgets.SelectionSlider(
            options=options, value=places[len(places) // 2], description=description
        )

    controls = {
        "step": slider("trajectory", "steps"),
        "alpha": slider("interpolation", "line, 0 to 1"),
    }

    def draw(**state) -> Figure:
        return draw_path(record, **state)

    def say(**state) -> list[str]:
        return about_places(record, **state)

    return Panel(controls, draw, say)
