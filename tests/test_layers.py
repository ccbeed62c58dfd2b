"""Freezing without a ranking: as many parameters as it says, one part alone, and the block that
forgets."""

import copy
from dataclasses import replace

import pytest
import torch

from lib.data import Task, split_tasks
from lib.freezing import Masks
from lib.methods import Context, Freeze, FreezeLayers, Nguyen, Only, frozen_fraction
from lib.methods import layers as layers_room
from lib.methods.layers import (
    block_overlaps,
    blocks_of,
    by_parameters,
    forgetting_block,
    iou,
    positive_maps,
    shared_layers,
    some_images,
    still,
    still_norms,
)
from lib.network import conv_layers, vgg16
from lib.recipe import Recipe
from lib.study.arms import table
from lib.study.profile import Arm
from lib.study.runs import run
from lib.training import Method, fit
from references import layers as literal

RECIPE = Recipe(epochs=1, batch_size=32, lr=0.05, momentum=0.9, precision="float32")
# every step sees a whole task of 32 images as it is
WHOLE = replace(RECIPE, epochs=3, weight_decay=0.01, crop_padding=0, flip=False)


def network(batch_norm=True, outputs=2, classifier="linear", width=0.0625):
    generator = torch.Generator().manual_seed(3)
    return vgg16(outputs, width, batch_norm, classifier=classifier, generator=generator)


def context(tasks, number=2, scores=lambda *a, **k: {}):
    return Context(tasks, 1, RECIPE, scores, lambda m: {}, round=number)


