"""The report as HTML, one file that holds its pictures, from tables and figures on disk. No torch.

    page(results_dir("compact"), "compact, one head")            # one profile
    overview([Setting(folder, name, about, "compact.html"), ...])

Templates (templates/*.html.j2) hold the prose, `lib.report.answers` the sentences with numbers."""

import base64
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

from lib.report import answers, figures, paper, power, readings
from lib.report.answers.lines import NUMBERS, called, named
from lib.report.statistics import tasks_in
from lib.report.words import asked, at_an_end, plain, tried
from lib.study.profile import ROOT, Profile, load
from lib.study.store import read_table

# --- the page -------------------------------------------------------------------------------------


class Shown(NamedTuple):
    """What is said of a figure: its title, what is to be seen (for those who cannot see it), and
    how to read it."""

    title: str
    alt: str
    see: str


FIGURES = {  # in the order of the study's questions
    "forest": Shown(
        "Explanation against chance",
        "For each share of filters frozen, a mark with an interval for the difference in accuracy "
        "on task 1, over a grey band of one point around zero, and a dot for each seed.",
        "Marks right of zero: explanation keeps more; in the grey band a difference is too small "
        "to matter. Intervals here are plain 95 %; verdicts widen those of the main claims. "
        "Room: what freezing every filter keeps beyond freezing none.",
    ),
    "plane": Shown(
        "What is kept against what is learned",
        "A plane of accuracy on task 1 (upwards) against task 2 (to the right): fine-tuning's path "
        "and the straight line of weights fall from the upper left to the lower right; every arm "
        "is a cross with its name and number of seeds at the right, or one of many dots; the lower "
        "panel enlarges "
        "freezing and fine-tuning, with the share frozen at each mark.",
        "An arm helps if it lies above the others at equal accuracy on task 2, fine-tuning's own "
        "path and the straight line of weights among them.",
    ),
    "methods": Shown(
        "Beside other methods",
        "Two panels, one line for each method that freezes no ranked filters, the best on top: "
        "its accuracy on task 1, and over all tasks, minus that of freezing by explanation at its "
        "best share, with an interval and a dot for each seed, over a grey band of one point.",
        "Right of zero a method does better than the paper's. Some store more than it does, or "
        "train longer, or need the task to be named at test: the list of methods says which. The "
        "paper's share is the best of those run, chosen on these same seeds, to its advantage.",
    ),
    "readings": Shown(
        "Which reading of the paper, if any?",
        "Above, a rising row of marks, one for each reading of the paper, with a dot for each seed "
        "and a grey band of one point around zero; below, what each reading chooses.",
        "A choice that mattered would have its marks below gathered at one end; so would one whose "
        "few networks, which its readings share, happened to lie there.",
    ),
    "retained": Shown(
        "What is retained",
        "Two panels, one line for each arm, arms that were asked to freeze as many filters side "
        "by side: the share of task 1 above chance that is retained, and the accuracy gained on "
        "task 2, with intervals and a dot for each seed, beside a band for fine-tuning.",
        "Compare within a group: explanation helps if its mark lies right of random's in the left "
        "panel and not left of it in the right one. What really is frozen, where a rule makes it "
        "another share than was asked for, stands behind the name.",
    ),
    "over_epochs": Shown(
        "Forgetting, epoch by epoch",
        "Curves over the epochs of task 2, a column for each share frozen: above, accuracy on task "
        "1 falls, below, accuracy on task 2 rises; a curve with a band for each of the main arms, "
        "between fine-tuning and everything frozen.",
        "Where the curves of a column fall together, and everything frozen lies well above "
        "fine-tuning, it hardly matters which of the rankings shown chose the filters.",
    ),
    "overlap": Shown(
        "Would another map choose the same filters?",
        "Bars for other rankings and maps: the overlap of their choice with the paper's; a dashed "
        "line for two random choices, a dotted one at the margin.",
        "Right of the dotted line another map chooses the same filters; at the dashed line it "
        "agrees no more than chance.",
    ),
    "class_overlap": Shown(
        "Do classes choose differently?",
        "A square of classes against classes, coloured from 0 to 1 by the overlap of the filters "
        "each would choose, the number in each cell; two random choices marked on the scale.",
        "Near 1, the class hardly matters to the choice; at the mark, two classes agree no more "
        "than chance.",
    ),
    "class_map_correlation": Shown(
        "Are class maps different?",
        "A square of classes against classes, coloured from 0 to 1 by the correlation of their "
        "mean maps, the number in each cell.",
        "Near 1, all classes are looked at in the same place; 0 would be unrelated.",
    ),
    "best_and_worst": Shown(
        "The filters chosen first and last",
        "A line for each class: its class map, then the heat maps of the filters most like it and "
        "least like it, then the pictures of the first and the last of them.",
        "What the ranking compares: a class map, and the filters most and least like it. The "
        "heading says how alike one filter's picture is when made again from other noise.",
    ),
    "scores": Shown(
        "Scores of one layer",
        "Classes against filters, coloured by the score of each pair, filters sorted by mean.",
        "Stripes down all classes mean that the class hardly matters.",
    ),
    "atlas": Shown(
        "What each ranking tells of a filter's worth",
        "A table of rankings against layers, coloured by the rank correlation of a filter's score "
        "with the damage of switching it off, best ranking first; above all of them, what the "
        "damage on one half of the images tells of the other half.",
        "Red is a ranking that puts harmless filters first, blue one that finds the filters that "
        "matter; white tells nothing. The first line says about how well damage can be foretold; "
        "a ranking that measured it comes near it, or a little above.",
    ),
    "choices": Shown(
        "Do rankings choose the same filters?",
        "A square of rankings against rankings, coloured from 0 to 1 by the overlap of the filters "
        "they choose, the number in each cell; those that choose alike stand together, two random "
        "choices are marked on the scale.",
        "A bright block is a family that chooses the same filters, whatever its members are "
        "called; between two blocks at the mark, one knows nothing of what the other looks for.",
    ),
    "reliability": Shown(
        "The ranking made again",
        "Left, curves over layers of the ranking's correlation with itself from other images or "
        "another noise, and of a filter's picture with itself from another noise; right, bars for "
        "the share of brightness, contrast and pattern, which sum to 1 and may be negative.",
        "Below the dashed line a ranking is not repeatable. Where a filter's picture does not come "
        "out again but the ranking does, the ranking looks at something else than the picture's "
        "pattern. Where brightness and contrast make up the bars, it hardly looks at the picture.",
    ),
    "sanity": Shown(
        "Do the maps depend on what was learned?",
        "Three panels: similarity of maps as layers are randomised, the class's probability as "
        "pixels are deleted, and similarity of maps within and between classes.",
        "Maps that stay alike while layers are randomised do not show what was learned; a map that "
        "finds what matters lets the probability fall sooner than the others.",
    ),
    "readouts": Shown(
        "Did the features forget, or the head?",
        "A line for each arm with five marks on a scale of accuracy on task 1 after task 2: as the "
        "network is, with the old head, the old batch-norm statistics or both put back, and by a "
        "linear probe.",
        "Where the probe lies far right of the network as it is, the classes can still be told "
        "apart in the features, but the old head no longer fits them. Whether head or statistics "
        "alone are to blame, the marks with these put back say.",
    ),
    "grafts": Shown(
        "Putting filters back, without training",
        "Accuracy on both tasks of the fine-tuned network with chosen filters put back to what "
        "they were, for every ranking beside random choices.",
        "A choice that holds what task 1 needs lies above the random ones. It does not follow that "
        "freezing it keeps more.",
    ),
    "realised": Shown(
        "What is really frozen",
        "Curves over the layers: the share of filters frozen by each rule of sharing the budget.",
        "How the classes' lists share a layer's budget decides how much is frozen.",
    ),
    "one_of_each": Shown(
        "One of each",
        "One image and its saliency map; one filter's picture from noise to what raises it most, "
        "and the heat map made of it.",
        "The parts of the method, one by one.",
    ),
    "saliency_gallery": Shown(
        "Where the network looks",
        "A line for each class: an image, its FullGrad map, the map as colour on the image in "
        "grey, two other kinds of map, and the mean map of the class.",
        "Maps of single images follow the object loosely; their mean is a bright centre.",
    ),
    "filter_grid": Shown(
        "What filters look for",
        "Small pictures in lines by layer: the images that raise single filters most; beside each "
        "line, how far a picture made from other noise correlates with it.",
        "The further two noises agree, the more the picture is the filter's own.",
    ),
    "learning_curves": Shown(
        "Learning task 1",
        "Curves of test accuracy over the epochs of task 1, thin for seeds, thick for their mean.",
        "What there is to forget.",
    ),
    "per_class": Shown(
        "Class by class, before task 2",
        "A bar for each class of task 1: mean test accuracy, with a dot for each seed.",
        "What there is to forget, class by class.",
    ),
    "samples": Shown("The images", "Small training images, a line for each class.", "The data."),
}
DATA_SETS = {"cifar100": "CIFAR-100", "digits": "digits (a demonstration)"}
FIRST = ("forest", "over_epochs", "saliency_gallery", "filter_grid", "best_and_worst")
SVG_AT_MOST = 100_000  # bytes; above this a WebP is taken, if it is smaller
DOWNLOADS = (
    "claims",
    "claims_examined",
    "summary",
    "arms",
    "paper_tables",
    "runs",
)  # tables inside the page
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,  # names of classes, settings and arms may hold <, & and anything else
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.globals |= {"asked": asked, "plain": plain}


