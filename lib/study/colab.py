"""What Google Colab lacks: packages the notebooks import, and a word on what its machine can do.

    ready()        # in a notebook's first cell, on Colab only

Imports the standard library alone: it runs before anything else is there."""

import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# of requirements.txt, what no notebook imports, and what must stay as Colab has it
LEFT_OUT = ("torch", "torchvision", "jupyterlab", "ipykernel", "nbconvert", "nbformat")
FOR_TESTS = ("torchmetrics", "zennit", "pytest", "pytest-xdist", "ruff")


def missing() -> list[str]:
    """Lines of requirements.txt whose package is not there in any version."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pinned = [line for line in lines if re.match(r"[\w-]+==", line)]
    return [x for x in pinned if x.split("==")[0] not in LEFT_OUT + FOR_TESTS and not _there(x)]


def _there(line: str) -> bool:
    try:
        return bool(version(line.split("==")[0]))
    except PackageNotFoundError:
        return False


def ready() -> None:
    """Install what is missing and nothing else; say whether there is a GPU, and how long the quick
    profile takes without."""
    if wanted := missing():
        print(f"installing {', '.join(wanted)}", flush=True)
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", *wanted], check=True)
    if gpu():
        print("a GPU is there")
    else:
        print(
            "no GPU here (Runtime, Change runtime type): all notebooks of the quick profile took "
            f"{_minutes():.0f} minutes on a processor with two cores, other profiles take longer"
        )


def gpu() -> bool:
    """True if the driver names one; without torch, whose import takes its time."""
    tool = shutil.which("nvidia-smi")
    return bool(tool) and subprocess.run([tool, "-L"], capture_output=True).returncode == 0


def _minutes() -> float:
    """Of the published run of the quick profile."""
    manifests = (ROOT / "results/published/quick").glob("*/manifest.json")
    return sum(json.loads(path.read_text())["seconds"] for path in manifests) / 60
