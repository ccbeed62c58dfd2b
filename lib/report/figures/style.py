"""How figures look: the study's style, colours by family, markers, what is written on them."""

from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.transforms import Bbox
from PIL import Image

DATA = {"cifar100": "CIFAR-100"}  # labels of data -> what readers know them as
DPI = 200  # of every PNG
STYLE = {
    "figure.dpi": 100,
    "savefig.dpi": DPI,
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
KEPT = ("svg.hashsalt", "text.parse_math", "savefig.dpi")  # whatever style is laid over it
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
# of a colour with the ground it is drawn on (WCAG's ratio), light or dark
LEAST_CONTRAST = {"light": 2.0, "dark": 3.5}


def use_style(name: str | None = None) -> None:
    """The study's style, or a matplotlib style by name laid over it; whatever this process was set
    to before plays no part, so that equal figures are equal bytes wherever they are drawn."""
    mpl.rcdefaults()
    mpl.rcParams.update(STYLE)
    if name:
        style.use(name)
        mpl.rcParams.update({k: STYLE[k] for k in KEPT})


def use_style_once() -> None:
    """Apply the study's style if nobody has chosen one."""
    if mpl.rcParams["svg.hashsalt"] != STYLE["svg.hashsalt"]:
        use_style()


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
        few.save(folder / f"{name}.png", optimize=True, dpi=(DPI, DPI))
    return [folder / f"{name}.{kind}" for kind in ("png", "svg")[: 1 + svg]]


def shrunk(image: Image.Image, size: tuple[int, int]) -> bytes:
    """A PNG of another size, in 256 colours: for pages and notebooks."""
    found = BytesIO()
    small = image.convert("RGB").resize(size, Image.Resampling.BOX).quantize(256)
    small.save(found, "PNG", optimize=True)
    return found.getvalue()


def flattened(image: Image.Image) -> bytes:
    """A plot as a WebP of its own size, reduced to 256 colours and then stored without loss: a
    quarter of the PNG."""
    found = BytesIO()
    few = image.convert("RGB").quantize(256).convert("RGB")
    few.save(found, "WEBP", lossless=True, quality=80, method=4)
    return found.getvalue()


def pictured(image: Image.Image, size: tuple[int, int]) -> bytes:
    """A WebP of another size, for pages that show many small photographs."""
    found = BytesIO()
    image.convert("RGB").resize(size, Image.Resampling.BOX).save(found, "WEBP", quality=85)
    return found.getvalue()


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


def new(width: float, height: float, **subplots):
    """A figure of so many inches and its axes."""
    use_style_once()
    figure = Figure(figsize=(width, height), layout=SteadyLayout())
    return figure, figure.subplots(**subplots)


# --- colours --------------------------------------------------------------------------------------


def ink() -> str:
    """What words and lines of reference are drawn in: black, or white in a dark style."""
    return mpl.rcParams["text.color"]


def ground() -> str:
    """What is behind everything: white, or black in a dark style."""
    return mpl.rcParams["axes.facecolor"]


def luminance(colour) -> float:
    """0 black to 1 white, as an eye sees it (WCAG)."""
    parts = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in to_rgb(colour)]
    return float(np.dot(parts, (0.2126, 0.7152, 0.0722)))


def contrast(one, other) -> float:
    """1 (the same) to 21 (black on white)."""
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def mixed(colour, other, share: float) -> str:
    """A colour with a share of another."""
    return to_hex([(1 - share) * a + share * b for a, b in zip(to_rgb(colour), to_rgb(other))])


def standing_out(colour: str, least: float | None = None) -> str:
    """The colour, with as much of the ink as it needs to stand out from the ground."""
    light = luminance(ground()) > luminance(ink())
    least = least or LEAST_CONTRAST["light" if light else "dark"]
    for share in np.linspace(0, 1, 11):
        found = mixed(colour, ink(), share) if share else colour
        if contrast(found, ground()) >= least:
            return found
    return ink()


def written(colour: str) -> str:
    """The colour for words: they need more contrast than a line."""
    return standing_out(colour, 4.5)


