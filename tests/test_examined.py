"""What the study keeps of an examined seed: each product's numbers by a literal path, from the
checkpoint on."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

from lib import examination, freezing, visualization
from lib.data import normalise
from lib.evaluation import evaluate
from lib.network import conv_layers
from lib.saliency import fullgrad, scale
from lib.seeds import seed_of
from lib.study import examined, products
from lib.study.materials import tasks
from lib.study.profile import load
from lib.training import fit
from references import examination as slow
from references import rankings as slow_rankings

SMALL = """
extends: smoke
seeds: 1-3
recipe: {epochs: 1, batch_size: 32, lr: 0.005, momentum: 0.9, flip: false, precision: float32}
examine: {seeds: "1", rankings: all, images: 5, filters: 8, masks: 2}
arms: [{name: fine-tune}]
"""


@pytest.fixture(scope="module")
def p(tmp_path_factory):
    """A profile that examines seed 1; what it makes is shared by all tests here."""
    folder = tmp_path_factory.mktemp("examined")
    (folder / "small.yaml").write_text(SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESULTS", str(folder / "results"))
        yield load(str(folder / "small.yaml"))


@pytest.fixture(scope="module")
def before(p):
    """The state after task 1."""
    return products.task1(p, 1)["model"]


@pytest.fixture(scope="module")
def first_task(p):
    return tasks(p, 1)[0].to("cpu")


def network(p, state):
    model = products.network_after_task1(p, 1)
    model.load_state_dict(state)
    return model.cpu().eval()


def accuracies(p, state, count=2):
    """On the test images of the first tasks."""
    model = products.network_after_task1(p, 1)
    model.load_state_dict(state)
    return [evaluate(model, task) for task in tasks(p, 1)[:count]]


def drawn(draw, layer, filters):
    """Seed 1's random scores (1, F)."""
    generator = torch.Generator().manual_seed(seed_of(1, "random", draw, layer))
    return torch.rand(1, filters, dtype=torch.float64, generator=generator).numpy()


def correct_ones(model, task, count):
    """For each class its first `count` training images that the model gets right, else its first;
    their numbers in the data set."""
    with torch.no_grad():
        right = model(normalise(task.x, task))[:, task.outputs].argmax(1) == task.y
    found = []
    for c in range(len(task.classes)):
        own = [n for n in range(len(task.y)) if task.y[n] == c]
        found.append(([n for n in own if right[n]] or own)[:count])
    return found


def rank_correlations(a, b):
    """Spearman's, class by class, and their mean; a may be of no class."""
    a = np.broadcast_to(a, np.shape(b))
    return np.mean([spearmanr(x, y).statistic for x, y in zip(a, b)])


# --- scores and damage ----------------------------------------------------------------------------


def test_scores_are_of_the_network_after_task_1_and_of_task_1(p, before, first_task):
    model, task = network(p, before), first_task
    names = ("weight_norm", "random", "mean_activation")
    norms, by_chance, answers = (examined.scores(p, 1, name) for name in names)
    for layer, conv in conv_layers(model).items():
        squares = before[f"features.{layer}.weight"].double().square().sum((1, 2, 3))
        np.testing.assert_allclose(norms[layer], [squares.sqrt().tolist()])
        np.testing.assert_array_equal(by_chance[layer], drawn(0, layer, conv.out_channels))
    a, name = normalise(task.x, task), None
    with torch.no_grad():
        for part, module in model.features.named_children():
            a, name = module(a.clone()), part if "conv" in part else name
            if part.startswith("relu"):
                wanted = [a[task.y == c].mean((0, 2, 3)).numpy() for c in range(3)]
                np.testing.assert_allclose(answers[name], wanted, rtol=1e-4, atol=1e-6)


def test_damages_are_each_class_s_loss_on_either_half_of_its_first_test_images(
    p, before, first_task
):
    found, task = examined.damages(p, 1), first_task
    model = slow_rankings.prepared(network(p, before))
    assert {k.split("/")[1] for k in found} == {"0", "1"} and len(found) == 2 * 8
    halves = [[], []]  # of five images of each class, every other one
    for c in range(3):
        own = [n for n in range(len(task.y_test)) if task.y_test[n] == c][:5]
        halves[0] += own[0::2]
        halves[1] += own[1::2]
    unseen = slow_rankings.pixels(task._replace(x=task.x_test))

    def losses(images, without=None):
        each = {c: [] for c in range(3)}
        for n in images:
            logits, _ = slow_rankings.forward(model, unseen[n], without)
            c = int(task.y_test[n])
            each[c].append(float(slow_rankings.loss_of(logits, c, task.outputs)))
        return np.array([np.mean(each[c]) for c in range(3)])

    for h, images in enumerate(halves):
        with torch.no_grad():
            whole = losses(images)
            for layer, filters in (("conv1_1", (0, 3, 7)), ("conv5_2", (1, 62))):
                for f in filters:
                    wanted = losses(images, (layer, f)) - whole
                    np.testing.assert_allclose(found[f"{layer}/{h}"][:, f], wanted, atol=2e-5)
                    assert abs(wanted).max() > 1e-4
    assert not np.allclose(found["conv1_1/0"], found["conv1_1/1"], atol=0.01)


