"""The claims of a made-up study with known answers, and of the published record byte for byte."""

import io
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lib.report.claims import CLAIMS, COLUMNS, LEARNED, OVERLAPS, claims, read_at
from lib.report.statistics import interval, prediction_interval, summary
from lib.report.words import classes_per_task, paper_tables
from lib.study.profile import ROOT, load
from lib.study.store import read_table
from tests.made_up import JITTER, arm_rows, controls, freeze_rows, joint_accuracy, overlaps, study


def made_up(seeds=6, **more):
    return claims(
        study(seeds), joint_accuracy(min(seeds, 3)), controls(seeds), overlaps(seeds), **more
    )


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
        shown = 0.9 if claim == "C2-bottom" else levels[claim]  # equivalent: read at 90 %
        row, wide = table.loc[claim], stats.ttest_1samp(x, 0).confidence_interval(shown)
        assert row["level"] == pytest.approx(shown)
        assert (row["low"], row["high"]) == pytest.approx((wide.low, wide.high), abs=1e-12)
        plain = stats.ttest_1samp(x, 0).confidence_interval(0.95)
        assert (row["low95"], row["high95"]) == pytest.approx((plain.low, plain.high), abs=1e-12)
    # all six of one sign: 2 / 64 each, times 4, then never less
    assert table.loc[["C2-random", "C2b-random"], "p"].tolist() == pytest.approx([0.125, 0.125])
    assert table.loc["C2b-trajectory", "p"] == pytest.approx(2 / 64)
    others = table.drop(index=list(samples))
    assert (others["level"] == 0.95).all()
    assert others["high"].equals(others["high95"]) and others["low"].equals(others["low95"])
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
    assert row["verdict"] == "contradicted (equivalent)" and row["level"] == 0.9
    bounds = interval(spread)[2], interval(spread, 0.9)[2]
    assert (row["high95"], row["high"]) == pytest.approx(bounds, abs=1e-12)


def agrees(row, margin=0.01):
    """Whether a difference's verdict can be read off the interval that stands beside it."""
    words = row["verdict"].split()
    says = {
        "supported": row["low"] > 0 and row["estimate"] >= margin,
        "contradicted": row["high"] < margin,
        "inconclusive": row["high"] >= margin or "(equivalent)" in words,
    }
    within = -margin <= row["low"] and row["high"] <= margin
    return says[words[0]] and (within or "(equivalent)" not in words)


def test_every_verdict_is_read_off_the_interval_that_stands_beside_it():
    draw, seen = np.random.default_rng(4), {}
    for _ in range(15):
        runs = two_heads()
        gap = draw.choice([-0.02, 0.0, 0.01, 0.03]) + draw.choice([0.002, 0.02]) * draw.normal(
            size=len(runs)
        )
        runs["acc1"] = 0.3 + gap * (runs["ranking"] == "mse")
        table = claims(runs, pd.DataFrame(), pd.DataFrame())
        for _, row in table[table["claim"].isin({*FIVE, *FOUR})].iterrows():
            assert agrees(row), row
            seen.setdefault(row["verdict"], set()).add(round(row["level"], 6))
    assert set(seen) == {
        *("supported", "contradicted", "inconclusive"),
        *("contradicted (equivalent)", "inconclusive (equivalent)"),
    }
    assert seen["contradicted"] == {0.95} and seen["contradicted (equivalent)"] == {0.9}
    assert len(seen["supported"]) == 5  # Holm's steps


def test_a_claim_on_overlap_says_how_many_filters_are_the_same():
    assert {"C5b", "C5c", "C5c-flat", "C5c-gaussian", "C5c-permuted"} == set(OVERLAPS)
    texts = made_up().set_index("claim").loc[list(OVERLAPS), "text"]
    assert texts.str.startswith("fewer than 95 % of the filters").all()  # 2 * .9 / 1.9 = .947
    assert texts.str.endswith("(IoU below 0.9)").all()


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
        (
            "fine-tune",
            {"C0", "C2b-trajectory", "C2b-interpolation", "C4-acc1-before", "C4-acc2-before"},
        ),
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


