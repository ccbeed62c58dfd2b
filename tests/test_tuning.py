"""Settings chosen on tuning seeds and held-out training images: which images, the rule, failures,
the record; and freezing over more than two tasks."""

import argparse
import json
import math
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from lib.data import hold_out, split_tasks
from lib.report.statistics import forward_transfer
from lib.report.words import transfer_table, tuning_table
from lib.reproduce import record, verify
from lib.study import engine, materials, runs, tuning
from lib.study.__main__ import main
from lib.study.arms import check
from lib.study.products import task1_key
from lib.study.profile import ROOT, Arm, load
from lib.study.runs import run, run_key
from lib.study.tables import collect
from lib.study.tuning import Point, chosen, lines, plan, points, settled, table

SHIPPED = sorted(path.stem for path in (ROOT / "profiles").glob("*.yaml"))
TINY = """
setting: tiny
about: four made-up classes
seeds: 1-2
data: {{source: {source}, classes: [[0, 1], [2, 3]]}}
network: {{width: 0.0625, batch_norm: true}}
recipe: {{epochs: 1, batch_size: 16, lr: 0.01, flip: false}}
arms: [{{name: fine-tune}}]
tuning:
  holdout: 8
  grids:
    - {{name: pull, method: l2, grid: {{strength: [0.01, 1, 1000000.0]}}}}
    - {{name: kept, method: packnet, grid: {{retrain: [0, 1]}}}}
    - name: softly
      method: soft
      options: {{form: learning rate}}
      grid: {{strength: [0.5, 1]}}
      each: {{ranking: [weight_norm, random]}}
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, tiny_npz):
    folder = tmp_path_factory.mktemp("tiny")
    source = tiny_npz(folder / "tiny.npz", per_class=32)
    path = folder / "tiny.yaml"
    path.write_text(TINY.format(source=source))
    return str(path)


# --- which images ---------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", ["shared", "per_task"])
def test_the_last_images_of_each_class_are_held_out_and_scored_on(tiny_images, heads):
    for task in split_tasks(tiny_images, [[0, 1], [2, 3]], heads):
        kept, held, seen = [], [], dict.fromkeys(range(2), 0)
        for i in reversed(range(len(task.y))):  # literally: from the end, three of each class
            label = int(task.y[i])
            (held if seen[label] < 3 else kept).insert(0, i)
            seen[label] += 1
        found = hold_out(task, 3)
        assert torch.equal(found.x, task.x[kept]) and torch.equal(found.y, task.y[kept])
        assert torch.equal(found.x_test, task.x[held]) and torch.equal(found.y_test, task.y[held])
        assert len(held) == 6 and found.outputs == task.outputs


def test_a_class_must_keep_an_image_to_train_on(tiny_tasks):
    assert len(hold_out(tiny_tasks[0], 39).x) == 2
    with pytest.raises(ValueError, match="task1: class 0 has 40 training images, expected more"):
        hold_out(tiny_tasks[0], 40)


def test_no_test_image_has_a_part_in_tuning(tiny, tmp_path, tiny_arrays):
    """Other test images: other keys for the study, the same for tuning."""
    arrays = tiny_arrays(per_class=32)
    other = np.random.default_rng(1).permutation(arrays["x_test"])
    path = tmp_path / "other.npz"
    np.savez(path, **arrays | {"x_test": other})
    mine, theirs = load(tiny), load(tiny, data=str(path))
    assert task1_key(mine, 1) != task1_key(theirs, 1)
    for arm in plan(mine).arms:
        assert run_key(plan(mine), 1000, arm.name) == run_key(plan(theirs), 1000, arm.name)
    held = materials.tasks(plan(mine), 1000)
    assert [len(t.x) for t in held] == [48, 48] and [len(t.x_test) for t in held] == [16, 16]


def test_neither_the_section_nor_its_default_is_part_of_a_key(tiny):
    profile = load(tiny)
    bare = profile.model_copy(update={"tuning": load("smoke").tuning})
    assert bare.tuning.grids == () and profile.data.holdout == 0
    assert run_key(bare, 1, "fine-tune") == run_key(profile, 1, "fine-tune")
    assert "holdout" not in json.dumps(run_key(profile, 1, "fine-tune"))
    held = profile.model_copy(update={"data": profile.data.model_copy(update={"holdout": 8})})
    assert run_key(held, 1, "fine-tune") != run_key(profile, 1, "fine-tune")


def test_rows_say_that_their_accuracies_are_of_held_out_images(tiny):
    profile = load(tiny)
    assert materials.data_label(profile) == "tiny.npz"
    assert materials.data_label(plan(profile)) == "tiny.npz, 8 training images a class held out"


# --- grids ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_grid_can_run(name):
    profile = load(name)
    if profile.tuning.grids:
        made = plan(profile)
        check(made)
        assert min(made.seed_list) >= 1000 and made.data.holdout == 50
        assert len(points(profile)) == len({json.dumps(a.options) for a in made.arms}) > 30
    else:
        with pytest.raises(ValueError, match="nothing to tune"):
            plan(profile)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("holdout: 8", "seeds: 7"), "seed 7 is one of the study's own: expected tuning seeds"),
        (("[0, 1]}}", "[1, 0]}}"), "grid 'kept', retrain: expected numbers that rise"),
        (("[0, 1]}}", "[1, 1]}}"), "grid 'kept', retrain: expected numbers that rise"),
        (("[0, 1]}}", "[]}}"), "grid 'kept', retrain: expected numbers that rise"),
        (("{{retrain: [0, 1]}}", "{{}}"), "should have at least 1 item"),
        (("[weight_norm, random]", "[]"), "grid 'softly': each ranking names no value"),
        (("form: learning rate", "strength: 1"), "grid 'softly': strength given twice"),
        (("name: kept", "name: pull"), "grid names must be unique; given twice: pull"),
        (("holdout: 8", "holdout: 0"), "greater than or equal to 1"),
    ],
)
def test_a_wrong_section_is_refused_in_one_line(tmp_path, change, message):
    path = tmp_path / "wrong.yaml"
    assert change[0] in TINY
    path.write_text(TINY.replace(*change).format(source="digits"))
    with pytest.raises(ValueError, match=message) as caught:
        load(str(path))
    assert "\n" not in str(caught.value)


def test_an_unknown_method_and_a_seed_of_the_study_are_refused_before_anything_runs(
    tmp_path, tiny, capsys
):
    path = tmp_path / "wrong.yaml"
    path.write_text(TINY.replace("packnet", "pecknat").format(source="digits"))
    with pytest.raises(ValueError, match="arm 'kept, retrain 0': no method 'pecknat'"):
        plan(load(str(path)))
    assert main(["--profile", tiny, "--tune", "--seeds", "999-1000"]) == 1
    assert "seed 999 is one of the study's own" in capsys.readouterr().err


# --- the rule -------------------------------------------------------------------------------------


def made_up(*settings, each=({},)):
    arm = Arm(name="any")
    return [Point(None, {"strength": s}, e, arm) for s in settings for e in each]


@pytest.mark.parametrize(
    ("averages", "strength"),
    [
        ([[0.5, 0.5], [0.4, 0.8], [0.1, 0.9]], 2),  # the best mean
        ([[0.5, 0.5], [0.4, 0.6], [0.9, 0.1]], 1),  # ties to the smaller value
        ([[0.1 + 0.2, 0.3], [0.3, 0.3], [0.3, 0.3]], 1),
        ([[0.3, 0.3], [0.1 + 0.2, 0.3], [0.3, 0.3]], 1),  # a last bit is no difference
        ([[0.2, 0.2], [0.9, None], [0.1, 0.1]], 1),  # failed once is out
        ([[0.0, 0.0], [None, None], [None, None]], 1),
        ([[None, 1.0], [1.0, None], [None, None]], None),
    ],
)
def test_the_rule(averages, strength):
    found = chosen(made_up(1, 2, 3), averages)
    assert found == (strength and {"strength": strength})


def test_what_shares_a_setting_is_judged_by_its_mean():
    tried = made_up(1, 2, each=({"ranking": "mse"}, {"ranking": "random"}))
    assert chosen(tried, [[0.9], [0.1], [0.6], [0.6]]) == {"strength": 2}
    assert chosen(tried, [[0.9], [0.1], [0.6], [None]]) == {"strength": 1}


def of_networks(**averages):
    """settled() of strengths 1, 2 and 3 on one seed; averages: of each network, None where a point
    did not start from it."""
    tried = [
        (p, {1000: {n: {"average": a[i]} for n, a in averages.items() if a[i] is not None}})
        for i, p in enumerate(made_up(1, 2, 3))
    ]
    return settled(tried)["strength"]


def test_points_are_compared_on_the_same_network_alone():
    assert of_networks(a=(0.1, 0.3, 0.2)) == 2
    # 1 was added later, on an easier network: without the choice beside it, it tells nothing
    assert of_networks(a=(None, 0.3, 0.2), b=(0.9, None, None)) == 2
    assert of_networks(a=(None, 0.3, 0.2), b=(0.9, 0.95, None)) == 2
    assert of_networks(a=(None, 0.3, 0.2), b=(0.9, 0.85, None)) == 1


def test_what_started_from_another_network_is_linked_with_the_choice(monkeypatch):
    def asked(**averages):
        tried = [
            (
                p._replace(
                    arm=p.arm.model_copy(update={"name": f"strength {p.setting['strength']}"})
                ),
                {1000: {n: {"average": a[i]} for n, a in averages.items() if a[i] is not None}},
            )
            for i, p in enumerate(made_up(1, 2, 3, 4))
        ]
        monkeypatch.setattr(tuning, "_tried", lambda *_: [tried])
        wanted = load("smoke").model_copy(update={"seeds": "1000"})
        found = tuning._apart(None, wanted)
        assert all(job.again and job.kind == "run" and job.seed == 1000 for job in found)
        return [job.part for job in found]

    assert asked(a=(0.1, 0.3, 0.2, 0.1)) == []
    assert asked(a=(None, 0.3, 0.2, 0.1), b=(0.9, None, None, None)) == ["strength 1", "strength 2"]
    assert asked(a=(None, 0.3, 0.2, 0.1), b=(0.9, 0.8, None, None)) == []  # linked already
    assert asked(a=(None, 0.3, 0.2, 0.1)) == []  # 1 has not run at all: it is missing


# --- from the command line to the record ----------------------------------------------------------


def one_by_one(todo, do, *_):
    """As the engine, in this process: what it is given must still pickle."""
    for job in pickle.loads(pickle.dumps(list(todo))):
        pickle.loads(pickle.dumps(do))(job)


@pytest.fixture(scope="module")
def made_once(tiny, tmp_path_factory):
    """A profile tuned from the command line, in two parts; a third call makes nothing anew: its
    results, and the table after the first part."""
    patch, results = pytest.MonkeyPatch(), tmp_path_factory.mktemp("tuned")
    patch.setenv("RESULTS", str(results))
    patch.setattr(engine, "side_by_side", one_by_one)
    call = ["--profile", tiny, "--tune"]
    assert main([*call, "--shard", "1/2"]) == 0  # one of the two seeds
    part = table(load(tiny))
    assert main(call) == 0
    times = {p: p.stat().st_mtime_ns for p in results.rglob("*.meta.json")}
    assert main(call) == 0
    assert times == {p: p.stat().st_mtime_ns for p in results.rglob("*.meta.json")}
    patch.undo()
    return results, part


@pytest.fixture
def tuned(made_once, monkeypatch):
    monkeypatch.setenv("RESULTS", str(made_once[0]))
    return made_once


def test_a_part_of_the_seeds_chooses_nothing(tuned, tiny):
    _, part = tuned
    assert {row["seed"] for row in part} == {1000} and len(part) == 9
    assert not any(row["chosen"] for row in part)


def test_the_table_says_what_came_out_and_what_failed(tuned, tiny):
    results, _ = tuned
    rows = pd.read_csv(results / "tiny/tables/tuning.csv")
    assert list(rows) == [
        *("profile", "setting", "grid", "method", "options", "seed", "lineage", "data"),
        *("acc1", "acc2", "average", "failed", "chosen", "again"),
    ]
    assert len(rows) == 2 * 9 and set(rows["seed"]) == {1000, 1001}
    assert (rows["data"] == "tiny.npz, 8 training images a class held out").all()
    failed = rows["failed"].notna()
    assert set(rows.loc[failed, "options"]) == {'{"strength": 1000000.0}'} and failed.sum() == 2
    assert rows.loc[failed, "failed"].str.contains("SGD .* would run away").all()
    assert rows.loc[failed, ["acc1", "acc2", "average"]].isna().all(axis=None)
    fine = rows[~failed]
    assert np.allclose(fine["average"], (fine["acc1"] + fine["acc2"]) / 2)
    # accuracies are of the 16 held-out images of a task, not of the 16 test images
    run_there = run(plan(load(tiny)), 1000, "pull, strength 0.01")["row"]
    assert run_there["acc1"] == fine["acc1"].iloc[0] and fine["acc1"].iloc[0] * 16 % 1 == 0
    assert run_there["data_checksum"] == materials.data_checksum(plan(load(tiny)), 1000)
    for _, part in rows.groupby("grid"):
        best = part.groupby("options")["average"].mean().max()
        one = part[part["chosen"]]
        if part["grid"].iloc[0] != "softly":
            assert one["options"].nunique() == 1 and one["average"].mean() == pytest.approx(best)
    softly = [json.loads(o) for o in rows[rows["chosen"] & (rows["grid"] == "softly")]["options"]]
    assert {o["ranking"] for o in softly} == {"weight_norm", "random"}
    assert len({o["strength"] for o in softly}) == 1  # both rankings share it


def test_chosen_lines_are_lines_of_a_profile(tuned, tiny):
    text = lines(load(tiny))
    arms = tuple(Arm(**line) for line in yaml.safe_load(text))
    assert [arm.name for arm in arms] == ["pull", "kept", "softly weight_norm", "softly random"]
    check(load(tiny).model_copy(update={"arms": arms}))
    rows = [row for row in table(load(tiny)) if row["chosen"]]
    options = {json.dumps(arm.options, sort_keys=True) for arm in arms}
    assert options == {row["options"] for row in rows}
    assert "is the smallest tried" in text or "is the largest tried" in text


def test_words_for_a_notebook(tuned):
    results, _ = tuned
    shown = tuning_table(pd.read_csv(results / "tiny/tables/tuning.csv"))
    assert len(shown) == 9 and (shown["n"] == 2).all()
    assert list(shown["failed"]) == ["", "", 2, *[""] * 6] and shown["average"].iloc[2] == ""
    assert (shown[""] == "chosen").sum() == 4
    assert tuning_table(pd.DataFrame()) == "this profile has no tuned settings"


def test_a_failed_run_is_no_row_of_the_study(tuned, tiny):
    assert collect(load(tiny))["runs"] == []


def test_tuning_rows_are_published_restored_and_verified(tuned, tiny, tmp_path, monkeypatch):
    results, _ = tuned
    before = (results / "tiny/tables/tuning.csv").read_bytes()
    for path in results.rglob("*.meta.json"):
        path.write_text(path.read_text().replace('"dirty": true', '"dirty": false'))
    monkeypatch.setattr(record, "PUBLISHED", tmp_path / "published")
    monkeypatch.setattr(record, "NOTEBOOKS", ())
    profile = load(tiny)
    record.publish(profile, argparse.Namespace(rows=False))
    published = tmp_path / "published/tiny"
    assert (published / "tables/tuning.csv").read_bytes() == before
    assert {p.name for p in (published / "runs").iterdir()} == {"seed1000.jsonl", "seed1001.jsonl"}
    monkeypatch.setenv("RESULTS", str(tmp_path / "anew"))
    assert table(profile) == []
    record.restore(profile, argparse.Namespace())
    text = pd.DataFrame(table(profile)).to_csv(index=False, lineterminator="\n")
    assert text.encode() == before
    found = verify.from_rows(profile)["tuning"]
    assert found.to_csv(index=False, lineterminator="\n").encode() == before
    # nothing is run again: no checkpoint was restored, and none is asked for
    tuning.tune(profile, workers=1)
    assert not list((tmp_path / "anew").rglob("*.pt"))


def test_a_failure_in_task_1_is_not_taken_for_a_point_s(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("RESULTS", str(tmp_path))
    made = plan(load(tiny))

    def never(*_, **__):
        raise FloatingPointError("task 1")

    monkeypatch.setattr(tuning, "task1", never)
    monkeypatch.setattr(tuning, "run", never)
    with pytest.raises(FloatingPointError, match="task 1"):
        tuning.attempt(tuning.Job("run", 1000, made.arms[0].name), made)
    assert table(load(tiny)) == []


# --- more than two tasks --------------------------------------------------------------------------

THREE = """
extends: smoke
seeds: "1"
data: {source: digits, classes: [[0, 1, 2], [3, 4, 5], [6, 7, 8]]}
recipe: {epochs: 2, batch_size: 32, lr: 0.005, momentum: 0.9, flip: false}
network: {width: 0.0625, batch_norm: true, heads: per_task}
explain: {map_images: 3, steps: 1}
arms:
  - {name: fine-tune}
  - {name: MSE 50 %, method: freeze, options: {ranking: mse, fraction: 0.5}}
  - {name: random 50 %, method: freeze, options: {ranking: random, fraction: 0.5}}
  - {name: random 100 %, method: freeze, options: {ranking: random, fraction: 1.0}}
