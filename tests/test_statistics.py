"""Hand-computed cases, brute force and scipy beside every interval and test; a made-up study with
known answers."""

import io
import itertools
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lib.statistics import (
    COLUMNS,
    average,
    claims,
    curve_distance,
    curve_distances,
    doses,
    frozen_by,
    gained,
    holm,
    holm_levels,
    interval,
    joint_scores,
    page_l,
    paired,
    pick,
    prediction_interval,
    ranking_curves,
    ranks,
    retained,
    sign_flip,
    slopes,
    summary,
    t_test,
    verdict_difference,
    verdict_prediction,
    verdict_threshold,
)

NAN = float("nan")
JITTER = np.array([-0.003, 0.002, -0.001, 0.001, -0.002, 0.003])  # sums to 0: six seeds


# --- a made-up study ------------------------------------------------------------------------------


def arm_rows(
    arm,
    acc1,
    acc2,
    method="freeze",
    ranking=None,
    fraction=None,
    curriculum="sequence",
    jitter=0,
    seeds=6,
    lineage=None,
    before=(0.5, 0.1),
):
    """One arm: acc1 (+ jitter for each seed) and acc2, the same for all seeds."""
    jitter = np.broadcast_to(jitter, seeds)
    scratch = curriculum != "sequence"
    return [
        {
            "profile": "made up",
            "setting": "M",
            "arm": arm,
            "data": "none",
            "seed": s,
            "lineage": "scratch" if scratch else lineage or f"a{s}",
            "method": method,
            "ranking": ranking,
            "fraction": fraction,
            "realised": fraction or 0.0,
            "curriculum": curriculum,
            "acc1": acc1 + jitter[s - 1],
            "acc2": acc2,
            "acc1_before": None if scratch else before[0],
            "acc2_before": None if scratch else before[1],
        }
        for s in range(1, seeds + 1)
    ]


def freeze_rows(name, ranking, fraction, acc1, acc2, **more):
    return arm_rows(
        f"{name} {fraction:.0%}", acc1, acc2, ranking=ranking, fraction=fraction, **more
    )


def study(seeds=6):
    jitter = np.resize(JITTER, seeds)
    wide = np.resize([-0.1, 0.1, -0.06, 0.06, -0.08, 0.08], seeds)
    found = arm_rows("fine-tune", 0.15, 0.48, "finetune", seeds=seeds)
    found += arm_rows("all frozen", 0.45, 0.15, ranking="random", fraction=1.0, seeds=seeds)
    for ranking, values in (("mse", (0.2, 0.3, 0.4)), ("random", (0.18, 0.25, 0.30))):
        for fraction, acc1, acc2 in zip((0.25, 0.5, 0.75), values, (0.45, 0.35, 0.25)):
            found += freeze_rows(
                ranking,
                ranking,
                fraction,
                acc1,
                acc2,
                seeds=seeds,
                jitter=jitter if (ranking, fraction) == ("mse", 0.5) else 0,
            )
    found += freeze_rows("Pearson", "pearson", 0.5, 0.3, 0.2, jitter=wide, seeds=seeds)
    found += freeze_rows("bottom", "bottom", 0.5, 0.2995, 0.34, jitter=0, seeds=seeds)
    found += arm_rows(
        "joint 20-way", 0.31, 0.29, "finetune", curriculum="joint20", seeds=min(seeds, 3)
    )
    found += arm_rows("task 2 only", 0.1, 0.5, "finetune", curriculum="last", seeds=seeds)
    return pd.DataFrame(found)


def joint_accuracy(seeds=3):
    """Over all outputs .3 at the end and .2 after epoch 10, masked .6; everything else is a
    trap."""
    values = {
        "task1": {20: 0.31, 10: 0.22},
        "task2": {20: 0.29, 10: 0.18},
        "task1 masked": {20: 0.65, 10: 0.9},
        "task2 masked": {20: 0.55, 10: 0.9},
    }
    found = [
        {
            "run": f"joint 20-way/{s}/scratch",
            "arm": "joint 20-way",
            "seed": s,
            "lineage": "scratch",
            "round": 0,
            "epoch": e,
            "task": task,
            "accuracy": at.get(e, 0.99),
        }
        for s in range(1, seeds + 1)
        for e in range(1, 21)
        for task, at in values.items()
    ]
    found.append(
        {
            "run": "fine-tune/1/a1",
            "arm": "fine-tune",
            "seed": 1,
            "lineage": "a1",
            "round": 2,
            "epoch": 30,
            "task": "task1",
            "accuracy": 0.0,
        }
    )
    return pd.DataFrame(found)


def controls(seeds=6):
    """Trajectory: acc1 = .5 - acc2 / 2, above MSE's curve nowhere; interpolation: MSE's curve plus
    .1."""
    line = {"trajectory": lambda x: 0.5 - x / 2, "interpolation": lambda x: 0.75 - x}
    return pd.DataFrame(
        [
            {
                "arm": "fine-tune",
                "seed": s,
                "lineage": f"a{s}",
                "control": control,
                "place": i,
                "task1": f(x),
                "task2": x,
            }
            for s in range(1, seeds + 1)
            for control, f in line.items()
            for i, x in enumerate((0.1, 0.5, 0.3, 0.2))
        ]
    )


