"""The report as HTML, one file that holds its pictures, and the generated parts of README.md; both
from tables and figures on disk. No torch.

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
from PIL import Image

from lib.report import answers, figures, paper, power, readings
from lib.report.statistics import by_seed, checkpoints
from lib.report.words import answer, arm_table, headline, plain, spread
from lib.study.profile import Profile

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
        "to matter. Intervals here are plain 95 %; verdicts widen those of the main claims.",
    ),
    "plane": Shown(
        "What is kept against what is learned",
        "A plane of accuracy on task 1 (upwards) against task 2 (to the right): fine-tuning's path "
        "and the straight line of weights fall from the upper left to the lower right; every arm "
        "is a cross; the second panel enlarges freezing and fine-tuning.",
        "An arm helps if it lies above the others at equal accuracy on task 2, fine-tuning's own "
        "path and the straight line of weights among them.",
    ),
    "readings": Shown(
        "Which reading of the paper, if any?",
        "Above, a rising row of marks, one for each reading of the paper, with a dot for each seed "
        "and a grey band of one point around zero; below, what each reading chooses.",
        "A choice that mattered would have its marks below gathered at one end.",
    ),
    "retained": Shown(
        "What is retained",
        "Two rows of bars, one line for each arm: the share of task 1 above chance that is "
        "retained, and the accuracy gained on task 2, with intervals.",
        "Long bars at the left keep, long bars at the right learn; no arm is long in both unless "
        "it beats the trade-off.",
    ),
    "over_epochs": Shown(
        "Forgetting, epoch by epoch",
        "Two panels of curves over the epochs of task 2: accuracy on task 1 falls, on task 2 it "
        "rises; a curve for each of the main arms.",
        "Where the curves at the left fall together, what is frozen hardly matters.",
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
        "A square of classes against classes, coloured by the share of filters both would choose.",
        "Near 1, the class hardly matters to the choice.",
    ),
    "class_map_correlation": Shown(
        "Are class maps different?",
        "A square of classes against classes, coloured by the correlation of their mean maps.",
        "Near 1, all classes are looked at in the same place. Look at the scale before comparing.",
    ),
    "best_and_worst": Shown(
        "The filters chosen first and last",
        "A line for each class: its class map, then the pictures of the filters most like it and "
        "least like it.",
        "What the ranking compares: a class map, and the filters most and least like it.",
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
        "matter; white tells nothing. No ranking can beat the first line.",
    ),
    "reliability": Shown(
        "The ranking made again",
        "Left, curves over layers of the ranking's correlation with itself from other images or "
        "another noise; right, bars for the share of brightness, contrast and pattern.",
        "Below the dashed line a ranking is not repeatable; where brightness and contrast make up "
        "the bars, it hardly looks at the picture.",
    ),
    "sanity": Shown(
        "Do the maps depend on what was learned?",
        "Three panels: similarity of maps as layers are randomised, the class's probability as "
        "pixels are deleted, and similarity of maps within and between classes.",
        "Maps that stay alike while layers are randomised do not show what was learned.",
    ),
    "grafts": Shown(
        "Putting filters back, without training",
        "Accuracy on both tasks of the fine-tuned network with chosen filters put back to what "
        "they were, for every ranking beside random choices.",
        "A choice that matters lies apart from the random ones.",
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
        "A line for each class: an image, its FullGrad map, both laid over each other, two other "
        "kinds of map, and the mean map of the class.",
        "Maps of single images follow the object loosely; their mean is a bright centre.",
    ),
    "filter_grid": Shown(
        "What filters look for",
        "Small pictures in lines by layer: the images that raise single filters most.",
        "Early layers show colours and edges, deep ones texture that is hard to tell from noise.",
    ),
    "learning_curves": Shown(
        "Learning task 1",
        "Curves of test accuracy over the epochs of task 1, thin for seeds, thick for their mean.",
        "What there is to forget.",
    ),
    "per_class": Shown(
        "Class by class, before task 2",
        "A bar for each class of task 1: mean test accuracy, with a dot for each seed.",
        "Classes differ more than arms do.",
    ),
    "samples": Shown("The images", "Small training images, a line for each class.", "The data."),
}
FIRST = ("forest", "over_epochs", "saliency_gallery", "filter_grid", "best_and_worst")
SVG_AT_MOST = 130_000  # bytes; above this a PNG is taken
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


class Setting(NamedTuple):
    """A profile's results as a reader meets them: where, what it is called, what it is, and where
    its own page is seen from the overview."""

    folder: Path
    name: str
    about: str
    href: str = ""


def name_of(profile: Profile) -> str:
    """What a setting is called: `paper, one head`, `paper with batch norm, one head`."""
    words = profile.name.removesuffix("_two_heads").replace("_batch_norm", " with batch norm")
    heads = "one head" if profile.network.heads == "shared" else "two heads"
    return f"{words.replace('_', ' ')}, {heads}"


def reader(folder: Path) -> answers.Read:
    """read(name) -> a table of this folder; empty for an empty file. FileNotFoundError without
    it."""

    def read(name: str) -> pd.DataFrame:
        path = folder / "tables" / f"{name}.csv"
        if not path.exists():
            raise FileNotFoundError(f"{path} is not there")
        return pd.read_csv(path) if path.stat().st_size > 1 else pd.DataFrame()

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
    """The SVG beside a PNG if there is one and it is small, else the PNG; sizes are the PNG's."""
    vector = path.with_suffix(".svg")
    with Image.open(path) as image:
        width, height = image.size
    small = vector.exists() and vector.stat().st_size <= SVG_AT_MOST
    file, kind = (vector, "image/svg+xml") if small else (path, "image/png")
    src = data_uri(file.read_bytes(), kind)
    more = (shown.title, src, width, height, shown.alt, says, shown.see, vector.exists())
    return Picture(name, *more)