def bits(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def moved(model, before):
    """Names of tensors of which any bit has changed, less the counters of batch norm."""
    now = model.state_dict()
    return {k for k, v in before.items() if not torch.equal(v, now[k]) and "tracked" not in k}


def parameters_frozen(model, masks: Masks) -> int:
    return sum(
        int(mask.sum()) * sum(p[0].numel() for p in conv_layers(model)[layer].parameters())
        for layer, mask in masks.items()
    )


# --- first and last layers ------------------------------------------------------------------------


@pytest.mark.parametrize("which", ("first", "last"))
@pytest.mark.parametrize("fraction", (0, 0.25, 0.5, 0.75, 1))
def test_as_many_parameters_as_the_arm_it_is_compared_with(tiny_tasks, which, fraction):
    model = network()
    layers, filters = FreezeLayers(which, fraction=fraction), Freeze("random", fraction)
    scores = {name: torch.rand(1, c.out_channels) for name, c in conv_layers(model).items()}
    for method in (layers, filters):
        method.before(model, tiny_tasks[1], context(tiny_tasks, scores=lambda *a, **k: scores))
    counts = [parameters_frozen(model, m.masks) for m in (layers, filters)]
    parts = [name for name, mask in layers.masks.items() if mask.any() and not mask.all()]
    assert len(parts) <= 1
    one = parameters_frozen(model, {parts[0]: torch.tensor([True])}) if parts else 1
    assert abs(counts[0] - counts[1]) < one
    by_hand = sum(int(m.sum()) for m in layers.masks.values()) / 264  # filters at this width
    assert frozen_fraction(model, layers) == pytest.approx(by_hand)


@pytest.mark.parametrize("which", ("first", "last"))
def test_parameters_as_counted_filter_by_filter(which):
    model = network()
    for fraction in (0, 0.001, 0.1, 0.3141, 0.5, 0.77, 1):
        wanted = literal.by_parameters(model, which, fraction)
        got = by_parameters(conv_layers(model), which, fraction)
        assert {k: m.nonzero().squeeze(1).tolist() for k, m in got.items()} == wanted


def test_parameters_by_hand():
    convs = {"a": torch.nn.Conv2d(1, 4, 1), "b": torch.nn.Conv2d(4, 2, 1)}  # 4 x 2 and 2 x 5
    got = by_parameters(convs, "first", 0.5)  # 9 of 18: all of a, and half a filter of b is none
    assert got["a"].tolist() == [True] * 4 and got["b"].tolist() == [False] * 2
    got = by_parameters(convs, "last", 0.7)  # 12.6: all of b, and one of a (1.3)
    assert got["b"].tolist() == [True] * 2 and got["a"].tolist() == [True, False, False, False]


@pytest.mark.parametrize("scope", ("weights", "filter"))
def test_whole_layers_stand_still_and_the_others_move(tiny_tasks, scope):
    model = network()
    before, method = bits(model), FreezeLayers("first", count=2, scope=scope)
    method.before(model, tiny_tasks[1], context(tiny_tasks))
    fit(model, tiny_tasks[1], RECIPE, method)
    still_there = {f"features.conv1_{i}.{part}" for i in (1, 2) for part in ("weight", "bias")}
    if scope == "filter":
        parts = ("weight", "bias", "running_mean", "running_var")
        still_there |= {f"features.bn1_{i}.{part}" for i in (1, 2) for part in parts}
    gone = {k for k in before if "tracked" not in k} - moved(model, before)
    assert still_there <= gone
    assert not any("5_3" in k and "weight" in k for k in gone)
    method = FreezeLayers("last", count=1)
    method.before(model, tiny_tasks[1], context(tiny_tasks))
    assert [name for name, mask in method.masks.items() if mask.all()] == ["conv5_3"]
    assert [row["frozen"] for row in method.records()["masks"]] == [0] * 12 + [32]


@pytest.mark.parametrize(
    "wrong",
    (
        {"which": "middle", "count": 1},
        {"which": "first"},
        {"which": "first", "count": 1, "fraction": 0.5},
        {"which": "first", "fraction": 1.5},
        {"which": "first", "fraction": True},
        {"which": "last", "count": -1},
        {"which": "last", "count": 1.0},
        {"which": "last", "count": 1, "scope": "head"},
    ),
)
def test_unclear_layers_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        FreezeLayers(**wrong)


def test_more_layers_than_there_are_are_refused(tiny_tasks):
    with pytest.raises(ValueError, match="count 14: expected no more than the 13 convolutions"):
        FreezeLayers("last", count=14).before(network(), tiny_tasks[1], context(tiny_tasks))


# --- one part alone -------------------------------------------------------------------------------


@pytest.mark.parametrize("classifier", ("linear", "torchvision"))
@pytest.mark.parametrize("part", ("head", "norm", "all but head", "all but norm"))
def test_just_the_named_part_moves(tiny_tasks, part, classifier):
    model = network(classifier=classifier)
    before, method = bits(model), Only(part)
    wanted = [p.requires_grad for p in model.parameters()]
    method.before(model, tiny_tasks[1], context(tiny_tasks))
    fit(model, tiny_tasks[1], RECIPE, method)
    groups = {
        "head": {k for k in before if k.startswith("head")},
        "norm": {k for k in before if ".bn" in k and "tracked" not in k},
        "conv": {k for k in before if ".conv" in k},
    }
    trains = {
        "head": {"head"},
        "norm": {"norm"},
        "all but head": {"norm", "conv"},
        "all but norm": {"head", "conv"},
    }[part]
    changed = moved(model, before)
    assert changed <= set().union(*(groups[g] for g in trains))
    assert all(any(k in changed for k in groups[g]) for g in trains)
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert frozen_fraction(model, method) == ("conv" not in trains)


def test_one_part_of_two_heads(tiny_images):
    tasks = split_tasks(tiny_images, [[0, 1], [2, 3]], "per_task")
    model = network(batch_norm=False, outputs=4)
    before, method = bits(model), Only("head")
    method.before(model, tasks[1], context(tasks))
    fit(model, tasks[1], RECIPE, method)
    assert moved(model, before) == {"head.weight", "head.bias"}
    assert torch.equal(model.head.weight[:2], before["head.weight"][:2])


def test_a_part_that_is_not_there_is_refused(tiny_tasks):
    with pytest.raises(ValueError, match="expected one of head, norm"):
        Only("tail")
    with pytest.raises(ValueError, match="expected a network with batch norm"):
        Only("norm").before(network(batch_norm=False), tiny_tasks[1], context(tiny_tasks))


def test_still_is_undone_also_after_an_error():
    model = network()
    model.head.weight.grad = torch.ones_like(model.head.weight)
    with pytest.raises(KeyError), still(model.parameters()), still_norms(model):
        assert not any(p.requires_grad for p in model.parameters())
        before = bits(model)
        model.train()(torch.rand(2, 3, 32, 32))
        assert not moved(model, before) and not model.features.bn1_1.training
        raise KeyError
    assert model.training and model.features.bn1_1.training and model.features.bn5_3.training
    assert all(p.requires_grad for p in model.parameters())
    assert torch.equal(model.head.weight.grad, torch.ones_like(model.head.weight))
    before = bits(model)
    model.train()(torch.rand(2, 3, 32, 32))
    assert len(moved(model, before)) == 26  # two statistics of thirteen layers


def test_layers_that_tasks_share(tiny_tasks):
    model = network(classifier="torchvision")
    apart = [t._replace(first_output=2 * i) for i, t in enumerate(tiny_tasks)]
    one_head, two_heads = shared_layers(model, tiny_tasks), shared_layers(model, apart)
    assert len(one_head) == 16 and set(one_head) - set(two_heads) == {"head.6"}


# --- forgetting blocks ----------------------------------------------------------------------------


def test_the_block_voted_for_by_hand():
    # drops: image 1: .1 .4 .1, image 2: .0 .2 .3, image 3: .2 .5 .0 -> blocks 2, 3, 2
    overlaps = torch.tensor([[0.9, 0.5, 0.4], [1.0, 0.8, 0.5], [0.8, 0.3, 0.3]])
    assert forgetting_block(overlaps) == 1
    assert forgetting_block(overlaps[1:2]) == 2
    assert forgetting_block(overlaps[:2]) == 1  # one vote each: the earlier
    assert forgetting_block(torch.tensor([[0.2, 0.9, 0.8]])) == 0  # from 1: the first may win
    assert forgetting_block(torch.tensor([[0.9, 0.1, 0.9, 0.2]])) == 1  # a drop, not the lowest


def test_overlaps_by_hand():
    """Two blocks, one image: the object is the left half. Block 1's best channel is number 1; the
    new network keeps half of it. Block 2's best is 0, kept."""
    thing = torch.tensor([[[True, True, False, False]] * 4])
    was = {
        "a1": torch.zeros(1, 2, 4, 4, dtype=torch.bool),  # not the last of its block
        "a2": torch.stack([~thing[0], thing[0]])[None],
        "b": torch.tensor([[[[True, False]] * 2, [[True, True]] * 2]]),
    }
    now = {k: v.clone() for k, v in was.items()}
    now["a2"][0, 0] = False
    now["a2"][0, 1, 2:] = False  # 4 of 8 pixels
    assert blocks_of(was) == [["a1", "a2"], ["b"]]
    assert block_overlaps(was, now, thing).tolist() == [[0.5, 1.0]]


def test_overlaps_as_counted_pixel_by_pixel():
    draw = torch.Generator().manual_seed(1)
    sizes = {"a": (5, 8), "b": (6, 4), "c": (7, 2)}
    was, now = (
        {k: torch.rand(4, c, s, s, generator=draw) > 0.6 for k, (c, s) in sizes.items()}
        for _ in range(2)
    )
    was["a"][0] = False  # a dead layer
    things = torch.rand(4, 8, 8, generator=draw) > 0.5
    got = block_overlaps(was, now, things)
    wanted = [
        [literal.overlap(was[k][i].tolist(), now[k][i].tolist(), things[i].tolist()) for k in sizes]
        for i in range(4)
    ]
    assert torch.allclose(got.double(), torch.tensor(wanted, dtype=torch.float64), atol=1e-6)
    assert forgetting_block(got) == literal.forgetting_block(wanted)


def test_intersection_over_union_by_hand():
    a = torch.tensor([[[1, 1], [0, 0]], [[1, 0], [0, 0]], [[0, 0], [0, 0]]], dtype=bool)[None]
    assert iou(a, a).tolist() == [[1, 1, 1]]  # two empty masks: alike
    assert iou(a, a[:, :1]).tolist() == [[1, 0.5, 0]]  # one empty mask: nothing in common
    assert iou(a, ~a[:, :1]).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("first_output", (0, 2))
def test_objects_by_hand(first_output):
    """A network of one linear layer: the map of a white image is the size of the weights of the
    image's own class. Class 0 looks at the left half, class 1 at the lower one; the other head's
    outputs look elsewhere."""
    own, other = [[1.0, 0, 1, 0], [0, 0, -1.0, -1]], [[0, 1.0, 0, 0], [0, 0, 0, 1.0]]
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4, bias=False)).double()
    rows = [*own, *other] if first_output == 0 else [*other, *own]
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor(rows).repeat(1, 3))  # the same in each colour
    x, y = torch.full((2, 3, 2, 2), 255, dtype=torch.uint8), torch.tensor([0, 1])
    task = Task("old", (0, 1), x, y, x, y, first_output, torch.zeros(3), torch.ones(3))
    new = task._replace(name="new", first_output=2 - first_output)
    seen, objects = Nguyen(images=2)._images(model, context([task, new]))
    order = some_images(task, 2, 1, "voting images").tolist()
    halves = [[[True, False], [True, False]], [[False, False], [True, True]]]
    assert objects.tolist() == [halves[n] for n in order] and (seen == 1).all()


