"""Merging: the straight line, by Fisher information, and filter by filter by a ranking."""

import copy
import math

import pytest
import torch
from torch import nn

from lib.data import Task, split_tasks
from lib.methods import METHODS, Merge, MergeFisher, MergeRanking, interpolate
from lib.methods.merging import fisher, kept
from lib.network import conv_layers, norm_layers
from lib.ranking import RANKINGS, Evidence
from lib.study.arms import table
from lib.study.profile import Arm
from lib.study.runs import run
from lib.training import fit
from references import merging as literal
from tests.small import RECIPE, context, network


def state(model):
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def weights_of(model):
    return sum(p.numel() for p in model.parameters())


def equal(a, b):
    return all(torch.equal(v, b[k]) for k, v in a.items())


def go(model, tasks, method, number=2, scores=dict):
    """A round by its hooks; -> state at its start, after plain training, and as it is left."""
    start, task = state(model), tasks[number - 1]
    method.before(model, task, context(tasks, number, scores=scores))
    assert equal(start, state(model))
    fit(model, task, RECIPE, method, seed=3)
    end = state(model)
    method.after(model, task, context(tasks, number, scores=scores))
    return start, end, state(model)


def by_hand(model):
    """Scores of a ranking made up here: layer -> (3, F), no two alike."""
    generator = torch.Generator().manual_seed(1)
    return {
        layer: torch.rand(3, conv.out_channels, generator=generator)
        for layer, conv in conv_layers(model).items()
    }


# --- the straight line ----------------------------------------------------------------------------


@pytest.mark.parametrize("batch_norm", [True, False])
def test_uniform_weights_are_the_straight_line_to_the_bit(tasks, batch_norm):
    """Both rounds; training before it is fine-tuning to the bit, statistics come along."""
    model, method = network(tasks, batch_norm), Merge(weight=0.3)
    for number in (2, 3):
        plain = copy.deepcopy(model)
        start, end, left = go(model, tasks, method, number)
        fit(plain, tasks[number - 1], RECIPE, seed=3)
        assert equal(end, state(plain)) and not equal(start, end)
        assert equal(left, interpolate(start, end, 0.3))
        for name in ("features.conv3_2.weight", "features.bn3_2.running_var", "head.bias"):
            if name in left:
                line = literal.straight_line(start[name], end[name], 0.3)
                torch.testing.assert_close(left[name], line, rtol=1e-5, atol=1e-7)
        assert not hasattr(method, "start")  # a whole network less to carry


def test_every_way_of_merging_is_the_line_where_nothing_matters_more(tasks, monkeypatch):
    """float64, number by number: a ranking that scores all filters alike, and two equal Fishers."""
    ways = Merge(0.3), MergeRanking(weight=0.3, ranking="mse"), MergeFisher(0.3)
    monkeypatch.setattr(
        "lib.methods.merging.fisher", lambda model, *_, **__: torch.ones(weights_of(model))
    )
    for method in ways:
        model = network(tasks, True, torch.float64)
        alike = {k: torch.ones(3, c.out_channels) for k, c in conv_layers(model).items()}
        start, end, left = go(model, tasks, method, scores=lambda _, alike=alike: alike)
        for name, tensor in left.items():
            if tensor.is_floating_point():
                line = literal.straight_line(start[name], end[name], 0.3)
                torch.testing.assert_close(tensor, line, rtol=1e-6, atol=1e-9)
        assert not equal(start, left) and not equal(end, left)


def test_the_line_by_hand():
    """From 1 to 3, a quarter of the way: 1.5; a counter is the end's."""
    start = {"weight": torch.full((2, 2), 1.0), "counter": torch.tensor(4)}
    end = {"weight": torch.full((2, 2), 3.0), "counter": torch.tensor(9)}
    merged = interpolate(start, end, 0.25)
    assert merged["weight"].tolist() == [[1.5, 1.5]] * 2 and int(merged["counter"]) == 9


@pytest.mark.parametrize("name", ["merge", "merge_fisher", "merge_ranking"])
@pytest.mark.parametrize("weight, place", [(0, 0), (1, 1)])
def test_the_ends_are_the_start_and_fine_tuning_to_the_bit(tasks, name, weight, place):
    model = network(tasks)
    options = {"ranking": "mse"} if name == "merge_ranking" else {}
    method, scores = METHODS[name](weight=weight, **options), by_hand(model)
    *ends, left = go(model, tasks, method, scores=lambda ranking: scores)
    floats = {k: v for k, v in left.items() if v.is_floating_point()}
    assert equal(floats, ends[place]) and not equal(floats, ends[1 - place])


# --- by Fisher information ------------------------------------------------------------------------


