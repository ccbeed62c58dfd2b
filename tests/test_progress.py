"""What is seen of jobs at work: lines in a terminal, bars for a person at a notebook, and in a
notebook that nobody looks at the last line alone, while whoever executes it sees them all."""

import os
import re
import time

import pytest

from lib.reproduce import notebooks
from lib.study.engine import progress
from lib.study.engine.progress import Bars, show, watching
from lib.study.profile import ROOT

LINES = (
    "seed 1  MSE 50 %  epoch 1/2  task1 0.512  task2 0.387  9 s",
    "seed 1  random 50 %  epoch 1/2  task1 0.4  task2 0.3  9 s",
    "seed 1  MSE 50 %  epoch 2/2  task1 0.444  task2 0.401  18 s",
    "done 1/2  seed 1  MSE 50 %  about 9 s left",
)


def test_a_terminal_gets_every_line_and_a_last_one(capsys):
    with watching(2, "run"):
        for line in LINES:
            show(line)
    assert capsys.readouterr().out.splitlines() == [*LINES, "run: 2 done in 0 s"]
    show("after")
    assert capsys.readouterr().out == "after\n"


def test_after_a_failure_lines_are_plain_again_and_nothing_is_summed_up(monkeypatch, capsys):
    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    with pytest.raises(RuntimeError), watching(2, "run"):
        show("unseen")
        raise RuntimeError("a job failed")
    show("seen")
    assert capsys.readouterr().out == "seen\n"


def test_a_bar_for_the_jobs_and_one_for_each_arm_that_runs():
    bars = Bars(2, "run")
    assert (bars.jobs.n, bars.jobs.total) == (0, 2)
    for line in LINES[:2]:
        bars(line)
    both = bars.arms["seed 1  MSE 50 %"], bars.arms["seed 1  random 50 %"]
    assert [(bar.n, bar.total) for bar in both] == [(1, 2), (1, 2)]
    assert "task1 0.512" in both[0].postfix
    for line in (*LINES[2:], "seed 1  overlap of rankings"):
        bars(line)
    assert list(bars.arms) == ["seed 1  random 50 %"] and bars.jobs.n == 1
    assert both[0].disable and not both[1].disable  # a closed bar is disabled
    bars.close()
    assert both[1].disable and bars.jobs.disable


@pytest.mark.parametrize("seconds, said", [(0.2, "0 s"), (89, "89 s"), (90, "2 min")])
def test_a_duration_in_words(seconds, said):
    assert progress.duration(seconds) == said


WORK = f"""
from lib.study.engine.progress import show, watching
with watching(2, "run"):
    for line in {LINES!r}:
        show(line)
"""


def test_a_kernel_shows_bars_to_a_person_and_keeps_one_line_otherwise(monkeypatch):
    import nbformat  # here, for it takes seconds to import
    from nbclient import NotebookClient

    monkeypatch.setitem(os.environ, "HEADLESS", "")
    silent = 'import os\nos.environ["HEADLESS"] = "1"' + WORK
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(c) for c in (WORK, silent)]
    )
    slow = {"timeout": 600, "startup_timeout": 300}  # on a busy machine a kernel starts slowly
    client = NotebookClient(notebook, resources={"metadata": {"path": str(ROOT)}}, **slow)
    client.execute(env={**os.environ, "PYTHONPATH": str(ROOT)})
    shown, kept = (cell["outputs"] for cell in notebook.cells)
    widgets = [o for o in shown if "application/vnd.jupyter.widget-view+json" in o.get("data", {})]
    assert len(widgets) == 3  # the jobs and two arms
    for outputs in (shown, kept):
        streams = [o for o in outputs if o["output_type"] == "stream"]
        assert [o["name"] for o in streams] == ["stdout"]  # nothing in red
        assert re.fullmatch(r"run: 2 done in \d+ (s|min)\n", "".join(o["text"] for o in streams))
    assert len(kept) == 1


def test_whoever_executes_a_notebook_sees_the_log_grow(tmp_path, capsys):
    log = tmp_path / "log.txt"
    log.write_text("2026-01-31 12:00:00 of an earlier run\n")
    with notebooks._following(log), open(log, "a") as file:
        print("2026-01-31 12:00:00 one", file=file, flush=True)
        seen, end = "", time.time() + 20
        while "one" not in seen and time.time() < end:
            time.sleep(0.05)
            seen += capsys.readouterr().out
        print("2026-01-31 12:00:01 two", file=file, flush=True)
        file.write("2026-01-31 12:00:02 a half")
    assert seen == "one\n" and capsys.readouterr().out == "two\n"
    with notebooks._following(tmp_path / "none.txt"):
        pass
    assert capsys.readouterr().out == ""
