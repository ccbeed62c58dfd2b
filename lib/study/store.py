"""Finished products by key: made once, written atomically, checked when read.

    store = Store(results_dir("compact") / "runs")
    rows = store.once("run", key, make)                  # makes them, or reads what was made before
    store.once("task1", key, make, FileType(".pt", torch_save, torch_load))

A product `<kind>/<hash>.json` (or .pt, .npz) is what equal runs write equally, byte for byte; its
sibling `<hash>.meta.json` says when, where, how long and by which code, and is written last:
without it there is no product. A lock file makes a second process wait for the first instead of
making the same thing again.

Nothing is removed before what replaces it is whole: files through `write_atomically`, folders
through `replacing`, and `remove` renames first. What a killed process leaves is
`.<name>.<host>.<pid>.tmp` and goes by `sweep`. No torch here."""

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from lib.study.keys import digest
from lib.study.profile import ROOT

LIBRARIES = (
    "torch",
    "torchvision",
    "numpy",
    "pandas",
    "scipy",
    "captum",
    "scikit-learn",
    "matplotlib",
)


# one trained seed to look at, shipped with the project (see `lib.study.showcase`)
SHOWCASE = ROOT / "results/published/showcase"


def results_dir(profile: str) -> Path:
    """The folder of a profile's results: under $RESULTS if set, else under results/."""
    return Path(os.environ.get("RESULTS") or ROOT / "results") / profile


class FileType(NamedTuple):
    """How a product is written to and read from a file."""

    suffix: str
    save: Callable[[Any, Path], None]
    load: Callable[[Path], Any]


