"""What `python -m lib.reproduce` can do: a table of commands, and the small ones among them.

It decides by the notebooks' manifests what is current and runs the rest. Knows nothing of what the
notebooks do.
"""

import argparse
import os
import re
from collections.abc import Sequence

from lib.reproduce import notebooks, plan, record, report, verify
from lib.study.profile import ROOT, Profile, load
from lib.study.store import holding, remove, results_dir, rows, write_atomically

MARK = re.compile(r"<!-- (/?)(results|costs|speed) -->")


def redraw(profile: Profile, arguments: argparse.Namespace) -> None:
    """Draw the figures that come from tables again, without training. `--style` names a matplotlib
    style: those go into a folder of their own, so that the study's figures stay what its
    manifests say."""
    from lib.report import figures, readings

    figures.use_style(arguments.style)
    drawn = {}
    for room in (figures, readings):
        drawn |= room.from_tables(lambda name: rows(profile.name, name))
    if not drawn:
        raise FileNotFoundError(
            f"no tables of profile {profile.name} to draw from: expected some in "
            f"{results_dir(profile.name) / 'tables'} or in {record.PUBLISHED / profile.name}; run "
            f"make reproduce PROFILE={profile.name}"
        )
    style = re.sub(r"[^\w.-]+", "-", os.path.basename(arguments.style or ""))
    folder = results_dir(profile.name) / (f"figures_{style}" if style else "figures")
    for name, figure in drawn.items():
        figures.save(figure, folder, name)
    print(f"drew {', '.join(drawn)} in {folder}")


def readme(profile: Profile, arguments: argparse.Namespace) -> None:
    """Write the generated parts of README.md, each between its two marks, from the published
    tables. ValueError if a mark has no partner: what stands after it would be lost."""
    from lib.report.page import in_readme

    path = ROOT / "README.md"
    text = path.read_text()
    marks = [(end, name) for end, name in MARK.findall(text)]
    pairs = list(zip(marks[::2], marks[1::2]))
    if len(marks) % 2 or any(a != ("", b[1]) or b[0] != "/" for a, b in pairs) or not marks:
        shown = ", ".join(f"<!-- {end}{name} -->" for end, name in marks) or "none"
        raise ValueError(
            f"{path}: its marks are {shown}; expected each <!-- name --> to be followed by its "
            "<!-- /name -->; put the missing one back, nothing was written"
        )
    text = in_readme(text, record.PUBLISHED)
    write_atomically(path, lambda p: p.write_text(text))
    print("README.md: results, costs and speed written from the published tables")


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
    "clean": clean,
}


def obey(arguments: Sequence[str] | None = None) -> None:
    """Parse a command line and do what it asks for; errors are raised."""
    parser = argparse.ArgumentParser(prog="python -m lib.reproduce")
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
    given = parser.parse_args(arguments)
    os.environ["PYTHONUNBUFFERED"] = "1"
    COMMANDS[given.command](load(given.profile, given.seeds, given.data), given)