class Picture(NamedTuple):
    """A figure inside the page; says: what its tables tell; plot: not a gallery."""

    name: str
    title: str
    src: str
    width: int
    height: int
    alt: str
    says: str
    see: str
    plot: bool


# of more than two tasks, which have no straight line of weights and no path of their own
PLANE_OF_MANY = Shown(
    FIGURES["plane"].title + ", by the first two tasks",
    "A plane of accuracy on task 1 (upwards) against task 2 (to the right) after the last task; "
    "every arm is a mark with its name and number of seeds at the right.",
    "What the tasks after the second keep stands in the table of all tasks.",
)


class Setting(NamedTuple):
    """A profile's results as a reader meets them: where, what it is called, what it is, and where
    its own page is seen from the overview."""

    folder: Path
    name: str
    about: str
    href: str = ""


GRID = "*/tables/readings.csv"  # of the profile that runs one; it has no other results
# the settings the study is about, in this order; others follow them
SHOWN = ("compact_two_heads", "paper_two_heads", "paper_batch_norm", "compact", "paper")


def published_settings(published: Path) -> tuple[list[Setting], list[str]]:
    """The published profiles that have tables, those of the study first; and what those are called
    that are recorded in part and have none yet."""
    names = [path.parent.name for path in published.glob("*/runs")]
    names = [*(n for n in SHOWN if n in names), *sorted(set(names) - set(SHOWN))]
    profiles = [load(name) for name in names if (ROOT / f"profiles/{name}.yaml").exists()]
    ready = [p for p in profiles if (published / p.name / "tables/runs.csv").exists()]
    found = [Setting(published / p.name, name_of(p), p.about, f"{p.name}.html") for p in ready]
    grids = {path.parent.parent.name for path in published.glob(GRID)}
    return found, [name_of(p) for p in profiles if p not in ready and p.name not in grids]