def pictures(folder: Path, name: str) -> dict[str, Picture]:
    """Every figure of a profile's results: those that come from tables drawn from them, the others
    from its figures. name: what the setting is called."""
    read, found = reader(folder), {}
    says, there = answers.conclusions(read), {p.stem: p for p in folder.glob("figures/*.png")}
    with tempfile.TemporaryDirectory() as temporary:
        try:
            drawn = figures.from_tables(read) | readings.from_tables(read)
        except FileNotFoundError:  # an older record, without names: it has its figures on disk
            drawn = {}
        if "forest" in drawn:
            runs = read("runs")
            drawn["forest"] = figures.forest(runs, {runs["profile"].iloc[0]: name})
        for figure in drawn:
            there[figure] = figures.save(drawn[figure], Path(temporary), figure)[0]
        for figure in [*(f for f in FIGURES if f in there), *sorted(set(there) - set(FIGURES))]:
            shown = FIGURES.get(figure, Shown(figure, figure, ""))
            found[figure] = _picture(there[figure], figure, shown, says.get(figure, ""))
    return found


def page(
    folder: Path, name: str, about: str = "", notebooks: Mapping[str, str] | None = None
) -> str:
    """One self-contained HTML page over a profile's tables and figures, the answer first; what is
    not there is left out.

    name, about: what the setting is called and what it is; notebooks: label -> address, seen from
    the page. The same tables and figures give the same text."""
    figures.use_style()
    read = reader(folder)
    table = {t: _or_empty(read, t) for t in ("runs", "summary", "timing", "arms")}
    claims, runs, compared = _claims(read), table["runs"], _or_empty(read, "paper_tables")
    shown, code, data = pictures(folder, name), _only(runs, "setting"), _only(runs, "data")
    uses = (
        answers.uses(**table, trajectory=_or_empty(read, "trajectory"))
        if all(map(len, table.values()))
        else []
    )
    seeds = runs["seed"].nunique() if len(runs) else 0
    sections = {
        "answer": "The answer",
        "primer": "Five ideas in short",
        **({"verdicts": "Verdicts"} if len(claims) else {}),
        **({"paper": "The paper's tables beside ours"} if len(compared) else {}),
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
        sentences=answers.answer_of(claims) if len(claims) else [NO_CLAIMS],
        pictures=shown,
        rest=[p for figure, p in shown.items() if figure not in FIRST],
        verdicts=answers.verdicts(claims),
        paper_tables=answers.beside_paper(compared),
        another_network=code not in paper.NETWORK_IN,
        other_data=data != "cifar100",
        uses=uses,
        advice=answers.advice(uses),
        test_images=images,
        half_width=f"{196 * (0.25 / images) ** 0.5:.0f}" if images else "",
        duplicates=len(_or_empty(read, "duplicates")),
        no_room=any(kind == "no" for kind in map(answers.kind_of, claims.get("verdict", []))),
        power=power.sentence(power.table(runs)) if len(runs) else "",
        made=([("data", data)] if data else []) + answers.how_made(table["timing"]),
        downloads=_downloads(folder),
        notebooks=notebooks or {},
    )


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


