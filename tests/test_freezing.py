"""Frozen means bit-equal, whatever the optimiser does; trainable rows train exactly as with the
slow reference."""

import copy
import pickle
from collections import OrderedDict
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune
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
from references.freezing import Literally, step_of

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
    fast, (x, y) = network(False, torch.float64), images(torch.float64)
    masks = half_masks(fast)

    def held(model):
        return [(p, masks[k]) for k, c in conv_layers(model).items() for p in c.parameters()]

    slow = Literally(fast, masks, held=held)
    with frozen(fast, masks, scope):
        train(fast, OPTIMISERS["sgd"](fast.parameters()), 5, torch.float64)
    optimiser = OPTIMISERS["sgd"](slow.model.parameters())
    slow.train(optimiser, lambda model: F.cross_entropy(model(x), y), 5)
    for a, b in zip(fast.parameters(), slow.model.parameters()):
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
        model = nn.Sequential(OrderedDict(conv=nn.Conv2d(channels, 48, 3, padding=1)))
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
    def worth(channels, filters, rows):
        return _worth_slicing(torch.empty(filters, channels, 3, 3), rows)

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
    block = nn.Sequential(conv_layers(model)[layer], norm_layers(model)[layer])
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


# --- beyond VGG: held, or refused in a sentence ---------------------------------------------------


def small(conv=None, norm=None, seed=5, **options):
    """Two convolutions (the second one as asked for) and a linear layer, float64."""
    second = (conv or nn.Conv2d)(16, 32, **{"kernel_size": 3, "padding": 1, **options})
    model = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 16, 3, padding=1),
            bn1=(norm or nn.Identity)(16),
            relu1=nn.ReLU(),
            conv2=second,
            bn2=(norm or nn.Identity)(32),
            relu2=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(2),
            flat=nn.Flatten(),
            head=nn.Linear(128, 4),
        )
    ).double()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=draw, dtype=p.dtype) / p[0].numel() ** 0.5)
    return model


def some(first="partly", second="partly"):
    """Masks of `small`: 12 of 16 and 20 of 32 filters, more in one half than in the other, or all
    of them."""
    draw = torch.Generator().manual_seed(4)
    mixed = lambda f, k: torch.randperm(f, generator=draw) < k  # noqa: E731
    masks = {
        "conv1": mixed(16, 12 if first == "partly" else 16),
        "conv2": mixed(32, 20 if second == "partly" else 32),
    }
    assert second == "whole" or masks["conv2"][:16].sum() != 10
    return masks


def loss_of(model):
    x, y = images(torch.float64, 6)
    return F.cross_entropy(model(x[..., :9, :9]), y)


def loop(model, optimiser, steps=4, clip=None):
    """A reader's own loop."""

    def losses():
        optimiser.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    for _ in range(steps):
        step_of(model, optimiser, losses, clip)


def heavy(parameters):
    return torch.optim.SGD(parameters, 0.05, momentum=0.9, weight_decay=0.01)


def plain_sgd(parameters):
    return torch.optim.SGD(parameters, 0.05)


def assert_same(model, reference):
    """Each parameter and buffer is the reference's to 1e-12, and held rows are to the bit."""
    ours, theirs = [[*m.parameters(), *m.buffers()] for m in (model, reference.model)]
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    place = {id(p): i for i, p in enumerate(theirs)}
    for p, mask in reference.held:
        assert torch.equal(ours[place[id(p)]][mask], p[mask])


def assert_held_as_reference(model, masks, optimiser=heavy, scope="weights", held=None, **how):
    start, reference = copy.deepcopy(model), Literally(model, masks, scope, held)
    with frozen(model, masks, scope):
        loop(model, optimiser(model.parameters()), **how)
    reference.train(optimiser(reference.model.parameters()), loss_of, **how)
    assert_same(model, reference)
    moved = [not torch.equal(a, b) for a, b in zip(model.parameters(), start.parameters())]
    assert any(moved) and moved[-1]


CONVOLUTIONS = {
    "groups": {"groups": 2},
    "one group a channel": {"groups": 16},
    "reflect": {"padding_mode": "reflect"},
    "circular": {"padding_mode": "circular"},
    "replicate": {"padding_mode": "replicate", "padding": 2, "stride": 2},
    "same": {"padding": "same", "dilation": 2},
    "uneven same": {"padding": "same", "kernel_size": (2, 5)},
    "valid": {"padding": "valid"},
    "same by reflection": {"padding": "same", "kernel_size": 4, "padding_mode": "reflect"},
    "groups by reflection, no bias": {"groups": 4, "padding_mode": "reflect", "bias": False},
}