def test_the_fisher_average_by_hand():
    """One linear layer on an all-black image. Outputs (ln 3, 0) have p = (3/4, 1/4) and Fisher
    p (1 - p) = 3/16 for both biases, outputs (0, 0) have 1/4; the weights' is 0."""
    pixels, labels = torch.zeros(4, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1] * 2)
    mean, std = torch.zeros(3), torch.ones(3)
    tasks = [Task(f"task{k}", (0, 1), pixels, labels, pixels, labels, 0, mean, std) for k in "12"]
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    bias, weights = model[1].bias.data, model[1].weight.data
    weights.fill_(1.0), bias.copy_(torch.tensor([math.log(3), 0.0]))
    found = fisher(model, tasks[0])
    assert found.tolist() == pytest.approx([0.0] * 96 + [3 / 16] * 2, rel=1e-6)
    for w, share in ((0.5, 4 / 7), (0.25, 4 / 13)):  # of the end: w F2 / ((1 - w) F1 + w F2)
        method = MergeFisher(weight=w)
        weights.fill_(1.0), bias.copy_(torch.tensor([math.log(3), 0.0]))
        method.before(model, tasks[1], context(tasks, 2))
        weights.fill_(2.0), bias.zero_()
        method.after(model, tasks[1], context(tasks, 2))
        assert float(bias[0]) == pytest.approx((1 - share) * math.log(3), rel=1e-6)
        assert weights.flatten().tolist() == pytest.approx([1 + w] * 96)  # no Fisher: the line
        assert method.old.tolist() == pytest.approx([0.0] * 96 + [7 / 16] * 2, rel=1e-6)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_the_fisher_equals_looped_gradients_and_leaves_the_model_alone(tasks, batch_norm):
    model = network(tasks, batch_norm, torch.float64).train()
    fit(model, tasks[0], RECIPE, seed=3)  # statistics of its own, a gradient left over
    before, gradient = state(model), model.head.weight.grad.clone()
    for task in tasks[:2]:
        found = fisher(model, task, images=19)  # more than a chunk, not a multiple of it
        assert model.training and equal(before, state(model))
        assert torch.equal(model.head.weight.grad, gradient)
        slow = literal.fisher(copy.deepcopy(model), task, 19)
        flat = torch.cat([t.flatten() for t in slow.values()])
        assert flat.max() > 0
        torch.testing.assert_close(found, flat, rtol=1e-8, atol=1e-8 * float(flat.max()))


def test_fisher_weights_equal_the_literal_method_over_three_tasks(tasks):
    """float64: each task's Fisher at the end of its own round; the old ones add up."""
    model, method, old = network(tasks, True, torch.float64), MergeFisher(0.4, images=5), None
    for number in (2, 3):
        if old is None:
            old = literal.fisher(copy.deepcopy(model), tasks[0], 5)
        start, end, left = go(model, tasks, method, number)
        tuned = network(tasks, True, torch.float64)
        tuned.load_state_dict(end)
        new = literal.fisher(tuned, tasks[number - 1], 5)
        for name in end:
            if name in new:
                pairs = start[name], old[name], end[name], new[name]
                expected = literal.fisher_average(*pairs, 0.4)
            elif end[name].is_floating_point():
                expected = literal.straight_line(start[name], end[name], 0.4)
            else:
                expected = end[name]
            torch.testing.assert_close(left[name], expected, rtol=1e-6, atol=1e-9)
        old = {name: old[name] + new[name] for name in old}


def test_each_head_is_taken_from_where_it_was_learned(six_classes):
    tasks = split_tasks(six_classes, [[0, 1], [2, 3]], "per_task")
    model = network(tasks)
    start, end, left = go(model, tasks, MergeFisher(images=8))
    for name in ("head.weight", "head.bias"):
        seen = end[name][2:] != start[name][2:]  # where the last features are not all zero
        assert torch.equal(left[name][:2], start[name][:2])
        torch.testing.assert_close(left[name][2:][seen], end[name][2:][seen])
        assert seen.any()


# --- by a ranking ---------------------------------------------------------------------------------


def test_shares_by_hand():
    """Two classes rank four filters (0, 3, 1, 2) and (1, 3, 2, 0): mean places .5, 3, 1.5, 1."""
    scores = torch.tensor([[0.1, 9.0, 0.2, 0.3], [-2.0, 0.0, -1.0, -3.0]])
    assert kept(scores, 0.5).tolist() == pytest.approx([1 / 8, 7 / 8, 5 / 8, 3 / 8])
    assert kept(scores, 0.8).tolist() == pytest.approx([0.65, 0.95, 0.85, 0.75])
    assert kept(scores, 0.2).tolist() == pytest.approx([0.05, 0.35, 0.25, 0.15])
    opposite = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])  # all mean places are 1: a tie
    assert kept(opposite, 0.5).tolist() == pytest.approx([5 / 6, 1 / 2, 1 / 6])
    alike = torch.tensor([[0.0, 0.0, 5.0]])  # places 1, 0, 2: the first two share .5
    assert kept(alike, 0.5).tolist() == pytest.approx([1 / 3, 1 / 3, 5 / 6])
    assert kept(torch.zeros(2, 3), 0.3).tolist() == pytest.approx([0.3] * 3, abs=1e-15)
    assert kept(torch.ones(2, 1), 0.3).tolist() == [0.3]


