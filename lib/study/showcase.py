"""One trained seed to look at, without training and without a download.

    make(load("compact_two_heads", "21"), 21)      # from finished products to results/published
    show = read()
    show.choice("mse", 0.5)                        # layer -> bool (F,): what that ranking freezes

What is shipped: the network after task 1 (weights in half precision), its class maps, the picture
of every filter, and the first image of each class that it classifies rightly."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lib import data as data_room
from lib import freezing
from lib.data import Task, normalise, resize
from lib.evaluation import evaluate
from lib.network import build
from lib.ranking import RANKINGS, Evidence, Scores
from lib.saliency import choose_images, fullgrad, scale
from lib.study import materials, products
from lib.study.products import PRODUCTS
from lib.study.profile import ROOT, Profile
from lib.study.store import (
    JSON,
    SHOWCASE,
    file_hash,
    provenance,
    read_table,
    replacing,
)
from lib.visualization import heat_maps

LARGEST = 5_000_000  # bytes of all that is shipped
AGREES = 0.01  # how far the accuracy in half precision may be from the record's
FILE = "seed.npz"


# --- making it ------------------------------------------------------------------------------------


def make(profile: Profile, seed: int, folder: Path = SHOWCASE) -> dict:
    """Write what is shipped of a seed whose products are all here, and return its manifest.
    ValueError if products or published rows are missing, if the network in half precision is not
    as accurate as the record says, or if it gets too large."""
    _all_there(profile, seed)
    row = _row_of(profile, seed, products.task1(profile, seed)["lineage"])
    arrays = contents(profile, seed)
    about = describe(profile, seed)
    about["accuracy"] = {"record": row, "half precision": _accuracy(profile, seed, about, arrays)}
    for name, said in row.items():
        got = about["accuracy"]["half precision"][name]
        if abs(got - said) > AGREES:
            raise ValueError(
                f"{name} of seed {seed} is {got} in half precision and {said} in the record: "
                f"expected a difference of at most {AGREES}; show another seed"
            )
    with replacing(folder) as new:
        with open(new / FILE, "wb") as file:
            np.savez_compressed(file, **arrays)
        about["sha256"] = file_hash(new / FILE)
        JSON.save(about, new / "manifest.json")
        if (size := sum(path.stat().st_size for path in new.iterdir())) > LARGEST:
            raise ValueError(
                f"{size:,} bytes to ship: expected at most {LARGEST:,}; show a narrower network"
            )
    return about


def _all_there(profile: Profile, seed: int) -> None:
    if profile.explain.heat_map != "brightness":
        raise ValueError(
            f"heat maps of {profile.name} are made by {profile.explain.heat_map!r}: expected "
            "explain.heat_map brightness, as pictures alone are kept; show another profile"
        )
    kinds = [("task1", ""), ("maps", "")]
    kinds += [("filters", layer) for layer in materials.layer_names(profile)]
    for kind, part in kinds:
        if not PRODUCTS[kind].there(profile, seed, part):
            raise ValueError(
                f"seed {seed} of {profile.name} has no {kind} {part}".rstrip()
                + f": expected a finished seed; make reproduce {profile.asked} SEEDS={seed}"
            )


def _row_of(profile: Profile, seed: int, lineage: str) -> dict[str, float]:
    """acc1_before and acc2_before of the record; ValueError if it holds no row of this lineage."""
    path = ROOT / "results/published" / profile.name / "tables/task1.csv"
    found = read_table(path) if path.exists() else None
    if found is not None:
        found = found[(found["seed"] == seed) & (found["lineage"] == lineage)]
    if found is None or found.empty:
        raise ValueError(
            f"{path} has no row of seed {seed} with lineage {lineage}: expected the published "
            f"record of this very checkpoint; make publish {profile.asked} first"
        )
    return {name: float(found[name].iloc[0]) for name in ("acc1_before", "acc2_before")}


def describe(profile: Profile, seed: int) -> dict[str, Any]:
    """What must be known beside the arrays: names, the network's form, where it comes from."""
    split = materials.tasks(profile, seed)
    return {
        "profile": profile.name,
        "setting": profile.setting,
        "about": profile.about,
        "data": materials.data_label(profile),
        "data_checksum": materials.data_checksum(profile, seed),
        "seed": seed,
        "lineage": products.task1(profile, seed)["lineage"],
        "network": profile.network.description,
        "outputs": materials.outputs_of(split),
        "classes": materials.class_names(profile, split[0]),
        "labels": list(split[0].classes),
        "provenance": provenance(),
    }