def overview(settings: Sequence[Setting], waiting: Sequence[str] = ()) -> str:
    """One self-contained HTML page over several settings. waiting: names of settings that are
    recorded in part and have no tables yet. The forest is over the settings that share the first
    one's data: other data have another spread, on which the rest would not be seen."""
    figures.use_style()
    reads = {s.name: reader(s.folder) for s in settings}
    claims = {name: _claims(read) for name, read in reads.items()}
    claims = {name: table for name, table in claims.items() if len(table)}
    runs = {name: _or_empty(read, "runs") for name, read in reads.items()}
    data = list(dict.fromkeys(_only(table, "data") for table in runs.values() if len(table)))
    alike = {name for name, table in runs.items() if data and _only(table, "data") == data[0]}
    own = {s.name: pictures(s.folder, s.name) for s in settings}
    first = next((shown for shown in own.values() if "saliency_gallery" in shown), {})
    shown = {name: first[name] for name in FIRST[1:] if name in first}
    forest = _common_forest({name: runs[name] for name in runs if name in alike})
    if forest:
        shown["forest"] = forest
    lines = []
    for setting in settings:
        read = reads[setting.name]
        table = {t: _or_empty(read, t) for t in ("arms", "summary", "timing")}
        more = {"runs": runs[setting.name], "trajectory": _or_empty(read, "trajectory")}
        uses = answers.uses(**table, **more) if all(map(len, table.values())) else []
        found = answers.main_claims(claims.get(setting.name, pd.DataFrame()))
        lines.append(
            {
                **setting._asdict(),
                "code": _only(runs[setting.name], "setting"),
                "short": answers.in_short(claims.get(setting.name, pd.DataFrame())),
                "main": [(share, answers.verdict_of(row)) for share, row in found],
                "advice": answers.advice(uses),
                "made": answers.how_made(table["timing"]),
            }
        )
    planes = [
        shown["plane"]._replace(name=f"plane-{i}", title=name)
        for i, (name, shown) in enumerate(own.items())
        if "plane" in shown
    ]
    return TEMPLATES.get_template("overview.html.j2").render(
        title="Does freezing by explanation prevent forgetting?",
        sections={
            "answer": "The answer",
            "settings": "Settings and verdicts",
            "primer": "Five ideas in short",
            "planes": "Kept against learned, by setting",
            "use": "What should I use?",
            "limits": "Limits",
            "made": "How it was made",
            "glossary": "Words",
        },
        near=paper.nearest(paper.nearness(runs)),
        sentences=answers.answer_over({n: t for n, t in claims.items() if n in alike}),
        pictures=shown,
        rest=planes,
        settings=lines,
        waiting=list(waiting),
        data=data,
    )


