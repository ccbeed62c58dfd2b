"""Attributions beside FullGrad, overlaps and pairings: hand-built cases and slow references."""

from itertools import permutations

import numpy as np
import pytest
import torch

from lib import examination
from lib.data import Task, normalise
from lib.network import build, conv_layers, vgg16
from references.saliency import grad_cam


def network():
    return vgg16(3, 0.0625, True, generator=torch.Generator().manual_seed(4))


def task():
    draw = torch.Generator().manual_seed(2)
    x = torch.randint(0, 256, (12, 3, 32, 32), generator=draw).to(torch.uint8)
    return Task("task1", (0, 1, 2), x, torch.arange(12) % 3, x, torch.arange(12) % 3)


def test_attributions_equal_their_definitions_and_leave_the_model_as_it_was():
    model, t = network().train(), task()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = examination.attributions(model, t, t.x[:3])
    assert model.training and all(
        m.inplace for m in model.modules() if isinstance(m, torch.nn.ReLU)
    )
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())
    x = normalise(t.x[:3], t).requires_grad_()
    model.eval()
    (grad,) = torch.autograd.grad(model(x)[range(3), range(3)].sum(), x)
    slow = grad.abs().mean(1)
    slow = (slow - slow.amin((1, 2), True)) / (slow.amax((1, 2), True) - slow.amin((1, 2), True))
    torch.testing.assert_close(found["input gradient"], slow, rtol=1e-4, atol=1e-5)
    for m in model.modules():
        if isinstance(m, torch.nn.ReLU):
            m.inplace = False
    caught = {}
    handle = conv_layers(model)["conv5_3"].register_forward_hook(
        lambda m, i, o: caught.__setitem__("a", o)
    )
    logits = model(x.detach().requires_grad_())
    (g,) = torch.autograd.grad(logits[range(3), range(3)].sum(), caught["a"])
    handle.remove()
    slow = grad_cam(caught["a"], g, 32)
    torch.testing.assert_close(found["Grad-CAM"], slow, rtol=1e-3, atol=1e-4)


def test_attributions_of_a_resnet():
    """Grad-CAM looks at the last convolution of the last block, before the residual addition;
    against a split of the forward pass by hand."""
    draw = torch.Generator().manual_seed(4)
    model, t = build(3, draw, architecture="resnet18", width=0.25), task()
    model(normalise(t.x, t))  # statistics of a batch
    found = examination.attributions(model, t, t.x[:3])
    assert list(found) == ["FullGrad", "input gradient", "Grad-CAM"] and model.training
    assert list(conv_layers(model).values())[-1] is model.layer4[1].conv2
    model.eval()
    block, x = model.layer4[1], normalise(t.x[:3], t)
    with torch.no_grad():
        stem = model.relu(model.bn1(model.conv1(x)))
        entered = model.layer4[0](model.layer3(model.layer2(model.layer1(stem))))
        a = block.conv2(block.bn1(block.conv1(entered)).relu())
    a.requires_grad_()
    logits = model.fc((block.bn2(a) + entered).relu().mean((2, 3)))
    (g,) = torch.autograd.grad(logits[range(3), range(3)].sum(), a)
    slow = grad_cam(a, g, 32)
    assert slow.amax((1, 2)).max() > 0
    torch.testing.assert_close(found["Grad-CAM"], slow, rtol=1e-3, atol=1e-4)
    assert examination.completeness(model, t, t.x[:3])["float64"] < 1e-12


def test_completeness_is_a_matter_of_rounding_only():
    t = task()
    found = examination.completeness(network(), t, t.x[:3])
    assert found["float64"] < 1e-12 < found["float32"] < 1e-4


def test_class_overlap_on_a_hand_built_case():
    scores = {"l": torch.tensor([[4.0, 3, 2, 1], [4, 3, 2, 1], [1, 2, 3, 4], [4, 1, 3, 2]])}
    # top halves: {0, 1}, {0, 1}, {2, 3}, {0, 2}
    expected = [[1, 1, 0, 1 / 3], [1, 1, 0, 1 / 3], [0, 0, 1, 1 / 3], [1 / 3, 1 / 3, 1 / 3, 1]]
    np.testing.assert_allclose(examination.class_overlap(scores, 0.5), expected)


def test_realised_fractions_of_the_three_rules_on_a_hand_built_case():
    scores = {
        "a": torch.tensor([[4.0, 3, 2, 1], [1, 2, 3, 4]]),
        "b": torch.tensor([[0.4, 0.3, 0.2, 0.1]]).repeat(2, 1),
    }
    found = (
        examination.realised_by_rule(scores, 0.5).set_index(["rule", "layer"])["fraction"].to_dict()
    )
    assert found == {
        ("turns", "a"): 0.5,
        ("turns", "b"): 0.5,
        ("turns", "all"): 0.5,
        ("union", "a"): 1.0,
        ("union", "b"): 0.5,
        ("union", "all"): 0.75,
        ("network", "a"): 1.0,
        ("network", "b"): 0.0,
        ("network", "all"): 0.5,
    }


def test_pairings_against_all_permutations():
    counts = np.random.default_rng(1).integers(0, 20, (4, 4))
    every = [sum(counts[i, p[i]] for i in range(4)) / counts.sum() for p in permutations(range(4))]
    found = examination.pairings(counts)
    assert (found["best"], found["worst"]) == (max(every), min(every))
    assert found["identity"] == np.trace(counts) / counts.sum() and found["mean"] == pytest.approx(
        np.mean(every)
    )
    assert found["spread"] == pytest.approx(np.std(every), rel=0.05)


def test_noise_reliability_is_one_for_the_same_noise_and_low_for_other_noise(monkeypatch):
    model, t = network(), task()
    from lib.visualization import heat_maps, maximize_activation, to_pixels

    heat = {
        "conv4_1": heat_maps(
            to_pixels(maximize_activation(model, "conv4_1", steps=2, seed=1, statistics=t), t)
        )
    }
    other = examination.noise_reliability(model, t, heat, 1, steps=2)["correlation"].item()
    monkeypatch.setattr("lib.examination.reliability.OTHER_NOISE", 0)
    same = examination.noise_reliability(model, t, heat, 1, steps=2)["correlation"].item()
    assert same == pytest.approx(1, abs=1e-5) and other < 0.5
