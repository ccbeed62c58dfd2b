"""Finished products by key: made once, written atomically, checked when read.

    store = Store(results_dir("compact") / "runs")
    rows = store.once("run", key, make)                  # makes them, or reads what was made before
    store.once("task1", key, make, FileType(".pt", torch_save, torch_load))

A product `<kind>/<hash>.json` (or .pt, .npz) is what equal runs write equally, byte for byte; its
sibling `<hash>.meta.json` says when, where, how long and by which code, and is written last:
without it there is no product. A lock file makes a second process wait for the first instead of
making the same thing again. No torch here."""

import fcntl
import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` on a temporary name beside `path`, flush it to disk, rename: a reader sees all
    of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def provenance() -> dict[str, Any]:
    """Commit, whether lib, notebooks or profiles differ from it, versions, host and processor of
    this process."""

    def git(*args):
        done = subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            pass
    changed = git("status", "--porcelain", "--", "lib", "notebooks", "profiles")
    return {
        "commit": git("rev-parse", "HEAD") or "unknown",
        "dirty": changed is None or bool(changed),
        "python": platform.python_version(),
        "versions": versions,
        "machine": platform.machine(),
        "processor": processor(),
        "cores": os.cpu_count(),
    }


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
                **provenance(),
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
    try:
        return json.loads(path.read_text())
    except ValueError:
        raise ValueError(
            f"{path} is damaged (not JSON): delete it, and the next run makes its product again"
        ) from None


@contextmanager
def _locked(path: Path):
    """Hold `.<name>.lock`; the system releases it when the process ends, however it ends. The empty
    file stays: were it removed, one process could wait on the old file while another locks a new
    one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f".{path.name}.lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def rows(profile: str, table: str = "runs") -> pd.DataFrame:
    """A table of a profile's results (`runs`, `accuracy`, `claims`, ...): a run here, else the
    published record."""
    places = [
        results_dir(profile) / "tables" / f"{table}.csv",
        ROOT / "results/published" / profile / "tables" / f"{table}.csv",
    ]
    for place in places:
        if place.exists():
            return pd.read_csv(place)
    raise FileNotFoundError(
        f"no table {table!r} of profile {profile!r}: expected {places[0]} (make reproduce "
        f"PROFILE={profile}) or {places[1]}"
    )