@pytest.mark.parametrize("sliced", [None, True])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_any_convolution_trains_as_the_reference(kind, sliced, monkeypatch):
    if sliced:
        monkeypatch.setattr(freezing, "_worth_slicing", lambda weight, rows: True)
    assert_held_as_reference(small(**CONVOLUTIONS[kind]), some(), clip=0.1)


def test_groups_wide_enough_to_be_sliced():
    model = small()
    model.conv2 = nn.Conv2d(16, 32, 3, padding=1).double()
    model.relu1 = nn.Sequential(nn.ReLU(), nn.Conv2d(16, 64, 1).double())
    model.conv2 = nn.Conv2d(64, 32, 3, padding=1, groups=2).double()
    assert_held_as_reference(model, some())


def test_an_image_without_a_batch():
    model = nn.Sequential(OrderedDict(conv1=nn.Conv2d(3, 16, 3))).double()
    x, mask = torch.randn(3, 9, 9, dtype=torch.float64), some()["conv1"]
    expected = model(x)
    expected.square().sum().backward()
    wanted = [p.grad.index_fill(0, mask.nonzero().squeeze(1), 0) for p in model.parameters()]
    model.zero_grad()
    with frozen(model, {"conv1": mask}):
        found = model(x)
        found.square().sum().backward()
    assert torch.equal(found, expected)
    for p, grad in zip(model.parameters(), wanted):
        torch.testing.assert_close(p.grad, grad, rtol=1e-12, atol=1e-12)


