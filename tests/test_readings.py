"""The grid of readings on a tiny network for real, and its table, sentence and figure by hand."""

import argparse
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch

from lib.freezing import as_many, union
from lib.ranking import RANKINGS
from lib.report import figures, paper
from lib.report import readings as shown
from lib.reproduce import plan
from lib.study import readings
from lib.study.__main__ import main
from lib.study.profile import Candidate, load
from lib.study.runs import run_key
from tests.made_up import arm_rows, freeze_rows

TINY = """
extends: smoke
seeds: "1"
data: {{source: "{images}", classes: [[0, 1], [2, 3]]}}
network: {{depth: 11, width: 0.0625, batch_norm: true}}
recipe: {{epochs: 1, batch_size: 16, lr: {lr}, momentum: 0.9, flip: false}}
explain: {{map_images: 2, steps: 1}}
readings:
  seeds: "1000"
  least: {least}
  most: 1
  recipes: [{{momentum: 0.9, batch_size: 16}}, {{momentum: 0.0, batch_size: 8}}]
"""


@pytest.fixture
def tiny(tmp_path, tiny_npz, monkeypatch):
    """tiny(least, lr) -> the path of such a profile; jobs run in this process."""
    monkeypatch.setenv("RESULTS", str(tmp_path / "results"))
    inline = lambda todo, do, log, workers=None: [do(job) for job in todo]  # noqa: E731
    monkeypatch.setattr(readings.engine, "side_by_side", inline)

    def write(least=0.0, lr=0.01):
        path = tmp_path / "tiny.yaml"
        path.write_text(TINY.format(images=tiny_npz(tmp_path / "tiny.npz"), least=least, lr=lr))
        return path

    return write


def test_two_heads_are_read_in_full_and_one_head_at_the_default_maps():
    asked = load("compact_readings").readings
    taken = asked.recipes[: asked.most]
    found = readings.variants(taken)
    per_head = [[v for v in found if v.heads == h] for h in ("per_task", "shared")]
    assert [len(v) * len(readings.CHOSEN) for v in per_head] == [48, 8]  # 56, at least 54
    assert {(v.heat_map, v.class_map) for v in per_head[1]} == {
        ("brightness", "mean of scaled maps")
    }
    assert len(set(found)) == len(found)


def test_a_reading_of_the_default_is_the_arm_of_the_setting_of_many_seeds(tiny):
    ours = readings.Variant("per_task", Candidate(momentum=0.9, batch_size=16)).of(load(tiny()))
    plain = load(tiny()).model_copy(
        update={
            "network": ours.network,
            "arms": tuple(
                arm.model_copy(update={"name": name})
                for name, arm in zip(("a", "b"), (ours.arms[0], ours.arms[1]))
            ),
        }
    )
    assert ours.arms[0].options == {"ranking": "mse", "fraction": 0.75}
    assert ours.arms[1].options == {"ranking": "random", "fraction": 0.75}
    for name, arm in zip("ab", ours.arms):
        assert run_key(plain, 1, name) == run_key(ours, 1, arm.name)


ALL = readings.HEAT_MAPS, readings.CLASS_MAPS, readings.SCOPES


