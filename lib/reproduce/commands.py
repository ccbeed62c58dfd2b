"""What `python -m lib.reproduce` can do: a table of commands, and the small ones among them.

It decides by the notebooks' manifests what is current and runs the rest. Knows nothing of what the
notebooks do.
"""

import argparse
import os
import re
import tomllib
from collections.abc import Sequence

from lib.reproduce import notebooks, plan, record, report, verify
from lib.study.command import Parser
from lib.study.profile import ROOT, Profile, load
from lib.study.store import SHOWCASE, holding, remove, results_dir, rows, write_atomically


def redraw(profile: Profile, arguments: argparse.Namespace) -> None:
    """Draw the figures that come from tables again, without training. `--style` names a matplotlib
    style: those go into a folder of their own, so that the study's figures stay what its
    manifests say."""
    from lib.report import figures, readings

    _check_style(arguments.style)
    figures.use_style(arguments.style)
    drawn = {}
    for room in (figures, readings):
        drawn |= room.from_tables(lambda name: rows(profile.name, name))
    if not drawn:
        raise FileNotFoundError(
            f"no tables of profile {profile.name} to draw from: expected some in "
            f"{results_dir(profile.name) / 'tables'} or in {record.PUBLISHED / profile.name}; run "
            f"make reproduce {profile.asked}"
        )
    style = re.sub(r"[^\w.-]+", "-", os.path.basename(arguments.style or ""))
    folder = results_dir(profile.name) / (f"figures_{style}" if style else "figures")
    for name, figure in drawn.items():
        figures.save(figure, folder, name)
    print(f"drew {', '.join(drawn)} in {folder}")


def _check_style(style: str | None) -> None:
    from matplotlib.style import available

    if style and style not in available and not os.path.isfile(style):
        raise ValueError(
            f"no style {style!r}: expected the path of a matplotlib style file, or one of "
            f"{', '.join(s for s in available if not s.startswith('_'))}; name one by STYLE="
        )


def readme(profile: Profile, arguments: argparse.Namespace) -> None:
    """Write the generated parts of README.md, GUIDE.md and bench/README.md, each between its two
    marks, and the figure README.md shows. ValueError if a mark has no partner."""
    from lib.report.readme import PAGES, draw, in_text

    pages = [path for page in PAGES if (path := ROOT / page).exists()]
    texts = {}
    for path in pages:  # all are sound before one is written
        try:
            texts[path] = in_text(path.read_text(), record.PUBLISHED)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    for path, text in texts.items():
        write_atomically(path, lambda p, text=text: p.write_text(text))
    written = [*pages, *draw(record.PUBLISHED)]
    print(f"written from the published tables: {', '.join(map(str, written))}")


def repository(profile: Profile, arguments: argparse.Namespace) -> None:
    """Write the public place of the project, `--name OWNER/NAME`, wherever the old one stands:
    pyproject.toml, badges and clone addresses of notebooks (published ones too) and pages,
    CITATION.cff. ValueError for what is no such name."""
    new = arguments.name or ""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", new):
        raise ValueError(
            f"name {new!r}: expected OWNER/NAME, as in the project's address on GitHub; give it by "
            "NAME=owner/name"
        )
    settings = ROOT / "pyproject.toml"
    old = tomllib.loads(settings.read_text())["tool"]["study"]["repository"]
    place = re.compile(rf'(github\.com/|github/|repository = "){re.escape(old)}(?![\w.-])')
    pages = [settings, *map(ROOT.joinpath, ("README.md", "GUIDE.md", "CITATION.cff"))]
    published = sorted(ROOT.glob("results/published/*/*/notebook.ipynb"))
    changed = []
    for path in [*pages, *sorted(ROOT.glob("notebooks/*.ipynb")), *published]:
        before = path.read_text()
        after = place.sub(lambda hit: hit[1] + new, before)
        if after != before:
            write_atomically(path, lambda p, after=after: p.write_text(after))
            changed.append(path.name)
    print(f"{old} -> {new} in {', '.join(changed) or 'no file: it stands there already'}")


def showcase(profile: Profile, arguments: argparse.Namespace) -> None:
    """Write the showcase of notebook 00 (results/published/showcase) from the products of one
    seed, the first that is named."""
    from lib.study.showcase import make

    about = make(profile, profile.seed_list[0])
    size = sum(path.stat().st_size for path in SHOWCASE.iterdir())
    print(f"showcase: {profile.name}, seed {about['seed']}, {size / 1e6:.1f} MB in {SHOWCASE}")
    for name, value in about["accuracy"]["record"].items():
        print(f"{name}: {about['accuracy']['half precision'][name]} here, {value} in the record")


def clean(profile: Profile, arguments: argparse.Namespace) -> None:
    """Remove a profile's own results, wherever $RESULTS puts them; the record stays."""
    folder = results_dir(profile.name)
    if not folder.exists():
        print(f"nothing to remove: no {folder}")
        return
    with holding(folder, wait=False):
        remove(folder)
    print(f"removed {folder}")


COMMANDS = {
    "run": notebooks.run,
    "record": plan.record,
    "publish": record.publish,
    "restore": record.restore,
    "compare": record.compare,
    "verify": verify.verify,
    "figures": redraw,
    "report": report.report,
    "readme": readme,
    "repository": repository,
    "showcase": showcase,
    "clean": clean,
}


def obey(arguments: Sequence[str] | None = None) -> None:
    """Parse a command line and do what it asks for; errors are raised."""
    parser = Parser(prog="python -m lib.reproduce")
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument(
        "--profile", default="quick", help="a name in profiles/, or the path of a .yaml file"
    )
    parser.add_argument("--seeds", help="such as 1-5; the profile's own if not given")
    parser.add_argument("--data", help="a data source in place of the profile's (see lib.data)")
    parser.add_argument("--only", help="numbers of the notebooks to run, such as 04,05")
    parser.add_argument("--rows", action="store_true", help="publish: the rows alone")
    parser.add_argument("--write", action="store_true", help="verify: put right what differs")
    parser.add_argument(
        "--published", action="store_true", help="report: every published profile, an overview"
    )
    parser.add_argument("--style", help="a matplotlib style for figures")
    parser.add_argument("--name", help="repository: the project's public place, OWNER/NAME")
    parser.add_argument("--engine", help="what does jobs: local (workers), here (none) or ray")
    given = parser.parse_args(arguments)
    if given.engine:
        os.environ["ENGINE"] = given.engine
    os.environ["PYTHONUNBUFFERED"] = "1"
    os.environ["HEADLESS"] = "1"  # notebooks get lines and pictures, not bars and controls
    COMMANDS[given.command](load(given.profile, given.seeds, given.data), given)
