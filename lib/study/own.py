"""A reader's own data set under a profile that was written for another one: what the results are
called, which classes make up each task, how large a batch can be. No torch; looks at names and
labels only.

    name_with("quick", "my_images", "digits")                    # quick_my_images
    fitted(((0, 1, 2), (3, 4, 5)), 64, "my_images")              # ((0, 1), (2, 3)), 16
"""

import re
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

Tasks = tuple[tuple[int, ...], ...]  # the classes of each
STEPS_AT_LEAST = 4  # of one epoch, where a profile's batch is too large for few images


def kind_of(source: str) -> str:
    """What a data source is called without its place: cifar100 (a file of that name too, whatever
    follows it), digits, or the name of a file or folder, in letters a folder of results may
    have."""
    name = source.partition(":")[0] if source.startswith("cifar100:") else Path(source).stem
    if name.startswith("cifar100"):
        return "cifar100"
    return re.sub(r"[^\w-]+", "_", name).strip("_") or "images"


def name_with(name: str, source: str, own: str) -> str:
    """What a profile's results are called when they are of the data `source` and not of the
    profile's `own`: `quick_my_images`."""
    return name if kind_of(source) == kind_of(own) else f"{name}_{kind_of(source)}"


def labels(source: str) -> Counter:
    """Label -> training images, of a folder of class folders or an .npz that `lib.data` can read;
    empty for any other source, and for one whose faults `lib.data` will tell of."""
    path = Path(source)
    if path.is_dir():
        return _in_folder(path)
    if path.suffix != ".npz" or not path.is_file():
        return Counter()
    try:
        with np.load(path, allow_pickle=False) as file:
            return Counter(file["y_train"].tolist())
    except (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile):
        return Counter()


def _in_folder(root: Path) -> Counter:
    split = (root / "train").is_dir() and (root / "test").is_dir()
    inside = root / "train" if split else root
    names = sorted(p.name for p in inside.iterdir() if p.is_dir() and not p.name.startswith("."))
    counts = [sum(f.is_file() for f in (inside / name).iterdir()) for name in names]
    return Counter({i: n if split else n - n // 5 for i, n in enumerate(counts)})


def cut(classes: Sequence[int], tasks: int) -> Tasks:
    """Classes in their order, in `tasks` lists of equal size; what is left over is left out."""
    size = len(classes) // tasks
    return tuple(tuple(classes[k * size : (k + 1) * size]) for k in range(tasks))


def shown(classes: Tasks) -> str:
    """`0-4 then 5-9`: lists of classes in words."""

    def one(task: tuple[int, ...]) -> str:
        row = task == tuple(range(task[0], task[-1] + 1))
        return f"{task[0]}-{task[-1]}" if row else ", ".join(map(str, task))

    return " then ".join(map(one, classes))


def fitted(classes: Tasks, batch: int, source: str) -> tuple[Tasks, int]:
    """A profile's lists of classes and its batch, for other data. The lists stay if the data have
    all of their classes; else all classes there are, in their order, are cut into as many tasks. A
    batch larger than a task becomes one that an epoch has some steps of."""
    found = labels(source)
    if not {c for task in classes for c in task} <= set(found):
        if len(found) < 2 * len(classes):  # nothing to cut: `lib.data` tells what is lacking
            return classes, batch
        classes = cut(sorted(found), len(classes))
    fewest = min(sum(found[c] for c in task) for task in classes)
    return classes, batch if batch <= fewest else max(2, fewest // STEPS_AT_LEAST)
