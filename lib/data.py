"""Images as uint8 tensors, the tasks cut from them, and the batched augmentation.

    images = load("cifar100", root="data")
    first, second = split_tasks(images, [range(10), range(10, 20)])
    x = augment(first.x[:64], images, generator, padding=4, flip=True)      # (64, 3, 32, 32) float

Sources: `cifar100` (torchvision; downloads with its checksum, or reads `root`), `cifar100:FOLDER`,
`digits` (scikit-learn's, inside the package; kept in `root`), a path ending in `.npz`, or a folder
of images in class folders."""

import hashlib
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lib.kernels import crop_flip_normalise

NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
MOST_CLASSES = 100_000  # a label above is a mistake, and a list of names up to it would fill memory
AT_ONCE = 1000  # images resized: as floats a whole data set would take many times its memory
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}


class Images(NamedTuple):
    """A data set: x uint8 (N, 3, H, W), y int64 (N,), the same for testing, class names, and where
    it came from."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    names: tuple[str, ...]
    source: str
    mean: Tensor  # (3,) of the training pixels in [0, 1]
    std: Tensor  # (3,)

    def to(self, device: torch.device | str) -> "Images":
        """The same images on another device."""
        return self._replace(
            **{k: v.to(device) for k, v in self._asdict().items() if isinstance(v, Tensor)}
        )


class Task(NamedTuple):
    """Some classes of a data set; labels y run over 0..K-1 and mean the outputs
    first_output..first_output+K-1."""

    name: str
    classes: tuple[int, ...]
    x: Tensor  # uint8 (N, 3, H, W)
    y: Tensor  # int64 (N,)
    x_test: Tensor
    y_test: Tensor
    first_output: int = 0
    mean: Tensor = torch.tensor([0.5, 0.5, 0.5])
    std: Tensor = torch.tensor([0.25, 0.25, 0.25])

    @property
    def outputs(self) -> slice:
        """The outputs of the network that this task is trained and scored on."""
        return slice(self.first_output, self.first_output + len(self.classes))

    def to(self, device: torch.device | str) -> "Task":
        """The same task on another device."""
        return self._replace(
            **{k: v.to(device) for k, v in self._asdict().items() if isinstance(v, Tensor)}
        )


def load(source: str, root: str | Path = "data", image_size: int | None = None) -> Images:
    """Read a data source (see the head of this module), resized to image_size if given and
    different.

    Raises FileNotFoundError, ConnectionError or ValueError with one sentence that says what to do.
    """
    kind, _, folder = source.partition(":")
    if kind == "cifar100":
        raw = _cifar100(Path(folder or root), given=bool(folder))
    elif source == "digits":
        raw = _digits(Path(root))
    elif source.endswith(".npz"):
        raw = _npz(Path(source))
    elif Path(source).is_dir():
        raw = _folder(Path(source), image_size or 32)
    else:
        raise FileNotFoundError(
            f"no data source {source!r}: expected cifar100, cifar100:FOLDER, digits, the path of "
            "an existing .npz file, or an existing folder of class folders"
        )
    x, y, x_test, y_test, names = raw
    for part in (x, x_test):
        if 0 in np.shape(part)[1:]:
            raise ValueError(f"{source}: images of {np.shape(part)[1:]} pixels, expected some")
    x, x_test = (resize(_nchw(a, source), image_size) for a in (x, x_test))
    if not len(x) or not len(x_test):
        raise ValueError(
            f"{source}: {len(x)} training and {len(x_test)} test images, expected some of each"
        )
    mean, std = channel_statistics(x)
    return Images(
        x,
        torch.as_tensor(y).long(),
        x_test,
        torch.as_tensor(y_test).long(),
        tuple(names),
        source,
        mean,
        std,
    )


def _cifar100(root: Path, given: bool):
    """given: the reader named the folder, so it must be there."""
    from torchvision.datasets import CIFAR100
    from torchvision.datasets.utils import check_integrity

    if given and not root.is_dir():
        raise FileNotFoundError(
            f"no folder {root}: expected one that holds the official cifar-100-python folder, or "
            "an empty one to download it to; mend DATA=cifar100:FOLDER"
        )
    inside = root / CIFAR100.base_folder
    official = [*CIFAR100.train_list, *CIFAR100.test_list]
    official.append([CIFAR100.meta["filename"], CIFAR100.meta["md5"]])
    files = [(inside / name, md5) for name, md5 in official]
    for file, md5 in files:
        if file.exists() and not check_integrity(str(file), md5):
            raise ValueError(
                f"{file}: damaged ({file.stat().st_size:,} bytes, its MD5 is not {md5}): take the "
                f"official file again, or remove {inside}, and it is downloaded again"
            )
    try:
        train, test = (CIFAR100(str(root), train=t, download=True) for t in (True, False))
    except (OSError, RuntimeError) as error:
        # disk full, no permission, read-only: told as what they are
        if isinstance(error, OSError) and error.errno in (28, 13, 30):
            raise
        raise ConnectionError(
            f"CIFAR-100 could not be had ({error}): expected a network to download it, or the "
            "official "
            f"cifar-100-python folder inside {root.resolve()}; put it there, or name its place "
            "by DATA=cifar100:FOLDER"
        ) from None
    return train.data, train.targets, test.data, test.targets, train.classes


def _digits(root: Path):
    """Kept as an .npz in `root` if that is a folder: to import scikit-learn takes every process
    more than a second. Made again where it is not there, damaged or another version's."""
    kept = root / f"digits-{version('scikit-learn')}.npz"
    with suppress(FileNotFoundError, ValueError):
        return _npz(kept)
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    x = np.round(digits.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8), 17 grey levels
    x, x_test, y, y_test = train_test_split(
        x, digits.target, test_size=0.3, random_state=0, stratify=digits.target
    )
    raw = x, y, x_test, y_test, [str(n) for n in digits.target_names]
    if root.is_dir():
        with suppress(OSError):  # no room for it is no harm
            _keep(kept, **dict(zip((*NPZ_KEYS, "fine_label_names"), raw)))
    return raw


