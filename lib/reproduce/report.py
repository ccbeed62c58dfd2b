"""The report: one HTML file for a profile, and over all that are published an overview.

    make report PROFILE=compact     # of the results here, else of the published tables
    make report                     # of every published profile, and an overview over them

The first goes to results/<profile>/report, the second to results/published/report.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from lib.report.page import (
    Picture,
    name_of,
    overview,
    page,
    pictures,
    published_grid,
    published_settings,
)
from lib.report.session import NOTEBOOKS
from lib.reproduce import record
from lib.reproduce.notebooks import make_report
from lib.study.profile import Profile, load
from lib.study.store import holding, results_dir, write_atomically


def report(profile: Profile, arguments: argparse.Namespace) -> None:
    """The report of a profile, from tables and figures alone: of the results here if there are any,
    else of the published record. With `--published` of every published profile, and an overview."""
    here = results_dir(profile.name)
    if arguments.published:
        written = [*of_record()]
    elif (here / "tables").is_dir():
        with holding(here):
            make_report(profile)
        written = [here / "report/index.html"]
    elif _has_tables(profile):
        place = here / "report/index.html"
        written = [_write(place, _of_published(profile, place))]
    else:
        raise FileNotFoundError(
            f"no tables of profile {profile.name}: expected {here / 'tables'} (make reproduce "
            f"{profile.asked}) or {record.PUBLISHED / profile.name / 'tables'}"
        )
    for path in written:
        print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")


def _of_published(profile: Profile, place: Path, drawn: dict[str, Picture] | None = None) -> str:
    """The page of a published profile, as it is to stand in `place`. drawn: its pictures, if they
    are drawn already."""
    folder = record.PUBLISHED / profile.name
    notebooks = {name: folder / name / "notebook.ipynb" for name in NOTEBOOKS}
    beside = {
        name: Path(os.path.relpath(path, place.parent)).as_posix()
        for name, path in notebooks.items()
        if path.exists()
    }
    return page(folder, name_of(profile), profile.about, beside, drawn)


def of_record() -> Iterator[Path]:
    """Every published profile that has tables, and index.html over them."""
    settings, waiting = published_settings(record.PUBLISHED)
    if not settings:
        raise FileNotFoundError(
            f"nothing published: expected tables in {record.PUBLISHED}/<profile>/tables (make "
            "reproduce, then make publish)"
        )
    drawn = {}  # once for both
    for setting in settings:
        drawn[setting.name] = pictures(setting.folder, setting.name)
        profile = load(setting.folder.name)
        place = record.PUBLISHED / "report" / f"{profile.name}.html"
        yield _write(place, _of_published(profile, place, drawn[setting.name]))
    grid = published_grid(record.PUBLISHED)
    yield _write(record.PUBLISHED / "report/index.html", overview(settings, waiting, drawn, grid))


def _has_tables(profile: Profile) -> bool:
    return (record.PUBLISHED / profile.name / "tables" / "runs.csv").exists()


def _write(path: Path, text: str) -> Path:
    write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))
    return path
