"""What readers see in words: answers from tables with parts missing, and the notebooks' small
tables by hand."""

import html
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lib.report import page, readme, words
from lib.report.claims import claims
from lib.study.profile import ROOT
from tests.made_up import ARMS, RANKINGS, arm_rows, controls, joint_accuracy, overlaps, study

NOTHING = pd.DataFrame()


def test_a_split_that_loses_something_is_told_as_what_it_is():
    assert words.answer_complete(4e-16) == "FullGrad is complete to 4e-16 (float64)"
    lost = words.answer_complete(0.234)
    assert lost.startswith("FullGrad's split misses a logit by up to 0.23") and "no split" in lost


@pytest.fixture(scope="module")
def made():
    """The claims of the made-up study."""
    return claims(study(), joint_accuracy(), controls(), overlaps())


# --- answers --------------------------------------------------------------------------------------


def test_the_answer_tells_every_main_claim_and_lacks_nothing(made):
    lines = words.answer(made).splitlines()
    assert len(lines) == 10 and not any("Not told" in line for line in lines)
    assert lines[0].startswith(
        "C2-random: MSE-freezing minus random freezing at 50 %, in acc1: +5.0"
    )
    assert " at 98.33 %] points, n = 6: supported" in lines[0]
    assert lines[0].endswith(" (room: +30.0 [+30.0, +30.0 at 95 %] points)")
    assert lines[-1].startswith("C5c: ") and "0.80 [0.80, 0.81 at 95 %] share" in lines[-1]


@pytest.mark.parametrize("gone", ["C2-random", "C2-bottom", "C3a", "C5c"])
def test_a_claim_that_is_missing_is_said_to_be_missing(made, gone):
    left = made[made["claim"] != gone]
    last = words.answer(left).splitlines()[-1]
    assert last == f"Not told by these tables, which lack what it needs: {gone}."
    assert ("lack the claim C2-random" in words.headline(left)) == (gone == "C2-random")


def test_answers_of_an_empty_table():
    empty = claims(
        pd.DataFrame(arm_rows("task 2 only", 0.1, 0.5, "finetune", curriculum="last")),
        NOTHING,
        NOTHING,
    )
    assert empty.empty and len(words.answer(empty).splitlines()) == 1
    assert words.answer(empty).count("C2-random") == 1 and "lack" in words.headline(empty)


def test_under_two_heads_the_question_is_asked_at_every_fraction(made):
    table = claims(study().assign(setting="KT"), joint_accuracy(), controls(), overlaps())
    text = words.answer(table)
    assert "C2-random-25: the same at 25 %: +2.0" in text and "C2-random-75: " in text
    assert text.endswith("lack what it needs: C2-random-90.")
    assert "C2-random-25" not in words.answer(made)


def test_curves_without_common_range_are_told():
    runs = study()
    runs.loc[runs["ranking"] == "random", "acc2"] -= 0.9
    assert "C2b-random" in (text := words.answer(claims(runs, NOTHING, NOTHING)))
    assert "over random's): no common range, n = 0: undecided (n = 0)" in text


def test_plain_and_spread():
    assert words.plain(0.1694) == ".169" and words.plain(-0.0312) == "-.031"
    assert words.plain(1) == "1.000" and words.plain(10.25) == "10.250"
    assert words.spread([0.25]) == ".250"
    # mean .2, s = .1, t(.975, 2) = 4.302653
    assert words.spread([0.1, 0.2, 0.3]) == ".200 [-.048, .448]"


def test_paper_tables_find_their_arms_by_columns():
    renamed = words.paper_tables(study().assign(arm=study()["arm"].str.upper()))
    pd.testing.assert_frame_equal(renamed, words.paper_tables(study()))
    rows = renamed.set_index("arm")
    assert list(rows.index) == [
        "before round 2",
        "MSE 25 %",
        "MSE 75 %",
        "MSE 50 %",
        "random 50 %",
        "Pearson 50 %",
        "joint 20-way",
    ]
    assert rows.loc["MSE 75 %", ["paper acc1", "paper acc2"]].tolist() == ["0.384", "0.257"]
    assert rows.loc["random 50 %", ["paper acc1", "acc1 [95 %]"]].tolist() == [
        "",
        ".250 [.250, .250]",
    ]
    assert rows["n"].tolist() == [6, 6, 6, 6, 6, 6, 3]


def test_an_arm_s_interval_is_over_seeds_whatever_its_lineages():
    again = study()[lambda t: t["arm"] == "mse 50%"].assign(lineage="again")
    both = pd.concat([study(), again])
    pd.testing.assert_frame_equal(words.arm_table(both), words.arm_table(study()))
    pd.testing.assert_frame_equal(words.paper_tables(both), words.paper_tables(study()))


# --- small tables of the notebooks ----------------------------------------------------------------