def _keep(path: Path, **arrays) -> None:
    """Write an .npz that is whole or not there, whoever else writes it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _npz(path: Path):
    if not path.is_file():
        raise FileNotFoundError(f"no data file {path}: expected an .npz with {', '.join(NPZ_KEYS)}")
    try:
        with np.load(path, allow_pickle=False) as file:
            if missing := [k for k in NPZ_KEYS if k not in file]:
                raise ValueError(
                    f"{path}: lacks {', '.join(missing)}; it has {', '.join(file) or 'nothing'}, "
                    f"expected {', '.join(NPZ_KEYS)}"
                )
            arrays = [file[k] for k in NPZ_KEYS]
            names = (
                [str(n) for n in file["fine_label_names"]] if "fine_label_names" in file else None
            )
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, TypeError, ValueError) as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(
            f"{path}: damaged or not an .npz file of plain arrays ({error}); make or fetch it again"
        ) from None
    for key, array in zip(NPZ_KEYS, arrays):
        if key.startswith("y"):
            if array.ndim != 1 or array.dtype.kind not in "iu":
                raise ValueError(
                    f"{path}: {key} is {array.dtype} {array.shape}, expected integers (N,)"
                )
        elif array.dtype != np.uint8 or not (
            array.ndim == 3 or (array.ndim == 4 and array.shape[3] in (1, 3))
        ):
            raise ValueError(
                f"{path}: {key} is {array.dtype} {array.shape}, expected uint8 (N, H, W, 3) or "
                "(N, H, W)"
            )
    for x, y, part in ((arrays[0], arrays[1], "train"), (arrays[2], arrays[3], "test")):
        if len(x) != len(y):
            raise ValueError(f"{path}: x_{part} has {len(x)} images but y_{part} {len(y)} labels")
        if len(y) and int(y.min()) < 0:
            raise ValueError(
                f"{path}: y_{part} holds the negative label {int(y.min())}, expected 0, 1, 2, ..."
            )
    top = max((int(y.max()) for y in (arrays[1], arrays[3]) if len(y)), default=-1)
    if top >= MOST_CLASSES:
        raise ValueError(
            f"{path}: holds the label {top}, expected 0, 1, 2, ... up to the number of classes, "
            f"below {MOST_CLASSES:,}; number the classes anew"
        )
    return *arrays, names if names and len(names) > top else [str(i) for i in range(top + 1)]


def _folder(root: Path, size: int):
    """`root/train/<class>/*` and `root/test/<class>/*`, or `root/<class>/*` with every fifth image
    for testing."""
    split = (root / "train").is_dir() and (root / "test").is_dir()
    inside = root / "train" if split else root
    names = sorted(p.name for p in inside.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        raise ValueError(
            f"{root}: no class folders; expected {root}/<class>/<image> or {root}/train and "
            f"{root}/test"
        )
    parts: dict[str, list] = {"train": [], "test": []}
    for label, name in enumerate(names):
        for part in parts if split else ("",):
            files = sorted(
                f for f in (root / part / name).glob("*") if f.suffix.lower() in IMAGE_SUFFIXES
            )
            for i, file in enumerate(files):
                parts[part or ("test" if i % 5 == 4 else "train")].append(
                    (open_image(file, size), label)
                )
    if empty := [part for part, items in parts.items() if not items]:
        raise ValueError(
            f"{root}: no images for {' and '.join(empty)}; expected "
            f"{', '.join(sorted(IMAGE_SUFFIXES))} files in class folders, five or more a class"
        )
    by_turns = (_by_turns(parts[part]) for part in ("train", "test"))
    (x, y), (x_test, y_test) = (zip(*items) for items in by_turns)
    return np.stack(x), list(y), np.stack(x_test), list(y_test), names


def _by_turns(items: list[tuple]) -> list[tuple]:
    """(image, label) in turns over the labels, so that the first few are of every class."""
    seen: Counter[int] = Counter()
    turns = []
    for item in items:
        turns.append((seen[item[1]], item[1], item))
        seen[item[1]] += 1
    return [item for *_, item in sorted(turns, key=lambda turn: turn[:2])]


def open_image(file: Path, size: int) -> np.ndarray:
    """One image file as uint8 (size, size, 3): the largest centred square, resized."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            if image.width * image.height > Image.MAX_IMAGE_PIXELS:  # PIL itself refuses at twice
                raise OSError(f"{image.width} by {image.height} pixels")
            return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size)))
    except (
        *(UnidentifiedImageError, OSError, SyntaxError, ValueError),
        *(Image.DecompressionBombError, Image.DecompressionBombWarning),
    ) as error:
        raise ValueError(
            f"{file}: not a readable image ({error}): expected one of at most "
            f"{Image.MAX_IMAGE_PIXELS:,} pixels; mend it or take it out"
        ) from None