def test_gradients_of_gradients_are_those_of_the_reference():
    found = []
    for held in (True, False):
        model, masks = small(nn.Conv2d, groups=2), some()
        x = images(torch.float64, 4)[0][..., :9, :9].requires_grad_()
        with frozen(model, masks) if held else nullcontext():
            (slope,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
            slope.square().sum().backward()
        for layer, mask in masks.items():
            for p in getattr(model, layer).parameters():
                if p.grad is not None:
                    p.grad[mask] = 0
        found.append([p.grad for p in model.parameters() if p.grad is not None])
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("scope", ["weights", "filter"])
@pytest.mark.parametrize("copied", ["deepcopy", "averaged", "saved"])
def test_a_copy_made_inside_is_a_plain_model(copied, scope):
    model, masks = small(norm=nn.BatchNorm2d), some("whole")
    ways = {
        "deepcopy": copy.deepcopy,
        "averaged": lambda m: torch.optim.swa_utils.AveragedModel(m).module,
        "saved": lambda m: pickle.loads(pickle.dumps(m)),
    }
    reference, free = Literally(model, masks, scope), copy.deepcopy(model)
    with frozen(model, masks, scope):
        keys = list(model.state_dict())
        twin = ways[copied](model)
        for k, m in twin.named_modules():
            assert type(m) is type(free.get_submodule(k)), k
            assert vars(m).keys() == vars(free.get_submodule(k)).keys()
        assert all(p.requires_grad for p in twin.parameters())
        loop(twin, heavy(twin.parameters()), 2)  # trains freely, beside the held one
        loop(model, heavy(model.parameters()))
    assert keys == list(free.state_dict())
    reference.train(heavy(reference.model.parameters()), loss_of)
    assert_same(model, reference)
    x = images(torch.float64, 4)[0][..., :9, :9]
    loop(free, heavy(free.parameters()), 2)
    for when in range(2):  # right after the block, and after more of the twin's own training
        assert all(map(torch.equal, twin.state_dict().values(), free.state_dict().values()))
        assert torch.equal(twin.eval()(x), free.eval()(x)), when
        loop(twin.train(), heavy(twin.parameters()), 1)
        loop(free.train(), heavy(free.parameters()), 1)


def test_the_average_of_weights_seen_inside_is_their_average():
    model, masks, seen = small(), some(), []
    optimiser = heavy(model.parameters())
    with frozen(model, masks):
        averaged = torch.optim.swa_utils.AveragedModel(model)
        for _ in range(3):
            loop(model, optimiser, 1)
            averaged.update_parameters(model)
            seen.append(copy.deepcopy(model))
        x = images(torch.float64, 4)[0][..., :9, :9]
        inside = averaged(x)
    for p, *ps in zip(averaged.module.parameters(), *(m.parameters() for m in seen)):
        torch.testing.assert_close(p, sum(ps) / 3, rtol=1e-12, atol=1e-12)
    plain = small()
    plain.load_state_dict(averaged.module.state_dict())
    assert torch.equal(inside, plain(x)) and torch.equal(averaged(x), plain(x))


@pytest.mark.parametrize("scope", ["weights", "filter"])
def test_requires_grad_switched_on_inside_moves_nothing(scope):
    model, masks = small(norm=nn.BatchNorm2d), some("whole")
    reference = Literally(model, masks, scope)
    with frozen(model, masks, scope):
        assert not model.conv1.weight.requires_grad
        model.requires_grad_(True)
        loop(model, heavy(model.parameters()), clip=0.1)
    reference.train(heavy(reference.model.parameters()), loss_of, clip=0.1)
    assert_same(model, reference)


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_a_part_without_gradient_stays_and_the_other_trains(part):
    model = small()
    model.conv2.get_parameter(part).requires_grad_(False)
    other = {"weight": "bias", "bias": "weight"}[part]
    before = copy.deepcopy(model.conv2)
    assert_held_as_reference(model, some())
    assert torch.equal(model.conv2.get_parameter(part), before.get_parameter(part))
    assert not torch.equal(model.conv2.get_parameter(other), before.get_parameter(other))
    assert not model.conv2.get_parameter(part).requires_grad


# blocks in blocks


@pytest.mark.parametrize("optimiser", [plain_sgd, heavy])
@pytest.mark.parametrize("scopes", ["weights weights", "filter filter", "filter weights"])
def test_a_block_inside_a_block_holds_both_and_leaves_the_outer_as_it_was(scopes, optimiser):
    """Fresh optimisers in each phase, or one all along (then without momentum, which a row that is
    held for a while loses)."""
    outer, inner = scopes.split()
    model, masks = small(norm=nn.BatchNorm2d), some()
    more = {"conv2": torch.arange(32) % 3 == 0, "conv1": torch.arange(16) % 2 == 0}
    union_masks = {k: masks[k] | more[k] for k in masks}
    assert all((more[k] & ~masks[k]).any() for k in masks)
    one = optimiser(model.parameters()) if optimiser is plain_sgd else None
    x = images(torch.float64, 6)[0][..., :9, :9]
    phase = copy.deepcopy(model)

    def check(masks_now, scope):
        """One phase by the reference, from where the last one ended."""
        nonlocal phase
        reference = Literally(phase, masks_now, scope)
        if scopes == "filter weights" and masks_now is union_masks:  # norms: the outer's masks
            reference = Literally(phase, masks, "filter")
            for k, mask in union_masks.items():
                conv = getattr(reference.model, k)
                reference.held = [(p, m) for p, m in reference.held if p is not conv.weight]
                reference.held = [(p, m) for p, m in reference.held if p is not conv.bias]
                reference.held += [(p, mask) for p in conv.parameters()]
        reference.train(optimiser(reference.model.parameters()), loss_of, 3)
        assert_same(model, reference)
        phase = copy.deepcopy(model)

    with frozen(model, masks, outer):
        loop(model, one or optimiser(model.parameters()), 3)
        check(masks, outer)
        with frozen(model, more, inner):
            loop(model, one or optimiser(model.parameters()), 3)
            check(union_masks, inner)
            model(x)  # moves statistics, of what is free
            phase = copy.deepcopy(model)
        loop(model, one or optimiser(model.parameters()), 3)
        check(masks, outer)
        with pytest.raises(ValueError, match="expected"), frozen(model, {"conv9": masks["conv1"]}):
            pass
        with pytest.raises(ZeroDivisionError), frozen(model, {"conv1": ~masks["conv1"]}, inner):
            assert not model.conv1.weight.requires_grad  # together they are whole
            raise ZeroDivisionError
        assert model.conv1.weight.requires_grad
        loop(model, one or optimiser(model.parameters()), 3)
        check(masks, outer)
    assert {type(m) for m in model} == {type(m) for m in small(norm=nn.BatchNorm2d)}
    loop(model, one or optimiser(model.parameters()), 3)
    check({}, "weights")


def test_momentum_goes_on_through_an_inner_block_that_holds_nothing_new():
    model, masks = small(), some()
    reference, optimiser = Literally(model, masks), heavy(model.parameters())
    with frozen(model, masks):
        loop(model, optimiser, 2)
        with frozen(model, {"conv1": masks["conv1"]}):
            loop(model, optimiser, 2)
        loop(model, optimiser, 2)
    reference.train(heavy(reference.model.parameters()), loss_of, 6)
    assert_same(model, reference)


# optimisers

KINDS = {
    "SGD": heavy,
    "Adam": lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    "NAdam": lambda p: torch.optim.NAdam(p, 0.01, weight_decay=0.1),
    "RAdam": lambda p: torch.optim.RAdam(p, 0.01, weight_decay=0.1),
    "Adamax": lambda p: torch.optim.Adamax(p, 0.01, weight_decay=0.1),
    "Adagrad": lambda p: torch.optim.Adagrad(p, 0.01, weight_decay=0.1),
    "Adadelta": lambda p: torch.optim.Adadelta(p, 0.5, weight_decay=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.001, momentum=0.5, centered=True),
    "Rprop": lambda p: torch.optim.Rprop(p, 0.001),
    "ASGD": lambda p: torch.optim.ASGD(p, 0.01, weight_decay=0.1, t0=1),
    "SGD foreach": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, foreach=True),
    "Adam foreach": lambda p: torch.optim.Adam(p, 0.01, foreach=True),
    "SGD fused": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.1, fused=True),
    "AdamW fused": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1, fused=True),
    "Adagrad fused": lambda p: torch.optim.Adagrad(p, 0.01, fused=True),
    "Adafactor": lambda p: torch.optim.Adafactor(p, 0.05, weight_decay=0.1),
    "Adafactor foreach": lambda p: torch.optim.Adafactor(p, 0.05, foreach=True),
    "LBFGS": lambda p: torch.optim.LBFGS(p, 0.1, max_iter=3, line_search_fn="strong_wolfe"),
}


