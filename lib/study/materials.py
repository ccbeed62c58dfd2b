"""What a seed works on: images, tasks, networks; and how anything is made reproducibly.

split = tasks(profile, seed)                     # on the device
model = fresh_network(profile, seed, outputs_of(split))
"""

import os
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from lib import data as data_room
from lib.data import Task
from lib.network import build
from lib.network import layer_names as names_of_layers
from lib.precision import default_device
from lib.seeds import seed_of
from lib.study.engine import say
from lib.study.profile import ROOT, Data, Network, Profile

_received: dict[tuple[str, int], data_room.Images] = {}  # from the machine this one works for


@lru_cache(maxsize=2)
def _images(source: str, size: int) -> data_room.Images:
    with suppress(OSError):  # a place to keep data in
        data_root().mkdir(parents=True, exist_ok=True)
    return data_room.load(source, data_root(), size)


def data_root() -> Path:
    """Where downloaded data lie: $DATA_ROOT if set, else data/ in the project."""
    return Path(os.environ.get("DATA_ROOT") or ROOT / "data")


def images(profile: Profile) -> data_room.Images:
    """The profile's data set, at the network's size, in this process's memory once."""
    return _pictures(profile.data.source, profile.network.image_size)


def _pictures(source: str, size: int) -> data_room.Images:
    return _received.get((source, size)) or _images(source, size)


def receive_images(profile: Profile, fetch: Callable[[], data_room.Images]) -> None:
    """Take the profile's data set as another machine read it, fetched once; this one needs none."""
    asked = profile.data.source, profile.network.image_size
    if asked not in _received:
        _received.clear()  # one data set at a time
        _received[asked] = fetch()


@lru_cache(maxsize=4)
def _tasks(
    data: Data, heads: str, size: int, seed: int, device: str
) -> tuple[tuple[Task, ...], str]:
    pictures, draw = _pictures(data.source, size), data.draw
    classes = data.classes or data_room.draw_classes(
        data_room.with_images(pictures), draw.tasks, draw.classes, seed
    )
    split = data_room.split_tasks(pictures, classes, heads)
    if data.holdout:
        split = [data_room.hold_out(task, data.holdout) for task in split]
    return tuple(t.to(device) for t in split), data_room.checksum(split)


def tasks(profile: Profile, seed: int) -> tuple[Task, ...]:
    """The tasks of a seed, on the device (the same for all seeds unless the profile draws its
    classes)."""
    return _tasks(*_task_key(profile, seed))[0]


def data_checksum(profile: Profile, seed: int) -> str:
    """Hash of the pixels and labels the tasks of this seed use."""
    return _tasks(*_task_key(profile, seed))[1]


def _task_key(profile: Profile, seed: int) -> tuple[Data, str, int, int, str]:
    """All that the tasks depend on, and nothing else: profiles, and the variants of a grid, that
    differ in other things share them."""
    network, drawn = profile.network, seed if profile.data.draw else 0
    return profile.data, network.heads, network.image_size, drawn, str(default_device())


def data_label(profile: Profile) -> str:
    """The data set's name for rows and figures: no path; and whether accuracies are of training
    images held out."""
    source, held = profile.data.source, profile.data.holdout
    name = "cifar100" if source.startswith("cifar100:") else Path(source).name
    return f"{name}, {held} training images a class held out" if held else name


def class_names(profile: Profile, task: Task) -> list[str]:
    """The names of a task's classes, in the order of its labels."""
    return [images(profile).names[c] for c in task.classes]


def fresh_network(profile: Profile, seed: int, outputs: int) -> nn.Module:
    """The network at the start, fixed by the seed, on the device."""
    generator = torch.Generator().manual_seed(seed_of(seed, "init"))
    return build(outputs, generator, **profile.network.description).to(default_device())


def outputs_of(split: Sequence[Task]) -> int:
    """Outputs of the network of the sequence: K with a shared head, T * K with one head per
    task."""
    return max(t.outputs.stop for t in split)


def layer_names(profile: Profile) -> list[str]:
    """The convolutions of the profile's network."""
    return list(_layer_names(profile.network))


@lru_cache(maxsize=4)  # a network is built to be asked
def _layer_names(network: Network) -> tuple[str, ...]:
    return tuple(names_of_layers(**network.description))


def epochs(label: str) -> Callable:
    """A report for `fit`: one line for each epoch."""

    def report(epoch, epochs, accuracies, seconds):
        shown = "  ".join(f"{k} {v:.3f}" for k, v in accuracies.items())
        say(f"{label}  epoch {epoch}/{epochs}  {shown}  {seconds:.0f} s")

    return report


@contextmanager
def reproducibly():
    """One thread inside (the thread count changes the last bits), and on a GPU deterministic
    convolutions in whole float32 (cuDNN would round to TensorFloat-32: too coarse for activation
    maximisation)."""
    cudnn = torch.backends.cudnn
    before = torch.get_num_threads(), cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark
    torch.set_num_threads(1)
    cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = False, True, False
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = before[1:]