@pytest.mark.parametrize("name", ["weight_norm", "mean_activation"])  # of no class, and of classes
def test_the_atlas_ranks_a_score_against_both_halves_and_one_half_against_the_other(p, name):
    given, damage = examined.scores(p, 1, name), examined.damages(p, 1)
    examined.atlas(p, 1, name)
    rows = [row for row in examined.atlas_rows(p) if row["ranking"] == name]
    assert [row["layer"] for row in rows] == list(given) and len(given) == 8
    for row in rows:
        first, second = (damage[f"{row['layer']}/{h}"].round(6) for h in (0, 1))
        wanted = rank_correlations(given[row["layer"]], (first + second) / 2)
        assert row["spearman"] == pytest.approx(wanted, abs=1e-9)
        assert row["ceiling"] == pytest.approx(rank_correlations(first, second), abs=1e-9)
        assert row["ceiling"] < 0.999  # the halves are of other images
    assert {row["lineage"] for row in rows} == {products.task1(p, 1)["lineage"]}


def test_what_a_ranking_took_is_the_median_of_the_examined_seeds(p, tmp_path, monkeypatch):
    monkeypatch.setenv("RESULTS", str(tmp_path))
    assert examined.ranking_cost_rows(p) == []
    took = {1: 5.0, 2: 1.0, 3: 2.5}
    look = p.model_copy(update={"examine": p.examine.model_copy(update={"seeds": "1-3"})})
    shelf = products.store(p)
    for name, times in (("weight_norm", 1), ("mean_activation", 10)):
        for seed, seconds in took.items():
            key = products.PRODUCTS["scores"].key(p, seed, name)
            shelf.once("scores", key, dict, products.ARRAYS)
            meta = shelf.path("scores", key, ".meta.json")
            said = json.loads(meta.read_text()) | {"seconds": times * seconds}
            meta.write_text(json.dumps(said))
    rows = {row["ranking"]: row for row in examined.ranking_cost_rows(look)}
    assert list(rows) == ["mean_activation", "weight_norm"]  # in the registry's order
    assert (rows["weight_norm"]["seconds"], rows["weight_norm"]["seeds"]) == (2.5, 3)
    assert rows["mean_activation"]["seconds"] == 25 and rows["mean_activation"]["needs"] == "images"
    (one,) = [r for r in examined.ranking_cost_rows(p) if r["ranking"] == "weight_norm"]
    assert (one["seconds"], one["seeds"]) == (5, 1)  # of the seed that is examined alone


# --- after round 2 --------------------------------------------------------------------------------


def test_retrained_networks_are_plain_training_with_and_without_convolutions(p, before):
    found = examined.retrained(p, 1)
    for way, held in (("fine-tune", False), ("all frozen", True)):
        model = products.network_after_task1(p, 1)
        for conv in conv_layers(model).values():
            conv.requires_grad_(not held)
        fit(model, tasks(p, 1)[1], p.recipe, seed=1)
        assert list(found[way]) == list(model.state_dict())
        for name, value in model.state_dict().items():
            torch.testing.assert_close(found[way][name], value.cpu(), rtol=1e-4, atol=1e-6)
    tuned = found["fine-tune"]
    assert not torch.allclose(tuned["features.conv1_1.weight"], before["features.conv1_1.weight"])


def put_back(tuned, before, chosen):
    """The fine-tuned state with the chosen filters' weights and biases as they were; chosen: layer
    -> numbers."""
    state = {name: value.clone() for name, value in tuned.items()}
    for layer, filters in chosen.items():
        for part in ("weight", "bias"):
            for f in filters:
                state[f"features.{layer}.{part}"][f] = before[f"features.{layer}.{part}"][f]
    return state


def by_turns(scores, fraction):
    """Layer -> filters: classes in turn take their best that is left, layer l's first is class
    l."""
    chosen = {}
    for number, (layer, rows) in enumerate(scores.items()):
        free, taken = list(range(rows.shape[1])), []
        while len(taken) < int(fraction * rows.shape[1] + 0.5):
            own = rows[(number + len(taken)) % len(rows)]
            taken.append(max(free, key=lambda f: (own[f], -f)))
            free.remove(taken[-1])
        chosen[layer] = taken
    return chosen