class Decays(torch.optim.SGD):
    """Moves weights by itself, on both sides of the step it inherits."""

    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            p.data.mul_(0.99)
        super().step(closure)
        for p in self.param_groups[0]["params"]:
            p.data.mul_(0.98)


class Lookahead(torch.optim.Optimizer):
    """Wraps an optimiser: every second step halfway back to where the weights were then."""

    def __init__(self, parameters):
        self.base = KINDS["AdamW"](list(parameters))
        super().__init__(self.base.param_groups, {})
        self.slow = [[p.detach() + 0.1 for p in g["params"]] for g in self.param_groups]
        self.steps = 0

    @torch.no_grad()
    def step(self, closure=None):
        self.base.step()
        self.steps += 1
        for group, slow in zip(self.param_groups, self.slow):
            for p, s in zip(group["params"], slow):
                if self.steps % 2 == 0:
                    p.copy_(s.add_(p - s, alpha=0.5))


class ScaledByLayer(torch.optim.SGD):
    """A step in proportion to the whole layer's norm, as LARS."""

    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            if p.grad is not None:
                p.grad.mul_(p.detach().norm() / p.grad.norm())
        super().step()


KINDS |= {
    "subclass": lambda p: Decays(p, 0.05, momentum=0.9),
    "wrapper": Lookahead,
    "by layer": lambda p: ScaledByLayer(p, 0.05),
}


@pytest.mark.parametrize("name", KINDS)
def test_any_optimiser_moves_the_others_as_the_reference(name):
    heavy([torch.zeros(1, requires_grad=True)])  # from now on SGD.step itself calls hooks
    assert_held_as_reference(small(), some(), KINDS[name], steps=5)


@pytest.mark.parametrize("name", ["SGD", "AdamW", "Adafactor", "subclass", "LBFGS"])
def test_an_optimiser_goes_in_and_out_of_the_block(name):
    """Started before with everything free, it goes on inside; held rows stay bit for bit."""
    model, masks = small(), some("whole")
    optimiser = KINDS[name](model.parameters())
    loop(model, optimiser, 2)
    start = copy.deepcopy(model)
    with frozen(model, masks):
        loop(model, optimiser, 3)
        inside = copy.deepcopy(model)
    for layer, mask in masks.items():
        for part in ("weight", "bias"):
            then, now = (getattr(m, layer).get_parameter(part) for m in (start, inside))
            assert torch.equal(then[mask], now[mask])
            assert mask.all() or not torch.equal(then[~mask], now[~mask])
    loop(model, optimiser, 2)
    assert not torch.equal(model.conv1.weight, inside.conv1.weight)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("compiled", ["step", "model"])
