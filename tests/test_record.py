"""The published record under today's code: every row is found under its key, and the tables follow
from the rows, byte for byte."""

import argparse
import json
import os
import re
from dataclasses import replace
from functools import partial

import pandas as pd
import pytest

from lib.ranking import RANKINGS
from lib.reproduce import record
from lib.study import arms, readings
from lib.study.jobs import lacking
from lib.study.keys import LATER, fields, seed_in, versions
from lib.study.products import overlap_key, store
from lib.study.profile import ROOT, Arm, Examine, load
from lib.study.runs import run_key
from lib.study.store import as_written
from lib.study.tables import collect

PUBLISHED = sorted(path.parent.name for path in record.PUBLISHED.glob("*/runs"))
GRIDS = [name for name in PUBLISHED if load(name).readings.recipes]  # readings in place of arms
PROFILES = [name for name in PUBLISHED if name not in GRIDS]
# one profile after the other: its images are read once
together = pytest.mark.parametrize("name", PROFILES, scope="module")
FIRST_FIELDS = {  # what stood in a key when the first rows were published
    "network": {"depth", "width", "batch_norm", "image_size", "heads", "classifier", "init"},
    "recipe": {
        *("epochs", "batch_size", "lr", "momentum", "weight_decay"),
        *("crop_padding", "flip", "precision"),
    },
    "explain": {"map_images", "steps", "lr", "heat_map"},
}


@pytest.fixture(scope="module")
def restored(tmp_path_factory, request):
    """restored(name) -> the profile, its published rows put back into a store of their own."""
    results, before = tmp_path_factory.mktemp("record"), os.environ.get("RESULTS")
    os.environ["RESULTS"] = str(results)

    def put_back(name):
        profile = load(name)
        if profile.data.source == "cifar100":
            folder = request.getfixturevalue("cifar100_folder")
            profile = load(name, data=f"cifar100:{folder}")
        record.restore(profile, argparse.Namespace())
        return profile

    yield put_back
    if before is None:
        del os.environ["RESULTS"]
    else:
        os.environ["RESULTS"] = before


def published_lines(name):
    for pack in sorted((record.PUBLISHED / name / "runs").glob("*.jsonl")):
        yield from map(json.loads, pack.read_text().splitlines())


def study_rows(name):
    """The lines of a profile's published runs, those of tuning seeds left out."""
    lines = published_lines(name)
    return [x for x in lines if x["kind"] == "run" and seed_in(x["meta"]["key"]) < 1000]


@together
def test_every_published_row_is_found_under_its_key(restored, name):
    profile = restored(name)
    if all(line["kind"] != "atlas" for line in published_lines(name)):  # published before there was
        profile = profile.model_copy(update={"examine": Examine()})  # anything to examine
    tables = collect(profile)
    assert len(tables["runs"]) == len(study_rows(name)) > 0
    # a seed of which everything was published lacks nothing: no checkpoint, no map, no filter
    whole = {row["seed"] for row in tables["runs"] if row["arm"] == profile.arms[-1].name}
    counts = pd.DataFrame(tables["runs"]).groupby("seed")["arm"].nunique()
    for seed in whole:
        asked = [arm for arm in profile.arms if arm.asked_for(seed)]
        if counts[seed] == len(asked):
            assert lacking(profile, seed) == set()


@together
def test_the_tables_of_the_record_follow_from_its_rows(restored, name):
    tables = collect(restored(name))
    for table in ("runs", "accuracy", "trajectory", "masks", "timing", "arms"):
        there = record.PUBLISHED / name / "tables" / f"{table}.csv"
        if (record.PUBLISHED / name / "tables").exists():
            made = as_written(pd.DataFrame(tables[table]))
            assert made.encode() == there.read_bytes(), table


@pytest.mark.parametrize("name", GRIDS)
def test_every_published_row_of_a_grid_is_a_reading_s_or_its_twin_s(restored, name):
    profile = restored(name)
    found = set()
    for variant in readings.variants(readings.recipes(profile)):
        wanted = variant.of(profile)
        shelf = store(wanted)
        for seed in wanted.seed_list:
            for arm in wanted.arms:
                key = run_key(wanted, seed, arm.name)
                found |= {shelf.path("run", key, branch=b).name for b in shelf.branches("run", key)}
    assert found == {line["name"] for line in study_rows(name)} != set()


@pytest.mark.parametrize("name", GRIDS)
def test_the_tables_of_a_grid_follow_from_its_rows(restored, name, tmp_path):
    profile = restored(name)
    for table, made in (
        ("readings", readings.table(profile)),
        ("recipes", readings.recipes_table(profile)),
    ):
        pd.DataFrame(made).to_csv(tmp_path / "made.csv", index=False, lineterminator="\n")
        there = record.PUBLISHED / name / "tables" / f"{table}.csv"
        assert (tmp_path / "made.csv").read_bytes() == there.read_bytes(), table


@pytest.mark.parametrize("section", FIRST_FIELDS)
def test_a_later_field_enters_a_key_only_off_its_default(section):
    usual = getattr(load("quick"), section)
    assert set(fields(section, usual)) == FIRST_FIELDS[section]
    defaults = type(usual)() if section != "recipe" else usual
    for name, value in LATER[section].items():
        assert getattr(defaults, name) == value, "the rows of before were made with the default"


def test_versions_enter_a_key_only_above_one():
    assert versions(method_version=1, ranking_version=1) == {}
    assert versions(method_version=2, ranking_version=1) == {"method_version": 2}


