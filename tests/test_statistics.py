"""Hand-computed cases, brute force and scipy beside every interval and test."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lib.report.statistics import (
    FINE_TUNE,
    JOINT,
    accuracy_matrix,
    arm_curves,
    average,
    backward_transfer,
    checkpoints,
    curve_distance,
    curve_distances,
    doses,
    forgetting,
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
from references.statistics import (
    curve_distance_on_a_grid,
    sign_flip_by_all_signs,
    sign_flip_by_subsets,
)
from tests.made_up import JITTER, arm_rows, joint_accuracy, study

NAN = float("nan")


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
    expected = sign_flip_by_all_signs(whole)
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
    exact = sign_flip_by_subsets(x)
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


@pytest.mark.parametrize("seed", range(5))
def test_curve_distance_is_the_dense_integral(seed):
    draw = np.random.default_rng(seed)
    a, b = (
        draw.random((6, 2)),
        draw.random((9, 2)) + [0.2, 0],
    )  # unsorted, up and down, ranges shifted
    assert curve_distance(a, b) == pytest.approx(curve_distance_on_a_grid(a, b), abs=1e-5)
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


def test_curves_leave_the_common_ends_out_and_other_draws_too():
    again = arm_rows("random 50 % again", 0.35, 0.45, ranking="random", fraction=0.5, seeds=1)
    runs = pd.concat([study(1), pd.DataFrame(again)])
    assert arm_curves(runs, frozen_by("random")) == {
        (1, "a1"): pytest.approx(np.array([[0.45, 0.18], [0.35, 0.25], [0.25, 0.3]]))
    }
    assert arm_curves(runs, frozen_by("ssim")) == {}


def test_doses_slopes_and_page_by_hand():
    table = doses(study(), frozen_by("mse"), "acc1")
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
    assert page_l(doses(study(), frozen_by("mse"), "acc2"), falling=True) == pytest.approx(
        (84, 6.0**-6)
    )
    assert np.isnan(page_l(table[:1])).all()
    without = study()
    without = without[~((without["arm"] == "mse 75%") & (without["seed"] == 2))]
    assert len(doses(without, frozen_by("mse"), "acc1")) == 5


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


def test_pick_takes_one_arm_of_those_alike_in_every_column_the_first_listed():
    base = arm_rows("random 50 %", 0.2, 0, ranking="random", fraction=0.5, seeds=3)
    draw = arm_rows("random 50 %, draw 2", 0.4, 0, ranking="random", fraction=0.5, seeds=3)
    early = [{**draw[0], "seed": 0}]  # a seed, before all others, that only the later arm has
    names = lambda rows: set(pick(rows, frozen_by("random", 0.5))["arm"])  # noqa: E731
    for rows in ([*base, *draw], [*early, *base, *draw], [*early, *base]):
        assert names(pd.DataFrame(rows)) == {"random 50 %"}
    told = pd.DataFrame([*draw, *base]).assign(options=["draw: 2"] * 3 + [""] * 3)
    assert names(told) == {"random 50 %"} and names(told.replace("", None)) == {"random 50 %"}
    asked = pick(told, {**frozen_by("random", 0.5), "options": "draw: 2"})
    assert set(asked["arm"]) == {"random 50 %, draw 2"}
    # each fraction has an arm of its own
    more = arm_rows("random 25 %", 0.1, 0, ranking="random", fraction=0.25, seeds=3)
    assert set(pick(pd.DataFrame([*more, *base, *draw]), frozen_by("random"))["arm"]) == {
        "random 25 %",
        "random 50 %",
    }


def test_pick_can_ask_for_another_scope():
    odd = arm_rows("all frozen whole filter", 0.9, 0.9, ranking="random", fraction=1.0)
    plain = arm_rows("all frozen", 0.3, 0.3, ranking="random", fraction=1.0)
    rows = pd.DataFrame(odd + plain).assign(scope=["filter"] * 6 + ["weights"] * 6)
    assert set(pick(rows, frozen_by("random", 1))["arm"]) == {"all frozen"}
    found = pick(rows, {**frozen_by("random", 1), "scope": "filter"})
    assert set(found["arm"]) == {"all frozen whole filter"}


def test_checkpoints_are_those_fine_tuning_started_from():
    runs = pd.DataFrame(
        [
            *arm_rows("fine-tune", 0.2, 0.4, "finetune", seeds=2),
            *arm_rows("fine-tune", 0.2, 0.4, "finetune", seeds=1, lineage="b", before=(0.7, 0.2)),
            *arm_rows("MSE", 0.3, 0.3, ranking="mse", fraction=0.5, seeds=3, before=(0.9, 0.9)),
            *arm_rows("joint", 0.2, 0, "finetune", curriculum="joint20", seeds=3),
        ]
    )
    found = checkpoints(runs)
    assert found["acc1_before"].tolist() == [0.5, 0.5, 0.7] and len(found) == 3
    assert checkpoints(runs[runs["arm"] == "joint"]).empty
    assert checkpoints(runs.drop(columns="acc1_before")).empty


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
    others = [*(frozen_by(r, 0.5) for r in ("random", "pearson", "bottom", "ssim")), FINE_TUNE]
    rank = lambda rows: ranks(rows, frozen_by("mse", 0.5), others).to_dict()  # noqa: E731
    assert rank(study()) == {1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 1}
    runs = study()
    runs.loc[(runs["arm"] == "fine-tune") & (runs["seed"] == 2), "acc2"] = 0.9  # above
    # equal on paper (.325), not in their last bits
    runs.loc[(runs["arm"] == "mse 50%") & (runs["seed"] == 3), ["acc1", "acc2"]] = 0.3, 0.35
    runs.loc[(runs["arm"] == "bottom 50%") & (runs["seed"] == 3), ["acc1", "acc2"]] = 0.15, 0.5
    # another fraction, another curriculum, an arm not named: no matter
    runs.loc[(runs["arm"] == "mse 25%") & (runs["seed"] == 4), "acc2"] = 0.9
    runs.loc[(runs["arm"] == "task 2 only") & (runs["seed"] == 4), "acc2"] = 2
    better = arm_rows("cosine 50%", 0.9, 0.9, ranking="cosine", fraction=0.5, seeds=1)
    runs = pd.concat([runs, pd.DataFrame(better)])
    runs = runs[~((runs["arm"] == "random 50%") & (runs["seed"] == 5))]  # incomplete: left out
    assert rank(runs) == {1: 1, 2: 2, 3: 1.5, 4: 1, 6: 1}
    assert rank(study()[study()["arm"] == "mse 50%"]) == {}
    assert rank(study()[study()["arm"] != "mse 50%"]) == {}


# --- the accuracy matrix --------------------------------------------------------------------------


def three_tasks():
    """Two seeds, three tasks. Seed 1's R: [.8 .1 .1], [.9 .7 .2], [.4 .5 .6]; seed 2's is seed 1's
    less .1 in the last round."""
    runs = pd.DataFrame(
        [
            {
                **arm_rows("fine-tune", 0.4 - d, 0.5 - d, "finetune", seeds=seed)[-1],
                "acc3": 0.6 - d,
                "acc1_before": 0.8,
                "acc2_before": 0.1,
                "acc3_before": 0.1,
                "acc1_train": 0.99,
            }
            for seed, d in ((1, 0), (2, 0.1))
        ]
    )
    after = {2: {1: (0.3, 0.3, 0.3), 2: (0.9, 0.7, 0.2)}, 3: {1: (0, 0, 0), 2: (0.99, 0.99, 0.99)}}
    accuracy = pd.DataFrame(
        [
            {
                "arm": arm,
                "seed": seed,
                "lineage": f"a{seed}",
                "round": number,
                "epoch": epoch,
                "task": f"task{j}",
                "accuracy": value if arm == "fine-tune" else 0.0,
            }
            for arm in ("fine-tune", "other")
            for seed in (1, 2)
            for number, epochs in after.items()
            for epoch, values in epochs.items()
            for j, value in enumerate(values, 1)
        ]
    )
    return runs, accuracy


def test_accuracy_matrix_forgetting_and_transfer_by_hand():
    matrix = accuracy_matrix(*three_tasks(), FINE_TUNE)
    assert list(matrix.columns) == ["task1", "task2", "task3"]
    first = [[0.8, 0.1, 0.1], [0.9, 0.7, 0.2], [0.4, 0.5, 0.6]]
    assert matrix.loc[1].to_numpy() == pytest.approx(np.array(first))
    assert matrix.loc[2].to_numpy()[:2] == pytest.approx(np.array(first[:2]))
    assert matrix.loc[(2, 3)].tolist() == pytest.approx([0.3, 0.4, 0.5])
    # best before the end: .9 and .7; when learned: .8 and .7
    assert forgetting(matrix).to_dict() == pytest.approx({1: (0.5 + 0.2) / 2, 2: (0.6 + 0.3) / 2})
    expected = {1: (-0.4 - 0.2) / 2, 2: (-0.5 - 0.3) / 2}
    assert backward_transfer(matrix).to_dict() == pytest.approx(expected)


def test_accuracy_matrix_of_two_tasks_needs_the_rows_alone():
    matrix = accuracy_matrix(study(), pd.DataFrame(), "mse 50%")
    assert matrix.loc[(1, 1)].tolist() == [0.5, 0.1]
    assert matrix.loc[(1, 2)].tolist() == pytest.approx([0.3 + JITTER[0], 0.35])
    assert forgetting(matrix).to_numpy() == pytest.approx(0.2 - JITTER)
    assert backward_transfer(matrix).to_numpy() == pytest.approx(JITTER - 0.2)
    for arm in (JOINT, "nothing"):
        matrix = accuracy_matrix(study(), joint_accuracy(), arm)
        assert matrix.empty and forgetting(matrix).empty


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


# --- every arm ------------------------------------------------------------------------------------


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
