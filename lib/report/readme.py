"""The generated parts of README.md, GUIDE.md and bench/README.md, each between its two marks, and
the figure README.md shows; all from files of the project. No torch.

    text = in_text(text, ROOT / "results/published")      # <!-- answer --> ... <!-- /answer -->
    draw(ROOT / "results/published")                      # report/forest.png and .svg

README.md and the report say the same: both ask `lib.report.page` and `lib.report.answers`."""

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from lib.report import figures
from lib.report.page import (
    FIGURES,
    SHOWN,
    alike,
    common_forest,
    in_three,
    name_of,
    published_settings,
    reader,
)
from lib.study.profile import ROOT, load

PAGES = ("README.md", "GUIDE.md", "bench/README.md")  # those that have generated parts
FOREST = "results/published/report/forest.png"
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
NOTHING = "Nothing is published yet."
SIDE_BY_SIDE = 2  # processes of one thread each, on the machine of the record


def table(rows: list[dict]) -> str:
    """Rows as a Markdown table."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


# --- README.md ------------------------------------------------------------------------------------


def _answer(published: Path) -> str:
    """The sentences, and the forest with what it tells."""
    settings = alike(published_settings(published)[0])
    found = common_forest(settings)
    if not settings:
        return f"{NOTHING}\n"
    said = "".join(f"- {sentence}\n" for sentence in in_three(settings))
    if not found:
        return said
    shown = FIGURES["forest"]
    return f"{said}\n![{shown.alt}]({FOREST})\n\n*{shown.title}.* {found[1]} {shown.see}\n"


def draw(published: Path) -> list[Path]:
    """The forest over the published settings, as README.md and the overview show it; where it
    was written."""
    figures.use_style()
    found = common_forest(alike(published_settings(published)[0]))
    return figures.save(found[0], published / "report", "forest") if found else []


def repository() -> str:
    """OWNER/NAME, as pyproject.toml has it."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["study"]["repository"]


def _notebooks(published: Path) -> str:
    """Every notebook: its title, its question, and a badge that opens it in Colab."""
    colab = f"https://colab.research.google.com/github/{repository()}/blob/main/notebooks"
    rows = []
    for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        text = "".join(json.loads(path.read_text())["cells"][0]["source"])
        title, asked = (
            re.search(pattern, text) for pattern in (r"# (.*)", r"\*\*Question\.\*\* (.*)")
        )
        opens = f"[![Open in Colab]({BADGE})]({colab}/{path.name})"
        link = f"[{title[1] if title else path.stem}](notebooks/{path.name})"
        question = re.sub(r" \([^)]*\)", "", asked[1]) if asked else ""  # asides name columns
        rows.append({"notebook": link, "question": question, "": opens})
    return table(rows)


def _costs(published: Path) -> str:
    """What the two commands took when the record was made."""
    quick = [json.loads(p.read_text()) for p in sorted(published.glob("quick/*/manifest.json"))]
    said = []
    took = sum(m["seconds"] for m in quick) / 60
    for setting in alike(published_settings(published)[0]):
        if minutes := _minutes_a_seed(setting.folder, SIDE_BY_SIDE):
            said.append(f"*{setting.name}* {minutes}")
    on = _hardware(published / "quick") or "the machine of the record"
    first = (
        f"the notebooks of `make reproduce` took {took:.1f} minutes (seeds {quick[0]['seeds']}). "
        if quick
        else ""
    )
    words = "Minutes for all arms of one seed that have run on a processor, two side by side"
    words = f"{words}, added up from the record: {'; '.join(said)}."
    return f"On {on}: {first}{words if said else ''}\n" if first or said else ""


# --- GUIDE.md -------------------------------------------------------------------------------------