def published_grid(published: Path) -> tuple[Figure, str] | None:
    """The published grid of readings, drawn, and what it tells; None if there is none."""
    for path in sorted(published.glob(GRID)):
        if len(rows := reader(path.parent.parent)("readings")):
            network = path.parent.parent.name.split("_")[0]
            return readings.figure(rows), readings.sentence(rows, f"{network} network, ")
    return None


def alike(settings: Sequence[Setting]) -> list[Setting]:
    """Those whose runs are of the first one's data: other data have another spread, on which the
    rest would not be seen."""
    data = {s.name: _only(_or_empty(reader(s.folder), "runs"), "data") for s in settings}
    first = next(filter(None, data.values()), None)
    return [s for s in settings if first and data[s.name] == first]


def _told(settings: Sequence[Setting]) -> tuple[dict, dict, dict]:
    """By the name of each setting: its claims, where it has some; its runs; all of its tables."""
    reads = {s.name: reader(s.folder) for s in settings}
    claims = {name: _claims(read) for name, read in reads.items()}
    runs = {name: read("runs") for name, read in reads.items()}
    return {name: table for name, table in claims.items() if len(table)}, runs, reads


def answer_over(settings: Sequence[Setting], grid: tuple[Figure, str] | None = None) -> list[str]:
    """The answer over several settings, in a few sentences, and what a grid of readings tells."""
    claims, runs, reads = _told(settings)
    over = answers.answer_over(claims, runs) + answers.of_explanations(reads)
    return over + ([f"Would another reading of the paper keep more? {grid[1]}"] if grid else [])


def in_three(settings: Sequence[Setting]) -> list[str]:
    """The answer over several settings in three sentences."""
    return answers.in_three(*_told(settings))