def overlaps(seeds=6):
    iou = {
        "mse_mean": 0.95,
        "mse_flat": 0.5,
        "mse_gaussian": 0.8,
        "mse_permuted": 0.6,
        "random": 0.3,
    }
    found = [
        {
            "seed": s,
            "lineage": f"a{s}",
            "fraction": f,
            "ranking": "mse",
            "other": other,
            "iou": (x if f == 0.5 else 0.0) + 0.001 * s,
        }
        for s in range(1, seeds + 1)
        for other, x in iou.items()
        for f in (0.25, 0.5)
    ]
    return pd.DataFrame(found)


def made_up(seeds=6, **more):
    return claims(
        study(seeds), joint_accuracy(min(seeds, 3)), controls(seeds), overlaps(seeds), **more
    )


# --- intervals and tests --------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.9, 0.95, 0.9875])
def test_interval_is_scipys(level):
    x = np.random.default_rng(0).normal(0.03, 0.02, 7)
    mean, low, high, n = interval(pd.Series(x), level)
    expected = stats.ttest_1samp(x, 0).confidence_interval(level)
    assert (mean, low, high, n) == pytest.approx(
        (x.mean(), expected.low, expected.high, 7), abs=1e-15
    )


def test_interval_by_hand_and_at_few_values():
    # mean 2, s = 1, t(.975, 2) = 4.302653
    assert interval([1, 2, 3]) == pytest.approx(
        (2, 2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5, 3), abs=1e-6
    )
    assert interval([1, NAN, 2, 3]) == interval([1, 2, 3])
    assert interval([0.4]) == pytest.approx((0.4, NAN, NAN, 1), nan_ok=True)
    assert interval([]) == pytest.approx((NAN, NAN, NAN, 0), nan_ok=True)


def test_prediction_interval_by_hand_and_by_its_coverage():
    assert prediction_interval([1, 2, 3]) == pytest.approx(
        (2, 2 - 4.302653 * (4 / 3) ** 0.5, 2 + 4.302653 * (4 / 3) ** 0.5, 3), abs=1e-6
    )
    assert prediction_interval([1])[1:] == pytest.approx((NAN, NAN, 1), nan_ok=True)
    draws = np.random.default_rng(1).normal(size=(2000, 6))
    inside = [
        low <= x[5] <= high for x in draws for _, low, high, _ in [prediction_interval(x[:5])]
    ]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.02)


def test_t_test_is_scipys_and_stands_constant_values():
    x = np.random.default_rng(2).normal(0.5, 1, 9)
    assert t_test(x) == pytest.approx(stats.ttest_1samp(x, 0).pvalue, abs=1e-15)
    assert t_test([0.1] * 4) == 0 and t_test([0, 0, 0]) == 1 and np.isnan(t_test([0.1]))


@pytest.mark.parametrize("seed", range(6))
def test_sign_flip_is_brute_force_in_whole_numbers(seed):
    # thousandths, as accuracies on 1,000 images are: many sums are equal, and in floats differ in
    # their last bits
    whole = np.random.default_rng(seed).integers(-6, 9, 4 + seed)
    sums = [
        abs(sum(s * int(d) for s, d in zip(signs, whole)))
        for signs in itertools.product((1, -1), repeat=len(whole))
    ]
    expected = np.mean([s >= abs(int(whole.sum())) for s in sums])
    assert sign_flip(whole / 1000) == pytest.approx(expected, abs=1e-15)
    assert sign_flip(pd.Series(-whole / 1000)) == pytest.approx(expected, abs=1e-15)


def test_sign_flip_is_scipys():
    x = np.random.default_rng(7).normal(0.4, 1, 10)
    found = stats.permutation_test((x,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip(x) == pytest.approx(found.pvalue, abs=1e-12)


def test_sign_flip_by_hand():
    assert sign_flip([0.3, -0.1, -0.2]) == 1  # sums to 0 but for the last bit
    assert sign_flip([0.1, 0.2, 0.4]) == 2 / 8  # two of eight: the attainable least
    assert sign_flip([0.1, 0.1, 0.1, 0.1, 0.1, -0.1]) == (2 + 2 * 6) / 64  # |sum| of 6 or 4 tenths
    assert sign_flip([0.2]) == 1 and sign_flip([0, 0, 0]) == 1 and np.isnan(sign_flip([]))
    assert sign_flip([0.1, 0.2, NAN, 0.4]) == 2 / 8
    assert sign_flip([0.01] * 20) == 2 / 2**20


def test_sign_flip_beyond_twenty_seeds_is_close_to_exact_and_repeatable():
    assert sign_flip([0.01] * 25) == 1 / 100_001
    x = np.random.default_rng(3).integers(-8, 11, 24)
    # exact by counting subsets: sum of signs * d = 2 * subset - total of |d|
    ways = np.zeros(np.abs(x).sum() + 1)
    ways[0] = 1
    for d in np.abs(x):
        ways = ways + np.concatenate([np.zeros(d), ways[: len(ways) - d]])
    sums = np.abs(2 * np.arange(len(ways)) - np.abs(x).sum())
    exact = ways[sums >= abs(x.sum())].sum() / ways.sum()
    assert 0.01 < exact < 0.99
    assert sign_flip(x / 1000) == pytest.approx(exact, abs=0.006) and sign_flip(
        x / 1000
    ) == sign_flip(x / 1000)


def test_holm_by_hand():
    # sorted .005 .01 .03 .04 times 4 3 2 1, never falling
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5, 0.9, 0.7]) == pytest.approx([1, 1, 1, 1])
    # a test that could not be made counts in the family
    assert holm([NAN, 0.02, NAN, 0.01]) == pytest.approx([NAN, 0.06, NAN, 0.04], nan_ok=True)