def written_on(colour) -> str:
    """Black or white, whichever is read better on a cell of this colour."""
    return "black" if luminance(colour) > 0.18 else "white"


def shade(colour: str, step: int) -> str:
    """The colour itself at step 0; darker, lighter, darker still, ... after it."""
    if not step:
        return colour
    amount, towards = 1 - 0.65 ** ((step + 1) // 2), 1 if step % 2 == 0 else 0
    return to_hex([x + (towards - x) * amount for x in to_rgb(colour)])


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
        face = ground() if self.fill == "none" else self.colour
        fill = "full" if self.fill == "none" else self.fill
        more = {"markerfacecolor": face, "markerfacecoloralt": ground(), "fillstyle": fill}
        return {"marker": self.marker, "color": self.colour, **more}


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
        colour = shade(colours[place % len(colours)], place // len(colours))
        looks[label] = Look(standing_out(colour), marker, fill)
    return looks


# --- the table of arms ----------------------------------------------------------------------------


def line_of(arms: pd.DataFrame, arm: str) -> pd.Series:
    """An arm's line in the table of arms."""
    found = arms[arms["arm"] == arm]
    if found.empty:
        raise ValueError(
            f"arm {arm!r}: expected a line in the table arms.csv, which is older than the runs "
            "(make reproduce writes it again)"
        )
    return found.iloc[0]


def in_order(arms: pd.DataFrame, names) -> list[str]:
    """Arms in the order of the table."""
    return sorted(dict.fromkeys(names), key=lambda arm: line_of(arms, arm)["order"])


# --- words and scales -----------------------------------------------------------------------------


def counted(n: int) -> str:
    """How many seeds."""
    return "1 seed" if n == 1 else f"n = {n}"


def seeds_of(tables: Iterable[pd.DataFrame]) -> str:
    """How many seeds: `n = 3`, or `n = 1 to 12` where the tables differ."""
    counts = {table["seed"].nunique() for table in tables}
    most = max(counts)
    return counted(most) if len(counts) == 1 else f"n = {min(counts)} to {most}"


def in_words(profile: str) -> str:
    """What a setting is called by the name of its profile: `compact, two heads`."""
    found = profile.replace("_two_heads", ", two heads").replace("_batch_norm", " with batch norm")
    return found.replace("_", " ")


def named(profile: str, setting: str) -> str:
    """A setting in words, with what tables call it: `compact, two heads (KT)`."""
    words = in_words(profile)
    return words if words == setting else f"{words} ({setting})"


def described(setting: str, data: str, n: int) -> str:
    """What every figure must say: setting (as `named`), data, number of seeds."""
    return f"{setting}; {DATA.get(data, data)}, {counted(n)}"


def caption(runs: pd.DataFrame) -> str:
    """`described`, of a table of runs."""
    first = runs.iloc[0]
    return described(
        named(first["profile"], first["setting"]), first["data"], runs["seed"].nunique()
    )


def percent(ax, axis: str = "y") -> None:
    """Ticks of these axes in per cent, as many decimals as they need."""
    for name in axis:
        getattr(ax, f"{name}axis").set_major_formatter(lambda x, _: f"{round(100 * x, 6):g}%")


def whole_numbers(ax) -> None:
    """Ticks along x at whole numbers: epochs."""
    ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))


def spread(places: Sequence[float], gap: float) -> np.ndarray:
    """Ascending places in [0, 1] moved as little as can be (least squares) until neighbours are a
    gap apart; all stay in [0, 1] if there is room."""
    from scipy.optimize import isotonic_regression

    steps = gap * np.arange(len(places))
    moved = isotonic_regression(np.asarray(places) - steps).x
    return np.clip(moved, 0, max(0, 1 - steps[-1])) + steps


def legend_below(figure: Figure, handles: Sequence, labels: Sequence[str], columns: int) -> None:
    """One legend under all panels."""
    figure.legend(handles, labels, ncols=columns, fontsize=8, loc="outside lower center")
