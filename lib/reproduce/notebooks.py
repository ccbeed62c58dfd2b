"""Notebooks through papermill: those that are not current, in order, then the HTML report."""

import argparse
import json
import logging
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache, partial
from itertools import count
from pathlib import Path

from lib.report.session import (
    NOTEBOOKS,
    cells,
    code_hash,
    is_current,
    manifest_path,
    note_executed,
    read_manifest,
    source_of,
)
from lib.reproduce.record import OWN
from lib.study.command import KEPT, advice_in, one_line
from lib.study.keys import digest
from lib.study.profile import ROOT, Profile
from lib.study.store import JSON, file_hash, holding, results_dir, sweep, write_atomically

SHORT = 60  # characters: the system allows about 100 for the path of a socket
AS_ALL = [  # of a kernel: nothing kept of what was typed, and what every notebook imports; nothing
    # of lib, whose code may change before the turn of a kernel that waits
    "--HistoryManager.hist_file=:memory:",
    "--IPKernelApp.exec_lines=list(map(__import__, "
    "('matplotlib.figure', 'pandas', 'pydantic', 'scipy.special', 'torch'))) and None",
]
SOCKETS = re.compile(r"(?P<name>kernel)-(?P<pid>\d+)-\w+")


def run(profile: Profile, arguments: argparse.Namespace) -> None:
    """Run every notebook that is not current, in order; then the HTML report. A notebook that fails
    ends it. One run at a time works on a profile's results."""
    wanted = _asked_for(arguments.only)
    results, start = results_dir(profile.name), time.time()
    # papermill's tasks complain of themselves when a run is interrupted
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    if all(is_current(n, profile) for n in wanted) and report_is_current(profile):
        print(
            f"profile {profile.name}: all {len(wanted)} notebooks are current; results: {results}"
        )
        return
    with holding(results):
        sweep(results)
        stale = not all(is_current(n, profile) for n in wanted)
        with ThreadPoolExecutor(1) as beside, _kernels(stale) as kernel:
            if stale:
                from lib.study.examined import with_shown
                from lib.study.forecast import forecast
                from lib.study.inputs import check

                for notebook in wanted:
                    cells(source_of(notebook))
                check(profile)  # whatever is wrong is told of before a notebook starts
                print(forecast(with_shown(profile, profile.seed_list[0])), flush=True)
                _say_whose_seeds(profile)
            for notebook in wanted:
                # asked again: an earlier notebook's outputs may have changed
                if is_current(notebook, profile):
                    print(f"{notebook}: current")
                    continue
                _execute(notebook, profile, arguments, partial(kernel, notebook != wanted[-1]))
                beside.submit(_as_html, *_executed(results, notebook))  # kept for the report
        make_report(profile)
    print(
        f"profile {profile.name}: done in {(time.time() - start) / 60:.1f} min; results in "
        f"{results}, report/index.html first"
    )


def _asked_for(only: str | None) -> list[str]:
    """The notebooks of `--only`, in their order; all without it."""
    parts = [part.strip() for part in only.split(",")] if only else []
    numbers = [part.zfill(2) if part else "" for part in parts]
    if strange := [n for n in numbers if n not in {name[:2] for name in NOTEBOOKS}]:
        raise ValueError(
            f"--only {only}: no such notebook as {strange[0]!r}; expected numbers such as 03,04 of "
            f"{', '.join(NOTEBOOKS)}"
        )
    return [name for name in NOTEBOOKS if not only or name[:2] in numbers]


def _say_whose_seeds(profile: Profile) -> None:
    """A line if the tables on disk are about other seeds than those to come."""
    found = (read_manifest(results_dir(profile.name), n) or {} for n in NOTEBOOKS)
    before = {m["seeds"] for m in found if "seeds" in m} - {profile.seeds}
    if before:
        print(
            f"tables of what is before round 2 (task1, overlap, ...) will hold seeds "
            f"{profile.seeds}, in place of {' and '.join(sorted(before))}; runs.csv holds every "
            "seed there is",
            flush=True,
        )