def test_holm_levels_by_hand():
    # .005 <= .05 / 4, .01 <= .05 / 3, .03 > .05 / 2: stop
    assert holm_levels([0.01, 0.04, 0.03, 0.005]) == pytest.approx(
        [1 - 0.05 / 3, 0.975, 0.975, 0.9875]
    )
    assert holm_levels([0.001, 0.002, 0.003, 0.004]) == pytest.approx(
        [0.9875, 1 - 0.05 / 3, 0.975, 0.95]
    )
    # the first fails: the last would pass its own .05 but never comes to it
    assert holm_levels([0.02, 0.03, 0.04, NAN]) == pytest.approx([0.9875] * 4)


def test_an_interval_at_its_holm_level_excludes_zero_just_where_holm_rejects():
    draw, rejected = np.random.default_rng(4), 0
    for _ in range(20):
        samples = draw.normal(draw.choice([0, 0.8, 1.5], (4, 1)), 1, (4, 6))
        p = [t_test(x) for x in samples]
        for x, level, adjusted in zip(samples, holm_levels(p), holm(p)):
            _, low, high, _ = interval(x, level)
            assert (low > 0 or high < 0) == (adjusted <= 0.05)
            rejected += adjusted <= 0.05
    assert 10 < rejected < 70


# --- curves and doses -----------------------------------------------------------------------------


def dense(a, b, points=400_001):
    """Reference: plain averaging of straight-line interpolation over a dense grid of the common
    range."""
    a, b = (c[c[:, 0].argsort()] for c in (a, b))
    x = np.linspace(max(a[0, 0], b[0, 0]), min(a[-1, 0], b[-1, 0]), points)
    return np.mean(np.interp(x, *a.T) - np.interp(x, *b.T))


@pytest.mark.parametrize("seed", range(5))
def test_curve_distance_is_the_dense_integral(seed):
    draw = np.random.default_rng(seed)
    a, b = (
        draw.random((6, 2)),
        draw.random((9, 2)) + [0.2, 0],
    )  # unsorted, up and down, ranges shifted
    assert curve_distance(a, b) == pytest.approx(dense(a, b), abs=1e-5)
    assert curve_distance(b, a) == pytest.approx(-curve_distance(a, b), abs=1e-15)


def test_curve_distance_by_hand():
    line = [(0.2, 0.4), (0.6, 0.2)]
    assert curve_distance([(x, y + 0.03) for x, y in line], line) == pytest.approx(0.03)
    # over .4 to .6 only: the other is .1 throughout, the line falls from .3 to .2
    assert curve_distance(line, [(0.9, 0.1), (0.4, 0.1)]) == pytest.approx(0.15)
    # crossing: +.1 at one end, -.1 at the other
    assert curve_distance([(0, 0.2), (1, 0.2)], [(1, 0.3), (0, 0.1)]) == pytest.approx(0, abs=1e-15)
    # a tent whose knot is between the other's ends: area 1/2 * 1 * .2
    assert curve_distance([(0, 0), (0.3, 0.2), (1, 0)], [(0, 0), (1, 0)]) == pytest.approx(0.1)


def test_curve_distance_averages_ties_and_never_extrapolates():
    tied = [(0.5, 0.1), (0, 0), (0.5, 0.3), (1, 0)]  # .2 at .5
    assert curve_distance(tied, [(0, 0), (1, 0)]) == pytest.approx(0.1)
    assert np.isnan(curve_distance([(0, 0.1), (0.3, 0.2)], [(0.4, 0.1), (0.6, 0.2)]))
    assert np.isnan(curve_distance([], [(0.4, 0.1)]))
    assert curve_distance([(0.3, 0.5)], [(0.2, 0.4), (0.4, 0.2)]) == pytest.approx(
        0.2
    )  # one point: the distance there


def test_curve_distances_pair_checkpoints_and_average_within_a_seed():
    flat = lambda y: [(0, y), (1, y)]  # noqa: E731
    a = {(1, "x"): flat(0.3), (1, "y"): flat(0.5), (2, "x"): flat(0.9), (3, "x"): flat(0.2)}
    b = {
        (1, "x"): flat(0.2),
        (1, "y"): flat(0.2),
        (2, "other"): flat(0),
        (3, "x"): [(2, 0), (3, 0)],
    }
    found = curve_distances(a, b)
    assert list(found.index) == [1, 3] and found[1] == pytest.approx(0.2) and np.isnan(found[3])
    assert curve_distances(a, {}).empty


