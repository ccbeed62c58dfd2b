"""Explanations examined: each measure against a slow one and hand-built cases; then their rows."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

from lib import examination
from lib.data import normalise
from lib.network import conv_layers, norm_layers
from lib.ranking import RANKINGS, similarity
from lib.report import answers, claims, figures, words
from lib.saliency import choose_images, class_maps, fullgrad, scale
from lib.study import examined, jobs, materials, products, tables
from lib.study.arms import check
from lib.study.profile import Arm, load
from references import examination as slow
from tests.made_up import study
from tests.test_rankings_more import small, small_task


@pytest.fixture
def network():
    return small(outputs=2)


def state_of(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def same_state(model, state):
    return all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


# --- damage ---------------------------------------------------------------------------------------


def test_rank_correlation_is_scipy_s_and_nothing_where_nothing_is_told():
    draw = np.random.default_rng(0)
    a, b = draw.integers(0, 4, (3, 9)), draw.normal(size=(3, 9))  # a has ties
    expected = [spearmanr(x, y).statistic for x, y in zip(a, b)]
    np.testing.assert_allclose(examination.rank_correlation(a, b), expected)
    np.testing.assert_allclose(  # a score without classes is compared with each class's
        examination.rank_correlation(a[:1], b), [spearmanr(a[0], y).statistic for y in b]
    )
    assert examination.rank_correlation(np.ones((1, 9)), b).tolist() == [0, 0, 0]


def test_damage_is_measured_twice_on_test_images_alone(network):
    task = small_task(images=6)
    task = task._replace(x_test=255 - task.x, y_test=1 - task.y)
    seen = []
    measure = lambda model, unseen, pick: seen.append((unseen.x, unseen.y[pick], pick)) or {}  # noqa: E731
    examination.damage_in_halves(network, task, 4, measure)
    assert all(torch.equal(x, task.x_test) for x, _, _ in seen)
    (_, y_first, first), (_, y_second, second) = seen
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(8))  # four of each class
    assert y_first.bincount().tolist() == y_second.bincount().tolist() == [2, 2]
    few = task._replace(x_test=task.x[:3], y_test=torch.tensor([0, 0, 1]))
    with pytest.raises(ValueError, match=r"classes \[1\] have fewer than two test images"):
        examination.damage_in_halves(network, few)


def test_a_score_that_is_damage_predicts_it_and_a_turned_one_its_opposite():
    draw = np.random.default_rng(1)
    halves = [{"a": draw.normal(size=(2, 8))} for _ in range(2)]
    whole = halves[0]["a"] + halves[1]["a"]
    (row,) = examination.predicts_damage({"a": whole}, tuple(halves))
    (turned,) = examination.predicts_damage({"a": -whole}, tuple(halves))
    assert row["spearman"] == pytest.approx(1) and turned["spearman"] == pytest.approx(-1)
    pairs = zip(halves[0]["a"], halves[1]["a"])
    assert row["ceiling"] == pytest.approx(np.mean([spearmanr(x, y).statistic for x, y in pairs]))


def test_filters_that_do_nothing_share_a_rank():
    first = np.array([[0.5, 0.2, 1e-9, -1e-9]])
    second = np.array([[0.5, 0.2, -1e-9, 1e-9]])
    (row,) = examination.predicts_damage({"a": first}, ({"a": first}, {"a": second}))
    assert row["ceiling"] == pytest.approx(1)


# --- reliability ----------------------------------------------------------------------------------


def pictures(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_parts_of_the_mse_are_its_statistics_and_sum_to_it():
    maps, heat = pictures(2, 6, 6), pictures(5, 6, 6, seed=1)
    parts = examination.mse_terms(maps, heat)
    by_hand = np.array([[slow.mse_parts(m, h) for h in heat] for m in maps])  # (C, F, 3)
    for i, part in enumerate(parts.values()):
        np.testing.assert_allclose(part, by_hand[..., i], atol=1e-12)
    torch.testing.assert_close(sum(parts.values()), -similarity(maps, heat, "mse"))


def test_shares_name_what_makes_filters_differ():
    maps, one = pictures(2, 6, 6), pictures(1, 6, 6, seed=1).double()
    brighter = examination.shares(maps, one + torch.arange(4).view(4, 1, 1))
    assert brighter["brightness"] == pytest.approx(1) and abs(brighter["pattern"]) < 1e-9
    shuffled = torch.stack([one.flatten()[torch.randperm(36)].view(6, 6) for _ in range(4)])
    assert examination.shares(maps, shuffled)["pattern"] == pytest.approx(1, abs=1e-4)
    assert sum(examination.shares(maps, pictures(7, 6, 6, seed=2)).values()) == pytest.approx(1)
    assert examination.shares(maps, one.repeat(3, 1, 1)) == dict.fromkeys(brighter, 0.0)


def test_halves_of_the_images_make_up_the_class_map(network):
    task = small_task(images=8)
    whole = class_maps(network, task, 4)
    first, second = examination.maps_in_halves(network, task, 4)
    even = [c for c, used in enumerate(whole.used) if used % 2 == 0]
    assert even and not torch.allclose(first, second)
    torch.testing.assert_close(((first + second) / 2)[even], whole.maps[even])
    one = examination.maps_in_halves(network, task, 1)
    assert torch.equal(*one)


def test_a_ranking_made_again_from_the_same_agrees_and_from_brightness_alone_not():
    maps, heat = pictures(2, 6, 6), {"a": pictures(8, 6, 6, seed=1)}
    (row,) = examination.ranking_reliability(maps, heat, {"a": heat["a"][:4]}, (maps, maps))
    assert [row[k] for k in ("noise", "images", "noise_pattern", "images_pattern")] == (
        pytest.approx([1, 1, 1, 1])
    )
    light = 10 * torch.arange(8).view(8, 1, 1)
    bright = {"a": heat["a"] + light}
    other = {"a": pictures(8, 6, 6, seed=2) + light}
    (row,) = examination.ranking_reliability(maps, bright, other, (maps, maps))
    assert row["noise"] == pytest.approx(1) and row["noise_pattern"] < 0.6
    assert row["share_brightness"] > 0.99 and row["filters"] == 8


def test_heat_again_differs_from_the_study_s_by_its_noise_alone(network, monkeypatch):
    from lib.visualization import heat_maps, maximize_activation, to_pixels

    model, task = network.float(), small_task()
    layer = list(conv_layers(model))[2]
    again = examination.heat_again(model, task, layer, 3, steps=2, filters=2)
    monkeypatch.setattr("lib.examination.reliability.OTHER_NOISE", 0)
    same = examination.heat_again(model, task, layer, 3, steps=2, filters=2)
    study = maximize_activation(model, layer, [0, 1], 2, 3, statistics=task)
    torch.testing.assert_close(same, heat_maps(to_pixels(study, task)))
    assert again.shape == same.shape and not torch.allclose(again, same)


# --- saliency maps --------------------------------------------------------------------------------


def test_the_cascade_takes_layers_from_the_head_down_and_leaves_the_model(network):
    before, seen = state_of(network), []
    names = list(conv_layers(network))
    for name, twin in examination.cascade(network, seed=2):
        seen.append(name)
        changed = [
            layer
            for layer, conv in conv_layers(twin).items()
            if not torch.equal(conv.weight, conv_layers(network)[layer].weight)
        ]
        assert changed == names[len(names) - len(seen) + 1 :]
        assert not torch.equal(twin.head.weight, network.head.weight)
        for layer in changed:
            norm = norm_layers(twin)[layer]
            assert (norm.weight == 1).all() and (norm.running_var == 1).all()
    assert seen == ["head", *names[::-1]] and same_state(network, before)


def test_randomisation_compares_with_the_map_before(network):
    task = small_task()
    rows = examination.randomisation(network, task, 2, seed=1)
    assert [row["layer"] for row in rows] == ["head", *list(conv_layers(network))[::-1]]
    name, twin = next(examination.cascade(network, seed=1))
    x, y = examination.explanations._images_of(network, task, 2)
    a, b = (scale(fullgrad(m, x, y)).flatten(1).numpy() for m in (network, twin))
    by_hand = np.mean([np.corrcoef(p, q)[0, 1] for p, q in zip(a, b)])
    assert rows[0]["pearson"] == pytest.approx(by_hand) and rows[-1]["ssim"] < 1


def test_deletion_is_what_deleting_pixel_by_pixel_gives(network):
    task = small_task(first_output=1, images=2)
    model = small(outputs=3).eval()
    x = normalise(task.x, task, torch.float64)
    maps = pictures(4, 32, 32, seed=4).round(decimals=1)  # with ties
    fast = examination.deleted(model, task, x, task.y, maps, 3)
    np.testing.assert_allclose(
        fast, slow.deletion_curve(model, task.outputs, x, task.y, maps, 3), rtol=1e-9
    )
    rows = pd.DataFrame(examination.deletion(network, small_task(), 2, 5))
    ends = rows[rows["deleted"].isin([0, 1])].groupby("deleted")["probability"]
    assert set(rows["map"]) == {"FullGrad", "random", "centred blob"} and len(rows) == 18
    assert (ends.nunique() == 1).all()  # nothing or everything deleted: whatever the map


def test_within_and_between_are_means_over_pairs(network):
    task = small_task(images=4)
    x, y = examination.explanations._images_of(network, task, 3)
    maps = fullgrad(network, x, y).numpy()
    found = examination.within_and_between(network, task, 3)
    expected = slow.within_and_between(maps, y.tolist())
    assert (found["within"], found["between"]) == pytest.approx(expected)


# --- after round 2 --------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["weights", "filter"])
def test_grafting_puts_back_the_filters_of_the_mask_and_nothing_else(scope):
    before, after = small(seed=0), small(seed=1)
    was, now = state_of(before), state_of(after)
    layer = list(conv_layers(after))[3]
    mask = torch.arange(conv_layers(after)[layer].out_channels) % 2 == 0
    with examination.grafted(after, was, {layer: mask}, scope):
        own = after.state_dict()
        for name, value in own.items():
            norm = name.startswith(f"features.{layer.replace('conv', 'bn')}.") and value.ndim
            if name.startswith(f"features.{layer}.") or (scope == "filter" and norm):
                assert torch.equal(value[mask], was[name][mask])
                assert torch.equal(value[~mask], now[name][~mask])
            else:
                assert torch.equal(value, now[name])
    assert same_state(after, now)
    with pytest.raises(ValueError, match="scope 'all': expected weights or filter"):
        with examination.grafted(after, was, {}, "all"):
            pass


def test_grafting_everything_and_the_head_is_the_network_before():
    task = small_task()
    before, after = small(seed=0), small(seed=1)
    masks = {k: torch.ones(c.out_channels, dtype=bool) for k, c in conv_layers(after).items()}
    headed = examination.put_back(after, before.state_dict(), "head")
    x = normalise(task.x, task, torch.float64)
    with examination.grafted(headed, before.state_dict(), masks, "filter"):
        torch.testing.assert_close(headed.eval()(x), before.eval()(x))
    found = examination.judge(headed, before.state_dict(), [task], masks, "filter")
    assert found == {"acc1": float((before(x).argmax(1) == task.y).double().mean())}


def test_parts_put_back_are_those_named():
    before, after = small(seed=0).state_dict(), small(seed=1)
    kept = state_of(after)
    for parts, wanted in (
        (("head",), lambda k: k.startswith("head.")),
        (("statistics",), lambda k: "running" in k),
    ):
        found = examination.put_back(after, before, *parts).state_dict()
        for name, value in found.items():
            assert torch.equal(value, (before if wanted(name) else kept)[name]), name
    assert same_state(after, kept)
    with pytest.raises(ValueError, match=r"parts \['tail'\]: expected some of head, statistics"):
        examination.put_back(after, before, "tail")


def test_the_probe_is_ridge_regression_on_what_enters_the_head(network):
    train, test = small_task(images=20, seed=1), small_task(images=10, seed=2)
    task = train._replace(x_test=test.x, y_test=test.y)
    network.eval()
    with torch.no_grad():
        x, x_test = (
            network.features(normalise(i, task, torch.float64)).flatten(1).float().numpy()
            for i in (task.x, task.x_test)
        )
    expected = slow.probe_accuracy(x, task.y.numpy(), x_test, task.y_test.numpy(), 1e-2)
    assert examination.linear_probe(network, task) == expected
    light = task._replace(x=(task.x // 4 + 150 * task.y.view(-1, 1, 1, 1)).byte())
    light = light._replace(x_test=light.x, y_test=light.y)
    assert examination.linear_probe(network, light) == 1


# --- how much order is there in the maps? ---------------------------------------------------------


def test_the_entropy_of_a_map_is_quantus_discrete_entropy():
    draw = np.random.default_rng(0)
    maps = np.stack([draw.normal(size=(32, 32)), draw.random((32, 32)) ** 4, np.ones((32, 32))])
    maps[1, 0, 0] = 7  # nearly all of it in the first bin
    found = examination.map_entropy(torch.from_numpy(maps))
    assert found.tolist() == pytest.approx([slow.entropy(m) for m in maps], abs=1e-12)
    assert found[0] > found[1] > found[2] == 0


def test_the_rise_of_entropy_is_of_each_image_by_itself(network):
    model, task = network.float(), small_task(images=6)
    *_, (_, randomised) = examination.cascade(model)
    found = examination.efficient_mprt(model, randomised, task, 2)
    pick = torch.cat(choose_images(model, task, 2)[0])
    x, y = normalise(task.x[pick], task), task.y[pick] + task.first_output
    before, after = (
        np.array([slow.entropy(m.numpy()) for m in fullgrad(n, x, y)]) for n in (model, randomised)
    )
    assert found["before"] == pytest.approx(before.mean(), abs=0.02)  # float32 at a bin's edge
    assert found["rise"] == pytest.approx((after / before - 1).mean(), abs=0.02)
    assert examination.efficient_mprt(model, model, task, 2)["rise"] == 0


def test_quantus_says_the_same(network):
    pytest.importorskip("quantus", reason="no Quantus: make oracles", exc_type=ImportError)
    found = slow.quantus_beside(network.float(), small_task(images=6), 2)
    assert found["ours"] != 0 and abs(found["difference"]) < 0.02
    assert found["difference"] == found["ours"] - found["Quantus"]


def test_what_a_ranking_needs_is_timed_apart_from_its_scores(tmp_path, monkeypatch):
    monkeypatch.setenv("RESULTS", str(tmp_path))
    p = examined.with_shown(load("smoke"), 1)
    assert products.PRODUCTS["initial"].parts(p, 1) == ("",)  # made before scores that look at it
    asked = p.examine.model_copy(update={"rankings": ("mse", "random")})
    assert products.PRODUCTS["initial"].parts(p.model_copy(update={"examine": asked}), 1) == ()
    shelf = products.store(p)

    def made(kind, part, seconds):
        product = products.PRODUCTS[kind]
        key = product.key(p, 1, *filter(None, [part]))
        shelf.once(kind, key, dict, product.filetype)
        meta = shelf.path(kind, key, ".meta.json")
        meta.write_text(json.dumps(json.loads(meta.read_text()) | {"seconds": seconds}))

    for kind, part, seconds in (
        *(("scores", name, 0.5) for name in ("mse", "weight_norm", "mse_at_init")),
        *(("filters", layer, 2.0) for layer in materials.layer_names(p)),
        *(("maps", "", 7.0), ("initial", "", 11.0)),
    ):
        made(kind, part, seconds)
    costs = {row["ranking"]: row for row in examined.ranking_cost_rows(p)}
    assert {row["seconds"] for row in costs.values()} == {0.5}
    wanted = {"mse": 7 + 2.0 * 8, "weight_norm": 0, "mse_at_init": 11}
    assert {name: row["beforehand"] for name, row in costs.items()} == wanted
    shown = words.readable_costs(pd.DataFrame(costs.values()))
    assert list(shown["together"]) == [23.5, 11.5, 0.5]
    shelf.path("maps", products.PRODUCTS["maps"].key(p, 1), ".meta.json").unlink()
    again = {row["ranking"]: row["beforehand"] for row in examined.ranking_cost_rows(p)}
    assert math.isnan(again["mse"]) and again["mse_at_init"] == 11  # not made here: not known


# --- rows, claims, figures ------------------------------------------------------------------------

TINY = """
extends: smoke
seeds: "1"
recipe: {epochs: 1, batch_size: 32, lr: 0.005, momentum: 0.9, flip: false}
examine: {rankings: all, images: 2, filters: 2, masks: 2}
arms: [{name: fine-tune}]
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A profile with its examined seed, and a registry of three rankings, one of which refuses."""
    folder = tmp_path_factory.mktemp("examined")
    (folder / "tiny.yaml").write_text(TINY)

    def refuses(evidence):
        raise ValueError("not of this network")

    everything = dict(RANKINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESULTS", str(folder / "results"))
        some = {name: RANKINGS[name] for name in ("weight_norm", "random", "loss_change")}
        for name in list(RANKINGS):
            patch.delitem(RANKINGS, name)
        for name, ranking in some.items():
            patch.setitem(RANKINGS, name, ranking)
        patch.setitem(RANKINGS, "refuses", refuses)
        yield load(str(folder / "tiny.yaml"))
    RANKINGS.clear()  # the patch puts all back, but in another order, which others' sentences show
    RANKINGS.update(everything)


def test_only_named_seeds_are_examined_and_a_notebook_s_in_any_case(tiny):
    kinds = lambda p: {kind for kind, _ in jobs.lacking(p, 1)}  # noqa: E731
    assert not kinds(tiny) & set(examined.EXAMINED)
    shown = examined.with_shown(tiny, 1)
    assert kinds(shown) >= {"atlas", "grafts", "damages", "reliability", "maps", "filters"}
    assert examined.with_shown(shown, 7) is shown
    assert list(examined.judged(shown, 1)) == ["weight_norm", "random", "refuses"]  # no trial
    of = lambda *names: shown.model_copy(  # noqa: E731
        update={"examine": shown.examine.model_copy(update={"rankings": names})}
    )
    assert list(examined.judged(of("random", "loss_change"), 1)) == ["random"]
    with pytest.raises(ValueError, match="examine: rankings: no ranking 'luck'; expected all, or"):
        check(of("random", "luck"))
    with pytest.raises(ValueError, match="rankings: random: expected the paper's, mse, among them"):
        check(of("random"))


def test_rows_of_what_was_examined_are_made_once(tiny, capsys):
    p = examined.with_shown(tiny, 1)
    for kind in ("scores", "choices", "damages", "atlas", "retrained", "readouts", "grafts"):
        for part in jobs.PRODUCTS[kind].parts(p, 1):
            jobs.PRODUCTS[kind].get(p, 1, *filter(None, [part]))
    assert "refuses left out: not of this network" in capsys.readouterr().out
    atlas = pd.DataFrame(examined.atlas_rows(p))
    assert set(atlas["ranking"]) == {"weight_norm", "random"} and len(atlas) == 2 * 8
    grafts = pd.DataFrame(examined.graft_rows(p))
    assert grafts.groupby("ranking").size().to_dict() == {"random": 8, "weight_norm": 4}
    assert set(grafts["fraction"]) == {0.25, 0.5, 0.75, 0.9}
    left = pd.DataFrame(examined.readout_rows(p)).set_index(["way", "readout"])["acc1"]
    assert left["before", "as it is"] == left["before", "both put back"]
    assert set(left.index.get_level_values(0)) == {"before", "fine-tune", "all frozen"}
    # all convolutions stood still: what the head and the statistics of before read is as before
    assert examined.retrained(p, 1)["all frozen"].keys() == products.task1(p, 1)["model"].keys()
    for name, value in examined.retrained(p, 1)["all frozen"].items():
        if ".conv" in name:
            assert torch.equal(value, products.task1(p, 1)["model"][name])
    assert words.grafts_beside_arms(grafts, study().assign(rule="turns")).empty
    costs = {row["ranking"]: row for row in examined.ranking_cost_rows(p)}
    assert costs["weight_norm"]["needs"] == "nothing" and costs["weight_norm"]["seeds"] == 1
    assert all(row["seconds"] >= 0 for row in costs.values()) and "loss_change" not in costs


def test_every_two_rankings_that_the_network_allows_are_compared(tiny):
    p = examined.with_shown(tiny, 1)
    jobs.fulfil(p, "task1", "scores", "choices")
    rows = pd.DataFrame(examined.choice_rows(p)).set_index(["ranking", "other", "fraction"])["iou"]
    assert list(rows.index) == [("weight_norm", "random", 0.5), ("weight_norm", "random", 0.75)]
    for (a, b, fraction), value in rows.items():  # by hand, from the scores themselves
        both = either = 0
        one, two = examined.scores(p, 1, a), examined.scores(p, 1, b)
        for layer in one:
            top = [
                set(np.argsort(-s[layer][0], kind="stable")[: round(fraction * s[layer].shape[1])])
                for s in (one, two)
            ]
            both, either = both + len(top[0] & top[1]), either + len(top[0] | top[1])
        assert value == pytest.approx(both / either, abs=0) and 0.2 < value < 0.8
    empty = jobs.PRODUCTS["choices"].get(p, 1, "refuses")
    assert empty["chosen"] == {} and empty["lineage"] == products.task1(p, 1)["lineage"]


@pytest.mark.parametrize("tasks", [2, 3])
def test_what_is_left_after_an_arm_is_read_off_the_very_network_of_its_row(small_study, tasks):
    arms = (
        Arm(name="fine-tune"),
        Arm(name="half", method="freeze", options={"ranking": "random", "fraction": 0.5}),
        Arm(name="PackNet", method="packnet", options={"retrain": 1}),  # has a view of each task
        Arm(name="together", curriculum="joint20"),
    )
    study = small_study(*arms, tasks=tasks, network={"heads": "per_task"})
    look = study.model_copy(update={"examine": study.examine.model_copy(update={"arms": "all"})})
    assert not jobs.PRODUCTS["left"].parts(look, 1)  # of a seed that is not examined
    look = examined.with_shown(look, 1)
    assert list(jobs.PRODUCTS["left"].parts(look, 1)) == ["half", "PackNet"]
    some = look.model_copy(update={"examine": look.examine.model_copy(update={"arms": ("half",)})})
    assert list(jobs.PRODUCTS["left"].parts(some, 1)) == ["half"]
    jobs.fulfil(look, "task1", "run", "retrained", "readouts", "left", workers=1)
    rows = {row["arm"]: row for row in tables.collect(look)["runs"]}
    found = pd.DataFrame(examined.readout_rows(look)).set_index(["way", "readout"])["acc1"]
    for arm in ("fine-tune", "half", "PackNet"):
        assert found[arm, "as it is"] == rows[arm]["acc1"]
    assert found["PackNet", "both put back"] >= 0 and len(found) == 5 * 5
    renamed = tuple(
        a.model_copy(update={"name": "a new name"}) if a.name == "half" else a for a in arms
    )
    ways = {row["way"] for row in examined.readout_rows(look.model_copy(update={"arms": renamed}))}
    assert "a new name" in ways and "half" not in ways  # nothing is run again, and one name shown


def test_the_answer_names_a_few_arms_of_many():
    atlas = pd.DataFrame(
        {"seed": 1, "ranking": r, "label": r.upper(), "spearman": value, "ceiling": 0.9}
        for r, value in {"mse": 0.01, "fisher": 0.3}.items()
    )
    ways = {"before": 0.6, "fine-tune": 0.3, "all frozen": 0.5, "a": 0.4, "b": 0.45}
    readouts = pd.DataFrame(
        {"way": way, "readout": readout, "acc1": acc1 + more}
        for way, acc1 in ways.items()
        for readout, more in (("as it is", 0), ("linear probe", 0.1))
    )
    last = words.answer_examined(atlas, readouts).splitlines()[-1]
    assert last == (
        "Accuracy on task 1, as it is and by a linear probe: before .600 and .700; fine-tune .300 "
        "and .400; all frozen .500 and .600; a probe finds least after fine-tune (.400)."
    )
    few = readouts[readouts["way"].isin(["before", "fine-tune"])]
    assert "least" not in words.answer_examined(atlas, few)


def test_arms_to_examine_are_the_profile_s_own(tmp_path):
    assert load("smoke").examine.arms == ("MSE 50 %",)
    (tmp_path / "odd.yaml").write_text(TINY)
    assert load(str(tmp_path / "odd.yaml")).examine.arms == ()  # other arms than smoke's
    (tmp_path / "odd.yaml").write_text(TINY.replace("masks: 2", "masks: 2, arms: [nobody]"))
    with pytest.raises(ValueError, match="examine: arms: nobody: no such arm; expected names"):
        load(str(tmp_path / "odd.yaml"))
    scratch = TINY.replace("fine-tune}", "new, curriculum: joint20}")
    (tmp_path / "odd.yaml").write_text(scratch.replace("masks: 2", "masks: 2, arms: [new]"))
    with pytest.raises(ValueError, match="arms: new: trained from nothing, so that nothing of"):
        load(str(tmp_path / "odd.yaml"))


def test_a_ranking_s_rows_depend_on_no_other_ranking(tiny, monkeypatch):
    p = examined.with_shown(tiny, 1)
    before = [key(p, 1, "weight_norm") for key in (examined.atlas_key, examined.grafts_key)]
    monkeypatch.setitem(RANKINGS, "new", RANKINGS["random"])
    assert before == [key(p, 1, "weight_norm") for key in (examined.atlas_key, examined.grafts_key)]
    closer = p.model_copy(update={"examine": p.examine.model_copy(update={"images": 3})})
    assert examined.atlas_key(closer, 1, "new") != examined.atlas_key(p, 1, "new")
    assert examined.grafts_key(closer, 1, "new") == examined.grafts_key(p, 1, "new")


def made_up_tables(seeds=6):
    layers = [("conv1", 0.2), ("conv2", 0.4)]
    rankings = (("mse", "MSE", "similarity", 1), ("random", "random", "chance", 0))
    about = [(s, f"a{s}", 0.01 * (s - 3.5)) for s in range(1, seeds + 1)]
    atlas = [
        {"seed": s, "lineage": a, "ranking": r, "label": label, "family": family, "layer": layer}
        | {"spearman": times * (x + e), "ceiling": 0.8}
        for s, a, e in about
        for r, label, family, times in rankings
        for layer, x in layers
    ]
    same = {"images": 0.9, "images_pattern": 0.8, "noise": 0.6, "noise_pattern": 0.2, "filters": 4}
    share = {"share_brightness": 0.7, "share_contrast": 0.1, "share_pattern": 0.2}
    reliable = [
        {"seed": s, "lineage": a, "layer": layer, **same, **share}
        for s, a, _ in about
        for layer, _ in layers
    ]
    return pd.DataFrame(atlas), pd.DataFrame(reliable)


def runs():
    return study().assign(rule="turns", scope="weights")


def test_claims_of_examined_explanations():
    found = claims.examined(runs(), *made_up_tables()).set_index("claim")
    assert list(found.index) == list(claims.EXAMINED)
    assert found.loc["C5", "estimate"] == pytest.approx(0.3)  # mean of layers
    assert found.loc["C6", "estimate"] == found.loc["C6-noise-pattern", "estimate"]  # the worst
    assert found["verdict"].to_dict() == {
        "C5": "supported",
        "C6": "contradicted",
        **{"C6-noise": "supported", "C6-images": "supported"},
        **{"C6-noise-pattern": "contradicted", "C6-images-pattern": "supported"},
    }
    said = words.answer(found.reset_index(), missing=False)
    assert said.startswith("C5: ") and "0.30" in said and "C6: " in said and "Not told" not in said


def test_without_their_tables_these_claims_are_not_made_nor_missed():
    nothing = pd.DataFrame()
    found = claims.claims(runs(), nothing, nothing)
    assert not set(found["claim"]) & set(claims.EXAMINED)
    assert not set(words._missing(found)) & set(claims.EXAMINED)


def test_the_figures_of_examined_explanations(tmp_path):
    atlas, reliable = made_up_tables()
    drawn = figures.atlas(atlas, "about")
    named = [t.get_text() for t in drawn.axes[0].get_yticklabels()]
    assert named == ["two halves of the damage", "MSE", "random"]
    layers = ("head", "conv2")
    randomised = pd.DataFrame([{"layer": k, "pearson": 0.5, "ssim": 0.4} for k in layers])
    deletion = pd.DataFrame(
        [{"map": m, "deleted": d, "probability": 1 - d} for m in "ab" for d in (0, 1)]
    )
    alike = pd.DataFrame([{"within": 0.9, "between": 0.8}])
    grafts = atlas.rename(columns={"spearman": "acc1", "ceiling": "acc2"}).assign(
        fraction=0.5, draw=None
    )
    pictures = pd.DataFrame({"layer": reliable["layer"].unique()[::-1], "correlation": 0.25})
    pictures.loc[0, "correlation"] = 0.75  # of the last layer: the table's order is its own
    left = figures.reliability(reliable, "about", pictures).axes[0]
    (curve,) = [line for line in left.lines if "a filter's heat map" in line.get_label()]
    assert list(curve.get_ydata())[-1] == 0.75 and set(curve.get_ydata()[:-1]) <= {0.25}
    for number, figure in enumerate(
        (
            drawn,
            figures.reliability(reliable, "about"),
            figures.sanity(randomised, deletion, alike, "about"),
            figures.grafts(grafts, "about"),
        )
    ):
        assert all(p.stat().st_size for p in figures.save(figure, tmp_path, f"f{number}"))


def test_grafts_are_compared_with_random_ones_in_the_same_checkpoint_alone():
    row = {"label": "MSE", "ranking": "mse", "family": "similarity", "fraction": 0.5, "acc2": 0.5}
    row["draw"] = None
    chance = row | {"label": "random", "ranking": "random", "family": "chance"}
    found = [row | {"seed": k, "lineage": f"x{k}", "acc1": k / 10} for k in (1, 2)]
    alone = words.beside_chance(pd.DataFrame(found))  # nothing to compare with: all
    assert list(alone["acc1"]) == [pytest.approx(0.15)] and list(alone["seeds"]) == [2]
    drawn = [
        chance | {"seed": 1, "lineage": "x1", "draw": draw, "acc1": a}
        for draw, a in enumerate((0.05, 0.06))
    ]
    table = pd.DataFrame([*found, *drawn])
    of_one = words.beside_chance(table)
    assert sorted(of_one["acc1"]) == [0.05, 0.06, 0.1] and set(of_one["seeds"]) == {1}
    again = [row | {"seed": 2, "lineage": "x2", "acc1": row["acc1"] + 0.2} for row in drawn]
    both = words.beside_chance(pd.DataFrame([*found, *drawn, *again]))  # draw by draw
    assert sorted(both["acc1"]) == pytest.approx([0.15, 0.15, 0.16])
    drawing = figures.grafts(table, "about")
    assert "1 seed" in drawing.get_suptitle()

    def read(name):
        if name not in ("grafts", "runs"):
            raise FileNotFoundError(name)
        return table if name == "grafts" else study().assign(rule="turns")

    told = answers.conclusions(read)
    assert (
        "above 100 % of the random ones of the same network with 50 % put back (1 seed)"
        in (told["grafts"])
    )
    more = [{**r, "acc1": 0.9} for r in again]  # in seed 2's network all random ones keep more
    both = pd.DataFrame([*found, *drawn, *more])
    told = answers.conclusions(lambda name: both if name == "grafts" else read(name))["grafts"]
    assert "above 50 % of the random ones" in told and "single seeds 0 to 100 %)" in told


def test_grafts_are_laid_beside_the_arms_that_froze_the_same():
    rows = runs()
    rows = rows[rows["ranking"] != "pearson"]  # alike with MSE but for rounding
    grafts = rows[rows["method"] == "freeze"][["seed", "lineage", "ranking", "fraction", "acc1"]]
    table = words.grafts_beside_arms(grafts.assign(acc1=1 - grafts["acc1"]), rows)
    assert "mse 50%" in table.index and words.agreement(table[:2]) == ""
    half = table[table["fraction"] == 0.5]
    said = words.agreement(table)  # of one share alone
    assert "choice of 50 %" in said and f"correlation -1.00 over {len(half)} rank" in said
    # within a share as alike as can be, whatever the shares do
    shares = pd.DataFrame({"fraction": [0.5] * 3 + [0.9] * 2, "put back": [1, 2, 3, -9, -8]})
    assert "correlation +1.00 over 3" in words.agreement(shares.assign(frozen=[4, 5, 6, 7, 8]))
    assert np.allclose(table["put back"], 1 - table["frozen"])
