"""What a seed's arms have in common, made once and kept: the table of products.

    task1(profile, seed)                       # trains task 1 if no checkpoint is in the store
    filters(profile, seed, "conv3_1")
    PRODUCTS["maps"].there(profile, seed)

A product says at its definition what its numbers depend on (its key), what must be there before it
is made, and whether it is published; calling it makes it, once, or reads what was made. All go
through the store; one thread makes each. `lib.study.runs` adds the last product: an arm's rows.
"""

import copy
import hashlib
import io
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from lib import examination, ranking, saliency, visualization
from lib.evaluation import confusion, evaluate
from lib.methods import RecordPath
from lib.network import conv_layers
from lib.precision import default_device, resolve_precision
from lib.ranking import Evidence, LossChange, Trial
from lib.study.arms import needs as needs_of
from lib.study.engine import say
from lib.study.keys import SCIENCE, fields, later, versions
from lib.study.materials import (
    data_checksum,
    data_label,
    epochs,
    fresh_network,
    layer_names,
    outputs_of,
    reproducibly,
    tasks,
)
from lib.study.profile import Profile, parse_seeds
from lib.study.store import JSON, FileType, Store, results_dir
from lib.training import fit

FRACTIONS = (0.25, 0.5, 0.75)  # at which choices of filters are compared


def store(profile: Profile) -> Store:
    """The profile's products."""
    device = default_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    made_with = {"device": name, "precision": resolve_precision(profile.recipe.precision, device)}
    return Store(results_dir(profile.name) / "runs", made_with)


# --- file types -----------------------------------------------------------------------------------


def _save_checkpoint(product: dict, path: Path) -> None:
    # through memory: given a path, torch.save writes its name into the file, and hides that a disk
    # is full
    buffer = io.BytesIO()
    torch.save(product, buffer)
    path.write_bytes(buffer.getbuffer())


CHECKPOINT = FileType(
    ".pt",
    _save_checkpoint,
    lambda path: torch.load(path, weights_only=True, map_location="cpu"),
)


def _save_npz(arrays: dict[str, np.ndarray], path: Path) -> None:
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def _load_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


ARRAYS = FileType(".npz", _save_npz, _load_npz)


# --- the table ------------------------------------------------------------------------------------


class Product(NamedTuple):
    """One kind of thing the study makes once for each seed, or for each part of a seed's.

    key(profile, seed, part): what its numbers depend on. needs(profile, part): kinds that must be
    there, for the same seed, before it is made. parts(profile, seed): what a seed has of it, a
    layer's or an arm's name each ("" if there is just one). branched: told apart by lineage too.
    """

    kind: str
    key: Callable[..., dict]
    needs: Callable[[Profile, str], Sequence[str]]
    parts: Callable[[Profile, int], Sequence[str]]
    filetype: FileType = JSON
    published: bool = False
    branched: bool = False
    get: Callable[..., Any] | None = None

    def there(self, profile: Profile, seed: int, part: str = "") -> bool:
        """True if it is finished (a branched one: under any lineage)."""
        shelf, key = store(profile), self.key(profile, seed, *filter(None, [part]))
        if self.branched:
            return bool(shelf.branches(self.kind, key))
        return shelf.has(self.kind, key, self.filetype.suffix)

    def files(self, profile: Profile, seed: int, part: str = "") -> list[Path]:
        """Where it lies, if it is finished, and its meta file (of one that is not branched)."""
        key = self.key(profile, seed, *filter(None, [part]))
        return store(profile).files(self.kind, key, self.filetype.suffix)


PRODUCTS: dict[str, Product] = {}


def _one(profile: Profile, seed: int) -> Sequence[str]:
    return ("",)


