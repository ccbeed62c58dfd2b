"""A notebook's first cell: on Colab (a stand-in for its module, pip and git intercepted), and where
there is no project; and the public place that cells, badges and links name."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lib.report import readme
from lib.reproduce import __main__ as reproduce
from lib.reproduce import commands
from lib.study.profile import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# what Colab's Python has before the cell runs; `run` notes what the cell asks for
COLAB = """
import importlib.metadata, json, os, subprocess, sys
sys.path.insert(0, {stub!r})
import google.colab
asked, version = [], importlib.metadata.version

def run(command, **options):
    asked.append(command)
    if command[0] == "git":
        os.symlink({root!r}, command[-1])
    return subprocess.CompletedProcess(command, 0)

def known(name):
    if name in {lacks!r}:
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)

subprocess.run, importlib.metadata.version = run, known
os.environ["PATH"] = ""  # no nvidia-smi
"""
AFTER = """
import lib
print(json.dumps([asked, lib.__path__[0]]))
"""


def first_cell(path):
    cells = json.loads(path.read_text())["cells"]
    return "".join(next(c for c in cells if c["cell_type"] == "code")["source"])


def run(script, cwd):
    command = [sys.executable, "-I", "-B", "-c", script]
    return subprocess.run(command, cwd=cwd, text=True, capture_output=True)


@pytest.mark.parametrize("lacks", [("captum", "papermill"), ()])
def test_on_colab_only_what_is_missing_is_installed(lacks, tmp_path):
    stub, project = tmp_path / "stub", tmp_path / "forgetting"
    (stub / "google/colab").mkdir(parents=True)
    (stub / "google/colab/__init__.py").touch()
    cell = first_cell(NOTEBOOKS[0])
    assert cell.count("/content/forgetting") == 1
    before = COLAB.format(stub=str(stub), root=str(ROOT), lacks=lacks)
    done = run(before + cell.replace("/content/forgetting", str(project)) + AFTER, tmp_path)
    *said, last = done.stdout.splitlines()
    asked, where = json.loads(last)
    assert where == str(project / "lib")
    clone, *pip = asked
    assert clone[:2] == ["git", "clone"] and clone[-1] == str(project)
    names = [x.split("==")[0] for command in pip for x in command[command.index("-q") + 1 :]]
    assert names == list(lacks) and len(pip) == bool(lacks)
    assert "no GPU here" in said[-1] and "minutes on a processor with two cores" in said[-1]
    assert ("installing captum==" in done.stdout) == bool(lacks)


# of what the notebooks use, what Colab's runtime brings (Python 3.12): older than requirements.txt
COLAB_HAS = """
torch==2.11.0 torchvision==0.26.0 numpy==2.0.2 pandas==2.2.2 scipy==1.16.3 scikit-learn==1.6.1
statsmodels==0.14.5 matplotlib==3.10.0 pydantic==2.12.3 pyyaml==6.0.3 tqdm==4.67.1 jinja2==3.1.6
ipywidgets==7.7.1 ipykernel==6.17.1 ipython==7.34.0 nbconvert==7.16.6 nbformat==5.10.4
""".split()
EXECUTE = """
import sys, nbclient, nbformat
for path in sys.argv[1:]:
    notebook = nbformat.read(path, 4)
    nbclient.NotebookClient(notebook, timeout=1800).execute()
    nbformat.write(notebook, path)