def _execute(
    notebook: str, profile: Profile, arguments: argparse.Namespace, kernel: Callable
) -> None:
    """One notebook through papermill, its output streamed; success is its manifest, not papermill's
    word. kernel(): inside it, a kernel that is there already."""
    import papermill
    from nbclient.exceptions import DeadKernelError

    results = results_dir(profile.name)
    folder = results / notebook
    folder.mkdir(parents=True, exist_ok=True)
    manifest_path(results, notebook).unlink(missing_ok=True)
    print(f"{notebook}: running", flush=True)
    parameters = {
        "profile": arguments.profile,
        "seeds": arguments.seeds or "",
        "data": arguments.data or "",
    }
    for attempt in (1, 2, 3):
        try:
            log = results / "log.txt"
            with kernel() as running, _following(log):
                papermill.execute_notebook(
                    str(source_of(notebook)),
                    str(folder / "notebook.ipynb"),
                    parameters,
                    km=running,
                    kernel_name="python3",
                    start_timeout=600,  # of a cold disk, what all notebooks import
                    cwd=str(ROOT),
                    progress_bar=False,
                    log_output=False,
                    stdout_file=sys.stdout,
                    stderr_file=sys.stderr,
                    coalesce_streams=True,
                    store_widget_state=False,  # nobody can move them there
                )
            break
        except papermill.PapermillExecutionError as error:
            said = one_line(error.evalue)
            raise RuntimeError(
                f"{notebook}, cell {error.exec_count}: {error.ename}: {said}{advice_in(said)}"
            ) from None
        except DeadKernelError:
            raise RuntimeError(
                f"{notebook}: its kernel was killed (out of memory?); {KEPT}"
            ) from None
        except OSError as error:  # a full disk names no file
            raise OSError(error.errno, error.strerror, error.filename or str(folder)) from None
        except (
            RuntimeError
        ) as error:  # on a busy machine a kernel can be too slow to answer at first
            if "Kernel" not in str(error) or attempt == 3:
                raise
            time.sleep(attempt)
    if not manifest_path(results, notebook).exists():
        raise RuntimeError(
            f"{notebook} ran to its end but wrote no manifest: its last cell must be "
            "session.finish()"
        )
    note_executed(results, notebook)


@contextmanager
def _kernels(soon: bool) -> Iterator[Callable]:
    """kernel(more) gives one kernel after another, each inside a context of its own; while one runs
    the next is started, if there is to be more: what notebooks import takes it seconds. soon: the
    first is started at once."""
    from jupyter_client import AsyncKernelManager
    from jupyter_core.utils import run_sync

    class Kernel(AsyncKernelManager):
        talks = None

        def client(self, **given):
            self.talks = super().client(**given)
            return self.talks

        def end(self, now: bool) -> None:
            if self.talks is not None:
                self.talks.stop_channels()
            run_sync(self.shutdown_kernel)(now=now)

    waiting: list[Kernel] = []
    with _sockets() as talk:

        def start() -> Kernel:
            started = Kernel(kernel_name="python3", **talk())
            run_sync(started.start_kernel)(cwd=str(ROOT), extra_arguments=AS_ALL)
            return started

        @contextmanager
        def kernel(more: bool) -> Iterator[Kernel]:
            running = waiting.pop() if waiting else start()
            try:
                if more:
                    waiting.append(start())
                yield running
            except BaseException:
                running.end(now=False)  # so that its workers end first
                raise
            running.end(now=True)  # its notebook has finished: all is on disk

        try:
            if soon:
                waiting.append(start())
            yield kernel
        finally:
            for started in waiting:
                started.end(now=True)


