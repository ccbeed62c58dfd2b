"""Frozen means bit-equal, whatever the optimiser does; trainable rows train exactly as with the
slow reference."""

from collections import OrderedDict

import pytest
import torch
from torch.nn import functional as F
from torch.optim.optimizer import _global_optimizer_pre_hooks

from lib import freezing
from lib.freezing import (
    RULES,
    _worth_slicing,
    allocate,
    frozen,
    iou,
    realised,
    union,
    whole_network,
)
from lib.network import conv_layers, norm_layers, vgg16

OPTIMISERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.001, momentum=0.5),
}


def network(batch_norm=True, dtype=torch.float32):
    return vgg16(
        4, width=0.0625, batch_norm=batch_norm, generator=torch.Generator().manual_seed(3)
    ).to(dtype)


def half_masks(model, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return {
        k: torch.rand(c.out_channels, generator=draw) < 0.5 for k, c in conv_layers(model).items()
    }


def images(dtype=torch.float32, n=24):
    draw = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, 32, 32, generator=draw, dtype=dtype), torch.randint(
        0, 4, (n,), generator=draw
    )


def train(model, optimiser, steps=4, dtype=torch.float32, bf16=False):
    x, y = images(dtype)
    for _ in range(steps):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(model(x).to(dtype), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


@pytest.mark.parametrize("scope", ["weights", "filter"])
@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_frozen_rows_are_bit_equal_and_the_others_move(name, batch_norm, scope):
    model = network(batch_norm)
    before_block = OPTIMISERS[name](model.parameters())  # carries momentum into the block
    train(model, before_block, 2)
    masks = half_masks(model)
    start = {k: v.clone() for k, v in model.state_dict().items()}
    with frozen(model, masks, scope):
        train(model, before_block, 3, bf16=batch_norm)
        train(model, OPTIMISERS[name](model.parameters()), 2)
        inside = {k: c.weight.clone() for k, c in conv_layers(model).items()}
    for layer, conv in conv_layers(model).items():
        mask, key = masks[layer], f"features.{layer}"
        assert torch.equal(inside[layer], conv.weight)  # full weights can be read inside
        for part in ("weight", "bias"):
            now, then = conv.get_parameter(part), start[f"{key}.{part}"]
            assert torch.equal(now[mask], then[mask])
        moved = (conv.weight != start[f"{key}.weight"]).flatten(1).any(1)
        assert not moved[mask].any() and (
            moved[~mask].float().mean() > 0.5 or mask.all()
        )  # a dead filter may stay
        if batch_norm:
            norm = norm_layers(model)[layer]
            for part in ("weight", "bias", "running_mean", "running_var"):
                same = (
                    getattr(norm, part) == start[f"features.{layer.replace('conv', 'bn')}.{part}"]
                )
                assert same[mask].all() == (scope == "filter") or not mask.any()
                assert not same[~mask].all() or mask.all()
    train(model, before_block, 1)  # outside, everything moves again, with state of full size
    assert not torch.equal(conv.weight[mask], start[f"{key}.weight"][mask])


@pytest.mark.parametrize("scope", ["weights", "filter"])
def test_trainable_rows_equal_the_masked_reference_in_float64(scope):
    """The reference trains everything and puts frozen rows back after every step; its batch norm is
    written out."""
    fast, slow = network(False, torch.float64), network(False, torch.float64)
    masks = half_masks(fast)
    with frozen(fast, masks, scope):
        train(fast, OPTIMISERS["sgd"](fast.parameters()), 5, torch.float64)
    optimiser = OPTIMISERS["sgd"](slow.parameters())
    start = {k: (c.weight.clone(), c.bias.clone()) for k, c in conv_layers(slow).items()}
    for _ in range(5):
        train(slow, optimiser, 1, torch.float64)
        with torch.no_grad():
            for layer, conv in conv_layers(slow).items():
                conv.weight[masks[layer]] = start[layer][0][masks[layer]]
                conv.bias[masks[layer]] = start[layer][1][masks[layer]]
    for a, b in zip(fast.parameters(), slow.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("channels", [3, 32])
def test_sliced_or_not_the_trainable_rows_have_the_same_gradient(monkeypatch, dtype, channels):
    draw = torch.Generator().manual_seed(2)
    x = (
        torch.randn(16, channels, 8, 8, generator=draw)
        .to(dtype)
        .contiguous(memory_format=torch.channels_last)
    )
    found = []
    for sliced in (True, False):
        monkeypatch.setattr(freezing, "_worth_slicing", lambda weight, rows, sliced=sliced: sliced)
        model = torch.nn.Sequential(OrderedDict(conv=torch.nn.Conv2d(channels, 48, 3, padding=1)))
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) / 10)
        model.to(dtype).to(memory_format=torch.channels_last)
        with frozen(model, {"conv": torch.arange(48) % 3 > 0}):
            model(x).square().sum().backward()
        found.append([p.grad for p in model.parameters()])
    for a, b in zip(*found):
        assert a.any() and torch.equal(a, b)
        assert not a[torch.arange(48) % 3 > 0].any()


def test_only_whole_blocks_of_filters_are_worth_slicing():
    worth = lambda channels, filters, rows: _worth_slicing(
        torch.empty(filters, channels, 3, 3), rows
    )  # noqa: E731
    assert worth(64, 64, 48) and worth(64, 64, 16) and worth(16, 32, 16)
    assert (
        not worth(64, 64, 49)
        and not worth(16, 16, 4)
        and not worth(3, 64, 16)
        and not worth(64, 40, 33)
    )