"""


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Tables of three tasks in a row, and what the arms said."""
    patch, folder, said = pytest.MonkeyPatch(), tmp_path_factory.mktemp("three"), []
    patch.setenv("RESULTS", str(folder))
    patch.setattr(engine, "side_by_side", one_by_one)
    patch.setattr(runs, "say", said.append)
    path = folder / "three.yaml"
    path.write_text(THREE)
    assert main(["--profile", str(path)]) == 0
    profile = load(str(path))
    tables = {name: pd.DataFrame(rows) for name, rows in collect(profile).items()}
    patch.undo()
    return tables, said


def test_three_tasks_are_run_and_scored(three):
    tables, _ = three
    rows = tables["runs"]
    assert list(rows["arm"]) == ["fine-tune", "MSE 50 %", "random 50 %", "random 100 %"]
    columns = [*("acc1", "acc2", "acc3"), *("acc1_before", "acc2_before", "acc3_before")]
    assert rows[columns].notna().all(axis=None)
    assert set(tables["accuracy"]["round"]) == {2, 3}
    assert set(tables["accuracy"]["task"]) == {"task1", "task2", "task3"}
    shown = transfer_table(rows, tables["accuracy"], classes_per_task=3)
    assert len(shown) == 4 and "forward transfer [95 %]" in shown


