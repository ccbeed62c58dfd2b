"""What every notebook does at its start and end: resolve the profile, save what it makes, and prove
that it finished.

    session = begin("03_rank_and_freeze", profile, seeds, data)
    session.table(frame, "overlap");  session.figure(fig, "overlap");  session.finish()

A notebook's manifest is written last, by rename: a killed kernel leaves none. `lib.reproduce` adds
the hash of the executed notebook, once that is written too, and decides by it what is current: a
notebook run by hand is run again, from finished products. No torch here."""

import json
import logging
import time
from functools import cache
from pathlib import Path
from types import CodeType

import pandas as pd

from lib.report import figures
from lib.study.keys import SCIENCE, digest
from lib.study.profile import ROOT, Profile, load
from lib.study.store import (
    JSON,
    SHOWCASE,
    as_written,
    file_hash,
    provenance,
    read_table,
    results_dir,
    write_atomically,
)

# numbered, in the order they run
NOTEBOOKS = tuple(sorted(p.stem for p in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")))
# those that stand on each other; 00 looks at what is shipped, and nothing depends on it
STUDY = tuple(name for name in NOTEBOOKS if not name.startswith("00"))
FIRST_WITH_ROWS = 4  # the number of the first notebook that reads runs


class Session:
    """One notebook at work on one profile. Attributes: profile, folder (its results), show (the
    seed looked at)."""

    def __init__(self, notebook: str, profile: Profile):
        self.notebook, self.profile, self.start = notebook, profile, time.time()
        self.results = results_dir(profile.name)
        self.folder = self.results / notebook
        self.outputs: dict[str, str] = {}
        self.show = profile.seed_list[0]
        self.borrowed = False  # whether tables are the published record's
        self.inputs = inputs(notebook, profile)  # before: what is edited meanwhile was not used
        manifest_path(self.results, notebook).unlink(missing_ok=True)

    def table(self, rows: pd.DataFrame | list[dict], name: str) -> pd.DataFrame:
        """Write `tables/<name>.csv` and return it as read back: what is shown is what is on
        disk."""
        path = self.results / "tables" / f"{name}.csv"
        text = as_written(pd.DataFrame(rows))
        write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))
        self._note(path)
        return read_table(path)

    def figure(self, figure, name: str, svg: bool = True):
        """Write `figures/<name>.png` and, unless told not to, `.svg`; returns the picture as a
        notebook shows it.

        A bare matplotlib Figure would show as one line of text: only pyplot's figures are drawn by
        themselves."""
        written = figures.save(figure, self.results / "figures", name, svg)
        return self._shown(written, figure.get_size_inches())

    def aside(self, figure, name: str):
        """A picture that is this notebook's alone, beside it: no figure of the profile."""
        written = figures.save(figure, self.folder, name, svg=False)
        return self._shown(written, figure.get_size_inches())

    def _shown(self, written: list[Path], inches: tuple[float, float]):
        """The PNG at 100 pixels an inch: a notebook stays small enough to be published."""
        from IPython.display import Image
        from PIL import Image as Picture

        for path in written:
            self._note(path)
        with Picture.open(next(p for p in written if p.suffix == ".png")) as full:
            return Image(figures.shrunk(full, tuple(round(100 * side) for side in inches)))

    def read(self, name: str) -> pd.DataFrame:
        """A table an earlier notebook wrote; where none has written any, as in a fresh clone, the
        published record's, and a line that says so. FileNotFoundError says which notebooks to
        run."""
        tables, published = (
            self.results / "tables",
            ROOT / "results/published" / self.profile.name / "tables",
        )
        if (tables / f"{name}.csv").exists():
            return read_table(tables / f"{name}.csv")
        if not (tables / "runs.csv").exists() and (published / f"{name}.csv").exists():
            if not self.borrowed:
                print(f"no run of profile {self.profile.name} here: tables are the published ones")
            self.borrowed = True
            return read_table(published / f"{name}.csv")
        raise FileNotFoundError(
            f"{tables / f'{name}.csv'} is not there: run the earlier notebooks of profile "
            f"{self.profile.name} first (make reproduce {self.profile.asked})"
        )

    def _note(self, path: Path) -> None:
        self.outputs[str(path.relative_to(self.results))] = file_hash(path)

    def finish(self) -> None:
        """Write the manifest: what went in, what came out, by which code, on what machine, in what
        time."""
        manifest = {
            "notebook": self.notebook,
            # but for the rows, which it may have made itself
            "inputs": self.inputs | _rows_there(self.notebook, self.results),
            "outputs": self.outputs,
            "seeds": self.profile.seeds,
            "data": self.profile.data.model_dump(),
            "provenance": provenance(),
            "seconds": round(time.time() - self.start, 1),
        }
        write_atomically(
            manifest_path(self.results, self.notebook), lambda p: JSON.save(manifest, p)
        )
        print(
            f"{self.notebook}: finished in {manifest['seconds']:.0f} s; {len(self.outputs)} "
            "tables and figures of "
            f"profile {self.profile.name}"
        )


