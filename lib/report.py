"""Words and tables a reader sees: the paper's tables beside ours, answers, the HTML index, the
README's parts.

Every number comes from a table; nothing is typed in but the paper's own prose numbers. No torch.
"""

from pathlib import Path

import pandas as pd

from lib.figures import PAPER
from lib.statistics import interval
from lib.study.profile import Profile

PAPER_WORDS = {  # what the paper's prose says of cells that only its pictures hold
    ("Table 2", "MSE 50 %"): "acc1 roughly ten points below .457; best average of all metrics",
    ("Table 2", "random 50 %"): "clearly worse on acc1",
    ("Table 2", "Pearson 50 %"): "not useful",
    ("Table 3", "joint 20-way"): "one accuracy over 20 classes, five points below MSE-freezing",
}
TABLES = {
    "before": ["before round 2"],
    "Table 1": ["MSE 25 %", "MSE 75 %"],
    "Table 2": ["MSE 50 %", "random 50 %", "Pearson 50 %"],
    "Table 3": ["joint 20-way"],
}


def classes_per_task(profile: Profile) -> int:
    """Classes of each task: 1 / chance."""
    return len(profile.data.classes[0]) if profile.data.classes else profile.data.draw.classes


def spread(values) -> str:
    """`.169 [.150, .188]`: mean and 95 % interval over seeds; the mean alone for a single seed;
    points as fractions."""
    mean, low, high, n = interval(values)
    plain = lambda x: f"{x:.3f}".replace("0.", ".", 1)  # noqa: E731
    return f"{plain(mean)} [{plain(low)}, {plain(high)}]" if n > 1 else plain(mean)


def paper_tables(runs: pd.DataFrame, accuracy: pd.DataFrame) -> pd.DataFrame:
    """Tables 1 to 3 of the paper: its number or words beside our mean, 95 % interval and n, row by
    row."""
    rows = []
    for table, arms in TABLES.items():
        for arm in arms:
            if arm == "before round 2":
                part = runs.dropna(subset=["acc1_before"]).drop_duplicates(["seed", "lineage"])
                ours = part["acc1_before"], part["acc2_before"]
            else:
                part = runs[runs["arm"] == arm]
                ours = part["acc1"], part["acc2"]
            if part.empty:
                continue
            acc1, acc2 = PAPER.get(arm, ("", ""))
            rows.append(
                {
                    "table": table,
                    "arm": arm,
                    "paper acc1": str(acc1),
                    "paper acc2": str(acc2),
                    "paper in words": PAPER_WORDS.get((table, arm), ""),
                    "acc1 [95 %]": spread(ours[0]),
                    "acc2 [95 %]": spread(ours[1]),
                    "n": part["seed"].nunique(),
                }
            )
    return pd.DataFrame(rows)


def _bounds(row, name: str, low: str, high: str) -> str:
    text = f"{row[name]:.3f}"
    return (
        ""
        if pd.isna(row[name])
        else text
        if pd.isna(row[low])
        else f"{text} [{row[low]:.3f}, {row[high]:.3f}]"
    )


def readable_summary(summary: pd.DataFrame) -> pd.DataFrame:
    """`statistics.summary` with each mean and its interval in one cell."""
    names = ("acc1", "acc2", "average", "retained", "gained")
    return pd.DataFrame(
        [
            {
                "arm": row["arm"],
                "n": row["n"],
                **{name: _bounds(row, name, f"{name}_low", f"{name}_high") for name in names},
            }
            for _, row in summary.iterrows()
        ]
    )


def readable_claims(claims: pd.DataFrame) -> pd.DataFrame:
    """`statistics.claims` with each estimate and its interval in one cell."""
    shown = claims[["claim", "text", "n", "verdict"]].copy()
    shown.insert(
        2, "estimate", [_bounds(row, "estimate", "low", "high") for _, row in claims.iterrows()]
    )
    shown.insert(4, "p", ["" if pd.isna(p) else f"{p:.3f}" for p in claims["p"]])
    return shown


ANSWERS = (  # claim, what it compares, unit; MSE against random first, whatever it says
    ("C2-random", "MSE-freezing minus random freezing at 50 %, in acc1", "points"),
    ("C2b-random", "the same at equal acc2 (mean height of MSE's curve over random's)", "points"),
    ("C2-bottom", "MSE minus the least similar filters at 50 %, in acc1", "points"),
    ("C2-Pearson", "MSE minus Pearson at 50 %, in acc1", "points"),
    ("C2b-trajectory", "MSE's curve over fine-tuning's own trajectory, at equal acc2", "points"),
    ("C2b-interpolation", "MSE's curve over the straight line of weights, at equal acc2", "points"),
    (
        "C3a",
        "MSE-freezing minus joint training, average accuracy, as scored in the paper",
        "points",
    ),
    ("C0", "what fine-tuning loses of acc1", "points"),
    ("C5b", "overlap of MSE's choice with the choice from the mean map of all classes", "share"),
    ("C5c", "overlap of MSE's choice with the choice from the worst null map", "share"),
)