def test_before_round_two_beside_the_paper():
    task1 = pd.DataFrame({"seed": [1, 2], "acc1_before": [0.4, 0.5], "acc2_before": [0.1, 0.12]})
    table = words.before_beside_paper(task1)
    assert table.loc["acc1_before"].tolist() == pytest.approx([0.45, 0.4, 0.5, 2, 0.4566])
    assert table.loc["acc2_before"].tolist() == pytest.approx([0.11, 0.1, 0.12, 2, 0.1322])
    assert words.answer_before(task1).splitlines() == [
        "before round 2, mean of 2 seeds: acc1 .450, acc2 .110",
        "the paper: acc1 .457, acc2 .132 (one run, CIFAR-100)",
    ]


def test_arm_means_and_the_answer_of_the_rounds():
    table = words.arm_means(study())
    assert list(table.index) == list(dict.fromkeys(study()["arm"]))
    assert table.loc["mse 50%", ["n", "realised", "acc1_before", "acc2"]].tolist() == pytest.approx(
        [6, 0.5, 0.5, 0.35]
    )
    assert words.answer_rounds(study()).splitlines() == [
        "fine-tune: task 1 from 0.500 to 0.150, task 2 at 0.480 (n = 6)",
        "random 50%: task 1 from 0.500 to 0.250, task 2 at 0.350 (n = 6)",
        "mse 50%: task 1 from 0.500 to 0.300, task 2 at 0.350 (n = 6)",
    ]
    assert words.answer_rounds(study()[lambda t: t["arm"] == "all frozen"]) == ""


def test_accuracy_matrices_and_transfer():
    table = words.accuracy_matrices(study(), joint_accuracy())
    assert list(table.index) == [
        (arm, k) for arm in ("fine-tune", "random 50%", "mse 50%") for k in (1, 2)
    ]
    assert table.loc[("fine-tune", 1)].tolist() == pytest.approx([0.5, 0.1])
    assert table.loc[("mse 50%", 2)].tolist() == pytest.approx([0.3, 0.35])
    moved = words.transfer_table(study(), joint_accuracy()).set_index("arm")
    assert moved.loc["fine-tune"].tolist() == [".350 [.350, .350]", "-.350 [-.350, -.350]", 6]
    assert "joint 20-way" not in moved.index and "task 2 only" not in moved.index
    assert words.accuracy_matrices(study()[:0], NOTHING).empty


def test_controls_by_place():
    table = words.controls_by_place(controls())
    assert table.loc[("trajectory", 1)].tolist() == pytest.approx([0.25, 0.5])
    assert len(table) == 8 and words.controls_by_place(NOTHING).empty


def test_joint_by_epoch_shows_the_half_and_the_end():
    table = words.joint_by_epoch(study(), joint_accuracy())
    assert list(table.index) == [10, 20]
    assert table.loc[20, ["task1", "task2 masked"]].tolist() == pytest.approx([0.31, 0.55])
    assert words.joint_by_epoch(study()[:5], joint_accuracy()).empty


def test_costs_and_calibration():
    timing = pd.DataFrame(
        {"processor": "P", "cores": 2, "torch": ["a", "a", "b"], "seconds": [1.0, 3.0, 5.0]}
    )
    assert words.costs(timing).loc[("P", 2, "a")].tolist() == [2, 2.0, 4.0]
    assert words.calibration_table(NOTHING) == "this profile names no calibration"
    tuned = pd.DataFrame(
        {"setting": "K", "precision": "auto", "acc1_before": [0.5, 0.7], "acc2_before": 0.1}
    )
    assert words.calibration_table(tuned).loc[("K", "auto"), ("acc1_before", "mean")] == 0.6


def test_realised_shares_are_of_the_whole_network():
    rows = pd.DataFrame(
        [
            {"rule": rule, "nominal": nominal, "layer": layer, "fraction": share}
            for rule, nominal, share in (
                ("turns", 0.5, 0.5),
                ("union", 0.5, 0.6123),
                ("union", 0.25, 0.4),
            )
            for layer, share in (("conv1_1", 0.0), ("all", share))
        ]
    )
    table = words.realised_shares(rows)
    assert table.loc["union"].tolist() == [0.4, 0.612] and np.isnan(table.loc["turns", 0.25])


def test_overlap_in_a_table_and_in_words():
    more = pd.concat([overlaps(), overlaps().assign(ranking="pearson", iou=9.0)])
    table = words.overlap_by_fraction(more, RANKINGS)
    assert table.index[0] == "mean map of all classes" and list(table.columns) == [0.25, 0.5]
    assert table.loc["null: centred blob"].tolist() == pytest.approx([0.004, 0.804], abs=1e-3)
    lines = words.answer_overlap(more, RANKINGS).splitlines()
    assert lines[0] == "overlap of MSE's choice at 50 % with other choices, mean of 6 seeds:"
    assert lines[1:] == [
        "  mean map of all classes: 0.95; 98 % of the filters are the same",
        "  null: flat map: 0.50; 67 % of the filters are the same",
        "  null: centred blob: 0.80; 89 % of the filters are the same",
        "  null: shuffled pixels: 0.60; 75 % of the filters are the same",
        "  random: 0.30; 47 % of the filters are the same",
    ]


