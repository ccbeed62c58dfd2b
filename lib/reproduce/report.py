"""The report: one HTML file for a profile, and over all that are published an overview, in
results/<profile>/report or results/published/report.

make report PROFILE=compact     # of the results here, else of the published record
make report                     # of every published profile, and results/published/report/index.html
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from lib.report.session import NOTEBOOKS
from lib.reproduce import record
from lib.study.profile import ROOT, Profile, load
from lib.study.store import results_dir, write_atomically


def report(profile: Profile, arguments: argparse.Namespace) -> None:
    """The report of a profile, from tables and figures alone: of the results here if there are any,
    else of the published record. With `--published` of every published profile, and an overview."""
    if arguments.published:
        written = [*of_record()]
    elif (results_dir(profile.name) / "tables").is_dir():
        written = [of_run(profile)]
    elif (record.PUBLISHED / profile.name / "tables").is_dir():
        written = [of_published(profile)]
    else:
        raise FileNotFoundError(
            f"no tables of profile {profile.name}: expected {results_dir(profile.name) / 'tables'} "
            f"(make reproduce PROFILE={profile.name}) or "
            f"{record.PUBLISHED / profile.name / 'tables'}"
        )
    for path in written:
        print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")


def of_run(profile: Profile) -> Path:
    """results/<profile>/report: index.html, and the executed notebooks as HTML beside it."""
    from nbconvert import HTMLExporter

    from lib.report.page import name_of, page

    results, exporter = results_dir(profile.name), HTMLExporter(exclude_input_prompt=True)
    beside = {}
    for notebook in NOTEBOOKS:
        source = results / notebook / "notebook.ipynb"
        if source.exists():
            html, _ = exporter.from_filename(str(source))
            beside[notebook] = f"{notebook}.html"
            _write(results / "report" / beside[notebook], html)
    text = page(results, name_of(profile), profile.about, beside)
    return _write(results / "report" / "index.html", text)


def of_published(profile: Profile) -> Path:
    """results/published/report/<profile>.html."""
    from lib.report.page import name_of, page

    folder = record.PUBLISHED / profile.name
    beside = {
        name: f"../{profile.name}/{name}/notebook.ipynb"
        for name in NOTEBOOKS
        if (folder / name / "notebook.ipynb").exists()
    }
    text = page(folder, name_of(profile), profile.about, beside)
    return _write(_reports() / f"{profile.name}.html", text)


def of_record() -> Iterator[Path]:
    """Every published profile that has tables, and index.html over them."""
    from lib.report.page import SHOWN, Setting, name_of, overview

    names = [path.parent.name for path in record.PUBLISHED.glob("*/runs")]
    names = sorted(
        names, key=lambda name: (SHOWN.index(name) if name in SHOWN else len(SHOWN), name)
    )
    profiles = [load(name) for name in names if (ROOT / f"profiles/{name}.yaml").exists()]
    ready = [p for p in profiles if (record.PUBLISHED / p.name / "tables" / "runs.csv").exists()]
    if not ready:
        raise FileNotFoundError(
            f"nothing published: expected tables in {record.PUBLISHED}/<profile>/tables (make "
            "reproduce, then make publish)"
        )
    yield from map(of_published, ready)
    settings = [
        Setting(record.PUBLISHED / p.name, name_of(p), p.about, f"{p.name}.html") for p in ready
    ]
    waiting = [name_of(p) for p in profiles if p not in ready]
    yield _write(_reports() / "index.html", overview(settings, waiting))


def _reports() -> Path:
    return record.PUBLISHED / "report"


def _write(path: Path, text: str) -> Path:
    write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))
    return path
