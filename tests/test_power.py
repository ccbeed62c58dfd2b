"""Power by simulation beside the formula, and studies in which nothing is true."""

import numpy as np
import pandas as pd
import pytest

from lib.report import power
from lib.report.claims import Difference, claims
from lib.study.profile import ROOT
from tests.made_up import study

NOTHING = pd.DataFrame()


@pytest.fixture(scope="module")
def runs():
    """The published rows of K: twelve seeds."""
    return pd.read_csv(ROOT / "results/published/compact/tables/runs.csv")


def by_arm(runs):
    """acc1 (seeds, arms) from the checkpoints that all of the family's arms have in common."""
    wide = runs.pivot_table(index=["seed", "lineage"], columns="arm", values="acc1")
    return wide[wide["MSE 50 %"].notna()].groupby("seed").mean()


@pytest.mark.parametrize(
    "difference, spread, seeds, level",
    [(0.02, 0.02, 20, 0.99), (0.01, 0.01, 10, 0.95), (0.03, 0.02, 5, 0.9875), (0, 0.02, 5, 0.95)],
)
def test_power_is_how_often_the_verdict_is_supported(difference, spread, seeds, level):
    draw = np.random.default_rng(0)
    samples = draw.normal(difference, spread, (1500, seeds))
    found = [Difference().verdict(x, level).startswith("supported") for x in samples]
    expected = power.power(difference, spread, seeds, level)
    error = np.sqrt(max(expected * (1 - expected), 1e-3) / len(samples))
    assert np.mean(found) == pytest.approx(expected, abs=4 * error)


def test_power_grows_with_seeds_and_difference_and_falls_with_spread():
    of = lambda d=0.02, s=0.02, n=10: power.power(d, s, n, 0.99)  # noqa: E731
    assert of(n=5) < of(n=10) < of(n=20) and of(d=0.01) < of(d=0.02) < of(d=0.03)
    assert of(s=0.03) < of(s=0.02) < of(s=0.01)
    assert power.power(0.01, 0.001, 20, 0.99) == pytest.approx(0.5, abs=1e-3)  # the margin itself


def test_the_table_holds_the_family_s_claims_at_their_strictest_step(runs):
    found = power.table(runs)
    assert set(found["claim"]) == {"C2-random", "C2-bottom", "C2-Pearson", "C2b-random"}
    assert (found["level"] == 1 - 0.05 / 4).all() and (found["measured"] == 12).all()
    row = found[(found["claim"] == "C2-random") & (found["n"] == 20)].iloc[1]
    acc1 = by_arm(runs)
    assert row["spread"] == pytest.approx((acc1["MSE 50 %"] - acc1["random 50 %"]).std())
    assert row["power"] == pytest.approx(power.power(0.02, row["spread"], 20, 0.9875), abs=1e-4)
    text = power.sentence(found)
    assert text.startswith("With 20 seeds and the spread measured here (s = 0.9 points, from 12")
    assert f"of 2 points would be found with probability {row['power']:.2f}" in text


def test_without_two_seeds_there_is_no_spread_and_that_is_said():
    found = power.table(study(1))
    assert found.empty and list(found.columns) == power.COLUMNS
    assert "cannot be said yet" in power.sentence(found)


def test_made_up_studies_have_no_difference_and_the_real_covariance(runs):
    made = power.nothing_true(runs, studies=1, seeds=4000)
    acc1 = made.pivot(index="seed", columns="arm", values="acc1")
    real = by_arm(runs)[acc1.columns]
    half = ["MSE 50 %", "random 50 %", "bottom 50 %", "Pearson 50 %"]
    assert np.ptp(acc1[half].mean()) < 0.001 < np.ptp(real[half].mean())
    assert acc1["MSE 90 %"].mean() - acc1["MSE 25 %"].mean() > 0.01
    assert np.abs(acc1.corr() - real.corr()).to_numpy().max() < 0.08


def test_made_up_studies_go_through_a_study_s_own_claims(runs):
    verdicts = power.made_up(runs, studies=3, seeds=6)
    rows = power.nothing_true(runs, studies=3, seeds=6)
    for i, verdict in verdicts.iterrows():
        own = rows[rows["seed"] // 6 == i]
        table = claims(own, NOTHING, NOTHING).set_index("claim")
        assert table.loc[list(verdict.index), "verdict"].tolist() == verdict.tolist()
    raised = own.assign(acc1=own["acc1"] + 0.05 * (own["ranking"] == "mse"))  # now something is
    table = claims(raised, NOTHING, NOTHING).set_index("claim")
    assert table.loc["C2-random", "verdict"] == "supported"


def held(runs, studies, seeds):
    """Nothing true is called supported in at most as many studies as the family's level allows."""
    verdicts = power.made_up(runs, studies, seeds)
    wrong = verdicts.apply(lambda column: column.str.startswith("supported"))
    assert wrong.any(axis=1).mean() <= 0.05


def test_what_is_not_true_is_seldom_called_supported(runs):
    held(runs, studies=200, seeds=12)


@pytest.mark.slow
@pytest.mark.parametrize(("profile", "seeds"), [("compact", 12), ("compact_two_heads", 20)])
def test_what_is_not_true_is_seldom_called_supported_in_two_thousand_studies(profile, seeds):
    runs = pd.read_csv(ROOT / f"results/published/{profile}/tables/runs.csv")
    held(runs, studies=2000, seeds=seeds)
