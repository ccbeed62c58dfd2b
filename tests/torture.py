"""Is anything lost, is anything unclear? Kills at random moments, two at once, a full disk, damaged
products, interruptions and the table of bad inputs, all on tiny images.

    python -m tests.torture                              # make torture: about fifteen minutes
    python -m tests.torture --only kills --kills 2       # a part of it, in seconds

Runs are forks of this process, which has imported all it needs: so a kill hits the work and not an
import. The last two parts start the commands as a user does. Ends with a table (case, expected,
seen, ok); exit code 1 if anything is not ok."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from lib.reproduce.__main__ import main as reproduce
from lib.study import jobs
from lib.study.command import INTERRUPTED, Parser, in_one_sentence
from lib.study.inputs import check
from lib.study.profile import ROOT, load
from lib.study.store import LEFT_OVER, LONG_AGO, file_hash, sweep, write_atomically
from lib.study.tables import collect
from tests.cases import CASES, prepare, wrong
from tests.conftest import coarse_patterns

PROFILE = """\
extends: smoke
seeds: 1-2
data: {{source: {images}, classes: [[0, 1], [2, 3]]}}
network: {{depth: 11}}
recipe: {{epochs: 1, batch_size: 20}}
explain: {{map_images: 2, steps: 1}}
arms:
  - {{name: fine-tune}}
  - {{name: MSE 50 %, method: freeze, options: {{ranking: mse, fraction: 0.5}}}}
  - {{name: random 50 %, method: freeze, options: {{ranking: random, fraction: 0.5}}}}
