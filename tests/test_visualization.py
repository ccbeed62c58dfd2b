"""Batched activation maximisation against two independent one-by-one implementations."""

import pytest
import torch
from torch import nn

from lib.data import Task
from lib.freezing import allocate, frozen
from lib.network import build, conv_layers, norm_layers, up_to, vgg16
from lib.ranking import RANKINGS, Evidence
from lib.recipe import Recipe
from lib.saliency import class_maps
from lib.training import evaluate, fit
from lib.visualization import (
    change_maps,
    heat_maps,
    maximize_activation,
    mean_activation_weights,
    noise_image,
    to_pixels,
    weights_by_gradient,
)
from references.visualization import with_hooks, without_hooks

LAYERS = ["conv1_1", "conv1_2", "conv3_1", "conv5_3"]
STATISTICS = Task(
    "t",
    (0,),
    *[torch.zeros(0)] * 4,
    0,
    torch.tensor([0.5, 0.4, 0.3]),
    torch.tensor([0.2, 0.25, 0.3]),
)


def network(batch_norm, dtype=torch.float64):
    model = vgg16(4, 0.0625, batch_norm, generator=torch.Generator().manual_seed(5)).to(dtype)
    if batch_norm:
        model.train()
        model(torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(6), dtype=dtype))
    return model.eval()


def resnet(dtype=torch.float64):
    draw = torch.Generator().manual_seed(5)
    model = build(4, draw, architecture="resnet18", width=0.25).to(dtype).train()
    model(torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(6), dtype=dtype))
    return model.eval()


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
def test_a_batch_equals_the_loop_in_both_ways_of_the_known_repository(layer, batch_norm):
    model = network(batch_norm)
    filters = [0, 3, 2]
    fast = maximize_activation(model, layer, filters, steps=5, seed=7, statistics=STATISTICS)
    start = noise_image(7, layer, filters, 32, STATISTICS, torch.float64)
    for slow in (without_hooks, with_hooks):
        loop = torch.cat(
            [slow(model, layer, f, 5, start[i : i + 1]) for i, f in enumerate(filters)]
        )
        torch.testing.assert_close(fast, loop, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "layer",
    ["conv1", "layer1.0.conv2", "layer2.0.conv1", "layer2.0.downsample.0", "layer4.1.conv2"],
)
def test_a_resnet_s_batch_equals_the_loop_with_hooks(layer):
    """Strided and 1 x 1 convolutions; the whole network runs in the loop."""
    model, filters = resnet(), [0, 3, 2]
    fast = maximize_activation(model, layer, filters, steps=4, seed=7, statistics=STATISTICS)
    start = noise_image(7, layer, filters, 32, STATISTICS, torch.float64)
    loop = [with_hooks(model, layer, f, 4, start[i : i + 1]) for i, f in enumerate(filters)]
    torch.testing.assert_close(fast, torch.cat(loop), rtol=1e-9, atol=1e-9)
    assert (fast - start).abs().mean() > 0.01  # the search went somewhere


CONVOLUTIONS = {
    "as VGG": {"padding": 1},
    "strided": {"stride": 2, "padding": 1},
    "strided, a rest": {"kernel_size": 2, "stride": 3},
    "1 x 1, strided": {"kernel_size": 1, "stride": 2},
    "dilated": {"dilation": 2, "padding": 2, "stride": 2},
    "two ways": {"kernel_size": (1, 5), "stride": (3, 2), "padding": (0, 2), "dilation": (1, 2)},
}


