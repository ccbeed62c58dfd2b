"""What a run says it is about to do: how many networks it trains, and for about how long."""

import pandas as pd
import pytest

from lib.study import examined, forecast, jobs
from lib.study.profile import Arm


@pytest.fixture
def study(small_study, monkeypatch):
    """Three arms of which fine-tuning takes 100 s, the other two 40 s and 10 s."""
    timed = pd.DataFrame(
        {
            "run": ["fine-tune/1/x", "all frozen/1/x", "half/1/x"],
            "seconds": [100, 40, 10],
            "device": "cpu",
        }
    )
    monkeypatch.setattr(forecast, "rows", lambda name, table: timed)
    options = {"ranking": "random", "fraction": 0.5}
    profile = small_study(
        Arm(name="fine-tune"),
        Arm(name="all frozen", method="freeze", options=options | {"fraction": 1.0}),
        Arm(name="half", method="freeze", options=options),
    )
    asked = profile.examine.model_copy(update={"arms": "all"})
    return profile.model_copy(update={"examine": asked})


def test_networks_trained_again_to_be_examined_are_counted_with_their_arms_time(study):
    assert "3 runs of arms to do, about 2 min with" in forecast.forecast(study, workers=1)
    shown = examined.with_shown(study, 1)
    said = forecast.forecast(shown, workers=1)  # 150 s, 10 s of what is left, 140 s retrained
    assert "3 runs of arms to do, 3 networks trained again to be examined, about 5 min" in said


def test_what_is_there_is_not_forecast(study, monkeypatch):
    shown, lacks = examined.with_shown(study, 1), {("left", "half"), ("grafts", "mse")}
    monkeypatch.setattr(forecast, "lacking", lambda profile, seed: lacks)
    said = forecast.forecast(shown, workers=1)
    assert "0 runs of arms to do, 1 network trained again to be examined, about 10 s" in said
    lacks.clear()
    assert forecast.forecast(shown).endswith("1 seed, 0 runs of arms to do")


def test_two_networks_are_trained_again_only_where_rows_need_them(study, monkeypatch):
    shown = examined.with_shown(study, 1)
    assert ("retrained", "") in forecast._missing(shown, 1)
    for kind in ("readouts", "grafts"):  # as if their rows were restored
        here = jobs.PRODUCTS[kind]._replace(parts=lambda profile, seed: ())
        monkeypatch.setitem(jobs.PRODUCTS, kind, here)
    runs = [("run", arm.name) for arm in study.arms]
    assert forecast._missing(shown, 1) == [*runs, ("left", "half")]
    assert forecast._missing(study, 1) == runs
