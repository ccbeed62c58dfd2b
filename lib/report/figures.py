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
from PIL import Image

from lib.report import paper
from lib.report.claims import OVERLAP, RELIABLE
from lib.report.statistics import by_seed, checkpoints, interval

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
    """The study's style, or a matplotlib style by name laid over it."""
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


def _new(width: float, height: float, **subplots):
    use_style_once()
    figure = Figure(figsize=(width, height), layout="constrained")
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


def plane(
    runs: pd.DataFrame,
    arms: pd.DataFrame,
    trajectory: pd.DataFrame | None = None,
    beside_paper: bool = True,
) -> Figure:
    """The stability-plasticity plane: acc1 against acc2. A curve over fractions for each label,
    fine-tuning's own trajectory, the straight line of weights, the bounds, and the paper's three
    points where they apply."""
    looks = looks_of(arms)
    lines = pd.DataFrame([_line_of(arms, arm) for arm in _in_order(arms, runs["arm"])])
    fractions = lines["fraction"].astype(float)
    on_curve = (fractions > 0) & (fractions < 1)
    entries = lines[on_curve]["label"].nunique() + sum(~on_curve) + len(CONTROLS) + 1
    figure, ax = _new(7.6, max(5, 0.185 * entries + 0.6))  # the legend is a line for each
    for label, members in lines[on_curve].groupby("label", sort=False):
        look, points = looks[label], []
        shares = members.drop_duplicates("fraction").sort_values("fraction")["fraction"]
        words = f"{label}, {' / '.join(f'{100 * f:.0f}' for f in shares)} % frozen"
        for fraction in shares:
            names = members[members["fraction"] == fraction]["arm"]
            part = runs[runs["arm"].isin(names)]
            points.append([by_seed(part, c).mean() for c in ("acc2", "acc1")])
            _cross(ax, part, look, words if len(points) == 1 else None)
        ax.plot(*np.array(points).T, look.dash, lw=1, color=look.colour)
    for arm, label in zip(lines["arm"][~on_curve], lines["label"][~on_curve]):
        _cross(ax, runs[runs["arm"] == arm], looks[label], arm, 8)
    if trajectory is not None and len(trajectory):
        for control, (words, dash, tint) in CONTROLS.items():
            rows = trajectory[trajectory["control"] == control]
            mean = rows.groupby("place")[["task1", "task2"]].mean()
            ax.plot(mean["task2"], mean["task1"], dash, color=tint, lw=1.6, label=words)
    start = checkpoints(runs)
    if len(start):
        means = start["acc2_before"].mean(), start["acc1_before"].mean()
        ax.plot(*means, "k+", ms=10, mew=2, label="before round 2")
    if beside_paper:
        for row in paper.TABLES:
            if row.numbers:
                place = row.numbers["acc2"], row.numbers["acc1"]
                ax.plot(*place, "kx", ms=6)
                ax.annotate(
                    f"paper, {row.name}",
                    place,
                    xytext=(5, -9),
                    textcoords="offset points",
                    fontsize=7,
                    bbox={"fc": "white", "ec": "none", "alpha": 0.7, "pad": 0.5},
                )
    ax.set_xlabel("acc2: test accuracy on task 2 (plasticity)")
    ax.set_ylabel("acc1: test accuracy on task 1 (stability)")
    several = runs["seed"].nunique() > 1
    words = "; means with 95 % intervals over seeds" if several else ": one seed, no intervals"
    figure.suptitle(caption(runs) + words, fontsize=9)
    _percent(ax, "xy")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside right center", fontsize=8)
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
        ax.text(x, y, f"{value:.1f}".replace("0.", "."), ha="center", va="center", fontsize=6)
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
        some = part[chance]
        ax.plot(some["acc2"], some["acc1"], ".", color=ORANGE, ms=3, alpha=0.6, label="random")
        means = part[~chance].groupby(["label", "ranking"])[["acc1", "acc2"]].mean().reset_index()
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