def test_shown_arms_has_no_empty_cells():
    table = words.shown_arms(ARMS)
    assert table.loc[0, "fraction"] == "" and table.loc[1, "fraction"] == 1.0
    assert len(table) == len(ARMS) and table.notna().all(axis=None)


# --- README.md, GUIDE.md, bench/README.md ---------------------------------------------------------

PUBLISHED = ROOT / "results/published"


@pytest.mark.parametrize("name", readme.PAGES)
def test_generated_parts_are_those_of_the_published_tables(name):
    text = (ROOT / name).read_text()
    assert readme.in_text(text, PUBLISHED) == text


def test_the_figure_of_the_readme_is_drawn_from_the_published_tables(tmp_path):
    shutil.copytree(PUBLISHED, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.png"))
    for path in readme.draw(tmp_path):
        assert path.read_bytes() == (PUBLISHED / "report" / path.name).read_bytes()
    assert (tmp_path / "report" / Path(readme.FOREST).name).exists()


def test_readme_and_overview_say_the_same():
    said = readme.in_text("<!-- answer -->\n<!-- /answer -->", PUBLISHED)
    settings = page.alike(page.published_settings(PUBLISHED)[0])
    overview = html.unescape((PUBLISHED / "report/index.html").read_text())
    three = page.in_three(settings)
    assert len(three) == 3
    for sentence in three:
        assert f"- {sentence}\n" in said and f"<p>{sentence}</p>" in overview
    findings = page.answer_over(settings)
    assert len(findings) == 9
    for question, rest in map(words.asked, findings):
        assert question and f"<p><strong>{question}</strong>{rest}</p>" in overview


def test_a_record_of_nothing_says_so(tmp_path):
    text = readme.in_text("a\n<!-- answer -->\nstale<!-- /answer -->\nb", tmp_path)
    assert readme.NOTHING in text and "stale" not in text
    assert text.startswith("a\n") and text.endswith("\nb") and readme.draw(tmp_path) == []
    assert readme.in_text("<!-- costs -->\n9 minutes<!-- /costs -->", tmp_path).count("9") == 0


def test_minutes_say_of_how_many_arms_they_are(tmp_path):
    (tmp_path / "tables").mkdir()
    write = lambda name, table: table.to_csv(tmp_path / f"tables/{name}.csv", index=False)  # noqa: E731
    timing = pd.DataFrame(
        {
            "run": ["a/1/x", "a/2/x", "b/1/x", "c/1/x"],
            "seconds": [600, 720, 60, 9],
            "device": ["cpu", None, "cpu", "NVIDIA"],
        }
    )
    write("timing", timing)
    write("arms", pd.DataFrame({"arm": ["a", "b", "c"]}))
    assert readme._minutes_a_seed(tmp_path) == "12 (2 of its 3 arms)"
    assert readme._minutes_a_seed(tmp_path, 2) == "6 (2 of its 3 arms)"
    write("arms", pd.DataFrame({"arm": ["a", "b"]}))
    assert readme._minutes_a_seed(tmp_path) == "12"
    write("timing", timing[3:])
    assert readme._minutes_a_seed(tmp_path) == ""


def test_page_stands_a_record_without_the_main_claim(tmp_path, made):
    (tmp_path / "tables").mkdir()
    tables = {"runs": study(), "claims": made[made["claim"] != "C2-random"]}
    for name, table in tables.items():
        table.to_csv(tmp_path / "tables" / f"{name}.csv", index=False)
    assert "lack the claim C2-random" in page.page(tmp_path, "K")


def test_the_readme_is_one_screen_and_speaks_in_no_codes():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 90
    assert not re.search(r"\b(S1|S2|KT|C2\w*-\w+|acc1|acc2)\b", text)
    sections = re.split(r"^#+ ", (ROOT / "GUIDE.md").read_text(), flags=re.M)[2:]
    assert len(sections) > 8
    for section in sections:
        text = re.sub(r"<!-- (\w+) -->.*?<!-- /\1 -->", "", section, flags=re.S)
        title, *lines = (x for x in text.splitlines() if x.strip() and not x.startswith("```"))
        assert len(lines) <= 15, title


@pytest.mark.parametrize("name", [*readme.PAGES, "CARDS.md", "ARCHITECTURE.md"])
def test_no_link_is_dead(name):
    text = (ROOT / name).read_text()
    links = re.findall(r"\]\(([^)#]+)", text)
    assert links or name == "ARCHITECTURE.md"
    dead = [x for x in links if "://" not in x and not ((ROOT / name).parent / x).exists()]
    assert not dead
