"""Explanations, checked: does the ranking come out the same when it is made again, and do
FullGrad's maps show the network?"""

import torch

from lib import examination, visualization
from lib.study.engine import say
from lib.study.examined.whose import if_examined
from lib.study.keys import SCIENCE, fields
from lib.study.materials import tasks
from lib.study.products import (
    evidence,
    heat,
    maps_key,
    network_after_task1,
    product,
    task1,
    task1_key,
)
from lib.study.profile import Profile

# --- does it hold? --------------------------------------------------------------------------------


def reliability_key(profile: Profile, seed: int) -> dict:
    """What the reliability of the MSE ranking depends on."""
    return {
        "science": SCIENCE["reliability"],
        "maps": maps_key(profile, seed),
        "explain": fields("explain", profile.explain),
        "filters": [SCIENCE["filters"], profile.examine.filters],
    }


def _heat_rule(profile: Profile, images, noise, task) -> torch.Tensor:
    found = {
        "pixels": visualization.to_pixels(images, task).cpu().numpy(),
        "change": (visualization.change_maps(images, noise) * 255).round().byte().cpu().numpy(),
    }
    return heat(profile, found)


@product(reliability_key, needs=("task1", "maps", "filters"), parts=if_examined, published=True)
def reliability(profile: Profile, seed: int) -> dict:
    """{"seed", "lineage", "rows"}: see `lib.examination.ranking_reliability`."""
    model, task, e = network_after_task1(profile, seed), tasks(profile, seed)[0], profile.explain
    look = evidence(profile, seed, model)
    how = e.steps, e.lr, profile.network.image_size, profile.examine.filters
    rule = lambda images, noise, task: _heat_rule(profile, images, noise, task)  # noqa: E731
    again = {
        layer: examination.heat_again(model, task, layer, seed, *how, rule) for layer in look.heat
    }
    if e.class_map == "one image":
        raise ValueError(
            "explain: class_map 'one image' has no two halves of images to be compared (C6): "
            "expected no examined seed with it, or a class map of many images"
        )
    rescaled = e.class_map == "rescaled"
    halves = examination.maps_in_halves(model, task, e.map_images, rescaled)
    say(f"seed {seed}  reliability of the MSE ranking")
    rows = examination.ranking_reliability(look.maps, look.heat, again, halves)
    return {"seed": seed, "lineage": task1(profile, seed)["lineage"], "rows": rows}


# --- are the maps right? --------------------------------------------------------------------------


def sanity_key(profile: Profile, seed: int) -> dict:
    """What the checks of FullGrad's maps depend on."""
    return {"science": SCIENCE["sanity"], "task1": task1_key(profile, seed)}


@product(sanity_key, needs=("task1",), parts=if_examined, published=True)
def sanity(profile: Profile, seed: int) -> dict:
    """{"seed", "lineage", "randomisation", "deletion", "alike"}: see `lib.examination`."""
    model, task = network_after_task1(profile, seed), tasks(profile, seed)[0]
    init = profile.network.init
    found = {
        "randomisation": examination.randomisation(model, task, init=init, seed=seed),
        "deletion": examination.deletion(model, task, seed=seed),
        "alike": [examination.within_and_between(model, task)],
    }
    say(f"seed {seed}  sanity checks of saliency maps")
    return {"seed": seed, "lineage": task1(profile, seed)["lineage"], **found}


def complexity_key(profile: Profile, seed: int) -> dict:
    """What the order in FullGrad's maps depends on."""
    return {"science": SCIENCE["complexity"], "task1": task1_key(profile, seed)}


@product(complexity_key, needs=("task1",), parts=if_examined, published=True)
def complexity(profile: Profile, seed: int) -> dict:
    """{"seed", "lineage", "rows": [{"before", "after", "rise"}]}: see
    `lib.examination.efficient_mprt`."""
    model, task = network_after_task1(profile, seed), tasks(profile, seed)[0]
    *_, (_, randomised) = examination.cascade(model, profile.network.init, seed)
    rows = [examination.efficient_mprt(model, randomised, task)]
    return {"seed": seed, "lineage": task1(profile, seed)["lineage"], "rows": rows}
