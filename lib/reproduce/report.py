"""The report: one HTML file for a profile, and over all that are published an overview.

    make report PROFILE=compact     # of the results here, else of the published record
    make report                     # of every published profile, and an overview over them

Results here have theirs in results/<profile>/report, the record in results/published/report.
"""

import argparse
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
        written = [of_published(profile)]
    else:
        raise FileNotFoundError(
            f"no tables of profile {profile.name}: expected {here / 'tables'} (make reproduce "
            f"{profile.asked}) or {record.PUBLISHED / profile.name / 'tables'}"
        )
    for path in written:
        print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")


def of_published(profile: Profile, drawn: dict[str, Picture] | None = None) -> Path:
    """results/published/report/<profile>.html. drawn: its pictures, if they are drawn already."""
    folder = record.PUBLISHED / profile.name
    beside = {
        name: f"../{profile.name}/{name}/notebook.ipynb"
        for name in NOTEBOOKS
        if (folder / name / "notebook.ipynb").exists()
    }
    text = page(folder, name_of(profile), profile.about, beside, drawn)
    return _write(f"{profile.name}.html", text)


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
        yield of_published(load(setting.folder.name), drawn[setting.name])
    grid = published_grid(record.PUBLISHED)
    yield _write("index.html", overview(settings, waiting, drawn, grid))


def _has_tables(profile: Profile) -> bool:
    return (record.PUBLISHED / profile.name / "tables" / "runs.csv").exists()


def _write(name: str, text: str) -> Path:
    path = record.PUBLISHED / "report" / name
    write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))
    return path