@pytest.mark.parametrize("name", ["weight_norm", "mean_activation", "random"])
def test_grafts_are_the_fine_tuned_network_with_a_ranking_s_filters_put_back(p, before, name):
    tuned = examined.retrained(p, 1)["fine-tune"]
    scores = {None: examined.scores(p, 1, name)}
    if name == "random":
        widths = {k: s.shape[1] for k, s in scores[None].items()}
        scores = {d: {k: drawn(d, k, n) for k, n in widths.items()} for d in (0, 1)}
    wanted = [
        (fraction, draw, *accuracies(p, put_back(tuned, before, by_turns(one, fraction))))
        for draw, one in scores.items()
        for fraction in (0.25, 0.5, 0.75, 0.9)
    ]
    examined.grafts(p, 1, name)
    rows = [row for row in examined.graft_rows(p) if row["ranking"] == name]
    found = [tuple(row[k] for k in ("fraction", "draw", "acc1", "acc2")) for row in rows]
    assert found == wanted
    # draws and shares tell their own, and not what the network does with nothing put back
    told = {row[2:] for row in found}
    assert len(told) > len(found) / 2 and tuple(accuracies(p, tuned)) not in told


def test_the_random_masks_put_back_are_as_many_draws_as_asked(p, before, monkeypatch):
    seen = []
    monkeypatch.setattr(
        examination, "judge", lambda model, state, split, masks, precision: seen.append(masks) or {}
    )
    three = p.model_copy(update={"examine": p.examine.model_copy(update={"masks": 3})})
    rows = examined.grafts.__wrapped__(three, 1, "random")["rows"]
    assert [row["draw"] for row in rows] == [0] * 4 + [1] * 4 + [2] * 4
    for row, masks in zip(rows, seen):
        for layer, mask in masks.items():
            own = {layer: drawn(row["draw"], layer, len(mask))}
            (filters,) = by_turns(own, row["fraction"]).values()
            assert sorted(filters) == mask.nonzero().squeeze(1).tolist()
    halves = [masks for row, masks in zip(rows, seen) if row["fraction"] == 0.5]
    assert all(freezing.iou(a, b) < 0.6 for a, b in zip(halves, [*halves[1:], halves[0]]))


def probe(model, task):
    """Ridge regression as ordinary least squares with a row more for each feature."""
    with torch.no_grad():
        x, x_test = (
            model.features(normalise(images, task)).flatten(1).double()
            for images in (task.x, task.x_test)
        )
    mean, spread = x.mean(0), x.std(0, correction=0).clamp_min(1e-8)
    x, x_test = (x - mean) / spread, (x_test - mean) / spread
    own = torch.eye(3).double()[task.y]
    penalty = (1e-2 * len(x)) ** 0.5 * torch.eye(x.shape[1]).double()
    rows, targets = torch.cat([x, penalty]), torch.cat([own - own.mean(0), 0 * penalty[:, :3]])
    answers = x_test @ torch.linalg.lstsq(rows, targets).solution + own.mean(0)
    return float((answers.argmax(1) == task.y_test).double().mean())


def with_parts(state, before, parts):
    """The state with those numbers of before whose names hold one of the parts."""
    return {k: before[k] if any(part in k for part in parts) else v for k, v in state.items()}


def test_readouts_are_of_each_network_with_parts_of_the_one_before(p, before, first_task):
    examined.readouts(p, 1)
    found = pd.DataFrame(examined.readout_rows(p)).set_index(["way", "readout"])["acc1"]
    assert len(found) == 3 * 5
    names = {"head": ("head.",), "statistics": ("running_mean", "running_var")}
    for way, state in examined.retrained(p, 1).items():
        mixed = {"as it is": state}
        for part, own in names.items():
            mixed[f"{part} put back"] = with_parts(state, before, own)
        mixed["both put back"] = with_parts(state, before, (*names["head"], *names["statistics"]))
        for readout, one in mixed.items():
            assert found[way, readout] == accuracies(p, one, 1)[0], (way, readout)
        wanted = probe(network(p, state), first_task)  # but for one of 162 images, by rounding
        assert found[way, "linear probe"] == pytest.approx(wanted, abs=0.007)
    assert len(set(found["fine-tune"])) > 2 and len(set(found)) > 5
    (as_it_is,) = accuracies(p, before, 1)
    assert set(found["before"][:4]) == {as_it_is}  # nothing else can be put back into it


# --- explanations ---------------------------------------------------------------------------------


def maps_of(model, task, numbers, c):
    x = normalise(task.x[numbers], task)
    return scale(fullgrad(model, x, torch.full((len(numbers),), c)))