class TwoBlocks(torch.nn.Module):
    """Two convolutions with pooling between them; every map is 1 everywhere."""

    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Conv2d(3, 2, 1), torch.nn.Conv2d(2, 2, 1)
        self.head = torch.nn.Linear(2, 2)
        with torch.no_grad():
            for conv in (self.a, self.b):
                conv.weight.zero_(), conv.bias.fill_(1)

    def forward(self, x):
        return self.head(self.b(torch.nn.functional.max_pool2d(self.a(x), 2)).mean((2, 3)))


@pytest.mark.parametrize(
    "lost, overlaps, critical, fragile",
    [("a", [0, 1], {"a"}, {"a"}), ("b", [1, 0], {"a", "b"}, {"b"})],
)
def test_a_round_by_hand(tiny_tasks, monkeypatch, lost, overlaps, critical, fragile):
    """The trial loses all that one layer shows and leaves the other as it was."""

    def trial(model, task, *_):
        assert task.name == "task2"
        getattr(model, lost).bias.data.fill_(-1)

    monkeypatch.setattr(layers_room, "fit", trial)
    for variant, held in (("critical", critical), ("fragile", fragile)):
        method = Nguyen(variant, images=3)
        method.before(TwoBlocks(), tiny_tasks[1], context(tiny_tasks))
        assert [row["overlap"] for row in method.rows] == overlaps
        assert [row["votes"] for row in method.rows] == [3 * (1 - o) for o in overlaps]
        assert {layer for layer, mask in method.masks.items() if mask.all()} == held


