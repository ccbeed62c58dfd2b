"""GUIDE.md, executed: every block of code under "Your own ..." and "Freezing alone" is run as it
stands there, on a folder of four kinds of image that is made here."""

import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from lib.methods import METHODS
from lib.ranking import RANKINGS
from lib.study import engine, trial
from lib.study.__main__ import main
from lib.study.materials import layer_names, tasks
from lib.study.profile import ROOT, load
from lib.study.tables import collect

SECTION = re.compile(r"^## ([^\n]*)\n(.*?)(?=^## |\Z)", re.M | re.S)
SECTIONS = dict(SECTION.findall((ROOT / "GUIDE.md").read_text()))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to stand in, with my_images/ in it. Jobs run in this process, trials take these few
    images, and what a block enters into the registries is gone afterwards."""
    random = np.random.default_rng(0)
    for label, kind in enumerate(("ant", "bee", "cow", "dog")):
        (tmp_path / "my_images" / kind).mkdir(parents=True)
        for number in range(15):
            pixels = random.integers(0, 120, (20, 24, 3))
            pixels[..., label % 3] += 100
            path = tmp_path / "my_images" / kind / f"{number}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(engine, "side_by_side", lambda todo, do, *_: [do(job) for job in todo])
    few = lambda name, seeds, data: load(name, seeds, data or "my_images")  # noqa: E731
    monkeypatch.setattr(trial, "load", few)
    names = [(registry, set(registry)) for registry in (RANKINGS, METHODS)]
    yield tmp_path
    for registry, before in names:
        for name in set(registry) - before:
            del registry[name]


def commands(title):
    """The lines of a section's shell blocks, after its profile, if it has one, was written where
    the section says."""
    text = SECTIONS[title]
    found = BLOCK.findall(text)
    for profile in (block for language, block in found if language == "yaml"):
        with open(re.search(r"`(\w+\.yaml)`", text)[1], "w") as file:
            file.write(profile)
    return [line for language, block in found if language == "sh" for line in block.splitlines()]


def study(title):
    """Run the section's command without notebooks."""
    (line,) = (line for line in commands(title) if line.startswith("python -m lib.study "))
    assert main(shlex.split(line)[3:]) == 0


def execute(title):
    """Run the section's one block of Python."""
    ((_, code),) = (block for block in BLOCK.findall(SECTIONS[title]) if block[0] == "python")
    names = {"__name__": "guide"}
    exec(compile(code, "GUIDE.md", "exec"), names)
    return names


def test_your_own_images_simply_work(place, capsys):
    study("Your own images")
    said = capsys.readouterr().out
    assert "profile smoke_my_images: 1 seed, 7 runs" in said and '"rows": 7' in said
    assert [p.name for p in (place / "results").glob("[!.]*")] == ["smoke_my_images"]
    assert "epoch 4/4" in said


@pytest.mark.slow
def test_your_own_cut_is_the_one_that_is_used(place):
    study("Your own cut into tasks")
    profile = load("mine.yaml")
    assert [task.classes for task in tasks(profile, 1)] == [(0, 2), (1, 3)]
    rows = collect(profile)["runs"]
    assert {(row["profile"], row["data"]) for row in rows} == {("mine", "my_images")}


NUMBERS = r"( +\d\.\d+){4}$"  # before and after, both tasks


def test_your_own_ranking_stands_beside_random_freezing(place, capsys):
    execute("Your own ranking")
    said = capsys.readouterr().out
    for arm in ("fine-tune", "random 50 %", "yours"):
        assert re.search(f"^{arm}{NUMBERS}", said, re.M), said
    assert RANKINGS["largest_weight"].label == "largest weight"


def test_your_own_method_stands_beside_fine_tuning(place, capsys):
    execute("Your own method")
    said = capsys.readouterr().out
    for arm in ("fine-tune", "yours"):
        assert re.search(f"^{arm}{NUMBERS}", said, re.M), said
    assert "random" not in said and METHODS["pull"].keeps == "weights"


def test_your_own_network_is_a_resnet(place):
    commands("Your own network")  # writes the profile
    assert any(layer.startswith("layer1") for layer in layer_names(load("net.yaml")))


@pytest.mark.slow
def test_your_own_network_is_trained(place):
    study("Your own network")
    assert any(row["layer"].startswith("layer1") for row in collect(load("net.yaml"))["masks"])


def test_freezing_alone_holds_bit_for_bit(place):
    names = execute("Freezing alone")
    assert all(mask.any() and not mask.all() for mask in names["masks"].values())


def test_every_section_that_is_yours_is_run_here():
    named = {title for title in SECTIONS if title.startswith("Your own")}
    source = (ROOT / "tests/test_guide.py").read_text()
    assert named and all(f'"{title}"' in source for title in named)


@pytest.mark.slow
def test_your_own_images_through_the_notebooks(place):
    line = commands("Your own images")[0].replace("my_images", str(place / "my_images"))
    make = [*shlex.split(line), f"PYTHON={sys.executable}"]
    done = subprocess.run(make, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    report = (place / "results/quick_my_images/report/index.html").read_text()
    assert "my_images" in report