def test_ranking_curves_leave_the_common_ends_out_and_average_draws():
    runs = pd.concat(
        [
            study(1),
            pd.DataFrame(
                arm_rows("random 50 % again", 0.35, 0.45, ranking="random", fraction=0.5, seeds=1)
            ),
        ]
    )
    assert ranking_curves(runs, "random") == {
        (1, "a1"): pytest.approx(np.array([[0.45, 0.18], [0.4, 0.3], [0.25, 0.3]]))
    }
    assert ranking_curves(runs, "ssim") == {}


def test_doses_slopes_and_page_by_hand():
    table = doses(study(), "mse", "acc1")
    assert table.shape == (6, 3) and list(table.columns) == [0.25, 0.5, 0.75]
    assert table[0.5].to_numpy() == pytest.approx(0.3 + JITTER)
    assert slopes(table).to_numpy() == pytest.approx(
        [0.4] * 6
    )  # the middle does not matter at equal distances
    assert slopes(pd.DataFrame([[1, 0, 3]], columns=[0.0, 0.5, 1.0]))[0] == pytest.approx(2)
    statistic, p = page_l(table)
    assert statistic == 6 * (1 + 4 + 9) and p == pytest.approx(
        6.0**-6
    )  # one of six orders, six times
    assert page_l(table, falling=True)[1] == pytest.approx(1)
    assert page_l(doses(study(), "mse", "acc2"), falling=True) == pytest.approx((84, 6.0**-6))
    assert np.isnan(page_l(table[:1])).all()
    without = study()
    assert (
        len(
            doses(without[~((without["arm"] == "mse 75%") & (without["seed"] == 2))], "mse", "acc1")
        )
        == 5
    )


# --- pairs ----------------------------------------------------------------------------------------


def test_paired_by_hand():
    found = paired(study(), "mse 50%", "random 50%")
    assert list(found.index) == list(range(1, 7)) and found.to_numpy() == pytest.approx(
        0.05 + JITTER
    )
    assert found.equals(paired(study(), frozen_by("mse", 0.5), frozen_by("random", 0.5)))
    assert paired(study(), "mse 50%", "bottom 50%", "acc2").to_numpy() == pytest.approx([0.01] * 6)
    assert paired(study(), "mse 50%", "nothing").empty


def test_paired_compares_only_on_one_checkpoint_and_averages_lineages_within_a_seed():
    runs = pd.DataFrame(
        [
            *arm_rows("a", 0.5, 0, seeds=3, lineage="x"),
            *arm_rows("a", 0.9, 0, seeds=1, lineage="y"),
            *arm_rows("b", 0.4, 0, seeds=2, lineage="x"),
            *arm_rows("b", 0.5, 0, seeds=1, lineage="y"),
            *arm_rows("b", 9, 0, seeds=3, lineage="z"),
        ]
    )
    assert paired(runs, "a", "b").to_dict() == pytest.approx({1: (0.1 + 0.4) / 2, 2: 0.1})


def test_paired_with_an_arm_from_scratch_uses_the_seed_alone():
    runs = pd.DataFrame(
        [
            *arm_rows("a", 0.5, 0, seeds=2, lineage="x"),
            *arm_rows("a", 0.7, 0, seeds=1, lineage="y"),
            *arm_rows("joint", 0.2, 0, curriculum="joint20", seeds=3),
            *arm_rows("last", 0.1, 0, curriculum="last", seeds=3),
        ]
    )
    assert paired(runs, "a", "joint").to_dict() == pytest.approx({1: 0.4, 2: 0.3})
    assert paired(runs, "joint", "last").to_dict() == pytest.approx({1: 0.1, 2: 0.1, 3: 0.1})


def test_pick_means_the_usual_rule_and_scope():
    plain = arm_rows("MSE 50 %", 0.3, 0.3, ranking="mse", fraction=0.5)
    odd = arm_rows("MSE 50 % whole filter", 0.9, 0.9, ranking="mse", fraction=0.5)
    both = pd.DataFrame(plain + odd)
    assert set(pick(both, frozen_by("mse", 0.5))["arm"]) == {"MSE 50 %"}  # the first listed
    told = pd.DataFrame(odd + plain).assign(scope=["filter"] * 6 + [None] * 6, rule=None)
    assert set(pick(told, frozen_by("mse", 0.5))["arm"]) == {"MSE 50 %"}
    assert pick(told[:6], frozen_by("mse", 0.5)).empty
    assert (
        pick(both, frozen_by("mse", 0.25)).empty and len(pick(both, "MSE 50 % whole filter")) == 6
    )


def test_draws_of_random_are_averaged():
    runs = pd.DataFrame(
        [
            *arm_rows("MSE", 0.5, 0, ranking="mse", fraction=0.5),
            *arm_rows("random draw 1", 0.2, 0, ranking="random", fraction=0.5),
            *arm_rows("random draw 2", 0.4, 0, ranking="random", fraction=0.5),
        ]
    )
    assert paired(
        runs, frozen_by("mse", 0.5), frozen_by("random", 0.5)
    ).to_numpy() == pytest.approx([0.2] * 6)