def _nchw(x, source: str) -> Tensor:
    """uint8 (N, H, W) or (N, H, W, 1 or 3) -> uint8 (N, 3, H, W)."""
    x = torch.from_numpy(np.ascontiguousarray(x))
    x = x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2)
    if x.shape[2] != x.shape[3]:
        raise ValueError(
            f"{source}: images are {x.shape[2]} by {x.shape[3]} pixels, expected square ones"
        )
    return x.expand(-1, 3, -1, -1).contiguous()


def resize(x: Tensor, size: int | None) -> Tensor:
    """uint8 (N, 3, H, H) -> uint8 (N, 3, size, size), bilinear with antialiasing; unchanged if
    already so."""
    if size is None or x.shape[-1] == size or not len(x):
        return x
    out = x.new_empty(*x.shape[:2], size, size)
    for new, old in zip(out.split(AT_ONCE), x.split(AT_ONCE)):
        y = F.interpolate(
            old.float(), size=(size, size), mode="bilinear", antialias=True, align_corners=False
        )
        new.copy_(y.round_().clamp_(0, 255))
    return out


def channel_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (3,) of uint8 (N, 3, H, W) scaled to [0, 1], from exact integer
    counts."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack(
        [torch.bincount(x[:, c].reshape(-1).int(), minlength=256) for c in range(3)]
    ).double()
    weights = counts / counts.sum(1, keepdim=True)
    mean = weights @ levels
    std = (weights @ levels**2 - mean**2).clamp_min(0).sqrt().clamp_min(1e-6)
    return mean.float(), std.float()