"""
LONGEST = 900  # seconds until a run that does not end is one that hangs


class Line(NamedTuple):
    """One line of the table."""

    case: str
    expected: str
    seen: str

    @property
    def ok(self) -> bool:
        return self.expected == self.seen


class Bench:
    """A tiny profile in a folder of its own, what an undisturbed run of it leaves, and its time."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.random = folder, random.Random(seed)
        np.savez(folder / "tiny.npz", **coarse_patterns())
        self.profile = folder / "torture.yaml"
        self.profile.write_text(PROFILE.format(images=folder / "tiny.npz"))

    def undisturbed(self) -> None:
        start, self.whole = time.time(), self.new("whole")
        code, said = ended(self.start(self.whole))
        if code:
            raise RuntimeError(f"the undisturbed run failed: {said}")
        self.seconds = time.time() - start

    def new(self, name: str) -> Path:
        """An empty folder of results."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))

    def start(self, results: Path) -> tuple[int, Path]:
        """A run of the profile under way: (process, where its words go)."""
        return forked(lambda: _run(str(self.profile)), self.folder, {"RESULTS": str(results)})

    def outcome(self, results: Path) -> str:
        """ "the same" if a run to the end leaves what an undisturbed one does; else what not."""
        code, said = ended(self.start(results))
        return compared(results, self.whole) if code == 0 else f"exit {code}: {said}"


def _run(name: str) -> None:
    """What `python -m lib.study` does, in one process; and the table of runs."""
    profile = load(name)
    check(profile)
    sweep(jobs.results_dir(profile.name))
    jobs.engine.side_by_side = lambda todo, do, *_: [do(job) for job in todo]
    jobs.complete(profile)
    table = pd.DataFrame(collect(profile)["runs"]).to_csv(index=False)
    path = jobs.results_dir(profile.name) / "tables/runs.csv"
    write_atomically(path, lambda p: p.write_text(table))


def forked(work: Callable[[], int | None], folder: Path, environment: dict) -> tuple[int, Path]:
    """work() under `in_one_sentence` in a fork of this process; its words go to a file."""
    handle, place = tempfile.mkstemp(prefix="said-", dir=folder)
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(handle, 2)
        sys.stdout, sys.stderr = open(1, "w"), open(2, "w", buffering=1)
        os.environ |= environment
        code = 1
        try:
            code = in_one_sentence(work)
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(handle)
    return pid, Path(place)


def ended(run: tuple[int, Path]) -> tuple[int, str]:
    """(exit code, or minus the signal; what it said) when a fork has ended."""
    pid, place = run
    end = time.time() + LONGEST
    while (got := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        if time.time() > end:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(got[1]), place.read_text()


def made(results: Path) -> dict[str, str]:
    """Products, tables, figures and what killed runs left: path -> hash of the bytes. What says
    when and where (meta files, manifests, executed notebooks, timings) stays out."""
    return {
        path.relative_to(results).as_posix(): file_hash(path)
        for path in sorted(results.rglob("*"))
        if path.is_file()
        and (path.suffix in (".json", ".pt", ".npz", ".csv", ".png", ".svg", ".tmp"))
        and not path.name.endswith("meta.json")
        and path.name not in ("manifest.json", "timing.csv", "ranking_costs.csv")
    }


def compared(results: Path, whole: Path) -> str:
    """ "the same", or the files that are not."""
    seen, expected = made(results), made(whole)
    apart = sorted(p for p in {*seen, *expected} if seen.get(p) != expected.get(p))
    return f"{len(apart)} files differ: {', '.join(apart[:3])}" if apart else "the same"


def unsound(results: Path) -> list[str]:
    """Products that count as finished and are not whole."""
    found = []
    for meta in results.rglob("*.meta.json"):
        stem, sha = meta.name.removesuffix("meta.json"), json.loads(meta.read_text())["sha256"]
        files = [p for p in meta.parent.glob(f"{stem}*") if p != meta and p.suffix != ".lock"]
        found += [] if [file_hash(p) for p in files] == [sha] else [meta.name]
    return found


def _age(results: Path) -> None:
    """What a kill left is swept only when it is old: make it so."""
    for path in [p for p in results.rglob(".*.tmp") if LEFT_OVER.fullmatch(p.name)]:
        os.utime(path, (time.time() - 2 * LONG_AGO,) * 2)


# --- the parts ------------------------------------------------------------------------------------


def kills(bench: Bench, number: int) -> Iterator[Line]:
    """SIGKILL at a random moment of a run, again and again until one gets through; each leaves
    nothing that is not whole, and the last one what an undisturbed run leaves."""
    done = 0
    while done < number:
        results, here = bench.new("kills"), 0
        while done < number and here < 4:
            run, moment = bench.start(results), bench.random.uniform(0, 0.6) * bench.seconds
            time.sleep(moment)
            os.kill(run[0], signal.SIGKILL)
            code, _ = ended(run)
            _age(results)
            if code != -signal.SIGKILL:
                break
            done, here = done + 1, here + 1
            seen = ", ".join(unsound(results)) or "all finished products whole"
            yield Line(f"kill {done} after {moment:.1f} s", "all finished products whole", seen)
        yield Line(f"resumed after {here} kills", "the same", bench.outcome(results))


def two_at_once(bench: Bench) -> Iterator[Line]:
    """Two runs of the same profile in the same folder."""
    results = bench.new("two")
    codes = [ended(run)[0] for run in [bench.start(results), bench.start(results)]]
    yield Line("two runs at once, exit codes", "[0, 0]", str(codes))
    yield Line("two runs at once", "the same", compared(results, bench.whole))


@contextmanager
def small_disk(place: Path) -> Iterator[Callable[[str], bool]]:
    """A disk of its own at a place: called with a size, it has that size; False where mounting is
    not allowed."""
    options = ["mount", "-t", "tmpfs", "tmpfs", str(place), "-o"]

    def sized(size: str) -> bool:
        again = "remount," if place.is_mount() else ""
        if os.geteuid() or not shutil.which("mount"):
            return False
        done = subprocess.run([*options, f"{again}size={size}"], capture_output=True)
        return done.returncode == 0

    try:
        yield sized
    finally:
        if place.is_mount():
            subprocess.run(["umount", str(place)], check=True)


def full_disk(bench: Bench) -> Iterator[Line]:
    """Disks of several sizes fill; with room made, the same command goes on."""
    for size in ("8k", "300k", "1m", "2m"):
        place = bench.new("disk")
        with small_disk(place) as sized:
            if not sized(size):
                yield Line(
                    f"a disk of {size}", "skipped: no right to mount", "skipped: no right to mount"
                )
                continue
            code, said = ended(bench.start(place))
            told = all(w in said for w in (str(place), "No space left", "free some space"))
            seen = f"exit {code}, {'named, with advice' if told else said.strip()}"
            yield Line(f"a disk of {size}", "exit 1, named, with advice", seen)
            yield Line("what is on it", "whole", ", ".join(unsound(place)) or "whole")
            sized("200m")
            yield Line("resumed with room", "the same", bench.outcome(place))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:20]),
    "one byte changed": lambda path: path.write_bytes(path.read_bytes()[:-9] + b"?" * 9),
    "empty": lambda path: path.write_bytes(b""),
}


def damaged(bench: Bench) -> Iterator[Line]:
    """A damaged product that is read again is named; deleted, as the sentence says, it is made
    anew."""
    for kind, suffix, also in (
        ("run", ".json", ""),
        ("run", ".meta.json", ""),
        ("task1", ".pt", "run"),  # also: rows that are taken away, so that it is read again
        ("maps", ".npz", "run"),
        ("filters", ".npz", "run"),
    ):
        results, (how, harm) = bench.new("damaged"), bench.random.choice([*DAMAGES.items()])
        shutil.copytree(bench.whole, results, dirs_exist_ok=True)
        for path in results.glob(f"torture/runs/{also}/*") if also else ():
            path.unlink()
        found = sorted(results.glob(f"torture/runs/{kind}/*{suffix}"))
        path = bench.random.choice([p for p in found if "meta" in suffix or "meta" not in p.name])
        harm(path)
        code, said = ended(bench.start(results))
        told = path.name in said and "damaged" in said and "delete it" in said
        seen = f"exit {code}, {'named, with advice' if told else said.strip()}"
        yield Line(f"{kind}{suffix} {how}", "exit 1, named, with advice", seen)
        path.unlink()
        yield Line("deleted, run again", "the same", bench.outcome(results))


def inputs(bench: Bench) -> Iterator[Line]:
    """The table of bad inputs."""
    for case in CASES:
        folder = bench.new("case")
        arguments, environment = prepare(case, folder)
        code, said = ended(forked(lambda a=arguments: reproduce(a), bench.folder, environment))
        seen = "; ".join(wrong(case, folder, code, said)) or "its sentence"
        yield Line(case["case"], "its sentence", seen)


# --- as a user starts them ------------------------------------------------------------------------


def command(bench: Bench, results: Path, *words: str) -> subprocess.Popen:
    """`python -m ...` in a group of its own, which a terminal's Ctrl-C and a kill reach."""
    return subprocess.Popen(
        [sys.executable, "-m", *words, "--profile", str(bench.profile)],
        cwd=ROOT,
        env={**os.environ, "RESULTS": str(results)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def interruptions(bench: Bench, number: int) -> Iterator[Line]:
    """Ctrl-C at a random line of `python -m lib.study` and its workers."""
    results = bench.new("interrupted")
    for turn in range(number):
        process, lines = command(bench, results, "lib.study"), bench.random.randint(1, 8)
        for _ in range(lines):
            process.stdout.readline()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=LONGEST)
        seen = f"exit {process.returncode}, {said.strip()}"
        yield Line(f"Ctrl-C {turn + 1} at line {lines}", f"exit 130, {INTERRUPTED}", seen)
    yield Line("resumed after them", "the same", bench.outcome(results))


def notebooks(bench: Bench, number: int) -> Iterator[Line]:
    """Kills in `make reproduce`, the whole group at a random moment; then two at once to the end;
    beside one that was left alone."""
    results, alone, start = bench.new("notebooks"), bench.new("alone"), time.time()
    process = command(bench, alone, "lib.reproduce", "run")
    _, said = process.communicate(timeout=2 * LONGEST)
    yield Line("make reproduce, left alone", "exit 0, ", f"exit {process.returncode}, {said}")
    longest = time.time() - start
    for turn in range(number):
        process = command(bench, results, "lib.reproduce", "run")
        try:
            process.communicate(timeout=bench.random.uniform(0.1, 0.8) * longest)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        _age(results)
        seen = ", ".join(unsound(results)) or "all finished products whole"
        yield Line(f"make reproduce, kill {turn + 1}", "all finished products whole", seen)
    both = [command(bench, results, "lib.reproduce", "run") for _ in range(2)]
    codes = []
    for process in both:
        process.communicate(timeout=2 * LONGEST)
        codes.append(process.returncode)
    yield Line("two at once, exit codes", "[0, 0]", str(codes))
    yield Line("make reproduce, resumed", "the same", compared(results, alone))


PARTS = {
    "kills": lambda bench, given: kills(bench, given.kills),
    "two": lambda bench, given: two_at_once(bench),
    "disk": lambda bench, given: full_disk(bench),
    "damaged": lambda bench, given: damaged(bench),
    "inputs": lambda bench, given: inputs(bench),
    "interruptions": lambda bench, given: interruptions(bench, 3),
    "notebooks": lambda bench, given: notebooks(bench, 2),
}


def main() -> int:
    """Run the parts asked for, print the table; 0 if every line is ok."""
    parser = Parser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1, help="of the random moments")
    parser.add_argument("--only", help=f"some of {', '.join(PARTS)}, by commas")
    given = parser.parse_args()
    parts = given.only.split(",") if given.only else [*PARTS]
    if strange := [name for name in parts if name not in PARTS]:
        raise ValueError(f"--only {strange[0]}: expected some of {', '.join(PARTS)}, by commas")
    torch.set_num_threads(1)  # a fork inherits no other threads
    lines = []
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        bench = Bench(Path(folder), given.seed)
        bench.undisturbed()
        for name in parts:
            for line in PARTS[name](bench, given):
                lines.append(line)
                print(f"{name}: {line.case}: {line.seen}", file=sys.stderr, flush=True)
    table = pd.DataFrame([(*line, "yes" if line.ok else "NO") for line in lines])
    table.columns = [*Line._fields, "ok"]
    print(table.to_string(index=False, justify="left", max_colwidth=90))
    print(f"{sum(line.ok for line in lines)} of {len(lines)} ok")
    return int(not all(line.ok for line in lines))


if __name__ == "__main__":
    sys.exit(in_one_sentence(main))