def begin(notebook: str, profile: str, seeds: str = "", data: str = "") -> Session:
    """Resolve the parameters of a notebook (empty: the profile's own) and start its session."""
    figures.use_style()
    logging.getLogger("asyncio").setLevel(
        logging.CRITICAL
    )  # a kernel that is shut down complains of its own tasks
    pd.set_option("display.max_rows", 100, "display.precision", 3, "display.max_colwidth", None)
    return Session(notebook, load(profile, seeds or None, data or None))


def manifest_path(results: Path, notebook: str) -> Path:
    """Where a notebook's manifest lies."""
    return results / notebook / "manifest.json"


def read_manifest(results: Path, notebook: str) -> dict | None:
    """A notebook's manifest, or None if there is none that `finish` wrote: then it is run again."""
    try:
        manifest = json.loads(manifest_path(results, notebook).read_text())
        whole = all(isinstance(manifest[part], dict) for part in ("inputs", "outputs"))
        return manifest if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def note_executed(results: Path, notebook: str) -> None:
    """Add the hash of the executed notebook to its manifest: only then is it whole."""
    manifest = read_manifest(results, notebook) or {}
    manifest["executed"] = file_hash(results / notebook / "notebook.ipynb")
    write_atomically(manifest_path(results, notebook), lambda p: JSON.save(manifest, p))


def code_hash() -> str:
    """Hash of lib's code, its sub-packages too, without docstrings and comments: editing those
    makes nothing stale."""
    lib = ROOT / "lib"
    files = {path.relative_to(lib).as_posix(): path for path in lib.rglob("*.py")}
    names = sorted(n for n in files if not n.startswith(".") and "/." not in n)
    return digest([(name, _bare(files[name].read_text())) for name in names])


@cache  # asked for every notebook anew, of the same files
def _bare(code: str) -> str:
    """What Python makes of code: no comments, docstrings or places of lines are in it."""
    return repr(_told(compile(code, "lib", "exec", dont_inherit=True, optimize=2)))


def _told(part: object) -> object:
    """A compiled function or module as a list, the same in every process; what is no code, as it
    is."""
    if isinstance(part, frozenset):  # whose order is the process's own
        return sorted(map(repr, part))
    if not isinstance(part, CodeType):
        return part
    names = part.co_names, part.co_varnames, part.co_cellvars, part.co_freevars
    counts = part.co_argcount, part.co_posonlyargcount, part.co_kwonlyargcount, part.co_flags
    does = part.co_name, part.co_code, part.co_exceptiontable
    return [*does, *names, *counts, *map(_told, part.co_consts)]


def inputs(notebook: str, profile: Profile) -> dict[str, str]:
    """Everything a notebook's outputs depend on, as short hashes: cheap to compute, without
    torch."""
    results, before = results_dir(profile.name), [n for n in STUDY if n < notebook]
    found = {
        "notebook": digest(cells(source_of(notebook))),
        "code": code_hash(),
        "profile": digest(profile.model_dump()),
        "science": digest(SCIENCE),
        "data": _data_stamp(profile),
    }
    found |= _rows_there(notebook, results)
    if notebook not in STUDY:
        found["showcase"] = digest(_text(SHOWCASE / "manifest.json"))
    if before:
        upstream = read_manifest(results, before[-1])
        found["upstream"] = digest(upstream["outputs"]) if upstream else "none"
    return found


def _rows_there(notebook: str, results: Path) -> dict[str, str]:
    """The rows there are, for a notebook that reads them: some come in by `restore` or by another
    seed's run."""
    if int(notebook[:2]) < FIRST_WITH_ROWS:
        return {}
    return {"rows": digest(sorted(p.name for p in (results / "runs/run").glob("*.meta.json")))}


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else "none"


def source_of(notebook: str) -> Path:
    """Where a notebook's source lies."""
    return ROOT / "notebooks" / f"{notebook}.ipynb"


def cells(path: Path) -> list:
    """The text of a notebook's cells; ValueError names a file that is none."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        notebook["nbformat"], notebook["metadata"]
        return [cell["source"] for cell in notebook["cells"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: not a notebook ({type(error).__name__}: {error}); take the committed file "
            "again (git checkout -- notebooks)"
        ) from None


def _data_stamp(profile: Profile) -> str:
    """Size and time of a data file, or of every file in a folder of images: what was changed in
    place makes its runs stale (they are compared by pixels)."""
    path = Path(profile.data.source)
    files = [path] if path.is_file() else sorted(path.rglob("*")) if path.is_dir() else []
    stamps = [(str(f.relative_to(path)), f.stat()) for f in files if f.is_file()]
    return digest([(n, s.st_size, s.st_mtime_ns) for n, s in stamps]) if stamps else "named"


def is_current(notebook: str, profile: Profile) -> bool:
    """True if the notebook's manifest matches today's inputs, and its outputs and the executed
    notebook are on disk, unchanged."""
    results = results_dir(profile.name)
    manifest = read_manifest(results, notebook)
    if manifest is None or manifest["inputs"] != inputs(notebook, profile):
        return False
    made = {**manifest["outputs"], f"{notebook}/notebook.ipynb": manifest.get("executed")}
    return all((results / n).is_file() and file_hash(results / n) == h for n, h in made.items())