@pytest.mark.parametrize("size", [(9, 9), (8, 11)])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_weights_of_the_mean_give_the_mean(kind, size):
    """<x, weights> + bias is the mean of the filter's map; so does the slow way, by autograd."""
    torch.manual_seed(3)
    conv = nn.Conv2d(4, 6, **{"kernel_size": 3, **CONVOLUTIONS[kind]}).double()
    x, filters = torch.randn(1, 4, *size, dtype=torch.float64), [5, 0, 2]
    expected = conv(x)[0, filters].mean((1, 2)).detach()
    fast = mean_activation_weights(conv, filters, size).detach()
    assert fast.shape == (3, 4, *size)
    means = (x * fast).sum((1, 2, 3)) + conv.bias[filters].detach()
    torch.testing.assert_close(means, expected, rtol=1e-12, atol=1e-12)
    slow = weights_by_gradient(conv, filters, (4, *size))
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    "options",
    [
        {"groups": 4},
        {"groups": 2, "stride": 2},
        {"padding_mode": "reflect"},
        {"padding_mode": "circular", "stride": 2},
        {"padding": "same"},
    ],
)
def test_groups_and_padding_of_any_kind_are_visualised_too(options):
    torch.manual_seed(3)
    last = nn.Conv2d(4, 8, 3, **{"padding": 1, **options})
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), last).double().eval()
    filters = [7, 1]
    fast = maximize_activation(model, "2", filters, steps=4, seed=7, image_size=12)
    start = noise_image(7, "2", filters, 12, None, torch.float64)
    loop = [with_hooks(model, "2", f, 4, start[i : i + 1]) for i, f in enumerate(filters)]
    torch.testing.assert_close(fast, torch.cat(loop), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layer", ["conv1_2", "conv3_1"])
def test_float32_agrees_with_float64_within_a_stated_tolerance(layer):
    """Shallow layers within 1e-2 of pixel range after 5 steps; deep ones drift apart, hence float64
    above."""
    fine = maximize_activation(network(False), layer, steps=5, seed=7)
    coarse = maximize_activation(network(False, torch.float32), layer, steps=5, seed=7)
    assert (fine - coarse).abs().median() < 1e-5 and (fine - coarse).abs().mean() < 1e-2


def test_each_image_depends_on_its_own_filter_and_seed_only(monkeypatch):
    model = network(True)
    whole = maximize_activation(model, "conv4_1", steps=3, seed=1)
    monkeypatch.setattr("lib.visualization.BATCH", 5)
    torch.testing.assert_close(
        maximize_activation(model, "conv4_1", steps=3, seed=1), whole, rtol=1e-10, atol=1e-10
    )
    assert not torch.allclose(
        maximize_activation(model, "conv4_1", [0], steps=3, seed=2), whole[:1]
    )


def test_it_raises_the_activation_and_leaves_the_model_alone():
    model = network(True).train()
    model.features.bn1_1.eval()  # one layer's mode differs from the others'
    before = {k: v.clone() for k, v in model.state_dict().items()}
    images = maximize_activation(model, "conv2_2", steps=10, seed=1)
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [m for m in model.modules() if not m.training] == [model.features.bn1_1]
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    model.eval()
    start = noise_image(1, "conv2_2", range(8), 32, None, torch.float64)
    mean = lambda x: up_to(model, "conv2_2")(x)[range(8), range(8)].mean((1, 2))  # noqa: E731
    assert (mean(images) > mean(start)).all()


def test_heat_maps_on_hand_built_pixels():
    x = torch.zeros(2, 3, 2, 2, dtype=torch.uint8)
    x[0, :, 0, 0], x[0, 0, 0, 1] = 200, 150  # mean over RGB: 200, 50, 0, 0
    torch.testing.assert_close(heat_maps(x), torch.tensor([[[1, 0.25], [0, 0]], [[0, 0], [0, 0]]]))
    moved = change_maps(torch.tensor([[[[1.0, 2.0]]] * 3]), torch.tensor([[[[0.0, 4.0]]] * 3]))
    assert moved.tolist() == [[[0.0, 1.0]]]
    normalised = torch.tensor([0.5, 2.0, -1.0]).view(1, 3, 1, 1) - torch.tensor(
        [0.5, 0.4, 0.3]
    ).view(1, 3, 1, 1)
    pixels = to_pixels(normalised / torch.tensor([0.2, 0.25, 0.3]).view(1, 3, 1, 1), STATISTICS)
    assert pixels.flatten().tolist() == [128, 255, 0]  # rounded half to even, clamped


@pytest.mark.parametrize(
    ("layer", "filters"), [("conv6_1", None), ("conv1_1", [4]), ("conv1_1", [-1])]
)
def test_an_unknown_layer_or_filter_is_refused(layer, filters):
    with pytest.raises(ValueError, match="expected one of|has filters 0 to"):
        maximize_activation(network(False), layer, filters)


# --- the study on a ResNet ------------------------------------------------------------------------

RECIPE = Recipe(
    epochs=4, batch_size=8, lr=0.005, momentum=0.9, weight_decay=1e-3, precision="float32"
)


def resnet_task(name, seed):
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(32) % 4
    x = torch.randint(0, 128, (32, 3, 16, 16), generator=draw) + y.view(-1, 1, 1, 1) * 40
    x = x.clamp(max=255).to(torch.uint8)  # 16 px: a quarter of the time
    return Task(name, (0, 1, 2, 3), x, y, x, y)


@pytest.fixture(scope="module")
def studied():
    """A ResNet-18 after task 1, its class maps and the heat map of every filter of 20 layers."""
    model, task = resnet(torch.float32), resnet_task("task1", 1)
    loss = fit(model, task, RECIPE, seed=1).loss
    assert loss[-1] < loss[0] and 0 <= evaluate(model, task) <= 1
    heat = {
        layer: heat_maps(
            to_pixels(maximize_activation(model, layer, steps=1, seed=1, image_size=16))
        )
        for layer in conv_layers(model)
    }
    few = task._replace(x=task.x[:8], y=task.y[:8])  # filters are ablated one by one
    return model, few, class_maps(model, task, 2).maps, heat


# what the fixture has to show: no trial round, no network at its beginning; LRP is for VGGs alone
SHOWN = [n for n, r in RANKINGS.items() if not r.needs & {"trial", "initial"} and n != "lrp"]


@pytest.mark.parametrize("name", SHOWN)
def test_every_ranking_scores_every_filter_of_a_resnet(name, studied):
    model, task, maps, heat = studied
    scores = RANKINGS[name](Evidence(model, task, 1, lambda: maps, lambda: heat))
    assert list(scores) == list(conv_layers(model)) and len(scores) == 20
    for layer, conv in conv_layers(model).items():
        assert scores[layer].shape in [(1, conv.out_channels), (4, conv.out_channels)]
        assert torch.isfinite(scores[layer]).all() and scores[layer].std() > 0
    masks = allocate(scores, 0.5)
    assert all(masks[k].sum() == c.out_channels / 2 for k, c in conv_layers(model).items())


@pytest.mark.parametrize("scope", ["weights", "filter"])
def test_a_resnet_s_filters_are_frozen_in_all_20_layers(scope):
    """Bit equality of frozen filters after training with momentum and weight decay, downsample
    convolutions too; with scope filter their batch norm as well; all others moved."""
    model = resnet(torch.float32)
    convs, norms = conv_layers(model), norm_layers(model)
    draw = torch.Generator().manual_seed(1)
    masks = {
        k: torch.randperm(c.out_channels, generator=draw) < c.out_channels // 2
        for k, c in convs.items()
    }
    parts = {f"{k} weight": c.weight for k, c in convs.items()}
    for k, norm in norms.items():
        affine_and_statistics = ("weight", "bias", "running_mean", "running_var")
        parts |= {f"{k} norm {w}": getattr(norm, w) for w in affine_and_statistics}
    before = {k: t.detach().clone() for k, t in parts.items()}
    with frozen(model, masks, scope):
        fit(model, resnet_task("task2", 2), RECIPE, seed=1)
    assert len(masks) == 20 == len(norms)
    for name, now in parts.items():
        layer, what = name.split(" ", 1)
        moved = (now.detach() != before[name]).flatten(1 if now.ndim > 1 else 0)
        moved = moved.any(1) if now.ndim > 1 else moved
        held = scope == "filter" or what == "weight"
        assert not (held and moved[masks[layer]].any()), name
        assert moved[~masks[layer]].all(), name
        if not held:
            assert moved[masks[layer]].any(), name
