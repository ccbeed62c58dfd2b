"""The report's index as HTML and the generated parts of README.md, from tables on disk. No
torch."""

from pathlib import Path

import pandas as pd

from lib.report import paper
from lib.report.statistics import by_seed, checkpoints
from lib.report.words import answer, arm_table, headline, plain, spread

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


FIGURES = {  # figure -> what to see in it, in the order of the study's questions
    "plane": "What is kept of task 1 against what is learned of task 2: an arm helps if it lies "
    "above the others at "
    "equal acc2, fine-tuning's own trajectory and the straight line of weights among them.",
    "retained": "Share of task 1's accuracy above chance that is retained, by arm.",
    "over_epochs": "Both tasks while the second is learned.",
    "overlap": "How many of the filters chosen by the paper's ranking another ranking, or a map "
    "without content, chooses too.",
    "class_overlap": "Filters that two classes would both choose, each alone: near 1, the class "
    "hardly matters.",
    "class_map_correlation": "Correlation of the class maps: near 1, all classes are looked at in "
    "the same place.",
    "best_and_worst": "Class maps beside the visualizations most and least like them.",
    "scores": "Score of every filter of a layer for every class.",
    "atlas": "What each explanation can and cannot tell: does its score predict the damage when "
    "the filter is ablated? First line: how far the damage, measured on half of the test images, "
    "predicts the other half.",
    "reliability": "The MSE ranking made again from other images or another noise, and how much of "
    "it is mere brightness and contrast.",
    "sanity": "FullGrad's maps as layers lose what they learned, as pixels are deleted in their "
    "order, and compared within and between classes.",
    "grafts": "Filters of the fine-tuned network put back to what they were, without training: by "
    "every ranking, beside random choices.",
    "realised": "Fraction of each layer that is frozen, after the classes have shared its budget.",
    "one_of_each": "One image and its saliency map; one filter, from the noise it starts from to "
    "what raises it most, and the heat map that the ranking compares.",
    "saliency_gallery": "FullGrad maps of images the network classified correctly.",
    "filter_grid": "What filters look for: activation maximisation.",
    "learning_curves": "Task 1 while it is learned.",
    "per_class": "Accuracy of each class before round 2.",
    "samples": "Training images.",
}


def page(results: Path, heading: str) -> str:
    """The report's index as HTML, the answer first; results: a profile's folder. Only what is there
    is shown."""
    parts, tables = [f"<h1>{heading}</h1>"], results / "tables"
    if (tables / "claims.csv").exists() and (tables / "runs.csv").exists():
        claims, runs = (pd.read_csv(tables / f"{name}.csv") for name in ("claims", "runs"))
        parts += [
            f"<p><b>{headline(claims)}</b></p>",
            f"<pre>{answer(claims)}</pre>",
            arm_table(runs).to_html(index=False, border=0),
        ]
    drawn = {p.stem: p.name for p in sorted((results / "figures").glob("*.png"))}
    for name in [*(n for n in FIGURES if n in drawn), *(n for n in drawn if n not in FIGURES)]:
        parts.append(
            f'<figure><img src="../figures/{drawn[name]}" alt="{name}">'
            f"<figcaption>{FIGURES.get(name, name)}</figcaption></figure>"
        )
    for title, files in (
        ("Notebooks", sorted((results / "report").glob("[0-9]*.html"))),
        ("Tables", sorted(tables.glob("*.csv"))),
    ):
        links = " · ".join(f'<a href="../{p.parent.name}/{p.name}">{p.stem}</a>' for p in files)
        parts.append(f"<h2>{title}</h2><p>{links}</p>")
    style = (
        "body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
        "img{max-width:100%}"
        "figure{margin:2em 0}figcaption{color:#555}pre{white-space:pre-wrap;font-size:13px}"
        "table{border-collapse:collapse;font-size:14px}td,th{padding:.15em .8em;text-align:left}"
    )
    return (
        f"<!doctype html><meta charset='utf-8'><title>{heading}</title><style>{style}</style>"
        + "\n".join(parts)
        + "\n"
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
