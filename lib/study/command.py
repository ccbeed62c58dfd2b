"""A command that ends in one sentence and an exit code, whatever happens inside.

    def main(arguments=None):                     # exit code 0, 1 after an error, 130 after Ctrl-C
        return in_one_sentence(lambda: work(arguments))

Imports the standard library alone, and a main module imports what it needs inside its work: so a
Python without the packages, and Ctrl-C while they are imported, end in a sentence too."""

from __future__ import annotations  # so that a Python too old gets as far as to say so

import argparse
import errno
import gc
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

OLDEST = (3, 11)
KEPT = "what was finished is kept, the same command goes on from there"
INTERRUPTED = f"interrupted; {KEPT}"
ELSEWHERE = "name another folder by RESULTS=FOLDER"
ADVICE = {  # what the system says -> what to do
    errno.ENOSPC: f"free some space, or {ELSEWHERE}; {KEPT}",
    errno.EDQUOT: f"free some space, or {ELSEWHERE}; {KEPT}",
    errno.EROFS: f"expected a place that can be written to; {ELSEWHERE}",
    errno.EACCES: f"expected the right to read and write there; give it, or {ELSEWHERE}",
    errno.EPERM: f"expected the right to change it; give it (chmod, chattr), or {ELSEWHERE}",
    errno.ENOTDIR: f"expected a folder where a file stands; move that file, or {ELSEWHERE}",
    errno.EEXIST: f"expected a folder where a file stands; move that file, or {ELSEWHERE}",
    errno.EISDIR: "expected a file where a folder stands; move that folder",
    errno.ENAMETOOLONG: "expected a shorter path; give the profile or the folder a shorter name",
    **dict.fromkeys(
        (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP),
        f"expected a file system with file locks (flock), as most have; {ELSEWHERE}",
    ),
    errno.ENOMEM: f"run with fewer workers (WORKERS=1); {KEPT}",
    errno.EMFILE: "expected more open files to be allowed; raise the limit (ulimit -n 4096)",
}
SPOKEN = (ValueError, RuntimeError, OSError, FloatingPointError)  # these carry their own sentence


class Parser(argparse.ArgumentParser):
    """A command line whose complaint is a sentence as any other."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; {self.prog} --help shows what is expected")


def one_line(text: object) -> str:
    """Text without line breaks."""
    return " ".join(str(text).split())


def leave(code: int) -> NoReturn:
    """End the process, without collecting first what is left: of torch it takes a second, of
    executed notebooks half a minute."""
    gc.freeze()
    sys.exit(code)


def in_one_sentence(work: Callable[[], int | None]) -> int:
    """Call work(); its exit code, or 1 after one sentence on standard error about the exception it
    ended in, or 130 after Ctrl-C. `TRACEBACK=1` shows the traceback as well."""
    interrupted: list[int] = []

    def note(number, frame):  # libraries swallow or rename a KeyboardInterrupt; this is kept
        interrupted.append(number)
        raise KeyboardInterrupt

    mine = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, note) if mine else None
    try:
        if sys.version_info < OLDEST:
            raise RuntimeError(
                f"Python {sys.version.split()[0]} ({sys.executable}) is too old: expected "
                f"{'.'.join(map(str, OLDEST))} or newer; name one by PYTHON="
            )
        code = work() or 0
        sys.stdout.flush()  # a full disk or a closed pipe is told here, not at the very end
        return code
    except SystemExit:
        raise
    except BaseException as error:
        if os.environ.get("TRACEBACK"):
            traceback.print_exc()
        if interrupted or isinstance(error, KeyboardInterrupt):
            interrupted.append(signal.SIGINT)
            # one that passed through a library's exec() has left Python a note to die of the
            # signal, with no exit code; the next exec() takes it back
            exec("")
            print(f"\n{INTERRUPTED}", file=sys.stderr)
            return 130
        if isinstance(error, BrokenPipeError):  # `... | head`: nobody listens any more
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        print(f"error: {explain(error)}", file=sys.stderr)
        return 1
    finally:
        if mine:  # once interrupted, the way out is not interrupted again
            signal.signal(
                signal.SIGINT, signal.SIG_IGN if interrupted else before or signal.SIG_DFL
            )


def explain(error: BaseException) -> str:
    """One sentence about an exception: its own, or what was given, expected and to be done."""
    if isinstance(error, ImportError) and not isinstance(error, SPOKEN):
        return (
            f"{sys.executable} cannot import {error.name or 'a package'} ({one_line(error)}): "
            "expected the packages of requirements.txt; run make setup, or name a Python that has "
            "them by PYTHON="
        )
    if isinstance(error, MemoryError):
        return (
            f"out of memory ({one_line(error) or 'no more is given'}): run with fewer workers "
            f"(WORKERS=1), or with less data; {KEPT}"
        )
    if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError):
        return _of_the_system(error)
    if isinstance(error, SPOKEN) and str(error):
        return one_line(error)
    return (
        f"{type(error).__name__}: {one_line(error) or 'without a word'} (at {_where(error)}): "
        "expected never to be seen, so this is a defect or something very unusual was given; "
        f"TRACEBACK=1 shows where it comes from; {KEPT}"
    )


def _of_the_system(error: OSError) -> str:
    """An error of the operating system: which file, what it says, what to do. One that a room has
    spelled out already (no file name, a sentence in place of the system's words) stays."""
    says = one_line(error.strerror or error)
    if error.filename is None and says != os.strerror(error.errno):
        return says
    place = f"{error.filename}: " if error.filename is not None else ""
    advice = ADVICE.get(error.errno, "look at the file and at the folder it is in")
    return f"{place}{says}: {advice}"


def advice_in(text: str) -> str:
    """What to do about an error of the system that is told of in a text ("[Errno 28] ..."), or
    nothing."""
    hit = re.search(r"\[Errno (\d+)\]", text)
    advice = ADVICE.get(int(hit[1])) if hit else None
    return f": {advice}" if advice and advice not in text else ""


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else "start"