def test_at_one_fraction_there_is_no_curve_to_compare():
    runs = study()
    points = runs[(runs["ranking"] != "mse") | (runs["fraction"] == 0.5)]
    found = claims(points, joint_accuracy(), controls(), overlaps())["claim"].tolist()
    left_out = {"C1-acc1", "C1-acc2", "C2b-random"}
    assert found == [
        name for name in EXPECTED if name not in left_out and not re.search(r"C4-.*\d$", name)
    ]


def test_claims_survive_csv_and_refuse_two_settings():
    tables = [
        pd.read_csv(io.StringIO(t.to_csv(index=False)))
        for t in (study(), joint_accuracy(), controls(), overlaps())
    ]
    pd.testing.assert_frame_equal(claims(*tables), made_up())
    both = pd.concat([study(), study().assign(setting="N")])
    with pytest.raises(ValueError, match="settings M, N at once"):
        claims(both, joint_accuracy(), controls())


def test_what_was_learned_is_not_read_off_what_is_left_after_more_tasks():
    two, three = study(), study().assign(acc3=0.2, acc3_before=0.1)
    told, left = ({*claims(r, joint_accuracy(), controls())["claim"]} for r in (two, three))
    assert set(LEARNED) <= told and not set(LEARNED) & left
    levels = [
        claims(r, joint_accuracy(), controls()).set_index("claim").loc["C2-random", "p"]
        for r in (two, three)
    ]
    assert levels[1] >= levels[0]  # the family is as large as before


def test_a_third_task_does_not_disturb():
    runs = study().assign(acc3=0.2, acc3_before=0.1)
    table = claims(runs, joint_accuracy(), controls()).set_index("claim")
    assert table.loc["C2-random", "estimate"] == pytest.approx(0.05)
    assert table.loc["C3a", "estimate"] == pytest.approx(
        (0.3 + JITTER[:3].mean() + 0.35 + 0.2) / 3 - 0.3
    )


# --- families -------------------------------------------------------------------------------------


def two_heads():
    """Setting KT, six seeds: MSE minus random is .004, .05, .10 and .001 at 25, 50, 75 and 90 %,
    each with a jitter of its own size. The curves: MSE's above random's by .05 everywhere."""
    sizes = {0.25: 1.0, 0.5: 4.0, 0.75: 2.0, 0.9: 3.0}
    gaps = {0.25: 0.004, 0.5: 0.05, 0.75: 0.1, 0.9: 0.001}
    found = arm_rows("fine-tune", 0.15, 0.48, "finetune")
    for fraction, gap in gaps.items():
        acc1, acc2 = 0.1 + 0.4 * fraction, 0.5 - 0.3 * fraction
        found += freeze_rows("random", "random", fraction, acc1, acc2)
        jitter = sizes[fraction] * np.roll(JITTER, int(10 * fraction))
        found += freeze_rows("MSE", "mse", fraction, acc1 + gap, acc2, jitter=jitter)
    for name, acc1 in (("Pearson", 0.29), ("bottom", 0.24)):
        found += freeze_rows(name, name.lower(), 0.5, acc1, 0.35, jitter=JITTER)
    return pd.DataFrame(found).assign(setting="KT")


FIVE = ["C2-random-25", "C2-random", "C2-random-75", "C2-random-90", "C2b-random"]
FOUR = ["C2-random", "C2-bottom", "C2-Pearson", "C2b-random"]