def test_retained_and_gained_by_hand():
    assert retained(0.3, 0.5) == pytest.approx(0.5) and retained(0.5, 0.5) == pytest.approx(1)
    assert retained(0.1, 0.5) == pytest.approx(0) and retained(0.05, 0.5) < 0
    assert retained(0.3, 0.4, classes_per_task=5) == pytest.approx(0.5)
    assert (
        np.isnan(retained(0.3, 0.1))
        and np.isnan(retained(0.3, 0.05))
        and np.isnan(retained(0.3, NAN))
    )
    series = retained(pd.Series([0.3, 0.2], index=[7, 8]), pd.Series([0.5, 0.1], index=[7, 8]))
    assert series[7] == pytest.approx(0.5) and np.isnan(series[8])
    assert gained(0.45, 0.1) == pytest.approx(0.35)


def test_average_is_over_all_tasks():
    runs = pd.DataFrame(
        {"acc1": [0.1], "acc2": [0.2], "acc3": [0.6], "acc1_before": [0.9], "acc1_train": [0.9]}
    )
    assert average(runs)[0] == pytest.approx(0.3)


def test_joint_is_read_three_ways():
    found = joint_scores(study(), joint_accuracy())
    assert {k: v.to_dict() for k, v in found.items()} == {
        k: pytest.approx({1: x, 2: x, 3: x}) for k, x in {"a": 0.3, "b": 0.6, "c": 0.2}.items()
    }
    assert joint_scores(study(), pd.DataFrame()) == {}


def test_equal_steps_of_three_tasks_are_a_third_of_the_epochs():
    rows = [
        {"arm": "joint 20-way", "seed": 1, "epoch": e, "task": t, "accuracy": e / 100}
        for e in range(1, 31)
        for t in ("task1", "task2", "task3", "task1 masked", "task2 masked", "task3 masked")
    ]
    assert joint_scores(study(), pd.DataFrame(rows))["c"].to_dict() == {1: pytest.approx(0.1)}


def test_ranks_by_hand():
    # averages: MSE .325 (+ jitter / 2), bottom .31975, fine-tune .315, random .3, Pearson .25 +-
    # .05
    assert ranks(study()).to_dict() == {1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 1}
    runs = study()
    runs.loc[(runs["arm"] == "fine-tune") & (runs["seed"] == 2), "acc2"] = 0.9  # above
    # equal on paper (.325), not in their last bits
    runs.loc[(runs["arm"] == "mse 50%") & (runs["seed"] == 3), ["acc1", "acc2"]] = 0.3, 0.35
    runs.loc[(runs["arm"] == "bottom 50%") & (runs["seed"] == 3), ["acc1", "acc2"]] = 0.15, 0.5
    runs.loc[(runs["arm"] == "mse 25%") & (runs["seed"] == 4), "acc2"] = (
        0.9  # another fraction: no matter
    )
    runs = runs[~((runs["arm"] == "random 50%") & (runs["seed"] == 5))]  # incomplete: left out
    assert ranks(runs).to_dict() == {1: 1, 2: 2, 3: 1.5, 4: 1, 6: 1}
    assert ranks(study()[study()["arm"] == "mse 50%"]).empty


# --- verdicts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "low, high, estimate, low90, high90, expected",
    [
        (0.001, 0.05, 0.025, 0.005, 0.045, "supported"),
        (0.001, 0.05, 0.01, 0.005, 0.045, "supported"),  # at least one point
        (0.001, 0.05, 0.09 - 0.08, 0.005, 0.045, "supported"),  # .009999999999999995
        (-0.05, 0.09 - 0.08, -0.02, -0.045, 0.005, "inconclusive"),
        (0.001, 0.05, 0.0099, 0.005, 0.045, "inconclusive"),
        (0, 0.05, 0.025, 0.005, 0.045, "inconclusive"),  # above 0, not at it
        (-0.01, 0.05, 0.02, -0.005, 0.045, "inconclusive"),
        (-0.05, 0.0099, -0.02, -0.045, 0.005, "contradicted"),
        (-0.05, 0.01, -0.02, -0.045, 0.005, "inconclusive"),  # below one point, not at it
        (0.001, 0.009, 0.005, 0.002, 0.008, "contradicted (equivalent)"),
        (-0.009, 0.009, 0, -0.008, 0.008, "contradicted (equivalent)"),
        (-0.012, 0.011, 0, -0.0099, 0.0099, "inconclusive (equivalent)"),
        (-0.012, 0.011, 0, -0.01, 0.01, "inconclusive (equivalent)"),
        (-0.012, 0.011, 0, -0.0101, 0.0099, "inconclusive"),
        (-0.012, 0.011, 0, -0.0099, 0.0101, "inconclusive"),
        (0.01, 0.01, 0.01, 0.01, 0.01, "supported (equivalent)"),
        (NAN, NAN, 0.3, NAN, NAN, "undecided (n = 1)"),
    ],
)
def test_verdict_of_a_difference(low, high, estimate, low90, high90, expected):
    assert verdict_difference(low, high, estimate, low90, high90) == expected


