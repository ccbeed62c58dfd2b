"""What is seen of jobs at work: plain lines, or for a person at a notebook bars with the time left.

    with watching(len(todo), "run"):
        show("seed 1  MSE 50 %  epoch 3/10  task1 0.512  task2 0.387  27 s")

A notebook that nobody looks at keeps the last line alone, which says what was done: the others are
in the log, and whoever executes it shows them (`lib.reproduce.notebooks`)."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lib.study.live import in_notebook, live

EPOCH = re.compile(r"(?P<arm>.+?)  epoch (?P<at>\d+)/(?P<of>\d+)  (?P<rest>.*)")
DONE = re.compile(r"done (?P<at>\d+)/(?P<of>\d+)  .*")


class Bars:
    """A bar for all jobs, and one for each arm that is being trained; other lines are not shown."""

    def __init__(self, total: int, what: str):
        from tqdm.auto import tqdm

        self._bar = tqdm
        self.jobs, self.arms = tqdm(total=total, desc=what, unit="job"), {}

    def __call__(self, line: str) -> None:
        if done := DONE.fullmatch(line):
            self.jobs.update(int(done["at"]) - self.jobs.n)
        elif hit := EPOCH.fullmatch(line):
            self._epoch(hit["arm"], int(hit["at"]), int(hit["of"]), hit["rest"])

    def _epoch(self, arm: str, at: int, of: int, rest: str) -> None:
        if arm not in self.arms:
            self.arms[arm] = self._bar(total=of, desc=arm, unit="epoch", leave=False)
        self.arms[arm].set_postfix_str(rest, refresh=False)
        self.arms[arm].update(at - self.arms[arm].n)
        if at == of:
            self.arms.pop(arm).close()

    def close(self) -> None:
        """All bars stand still; those of arms go."""
        for bar in (*self.arms.values(), self.jobs):
            bar.close()


def _print(line: str) -> None:
    print(line, flush=True)


_shown: Callable[[str], None] = _print


def show(line: str) -> None:
    """A line from jobs at work, as whoever looks on sees it."""
    _shown(line)


@contextmanager
def watching(total: int, what: str) -> Iterator[None]:
    """Lines given to `show` inside are about so many jobs; at the end one line sums them up."""
    global _shown
    start, bars = time.time(), Bars(total, what) if live() else None
    _shown = bars or ((lambda line: None) if in_notebook() else _print)
    try:
        yield
    finally:
        _shown = _print
        if bars:
            bars.close()
    print(f"{what}: {total} done in {duration(time.time() - start)}", flush=True)


def duration(seconds: float) -> str:
    """Seconds, or from 90 on minutes."""
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