def test_two_heads_have_a_family_of_five_by_hand():
    runs, nothing = two_heads(), pd.DataFrame()
    table = claims(runs, nothing, nothing).set_index("claim")
    assert [name for name in table.index if name in FIVE] == FIVE
    wide = lambda r: runs[runs["ranking"] == r].pivot(  # noqa: E731
        index="seed", columns="fraction", values="acc1"
    )
    gaps = wide("mse") - wide("random")
    samples = {name: gaps[f] for name, f in zip(FIVE, (0.25, 0.5, 0.75, 0.9))}
    # four knots, as far apart in acc2 as in fraction: trapezoids of .25, .25 and .15 over .65
    weights = {0.25: 0.125, 0.5: 0.25, 0.75: 0.2, 0.9: 0.075}
    samples["C2b-random"] = sum(gaps[f] * w / 0.65 for f, w in weights.items())
    p = {name: stats.ttest_1samp(x, 0).pvalue for name, x in samples.items()}
    order = sorted(p, key=p.get)
    assert order[-2:] == ["C2-random-25", "C2-random-90"]
    assert 0.05 / 2 >= p["C2-random-25"] and p["C2-random-90"] > 0.05
    for k, name in enumerate(order):  # all but the last pass their step, so each has its own
        row, x = table.loc[name], samples[name]
        holm = 1 - 0.05 / (5 - k)
        level = read_at(row["verdict"], holm)
        assert row["level"] == pytest.approx(level), name
        assert (level == holm) == (not row["verdict"].startswith("contradicted"))
        bounds = stats.ttest_1samp(x, 0).confidence_interval(level)
        assert (row["low"], row["high"]) == pytest.approx((bounds.low, bounds.high), abs=1e-12)
        assert row["estimate"] == pytest.approx(x.mean(), abs=1e-12) and row["n"] == 6
    # 2 / 64 where all six are of one sign, times five; never less after it
    same = {name: (np.sign(x) == np.sign(x.iloc[0])).all() for name, x in samples.items()}
    assert [name for name in FIVE if not same[name]] == ["C2-random-90"]
    assert table.loc[[n for n in FIVE if same[n]], "p"].tolist() == pytest.approx([5 / 32] * 4)
    outside = table.drop(index=FIVE)
    assert (outside["level"] == 0.95).all()
    assert table.loc["C2-bottom", "p"] == pytest.approx(2 / 64)  # alone: not times anything


@pytest.mark.parametrize("setting", ["S1", "S2", "T", "K", "Q", "smoke"])
def test_every_other_setting_keeps_the_family_of_four(setting):
    table = claims(two_heads().assign(setting=setting), *[pd.DataFrame()] * 2).set_index("claim")
    assert [name for name in table.index if name in {*FIVE, *FOUR}] == FOUR
    assert sorted(table.loc[FOUR, "level"]) == pytest.approx([1 - 0.05 / k for k in (1, 2, 3, 4)])
    assert (table.drop(index=FOUR)["level"] == 0.95).all()
    assert table.loc["C2-bottom", "p"] == pytest.approx(4 / 32)


def test_a_test_that_could_not_be_made_still_counts_in_its_family():
    runs = two_heads()
    runs = runs[~((runs["ranking"] == "random") & (runs["fraction"] == 0.9))]
    table = claims(runs, pd.DataFrame(), pd.DataFrame()).set_index("claim")
    assert "C2-random-90" not in table.index
    assert table.loc["C2-random-25", "verdict"] == "contradicted (equivalent)"  # read at 90 %
    assert sorted(table.loc[[n for n in FIVE if n in table.index], "level"]) == pytest.approx(
        [0.9, *(1 - 0.05 / k for k in (3, 4, 5))]
    )


# --- the record -----------------------------------------------------------------------------------

RECORD = ("quick", "compact", "paper")
NAMES = ("runs", "accuracy", "trajectory", "overlap")


def published(profile, name):
    return ROOT / "results/published" / profile / "tables" / f"{name}.csv"


def recorded(profile):
    """The tables of a published profile, as a notebook reads them."""
    return [read_table(published(profile, name)) for name in NAMES]


def as_csv(frame):
    """As a notebook writes them."""
    return frame.to_csv(index=False, lineterminator="\n")


