"""Batched activation maximisation against two independent one-by-one implementations."""

import pytest
import torch

from lib.data import Task
from lib.network import conv_layers, vgg16
from lib.visualization import change_maps, heat_maps, maximize_activation, noise_image, to_pixels

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


def without_hooks(model, layer, filter_, steps, x):
    """pytorch-cnn-visualizations' `visualise_layer_without_hooks`: walk through the layers, stop at
    the chosen one."""
    x = x.clone().requires_grad_()
    adam = torch.optim.Adam([x], lr=0.1, weight_decay=1e-6)
    for _ in range(steps):
        adam.zero_grad()
        a = x
        for name, module in model.features.named_children():
            a = module(a)
            if name == layer:
                break
        (-a[0, filter_].mean()).backward()
        adam.step()
    return x.detach()


def with_hooks(model, layer, filter_, steps, x):
    """`visualise_layer_with_hooks`: the whole network runs, a forward hook catches the selected
    filter's map."""
    caught = {}
    # cloned: the in-place ReLU that follows would overwrite it
    handle = conv_layers(model)[layer].register_forward_hook(
        lambda m, i, o: caught.update(map=o[0, filter_].clone())
    )
    x = x.clone().requires_grad_()
    adam = torch.optim.Adam([x], lr=0.1, weight_decay=1e-6)
    for _ in range(steps):
        adam.zero_grad()
        model(x)
        (-caught["map"].mean()).backward()
        adam.step()
    handle.remove()
    return x.detach()


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
    before = {k: v.clone() for k, v in model.state_dict().items()}
    images = maximize_activation(model, "conv2_2", steps=10, seed=1)
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    model.eval()
    start = noise_image(1, "conv2_2", range(8), 32, None, torch.float64)
    from lib.network import up_to

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