def test_verdict_of_a_difference_with_another_margin():
    assert (
        verdict_difference(0.01, 0.04, 0.02, 0.012, 0.038, margin=0.05)
        == "contradicted (equivalent)"
    )
    assert verdict_difference(0.01, 0.04, 0.02, 0.012, 0.038) == "supported"


@pytest.mark.parametrize(
    "low, high, above, expected",
    [
        (0.06, 0.2, True, "supported"),
        (0.05, 0.2, True, "inconclusive"),
        (0.01, 0.05, True, "inconclusive"),
        (0.01, 0.049, True, "contradicted"),
        (0.04, 0.06, True, "inconclusive"),
        (0.06, 0.2, False, "contradicted"),
        (0.01, 0.049, False, "supported"),
        (0.05, 0.05, False, "inconclusive"),
        (0.04, 0.06, False, "inconclusive"),
        (0.9 - 0.85, 0.2, True, "inconclusive"),  # .050000000000000044
        (NAN, NAN, True, "undecided (n = 1)"),
        (NAN, NAN, False, "undecided (n = 1)"),
    ],
)
def test_verdict_of_a_threshold(low, high, above, expected):
    assert verdict_threshold(low, high, 0.05, above) == expected


@pytest.mark.parametrize(
    "low, high, n, expected",
    [
        (0.4, 0.5, 10, "supported"),
        (0.4, 0.44, 10, "contradicted"),
        (0.46, 0.5, 10, "contradicted"),
        (0.4, 0.5, 9, "inconclusive"),
        (0.4, 0.44, 9, "inconclusive"),
        (0.4, 0.5002, 20, "inconclusive"),
        (0.45, 0.5, 10, "supported"),
        (NAN, NAN, 1, "undecided (n = 1)"),
    ],
)
def test_verdict_of_a_prediction(low, high, n, expected):
    assert verdict_prediction(low, high, n, 0.45) == expected


# --- claims and summary ---------------------------------------------------------------------------

EXPECTED = {  # claim: estimate, n, verdict
    "C0": (0.35, 6, "supported"),
    "C1-acc1": (0.4, 6, "supported"),
    "C1-acc2": (-0.4, 6, "supported"),
    "C1-acc1-random": (0.24, 6, "supported"),
    "C1-acc2-random": (-0.4, 6, "supported"),
    "C2-random": (0.05, 6, "supported"),
    "C2-bottom": (0.0005, 6, "contradicted (equivalent)"),
    "C2-Pearson": (0, 6, "inconclusive"),
    # gaps .10, .05 and .02 at acc2 .25, .35 and .45
    "C2b-random": (0.055, 6, "supported"),
    # MSE's curve is .65 - acc2; the trajectory .5 - acc2 / 2; over .25 to .45 the gap is .15 - .35
    # / 2
    "C2b-trajectory": (-0.025, 6, "contradicted"),
    "C2b-interpolation": (-0.1, 6, "contradicted"),
    "C2c-gain": (1.25, 6, "contradicted"),
    "C2c-average": (1, 6, "supported"),
    "C3a": (0.325 + JITTER[:3].mean() / 2 - 0.3, 3, "supported"),
    "C3b": (0.325 + JITTER[:3].mean() / 2 - 0.6, 3, "contradicted"),
    "C3c": (0.325 + JITTER[:3].mean() / 2 - 0.2, 3, "supported"),
    "C4-acc1-before": (0.5, 6, "inconclusive"),
    "C4-acc2-before": (0.1, 6, "inconclusive"),
    "C4-acc1-25": (0.2, 6, "inconclusive"),
    "C4-acc2-25": (0.45, 6, "inconclusive"),
    "C4-acc1-75": (0.4, 6, "inconclusive"),
    "C4-acc2-75": (0.25, 6, "inconclusive"),
    "C5b": (0.9535, 6, "contradicted"),
    "C5c": (0.8035, 6, "supported"),
    "C5c-flat": (0.5035, 6, "supported"),
    "C5c-gaussian": (0.8035, 6, "supported"),
    "C5c-permuted": (0.6035, 6, "supported"),
}


def test_claims_of_the_made_up_study():
    table = made_up()
    assert (
        list(table.columns) == COLUMNS
        and table["claim"].is_unique
        and (table["setting"] == "M").all()
    )
    found = {r.claim: (r.estimate, r.n, r.verdict) for r in table.itertuples()}
    assert list(found) == list(EXPECTED)
    for claim, (estimate, n, verdict) in EXPECTED.items():
        # ratios of jittered numbers average a little above the ratio of averages
        assert found[claim][0] == pytest.approx(
            estimate, abs=1e-3 if claim == "C2c-gain" else 1e-9
        ), claim
        assert found[claim][1:] == (n, verdict), claim
    assert table["text"].is_unique and table["text"].str.len().between(20, 120).all()