@pytest.mark.parametrize("profile", RECORD)
def test_the_record_s_tables_come_out_byte_for_byte(profile):
    tables, classes = recorded(profile), classes_per_task(load(profile))
    made = {
        "claims": claims(*tables, classes_per_task=classes),
        "summary": summary(tables[0], classes),
        "paper_tables": paper_tables(tables[0]),
    }
    for name, frame in made.items():
        assert as_csv(frame) == published(profile, name).read_text(), name


def like(rows, arm, seeds=None, lineage=None, shift=0.2, **columns):
    """Another arm's rows: those of `rows`, better by `shift`, under other names and columns."""
    found = rows.assign(arm=arm, **columns)
    found["acc1"] += shift
    found["acc2"] += shift
    if seeds is not None:
        found = found.iloc[: len(seeds)].assign(seed=seeds)
    return found if lineage is None else found.assign(lineage=lineage)


def additions(runs):
    """name -> made-up rows that may appear in a table of runs one day."""
    of = lambda arm: runs[runs["arm"] == arm]  # noqa: E731
    mse, random, tuned, joint = (
        of(arm) for arm in ("MSE 50 %", "random 50 %", "fine-tune", "joint 20-way")
    )
    new = {"lineage": "feedfacecafe", "acc1_before": 0.9, "acc2_before": 0.9}
    return {
        "another ranking": like(mse[:3], "Taylor 50 %", ranking="taylor"),
        "all its fractions": pd.concat(
            like(mse[:3], f"Taylor {f:.0%}", ranking="taylor", fraction=f) for f in (0.25, 0.9)
        ),
        "whole filters": like(mse, "MSE 50 % whole filter", scope="filter"),
        "whole filters at random": like(random, "random 50 % whole filter", scope="filter"),
        "union": like(mse, "MSE 50 % union", rule="union"),
        "another heat map": like(mse, "MSE 50 % by difference", options="heat_map: difference"),
        "another heat map, untold": like(mse, "MSE 50 % by difference"),
        "another draw": like(random, "random 50 %, draw 2", options="draw: 2"),
        "another draw, untold": like(random, "random 50 %, draw 2"),
        "another method": like(tuned, "EWC", method="ewc"),
        "a method with a ranking": like(mse, "soft MSE", method="soft"),
        "a traced variant": like(tuned, "fine-tune, small steps", options="lr: 0.0001"),
        "another joint": like(joint, "joint 20-way, EWC", method="ewc"),
        "another curriculum": like(joint, "joint in turns", curriculum="joint10"),
        "seeds of its own": like(mse[:1], "Taylor 50 %", [99], ranking="taylor", **new),
        "a seed before all": like(mse[:1], "Taylor 50 %", [0], ranking="taylor", **new),
        "an early seed of a variant": pd.concat(
            [
                like(mse[:1], "MSE 50 % by difference", [0], options="heat_map: difference", **new),
                like(mse, "MSE 50 % by difference", options="heat_map: difference"),
            ]
        ),
        "a lineage of its own": like(mse[:1], "Taylor 50 %", [1], ranking="taylor", **new),
        "a third task": like(mse[:1], "Taylor 50 %", [1], ranking="taylor", acc3=0.9),
    }


ADDED = [*additions(pd.DataFrame({c: [] for c in ("arm", "acc1", "acc2")}))]


def in_order(runs):
    """Rows as a study collects them: by seed, and within a seed in the profile's order."""
    return runs.sort_values("seed", kind="stable", ignore_index=True)


def with_rows_of(more, accuracy, trajectory):
    """Accuracies and controls the added arms would leave: all of them 1."""
    more = more.drop_duplicates(["arm", "seed", "lineage"])
    keys = list(more[["arm", "seed", "lineage"]].itertuples(index=False))
    some = accuracy[accuracy["arm"].isin(["fine-tune", "joint 20-way"]) & (accuracy["seed"] == 1)]
    rows = [some.assign(arm=a, seed=s, lineage=lin, accuracy=1.0) for a, s, lin in keys]
    path = trajectory[trajectory["seed"] == 1]
    paths = [path.assign(arm=a, seed=s, lineage=lin, task1=1.0) for a, s, lin in keys]
    return pd.concat([accuracy, *rows]), pd.concat([trajectory, *paths])