def product(
    key: Callable[..., dict],
    needs: Sequence[str] | Callable[[Profile, str], Sequence[str]] = (),
    parts: Callable[[Profile, int], Sequence[str]] = _one,
    filetype: FileType = JSON,
    published: bool = False,
) -> Callable:
    """Enter a maker make(profile, seed[, part]) into PRODUCTS; the name then stands for the product
    made once: read from the store if it is there."""

    def enter(make: Callable) -> Callable:
        kind = make.__name__

        @wraps(make)
        def once(profile: Profile, seed: int, *part: str) -> Any:
            def reproduced() -> Any:
                with reproducibly():
                    return make(profile, seed, *part)

            return store(profile).once(kind, key(profile, seed, *part), reproduced, filetype)

        asked = needs if callable(needs) else lambda profile, part: needs
        PRODUCTS[kind] = Product(kind, key, asked, parts, filetype, published, False, once)
        return once

    return enter


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
        "network": fields("network", profile.network),
        "seed": seed,
        "recipe": fields("recipe", profile.recipe),
        "data": data_checksum(profile, seed),
    }


@product(task1_key, filetype=CHECKPOINT)
def task1(profile: Profile, seed: int) -> dict:
    """The task-1 checkpoint: {"model": state, "path": SI's path integral, "lineage", "accuracy",
    "loss", "before": accuracies by task, "confusion": {task: (K, K)}}."""
    split = tasks(profile, seed)
    model, path = fresh_network(profile, seed, outputs_of(split)), RecordPath()
    path.before(model, split[0])
    report = epochs(f"seed {seed}  task 1")
    history = fit(model, split[0], profile.recipe, path, seed, split, report)
    state = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
    precision = profile.recipe.precision
    return {
        "model": state,
        "path": {k: v.cpu() for k, v in path.omega.items()},
        "lineage": lineage_of(state),
        "accuracy": history.accuracy,
        "loss": history.loss,
        "confusion": {t.name: confusion(model, t, precision) for t in split},
        "before": {t.name: evaluate(model, t, precision) for t in split},
    }


@product(task1_key, needs=("task1",), published=True)
def task1_rows(profile: Profile, seed: int) -> dict:
    """The checkpoint's numbers without its weights (small enough to publish): as `task1`, in plain
    lists."""
    checkpoint = task1(profile, seed)
    counts = {name: table.tolist() for name, table in checkpoint["confusion"].items()}
    return {
        "seed": seed,
        "setting": profile.setting,
        "data": data_label(profile),
        "confusion": counts,
        **{k: checkpoint[k] for k in ("lineage", "accuracy", "loss", "before")},
    }


def network_after_task1(profile: Profile, seed: int) -> nn.Module:
    """The network as it was before round 2."""
    model = fresh_network(profile, seed, outputs_of(tasks(profile, seed)))
    model.load_state_dict(task1(profile, seed)["model"])
    return model


def maps_key(profile: Profile, seed: int) -> dict:
    """What the class maps depend on."""
    return {
        "science": SCIENCE["maps"],
        "task1": task1_key(profile, seed),
        "images": profile.explain.map_images,
        **later("explain", profile.explain, "class_map"),
    }


@product(maps_key, needs=("task1",), filetype=ARRAYS)
def maps(profile: Profile, seed: int) -> dict[str, np.ndarray]:
    """Class maps: {"maps": float32 (C, H, W) in [0, 1], "used": (C,), "correct": (C,)}."""
    model, e = network_after_task1(profile, seed), profile.explain
    found = saliency.class_maps(model, tasks(profile, seed)[0], e.map_images, e.class_map)
    say(f"seed {seed}  class maps from {min(found.used)} to {max(found.used)} images each")
    return {
        "maps": found.maps.cpu().numpy(),
        "used": np.array(found.used),
        "correct": np.array(found.correct),
    }


def filters_key(profile: Profile, seed: int, layer: str) -> dict:
    """What a layer's visualizations depend on."""
    return {
        "science": SCIENCE["filters"],
        "task1": task1_key(profile, seed),
        "layer": layer,
        "steps": profile.explain.steps,
        "lr": profile.explain.lr,
    }


def _deepest_first(profile: Profile, seed: int) -> Sequence[str]:
    # deep layers take longest, so that the last job to finish is a short one
    return layer_names(profile)[::-1]