def test_masks_of_several_rounds_say_what_each_leaves_free(three):
    masks = three[0]["masks"]
    assert set(masks["round"]) == {2, 3} and "free" in masks
    assert np.allclose(masks["free"], 1 - masks["frozen"] / masks["filters"])
    for arm in ("MSE 50 %", "random 50 %"):
        part = masks[masks["arm"] == arm].groupby("round")["free"]
        assert part.max().to_dict() == {2: 0.5, 3: 0.0}  # every layer has an even number
        assert part.min().to_dict() == {2: 0.5, 3: 0.0}
    realised = three[0]["runs"].set_index("arm")["realised"]
    assert realised["MSE 50 %"] == realised["random 50 %"] == 1


def test_a_round_that_finds_no_free_filter_says_so_once_and_goes_on(three):
    said = [line for line in three[1] if "no free filter" in line]
    assert len(said) == 1 and "seed 1  random 100 %  no free filter is left in round 3" in said[0]
    masks = three[0]["masks"]
    full = masks[masks["arm"] == "random 100 %"]
    assert set(full["round"]) == {2, 3} and (full["free"] == 0).all()


def test_the_sentence_comes_once_and_no_ranking_is_asked():
    from lib.methods import METHODS, Context
    from lib.recipe import Recipe

    asked, said = [], []

    def scores(ranking):
        asked.append(ranking)
        return {"conv": torch.arange(4.0)[None]}

    method = METHODS["freeze"](ranking="weight_norm", fraction=0.5)
    for number in (2, 3, 4, 5):
        context = Context((), 1, Recipe(), scores, lambda m: {}, say=said.append, round=number)
        method.before(None, None, context)
    assert len(asked) == 2 and len(said) == 1 and "round 4: all are frozen since round 3" in said[0]
    assert [row["free"] for row in method.records()["masks"]] == [0.5, 0, 0, 0]
    assert [row["round"] for row in method.records()["masks"]] == [2, 3, 4, 5]