def claims_with(profile, more):
    """claims.csv and paper_tables.csv of a published profile with these rows added to its runs, and
    what they would leave in the other tables."""
    runs, accuracy, trajectory, overlap = recorded(profile)
    both = in_order(pd.concat([runs, more(runs)], ignore_index=True))
    assert len(both) > len(runs)
    accuracy, trajectory = with_rows_of(more(runs), accuracy, trajectory)
    others = overlap.assign(ranking="taylor", iou=1.0), overlap.assign(other="taylor", iou=1.0)
    overlap, classes = pd.concat([overlap, *others]), classes_per_task(load(profile))
    table = claims(both, accuracy, trajectory, overlap, classes)
    return as_csv(table), as_csv(paper_tables(both))


@pytest.mark.parametrize("added", ADDED)
def test_an_arm_added_to_the_tables_moves_no_claim(added):
    found = claims_with("compact", lambda runs: additions(runs)[added])
    assert found == tuple(
        published("compact", name).read_text() for name in ("claims", "paper_tables")
    )


@pytest.mark.parametrize("profile", RECORD)
def test_all_additions_at_once_move_no_claim(profile):
    found = claims_with(profile, lambda runs: pd.concat(additions(runs).values()))
    assert found == tuple(
        published(profile, name).read_text() for name in ("claims", "paper_tables")
    )


def test_every_claim_has_a_name_and_a_sentence_of_its_own():
    for names in ([claim.id for claim in CLAIMS], [claim.text for claim in CLAIMS]):
        assert len(set(names)) == len(names)


# --- headroom -------------------------------------------------------------------------------------

WITH_ROOM = {"C2-random", "C2-bottom", "C2-Pearson", "C2b-random"}


def with_all_frozen(gap, seeds=6, scope="weights"):
    """The made-up study's claims, all frozen keeping so much more of acc1 than fine-tuning."""
    runs = study(seeds)
    runs = runs[~((runs["method"] == "freeze") & (runs["fraction"] == 1))]
    fine = runs[runs["arm"] == "fine-tune"]
    frozen = fine.assign(
        arm="all frozen", method="freeze", ranking="random", fraction=1.0, acc1=fine["acc1"] + gap
    )
    runs = pd.concat([runs, frozen.assign(scope=scope, rule="turns")], ignore_index=True)
    found = claims(runs, joint_accuracy(min(seeds, 3)), controls(seeds), overlaps(seeds))
    return found.set_index("claim")


@pytest.mark.parametrize(
    ("gap", "told"),
    [
        (np.full(6, 0.02), False),
        (np.array([0.0, 0.09] * 3), True),  # mean .045, but the interval reaches above five points
        (np.full(6, 0.0499), False),
        (np.full(6, 0.2), True),
    ],
)
def test_where_nothing_could_be_protected_no_comparison_tells_anything(gap, told):
    plain, found = made_up().set_index("claim"), with_all_frozen(gap)
    mean, low, high, _ = interval(gap)
    for claim, row in found.iterrows():
        if claim in WITH_ROOM:
            numbers = row[["headroom", "headroom_low", "headroom_high"]].astype(float)
            assert numbers.tolist() == pytest.approx([mean, low, high])
            verdict = plain.loc[claim, "verdict"] if told else "no room to tell"
            assert row["verdict"] == verdict, claim
        else:
            assert row["verdict"] == plain.loc[claim, "verdict"] and np.isnan(row["headroom"])


def test_headroom_is_of_the_scope_compared_and_a_single_seed_stays_undecided():
    other = with_all_frozen(np.full(6, 0.02), scope="filter")
    assert other["headroom"].isna().all()
    assert (other["verdict"] != "no room to tell").all()
    one = with_all_frozen(np.array([0.02]), seeds=1)
    assert one.loc["C2-random", "headroom"] == pytest.approx(0.02)
    assert one.loc["C2-random", "verdict"] == "undecided (n = 1)"