def test_a_compiled_step_or_model_holds(backend, compiled):
    torch._dynamo.reset()
    model, masks = small(norm=nn.BatchNorm2d), some()
    reference, optimiser = Literally(model, masks, "filter"), heavy(model.parameters())
    run, step = model, optimiser.step
    if compiled == "step":
        step = torch.compile(step, backend=backend)
    else:
        run = torch.compile(model, backend=backend)
        loss_of(run)  # compiled before the block as well
        reference = Literally(model, masks, "filter")
    with frozen(model, masks, "filter"):
        for _ in range(3):
            optimiser.zero_grad()
            loss_of(run).backward()
            step()
    reference.train(heavy(reference.model.parameters()), loss_of, 3)
    assert_same(model, reference)


@pytest.mark.parametrize("name", ["SGD", "AdamW", "Adafactor", "subclass"])
def test_an_optimiser_s_state_can_be_saved_inside_and_loaded_outside_and_back(name):
    model, masks = small(), some("whole")
    optimiser = KINDS[name](model.parameters())
    loop(model, optimiser, 2)
    outside = copy.deepcopy(optimiser.state_dict())
    sizes = lambda state: {  # noqa: E731
        (i, k): v.shape for i, s in state["state"].items() for k, v in s.items() if v is not None
    }
    with frozen(model, masks):
        loop(model, optimiser, 2)
        saved, weights = copy.deepcopy(optimiser.state_dict()), copy.deepcopy(model)
        assert sizes(saved) == sizes(outside) and saved.keys() == outside.keys()
        loop(model, optimiser, 2)
        first = copy.deepcopy(model)
        model.load_state_dict(weights.state_dict())
        optimiser.load_state_dict(copy.deepcopy(saved))  # back, and the same again
        loop(model, optimiser, 2)
        assert all(map(torch.equal, model.parameters(), first.parameters()))
        optimiser.load_state_dict(copy.deepcopy(outside))  # from outside, into the block
        loop(model, optimiser, 1)
    fresh = KINDS[name](weights.parameters())
    fresh.load_state_dict(saved)
    loop(weights, fresh, 2)
    for state in (optimiser.state_dict(), fresh.state_dict()):  # left behind at full size as well
        assert sizes(state) == sizes(outside)
    assert not torch.equal(weights.conv1.weight, first.conv1.weight)


def test_a_step_that_an_error_ends_is_undone():
    class Breaks(torch.optim.SGD):
        def step(self, closure=None):
            super().step()
            raise OverflowError

    def broken(optimiser, args, kwargs):
        raise OverflowError

    model, masks = small(), some()
    start = copy.deepcopy(model)
    with frozen(model, masks):
        for optimiser in (heavy(model.parameters()), Breaks(model.parameters(), 0.05)):
            if type(optimiser) is not Breaks:
                optimiser.register_step_pre_hook(broken)
            loss_of(model).backward()
            with pytest.raises(OverflowError):
                optimiser.step()
            if type(optimiser) is not Breaks:  # the same again, now whole
                optimiser._optimizer_step_pre_hooks.clear()
                optimiser.step()
        loss_of(model)
    assert all(map(lambda a, b: a.shape == b.shape, model.parameters(), start.parameters()))
    for layer, mask in masks.items():
        now, then = (getattr(m, layer).weight for m in (model, start))
        assert torch.equal(now[mask], then[mask]) and not torch.equal(now[~mask], then[~mask])


def test_a_step_that_drops_gradients_leaves_full_parameters():
    model, masks = small(), some()
    drops = heavy(model.parameters())
    drops.register_step_post_hook(lambda o, *_: o.zero_grad())
    with frozen(model, masks):
        loop(model, drops, 2)
        assert model.conv1.weight.shape == (16, 3, 3, 3) and model.conv1.weight.grad is None
        loss_of(model)


# parameters


