"""Shared by the tests: a tiny data set a narrow network learns in seconds, and the real one where
it is at hand."""

import gc
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.data import load, split_tasks
from lib.study.arms import check
from lib.study.profile import ROOT
from lib.study.profile import load as load_profile
from lib.study.store import file_hash

# of the script that unpacks CIFAR-100: one that is only found, not named, must be this one to run
KNOWN_SCRIPT = "aa65f878f465ed70b88d356689ad51f51dfc28f7dd0a3caf4675a05ea6c45aa7"

# tiny tensors: more threads only cost, and the thread count changes the last bits; the variable is
# for what tests start, where threads of several processes would wait for each other's cores
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

# longest first, so that no worker is left alone with one of them at the end
LONGEST = [
    f"test_{name}.py"
    for name in ("reproduce", "sturdy", "page", "figures", "network", "kernels", "claims", "bench")
]


def pytest_configure(config):
    """Files are dealt to workers in the order of `pytest_collection_modifyitems`, not by how many
    tests they hold."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_finish():
    """Statsmodels collects all garbage of the process at every call: what is imported by now, which
    is most of it, need not be looked through."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items):
    """The longest files first. Tests marked slow run only with SLOW=1 (make test SLOW=1)."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))
    if os.environ.get("SLOW") in (None, "", "0"):
        skip = pytest.mark.skip(reason="slow: make test SLOW=1")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)


def coarse_patterns(classes=4, per_class=40, size=32, seed=0):
    """Each class is a coarse pattern of its own plus noise; a quarter as many images for
    testing."""
    rng = np.random.default_rng(seed)
    patterns = rng.integers(30, 226, (classes, 4, 4, 3)).repeat(size // 4, 1).repeat(size // 4, 2)
    arrays = {}
    for part, count in (("train", per_class), ("test", max(per_class // 4, 1))):
        y = np.arange(classes * count) % classes
        noise = rng.integers(-25, 26, (len(y), size, size, 3))
        arrays |= {f"x_{part}": (patterns[y] + noise).clip(0, 255).astype(np.uint8), f"y_{part}": y}
    return arrays


@pytest.fixture(scope="session")
def tiny_arrays():
    """tiny_arrays(classes=4, per_class=40, size=32, seed=0) -> {x_train (N, H, W, 3), y_train,
    x_test, y_test}."""
    return coarse_patterns


@pytest.fixture(scope="session")
def tiny_npz():
    """tiny_npz(path, classes=4, per_class=40, size=32, seed=0) writes such a data set and returns
    the path as text."""

    def write(path, **options):
        np.savez(path, **coarse_patterns(**options))
        return str(path)

    return write


@pytest.fixture(scope="session")
def tiny_images(tmp_path_factory, tiny_npz):
    """160 training and 40 test images of four classes."""
    return load(tiny_npz(tmp_path_factory.mktemp("tiny") / "tiny.npz"))


@pytest.fixture(scope="session")
def tiny_tasks(tiny_images):
    """Two tasks of two classes, shared head: 80 training and 20 test images each."""
    return split_tasks(tiny_images, [[0, 1], [2, 3]])


@pytest.fixture(scope="session")
def six_classes(tmp_path_factory, tiny_npz):
    """96 training images of six classes."""
    return load(tiny_npz(tmp_path_factory.mktemp("six") / "six.npz", classes=6, per_class=16))


@pytest.fixture(params=["shared", "per_task"])
def tasks(request, six_classes):
    """Three tasks of two classes, 32 images each; a shared head, then one for each."""
    return split_tasks(six_classes, [[0, 1], [2, 3], [4, 5]], request.param)


@pytest.fixture
def small_study(monkeypatch, tmp_path, tiny_npz):
    """small_study(*arms, tasks=2, **change) -> a profile of one seed that trains in a second: six
    tiny classes, two a task, a narrow network of eleven layers, one epoch. Its results lie in a
    folder of the test's own. change: fields of the profile, or {field: its own fields}."""
    monkeypatch.setenv("RESULTS", str(tmp_path))
    source = tiny_npz(tmp_path / "tiny.npz", classes=6)

    def study(*arms, tasks=2, **change):
        profile = load_profile("smoke", seeds="1", data=source)
        classes = tuple((2 * k, 2 * k + 1) for k in range(tasks))
        small = {
            "data": {"classes": classes},
            "network": {"width": 0.0625, "depth": 11},
            "explain": {"steps": 1, "map_images": 2},
            "examine": {"rankings": "all"},
        }
        fields = {
            name: getattr(profile, name).model_copy(update=own | change.get(name, {}))
            for name, own in small.items()
        }
        recipe = replace(
            profile.recipe, **{"epochs": 1, "precision": "float32"} | change.get("recipe", {})
        )
        made = profile.model_copy(update={**fields, "recipe": recipe, "arms": arms})
        check(made)
        return made

    return study


def _real_data() -> Path:
    return Path(os.environ.get("CIFAR100") or ROOT.parent / "shared/data/cifar100")


@pytest.fixture(scope="session")
def cifar100_folder(tmp_path_factory):
    """A folder with the real CIFAR-100, restored from its packed parts where they are at hand
    ($CIFAR100)."""
    script = _real_data() / "restore_cifar100.py"
    if not script.is_file():
        pytest.skip(f"needs the packed CIFAR-100: no {script} (name its folder by $CIFAR100)")
    if "CIFAR100" not in os.environ and file_hash(script) != KNOWN_SCRIPT:
        pytest.skip(f"{script} was merely found, and is not the one known: name it by $CIFAR100")
    folder = tmp_path_factory.mktemp("cifar100")
    done = subprocess.run(
        [sys.executable, "-B", str(script), str(folder)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def cifar100(cifar100_folder):
    """The real CIFAR-100, read as a user does."""
    return load(f"cifar100:{cifar100_folder}")


@pytest.fixture(scope="session")
def cifar20_path():
    """The path of an .npz with CIFAR-100's classes 0 to 19, where it is at hand."""
    path = _real_data().parent / "cifar100_classes0_19.npz"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    return path