JSON = FileType(
    ".json",
    lambda thing, path: path.write_text(json.dumps(thing, indent=1, sort_keys=True) + "\n"),
    lambda path: json.loads(path.read_text()),
)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An error of the system inside names this path: a full disk names no file of its own."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` on a temporary name beside `path`, flush it to disk, rename: a reader sees all
    of it or nothing."""
    temporary = _temporary(path)
    try:
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write(temporary)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


# --- folders --------------------------------------------------------------------------------------

# of this machine, where several share a disk
HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:6]
LEFT_OVER = re.compile(r"\.(?P<name>.+?)(\.(?P<host>[0-9a-f]{6}))?\.(?P<pid>\d+)\.tmp")
LONG_AGO = 3600  # seconds: a process on another machine that shares the disk may look dead


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{HOST}.{os.getpid()}.tmp")


def _aside(folder: Path) -> Path:
    """Where a folder waits while another takes its place."""
    return folder.with_name(f".{folder.name}.old")


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A new, empty folder to fill, which takes the place of `folder` when all went well; after an
    error `folder` is what it was."""
    put_right(folder)
    new = _temporary(folder)
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir(parents=True)
        yield new
        if folder.exists():
            os.rename(folder, _aside(folder))
        try:
            os.rename(new, folder)
        finally:
            put_right(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def put_right(folder: Path) -> None:
    """What `replacing` left if it was killed between its two renames: the old folder goes back, or
    goes if the new one is there."""
    if _aside(folder).exists():
        if folder.exists():
            remove(_aside(folder))
        else:
            os.rename(_aside(folder), folder)


def remove(folder: Path) -> None:
    """Remove a folder: renamed first, so that nobody ever sees a part of it under its name. Where
    the name is a link to a folder elsewhere, that one is emptied and the link stays."""
    place = folder.resolve()
    gone = _temporary(place)
    os.rename(place, gone)
    if folder.is_symlink():
        place.mkdir()
    shutil.rmtree(gone)


def sweep(
    folder: Path,
    left_over: re.Pattern = LEFT_OVER,
    deep: bool = True,
    ended: Collection[int] = (),
) -> None:
    """Remove what killed processes left in a folder, and below if deep: old, and its process gone;
    of processes of this machine that this one saw end (`ended`, their numbers), whatever its age.
    What cannot be removed stays."""
    for path in [*(folder.rglob if deep else folder.glob)("*")] if folder.is_dir() else []:
        hit = left_over.fullmatch(path.name)
        with suppress(OSError):
            if hit and (_among(hit.groupdict(), ended) or _long_gone(int(hit["pid"]), path)):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _among(hit: Mapping[str, str | None], ended: Collection[int]) -> bool:
    return int(hit["pid"]) in ended and hit.get("host") == HOST


def _long_gone(pid: int, path: Path) -> bool:
    return _gone(pid) and time.time() - path.stat().st_mtime > LONG_AGO


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass
    return False


@contextmanager
def holding(folder: Path, wait: bool = True, shared: bool = False) -> Iterator[None]:
    """Keep a profile's results to this process: another one waits and says so, or (wait False)
    ends in a RuntimeError. shared: to this one and others that share them, as parts of one run
    do. The lock lies beside the folder and goes with the process."""
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    lock = folder.with_name(f".{folder.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "a+") as file:
        if not _taken(file, kind):
            file.seek(0)
            who = f"{folder} is in use by process {file.read().strip() or 'unknown'}"
            if not wait:
                raise RuntimeError(f"{who}: expected it to be at rest; wait for it, or end it")
            print(f"{who}: waiting for it to end", file=sys.stderr, flush=True)
            fcntl.flock(file, kind)
        with naming(lock):
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
        yield


def _taken(file, kind: int) -> bool:
    """Lock an open file if nobody else has it in a way that excludes this."""
    with naming(Path(file.name)):
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def provenance() -> dict[str, Any]:
    """Commit, whether lib, notebooks or profiles differ from it, versions, host and processor of
    this process. Without git, or where ROOT is no repository of its own (an unpacked archive inside
    another's), the commit is "unknown" and dirty is True."""
    mine = _git("rev-parse", "--show-toplevel")
    own = mine is not None and Path(mine).resolve() == ROOT.resolve()
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            pass
    changed = _git("status", "--porcelain", "--", "lib", "notebooks", "profiles") if own else None
    return {
        "commit": own and _git("rev-parse", "HEAD") or "unknown",
        "dirty": changed is None or bool(changed),
        "python": platform.python_version(),
        "versions": versions,
        "machine": platform.machine(),
        "processor": processor(),
        "cores": os.cpu_count(),
    }


def _git(*arguments: str) -> str | None:
    """What git says about ROOT, or None; variables that point it elsewhere do not count. A checkout
    of another user's (a shared one, read-only) is trusted as its code is, which runs here."""
    own = {k: v for k, v in os.environ.items() if k not in ("GIT_DIR", "GIT_WORK_TREE")}
    command = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=own)
    except OSError:  # no git
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@cache
def processor() -> str:
    """The processor's model name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.partition(":")[2].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


class Store:
    """The products of one profile, in a folder."""

    def __init__(self, root: Path, made_with: dict | None = None):
        """root: the folder; made_with: what else meta files should say (device, precision as
        resolved)."""
        self.root, self.made_with = Path(root), made_with or {}

    def path(self, kind: str, key: dict, suffix: str = ".json", branch: str = "") -> Path:
        """Where a product lies; `branch` tells products of one key apart (the lineage of a run)."""
        return self.root / kind / f"{digest(key)}{'.' + branch if branch else ''}{suffix}"

    def has(self, kind: str, key: dict, suffix: str = ".json", branch: str = "") -> bool:
        """True if the product is finished (its meta file is there)."""
        path = self.path(kind, key, suffix, branch)
        return _meta(path).exists() and path.exists()

    def files(self, kind: str, key: dict, suffix: str = ".json") -> list[Path]:
        """The files of a product, if it is finished: itself, and its meta file."""
        path = self.path(kind, key, suffix)
        return [path, _meta(path)] if self.has(kind, key, suffix) else []

    def branches(self, kind: str, key: dict) -> list[str]:
        """The branches (lineages) under which a JSON product of this key is finished."""
        stem = digest(key)
        found = (
            p.name[len(stem) + 1 : -len(".json")] for p in (self.root / kind).glob(f"{stem}.*.json")
        )
        return sorted(
            b for b in found if b and not b.endswith("meta") and self.has(kind, key, branch=b)
        )

    def once(
        self,
        kind: str,
        key: dict,
        make: Callable[[], Any],
        filetype: FileType = JSON,
        branch: str = "",
    ) -> Any:
        """Read the product, or make, write and return it. Raises ValueError if the file on disk is
        damaged."""
        path = self.path(kind, key, filetype.suffix, branch)
        if self.has(kind, key, filetype.suffix, branch):
            return self.read(path, filetype)
        with _locked(path):
            if self.has(
                kind, key, filetype.suffix, branch
            ):  # another process made it while this one waited
                return self.read(path, filetype)
            made_by = provenance()  # before: what fails here must not cost what was made
            start = time.time()
            product = make()
            write_atomically(path, lambda p: filetype.save(product, p))
            meta = {
                "kind": kind,
                "key": key,
                "branch": branch,
                "sha256": file_hash(path),
                "made": round(start),
                "seconds": round(time.time() - start, 3),
                **made_by,
                **self.made_with,
            }
            write_atomically(_meta(path), lambda p: JSON.save(meta, p))
        return product

    def read(self, path: Path, filetype: FileType = JSON) -> Any:
        """The product in `path` after comparing its checksum; ValueError says which file is
        damaged."""
        if file_hash(path) != _read_meta(_meta(path))["sha256"]:
            raise ValueError(
                f"{path} is damaged (its checksum is not the one recorded when it was made): "
                "delete it, "
                "and the next run makes it again"
            )
        return filetype.load(path)

    def metas(self, kind: str) -> Iterator[tuple[Path, dict]]:
        """(path of the product, its meta data) for every finished product of a kind, in order of
        name."""
        for meta in sorted((self.root / kind).glob("*.meta.json")):
            content = _read_meta(meta)
            stem = meta.name.removesuffix(".meta.json")
            if files := [
                p
                for p in meta.parent.glob(f"{stem}.*")
                if p.name[len(stem) :] in (".json", ".pt", ".npz")
            ]:
                yield files[0], content


def _meta(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(path.suffix) + ".meta.json")


def _read_meta(path: Path) -> dict:
    """A meta file, if it is what `once` wrote: its place and name follow from what it says."""
    try:
        meta = json.loads(path.read_text())
        says = product_name(meta).removesuffix(".json"), meta["kind"]
        wrong = says != (path.name.removesuffix(".meta.json"), path.parent.name)
        why = "its name does not follow from its key" if wrong else ""
        meta["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        why = f"not what was written: {type(error).__name__} {error}"
    if why:
        raise ValueError(
            f"{path} is damaged ({why}): delete it, and the next run makes its product again"
        )
    return meta


def adopt(path: Path, content: bytes, meta: dict) -> None:
    """Put a product that another machine made, by the code of this one, into its place here. One
    that is there stays."""
    if hashlib.sha256(content).hexdigest() != meta["sha256"]:
        raise ValueError(f"{path} came back damaged from the machine that made it: run it again")
    code = {name: provenance()[name] for name in ("commit", "dirty")}
    with _locked(path):
        if not _meta(path).exists():
            write_atomically(path, lambda p: p.write_bytes(content))
            write_atomically(_meta(path), lambda p: JSON.save({**meta, **code}, p))


def product_name(meta: dict) -> str:
    """The file name of the JSON product that a meta file is about. A branch is a lineage or
    "scratch", so one word: else ValueError."""
    if not re.fullmatch(r"\w*", meta["branch"]):
        raise ValueError(f"branch {meta['branch']!r} is no lineage")
    return f"{digest(meta['key'])}{'.' + meta['branch'] if meta['branch'] else ''}.json"


@contextmanager
def _locked(path: Path):
    """Hold `.<name>.lock`; the system releases it when the process ends, however it ends. The empty
    file stays: were it removed, one process could wait on the old file while another locks a new
    one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f".{path.name}.lock"), "w") as file:
        if not _taken(file, fcntl.LOCK_EX):
            print(f"waiting for another process to finish {path}", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read_table(path: Path) -> pd.DataFrame:
    """A table as it was written: an empty field is missing, and nothing else is (a class may be
    called None); an empty file is an empty table (an arm that records nothing). Of a table of many
    rows a run the run's `parts` are columns too."""
    if path.stat().st_size <= 1:
        return pd.DataFrame()
    try:
        return with_parts(pd.read_csv(path, keep_default_na=False, na_values=[""]))
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}): delete it, and make reproduce makes it again"
        ) from None