@product(filters_key, needs=("task1",), parts=_deepest_first, filetype=ARRAYS)
def filters(profile: Profile, seed: int, layer: str) -> dict[str, np.ndarray]:
    """Every filter of a layer visualised: {"pixels": uint8 (F, 3, H, W) un-normalised and clamped,
    "change": uint8 (F, H, W), the alternative heat map (mean |image - noise|, scaled) times 255}.
    Float32."""
    model = network_after_task1(profile, seed)
    return visualized(profile, seed, model, tasks(profile, seed)[0], layer)


def visualized(profile: Profile, seed: int, model: nn.Module, task, layer: str) -> dict:
    """What `filters` holds, of any network."""
    e, size = profile.explain, profile.network.image_size
    found = visualization.maximize_activation(model, layer, None, e.steps, seed, e.lr, size, task)
    noise = visualization.noise_image(seed, layer, range(len(found)), size, task).to(found)
    change = visualization.change_maps(found, noise) * 255
    return {
        "pixels": visualization.to_pixels(found, task).cpu().numpy(),
        "change": change.round().byte().cpu().numpy(),
    }


def heat(profile: Profile, found: dict[str, np.ndarray]) -> torch.Tensor:
    """Heat maps (F, H, W) in [0, 1] of a layer's visualizations, by the profile's rule."""
    if profile.explain.heat_map == "difference":
        return torch.from_numpy(found["change"]).float() / 255
    return visualization.heat_maps(torch.from_numpy(found["pixels"]))


def _if_an_arm_needs(kind: str) -> Callable[[Profile, int], Sequence[str]]:
    """parts of a product that only some rankings look at."""

    def parts(profile: Profile, seed: int) -> Sequence[str]:
        asked = (arm for arm in profile.arms if arm.asked_for(seed))
        return ("",) if any(kind in needs_of(arm) for arm in asked) else ()

    return parts


def initial_key(profile: Profile, seed: int) -> dict:
    """What explanations of the untrained network depend on."""
    return {
        "science": [SCIENCE["maps"], SCIENCE["filters"]],
        "network": fields("network", profile.network),
        "seed": seed,
        "data": data_checksum(profile, seed),
        "explain": fields("explain", profile.explain),
    }


def _if_a_ranking_needs_initial(profile: Profile, seed: int) -> Sequence[str]:
    """Where an arm does, or a ranking that is examined: made inside its scores, it would be counted
    among their seconds."""
    examine = profile.examine
    if examine.seeds and seed in parse_seeds(examine.seeds):
        names = ranking.RANKINGS if examine.rankings == "all" else examine.rankings
        if any("initial" in ranking.RANKINGS[name].needs for name in names):
            return ("",)
    return _if_an_arm_needs("initial")(profile, seed)


@product(initial_key, parts=_if_a_ranking_needs_initial, filetype=ARRAYS)
def initial(profile: Profile, seed: int) -> dict[str, np.ndarray]:
    """Explanations of the network at its own initialisation, as of task 1: {"maps": float32
    (C, H, W), and for each layer its heat maps, float32 (F, H, W)}, in [0, 1]."""
    model = fresh_network(profile, seed, outputs_of(tasks(profile, seed)))
    look = looked_at(profile, seed, model, tasks(profile, seed)[0])
    say(f"seed {seed}  maps and filters before any training")
    return {name: t.numpy() for name, t in {"maps": look.maps, **look.heat}.items()}


def _initial_evidence(profile: Profile, seed: int) -> Evidence:
    split = tasks(profile, seed)
    found = {name: torch.from_numpy(array) for name, array in initial(profile, seed).items()}
    maps = found.pop("maps")
    model = fresh_network(profile, seed, outputs_of(split))
    return Evidence(model, split[0], seed, lambda: maps, lambda: found, profile.explain.map_images)


def trial_key(profile: Profile, seed: int) -> dict:
    """What the trial of the next task depends on (the recipe is in task 1's key)."""
    return {"science": SCIENCE["trial"], "task1": task1_key(profile, seed)}


@product(trial_key, needs=("task1",), parts=_if_an_arm_needs("trial"), filetype=CHECKPOINT)
def trial(profile: Profile, seed: int) -> dict:
    """What fine-tuning on task 2 makes of the task-1 checkpoint, as the arm of that name: {"after":
    state, "loss_change": parameter -> what its way added to task 1's loss}."""
    return tried(profile, seed, network_after_task1(profile, seed), 2)