@contextmanager
def _sockets() -> Iterator[Callable[[], dict[str, str]]]:
    """How to talk with a kernel, told to each: through files, not ports, so that there is nothing
    to collide and nothing for others to listen to; through ports where no folder has a path short
    enough."""
    places = [tempfile.gettempdir(), "/tmp", "/var/tmp"]
    place = next((p for p in places if len(p) <= SHORT and os.access(p, os.W_OK)), None)
    if place is None:
        yield dict
        return
    sweep(Path(place), SOCKETS, deep=False)
    prefix = f"kernel-{os.getpid()}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=place) as sockets:
        numbers = count()
        yield lambda: {"transport": "ipc", "ip": f"{sockets}/{next(numbers)}"}


@contextmanager
def _following(log: Path) -> Iterator[None]:
    """What is written to the log inside is printed too, without its times: a notebook that nobody
    looks at keeps no line of its jobs."""
    place, over = log.stat().st_size if log.exists() else 0, threading.Event()

    def pass_on() -> None:
        nonlocal place
        with suppress(FileNotFoundError), open(log, "rb") as file:
            file.seek(place)
            new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            place += len(whole)
            for line in whole.decode(errors="replace").splitlines():
                print(line[len("2026-01-31 12:00:00 ") :], flush=True)

    def follow() -> None:
        while not over.wait(0.5):
            pass_on()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        pass_on()


# --- the report -----------------------------------------------------------------------------------


def make_report(profile: Profile) -> None:
    """The report, and last, by rename, its manifest: what it was made from, and hashes of it."""
    folder = results_dir(profile.name) / "report"
    manifest = folder / "manifest.json"
    manifest.unlink(missing_ok=True)
    _report(profile)
    made = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    outputs = {p.relative_to(folder).as_posix(): file_hash(p) for p in made}
    stamp = {"inputs": _report_inputs(profile), "outputs": outputs}
    write_atomically(manifest, lambda p: JSON.save(stamp, p))


def report_is_current(profile: Profile) -> bool:
    """True if the report was made from today's notebooks, tables and figures, and is all there."""
    folder = results_dir(profile.name) / "report"
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        return manifest["inputs"] == _report_inputs(profile) and all(
            file_hash(folder / name) == value for name, value in manifest["outputs"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _report_inputs(profile: Profile) -> str:
    results = results_dir(profile.name)
    shown = [*results.glob("tables/*.csv"), *results.glob("figures/*")]
    templates = [p.read_text() for p in sorted((ROOT / "lib/report/templates").iterdir())]
    stamps = [manifest_path(results, n) for n in NOTEBOOKS]  # what these say covers their outputs
    stamps += [results / "tables" / f"{name}.csv" for name in OWN]
    hashes = [file_hash(p) if p.exists() else None for p in stamps]
    names = sorted(p.name for p in shown)
    return digest([code_hash(), templates, profile.model_dump(), names, hashes])


def _report(profile: Profile) -> None:
    """The page over tables and figures, and the executed notebooks as HTML beside it, in
    `report/`."""
    from lib.report import figures
    from lib.report.page import name_of, page, pictures

    results = results_dir(profile.name)
    executed = {notebook: _executed(results, notebook) for notebook in NOTEBOOKS}
    pages = {f"{n}.html": _as_html(*found) for n, found in executed.items() if found[1]}
    beside = {name.removesuffix(".html"): name for name in pages}
    figures.use_style()
    fresh = all(is_current(notebook, profile) for notebook in NOTEBOOKS)
    drawn = pictures(results, name_of(profile), again=not fresh)
    pages["index.html"] = page(results, name_of(profile), profile.about, beside, drawn)
    for name, text in pages.items():
        write_atomically(results / "report" / name, lambda p, text=text: p.write_text(text))


def _executed(results: Path, notebook: str) -> tuple[Path, str]:
    """Where a notebook's executed copy lies, and its hash, empty if it is not there."""
    path = results / notebook / "notebook.ipynb"
    return path, file_hash(path) if path.exists() else ""


@cache  # made while the next notebook runs
def _as_html(path: Path, content: str) -> str:
    """An executed notebook as a page; content: its hash."""
    from nbconvert import HTMLExporter

    return HTMLExporter(exclude_input_prompt=True).from_filename(str(path))[0]