@pytest.mark.parametrize(
    "heat_maps, class_maps, scopes",
    [
        (ALL[0][:1], ALL[1][:1], ALL[2][:1]),
        pytest.param(*ALL, marks=pytest.mark.slow),
    ],
)
def test_the_grid_for_real(tiny, tmp_path, capsys, monkeypatch, heat_maps, class_maps, scopes):
    path, chosen = tiny(), tuple(product(scopes, readings.RULES))
    for name, values in (("HEAT_MAPS", heat_maps), ("CLASS_MAPS", class_maps), ("CHOSEN", chosen)):
        monkeypatch.setattr(readings, name, values)
    published = []
    monkeypatch.setattr(plan, "PLAN", ((str(path), "1"),))
    monkeypatch.setattr(plan, "publish", lambda profile, _: published.append(profile.seeds))
    given = argparse.Namespace(data=None)
    assert readings.lacking(load(str(path)))
    plan.record(load(str(path)), given)  # make record runs a grid too, and once
    assert not readings.lacking(load(str(path))) and published == ["1"]
    plan.record(load(str(path)), given)
    assert published == ["1"]
    assert main(["--profile", str(path), "--readings", "grid"]) == 0
    rows = pd.read_csv(tmp_path / "results/tiny/tables/readings.csv")
    assert len(rows) == (len(heat_maps) * len(class_maps) + 1) * len(chosen)
    assert rows["lineage"].nunique() == 2  # heads differ, maps do not
    choices = ["heads", "scope", "rule", "heat_map", "class_map"]
    assert not rows.duplicated(choices).any()
    for c, values in (("rule", readings.RULES), ("scope", scopes), ("class_map", class_maps)):
        assert set(rows[c]) == set(values)
    # a twin freezes as many, by turns three quarters, united more
    assert np.allclose(rows["realised"], rows["realised_random"])
    turns = rows["rule"] == "turns"
    assert rows[turns]["realised"].between(0.74, 0.76).all()
    assert (rows[~turns]["realised"] > 0.76).all()
    assert (rows["of_readings"] == len(rows)).all() and (rows["of_seeds"] == 1).all()
    recipes = pd.read_csv(tmp_path / "results/tiny/tables/recipes.csv")
    assert recipes["taken"].tolist() == [True]  # it learns to 0, so that the second is not tried
    before = sorted((tmp_path / "results/tiny/runs").rglob("*"))
    assert main(["--profile", str(path), "--readings", "grid"]) == 0  # nothing is made again
    assert sorted((tmp_path / "results/tiny/runs").rglob("*")) == before
    # restored beside another checkpoint: a reading whose twin started elsewhere is run again
    lineage = rows["lineage"].iloc[0]
    one = next((tmp_path / "results/tiny/runs/run").glob(f"*.{lineage}.json"))
    for file in one.parent.glob(f"{one.name.removesuffix('.json')}.*"):
        file.rename(file.with_name(file.name.replace(lineage, "ba9876543210")))
    assert readings.lacking(load(str(path)))
    assert main(["--profile", str(path), "--readings", "grid"]) == 0
    assert not readings.lacking(load(str(path)))
    assert (pd.read_csv(tmp_path / "results/tiny/tables/readings.csv") == rows).all().all()
    capsys.readouterr()


def test_recipes_that_do_not_learn_are_not_read(tiny, tmp_path, capsys):
    path = tiny(least=0.9, lr=1e-9)
    assert main(["--profile", str(path), "--readings", "recipes"]) == 0
    recipes = pd.read_csv(tmp_path / "results/tiny/tables/recipes.csv")
    assert not recipes["taken"].any() and len(recipes) == 2
    assert main(["--profile", str(path), "--readings", "grid"]) == 1
    error = capsys.readouterr().err
    assert "under no candidate recipe is task 1 learned to 0.9" in error and error.count("\n") == 1
    assert main(["--profile", "smoke", "--readings", "recipes"]) == 1
    assert "has no readings" in capsys.readouterr().err


# --- what the grid needs of the science -----------------------------------------------------------


def test_as_many_freezes_the_counts_of_another_choice():
    draw = torch.Generator().manual_seed(0)
    scores = {k: torch.rand(5, f, generator=draw) for k, f in (("a", 8), ("b", 16))}
    other = {k: torch.rand(1, s.shape[1], generator=draw) for k, s in scores.items()}
    counts = union(scores, 0.25)
    found = as_many(other, counts)
    for layer, mask in found.items():
        n = int(counts[layer].sum())
        assert n > 0.25 * len(mask)  # united lists hold more than their share
        assert mask.tolist() == (other[layer][0] >= other[layer][0].sort()[0][-n]).tolist()
    later = union(scores, 0.5, counts)
    more = as_many(other, later, counts)
    for layer, mask in more.items():
        assert int(mask.sum()) == int(later[layer].sum()) and bool((mask | ~counts[layer]).all())