def common_forest(settings: Sequence[Setting]) -> tuple[Figure, str] | None:
    """The forest over several settings, by name, and what it tells; None if none of them has both
    arms."""
    runs = {s.name: _or_empty(reader(s.folder), "runs") for s in settings}
    both = pd.concat(runs.values()) if runs else pd.DataFrame()
    if both.empty or figures.chance_differences(both).empty:
        return None
    names = {table["profile"].iloc[0]: name for name, table in runs.items()}
    return figures.forest(both, names), answers.of_forest(both)


def name_of(profile: Profile) -> str:
    """What a setting is called: `paper, one head`, `paper with batch norm, one head`."""
    words = profile.name.removesuffix("_two_heads").replace("_batch_norm", " with batch norm")
    tasks = len(profile.data.classes) if profile.data.classes else profile.data.draw.tasks
    own = "two heads" if tasks == 2 else "a head for each"
    heads = "one head" if profile.network.heads == "shared" else own
    return f"{words.replace('_', ' ')}, {heads}"


def reader(folder: Path) -> answers.Read:
    """read(name) -> a table of this folder; empty for an empty file. FileNotFoundError without
    it."""

    def read(name: str) -> pd.DataFrame:
        path = folder / "tables" / f"{name}.csv"
        if not path.exists():
            raise FileNotFoundError(f"{path} is not there")
        return read_table(path)

    return read


def _or_empty(read: answers.Read, name: str) -> pd.DataFrame:
    try:
        return read(name)
    except FileNotFoundError:
        return pd.DataFrame()