def test_a_ranking_s_new_version_reaches_all_that_looks_at_it(monkeypatch, tiny_npz, tmp_path):
    profile = load("smoke", "1", tiny_npz(tmp_path / "tiny.npz", classes=10))
    options = {"ranking": "random", "fraction": 0.5, "rule": "union", "like": "mse"}
    twin = Arm(name="twin", method="freeze", options=options)
    profile = profile.model_copy(update={"arms": (*profile.arms, twin)})
    keys = lambda: (run_key(profile, 1, "twin"), overlap_key(profile, 1))  # noqa: E731
    before = keys()
    monkeypatch.setitem(RANKINGS, "mse", replace(RANKINGS["mse"], version=2))
    assert all(new != old for new, old in zip(keys(), before))


def test_the_seed_is_found_wherever_it_stands():
    assert seed_in({"a": 1, "maps": {"task1": {"seed": 7}}}) == 7 and seed_in({"a": [1]}) is None


# --- a run here beside the record -----------------------------------------------------------------


@pytest.fixture
def compared(tmp_path, monkeypatch):
    """compared(here, record) -> what `compare` writes; rows are (arm, seed, lineage, acc1)."""
    monkeypatch.setenv("RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(record, "PUBLISHED", tmp_path / "published")

    def compare(*runs):
        for place, rows in zip(("results", "published"), runs):
            folder = tmp_path / place / "smoke/tables"
            folder.mkdir(parents=True, exist_ok=True)
            table = pd.DataFrame(rows, columns=["arm", "seed", "lineage", "acc1"])
            table = table.assign(acc2=0.5, loss1=1.0, acc1_train=0.9, realised=0.0)
            table.to_csv(folder / "runs.csv", index=False)
        record.compare(load("smoke"), argparse.Namespace())
        return pd.read_csv(tmp_path / "results/smoke/tables/agreement.csv").iloc[0]

    return compare


TWICE = [("a", 1, "x", 0.4), ("a", 1, "y", 0.5), ("b", 1, "y", 0.3), ("a", 2, "z", 0.6)]


def test_a_seed_with_two_checkpoints_agrees_with_itself(compared, capsys):
    found = compared(TWICE, TWICE)
    assert found["rows here"] == found["in the record"] == found["the same to the last bit"] == 4
    assert found["largest difference of acc1, points"] == 0
    said = capsys.readouterr().out
    assert "4 of 4 rows here" in said
    assert [line.split()[:3] for line in said.splitlines() if line.startswith("a ")] == [
        ["a", "0.525", "0.500"]  # (0.45 + 0.6) / 2: a seed weighs once
    ]


def test_rows_of_another_checkpoint_are_compared_by_seed(compared):
    here = [("a", 1, "w", 0.43), ("b", 1, "y", 0.3), ("a", 3, "v", 0.9)]
    found = compared(here, TWICE)  # 0.43 beside the mean 0.45; seed 3 has no partner
    assert found["rows here"] == 3 and found["in the record"] == 2
    assert found["the same to the last bit"] == 1
    assert found["largest difference of acc1, points"] == pytest.approx(2)


def test_a_row_s_own_checkpoint_is_preferred_to_its_seed(compared):
    found = compared([("a", 1, "y", 0.5), ("a", 1, "w", 0.44)], TWICE)
    assert found["in the record"] == 2 and found["the same to the last bit"] == 1
    assert found["largest difference of acc1, points"] == pytest.approx(4)  # w beside x alone
    apart = compared([("c", 1, "x", 0.5)], TWICE)
    assert apart["in the record"] == 0 and pd.isna(apart["of acc2"])


def of_run(branch, method="finetune", seed=3, **options):
    key = {"method": method, "options": options, "curriculum": "sequence", "seed": seed}
    return {"branch": branch, "key": key}


def test_only_reference_arms_may_have_pairs_on_two_checkpoints():
    again = [of_run("a"), of_run("b"), of_run("a", "freeze", ranking="random", fraction=0.5)]
    again += [of_run("b", "freeze", ranking="random", fraction=0.5)]
    mse = partial(of_run, method="freeze", ranking="mse", fraction=0.5)
    arms.check_one_checkpoint([*again, mse("a")])
    arms.check_one_checkpoint([*again, mse("a"), mse("b", seed=4)])  # another seed's
    arms.check_one_checkpoint([*again, mse("a"), mse("c")])  # c has no pair, and counts nowhere
    more = of_run("b", "freeze", ranking="mse", fraction=0.9)  # another arm's
    arms.check_one_checkpoint([*again, mse("a"), more])
    with pytest.raises(
        ValueError, match="seed 3, freeze .fraction 0.5, ranking mse. has rows from"
    ):
        arms.check_one_checkpoint([*again, mse("a"), mse("b")])
    with pytest.raises(ValueError, match="a and b: only fine-tuning and freezing at random"):
        arms.check_one_checkpoint([*again, *(of_run(k, "ewc", strength=1) for k in "ba")])


@pytest.mark.parametrize("profile", PUBLISHED)
def test_no_published_arm_has_pairs_on_two_checkpoints(profile):
    lines = [
        json.loads(line)
        for path in (record.PUBLISHED / profile / "runs").glob("*.jsonl")
        for line in path.read_text().splitlines()
        if line.startswith('{"kind": "run"')
    ]
    assert lines
    arms.check_one_checkpoint([line["meta"] for line in lines])


def test_published_notebooks_show_quantus_beside_ours():
    """They are executed after `make oracles`; given the same random weights the two agree."""
    for path in (ROOT / "results/published").glob("*/06_examine_explanations/notebook.ipynb"):
        found = re.search(r"'difference': (-?[\d.e-]+)", path.read_text())
        assert found and abs(float(found[1])) < 0.02, path