def draw_classes(known: Sequence[int], tasks: int, size: int, seed: int) -> list[tuple[int, ...]]:
    """`tasks` lists of `size` different classes drawn at random from those known by the seed, as
    the paper's text says it did."""
    if tasks * size > len(known):
        raise ValueError(f"cannot draw {tasks} x {size} classes from {len(known)}: ask for fewer")
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed)).tolist()
    drawn = [known[place] for place in order]
    return [tuple(drawn[k * size : (k + 1) * size]) for k in range(tasks)]


def with_images(images: Images) -> list[int]:
    """The classes that have images for training and for testing, in order."""
    return sorted({*images.y.tolist()} & {*images.y_test.tolist()})


def split_tasks(
    images: Images, classes: Sequence[Sequence[int]], heads: str = "shared"
) -> list[Task]:
    """One Task for each list of classes: class i of a list is label i.

    heads "shared": all tasks use outputs 0..K-1. "per_task": task t uses outputs tK..tK+K-1 (one
    head each). Raises ValueError when a class has no training or no test images, or the tasks
    differ in size."""
    lists = [tuple(int(c) for c in task) for task in classes]
    if len({len(c) for c in lists}) != 1:
        raise ValueError(f"tasks of {[len(c) for c in lists]} classes: expected equal sizes")
    flat = [c for task in lists for c in task]
    if twice := sorted({c for c in flat if flat.count(c) > 1}):
        raise ValueError(
            f"classes {twice} are in more than one task (or twice in one): expected each class once"
        )
    have = set(images.y.tolist()) & set(images.y_test.tolist())
    if lacking := sorted(set(flat) - have):
        raise ValueError(
            f"{images.source} has no images of class {lacking} (it has training and test images of "
            f"{len(have)} classes); name other classes in the profile's data section"
        )
    tasks = []
    for t, task in enumerate(lists):
        keep, keep_test = (
            torch.isin(y, torch.tensor(task, device=y.device)) for y in (images.y, images.y_test)
        )
        label = torch.full((max(have) + 1,), -1, device=images.y.device)
        label[list(task)] = torch.arange(len(task), device=label.device)
        tasks.append(
            Task(
                f"task{t + 1}",
                task,
                images.x[keep],
                label[images.y[keep]],
                images.x_test[keep_test],
                label[images.y_test[keep_test]],
                t * len(task) if heads == "per_task" else 0,
                images.mean,
                images.std,
            )
        )
    return tasks


def hold_out(task: Task, per_class: int) -> Task:
    """The task without its last `per_class` training images of each class, in data-set order, and
    scored on those: its test images are gone.

    No random number, so all seeds and settings hold out the same images. Which are the last is
    chance where a data set is shuffled, as CIFAR-100 and the digits are; of a folder they are the
    last by file name. Mean and deviation stay those of the whole training set. Raises ValueError if
    a class has no image left to train on."""
    held = torch.zeros(len(task.y), dtype=torch.bool, device=task.y.device)
    for k, name in enumerate(task.classes):
        own = (task.y == k).nonzero().squeeze(1)
        if len(own) <= per_class:
            raise ValueError(
                f"{task.name}: class {name} has {len(own)} training images, expected more than "
                f"the {per_class} to be held out; hold out fewer"
            )
        held[own[len(own) - per_class :]] = True
    return task._replace(x=task.x[~held], y=task.y[~held], x_test=task.x[held], y_test=task.y[held])


