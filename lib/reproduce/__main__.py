"""The command line: notebooks through papermill, the published record, figures again, the README's
numbers.

    python -m lib.reproduce run --profile quick          (make reproduce)
    python -m lib.reproduce publish --profile compact    (make publish PROFILE=compact)

It decides by the notebooks' manifests what is current and runs the rest; errors end in one sentence
and exit code 1. Knows nothing of what the notebooks do.
"""

import argparse
import errno
import os
import sys
from collections.abc import Sequence

from lib.reproduce import notebooks, record, report, verify
from lib.reproduce.notebooks import one_line
from lib.study.profile import ROOT, Profile, load
from lib.study.store import results_dir, rows, write_atomically


def redraw(profile: Profile, arguments: argparse.Namespace) -> None:
    """Draw the figures that come from tables again, without training; `--style` names a matplotlib
    style."""
    from lib.report import figures

    figures.use_style(arguments.style)
    drawn = figures.from_tables(lambda name: rows(profile.name, name))
    folder = results_dir(profile.name) / "figures"
    for name, figure in drawn.items():
        figures.save(figure, folder, name)
    print(f"drew {', '.join(drawn)} in {folder}")


def readme(profile: Profile, arguments: argparse.Namespace) -> None:
    """Write the generated parts of README.md, each between its two marks, from the published
    tables."""
    from lib.report.page import in_readme

    path = ROOT / "README.md"
    text = in_readme(path.read_text(), record.PUBLISHED)
    write_atomically(path, lambda p: p.write_text(text))
    print("README.md: results, costs and speed written from the published tables")


COMMANDS = {
    "run": notebooks.run,
    "publish": record.publish,
    "restore": record.restore,
    "compare": record.compare,
    "verify": verify.verify,
    "figures": redraw,
    "report": report.report,
    "readme": readme,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """See the head of this module. Exit code 0, or 1 after one sentence on standard error."""
    parser = argparse.ArgumentParser(prog="python -m lib.reproduce")
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument(
        "--profile", default="quick", help="a name in profiles/, or the path of a .yaml file"
    )
    parser.add_argument("--seeds", help="such as 1-5; the profile's own if not given")
    parser.add_argument("--data", help="a data source in place of the profile's (see lib.data)")
    parser.add_argument("--only", help="numbers of the notebooks to run, such as 04,05")
    parser.add_argument("--write", action="store_true", help="verify: put right what differs")
    parser.add_argument(
        "--published", action="store_true", help="report: every published profile, an overview"
    )
    parser.add_argument("--style", help="a matplotlib style for figures")
    given = parser.parse_args(arguments)
    os.environ["PYTHONUNBUFFERED"] = "1"
    try:
        COMMANDS[given.command](load(given.profile, given.seeds, given.data), given)
    except KeyboardInterrupt:
        print(
            "\ninterrupted; what was finished is kept, the same command goes on from there",
            file=sys.stderr,
        )
        return 130
    except (ValueError, RuntimeError, OSError, FloatingPointError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC and "free some space" not in str(error)
        more = (
            ": free some space; what was finished is kept, the same command goes on from there"
            if full
            else ""
        )
        print(f"error: {one_line(error)}{more}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