@pytest.mark.parametrize("variant, batch_norm", [("critical", True), ("fragile", False)])
def test_nguyen_equals_the_literal_version_over_three_tasks(
    tasks, monkeypatch, variant, batch_norm
):
    """From the images to what is frozen and to the network it leaves; a shared head, then one for
    each task, where the second task's images have outputs of their own."""
    outputs, objects = tasks[-1].outputs.stop, []

    def spy(old, new, objects_nhw):
        objects.append(objects_nhw.tolist())
        return block_overlaps(old, new, objects_nhw)

    monkeypatch.setattr(layers_room, "block_overlaps", spy)
    model = network(batch_norm, outputs, width=1 / 32).double()
    fit(model, tasks[0], WHOLE)
    slow, method = copy.deepcopy(model), Nguyen(variant, images=2)
    picks = [some_images(task, 2, 1, "voting images").tolist() for task in tasks]
    literally = literal.nguyen(slow, tasks, WHOLE, picks, variant)
    for number, task in enumerate(tasks[1:], 2):
        method.before(model, task, replace(context(tasks, number), recipe=WHOLE))
        things, overlaps, chosen, held = next(literally)
        assert objects[-1] == things
        found = [row for row in method.rows if row["round"] == number]
        means = torch.tensor(overlaps, dtype=torch.float64).mean(0).tolist()
        assert [row["overlap"] for row in found] == pytest.approx(means, abs=1e-6)
        assert min(means) < 1  # something was lost
        assert max(found, key=lambda row: (row["votes"], -row["block"]))["block"] == chosen
        assert {layer for layer, mask in method.masks.items() if mask.all()} == held
        fit(model, task, WHOLE, method)
    assert next(literally, None) is None  # its last round is trained too
    for name, tensor in slow.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("batch_norm", (False, True))
