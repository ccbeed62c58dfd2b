"""Gradient projection: what earlier tasks' inputs see of a layer does not move within the kept
space."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from lib.data import load, normalise, split_tasks
from lib.methods import GPM, METHODS, Context
from lib.methods.layers import some_images
from lib.methods.projection import Space, extended, input_factors, patches
from lib.network import vgg16
from lib.recipe import Recipe
from lib.study.profile import Arm
from lib.study.runs import run
from lib.training import fit
from references import projection as literal

RECIPE = Recipe(epochs=2, batch_size=16, lr=0.05, momentum=0.9, precision="float32", crop_padding=2)


@pytest.fixture(scope="module")
def six_classes(tmp_path_factory, tiny_npz):
    path = tmp_path_factory.mktemp("six") / "six.npz"
    return load(tiny_npz(path, classes=6, per_class=20))


@pytest.fixture(params=["shared", "per_task"])
def tasks(request, six_classes):
    """Three tasks of two classes, with a shared head and with two outputs each."""
    return split_tasks(six_classes, [[0, 1], [2, 3], [4, 5]], request.param)


def outputs(tasks):
    return max(t.outputs.stop for t in tasks)


class Small(nn.Module):
    """Two convolutions, batch norm, a hidden linear layer and a head, in float64."""

    def __init__(self, outputs):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            self.conv1, self.norm = nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4)
            self.conv2 = nn.Conv2d(4, 3, 3, stride=2)
            self.hidden, self.head = nn.Linear(3, 5), nn.Linear(5, outputs)
        self.double()

    def forward(self, x):
        x = self.conv2(self.norm(self.conv1(x)).relu()).relu().mean((2, 3))
        return self.head(self.hidden(x).relu())


def context(tasks, number, recipe=RECIPE):
    return Context(tasks, 1, recipe, lambda *a: {}, lambda m: {}, round=number)


def go(model, method, tasks, number, recipe=RECIPE):
    """A round as the study runs it."""
    method.before(model, tasks[number - 1], context(tasks, number, recipe))
    fit(model, tasks[number - 1], recipe, method, 1)


def weights(model):
    return {
        name: m.weight.detach().clone().flatten(1)
        for name, m in model.named_modules()
        if isinstance(m, (nn.Conv2d, nn.Linear))
    }


# --- the space ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer",
    (
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Conv2d(3, 2, (2, 3), stride=2, padding=(0, 1), dilation=(2, 1)),
        nn.Conv2d(4, 6, 3, groups=2),
        nn.Linear(5, 3),
    ),
    ids=str,
)
def test_patches_are_what_the_weight_multiplies(layer):
    layer = layer.double()
    x = torch.randn(2, *((5,) if isinstance(layer, nn.Linear) else (layer.in_channels, 7, 8)))
    x = x.double()
    rows = patches(layer, x)
    wanted = torch.from_numpy(literal.patches(layer, x))
    assert len(rows) == len(wanted)
    torch.testing.assert_close(rows.T @ rows, wanted.T @ wanted)  # in any order
    if isinstance(layer, nn.Linear) or layer.groups == 1:  # in the order of the answers
        answer = layer(x).detach()
        answer = answer.flatten(2).mT.flatten(0, 1) if answer.ndim == 4 else answer
        weight = layer.weight.detach().flatten(1)
        torch.testing.assert_close(rows @ weight.T + layer.bias.detach(), answer)


def test_other_paddings_are_refused():
    for how in ({"padding": "same"}, {"padding": 1, "padding_mode": "reflect"}):
        with pytest.raises(ValueError, match="expected zeros"):
            patches(nn.Conv2d(3, 2, 3, **how), torch.rand(1, 3, 8, 8))


def test_the_space_by_hand():
    """Inputs of sizes 3, 2, 1 along the axes: energies 9, 4, 1 of 14."""
    rows = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.0], dtype=torch.float64))
    for threshold, kept in ((0, 0), (0.6, 1), (9 / 14, 1), (0.65, 2), (0.92, 2), (0.95, 3), (1, 3)):
        space = extended(None, rows, threshold, scaled=False)
        assert space.basis.shape == (4, kept) and space.strength.tolist() == [1.0] * kept
        assert torch.equal(space.basis.abs(), torch.eye(4, dtype=torch.float64)[:, :kept])
    space = extended(None, rows, 0.9, scaled=True)
    assert space.strength.tolist() == pytest.approx([1, 22 / 23])


def test_a_second_tasks_space_by_hand():
    """The first axis is held; new inputs have size 2 along it and 1 along the second."""
    eye = torch.eye(3, dtype=torch.float64)
    old = Space(eye[:, :1], torch.tensor([0.3], dtype=torch.float64))
    rows = torch.diag(torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64))
    assert extended(old, rows, 0.8, False).basis.shape == (3, 1)  # 4 of 5 is held already
    for scaled, strength in ((False, [1, 1]), (True, [1, 11 / 12])):  # .3 + 1 is at most 1
        space = extended(old, rows, 0.9, scaled)
        assert torch.allclose(space.basis.abs(), eye[:, :2])
        assert space.strength.tolist() == pytest.approx(strength)
    small = torch.diag(torch.tensor([1.0, 10.0, 0.0], dtype=torch.float64))
    assert extended(old, small, 0.9, True).strength.tolist() == pytest.approx([0.3 + 11 / 20, 1])


def test_a_layer_that_sees_nothing_keeps_nothing():
    for scaled in (False, True):
        space = extended(None, torch.zeros(5, 3, dtype=torch.float64), 0.97, scaled)
        assert space.basis.shape == (3, 0)
        held = Space(torch.eye(3, dtype=torch.float64)[:, :1], torch.ones(1, dtype=torch.float64))
        again = extended(held, torch.zeros(5, 3, dtype=torch.float64), 0.97, scaled)
        assert torch.equal(again.basis, held.basis) and again.strength.tolist() == [1]


def test_small_directions_join_at_right_angles():
    """Vectors a million times smaller than what is held would lean on it by rounding."""
    draw = torch.Generator().manual_seed(1)
    rows = torch.randn(30, 12, generator=draw, dtype=torch.float64)
    old = extended(None, rows[:, :6] @ rows[:6], 1, False)
    new = extended(old, rows[:, :6] @ rows[:6] + 1e-9 * rows, 1, False)
    gram = new.basis.T @ new.basis
    torch.testing.assert_close(gram, torch.eye(len(gram), dtype=gram.dtype), atol=1e-13, rtol=0)


def test_factors_are_of_all_patches(monkeypatch):
    monkeypatch.setattr("lib.methods.projection.BATCH", 2)
    model = Small(2).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x = torch.rand(5, 3, 32, 32, dtype=torch.float64)
    layers = {name: m for name, m in model.named_modules() if name in ("conv1", "conv2", "hidden")}
    for name, factor in input_factors(model, layers, x).items():
        rows = literal.patches(layers[name], literal.inputs(model, name, x))
        torch.testing.assert_close(factor.T @ factor, torch.from_numpy(rows.T @ rows))
        assert len(factor) <= layers[name].weight[0].numel()
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


# --- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", (0.9, 0.99))
def test_answers_within_the_kept_space_do_not_move(tasks, threshold):
    model, method = Small(outputs(tasks)), GPM(threshold, images=10)
    fit(model, tasks[0], RECIPE)
    for number in (2, 3):
        method.before(model, tasks[number - 1], context(tasks, number))
        before = weights(model)
        fit(model, tasks[number - 1], RECIPE, method, 1)
        for name, now in weights(model).items():
            if name in method.spaces:
                basis = method.spaces[name].basis
                assert basis.shape[1] > 0
                torch.testing.assert_close(now @ basis, before[name] @ basis, atol=1e-10, rtol=0)
                full = basis.shape[1] == basis.shape[0]
                assert full or (now - before[name]).abs().max() > 1e-6
    moved = [n for n, s in method.spaces.items() if s.basis.shape[1] < s.basis.shape[0]]
    assert "conv1" in moved and ("head" in method.spaces) == (tasks[1].first_output == 0)


def test_at_threshold_1_no_pre_activation_of_the_first_layer_changes(tiny_images):
    """Grey images leave most directions of colour patches free: weights move, answers do not."""
    grey = tiny_images._replace(x=tiny_images.x[:, :1].expand(-1, 3, -1, -1).contiguous())
    tasks = split_tasks(grey, [[0, 1], [2, 3]])
    colour = split_tasks(tiny_images, [[0, 1], [2, 3]])[1]
    model = vgg16(2, 0.0625, True, generator=torch.Generator().manual_seed(3)).double()
    fit(model, tasks[0], replace(RECIPE, epochs=1))
    method = GPM(threshold=1, images=len(tasks[0].x))
    method.before(model, tasks[1], context([tasks[0], colour], 2))
    x = normalise(tasks[0].x, tasks[0], torch.float64)
    first, before = model.features.conv1_1, model.features.conv1_1(x).detach()
    start = first.weight.detach().clone()
    fit(model, colour, RECIPE, method)
    assert 0 < method.rows[0]["kept"] < method.rows[0]["inputs"] == 27
    assert (first.weight - start).abs().max() > 1e-4
    torch.testing.assert_close(first(x).detach(), before, atol=1e-9, rtol=0)
    x = normalise(colour.x, colour, torch.float64)
    was = nn.functional.conv2d(x, start, first.bias, padding=1)
    assert (first(x) - was).abs().max() > 1e-4  # colours are seen anew


class Spying(GPM):
    """Keeps the batches of each training as the network saw them."""

    def during(self, model):
        self.seen = [*getattr(self, "seen", []), []]
        return super().during(model)

    def penalty(self, model, x, y, outputs):
        self.seen[-1].append((x.clone(), y.clone()))
        return 0.0


@pytest.mark.parametrize("scaled", (False, True))
def test_as_with_every_update_projected(tasks, scaled):
    """The reference projects the update, ours the gradient: with momentum, over two rounds, the
    same weights."""
    model, slow, method = *(Small(outputs(tasks)) for _ in range(2)), Spying(0.9, 6, scaled)
    for m in (model, slow):
        fit(m, tasks[0], RECIPE)
    names = ["conv1", "conv2", "hidden"] + ["head"] * (tasks[1].first_output == 0)
    spaces = {name: [] for name in names}
    for number in (2, 3):
        go(model, method, tasks, number)
        old = tasks[number - 2]
        x = normalise(old.x[some_images(old, 6, 1, "GPM")], old, torch.float64)
        for name in names:
            rows = literal.patches(slow.get_submodule(name), literal.inputs(slow, name, x))
            spaces[name] = literal.space(rows, 0.9, scaled, spaces[name])
        task = tasks[number - 1]
        literal.train(slow, method.seen[-1], task.outputs, RECIPE.lr, RECIPE.momentum, spaces)
        for name, kept in spaces.items():
            basis, strength = method.spaces[name]
            wanted = sum((s * np.outer(u, u) for u, s in kept), np.zeros((len(basis),) * 2))
            got = basis * strength @ basis.T
            torch.testing.assert_close(got, torch.from_numpy(wanted), atol=1e-8, rtol=0)
        state = model.state_dict()
        for k, v in slow.state_dict().items():
            if "tracked" not in k:
                torch.testing.assert_close(state[k], v, atol=1e-8, rtol=0)


def test_biases_and_batch_norm_stand_still(tasks):
    model = vgg16(outputs(tasks), 0.0625, True, generator=torch.Generator().manual_seed(3))
    method = GPM(0.95, images=8)
    fit(model, tasks[0], RECIPE)
    before = copy.deepcopy(model.state_dict())
    go(model, method, tasks, 2)
    shared = tasks[1].first_output == 0
    moving = {f"{name}.weight" for name in method.spaces}
    moving |= set() if shared else {"head.weight", "head.bias"}
    for k, v in model.state_dict().items():
        if k not in moving and "tracked" not in k:
            assert torch.equal(v, before[k])
    assert not torch.equal(model.head.weight, before["head.weight"])
    if not shared:
        for k, value in (("head.weight", model.head.weight), ("head.bias", model.head.bias)):
            assert torch.equal(value[:2], before[k][:2])
            assert (value[2:4] != before[k][2:4]).any()
    assert all(p.requires_grad for p in model.parameters()) and model.features.bn1_1.training


@pytest.mark.parametrize("precision", ("float32", "bf16"))
def test_in_single_precision_the_answers_hardly_move(tasks, precision):
    recipe = replace(RECIPE, precision=precision)
    model = vgg16(outputs(tasks), 0.0625, True, generator=torch.Generator().manual_seed(3))
    method = GPM(0.9, images=8)
    fit(model, tasks[0], recipe)
    before = weights(model)
    go(model, method, tasks, 2, recipe)
    for name, now in weights(model).items():
        change = (now - before[name]).double()
        if name in method.spaces and change.norm() > 1e-3:
            assert (change @ method.spaces[name].basis).norm() < 1e-3 * change.norm()


def test_no_random_number_of_others_is_used(tasks):
    model, method = Small(outputs(tasks)), GPM(images=5)
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    method.before(model, tasks[1], context(tasks, 2))
    assert torch.equal(torch.rand(1), wanted)
    assert len(some_images(tasks[0], 5, 1, "GPM")) == 5
    assert not torch.equal(some_images(tasks[0], 5, 1, "GPM"), some_images(tasks[0], 5, 2, "GPM"))


@pytest.mark.parametrize(
    "wrong", ({"threshold": 1.1}, {"threshold": True}, {"images": 0}, {"scaled": "yes"})
)
def test_unclear_options_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        GPM(**wrong)


def test_weight_decay_is_refused(tasks):
    recipe = replace(RECIPE, weight_decay=0.1)
    with pytest.raises(ValueError, match="SGP with weight_decay 0.1.*expected 0"):
        GPM(scaled=True).before(Small(6), tasks[1], context(tasks, 2, recipe))


def test_as_an_arm(small_study):
    arm = Arm(name="SGP", method="gpm", options={"images": 20, "scaled": True})
    done = run(small_study(arm), 1, "SGP")
    assert METHODS["gpm"].family == "projection" and METHODS["gpm"].keeps == "importances"
    assert [row["layer"] for row in done["spaces"]][:2] == ["features.conv1_1", "features.conv2_1"]
    assert all(0 < row["strength"] <= row["kept"] <= row["inputs"] for row in done["spaces"])