def test_with_two_tasks_the_columns_of_masks_are_as_they_were(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("RESULTS", str(tmp_path))
    arm = Arm(name="half", method="freeze", options={"ranking": "weight_norm", "fraction": 0.5})
    profile = load(tiny).model_copy(update={"arms": (arm,)})
    rows = run(profile, 1, "half")["masks"]
    assert {tuple(sorted(row)) for row in rows} == {
        ("filters", "fraction", "frozen", "layer", "mask")
    }


def test_forward_transfer_by_hand():
    index = pd.MultiIndex.from_product([[1], [1, 2, 3]], names=["seed", "round"])
    matrix = pd.DataFrame(
        {"task1": [0.9, 0.5, 0.4], "task2": [0.3, 0.9, 0.6], "task3": [0.1, 0.45, 0.8]}, index
    )
    # task 2 just before round 2: .3, task 3 just before round 3: .45; chance .25
    assert forward_transfer(matrix, 4)[1] == pytest.approx((0.05 + 0.2) / 2)
    assert math.isnan(forward_transfer(matrix.iloc[:0], 4).mean())


def test_profiles_of_many_tasks():
    four, ten = load("compact_four_tasks"), load("compact_ten_tasks")
    two = load("compact_two_heads")
    assert four.network == ten.network == two.network and four.recipe == ten.recipe == two.recipe
    assert [c for task in four.data.classes for c in task] == list(range(20))
    assert [c for task in ten.data.classes for c in task] == list(range(100))
    assert {len(t) for t in four.data.classes} == {5} and {len(t) for t in ten.data.classes} == {10}
    assert four.seed_list == list(range(41, 51)) and ten.seed_list == [44, 45, 46]