def _common_forest(runs: Mapping[str, pd.DataFrame]) -> Picture | None:
    """The forest over several settings, by name."""
    both = pd.concat(runs.values()) if runs else pd.DataFrame()
    if both.empty or figures.chance_differences(both).empty:
        return None
    names = {table["profile"].iloc[0]: name for name, table in runs.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = figures.save(figures.forest(both, names), Path(folder), "forest")[0]
        return _picture(path, "forest", FIGURES["forest"], answers.of_forest(both))


# --- the generated parts of README.md ------------------------------------------------------------

# the settings README.md shows, in this order
SHOWN = ("compact", "compact_two_heads", "paper", "paper_batch_norm", "paper_two_heads")


def _markdown(frame: pd.DataFrame) -> str:
    head = "| " + " | ".join(frame.columns) + " |\n|" + "---|" * len(frame.columns) + "\n"
    return head + "".join(
        "| " + " | ".join(str(v) for v in row) + " |\n" for row in frame.itertuples(index=False)
    )


def _one_profile(folder: Path) -> str:
    """One published profile: its headline, the main answer, the table of arms, the plane."""
    runs, claims, timing = (
        pd.read_csv(folder / "tables" / f"{t}.csv") for t in ("runs", "claims", "timing")
    )
    n = runs["seed"].nunique()
    start, said = checkpoints(runs), paper.NUMBERS["before"]
    acc1, acc2 = (spread(by_seed(start, f"{name}_before")) for name in said)
    return (
        f"### Setting {runs['setting'].iloc[0]} (profile `{folder.name}`): {n} "
        f"seed{'s' if n > 1 else ''}\n\n"
        f"**{headline(claims)}**\n\n"
        f"Before round 2: acc1 {acc1}, acc2 {acc2} "
        f"(the paper: {plain(said['acc1'])} and {plain(said['acc2'])}). "
        f"Run on {_hardware(timing)}.\n\n```\n{answer(claims)}\n```\n\n"
        f"{_markdown(arm_table(runs))}\nAll claims with their verdicts: "
        "[claims.csv](results/published/"
        f"{folder.name}/tables/claims.csv).\n\n"
        f"![stability-plasticity plane](results/published/{folder.name}/figures/plane.png)\n\n"
    )


def _hardware(timing: pd.DataFrame) -> str:
    return ", ".join(
        f"{p}, {c} cores" for p, c in timing[["processor", "cores"]].drop_duplicates().values
    )


def _results(published: Path) -> str:
    folders = [published / name for name in SHOWN]
    parts = [_one_profile(f) for f in folders if (f / "tables" / "claims.csv").exists()]
    return "\n" + ("".join(parts) or "Nothing is published yet.\n\n")


def _costs(published: Path) -> str:
    """What each published profile cost, from its timing tables (runs made side by side, other work
    on the machine)."""
    rows = []
    for folder in sorted(p.parent.parent for p in published.glob("*/tables/timing.csv")):
        timing = pd.read_csv(folder / "tables" / "timing.csv")
        seed = timing.groupby(timing["run"].str.split("/").str[1])["seconds"].sum().median() / 60
        rows.append(
            {
                "profile": f"`{folder.name}`",
                "one run of one arm, median": f"{timing['seconds'].median():.0f} s",
                "all arms of one seed, one thread, median": f"{seed:.0f} min",
                "rows": len(timing),
                "hardware": _hardware(timing),
            }
        )
    return "\n" + (
        _markdown(pd.DataFrame(rows))
        + "\nA processor with two cores does two such runs at a time. Some "
        "were timed while other work ran: upper bounds.\n\n"
        if rows
        else ""
    )


def _speed(published: Path) -> str:
    """The targets of the last whole benchmark, what it ran on, and whether results stayed the
    same."""
    folder = published / "bench"
    head = [
        line for line in (folder / "targets.md").read_text().splitlines() if line.startswith("- ")
    ]
    targets = pd.read_csv(folder / "targets.csv", keep_default_na=False)
    agreement = pd.read_csv(folder / "agreement.csv")
    return "\n".join(
        [
            "",
            *head,
            "",
            _markdown(targets),
            "Results before and after, the same seeds by the code before "
            "and after the work on speed (commit f1d8e98; the later SSIM kernel and features "
            "computed once "
            "are held to the same numbers by tests alone):",
            "",
            _markdown(agreement),
            "",
        ]
    )


def in_readme(text: str, published: Path) -> str:
    """README.md's text with what stands between its marks (those it has) made anew from the
    published tables."""
    for name, make in (("results", _results), ("costs", _costs), ("speed", _speed)):
        before, mark, rest = text.partition(f"<!-- {name} -->\n")
        if not mark:
            continue
        _, _, after = rest.partition(f"<!-- /{name} -->")
        text = f"{before}<!-- {name} -->\n{make(published)}<!-- /{name} -->{after}"
    return text