"""


def colab_runtime(folder):
    """The interpreter of a new environment with what Colab has; skips where there is no Python of
    its version."""
    by_pyenv = sorted(Path.home().glob(".pyenv/versions/3.12.*/bin/python"))
    if not (python := shutil.which("python3.12") or next(map(str, by_pyenv), None)):
        pytest.skip("no Python 3.12 here")
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin/python")
    subprocess.run([python, "-m", "pip", "install", "-q", *COLAB_HAS], check=True)
    return python


@pytest.mark.slow  # gigabytes of packages
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="Colab clones a repository")
def test_with_colab_s_versions_every_notebook_runs(tmp_path):
    python = os.environ.get("COLAB_PYTHON") or colab_runtime(tmp_path / "colab")  # one made before
    (tmp_path / "site/google/colab").mkdir(parents=True)
    (tmp_path / "site/google/colab/__init__.py").touch()
    (tmp_path / "site/sitecustomize.py").write_text("import google.colab\n")  # as its kernel does
    content = tmp_path / "content"
    content.mkdir()
    for path in NOTEBOOKS:
        text = path.read_text().replace("/content/forgetting", str(content / "forgetting"))
        (content / path.name).write_text(
            text.replace(r"profile = \"quick\"", r"profile = \"smoke\"")
        )
    public = re.search(r"https://github.com/[\w.-]+/[\w.-]+", first_cell(NOTEBOOKS[0]))[0]
    git = {
        "GIT_CONFIG_COUNT": "1",  # the public place is this repository
        "GIT_CONFIG_KEY_0": f"url.{ROOT.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": public,
    }
    done = subprocess.run(
        [python, "-c", EXECUTE, *sorted(p.name for p in content.glob("*.ipynb"))],
        cwd=content,
        env={**os.environ, **git, "PYTHONPATH": str(tmp_path / "site"), "HEADLESS": ""},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first = json.loads((content / "00_explore.ipynb").read_text())["cells"][1]["outputs"]
    said = "".join("".join(o.get("text", [])) for o in first)
    if "COLAB_PYTHON" not in os.environ:
        assert re.search("installing captum==[0-9.]+, papermill==[0-9.]+\n", said), said
    assert "no GPU here" in said or "a GPU is there" in said
    made = content / "forgetting/results/smoke"
    for path in NOTEBOOKS:
        assert (made / path.stem / "manifest.json").exists(), path.stem
    installed = subprocess.run([python, "-m", "pip", "freeze"], capture_output=True, text=True)
    assert set(COLAB_HAS) <= {x.lower() for x in installed.stdout.splitlines()}  # all as it was


def test_all_notebooks_start_alike():
    assert len({first_cell(path) for path in NOTEBOOKS}) == 1


def test_outside_the_project_a_notebook_says_so(tmp_path):
    done = run(first_cell(NOTEBOOKS[0]), tmp_path)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and last.startswith(f"FileNotFoundError: {tmp_path} is not in the")


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """The project's pages and notebooks, copied; commands work on the copy."""
    for name in ("pyproject.toml", "README.md", "GUIDE.md", "CITATION.cff"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    executed = tmp_path / "results/published/quick/01_train_task1/notebook.ipynb"
    executed.parent.mkdir(parents=True)
    shutil.copy(ROOT / "notebooks/01_train_task1.ipynb", executed)
    monkeypatch.setattr(commands, "ROOT", tmp_path)
    return tmp_path


def test_the_repository_is_named_everywhere_in_one_step(copy, capsys):
    before = {p: p.read_text() for p in copy.rglob("*") if p.is_file()}
    old, new = readme.repository(), "some-one/a.study"
    assert reproduce.main(["repository", "--name", new]) == 0
    places = re.compile(r"(?:github\.com|colab\.research\.google\.com/github)/([\w.-]+/[\w.-]+)")
    notebooks = [*copy.glob("notebooks/*"), *copy.glob("results/published/*/*/*.ipynb")]
    assert len(notebooks) == len([*(ROOT / "notebooks").glob("*.ipynb")]) + 1  # a published one
    for path in [*notebooks, *map(copy.joinpath, ("README.md", "CITATION.cff"))]:
        found = set(places.findall(path.read_text()))
        assert new in found and old not in found, path.name
    badges = [p.name for p in copy.glob("notebooks/*.ipynb")]
    text = (copy / "README.md").read_text()
    assert all(f"github/{new}/blob/main/notebooks/{name})" in text for name in badges)
    assert f"git clone https://github.com/{new} " in text
    assert f'repository = "{new}"' in (copy / "pyproject.toml").read_text()
    assert reproduce.main(["repository", "--name", old]) == 0  # and back, nothing else was touched
    assert {p: p.read_text() for p in before} == before


@pytest.mark.parametrize("name", ["", "owner", "a/b/c", "a b/c", "own`id`er/name"])
def test_what_is_no_repository_is_refused_and_nothing_written(name, copy, capsys):
    before = (copy / "README.md").read_text()
    assert reproduce.main(["repository", "--name", name]) == 1
    error = capsys.readouterr().err
    assert "expected OWNER/NAME" in error and error.count("\n") == 1
    assert (copy / "README.md").read_text() == before