def test_a_weight_shared_by_two_convolutions_holds_the_union():
    model = small()
    model.bn1 = nn.Conv2d(16, 16, 3, padding=1).double()
    model.relu1 = nn.Sequential(OrderedDict(conv3=nn.Conv2d(16, 16, 3, padding=1).double()))
    model.relu1.conv3.weight = model.bn1.weight
    other = torch.arange(16) % 2 == 0
    masks = {"bn1": some()["conv1"], "conv3": other, "conv2": some()["conv2"]}
    assert (other & ~masks["bn1"]).any()

    def held(m):
        return [
            (m.bn1.weight, masks["bn1"] | other),
            (m.bn1.bias, masks["bn1"]),
            (m.relu1.conv3.bias, other),
            (m.conv2.weight, masks["conv2"]),
            (m.conv2.bias, masks["conv2"]),
        ]

    assert_held_as_reference(model, masks, held=held, clip=0.1)
    model.relu1.conv3.weight = model.bn1.weight
    del masks["conv3"]
    held_by_one = lambda m: [(p, k) for p, k in held(m) if k is not other]  # noqa: E731
    whole = lambda m: [  # noqa: E731
        (p, masks["bn1"] if p is m.bn1.weight else k) for p, k in held_by_one(m)
    ]
    assert_held_as_reference(model, masks, held=whole, clip=0.1)


def test_a_parameter_put_in_place_of_another_is_held_too():
    model, masks = small(), some("whole")
    with frozen(model, masks):
        loop(model, heavy(model.parameters()), 1)
        for layer in masks:
            conv = getattr(model, layer)
            conv.weight = nn.Parameter(conv.weight.detach() * 2)
        reference = Literally(model, masks)
        for p in reference.model.parameters():
            p.requires_grad_(True)
        loop(model, heavy(model.parameters()))
    reference.train(heavy(reference.model.parameters()), loss_of)
    assert_same(model, reference)


@pytest.mark.parametrize("optimiser", [heavy, KINDS["subclass"]])
def test_a_model_moved_to_another_precision_inside_is_held(optimiser):
    model, masks = small(norm=nn.BatchNorm2d).float(), some("whole")
    x, y = images(torch.float32, 6)
    model(x[..., :9, :9]).sum().backward()  # gradients from before come back at the end
    with frozen(model, masks, "filter"):
        F.cross_entropy(model(x), y).backward()
        optimiser(model.parameters()).step()
        model.double()
        reference = Literally(model, masks, "filter")
        for p in reference.model.parameters():
            p.requires_grad_(True)
        loop(model, optimiser(model.parameters()))
    reference.train(optimiser(reference.model.parameters()), loss_of)
    assert_same(model, reference)
    assert model.conv1.weight.grad.dtype == torch.float64 and model.conv1.weight.requires_grad
    loop(model, optimiser(model.parameters()), 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_autocast_is_what_it_is_without_the_block(dtype):
    model, x = small().to(dtype), images(dtype, 6)[0][..., :9, :9]
    with torch.autocast("cpu", torch.bfloat16):
        before = model.conv2(model.conv1(x))
        with frozen(model, some()):
            inside = model.conv2(model.conv1(x))
    assert before.dtype == inside.dtype and torch.equal(before, inside)


class Standardised(nn.Conv2d):
    """Weight standardisation: a forward pass of its own."""

    def forward(self, x):
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, w, self.bias)


class Named(nn.Conv2d):
    """A subclass that computes as it always was."""


@pytest.mark.parametrize("second", ["partly", "whole"])
@pytest.mark.parametrize("kind", [Standardised, Named])
def test_a_convolution_class_of_one_s_own_is_held_and_keeps_its_forward_pass(kind, second):
    assert_held_as_reference(small(kind), some("partly", second), clip=0.1)
    model = small(kind)
    with frozen(model, some("partly", second)):
        assert isinstance(model.conv2, kind)
        twin = copy.deepcopy(model)
    assert type(twin.conv2) is type(model.conv2) is kind and twin.conv2.weight.requires_grad


# batch norm in scope filter

NORMS = {
    "usual": {},
    "no affine": {"affine": False},
    "mean of all batches": {"momentum": None},
    "quick": {"momentum": 0.9, "eps": 0.1},
}


@pytest.mark.parametrize("first", ["partly", "whole"])
@pytest.mark.parametrize("kind", NORMS)
def test_any_batch_norm_is_held_as_the_reference(kind, first):
    model = small(norm=lambda channels: nn.BatchNorm2d(channels, **NORMS[kind]))
    model(images(torch.float64, 6)[0])  # statistics of their own
    assert_held_as_reference(model, some(first), scope="filter", clip=0.1)


def test_batch_norm_in_evaluation_mode_trains_its_free_channels_only():
    model = small(norm=nn.BatchNorm2d)
    model(images(torch.float64, 6)[0])
    model.eval()
    assert_held_as_reference(model, some("whole"), scope="filter", clip=0.1)