def test_the_class_map_s_kind_is_made_as_its_ranking_makes_it(tiny):
    from lib.study.products import evidence, maps_key

    usual = readings.Variant("per_task", Candidate(momentum=0.9, batch_size=16)).of(load(tiny()))
    assert "class_map" not in maps_key(usual, 1)
    look = evidence(usual, 1)
    for kind, name in (("rescaled", "rescaled"), ("one image", "one_image")):
        other = usual.model_copy(
            update={"explain": usual.explain.model_copy(update={"class_map": kind})}
        )
        assert maps_key(other, 1)["class_map"] == kind
        ours, theirs = RANKINGS["mse"](evidence(other, 1)), RANKINGS[name](look)
        for layer in ours:
            torch.testing.assert_close(ours[layer], theirs[layer])


# --- to a reader ----------------------------------------------------------------------------------


def rows_of(*differences, seeds=(21, 22, 23), wobble=0.0):
    """A reading for each difference; its seeds lie `wobble` below, at and above it."""
    names = list(product(readings.SCOPES, readings.RULES, ("brightness", "difference")))
    found = []
    for (scope, rule, heat), difference in zip(names, differences):
        for i, seed in enumerate(seeds):
            choices = {"heads": "per_task", "momentum": 0.9, "batch_size": 64, "scope": scope}
            choices |= {"rule": rule, "heat_map": heat, "class_map": "rescaled", "seed": seed}
            acc1 = 0.4 + difference + (i - 1) * wobble
            whole = {"of_readings": len(differences), "of_seeds": len(seeds)}
            whole |= {"realised": 0.6 if rule == "turns" else 0.7}
            found.append({**choices, "acc1": acc1, "acc1_random": 0.4, **whole})
    return pd.DataFrame(found)


def test_readings_are_counted_by_the_margin_by_hand():
    rows = rows_of(0.03, -0.02, 0.009, 0.01, -0.0099, wobble=0.01)
    found = shown.by_reading(rows)
    assert found["difference"].tolist() == pytest.approx([-0.02, -0.0099, 0.009, 0.01, 0.03])
    assert (found["n"] == 3).all() and found["spread"].tolist() == pytest.approx([0.01] * 5)
    half = 4.302653 * 0.01 / 3**0.5
    assert found["low"].tolist() == pytest.approx(found["difference"] - half)
    assert shown.above_and_below(found) == (2, 1)
    # five readings, each with a mean off by .01 / sqrt(3): above one point in 4.2 % of cases
    assert shown.by_luck(found) == pytest.approx(5 * 0.0416, abs=1e-3)
    text = shown.sentence(rows)
    assert text.startswith(
        "Of 5 readings of the paper (60 % of each layer's filters frozen, or each class's 60 %"
    )
    assert "2 keep on average at least 1 point more of the first task" in text
    assert "1 at least 1 point less, and 2 lie between. With 3" in text  # no word of one head
    assert "about 0 would lie above, and as many below" in text and "so few seeds" in text
    # .03 and .01 lie above; all five share a head and a recipe: .00382 and .01 about it
    assert (
        "(2 of the 2 above have heads one per task and momentum 0.9, batch 64, whose means seed by "
        "seed are -0.6, +0.4, +1.4 points)" in text
    )
    assert "and 2 lie between; the 5 with one head have" in shown.sentence(
        rows.assign(heads="shared")
    )


def test_one_seed_of_each_reading_tells_nothing():
    rows = rows_of(0.03, -0.02, seeds=(21,))
    found = shown.by_reading(rows)
    assert np.isnan(shown.by_luck(found)) and found["low"].isna().all()
    assert shown.sentence(rows).endswith("With 1 seed of each, nothing can be said of any one.")


