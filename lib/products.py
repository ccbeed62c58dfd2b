"""What a seed's arms have in common, made once and kept: tasks, the task-1 checkpoint, class maps,
visualizations.

    split = tasks(profile, seed)                    # on the device
    model = network_after_task1(profile, seed)      # trains task 1 if no checkpoint is in the store
    rows = task1_rows(profile, seed)

Every product has a `..._key`: what its numbers depend on. All go through the store; one thread
makes each."""

import hashlib
import io
import os
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from lib import data as data_room
from lib import examination, pool, ranking, saliency, visualization
from lib.data import Task
from lib.keys import SCIENCE, seed_of
from lib.methods import RecordPath
from lib.network import VGG, conv_layers, vgg16
from lib.profile import ROOT, Profile
from lib.ranking import Evidence
from lib.store import FileType, Store, results_dir
from lib.training import confusion, default_device, evaluate, fit, resolve_precision

FRACTIONS = (0.25, 0.5, 0.75)  # at which choices of filters are compared


# --- data, tasks, networks ------------------------------------------------------------------------


@lru_cache(maxsize=2)
def _images(source: str, size: int) -> data_room.Images:
    return data_room.load(source, data_root(), size)


def data_root() -> Path:
    """Where downloaded data lie: $DATA_ROOT if set, else data/ in the project."""
    return Path(os.environ.get("DATA_ROOT") or ROOT / "data")


def images(profile: Profile) -> data_room.Images:
    """The profile's data set, at the network's size, in this process's memory once."""
    return _images(profile.data.source, profile.network.image_size)


@lru_cache(maxsize=4)
def _tasks(profile: Profile, seed: int, device: str) -> tuple[tuple[Task, ...], str]:
    pictures = images(profile)
    draw = profile.data.draw
    classes = profile.data.classes or data_room.draw_classes(
        len(pictures.names), draw.tasks, draw.classes, seed
    )
    split = data_room.split_tasks(pictures, classes, profile.network.heads)
    on_device = tuple(
        t._replace(
            x=t.x.to(device),
            y=t.y.to(device),
            x_test=t.x_test.to(device),
            y_test=t.y_test.to(device),
            mean=t.mean.to(device),
            std=t.std.to(device),
        )
        for t in split
    )
    return on_device, data_room.checksum(split)


def tasks(profile: Profile, seed: int) -> tuple[Task, ...]:
    """The tasks of a seed, on the device (the same for all seeds unless the profile draws its
    classes)."""
    return _tasks(*_task_key(profile, seed))[0]


def data_checksum(profile: Profile, seed: int) -> str:
    """Hash of the pixels and labels the tasks of this seed use."""
    return _tasks(*_task_key(profile, seed))[1]


def _task_key(profile: Profile, seed: int):
    # only what the tasks depend on, so that profiles share them and the cache works
    bare = profile.model_copy(
        update={"arms": (), "seeds": "1", "name": "", "about": "", "setting": ""}
    )
    return bare, seed if profile.data.draw else 0, str(default_device())


def data_label(profile: Profile) -> str:
    """The data set's name for rows and figures: no path."""
    source = profile.data.source
    return "cifar100" if source.startswith("cifar100:") else Path(source).name


def fresh_network(profile: Profile, seed: int, outputs: int) -> VGG:
    """The network at the start, fixed by the seed, on the device."""
    n = profile.network
    generator = torch.Generator().manual_seed(seed_of(seed, "init"))
    model = vgg16(
        outputs, n.width, n.batch_norm, n.image_size, n.depth, n.classifier, n.init, generator
    )
    return model.to(default_device())


def outputs_of(profile: Profile, split: Sequence[Task]) -> int:
    """Outputs of the network of the sequence: K with a shared head, T * K with one head per
    task."""
    return max(t.outputs.stop for t in split)


def layer_names(profile: Profile) -> list[str]:
    """The convolutions of the profile's network."""
    with torch.device("meta"):
        n = profile.network
        return list(
            conv_layers(
                vgg16(
                    2, n.width, n.batch_norm, n.image_size, n.depth, init="pytorch", generator=None
                )
            )
        )