def data_uri(content: bytes, kind: str) -> str:
    """A file inside a page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _picture(path: Path, name: str, shown: Shown, says: str) -> Picture:
    """A plot: the SVG beside a PNG if it is small, else the smaller of the SVG and a WebP. A
    gallery, which has no SVG: a photograph at the size it is shown in, since its pixels are larger
    than the screen's. Sizes are the PNG's, as if it had 100 pixels an inch."""
    vector = path.with_suffix(".svg")
    with Image.open(path) as image:
        scale = 100 / round(image.info.get("dpi", (100, 100))[0])
        width, height = (round(scale * side) for side in image.size)
        if not vector.exists():
            content, kind = figures.pictured(image, (width, height)), "image/webp"
        else:
            content, kind = vector.read_bytes(), "image/svg+xml"
            if len(content) > SVG_AT_MOST:
                flat = figures.flattened(image)
                content, kind = min((content, kind), (flat, "image/webp"), key=lambda c: len(c[0]))
    src = data_uri(content, kind)
    more = (shown.title, src, width, height, shown.alt, says, shown.see, vector.exists())
    return Picture(name, *more)


def pictures(folder: Path, name: str, again: bool = True) -> dict[str, Picture]:
    """Every figure of a profile's results: those that come from tables drawn from them, the others
    from its figures. name: what the setting is called; again False: what is there was drawn from
    these tables by this code, so that only a figure which shows the name is drawn."""
    read, found = reader(folder), {}
    says, there = answers.conclusions(read), {p.stem: p for p in folder.glob("figures/*.png")}
    with tempfile.TemporaryDirectory() as temporary:
        kept = () if again else set(there) - {"forest"}
        try:
            drawn = figures.from_tables(read, kept) | readings.from_tables(read)
        except FileNotFoundError:  # an older record, without names: it has its figures on disk
            drawn = {}
        if "forest" in drawn:
            runs = read("runs")
            drawn["forest"] = figures.forest(runs, {runs["profile"].iloc[0]: name})
        for figure in drawn:
            there[figure] = figures.save(drawn[figure], Path(temporary), figure)[0]
        for figure in [*(f for f in FIGURES if f in there), *sorted(set(there) - set(FIGURES))]:
            shown = FIGURES.get(figure, Shown(figure, figure, ""))
            if figure == "plane" and tasks_in(_or_empty(read, "runs")) > 2:
                shown = PLANE_OF_MANY
            found[figure] = _picture(there[figure], figure, shown, says.get(figure, ""))
    return found


def page(
    folder: Path,
    name: str,
    about: str = "",
    notebooks: Mapping[str, str] | None = None,
    drawn: dict[str, Picture] | None = None,
) -> str:
    """One self-contained HTML page over a profile's tables and figures, the answer first; what is
    not there is left out.

    name, about: what the setting is called and what it is; notebooks: label -> address, seen from
    the page; drawn: its `pictures`, if they are drawn already. The same tables and figures give the
    same text."""
    figures.use_style()
    read = reader(folder)
    table = {t: _or_empty(read, t) for t in ("runs", "summary", "timing", "arms")}
    claims, runs, compared = _claims(read), table["runs"], _or_empty(read, "paper_tables")
    shown = pictures(folder, name) if drawn is None else drawn
    tuning = _or_empty(read, "tuning")
    code, data = _only(runs, "setting"), _only(runs, "data")
    uses = _uses(read)
    seeds, tasks = runs["seed"].nunique() if len(runs) else 0, tasks_in(runs)
    many = tasks > 2 and answers.all_tasks(
        runs, *(_or_empty(read, t) for t in ("accuracy", "masks"))
    )
    sections = {
        "answer": "The answer",
        "primer": "Five ideas in short",
        **({"verdicts": "Verdicts"} if len(claims) else {}),
        **({"paper": "The paper's tables beside ours"} if len(compared) and tasks == 2 else {}),
        **({"tasks": "Every task at the end"} if tasks > 2 else {}),
        **({"figures": "Figures"} if set(shown) - set(FIRST) else {}),
        **({"use": "What should I use?"} if uses else {}),
        "limits": "Limits",
        "made": "How it was made",
        "glossary": "Words",
    }
    images = _test_images(_or_empty(read, "data_card"))
    return TEMPLATES.get_template("profile.html.j2").render(
        title=f"Does freezing by explanation prevent forgetting? {name}",
        name=name,
        about=about,
        code=code,
        data=data,
        seeds=seeds,
        sections=sections,
        sentences=answers.answer_of(claims, runs) if len(claims) else [NO_CLAIMS],
        pictures=shown,
        rest=[p for figure, p in shown.items() if figure not in FIRST],
        verdicts=answers.verdicts(claims),
        paper_tables=answers.beside_paper(compared),
        tasks=tasks,
        many=many,
        another_network=code not in paper.NETWORK_IN,
        numbers=NUMBERS,
        other_data=data != "cifar100",
        uses=uses,
        names=called(table["arms"]),
        named=_named(read),
        advice=[*answers.advice(uses), answers.TOLD_APART],
        at_an_end=at_an_end(tuning),
        tried=tried(tuning),
        tuning_seeds=tuning["seed"].nunique() if len(tuning) else 0,
        test_images=images,
        half_width=f"{196 * (0.25 / images) ** 0.5:.0f}" if images else "",
        duplicates=len(_or_empty(read, "duplicates")),
        no_room=any(kind == "no" for kind in map(answers.kind_of, claims.get("verdict", []))),
        power=power.sentence(power.table(runs)) if len(runs) else "",
        made=([("data", data)] if data else []) + answers.how_made(table["timing"]),
        downloads=_downloads(folder),
        notebooks=notebooks or {},
    )


def _uses(read: answers.Read) -> list:
    """The arms as something one could use; none where a table is missing."""
    table = {t: _or_empty(read, t) for t in ("arms", "summary", "timing", "runs")}
    more = {t: _or_empty(read, t) for t in ("trajectory", "memory")}
    return answers.uses(**table, **more) if all(map(len, table.values())) else []


def _named(read: answers.Read) -> set[str]:
    """The methods and rankings that a profile's tables and figures name."""
    arms, runs = _or_empty(read, "arms"), _or_empty(read, "runs")
    if len(arms) and len(runs):  # others are still to come
        arms = arms[arms["arm"].isin(runs["arm"])]
    return named(arms, *(_or_empty(read, t) for t in ("rankings", "atlas", "grafts")))


def _claims(read: answers.Read) -> pd.DataFrame:
    """The claims, and those of the examined explanations, which have a table of their own."""
    found = [_or_empty(read, name) for name in ("claims", "claims_examined")]
    found = [table for table in found if len(table)]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


NO_CLAIMS = "No claims yet: these results have no table of claims (notebook 05 writes it)."


def _only(runs: pd.DataFrame, column: str) -> str:
    return str(runs[column].iloc[0]) if len(runs) else ""


def _test_images(card: pd.DataFrame) -> int:
    return int(card["test images"].min()) if len(card) else 0