def test_shares_keep_their_mean_stay_in_range_and_follow_the_ranking():
    for seed, filters in enumerate((1, 2, 7, 64, 512)):
        generator = torch.Generator().manual_seed(seed)
        scores = torch.randn(1, filters, generator=generator)
        several = torch.randn(3, filters, generator=generator)
        for mean in (0.0, 0.1, 0.25, 0.5, 0.8, 1.0):
            share = kept(scores, mean)
            assert float(share.mean()) == pytest.approx(mean, abs=1e-12)
            assert 0 <= float(share.min()) and float(share.max()) <= 1
            if 0 < mean < 1:  # the best of the ranking first
                assert share.argsort().tolist() == scores[0].argsort().tolist()
            assert float(kept(several, mean).mean()) == pytest.approx(mean, abs=1e-12)
    odd = torch.tensor([[0.5, 0.1, 0.9, 0.05, 0.7], [0.2, 0.1, 0.8, 0.3, 0.7]])  # no ties
    assert kept(odd, 0.3).tolist() == pytest.approx(literal.kept(odd.tolist(), 0.3))


@pytest.mark.parametrize("batch_norm", [True, False])
def test_filters_lie_where_the_ranking_puts_them(tasks, batch_norm):
    """float64, both rounds: a filter's weights, bias, batch norm and statistics at its own share;
    the head on the straight line; each layer's mean share is that of the line."""
    model, asked = network(tasks, batch_norm, torch.float64), []
    scores, method = by_hand(model), MergeRanking(ranking="pearson", weight=0.4)

    def answer(ranking, **options):
        asked.append((ranking, options))
        return scores

    for number in (2, 3):
        start, end, left = go(model, tasks, method, number, answer)
        norms = {layer: f"features.bn{layer[4:]}" for layer in norm_layers(model)}
        expected = {k: v for k, v in end.items() if not v.is_floating_point()}
        for layer, s in scores.items():
            mean_places = s.argsort(1).argsort(1).double().mean(0)
            mean_places += 1e-3 * torch.arange(len(mean_places)).flip(0)  # ties: the lower filter
            share = literal.kept([mean_places.tolist()], 0.6)
            assert sum(share) / len(share) == pytest.approx(0.6)
            for part in (f"features.{layer}", norms.get(layer)):
                entries = [k for k in end if part and k.rpartition(".")[0] == part]
                for name in set(entries) - set(expected):
                    rows = [
                        literal.straight_line(a, b, 1 - w)
                        for a, b, w in zip(start[name], end[name], share)
                    ]
                    expected[name] = torch.stack(rows)
        for name in ("head.weight", "head.bias"):
            expected[name] = literal.straight_line(start[name], end[name], 0.4)
        assert expected.keys() == left.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(left[name], tensor, rtol=1e-9, atol=1e-12)
    assert asked == [("pearson", {})] * 2


def test_a_random_ranking_has_draws(tasks):
    """Draws differ, each is fixed by the seed."""
    left = []
    for draw in (None, 0, 1):
        model = network(tasks)
        look = Evidence(network(tasks), tasks[0], 3, fetch_maps=None, fetch_heat=None)
        method = MergeRanking(ranking="random", draw=draw)
        ask = lambda name, look=look, **options: RANKINGS[name](look, **options)  # noqa: E731
        left.append(go(model, tasks, method, scores=ask)[2])
    assert equal(left[0], left[1]) and not equal(left[0], left[2])


# --- as arms --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("merge", {"weight": 1.5}, "weight 1.5: expected a number from 0"),
        ("merge", {"weight": math.nan}, "weight nan"),
        ("merge", {"weight": True}, "weight True"),
        ("merge_fisher", {"weight": "half"}, "weight 'half'"),
        ("merge_fisher", {"images": 0}, "images 0: expected a whole number of at least 1"),
        ("merge_ranking", {"ranking": "mse", "weight": -1}, "weight -1"),
        ("merge_ranking", {"ranking": "astrology"}, "ranking 'astrology': expected one of"),
        ("merge_ranking", {"ranking": "mse", "draw": 1}, "draw 1 with ranking 'mse'.*no draws"),
    ],
)
def test_wrong_options_are_refused(name, options, words):
    with pytest.raises(ValueError, match=words):
        METHODS[name](**options)


def test_a_ranking_must_be_named():
    """What an arm depends on is read from its line: a default ranking would not stand there."""
    with pytest.raises(TypeError, match="ranking"):
        MergeRanking(weight=0.5)


def test_they_run_as_arms(small_study):
    arms = (
        Arm(name="line", method="merge", options={"weight": 0.5}),
        Arm(name="Fisher", method="merge_fisher", options={"images": 4}),
        Arm(name="random", method="merge_ranking", options={"ranking": "random"}),
    )
    profile = small_study(*arms)
    rows = [run(profile, 1, arm.name)["row"] for arm in arms]
    assert [row["method"] for row in rows] == [arm.method for arm in arms]
    assert len({row["loss1"] for row in rows}) == 3  # three networks from one fine-tuning
    assert [row["keeps"] for row in table(profile)] == ["weights", "importances", "weights"]
    assert table(profile)[0]["family"] == table(profile)[1]["family"] == "merging"