# --- how a product is made ------------------------------------------------------------------------


def epochs(label: str) -> Callable:
    """A report for `fit`: one line for each epoch."""

    def report(epoch, epochs, accuracies, seconds):
        shown = "  ".join(f"{k} {v:.3f}" for k, v in accuracies.items())
        pool.say(f"{label}  epoch {epoch}/{epochs}  {shown}  {seconds:.0f} s")

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


def store(profile: Profile) -> Store:
    """The profile's products."""
    device = default_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    made_with = {"device": name, "precision": resolve_precision(profile.recipe.precision, device)}
    return Store(results_dir(profile.name) / "runs", made_with)


def _save_checkpoint(product: dict, path: Path) -> None:
    # through memory: given a path, torch.save writes its name into the file, and hides that a disk
    # is full
    buffer = io.BytesIO()
    torch.save(product, buffer)
    path.write_bytes(buffer.getbuffer())


CHECKPOINT = FileType(
    ".pt", _save_checkpoint, lambda path: torch.load(path, weights_only=True, map_location="cpu")
)


def _save_npz(arrays: dict[str, np.ndarray], path: Path) -> None:
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def _load_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


ARRAYS = FileType(".npz", _save_npz, _load_npz)


# --- the products ---------------------------------------------------------------------------------


def lineage_of(state: dict[str, torch.Tensor]) -> str:
    """Hash of a checkpoint's weights and buffers, bit for bit."""
    sha = hashlib.sha256()
    for name, tensor in state.items():
        sha.update(name.encode())
        sha.update(tensor.cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()[:12]


def task1_key(profile: Profile, seed: int) -> dict:
    """What the task-1 checkpoint depends on."""
    return {
        "science": SCIENCE["task1"],
        "network": profile.network.model_dump(),
        "seed": seed,
        "recipe": profile.recipe.model_dump(),
        "data": data_checksum(profile, seed),
    }


def task1(profile: Profile, seed: int) -> dict:
    """The task-1 checkpoint, made once: {"model": state, "path": SI's path integral, "lineage",
    "accuracy", "loss", "before": accuracies by task, "confusion": {task: (K, K)}}."""

    def make() -> dict:
        with reproducibly():
            split = tasks(profile, seed)
            model, path = fresh_network(profile, seed, outputs_of(profile, split)), RecordPath()
            path.before(model, split[0])
            history = fit(
                model, split[0], profile.recipe, path, seed, split, epochs(f"seed {seed}  task 1")
            )
            state = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
            counts = {t.name: confusion(model, t, profile.recipe.precision) for t in split}
            return {
                "model": state,
                "path": {k: v.cpu() for k, v in path.omega.items()},
                "lineage": lineage_of(state),
                "accuracy": history.accuracy,
                "loss": history.loss,
                "confusion": counts,
                "before": {t.name: evaluate(model, t, profile.recipe.precision) for t in split},
            }

    return store(profile).once("task1", task1_key(profile, seed), make, CHECKPOINT)


def task1_rows(profile: Profile, seed: int) -> dict:
    """The checkpoint's numbers without its weights (small enough to publish): as `task1`, in plain
    lists."""

    def make() -> dict:
        checkpoint = task1(profile, seed)
        counts = {name: table.tolist() for name, table in checkpoint["confusion"].items()}
        return {
            "seed": seed,
            "setting": profile.setting,
            "data": data_label(profile),
            "confusion": counts,
            **{k: checkpoint[k] for k in ("lineage", "accuracy", "loss", "before")},
        }

    return store(profile).once("task1_rows", task1_key(profile, seed), make)


def network_after_task1(profile: Profile, seed: int) -> VGG:
    """The network as it was before round 2."""
    model = fresh_network(profile, seed, outputs_of(profile, tasks(profile, seed)))
    model.load_state_dict(task1(profile, seed)["model"])
    return model


def maps_key(profile: Profile, seed: int) -> dict:
    """What the class maps depend on."""
    return {
        "science": SCIENCE["maps"],
        "task1": task1_key(profile, seed),
        "images": profile.explain.map_images,
    }


def maps(profile: Profile, seed: int) -> dict[str, np.ndarray]:
    """Class maps, made once: {"maps": float32 (C, H, W) in [0, 1], "used": (C,), "correct":
    (C,)}."""

    def make():
        with reproducibly():
            found = saliency.class_maps(
                network_after_task1(profile, seed),
                tasks(profile, seed)[0],
                profile.explain.map_images,
            )
        pool.say(f"seed {seed}  class maps from {min(found.used)} to {max(found.used)} images each")
        return {
            "maps": found.maps.cpu().numpy(),
            "used": np.array(found.used),
            "correct": np.array(found.correct),
        }

    return store(profile).once("maps", maps_key(profile, seed), make, ARRAYS)


def filters_key(profile: Profile, seed: int, layer: str) -> dict:
    """What a layer's visualizations depend on."""
    return {
        "science": SCIENCE["filters"],
        "task1": task1_key(profile, seed),
        "layer": layer,
        "steps": profile.explain.steps,
        "lr": profile.explain.lr,
    }


def filters(profile: Profile, seed: int, layer: str) -> dict[str, np.ndarray]:
    """Every filter of a layer visualised, made once: {"pixels": uint8 (F, 3, H, W) un-normalised
    and clamped, "change": uint8 (F, H, W), the alternative heat map (mean |image - noise|, scaled)
    times 255}. Float32."""

    def make():
        task, e = tasks(profile, seed)[0], profile.explain
        with reproducibly():
            model, size = network_after_task1(profile, seed), profile.network.image_size
            found = visualization.maximize_activation(
                model, layer, None, e.steps, seed, e.lr, size, task
            )
            noise = visualization.noise_image(seed, layer, range(len(found)), size, task).to(found)
        return {
            "pixels": visualization.to_pixels(found, task).cpu().numpy(),
            "change": (visualization.change_maps(found, noise) * 255).round().byte().cpu().numpy(),
        }

    return store(profile).once("filters", filters_key(profile, seed, layer), make, ARRAYS)


def heat(profile: Profile, seed: int, layer: str) -> torch.Tensor:
    """Heat maps (F, H, W) in [0, 1] of a layer's visualizations, by the profile's rule."""
    found = filters(profile, seed, layer)
    if profile.explain.heat_map == "difference":
        return torch.from_numpy(found["change"]).float() / 255
    return visualization.heat_maps(torch.from_numpy(found["pixels"]))


def evidence(profile: Profile, seed: int, model: VGG | None = None) -> Evidence:
    """What rankings may look at, for the network as it was before round 2."""
    model = model or network_after_task1(profile, seed)
    return Evidence(
        model,
        tasks(profile, seed)[0],
        seed,
        fetch_maps=lambda: torch.from_numpy(maps(profile, seed)["maps"]),
        fetch_heat=lambda: {layer: heat(profile, seed, layer) for layer in conv_layers(model)},
    )


def overlap_key(profile: Profile, seed: int) -> dict:
    """What the overlap table of a seed depends on."""
    return {
        "science": SCIENCE["overlap"],
        "maps": maps_key(profile, seed),
        "explain": profile.explain.model_dump(),
        "filters": SCIENCE["filters"],
    }


def overlap(profile: Profile, seed: int) -> dict:
    """How far the choice of filters depends on the map, the class and the metric, made once:
    {"overlap": rows {fraction, ranking, other, iou}, "class_maps": their Pearson correlations (C,
    C), "images": used for each}."""

    def make() -> dict:
        with reproducibly():
            look = evidence(profile, seed)
            found = examination.overlaps(look, FRACTIONS)
        pool.say(f"seed {seed}  overlap of rankings")
        return {
            "seed": seed,
            "lineage": task1(profile, seed)["lineage"],
            "overlap": found,
            "class_maps": ranking.similarity(look.maps, look.maps, "pearson").tolist(),
            "images": maps(profile, seed)["used"].tolist(),
        }

    return store(profile).once("overlap", overlap_key(profile, seed), make)