def test_a_wholly_frozen_filter_keeps_its_function_of_its_input():
    """Scope filter in training mode: conv + batch norm give what they gave in evaluation mode."""
    model = network(True)
    train(model, OPTIMISERS["sgd"](model.parameters()), 3)
    layer = "conv1_1"  # the only layer whose input is not changed by training
    block = torch.nn.Sequential(conv_layers(model)[layer], norm_layers(model)[layer])
    mask = half_masks(model)[layer]
    x, _ = images()
    model.eval()
    before = block(x)
    with frozen(model, {layer: mask}, "filter"):
        model.train()
        train(model, OPTIMISERS["sgd"](model.parameters()), 3)
        inside = block(x)
    torch.testing.assert_close(inside[:, mask], before[:, mask], rtol=1e-6, atol=1e-6)
    assert not torch.allclose(inside[:, ~mask], before[:, ~mask], rtol=1e-2)


def test_no_state_and_no_gradient_for_frozen_rows():
    model = network()
    masks = half_masks(model)
    masks["conv1_1"][:] = True
    with frozen(model, masks):
        optimiser = OPTIMISERS["adamw"](model.parameters())
        train(model, optimiser, 1)
        assert (
            model.features.conv1_1.weight.grad is None
            and model.features.conv1_1.weight not in optimiser.state
        )
        weight = model.features.conv3_1.weight
        assert optimiser.state[weight]["exp_avg"].shape[0] == int((~masks["conv3_1"]).sum())
        assert not weight.grad[masks["conv3_1"]].any()


def test_an_optimiser_with_momentum_may_step_without_gradients_and_a_closure_is_refused():
    model = network()
    optimiser = OPTIMISERS["sgd"](model.parameters())
    train(model, optimiser, 1)
    state = {p: s["momentum_buffer"].clone() for p, s in optimiser.state.items()}
    with frozen(model, half_masks(model)):
        optimiser.zero_grad()
        optimiser.step()  # nothing has a gradient: nothing is narrowed, nothing may be widened
        with pytest.raises(ValueError, match="closure"):
            optimiser.step(lambda: torch.zeros(()))
    assert all(torch.equal(optimiser.state[p]["momentum_buffer"], s) for p, s in state.items())


def test_everything_is_undone_even_after_an_error():
    model = network()
    forwards = {k: m.forward for k, m in model.named_modules()}
    with (
        pytest.raises(RuntimeError, match="on purpose"),
        frozen(model, half_masks(model), "filter"),
    ):
        raise RuntimeError("on purpose")
    assert all(
        m.forward == forwards[k] and "forward" not in vars(m) for k, m in model.named_modules()
    )
    assert all(p.requires_grad for p in model.parameters())
    assert not _global_optimizer_pre_hooks


@pytest.mark.parametrize(
    "bad",
    [
        {"conv9_9": torch.zeros(4, dtype=torch.bool)},
        {"conv1_1": torch.zeros(3, dtype=torch.bool)},
        {"conv1_1": torch.zeros(4)},
    ],
)
def test_a_wrong_mask_is_refused(bad):
    with pytest.raises(ValueError, match="expected"), frozen(network(), bad):
        pass


# --- sharing the budget ---------------------------------------------------------------------------


def test_classes_take_turns_on_a_hand_built_case():
    scores = {
        "a": torch.tensor([[9.0, 8, 1, 0], [9, 1, 8, 0]]),
        "b": torch.tensor([[9.0, 8, 1, 0], [9, 1, 8, 0]]),
    }
    # layer a: class 0 takes filter 0, class 1 its next best, 2; layer b begins with class 1: it
    # takes 0, class 0 1
    assert allocate(scores, 0.5)["a"].tolist() == [True, False, True, False]
    assert allocate(scores, 0.5)["b"].tolist() == [True, True, False, False]
    assert union(scores, 0.5)["a"].tolist() == [
        True,
        True,
        True,
        False,
    ]  # 75 % realised for a nominal 50 %


@pytest.mark.parametrize("fraction", [0, 0.1, 0.25, 0.5, 0.75, 0.9, 1])
def test_each_layer_freezes_exactly_its_share(fraction):
    draw = torch.Generator().manual_seed(0)
    scores = {f"l{f}": torch.randn(10, f, generator=draw) for f in (1, 3, 16, 33)}
    for layer, mask in allocate(scores, fraction).items():
        assert int(mask.sum()) == int(fraction * len(mask) + 0.5), layer
    everywhere = whole_network(scores, fraction)
    assert sum(int(m.sum()) for m in everywhere.values()) == int(fraction * 53 + 0.5)
    assert realised(everywhere)["all"] == pytest.approx(int(fraction * 53 + 0.5) / 53)


def test_more_frozen_contains_less_frozen():
    scores = {"l": torch.randn(10, 64, generator=torch.Generator().manual_seed(0))}
    small, large = allocate(scores, 0.25)["l"], allocate(scores, 0.5)["l"]
    assert (large | ~small).all() and iou({"l": small}, {"l": large}) == 0.5


@pytest.mark.parametrize("fraction", [-0.1, 1.5, float("nan")])
@pytest.mark.parametrize("rule", RULES)
def test_a_fraction_outside_0_1_is_refused(rule, fraction):
    with pytest.raises(ValueError, match="expected a number from 0 to 1"):
        RULES[rule]({"l": torch.zeros(1, 4)}, fraction)