def answer(claims: pd.DataFrame) -> str:
    """The study's main answers from the table of claims, a line each: estimate [95 % interval], n,
    verdict."""
    found, lines = claims.set_index("claim"), []
    for claim, words, unit in ANSWERS:
        if claim not in found.index:
            continue
        c = found.loc[claim]
        number = (lambda x: f"{100 * x:+.1f}") if unit == "points" else (lambda x: f"{x:.2f}")
        bounds = "" if pd.isna(c["low"]) else f" [{number(c['low'])}, {number(c['high'])}]"
        value = (
            "no common range"
            if pd.isna(c["estimate"])
            else f"{number(c['estimate'])}{bounds} {unit}"
        )
        lines.append(f"{claim}: {words}: {value}, n = {int(c['n'])}: {c['verdict']}")
    return "\n".join(lines)


HEADLINES = {
    "supported": "protects task 1 better than freezing at random",
    "contradicted": "does not protect task 1 a point better than freezing at random",
    "inconclusive": "is not shown to protect task 1 better than freezing at random",
    "undecided": "cannot be told from freezing at random by a single seed",
}


def headline(claims: pd.DataFrame) -> str:
    """One sentence on the study's question, by the verdict of C2-random (MSE against random at 50
    %)."""
    c = claims.set_index("claim").loc["C2-random"]
    bounds = (
        ""
        if pd.isna(c["low"])
        else f", [{100 * c['low']:+.1f}, {100 * c['high']:+.1f}] at Holm's level"
    )
    return (
        f"Freezing half of the filters by explanation {HEADLINES[c['verdict'].split()[0]]}: "
        f"{100 * c['estimate']:+.1f} points of acc1{bounds}, n = {int(c['n'])}."
    )


def _markdown(frame: pd.DataFrame) -> str:
    head = "| " + " | ".join(frame.columns) + " |\n|" + "---|" * len(frame.columns) + "\n"
    return head + "".join(
        "| " + " | ".join(str(v) for v in row) + " |\n" for row in frame.itertuples(index=False)
    )


def arm_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Each arm's acc1 and acc2 after the last round: mean and interval over seeds."""
    return pd.DataFrame(
        [
            {
                "arm": arm,
                "acc1 [95 %]": spread(part["acc1"]),
                "acc2 [95 %]": spread(part["acc2"]),
                "n": part["seed"].nunique(),
            }
            for arm, part in runs.groupby("arm", sort=False)
        ]
    )


def _one_profile(folder: Path) -> str:
    """One published profile: its headline, the main answer, the table of arms, the plane."""
    runs, claims, timing = (
        pd.read_csv(folder / "tables" / f"{t}.csv") for t in ("runs", "claims", "timing")
    )
    n = runs["seed"].nunique()
    start = runs.dropna(subset=["acc1_before"]).drop_duplicates(["seed", "lineage"])
    return (
        f"### Setting {runs['setting'].iloc[0]} (profile `{folder.name}`): {n} "
        f"seed{'s' if n > 1 else ''}\n\n"
        f"**{headline(claims)}**\n\n"
        f"Before round 2: acc1 {spread(start['acc1_before'])}, acc2 {spread(start['acc2_before'])} "
        f"(the paper: .457 and .132). Run on {_hardware(timing)}.\n\n```\n{answer(claims)}\n```\n\n"
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
    folders = [
        published / name for name in ("compact", "paper", "paper_batch_norm", "paper_two_heads")
    ]
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
    "overlap": "How many of the filters chosen by MSE another ranking, or a map without content, "
    "chooses too.",
    "class_overlap": "Filters that two classes would both choose, each alone: near 1, the class "
    "hardly matters.",
    "class_map_correlation": "Correlation of the class maps: near 1, all classes are looked at in "
    "the same place.",
    "best_and_worst": "Class maps beside the visualizations most and least like them.",
    "scores": "Score of every filter of a layer for every class.",
    "realised": "Fraction of each layer that is frozen, after the classes have shared its budget.",
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
    """README.md's text with what stands between its marks made anew from the published tables."""
    for name, make in (("results", _results), ("costs", _costs), ("speed", _speed)):
        before, _, rest = text.partition(f"<!-- {name} -->\n")
        _, _, after = rest.partition(f"<!-- /{name} -->")
        text = f"{before}<!-- {name} -->\n{make(published)}<!-- /{name} -->{after}"
    return text