def test_an_unfinished_grid_says_how_many_seeds_each_reading_has():
    rows = rows_of(0.03, -0.02, 0.05, seeds=(21, 22), wobble=0.01).assign(of_seeds=3)
    rows = rows[:-1]  # the last reading lacks its second seed: its mean is another seed's
    assert sorted(shown.by_reading(rows)["n"]) == [1, 2, 2]
    text = shown.sentence(rows)
    assert text.startswith("Of 2 of 3 readings of the paper (") and ", 1 keep" in text
    assert "With 2 seeds of each so far, of 3, about" in text
    dots, near, far = (line.get_xydata() for line in shown.figure(rows).axes[0].lines[1:])
    assert len(dots) == 4 and len(near) + len(far) == 2
    begun = pd.concat([rows_of(0.03, -0.02, seeds=(21, 22)), rows_of(0.5, seeds=(23,))])
    assert shown.comparable(begun)["seed"].tolist() == [21, 22, 21, 22]  # the new seed waits


def test_a_published_grid_is_in_the_overview_and_in_the_answer_but_is_no_setting(tmp_path):
    from lib.report import page, readme

    tables = tmp_path / "compact_readings/tables"
    tables.mkdir(parents=True)
    (tmp_path / "compact_readings/runs").mkdir()
    (tmp_path / "compact/runs").mkdir(parents=True)
    (tables / "readings.csv").write_text("\n")  # of a grid that has only begun
    assert page.published_grid(tmp_path) is None
    rows_of(0.03, -0.02, wobble=0.01).to_csv(tables / "readings.csv", index=False)
    assert page.published_settings(tmp_path) == ([], ["compact, one head"])  # which has no tables
    said = "Of 2 readings of the paper (compact network, 60 % of"
    assert (grid := page.published_grid(tmp_path))[1].startswith(said)
    text = page.overview([], grid=grid)
    assert text.count(said) == 1 and 'id="figure-readings"' in text
    assert 'id="readings"' not in page.overview([])
    assert readme._answer(tmp_path) == f"{readme.NOTHING}\n"


def test_the_curve_shows_every_seed_every_choice_and_what_is_far(tmp_path):
    rows = rows_of(0.03, -0.02, 0.009, wobble=0.01)
    figures.use_style()
    drawn = shown.figure(rows)
    top, below = drawn.axes
    dots, near, far = (line.get_xydata() for line in top.lines[1:])
    assert len(dots) == 9 and near.tolist() == [[1, pytest.approx(0.9)]] and len(far) == 2
    words = [label.get_text() for label in below.get_yticklabels()]
    assert words[0] == "heads:  one per task" and "united" in words
    # of each choice one value: a mark for every reading and choice
    assert sum(len(line.get_xydata()) for line in below.lines) == 3 * len(shown.CHOICES)
    read = {"readings": rows}.__getitem__
    assert [*shown.from_tables(read)] == ["readings"]

    def missing(name):
        raise FileNotFoundError(name)

    assert shown.from_tables(missing) == {}


def test_the_setting_nearest_to_the_paper_by_hand():
    numbers = {0.25: (0.207, 0.392), 0.75: (0.384, 0.257)}

    def setting(name, off):
        found = arm_rows("fine-tune", 0.1, 0.5, "finetune", before=(0.4566 + off, 0.1322 - off))
        for share, (acc1, acc2) in numbers.items():
            found += freeze_rows("MSE", "mse", share, acc1 + off, acc2 - off)
        return pd.DataFrame(found).assign(setting=name)

    runs = {"far": setting("K", 0.05), "near": setting("S2", 0.02), "digits": setting("Q", 0.0)}
    table = paper.nearness({**runs, "part": setting("T", 0.0)[:6]})
    assert table["setting"].tolist() == ["near", "far"] and (table["n"] == 6).all()
    assert table["off"].tolist() == pytest.approx([0.02, 0.05])
    assert table.loc[0, "acc2 75 %"] == pytest.approx(-0.02)
    text = paper.nearest(table)
    assert "asked only after" in text and "near (2.0 points, n = 6), then far (5.0 points" in text
    assert paper.nearest(paper.nearness({})) == ""
