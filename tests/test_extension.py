"""The extension exercise: a ranking and a method written here run as arms of the smoke profile; lib
is not touched.

This is also the shortest example of both: one function, one small class, two lines of a profile.
"""

from dataclasses import dataclass
from functools import partial

import pytest
import torch

from lib.freezing import unpack
from lib.methods import METHODS
from lib.network import conv_layers
from lib.ranking import RANKINGS
from lib.study.arms import check
from lib.study.products import evidence
from lib.study.profile import Arm
from lib.study.runs import run
from lib.study.tables import collect
from lib.training import Method


def by_weight_norm(evidence):
    """A ranking: filters with large weights first; the class plays no part, so (1, F)."""
    return {
        layer: conv.weight.detach().flatten(1).norm(dim=1)[None]
        for layer, conv in conv_layers(evidence.model).items()
    }


@dataclass
class L2ToStart(Method):
    """A method: pull the weights towards where they were before the round."""

    strength: float = 1.0

    def before(self, model, task, context):
        self.start = [p.detach().clone() for p in model.parameters()]

    def penalty(self, model, x, y, outputs):
        return self.strength * sum(
            ((p - q) ** 2).sum() for p, q in zip(model.parameters(), self.start)
        )

    def after(self, model, task, context):
        pairs = zip(model.parameters(), self.start)
        self.moved = float(sum((p.detach() - q).square().sum() for p, q in pairs))

    def records(self):
        return {"pull": [{"strength": self.strength, "moved": self.moved}]}


@pytest.fixture
def extended(monkeypatch, small_study):
    """extended(tasks=2, **change) -> a small profile with both as arms."""
    monkeypatch.setitem(RANKINGS, "weight norm", by_weight_norm)
    monkeypatch.setitem(METHODS, "l2 to start", L2ToStart)
    arms = (
        Arm(name="fine-tune"),
        Arm(name="norm 50 %", method="freeze", options={"ranking": "weight norm", "fraction": 0.5}),
        Arm(name="L2", method="l2 to start", options={"strength": 10.0}),
        Arm(name="free", method="l2 to start", options={"strength": 0.0}),
    )
    return partial(small_study, *arms)


def test_a_new_ranking_and_a_new_method_are_arms_like_any_other(extended):
    profile = extended(recipe={"epochs": 3})
    for arm in profile.arms:
        run(profile, 1, arm.name)
    tables = collect(profile)
    rows = {row["arm"]: row for row in tables["runs"]}
    assert list(rows) == ["fine-tune", "norm 50 %", "L2", "free"]
    assert (
        rows["norm 50 %"]["ranking"] == "weight norm"
        and 0.45 < rows["norm 50 %"]["realised"] < 0.55
    )
    assert len({row["lineage"] for row in rows.values()}) == 1
    strong, free = tables["pull"]
    assert (strong["strength"], free["strength"]) == (10.0, 0.0)
    # a pull keeps the network nearer to where it was; none is fine-tuning to the last bit
    assert strong["moved"] < 0.5 * free["moved"]
    assert rows["free"]["loss1"] == rows["fine-tune"]["loss1"] != rows["L2"]["loss1"]
    masks = {row["layer"]: row for row in tables["masks"] if row["arm"] == "norm 50 %"}
    largest = by_weight_norm(evidence(profile, 1))["conv4_1"][0].argmax()
    assert unpack(masks["conv4_1"]["mask"], masks["conv4_1"]["filters"])[largest]


def test_they_run_over_three_tasks_as_well(extended):
    profile = extended(tasks=3, network={"heads": "per_task"})
    for arm in profile.arms:
        run(profile, 1, arm.name)
    tables = collect(profile)
    assert [row["arm"] for row in tables["runs"]] == ["fine-tune", "norm 50 %", "L2", "free"]
    assert all({"acc1", "acc2", "acc3", "acc3_before"} <= row.keys() for row in tables["runs"])
    assert {row["round"] for row in tables["accuracy"]} == {2, 3}
    # each round froze half of all filters anew: what the first held stays, and none is left
    masks = [row for row in tables["masks"] if row["layer"] == "conv3_1"]
    assert [(row["round"], row["fraction"]) for row in masks] == [(2, 0.5), (3, 1.0)]
    first, both = (unpack(row["mask"], row["filters"]) for row in masks)
    assert both[first].all() and int(first.sum()) * 2 == len(both)


def test_an_arm_with_an_unknown_ranking_is_refused(extended):
    options = {"ranking": "astrology", "fraction": 0.5}
    wrong = extended().model_copy(
        update={"arms": (Arm(name="x", method="freeze", options=options),)}
    )
    with pytest.raises(ValueError, match="astrology.*expected one of.*weight norm"):
        check(wrong)


def test_the_new_arm_changes_no_global_random_numbers(extended):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    profile = extended()
    run(profile, 1, profile.arms[1].name)
    assert torch.equal(torch.rand(1), expected)