def _downloads(folder: Path) -> list[dict]:
    """Tables as files inside the page."""
    paths = [folder / "tables" / f"{name}.csv" for name in DOWNLOADS]
    return [
        {"name": p.name, "src": data_uri(p.read_bytes(), "text/csv")} for p in paths if p.exists()
    ]


def overview(
    settings: Sequence[Setting],
    waiting: Sequence[str] = (),
    drawn: Mapping[str, dict[str, Picture]] | None = None,
    grid: tuple[Figure, str] | None = None,
) -> str:
    """One self-contained HTML page over several settings. waiting: names of settings that are
    recorded in part and have no tables yet; drawn: their `pictures` by name, if they are drawn
    already; grid: the readings of the paper, drawn, and what they tell. Answer and forest are over
    the settings that share the first one's data."""
    figures.use_style()
    reads = {s.name: reader(s.folder) for s in settings}
    claims = {name: _claims(read) for name, read in reads.items()}
    runs = {name: _or_empty(read, "runs") for name, read in reads.items()}
    data = list(dict.fromkeys(_only(table, "data") for table in runs.values() if len(table)))
    own = drawn or {s.name: pictures(s.folder, s.name) for s in settings}
    shown = {}
    for name in FIRST[1:]:  # of the first setting that has it
        for whose, theirs in own.items():
            if name in theirs and name not in shown:
                says = f"In {whose}: {theirs[name].says}" if theirs[name].says else ""
                shown[name] = theirs[name]._replace(says=says)
    silent = (grid[0], "") if grid else None  # what it tells stands among the findings
    for name, found in (("forest", common_forest(alike(settings))), ("readings", silent)):
        if found:
            shown[name] = _drawn(name, *found)
    lines = []
    for setting in settings:
        read = reads[setting.name]
        found = answers.main_claims(claims[setting.name])
        lines.append(
            {
                **setting._asdict(),
                "code": _only(runs[setting.name], "setting"),
                "short": answers.in_short(claims[setting.name], runs[setting.name]),
                "main": [(share, answers.verdict_of(row)) for share, row in found],
                "advice": answers.advice(_uses(read)),
                "made": answers.how_made(_or_empty(read, "timing")),
            }
        )
    planes = [
        shown["plane"]._replace(
            name=f"plane-{i}", title=name, see=_of_this_plane(shown["plane"].see)
        )
        for i, (name, shown) in enumerate(own.items())
        if "plane" in shown
    ]
    return TEMPLATES.get_template("overview.html.j2").render(
        title="Does freezing by explanation prevent forgetting?",
        sections={
            "answer": "The answer",
            "settings": "Settings and verdicts",
            "findings": "What was found, with numbers",
            **({"readings": "Which reading of the paper, if any?"} if grid else {}),
            "primer": "Five ideas in short",
            "planes": "Kept against learned, by setting",
            "use": "What should I use?",
            "limits": "Limits",
            "made": "How it was made",
            "glossary": "Words",
        },
        told_apart=answers.TOLD_APART,
        near=paper.nearest(paper.nearness(runs)),
        sentences=in_three(alike(settings)),
        findings=answer_over(alike(settings), grid),
        pictures=shown,
        rest=planes,
        plane_see=FIGURES["plane"].see,
        settings=lines,
        waiting=list(waiting),
        data=[DATA_SETS.get(name, name) for name in data],
        short=_short_of_seeds(settings, runs),
        named=set().union(*map(_named, reads.values())),
    )


def _of_this_plane(see: str) -> str:
    """How to read a plane, where that is not what is said above all planes."""
    return "" if see == FIGURES["plane"].see else see


def _short_of_seeds(settings: Sequence[Setting], runs: Mapping[str, pd.DataFrame]) -> list[str]:
    """`paper, two heads: 20 and 5`: seeds that a setting's profile names, and those any arm has,
    where these are fewer."""
    found = []
    for setting in settings:
        try:
            asked = len(load(setting.folder.name).seed_list)
        except (FileNotFoundError, ValueError):  # tables of no profile
            continue
        there = runs[setting.name]["seed"].nunique() if len(runs[setting.name]) else 0
        if there < asked:
            found.append(f"{setting.name} {asked} and {there}")
    return found


def _drawn(name: str, figure: Figure, says: str) -> Picture:
    """A figure over settings as the page holds it."""
    with tempfile.TemporaryDirectory() as folder:
        return _picture(figures.save(figure, Path(folder), name)[0], name, FIGURES[name], says)
