"""What a seed works on is made once for all that share it."""

from dataclasses import replace

import pytest

from lib.study import materials
from lib.study.profile import Calibration, Explain, Readings, load


@pytest.fixture
def made(monkeypatch):
    """How often images were split into tasks, as a list that grows."""
    split, calls = materials.data_room.split_tasks, []
    counted = lambda *given: calls.append(given) or split(*given)  # noqa: E731
    monkeypatch.setattr(materials.data_room, "split_tasks", counted)
    materials._tasks.cache_clear()
    return calls


def test_profiles_that_differ_in_what_no_task_depends_on_share_their_tasks(small_study, made):
    profile = small_study()
    first, checksum = materials.tasks(profile, 1), materials.data_checksum(profile, 1)
    for change in (
        {"recipe": replace(profile.recipe, momentum=0.0, batch_size=8)},
        {"explain": Explain(class_map="rescaled")},
        {"examine": profile.examine.model_copy(update={"seeds": "1"})},
        {"calibration": Calibration(profiles=("quick",))},
        {"readings": Readings(fraction=0.5)},
        {"network": profile.network.model_copy(update={"width": 0.5, "depth": 16})},
        {"name": "other", "seeds": "1-3", "setting": "other"},
    ):
        other = profile.model_copy(update=change)
        assert materials.tasks(other, 2) is first, change
        assert materials.data_checksum(other, 2) == checksum
    assert len(made) == 1


def test_profiles_that_differ_in_what_tasks_depend_on_have_their_own(small_study, made):
    profile, network = small_study(), {}
    first = materials.tasks(profile, 1)
    network = profile.network.model_copy(update={"heads": "per_task"})
    two_heads = materials.tasks(profile.model_copy(update={"network": network}), 1)
    assert [t.first_output for t in two_heads] != [t.first_output for t in first]
    held = profile.model_copy(update={"data": profile.data.model_copy(update={"holdout": 4})})
    assert len(materials.tasks(held, 1)[0].x) == len(first[0].x) - 8
    assert materials.data_checksum(held, 1) != materials.data_checksum(profile, 1)
    assert len(made) == 3


def test_only_where_the_seed_draws_classes_do_tasks_depend_on_it():
    drawn, listed = load("compact_draws"), load("compact")
    assert materials._task_key(drawn, 51) != materials._task_key(drawn, 52)
    assert materials._task_key(listed, 1) == materials._task_key(listed, 2)