def test_reliability_is_told_by_other_noise_and_by_halves_of_the_images(p, before, first_task):
    model, task, layer = network(p, before), first_task, "conv3_1"
    maps = [maps_of(model, task, n, c) for c, n in enumerate(correct_ones(model, task, 5))]
    whole = torch.stack([m.mean(0) for m in maps])
    halves = [torch.stack([(m[h::2] if len(m) > h else m).mean(0) for m in maps]) for h in (0, 1)]

    def heat(seed, filters):
        how = layer, range(filters), p.explain.steps, seed, p.explain.lr, 32, task
        return visualization.heat_maps(
            visualization.to_pixels(visualization.maximize_activation(model, *how), task)
        )

    first, again = heat(1, 32), heat(1 + 10**6, 8)
    parts = lambda maps, heat: np.array(  # noqa: E731
        [[slow.mse_parts(m, h) for h in heat] for m in maps]
    )
    examined.reliability(p, 1)
    (row,) = [row for row in examined.reliability_rows(p) if row["layer"] == layer]
    assert row["filters"] == 8 and len(examined.reliability_rows(p)) == 8
    for name, (a, b) in {
        "noise": (parts(whole, first[:8]), parts(whole, again)),
        "images": (parts(halves[0], first), parts(halves[1], first)),
    }.items():
        assert row[name] == pytest.approx(rank_correlations(a.sum(2), b.sum(2)), abs=0.01)
        pattern = rank_correlations(a[..., 2], b[..., 2])
        assert row[f"{name}_pattern"] == pytest.approx(pattern, abs=0.01)
    each = parts(whole, first)
    for i, name in enumerate(("brightness", "contrast", "pattern")):
        shares = [np.cov(one[:, i], one.sum(1)) for one in each]
        wanted = np.mean([s[0, 1] / s[1, 1] for s in shares])
        assert row[f"share_{name}"] == pytest.approx(wanted, abs=1e-3)


def test_sanity_is_of_the_network_after_task_1_and_its_images(p, before, first_task):
    model, task = network(p, before), first_task
    chosen = correct_ones(model, task, 5)
    maps = torch.cat([maps_of(model, task, n, c) for c, n in enumerate(chosen)])
    y = [c for c, n in enumerate(chosen) for _ in n]
    examined.sanity(p, 1)
    within, between = slow.within_and_between(maps.numpy(), y)
    (alike,) = examined.sanity_rows(p, "alike")
    assert (alike["within"], alike["between"]) == pytest.approx((within, between), abs=1e-4)
    head, *_, last = examined.sanity_rows(p, "randomisation")
    assert (head["layer"], last["layer"]) == ("head", "conv1_1")
    _, twin = next(examination.cascade(model, p.network.init, 1))
    others = torch.cat([maps_of(twin, task, n, c) for c, n in enumerate(chosen)])
    by_hand = np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(maps, others)])
    assert head["pearson"] == pytest.approx(by_hand, abs=1e-4) and head["pearson"] < 0.999
    x = normalise(task.x[[n for own in chosen for n in own]], task)
    with torch.no_grad():
        whole = model(x).softmax(1)[range(len(y)), y].mean()  # a shared head of three outputs
        nothing = model(0 * x).softmax(1)[range(len(y)), y].mean()
    rows = examined.sanity_rows(p, "deletion")
    for row in rows:
        if row["deleted"] in (0, 1):
            wanted = float(nothing if row["deleted"] else whole)
            assert row["probability"] == pytest.approx(wanted, abs=1e-5)
    assert whole != nothing and {row["map"] for row in rows} >= {"FullGrad", "random"}


def test_complexity_is_of_the_maps_before_and_after_all_layers_lost_what_they_learned(
    p, before, first_task
):
    model, task = network(p, before), first_task
    *_, (_, twin) = examination.cascade(model, p.network.init, 1)
    before_after = [[], []]
    for c, numbers in enumerate(correct_ones(model, task, 5)):
        x, own = normalise(task.x[numbers], task), torch.full((len(numbers),), c)
        for values, one in zip(before_after, (model, twin)):
            values += [slow.entropy(m.numpy()) for m in fullgrad(one, x, own)]
    examined.complexity(p, 1)
    (row,) = examined.complexity_rows(p)
    a, b = np.array(before_after)
    assert row["before"] == pytest.approx(a.mean(), abs=0.02)  # float32 at a bin's edge
    assert row["after"] == pytest.approx(b.mean(), abs=0.02)
    assert row["rise"] == pytest.approx((b / a - 1).mean(), abs=0.02)
    assert abs(row["after"] - row["before"]) > 0.05