def test_positive_maps_are_what_relu_lets_through(batch_norm):
    model = network(batch_norm).train()
    x, before = torch.rand(2, 3, 32, 32), bits(model)
    maps = positive_maps(model, x)
    assert model.training and not moved(model, before)
    assert blocks_of(maps) == [
        [f"conv{b}_{i + 1}" for i in range(n)] for b, n in enumerate((2, 2, 3, 3, 3), 1)
    ]
    seen = {}
    for name in ("relu1_2", "relu5_3"):
        getattr(model.features, name).register_forward_hook(
            lambda m, i, out, name=name: seen.__setitem__(name, out.clone())
        )
    model.eval()(x)
    assert torch.equal(maps["conv1_2"], seen["relu1_2"] > 0)
    assert torch.equal(maps["conv5_3"], seen["relu5_3"] > 0) and maps["conv5_3"].any()


class Spy(Method):
    """Writes down the batches of a round."""

    def __init__(self):
        self.batches = []

    def batch(self, x, y):
        self.batches.append((x.clone(), y.clone()))
        return x, y


class SpyingNguyen(Nguyen, Spy):
    def before(self, *a):
        self.batches = []
        super().before(*a)
        self.trial, self.batches = self.batches, []


def equal(a, b):
    return len(a) == len(b) and all(torch.equal(p, q) for x, y in zip(a, b) for p, q in zip(x, y))


def test_the_trial_leaves_no_trace_and_batches_stay_paired(tiny_tasks):
    model = network().eval()
    plain, before = copy.deepcopy(model), bits(model)
    spy, method = Spy(), SpyingNguyen("critical", images=6)
    torch.manual_seed(7)
    wanted = torch.rand(1)
    torch.manual_seed(7)
    method.before(model, tiny_tasks[1], context(tiny_tasks))
    assert torch.equal(torch.rand(1), wanted)
    now = model.state_dict()
    assert all(torch.equal(v, now[k]) for k, v in before.items()) and not model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    fit(plain, tiny_tasks[1], RECIPE, spy, 1)
    fit(model, tiny_tasks[1], RECIPE, method, 1)
    assert equal(spy.batches, method.batches) and equal(spy.batches, method.trial)


@pytest.mark.parametrize("variant", ("critical", "fragile"))
def test_what_is_frozen_is_what_was_voted_for(tiny_tasks, variant):
    tasks = [*tiny_tasks, tiny_tasks[0]._replace(name="task3")]
    model, method = network(), Nguyen(variant, images=5)
    for number in (2, 3):
        held = {k for k, mask in method.masks.items() if mask.all()}
        method.before(model, tasks[number - 1], context(tasks, number))
        votes = [row for row in method.rows if row["round"] == number]
        assert sum(row["votes"] for row in votes) == 5
        chosen = max(votes, key=lambda row: (row["votes"], -row["block"]))["block"]
        first = 1 if variant == "critical" else chosen
        named = {
            layer
            for row in votes
            if first <= row["block"] <= chosen
            for layer in row["layers"].split()
        }
        assert {k for k, mask in method.masks.items() if mask.all()} == held | named
        assert not any(mask.any() and not mask.all() for mask in method.masks.values())
        before = bits(model)
        fit(model, tasks[number - 1], RECIPE, method, 1)
        assert not {f"features.{k}.weight" for k in held | named} & moved(model, before)
    assert len(method.records()["votes"]) == 10