def contents(profile: Profile, seed: int) -> dict[str, np.ndarray]:
    """The arrays of a seed: weights/<name> (float16 but for vectors, which are small), maps
    (C, H, W), filters/<layer> uint8 (F, 3, H, W), examples uint8 (C, 3, H, W), mean and std (3,).
    """
    task, model = materials.tasks(profile, seed)[0], products.network_after_task1(profile, seed)
    first = [int(pick[0]) for pick in choose_images(model, task, 1)[0]]
    filters = {
        f"filters/{layer}": products.filters(profile, seed, layer)["pixels"]
        for layer in materials.layer_names(profile)
    }
    state = products.task1(profile, seed)["model"].items()
    return {
        **{f"weights/{k}": (v.half() if v.ndim > 1 else v).numpy() for k, v in state},
        **filters,
        "maps": products.maps(profile, seed)["maps"],
        "examples": task.x[first].cpu().numpy(),
        "mean": task.mean.cpu().numpy(),
        "std": task.std.cpu().numpy(),
    }


def _accuracy(profile: Profile, seed: int, about: Mapping, arrays: Mapping) -> dict[str, float]:
    """Of the network as it is shipped, on the test images of both tasks."""
    first, second = materials.tasks(profile, seed)[:2]
    model = _network(about, arrays).to(first.x.device)
    return {"acc1_before": evaluate(model, first), "acc2_before": evaluate(model, second)}


# --- looking at it --------------------------------------------------------------------------------


@dataclass
class Showcase:
    """A trained seed: what it is (about: profile, seed, lineage, classes, ...), what rankings may
    look at, and the picture of every filter.

    evidence: its task holds the example images alone, one a class: a ranking that looks at images
    sees these."""

    about: dict[str, Any]
    evidence: Evidence
    pictures: dict[str, np.ndarray]  # layer -> uint8 (F, 3, H, W)

    @property
    def classes(self) -> list[str]:
        """Names of task 1's classes."""
        return self.about["classes"]

    @property
    def labels(self) -> dict[str, str]:
        """ranking -> what it is called, of those that look at no more than the network, its class
        maps and filters; and of functions that were put into RANKINGS by hand."""
        enough = {name: r for name, r in RANKINGS.items() if r.needs <= {"maps", "filters"}}
        own = {name: r for name, r in RANKINGS.items() if r.family == "own"}
        return {name: r.label for name, r in {**enough, **own}.items()}

    @cached_property
    def _scores(self) -> dict[Any, Scores]:
        return {}

    def scores(self, ranking: str) -> Scores:
        """layer -> (C, F), or (1, F) where the class plays no part; kept while the function under
        this name is the same."""
        which = ranking, RANKINGS[ranking]
        if which not in self._scores:
            self._scores[which] = self._checked(ranking, RANKINGS[ranking](self.evidence))
        return self._scores[which]

    def _checked(self, ranking: str, given: Any) -> Scores:
        """Scores as a reader's own function may give them; ValueError if they are none."""
        for layer, pictures in self.pictures.items():
            got = given.get(layer) if isinstance(given, Mapping) else given
            shape = tuple(np.shape(got))
            if shape not in {(1, len(pictures)), (len(self.classes), len(pictures))}:
                raise ValueError(
                    f"ranking {ranking!r} gives {shape or type(got).__name__} for {layer}: "
                    f"expected scores (1, {len(pictures)}), or ({len(self.classes)}, "
                    f"{len(pictures)}) for each class its own"
                )
        return {layer: torch.as_tensor(given[layer]) for layer in self.pictures}

    def choice(self, ranking: str, fraction: float) -> dict[str, Tensor]:
        """layer -> bool (F,): the filters this ranking freezes, by the default budget rule."""
        return freezing.allocate(self.scores(ranking), fraction)

    def overlap(self, ranking: str, other: str, fraction: float) -> float:
        """IoU of two rankings' choices over all layers."""
        return freezing.iou(self.choice(ranking, fraction), self.choice(other, fraction))

    def look(self, image: np.ndarray | Tensor) -> tuple[np.ndarray, Tensor, Tensor]:
        """One image of any size, uint8 (3, H, H): as the network sees it (uint8), its probabilities
        for task 1's classes, and the FullGrad map (H, W) in [0, 1] of the likeliest."""
        task, model = self.evidence.task, self.evidence.model
        seen = resize(torch.as_tensor(np.array(image))[None], task.x.shape[-1])
        x = normalise(seen, task)
        with torch.no_grad():
            chances = model.eval()(x)[:, task.outputs].softmax(1)[0]
        best = chances.argmax().view(1) + task.first_output
        return seen[0].numpy(), chances, scale(fullgrad(model, x, best))[0]