def test_primary_claims_are_adjusted_by_holm_and_others_are_not():
    table = made_up().set_index("claim")
    random, bottom = 0.05 + JITTER, 0.0005 + JITTER
    pearson = JITTER - [-0.1, 0.1, -0.06, 0.06, -0.08, 0.08]
    # the middle knot of three weighs one half
    curve = 0.055 + JITTER / 2
    samples = {"C2-random": random, "C2-bottom": bottom, "C2-Pearson": pearson, "C2b-random": curve}
    p = {k: stats.ttest_1samp(x, 0).pvalue for k, x in samples.items()}
    assert (
        sorted(p, key=p.get) == ["C2b-random", "C2-random", "C2-bottom", "C2-Pearson"]
        and p["C2-bottom"] > 0.05
    )
    levels = {
        "C2b-random": 1 - 0.05 / 4,
        "C2-random": 1 - 0.05 / 3,
        "C2-bottom": 1 - 0.05 / 2,
        "C2-Pearson": 1 - 0.05 / 2,
    }
    for claim, x in samples.items():
        row, wide = table.loc[claim], stats.ttest_1samp(x, 0).confidence_interval(levels[claim])
        assert row["level"] == pytest.approx(levels[claim])
        assert (row["low"], row["high"]) == pytest.approx((wide.low, wide.high), abs=1e-12)
        assert row["high95"] == pytest.approx(
            stats.ttest_1samp(x, 0).confidence_interval(0.95).high, abs=1e-12
        )
    # all six of one sign: 2 / 64 each, times 4, then never less
    assert table.loc[["C2-random", "C2b-random"], "p"].tolist() == pytest.approx([0.125, 0.125])
    assert table.loc["C2b-trajectory", "p"] == pytest.approx(2 / 64)
    others = table.drop(index=list(samples))
    assert (others["level"] == 0.95).all()
    assert others["high"].equals(others["high95"])
    assert table.loc["C1-acc1", "p"] == pytest.approx(6.0**-6) and np.isnan(
        table.loc["C4-acc1-25", "p"]
    )


def test_contradicted_needs_the_plain_upper_bound_below_one_point():
    # 95 % upper bound below .01, Holm's (.9875) above it
    spread = np.array([-0.0075, 0.0075, -0.0075, 0.0075, -0.0065, 0.0065])
    assert interval(spread)[2] < 0.01 < interval(spread, 0.9875)[2]
    runs = pd.DataFrame(
        [
            *freeze_rows("mse", "mse", 0.5, 0.3, 0.3, jitter=spread),
            *freeze_rows("random", "random", 0.5, 0.3, 0.3),
        ]
    )
    row = claims(runs, pd.DataFrame(), pd.DataFrame()).set_index("claim").loc["C2-random"]
    assert row["high"] > 0.01 > row["high95"] and row["verdict"] == "contradicted (equivalent)"


def test_prediction_claims_with_enough_seeds():
    table = made_up(12).set_index("claim")
    c4 = table[table.index.str.startswith("C4")]
    assert (
        len(c4) == 6 and (c4["verdict"] == "contradicted").all()
    )  # no spread at all: the paper's are others
    runs = study(12)
    runs.loc[runs["arm"] == "mse 25%", "acc1"] += np.resize([-0.02, 0.02], 12)
    runs.loc[runs["arm"] == "mse 75%", "acc1"] += np.resize([-0.05, 0.05], 12)
    table = claims(runs, pd.DataFrame(), pd.DataFrame()).set_index("claim")
    assert table.loc["C4-acc1-25", "verdict"] == "supported"  # .207 inside .2 +- .048
    assert table.loc["C4-acc1-75", "verdict"] == "inconclusive"  # half-width .12
    x = runs[runs["arm"] == "mse 25%"]["acc1"]
    assert table.loc["C4-acc1-25", ["low", "high"]].tolist() == pytest.approx(
        list(prediction_interval(x)[1:3])
    )


def test_prediction_claims_only_where_tasks_have_the_papers_ten_classes():
    assert not made_up(classes_per_task=5)["claim"].str.startswith("C4").any()
    assert len(made_up(classes_per_task=5)) == len(made_up()) - 6


@pytest.mark.parametrize(
    "gone, claims_gone",
    [
        ("fine-tune", {"C0"}),
        ("random 50%", {"C1-acc1-random", "C1-acc2-random", "C2-random"}),
        ("mse 75%", {"C1-acc1", "C1-acc2", "C4-acc1-75", "C4-acc2-75"}),
        ("Pearson 50%", {"C2-Pearson"}),
        ("bottom 50%", {"C2-bottom"}),
        ("joint 20-way", {"C3a", "C3b", "C3c"}),
        (
            "mse 50%",
            {
                "C1-acc1",
                "C1-acc2",
                "C2-random",
                "C2-bottom",
                "C2-Pearson",
                "C2c-gain",
                "C2c-average",
                "C3a",
                "C3b",
                "C3c",
            },
        ),
        ("all frozen", set()),
        ("task 2 only", set()),
    ],
)
def test_claims_without_their_arms_are_left_out(gone, claims_gone):
    runs = study()
    table = claims(runs[runs["arm"] != gone], joint_accuracy(), controls(), overlaps())
    assert set(EXPECTED) - set(table["claim"]) == claims_gone