# --- over several rounds --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, free",
    [
        (lambda: FreezeLayers("first", count=4), [1, 1]),
        (lambda: FreezeLayers("first", fraction=1), [0, 0]),
        (lambda: Only("head"), [0, 0]),
        (lambda: Nguyen("critical", images=2), [1, 0]),
        (lambda: Freeze("random", 0.5), [0.5, 0]),
    ],
    ids=["some layers", "all layers", "head", "Nguyen", "filters"],
)
def test_records_over_three_tasks_are_those_of_freezing_by_a_ranking(
    tiny_tasks, monkeypatch, make, free
):
    """What each round leaves free of the last layer, in the columns that `Freeze` has; and with two
    tasks, as ever, none of the two that say so."""
    tasks = [*tiny_tasks, tiny_tasks[0]._replace(name="task3")]
    model, method, plain = network(), make(), ["layer", "filters", "frozen", "fraction", "mask"]
    scores = {name: torch.rand(1, c.out_channels) for name, c in conv_layers(model).items()}
    monkeypatch.setattr(layers_room, "fit", lambda *_: None)  # the trials
    blocks = iter([2, 4])  # what is voted for
    monkeypatch.setattr(layers_room, "forgetting_block", lambda _: next(blocks))
    for number in (2, 3):
        method.before(model, tasks[1], context(tasks, number, scores=lambda *_: scores))
        columns = plain if number == 2 else ["round", *plain, "free"]
        assert {tuple(row) for row in method.records()["masks"]} == {tuple(columns)}
    rows = method.records()["masks"]
    assert [row["round"] for row in rows] == [2] * 13 + [3] * 13
    assert all(row["free"] == 1 - row["frozen"] / row["filters"] for row in rows)
    assert [row["free"] for row in rows if row["layer"] == "conv5_3"] == free
    assert frozen_fraction(model, method) == sum(row["frozen"] for row in rows[13:]) / 264


@pytest.mark.parametrize(
    "make", [lambda: FreezeLayers("last", count=13), lambda: Nguyen("critical", images=2)]
)
def test_a_round_that_finds_no_free_filter_says_so_once(tiny_tasks, monkeypatch, make):
    tasks = [*tiny_tasks, *(tiny_tasks[0]._replace(name=f"task{k}") for k in (3, 4))]
    model, method, trials, said = network(), make(), [], []
    monkeypatch.setattr(layers_room, "fit", lambda *a: trials.append(a[1].name))
    monkeypatch.setattr(layers_room, "forgetting_block", lambda _: 4)  # the last
    for number, task in enumerate(tasks[1:], 2):
        method.before(model, task, replace(context(tasks, number), say=said.append))
    assert said == [
        "no free filter is left in round 3: all are frozen since round 2, and every round from "
        "here on trains the rest alone"
    ]
    assert {row["round"]: row["free"] for row in method.records()["masks"]} == {2: 0, 3: 0, 4: 0}
    if isinstance(method, Nguyen):  # nothing to vote for, so no trial is trained
        assert trials == ["task2"] and {row["round"] for row in method.rows} == {2}


def test_unclear_votes_are_refused(tiny_tasks):
    for wrong in ({"variant": "2020"}, {"images": 0}, {"images": 2.0}, {"scope": "all"}):
        with pytest.raises(ValueError, match="expected"):
            Nguyen(**wrong)

    class Flat(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = torch.nn.Conv2d(3, 2, 1), torch.nn.Linear(2, 2)

        def forward(self, x):
            return self.head(self.conv(x).mean((2, 3)))

    with pytest.raises(ValueError, match="one size"):
        Nguyen().before(Flat(), tiny_tasks[1], context(tiny_tasks))


# --- as arms --------------------------------------------------------------------------------------


def test_as_arms(small_study):
    options = {
        "freeze_layers": {"which": "last", "fraction": 0.5},
        "only": {"part": "norm"},
        "nguyen": {"variant": "fragile", "images": 4},
    }
    profile = small_study(*(Arm(name=name, method=name, options=o) for name, o in options.items()))
    assert [(row["family"], row["keeps"]) for row in table(profile)] == [
        ("layers", "nothing"),
        ("layers", "nothing"),
        ("layers", "images"),
    ]
    rows = {name: run(profile, 1, name) for name in options}
    assert rows["only"]["row"]["realised"] == 1
    assert 0 < rows["freeze_layers"]["row"]["realised"] < 0.5
    masks, share = rows["nguyen"]["masks"], rows["nguyen"]["row"]["realised"]
    assert share == pytest.approx(
        sum(r["frozen"] for r in masks) / sum(r["filters"] for r in masks)
    )