class OwnNorm(nn.BatchNorm2d):
    def forward(self, x):
        return 2 * super().forward(x)


def remake(change, **options):
    model = small(**options)
    change(model)
    return model


@pytest.mark.parametrize(
    ("model", "scope", "sentence"),
    [
        (
            lambda: remake(lambda m: nn.utils.parametrizations.weight_norm(m.conv2)),
            "weights",
            "convolution of conv2: its weight is computed",
        ),
        (
            lambda: remake(lambda m: nn.utils.weight_norm(m.conv2)),
            "weights",
            "convolution of conv2: its weight is computed",
        ),
        (
            lambda: remake(lambda m: nn.utils.parametrizations.spectral_norm(m.conv2)),
            "weights",
            "convolution of conv2: its weight is computed",
        ),
        (
            lambda: remake(lambda m: prune.l1_unstructured(m.conv2, "bias", 0.5)),
            "weights",
            "convolution of conv2: its bias is computed",
        ),
        (
            lambda: remake(lambda m: setattr(m, "conv2", nn.LazyConv2d(32, 3))),
            "weights",
            "convolution of conv2: it has no weights yet",
        ),
        (
            lambda: small(norm=lambda c: nn.BatchNorm2d(c, track_running_stats=False)),
            "filter",
            "batch norm of conv1: it keeps no running statistics",
        ),
        (lambda: small(norm=OwnNorm), "filter", "batch norm of conv1: OwnNorm has a forward pass"),
        (
            lambda: remake(lambda m: setattr(m, "bn2", nn.BatchNorm2d(8)), norm=nn.BatchNorm2d),
            "filter",
            "batch norm of conv2: it has 8 channels, expected the convolution's 32",
        ),
        (small, "filters", "scope 'filters': expected weights"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
def test_what_cannot_be_held_is_refused_in_a_sentence_and_nothing_is_changed(
    model, scope, sentence
):
    model = model()
    kinds, state = [type(m) for m in model.modules()], copy.copy(vars(model.conv1))
    with pytest.raises(ValueError, match=sentence), frozen(model, some(), scope):
        pass
    assert kinds == [type(m) for m in model.modules()] and vars(model.conv1) == state
    assert not _global_optimizer_pre_hooks


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


@pytest.mark.parametrize("rule", RULES)
def test_what_earlier_rounds_hold_stays_and_the_budget_is_of_all_filters(rule):
    draw = torch.Generator().manual_seed(1)
    scores = {k: torch.rand(3, n, generator=draw) for k, n in (("a", 8), ("b", 12))}
    first = RULES[rule](scores, 0.25)
    second = RULES[rule](scores, 0.25, first)
    assert all((second[k] & first[k]).sum() == first[k].sum() for k in scores)
    new = {k: second[k] & ~first[k] for k in scores}
    if rule == "turns":
        assert [int(m.sum()) for m in new.values()] == [2, 3]  # a quarter of all, anew
        # as if the held filters were not there: the best of the free ones, class by class in turn
        free = {k: s[:, ~first[k]] for k, s in scores.items()}
        for number, (k, s) in enumerate(free.items()):
            best, turn, taken = s.argsort(1, descending=True).tolist(), number, []
            while len(taken) < int(new[k].sum()):
                taken.append(next(f for f in best[turn % 3] if f not in taken))
                turn += 1
            places = (~first[k]).nonzero().squeeze(1)[taken]
            assert sorted(places.tolist()) == new[k].nonzero().squeeze(1).tolist()
    full = RULES[rule](scores, 1.0, second)
    assert all(m.all() for m in full.values())
    assert all(torch.equal(RULES[rule](scores, 0.5, full)[k], full[k]) for k in scores)
    assert all(torch.equal(RULES[rule](scores, 0.0, first)[k], first[k]) for k in scores)


def test_a_mask_in_few_letters_comes_back_bit_for_bit():
    generator = torch.Generator().manual_seed(0)
    masks = {f"conv{n}": torch.rand(n, generator=generator) < 0.5 for n in (1, 7, 8, 9, 64, 130)}
    masks |= {"all": torch.ones(11, dtype=bool), "none": torch.zeros(11, dtype=bool)}
    words = freezing.packed(masks)
    back = freezing.unpacked(words)
    assert list(back) == list(masks) and all(torch.equal(back[k], masks[k]) for k in masks)
    assert words["all"] == "11:ffe0" and words["none"] == "11:0000"