def test_claims_without_controls_overlap_or_anything():
    nothing = pd.DataFrame()
    found = set(claims(study(), nothing, nothing)["claim"])
    assert set(EXPECTED) - found == {
        "C2b-trajectory",
        "C2b-interpolation",
        "C3a",
        "C3b",
        "C3c",
        "C5b",
        "C5c",
        "C5c-flat",
        "C5c-gaussian",
        "C5c-permuted",
    }
    scratch = pd.DataFrame(arm_rows("task 2 only", 0.1, 0.5, "finetune", curriculum="last"))
    table = claims(scratch.drop(columns=["acc1_before", "acc2_before"]), nothing, nothing)
    assert table.empty and list(table.columns) == COLUMNS
    some = overlaps()[
        overlaps()["other"] != "mse_flat"
    ]  # the worst of an incomplete set would flatter
    left = set(claims(study(), nothing, nothing, some)["claim"])
    assert "C5c" not in left and "C5c-flat" not in left and {"C5b", "C5c-gaussian"} <= left


def test_a_seed_that_lost_nothing_has_no_ratio_of_gain_to_loss():
    runs = study()
    runs.loc[(runs["arm"] == "mse 50%") & runs["seed"].isin([1, 2]), "acc1"] = [
        0.5,
        0.6,
    ]  # lost nothing, lost less
    row = claims(runs, pd.DataFrame(), pd.DataFrame()).set_index("claim").loc["C2c-gain"]
    assert row["n"] == 4 and row["estimate"] == pytest.approx(np.mean(0.25 / (0.2 - JITTER[2:])))


def test_one_seed_decides_nothing():
    table = made_up(1)
    assert list(table["claim"]) == list(EXPECTED)
    assert (table["n"] == 1).all() and (table["verdict"] == "undecided (n = 1)").all()
    assert (
        table[["low", "high", "high95"]].isna().all(axis=None) and table["estimate"].notna().all()
    )


def test_curves_without_common_range_are_a_row_without_seeds():
    runs = study()
    runs.loc[runs["ranking"] == "random", "acc2"] -= 0.9
    row = claims(runs, pd.DataFrame(), pd.DataFrame()).set_index("claim").loc["C2b-random"]
    assert row["n"] == 0 and row["verdict"] == "undecided (n = 0)" and np.isnan(row["estimate"])


def test_claims_survive_csv_and_refuse_two_settings():
    tables = [
        pd.read_csv(io.StringIO(t.to_csv(index=False)))
        for t in (study(), joint_accuracy(), controls(), overlaps())
    ]
    pd.testing.assert_frame_equal(claims(*tables), made_up())
    both = pd.concat([study(), study().assign(setting="N")])
    with pytest.raises(ValueError, match="settings M, N at once"):
        claims(both, joint_accuracy(), controls())


def test_a_third_task_does_not_disturb():
    runs = study().assign(acc3=0.2, acc3_before=0.1)
    table = claims(runs, joint_accuracy(), controls()).set_index("claim")
    assert table.loc["C2-random", "estimate"] == pytest.approx(0.05)
    assert table.loc["C3a", "estimate"] == pytest.approx(
        (0.3 + JITTER[:3].mean() + 0.35 + 0.2) / 3 - 0.3
    )


def test_summary_by_hand():
    runs = pd.concat(
        [
            study(),
            pd.DataFrame(
                arm_rows("mse 50%", 0.5, 0.35, ranking="mse", fraction=0.5, seeds=1, lineage="b")
            ),
        ]
    )
    table = summary(runs)
    assert (
        list(table["arm"]) == list(dict.fromkeys(study()["arm"]))
        and (table["setting"] == "M").all()
    )
    row = table.set_index("arm").loc["mse 50%"]
    acc1 = 0.3 + JITTER
    acc1[0] = (acc1[0] + 0.5) / 2  # two lineages of seed 1
    assert row["n"] == 6
    for name, values in (
        ("acc1", acc1),
        ("acc2", [0.35] * 6),
        ("average", (acc1 + 0.35) / 2),
        ("retained", (acc1 - 0.1) / 0.4),
        ("gained", [0.25] * 6),
    ):
        expected = interval(values)[:3]
        assert tuple(row[[name, f"{name}_low", f"{name}_high"]]) == pytest.approx(
            expected, abs=1e-12
        ), name
    scratch = table.set_index("arm").loc[["joint 20-way", "task 2 only"]]
    assert scratch["n"].tolist() == [3, 6] and scratch["acc1"].tolist() == pytest.approx(
        [0.31, 0.1]
    )
    assert scratch[["retained", "retained_low", "gained", "gained_high"]].isna().all(axis=None)
    fewer = summary(runs, classes_per_task=5).set_index("arm").loc["fine-tune", "retained"]
    assert fewer == pytest.approx((0.15 - 0.2) / (0.5 - 0.2))


def test_no_torch_here():
    code = "import sys, lib.statistics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