def join(tasks: Sequence[Task], shared: bool) -> Task:
    """All tasks as one: over the K labels of the shared head, or over all T * K classes."""
    shift = [0 if shared else t * len(task.classes) for t, task in enumerate(tasks)]
    cat = lambda get: torch.cat([get(task, s) for task, s in zip(tasks, shift)])  # noqa: E731
    return Task(
        "joint10" if shared else "joint20",
        tasks[0].classes if shared else tuple(c for task in tasks for c in task.classes),
        cat(lambda t, s: t.x),
        cat(lambda t, s: t.y + s),
        cat(lambda t, s: t.x_test),
        cat(lambda t, s: t.y_test + s),
        0,
        tasks[0].mean,
        tasks[0].std,
    )


def checksum(tasks: Sequence[Task]) -> str:
    """A hash of the pixels and labels used (not of the file they came in), and of the
    normalisation."""
    sha = hashlib.sha256()
    for task in tasks:
        for part in (task.x, task.y, task.x_test, task.y_test, task.mean, task.std):
            sha.update(str(tuple(part.shape)).encode())
            sha.update(part.cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]


def normalise(x: Tensor, task: Task | Images, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 (B, 3, H, W) -> dtype (B, 3, H, W), channels last: scaled to [0, 1], minus mean, over
    std."""
    mean, std = (s.to(x.device, dtype).view(1, 3, 1, 1) for s in (task.mean, task.std))
    return ((x.to(dtype) / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def draw_crops(
    images: int, generator: torch.Generator, padding: int = 4, flip: bool = True
) -> Tensor:
    """int64 (3, images): row and column of each image's crop in the padded image, and whether it is
    flipped.

    Drawn on the CPU, so that a seed means the same on every device."""
    top_left = torch.randint(0, 2 * padding + 1, (2, images), generator=generator)
    mirror = (torch.rand(images, generator=generator) < 0.5) & flip
    return torch.cat([top_left, mirror[None]])


def crop(
    x: Tensor, crops: Tensor, task: Task | Images, padding: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """uint8 (B, 3, H, W) -> `dtype` (B, 3, H, W), channels last: cropped and flipped as crops,
    int64 (3, B) of `draw_crops`, say, then as by `normalise`, in one pass over the batch.

    The padded border is black, as with torchvision's RandomCrop before Normalize. Everything on x's
    device."""
    top, left, mirror = crops
    return crop_flip_normalise(
        x,
        torch.arange(len(x), device=x.device),
        top,
        left,
        mirror.bool(),
        task.mean,
        task.std,
        padding,
        dtype,
    )


def augment(
    x: Tensor,
    task: Task | Images,
    generator: torch.Generator,
    padding: int = 4,
    flip: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Random crop (zero padding), random horizontal flip, then `normalise`, of uint8 (B, 3, H,
    W)."""
    crops = draw_crops(len(x), generator, padding, flip).to(x.device)
    task = task._replace(mean=task.mean.to(x.device), std=task.std.to(x.device))
    return crop(x, crops, task, padding, dtype)


def duplicates(x: Tensor, x_test: Tensor) -> list[tuple[int, int]]:
    """Pairs (training index, test index) of exactly equal images, x uint8 (N, 3, H, W)."""
    seen: dict[bytes, list[int]] = {}
    for i, image in enumerate(x.cpu().numpy()):
        seen.setdefault(image.tobytes(), []).append(i)
    return [
        (i, j)
        for j, image in enumerate(x_test.cpu().numpy())
        for i in seen.get(image.tobytes(), [])
    ]