def tried(profile: Profile, seed: int, model: nn.Module, number: int) -> dict:
    """What `trial` holds, of any network before any round; the network is trained on."""
    split = tasks(profile, seed)
    method, new = LossChange(split[number - 2]), split[number - 1]
    method.before(model, new)
    fit(
        model, new, profile.recipe, method, seed, report=epochs(f"seed {seed}  trial of {new.name}")
    )
    return {
        "after": {k: v.detach().cpu().clone() for k, v in model.state_dict().items()},
        "loss_change": {k: v.cpu() for k, v in method.loss_change.items()},
    }


def looked_at(profile: Profile, seed: int, model: nn.Module, task, **more) -> Evidence:
    """Evidence of any network after any task; nothing of it is kept. more: other fetchers."""

    def fetch_maps() -> torch.Tensor:
        e = profile.explain
        return saliency.class_maps(model, task, e.map_images, e.class_map).maps.cpu()

    def fetch_heat() -> dict[str, torch.Tensor]:
        return {
            layer: heat(profile, visualized(profile, seed, model, task, layer))
            for layer in conv_layers(model)
        }

    return Evidence(model, task, seed, fetch_maps, fetch_heat, profile.explain.map_images, **more)


def evidence(profile: Profile, seed: int, model: nn.Module | None = None) -> Evidence:
    """What rankings may look at, for the network as it was before round 2."""
    model = model or network_after_task1(profile, seed)
    return Evidence(
        model,
        tasks(profile, seed)[0],
        seed,
        fetch_maps=lambda: torch.from_numpy(maps(profile, seed)["maps"]),
        fetch_heat=lambda: {
            layer: heat(profile, filters(profile, seed, layer)) for layer in conv_layers(model)
        },
        map_images=profile.explain.map_images,
        fetch_initial=lambda: _initial_evidence(profile, seed),
        fetch_trial=lambda: Trial(**trial(profile, seed)),
    )


def later_evidence(profile: Profile, seed: int, model: nn.Module, number: int) -> Evidence:
    """What rankings may look at before a later round: the network as it then is, and the task it
    learned last. Each arm has another network by then, so nothing of this is kept."""
    split = tasks(profile, seed)
    task = split[number - 2]

    def fetch_initial() -> Evidence:
        return looked_at(profile, seed, fresh_network(profile, seed, outputs_of(split)), task)

    def fetch_trial() -> Trial:
        return Trial(**tried(profile, seed, copy.deepcopy(model), number))

    return looked_at(
        profile, seed, model, task, fetch_initial=fetch_initial, fetch_trial=fetch_trial
    )


def overlap_key(profile: Profile, seed: int) -> dict:
    """What the overlap table of a seed depends on."""
    compared = ("mse", *examination.COMPARED)
    return {
        "science": SCIENCE["overlap"],
        "maps": maps_key(profile, seed),
        "explain": fields("explain", profile.explain),
        "filters": SCIENCE["filters"],
        **versions(**{n: r.version for n, r in ranking.RANKINGS.items() if n in compared}),
    }


def _if_any_arms(profile: Profile, seed: int) -> Sequence[str]:
    return ("",) if profile.arms else ()  # a calibration has none, and compares nothing


@product(overlap_key, needs=("task1", "maps", "filters"), parts=_if_any_arms, published=True)
def overlap(profile: Profile, seed: int) -> dict:
    """How far the choice of filters depends on the map, the class and the metric: {"overlap": rows
    {fraction, ranking, other, iou}, "class_maps": their Pearson correlations (C, C), "images": used
    for each}."""
    look = evidence(profile, seed)
    found = examination.overlaps(look, FRACTIONS)
    say(f"seed {seed}  overlap of rankings")
    return {
        "seed": seed,
        "lineage": task1(profile, seed)["lineage"],
        "overlap": found,
        "class_maps": ranking.similarity(look.maps, look.maps, "pearson").tolist(),
        "images": maps(profile, seed)["used"].tolist(),
    }