def of(about: dict, arrays: Mapping[str, np.ndarray]) -> Showcase:
    """The showcase that `describe` and `contents` speak of."""
    model, number = _network(about, arrays), len(about["classes"])
    x, y = torch.from_numpy(arrays["examples"]), torch.arange(number)
    statistics = torch.from_numpy(arrays["mean"]), torch.from_numpy(arrays["std"])
    task = Task("task1", tuple(about["labels"]), x, y, x, y, 0, *statistics)
    pictures = {k.partition("/")[2]: v for k, v in arrays.items() if k.startswith("filters/")}
    evidence = Evidence(
        model,
        task,
        about["seed"],
        fetch_maps=lambda: torch.from_numpy(arrays["maps"]),
        fetch_heat=lambda: {k: heat_maps(torch.from_numpy(v)) for k, v in pictures.items()},
    )
    return Showcase(about, evidence, pictures)


def _network(about: Mapping, arrays: Mapping[str, np.ndarray]) -> nn.Module:
    """The shipped network, float32, in evaluation mode."""
    model = build(about["outputs"], **about["network"])
    weights = {k.partition("/")[2]: v for k, v in arrays.items() if k.startswith("weights/")}
    model.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
    return model.eval()


def read(folder: Path = SHOWCASE) -> Showcase:
    """What is shipped; FileNotFoundError or ValueError says which file is missing or damaged."""
    manifest, path = folder / "manifest.json", folder / FILE
    for needed in (manifest, path):
        if not needed.is_file():
            raise FileNotFoundError(
                f"{needed} is not there: expected the committed showcase; take it again (git "
                f"checkout -- {SHOWCASE.relative_to(ROOT)})"
            )
    about = JSON.load(manifest)
    if file_hash(path) != about["sha256"]:
        raise ValueError(
            f"{path} is damaged (its checksum is not the manifest's): take the committed file "
            f"again (git checkout -- {SHOWCASE.relative_to(ROOT)})"
        )
    with np.load(path, allow_pickle=False) as file:
        return of(about, dict(file))


def image(path: str = "", size: int = 32) -> np.ndarray:
    """An image file as uint8 (3, size, size), its largest centred square; without a path, the first
    of scikit-learn's digits."""
    if path:
        return data_room.open_image(Path(path), size).transpose(2, 0, 1)
    return data_room.load("digits", materials.data_root(), size).x[0].numpy()


def here(profile: Profile, seed: int) -> Showcase:
    """The same of a finished seed of your own, from its products; ValueError if one is missing."""
    _all_there(profile, seed)
    return of(describe(profile, seed), contents(profile, seed))
