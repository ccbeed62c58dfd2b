"""When the numbers of a product change, its version in `lib.study.keys.SCIENCE` must be raised by
hand, or old results would be mixed with new ones. Pinned here: float64 numbers of a tiny network,
for each kind of product."""

import copy

import pytest
import torch

from lib import examination
from lib.data import Task
from lib.evaluation import predict
from lib.freezing import allocate, frozen, packed
from lib.network import conv_layers, vgg16
from lib.ranking import RANKINGS, Evidence, LossChange
from lib.recipe import Recipe
from lib.saliency import class_maps
from lib.study.keys import SCIENCE
from lib.training import fit
from lib.visualization import heat_maps, maximize_activation, to_pixels

RECIPE = Recipe(epochs=2, batch_size=8, lr=0.01, momentum=0.9, precision="float32")
# kind: (its version, its number); to renew after a real change: raise SCIENCE[kind], then pin what
# the test prints
GOLDEN = {
    "task1": (1, 2.1892521092976063),
    "maps": (1, 1481.3391347101522),
    "filters": (1, 16931.056709080818),
    "overlap": (1, 4.24883955527359),
    "trial": (1, 1.6095862464217836),
    "run": (1, 1.3751480581246793),
    "damages": (1, 41.30888372705881),
    "reliability": (1, 1427.0803948177752),
    "sanity": (1, 13.242102210528373),
    "complexity": (1, 7.651515769800983),
    "retrained": (1, 2.830833968628931),
    "choices": (1, 527.0),
}


def task(name, seed):
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(32) % 3
    x = (
        torch.randint(0, 128, (32, 3, 32, 32), generator=draw)
        .add(y.view(-1, 1, 1, 1) * 40)
        .to(torch.uint8)
    )
    return Task(name, (0, 1, 2), x, y, x, y)


@pytest.fixture(scope="module")
def numbers():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = vgg16(3, 0.0625, True, generator=torch.Generator().manual_seed(1)).double()
    found = {"task1": sum(fit(model, task("task1", 1), RECIPE, seed=1).loss)}
    maps = class_maps(model, task("task1", 1), 4).maps
    found["maps"] = float(maps.sum())
    heat = {}
    for layer in conv_layers(model):
        images = maximize_activation(model, layer, steps=2, seed=1)
        if layer == "conv2_1":
            found["filters"] = float(images.sum())
        heat[layer] = heat_maps(to_pixels(images)).double()
    look = Evidence(model, task("task1", 1), 1, lambda: maps, lambda: heat)
    masks = allocate(RANKINGS["mse"](look), 0.5)
    found["choices"] = float(
        sum(int(b, 16) for w in packed(masks).values() for b in w.split(":")[1])
    )
    found["overlap"] = sum(row["iou"] for row in examination.overlaps(look, (0.5,)))
    found |= examined(model, task("task1", 1), maps, heat)
    trial, twin = LossChange(task("task1", 1)), copy.deepcopy(model)
    trial.before(twin, task("task2", 2))
    fit(twin, task("task2", 2), RECIPE, trial, seed=1)
    found["trial"] = sum(float(change.abs().sum()) for change in trial.loss_change.values())
    draw = torch.Generator().manual_seed(2)
    scores = {
        k: torch.rand(3, c.out_channels, generator=draw) for k, c in conv_layers(model).items()
    }
    with frozen(model, allocate(scores, 0.5), "filter"):
        found["run"] = sum(fit(model, task("task2", 2), RECIPE, seed=1).loss)
    torch.set_num_threads(threads)
    return found


def examined(model, old, maps, heat):
    """Numbers of what is made when explanations are examined."""
    halves, found = examination.damage_in_halves(model, old, 4), {}
    found["damages"] = sum(float(s.abs().sum()) for half in halves for s in half.values())
    again = {k: h[:2].flip(1) for k, h in heat.items()}
    halves = examination.maps_in_halves(model, old, 4)
    rows = examination.ranking_reliability(maps, heat, again, halves)
    found["reliability"] = sum(row["share_brightness"] for row in rows) + float(halves[0].sum())
    rows = examination.randomisation(model, old, 1) + examination.deletion(model, old, 1, 4)
    numbers = [row.get("pearson", 0) + row.get("probability", 0) for row in rows]
    found["sanity"] = sum(numbers) + sum(examination.within_and_between(model, old, 2).values())
    other = vgg16(3, 0.0625, True, generator=torch.Generator().manual_seed(9)).double()
    found["complexity"] = sum(examination.efficient_mprt(model, other, old, 2).values())
    before = other.state_dict()
    masks = {k: torch.arange(c.out_channels) % 2 == 0 for k, c in convs(model)}
    with examination.grafted(model, before, masks):
        found["retrained"] = float(predict(model, old, old.x[:4]).square().sum())
    twin = examination.put_back(model, before, "head", "statistics")
    found["retrained"] += float(predict(twin, old, old.x[:4]).square().sum())
    found["retrained"] += examination.linear_probe(model, old)
    return found


def convs(model):
    return conv_layers(model).items()


@pytest.mark.parametrize("kind", GOLDEN)
def test_numbers_change_only_with_their_version(kind, numbers):
    version, number = GOLDEN[kind]
    assert SCIENCE[kind] == version, (
        f"SCIENCE[{kind!r}] was raised: pin {numbers[kind]!r} with it here"
    )
    assert numbers[kind] == pytest.approx(number, rel=1e-9), (
        f"the numbers of {kind!r} changed ({numbers[kind]!r}): if meant, raise SCIENCE[{kind!r}] "
        "in lib/study/keys.py"
    )


def test_every_kind_is_pinned():
    assert GOLDEN.keys() == SCIENCE.keys()