def with_parts(table: pd.DataFrame) -> pd.DataFrame:
    """With the columns arm, seed and lineage beside `run`, which is `<arm>/<seed>/<lineage>`: in
    the files they would be written twice, in every row."""
    if "run" not in table or "arm" in table:
        return table
    parts = table["run"].str.rsplit("/", n=2, expand=True)
    arm, seed, lineage = (parts[i] for i in range(3))
    return table.assign(arm=arm, seed=seed.astype(int), lineage=lineage)


def as_written(table: pd.DataFrame) -> str:
    """A table as CSV: what `read_table` reads, without the parts of `run`."""
    parts = [c for c in ("arm", "seed", "lineage") if "run" in table and c in table]
    return table.drop(columns=parts).to_csv(index=False, lineterminator="\n")


def rows(profile: str, table: str = "runs") -> pd.DataFrame:
    """A table of a profile's results (`runs`, `accuracy`, `claims`, ...): a run here, else the
    published record."""
    places = [
        results_dir(profile) / "tables" / f"{table}.csv",
        ROOT / "results/published" / profile / "tables" / f"{table}.csv",
    ]
    for place in places:
        if place.exists():
            return read_table(place)
    raise FileNotFoundError(
        f"no table {table!r} of profile {profile!r}: expected {places[0]} (make reproduce "
        f"PROFILE={profile}) or {places[1]}"
    )
