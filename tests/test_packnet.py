"""PackNet: what a task has learned stays, bit for bit; the next one trains on what was pruned."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from lib.data import load, split_tasks
from lib.evaluation import evaluate, predict
from lib.methods import METHODS, Context, PackNet
from lib.methods.packnet import smallest
from lib.network import conv_layers, vgg16
from lib.recipe import Recipe
from lib.study.profile import Arm
from lib.study.runs import run
from lib.training import fit
from references import packnet as literal

RECIPE = Recipe(epochs=1, batch_size=16, lr=0.02, momentum=0.9, precision="float32", crop_padding=2)


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


def network(tasks, batch_norm=True, classifier="linear"):
    generator = torch.Generator().manual_seed(3)
    return vgg16(outputs(tasks), 0.0625, batch_norm, classifier=classifier, generator=generator)


class Small(nn.Module):
    """Two convolutions, batch norm, a hidden linear layer and a head, in float64."""

    def __init__(self, outputs):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            self.conv1, self.norm = nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4)
            self.conv2 = nn.Conv2d(4, 3, 3, stride=2)
            self.hidden, self.head = nn.Linear(3, 5), nn.Linear(5, outputs)
        self.double()

    def forward(self, x):
        x = self.conv2(self.norm(self.conv1(x)).relu()).relu().mean((2, 3))
        return self.head(self.hidden(x).relu())


def context(tasks, number, recipe=RECIPE):
    return Context(tasks, 1, recipe, lambda *a: {}, lambda m: {}, round=number)


def go(model, method, tasks, number, **options):
    """A round as the study runs it."""
    around = context(tasks, number)
    method.before(model, tasks[number - 1], around)
    fit(model, tasks[number - 1], around.recipe, method, 1, **options)
    method.after(model, tasks[number - 1], around)


def answers(model, method, tasks, k):
    with method.view(model, k):
        task = tasks[k - 1]
        return predict(model, task, task.x_test)[:, task.outputs]


@pytest.mark.parametrize("batch_norm", (True, False))
def test_answers_on_earlier_tasks_stay_bit_for_bit(tasks, batch_norm):
    model, method = network(tasks, batch_norm), PackNet(retrain=1)
    fit(model, tasks[0], RECIPE, seed=1)
    kept = {}
    for number in (2, 3):
        method.before(model, tasks[number - 1], context(tasks, number))
        kept[number - 1] = answers(model, method, tasks, number - 1)
        fit(model, tasks[number - 1], RECIPE, method, 1, watch=tasks)
        for k, then in kept.items():
            assert torch.equal(answers(model, method, tasks, k), then)
        # without its mask the network answers otherwise: the round has changed it
        task = tasks[number - 2]
        assert not torch.equal(predict(model, task, task.x_test)[:, task.outputs], kept[number - 1])
    assert len(kept) == 2 and torch.isfinite(kept[1]).all()


def test_a_view_gives_everything_back_bit_for_bit(tasks):
    model, method = network(tasks), PackNet(retrain=0)
    fit(model, tasks[0], RECIPE)
    go(model, method, tasks, 2)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(KeyError), method.view(model, 1):
        for name, owner in method.owners.items():
            weight = model.get_submodule(name).weight
            assert torch.equal(weight, before[f"{name}.weight"] * (owner == 1))
            assert int((weight != 0).sum()) == -(-weight.numel() // 2)
        raise KeyError
    after = model.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    for number in (2, 3):  # the task of the round, and one to come: all weights
        with method.view(model, number):
            now = model.state_dict()
            assert all(torch.equal(v, now[k]) for k, v in before.items())


@pytest.mark.parametrize("classifier", ("linear", "torchvision"))
def test_realised_sparsity_of_every_layer(tasks, classifier):
    model, method = network(tasks, classifier=classifier), PackNet(0.5, 0.75, retrain=0)
    fit(model, tasks[0], RECIPE)
    go(model, method, tasks, 2)
    go(model, method, tasks, 3)
    rows = method.records()["packing"]
    shared = tasks[1].first_output == 0
    assert len(rows) == 3 * (13 + shared + 2 * (classifier == "torchvision"))
    for row in rows:
        size = model.get_submodule(row["layer"]).weight.numel()
        wanted = {1: 0.5, 2: 0.125, 3: 0.375}[row["task"]]
        assert (
            row["share"] == pytest.approx(wanted, abs=2 / size) and row["bytes"] == row["weights"]
        )
    for k, left in ((1, 0.5), (2, 0.625)):
        with method.view(model, k):
            for name in method.owners:
                weight = model.get_submodule(name).weight
                share = float((weight != 0).double().mean())
                assert share == pytest.approx(left, abs=2 / weight.numel())


def test_biases_and_batch_norm_stand_still_after_task_1(tasks):
    model, method = network(tasks), PackNet(retrain=1)
    fit(model, tasks[0], RECIPE)
    trained = copy.deepcopy(model.state_dict())
    method.before(model, tasks[1], context(tasks, 2))
    retrained = copy.deepcopy(model.state_dict())
    fit(model, tasks[1], RECIPE, method, 1)
    go(model, method, tasks, 3)
    packed = {f"{name}.weight" for name in method.owners}
    own = set() if tasks[1].first_output == 0 else {"head.weight", "head.bias"}
    resting = {k for k in retrained if "tracked" not in k} - packed - own
    assert all(torch.equal(model.state_dict()[k], retrained[k]) for k in resting)
    assert not any(torch.equal(trained[k], retrained[k]) for k in resting)  # retraining moves them
    assert all(p.requires_grad for p in model.parameters())


class Spying(PackNet):
    """Keeps the batches of each training as the network saw them."""

    def during(self, model):
        self.seen = [*getattr(self, "seen", []), []]
        return super().during(model)

    def penalty(self, model, x, y, outputs):
        self.seen[-1].append((x.clone(), y.clone()))
        return 0.0


def test_as_with_every_weight_written_out(tasks):
    model = Small(outputs(tasks))
    fit(model, tasks[0], RECIPE)
    slow, method = copy.deepcopy(model), Spying(0.5, 0.75, retrain=2)
    go(model, method, tasks, 2)
    go(model, method, tasks, 3)
    names = ["conv1", "conv2", "hidden"] + ["head"] * (tasks[1].first_output == 0)
    owners = {name: [0] * slow.get_submodule(name).weight.numel() for name in names}
    assert [len(batches) for batches in method.seen] == [4, 2, 4, 2]
    for number, share in ((1, 0.5), (2, 0.75)):
        again, new = method.seen[2 * number - 2 : 2 * number]
        literal.prune_network(slow, owners, share, number)
        lr, m = RECIPE.lr, RECIPE.momentum
        first = number == 1
        literal.train(slow, again, tasks[number - 1].outputs, lr / 10, m, owners, number, first)
        literal.train(slow, new, tasks[number].outputs, lr, m, owners, 0, False)
    assert {k: v.flatten().tolist() for k, v in method.owners.items()} == owners
    fast = model.state_dict()
    for k, v in slow.state_dict().items():
        if "tracked" not in k:
            torch.testing.assert_close(fast[k], v, rtol=1e-10, atol=1e-12)


def test_pruning_by_hand():
    weight = torch.tensor([[0.3, -0.1, 0.2], [-0.4, 0.1, 0.05]])
    free = torch.tensor([[True, True, True], [True, True, False]])
    # 2 of the 5 free ones: -0.1 and 0.1; 0.05 is another task's
    wanted = [[False, True, False], [False, True, False]]
    assert smallest(weight, free, 0.5).tolist() == wanted
    assert smallest(weight, free, 0.2).tolist() == [[False, True, False], [False] * 3]  # a tie
    assert literal.prune(weight.flatten().tolist(), [0, 0, 0, 0, 0, 1], 0.5, 2)[1] == [
        *(2, 0, 2),
        *(2, 0, 1),
    ]


def test_momentum_cannot_move_a_held_weight(tasks):
    """A high momentum and many steps; held weights keep their bits while the others run far."""
    model, method = network(tasks), PackNet(retrain=0)
    fit(model, tasks[0], RECIPE)
    start = {name: c.weight.detach().clone() for name, c in conv_layers(model).items()}
    recipe = replace(RECIPE, momentum=0.99, epochs=3)
    method.before(model, tasks[1], context(tasks, 2, recipe))
    fit(model, tasks[1], recipe, method)
    for name, conv in conv_layers(model).items():
        held = method.owners[f"features.{name}"] == 1
        assert torch.equal(conv.weight[held], start[name][held])
        assert (conv.weight[~held] != 0).double().mean() > 0.5  # the others left zero


def test_a_head_trains_in_its_own_round_only(six_classes):
    tasks = split_tasks(six_classes, [[0, 1], [2, 3], [4, 5]], "per_task")
    model, method = network(tasks), PackNet(retrain=1)
    fit(model, tasks[0], RECIPE)
    method.before(model, tasks[1], context(tasks, 2))
    heads = model.head.weight.detach().clone(), model.head.bias.detach().clone()
    fit(model, tasks[1], RECIPE, method)
    now = model.head.weight.detach(), model.head.bias.detach()
    for was, value in zip(heads, now):
        assert torch.equal(value[:2], was[:2]) and torch.equal(value[4:], was[4:])
        assert (value[2:4] != was[2:4]).any()


def test_the_end_is_said(six_classes):
    tasks = split_tasks(six_classes, [[0, 1], [2, 3], [4, 5]], "per_task")
    model = nn.Sequential(
        nn.Conv2d(3, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 6)
    )
    method = PackNet(retrain=0)
    method.before(model, tasks[1], context(tasks, 2))  # of three weights one is free
    with pytest.raises(ValueError, match="no free weight is left for .*3.*tasks 1 to 2 hold all 3"):
        method.before(model, tasks[2], context(tasks, 3))


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"prune": 0}, "prune 0: expected a number from 0 to 1, not 0 or 1 itself"),
        ({"prune": 1.0}, "prune 1.0: expected a number from 0 to 1, not 0 or 1 itself"),
        ({"later": True}, "later True: expected a number from 0 to 1"),
        ({"retrain": 1.5}, "retrain 1.5: expected a whole number of at least 0"),
        ({"retrain": -1}, "retrain -1: expected a whole number of at least 0"),
    ],
)
def test_unclear_options_are_refused(wrong, expected):
    with pytest.raises(ValueError, match=expected):
        PackNet(**wrong)


def test_weight_decay_is_refused(tasks):
    recipe = replace(RECIPE, weight_decay=0.1)
    with pytest.raises(ValueError, match="weight_decay 0.1.*expected 0"):
        PackNet().before(network(tasks), tasks[1], context(tasks, 2, recipe))


def test_retraining_changes_no_batch_of_the_round(tasks):
    seen = []
    for retrain in (0, 2):
        model, method = Small(outputs(tasks)), Spying(retrain=retrain)
        torch.manual_seed(3)
        go(model, method, tasks, 2)
        seen.append((method.seen[-1], torch.rand(1)))
    (a, ra), (b, rb) = seen
    assert len(a) == len(b) == 2 and torch.equal(ra, rb)
    assert all(torch.equal(p, q) for x, y in zip(a, b) for p, q in zip(x, y))
    retraining = method.seen[0]  # and task 1's images come in another order than when learned
    learned = Spying()
    learned.held, learned.resting = [], []
    fit(Small(outputs(tasks)), tasks[0], RECIPE, learned, 1)
    for x, _ in learned.seen[0]:
        assert not any(torch.equal(x, other) for other, _ in retraining)


def test_as_an_arm(small_study):
    arm = Arm(name="PackNet", method="packnet", options={"retrain": 1})
    done = run(small_study(arm, recipe={"epochs": 2}), 1, "PackNet")
    assert METHODS["packnet"].family == "packnet" and METHODS["packnet"].keeps == "weights"
    # each epoch of round 2 sees task 1 through its mask: one and the same accuracy
    first = [row["accuracy"] for row in done["accuracy"] if row["task"] == "task1"]
    assert len(first) == 2 and set(first) == {done["row"]["acc1"]}
    assert {row["task"] for row in done["packing"]} == {1, 2}


def test_accuracy_on_task_1_survives_and_task_2_is_learned(tiny_images):
    tasks = split_tasks(tiny_images, [[0, 1], [2, 3]], "per_task")
    model, method = network(tasks), PackNet(retrain=2)
    recipe = replace(RECIPE, epochs=4)
    fit(model, tasks[0], recipe)
    method.before(model, tasks[1], context(tasks, 2, recipe))
    fit(model, tasks[1], recipe, method)
    for k in (1, 2):
        with method.view(model, k):
            assert evaluate(model, tasks[k - 1]) > 0.9