def _profiles(published: Path) -> str:
    """Every profile: what it is, and what one seed of it cost."""
    names = sorted(p.stem for p in (ROOT / "profiles").glob("*.yaml"))
    rows = []
    for profile in map(load, [*SHOWN, *(n for n in names if n not in SHOWN)]):
        rows.append(
            {
                "profile": f"`{profile.name}`",
                "what": f"**{name_of(profile)}**: {profile.about}",
                "in tables": profile.setting,
                "seeds": profile.seeds,
                "published": _seeds_published(published / profile.name) or "none",
                "minutes a seed": _minutes_a_seed(published / profile.name) or "not timed",
            }
        )
    return table(rows)


def _minutes_a_seed(folder: Path, side_by_side: int = 1) -> str:
    """Minutes of one seed's arms, one thread of a processor each: each arm's median over the seeds
    it has, added up; with the number of these arms if it is not all (others ran on a GPU, or not
    yet); empty if nothing is published that was made on a processor."""
    timing = _table(folder, "timing")
    if timing.empty or (timing := timing[timing["device"].fillna("cpu") == "cpu"]).empty:
        return ""
    arms = timing["run"].str.rsplit("/", n=2).str[0]
    seconds, of = timing.groupby(arms)["seconds"].median(), len(_table(folder, "arms"))
    part = f" ({len(seconds)} of its {of} arms)" if len(seconds) < of else ""
    return f"{seconds.sum() / 60 / side_by_side:.0f}{part}"


def _seeds_published(folder: Path) -> int:
    """How many seeds have runs in the record's tables."""
    for name in ("runs", "readings"):
        if len(rows := _table(folder, name)):
            return rows["seed"].nunique()
    return 0


def _table(folder: Path, name: str) -> pd.DataFrame:
    try:
        return reader(folder)(name)
    except FileNotFoundError:
        return pd.DataFrame()


def _hardware(folder: Path) -> str:
    timing = _table(folder, "timing")
    machines = timing[["processor", "cores"]].drop_duplicates().values if len(timing) else []
    return "; ".join(f"{processor}, {cores} cores" for processor, cores in machines)


# --- bench/README.md ------------------------------------------------------------------------------


def _speed(published: Path) -> str:
    """The targets of the last whole benchmark, what it ran on, and whether results stayed the
    same."""
    folder = published / "bench"
    head = [x for x in (folder / "targets.md").read_text().splitlines() if x.startswith("- ")]
    targets, agreement = (
        pd.read_csv(folder / f"{name}.csv", keep_default_na=False).to_dict("records")
        for name in ("targets", "agreement")
    )
    return (
        "\n".join(head) + f"\n\n{table(targets)}\nResults before and after, the same seeds by the "
        "code before and after the work on speed (commit f1d8e98; the later SSIM kernel and "
        "features computed once are held to the same numbers by tests alone):\n\n"
        f"{table(agreement)}"
    )


# --- between the marks ----------------------------------------------------------------------------

PARTS: dict[str, Callable[[Path], str]] = {
    "answer": _answer,
    "notebooks": _notebooks,
    "costs": _costs,
    "profiles": _profiles,
    "speed": _speed,
}
MARK = re.compile(rf"<!-- (/?)({'|'.join(PARTS)}) -->")


def in_text(text: str, published: Path) -> str:
    """A page's text with what stands between its marks (those it has) made anew. ValueError if a
    mark has no partner: what stands after it would be lost."""
    marks = [(end, name) for end, name in MARK.findall(text)]
    pairs = list(zip(marks[::2], marks[1::2]))
    if len(marks) % 2 or any(a != ("", b[1]) or b[0] != "/" for a, b in pairs) or not marks:
        shown = ", ".join(f"<!-- {end}{name} -->" for end, name in marks) or "none"
        raise ValueError(
            f"its marks are {shown}; expected each <!-- name --> to be followed by its "
            "<!-- /name -->; put the missing one back, nothing was written"
        )
    for _, name in marks[::2]:
        before, mark, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        text = f"{before}{mark}\n{PARTS[name](published)}\n{end}{after}"
    return text
