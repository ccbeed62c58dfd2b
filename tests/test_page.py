"""The report's pages: what they say follows from the tables, names are text and not markup, and a
browser shows them without complaint."""

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from lib.report import answers, beside, figures, page, statistics, words
from lib.report.answers import lines, sentences
from lib.report.beside import beside_methods
from lib.report.claims import NO_ROOM, claims
from lib.report.statistics import summary
from lib.reproduce import __main__ as reproduce
from lib.reproduce import record
from lib.study import arms as arms_room
from lib.study.profile import load
from lib.study.store import as_written, read_table
from tests.browser import CHROMIUM, Browser
from tests.made_up import arm_rows, controls, joint_accuracy, overlaps, study

RECORD = record.PUBLISHED / "compact"
MOST = 3_000_000  # bytes of one page


class Parts(HTMLParser):
    """Ids, links, pictures and tags of a page, and whether every tag is closed in its turn."""

    VOID = {"meta", "link", "img", "br", "path", "rect"}

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.pictures, self.open, self.levels = [], [], [], [], []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if tag == "a" else []
        self.pictures += [found] if tag == "img" else []
        self.levels += [int(tag[1])] if re.fullmatch("h[1-6]", tag) else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag in self.VOID or self.open.pop() == tag, tag


@pytest.fixture(scope="module")
def drawn():
    """The pictures of the published profile compact."""
    return page.pictures(RECORD, "compact, one head")


def few_figures(monkeypatch, *names):
    """Of figures from tables only these are drawn: seconds saved where a test is not of them."""
    everyone = set(page.FIGURES) - set(names)
    usual = figures.from_tables
    monkeypatch.setattr(figures, "from_tables", lambda read, but=(): usual(read, {*but, *everyone}))


@pytest.fixture(scope="module")
def compact(drawn):
    """The page of the published profile compact."""
    return page.page(RECORD, "compact, one head", load("compact").about, drawn=drawn)


def with_tables(folder, name, *tables):
    """A folder with some tables of the published profile: fewer figures, less time."""
    for table in tables:
        path = folder / name / f"tables/{table}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(record.PUBLISHED / name / f"tables/{table}.csv", path)
    return folder / name


@pytest.fixture(scope="module")
def made():
    """The claims of the made-up study."""
    return claims(study(), joint_accuracy(), controls(), overlaps())


def with_verdict(table, claim, **changes):
    """The table with one claim's line changed; low and high are at 95 %."""
    table = table.copy()
    changes |= {f"{name}95": changes[name] for name in ("low", "high") if name in changes}
    if "low" in changes:
        changes["level"] = 0.95
    for column, value in changes.items():
        table[column] = table[column].astype(object if isinstance(value, str) else float)
        table.loc[table["claim"] == claim, column] = value
    return table


# --- sentences ------------------------------------------------------------------------------------


def test_the_first_sentence_says_the_verdict_with_its_numbers(made):
    text = answers.against_chance(made)
    assert text.startswith("Freezing the filters that explanation chooses keeps more of the first")
    row = made.set_index("claim").loc["C2-random"]
    assert f"{100 * row['estimate']:+.1f} [{100 * row['low']:+.1f}, " in text and "n = 6" in text
    assert f"{100 * row['high']:+.1f} at 98.33 %] points with 50 % frozen" in text
    assert "; freezing every filter keeps 30.0 [30.0, 30.0 at 95 %] points more" in text


def test_the_forest_of_a_single_mark_says_its_difference_not_a_range():
    runs = study()
    half = runs[(runs["fraction"] != 0.25) & (runs["fraction"] != 0.75)]
    assert re.fullmatch(
        r"The mean difference is \+5\.0 \[\+\d\.\d, \+\d\.\d\] points\.", answers.of_forest(half)
    )
    one = half[half["seed"] == 1]
    said = answers.of_forest(one)
    assert re.fullmatch(r"The mean difference is \+\d\.\d points \(one seed\)\.", said)
    assert answers.of_forest(runs).startswith("The mean differences run from ")


def test_figures_of_examined_explanations_say_what_they_show_by_hand():
    claims = [{"claim": "C6", "estimate": 0.6, "low": np.nan, "high": np.nan, "level": 0.95}]
    claims = pd.DataFrame(claims).assign(n=1, verdict="undecided (n = 1)")
    seeds = [1, 1, 2, 2]
    layers = pd.DataFrame({"seed": seeds, "layer": ["a", "b"] * 2, "filters": 16})
    layers["noise"] = [0.9, 0.5, 0.7, 0.3]
    randomised = pd.DataFrame({"seed": seeds, "layer": ["head", "a"] * 2})
    randomised["pearson"] = [0.9, 0.2, 0.7, 0.4]
    maps = ["FullGrad", "random"] * 2
    deletion = pd.DataFrame({"seed": seeds, "map": maps, "deleted": 0.1})
    deletion["probability"] = [0.3, 0.5, 0.5, 0.6]
    readouts = pd.DataFrame(
        {"seed": 1, "way": way, "readout": name, "acc1": acc1}
        for way, values in (("before", (0.6, 0.6, 0.7)), ("tune", (0.3, 0.2, 0.5)))
        for name, acc1 in zip(("as it is", "both put back", "linear probe"), values)
    )
    chance = {"ranking": "random", "family": "chance", "fraction": 0.5, "seed": 1, "lineage": "x"}
    chance["label"] = "random"
    grafts = [
        chance | {"draw": draw, "acc1": a, "acc2": 0.5}
        for draw, a in enumerate((0.1, 0.2, 0.3, 0.4))
    ]
    ours = chance | {"ranking": "mse", "family": "similarity", "acc1": 0.35, "acc2": 0.5}
    tables = {
        "claims_examined": claims,
        "reliability": layers,
        "randomisation": randomised,
        "deletion": deletion,
        "readouts": readouts,
        "grafts": pd.DataFrame([*grafts, ours]),
        "runs": study(),
    }

    def read(name):
        if name not in tables:
            raise FileNotFoundError(name)
        return tables[name]

    said = answers.conclusions(read)
    assert "+0.60 (one seed: undecided). From another noise, 16 filters" in said["reliability"]
    assert said["reliability"].endswith("+0.40 (b) to +0.80 (a), below 0.5 in b.")
    assert "correlate at 0.80" in said["sanity"] and "at 0.30 once all" in said["sanity"]
    assert ".400 on average in FullGrad's order, .550 in that of the random" in said["sanity"]
    assert "matters sooner than the random map's (2 seeds)" in said["sanity"]
    deletion["probability"] = [0.6, 0.5, 0.6, 0.5]
    assert "matters no sooner than" in answers.conclusions(read)["sanity"]
    assert said["readouts"].endswith(
        "before .600, .600 and .700; tune .300, .200 and .500 (1 seed)."
    )
    assert said["grafts"].startswith("In the mean of both accuracies, MSE's choice lies above 75 %")


def test_differences_without_a_claim_that_leave_out_zero_are_named():
    runs = study()  # MSE above random, at 25 and 75 % without a claim of their own
    table = pd.DataFrame([{"claim": "C2-random"}])
    (said,) = sentences._largest_unclaimed({"here": table}, {"here": runs})
    found = {k: v for k, v in sentences._differences(runs).items() if k != 50}
    share = max(found, key=lambda k: abs(found[k]["estimate"]))
    first = said.split("(all of them): ")[1]
    assert first.startswith(f"here, {share} % frozen: {100 * found[share]['estimate']:+.1f} [")
    assert said.count("of the second task (n = 6)") == len(found) == 2
    claimed = pd.DataFrame({"claim": ["C2-random", "C2-random-25", "C2-random-75"]})
    assert sentences._largest_unclaimed({"here": claimed}, {"here": runs}) == []
    one = runs[runs["seed"] == 1]  # no interval
    assert sentences._largest_unclaimed({"here": table}, {"here": one}) == []


def test_seeds_that_were_foreseen_and_not_run_are_said(tmp_path):
    settings = [
        page.Setting(tmp_path / name, name, "", "") for name in ("compact", "quick", "unknown")
    ]
    seeds = {"compact": range(1, 6), "quick": (1, 2, 3), "unknown": (1,)}
    runs = {name: pd.DataFrame({"seed": list(of)}) for name, of in seeds.items()}
    assert page._short_of_seeds(settings, runs) == ["compact 12 and 5"]


@pytest.mark.parametrize(
    "verdict, words",
    [
        ("supported", "keeps more of the first task"),
        ("contradicted", "does not keep a point more"),
        ("contradicted (equivalent)", "keeps as much of the first task, to within a point"),
        ("inconclusive (equivalent)", "keeps as much of the first task, to within a point"),
        ("inconclusive", "is not shown to keep more"),
        ("undecided (n = 1)", "cannot be told by a single seed"),
        (NO_ROOM, "has no room here"),
    ],
)
def test_every_verdict_has_its_words_and_none_stands_by_colour_alone(made, verdict, words):
    table = with_verdict(made, "C2-random", verdict=verdict)
    text = answers.against_chance(table)
    others = {x for x in answers.SAYS.values() if words not in x}
    assert words in text and not any(other in text for other in others)
    assert ("since even freezing every filter keeps only" in text) == (verdict == NO_ROOM)
    line = answers.verdict_of(table.set_index("claim", drop=False).loc["C2-random"])
    badge = page.TEMPLATES.get_template("parts.html.j2").module.badge(line)
    shown = "equivalent" if verdict == "inconclusive (equivalent)" else verdict
    assert f"</span>{shown}</span>" in badge and f'class="verdict {line.kind}"' in badge


def test_the_question_is_asked_at_every_fraction_the_claims_have():
    table = claims(study().assign(setting="KT"), joint_accuracy(), controls(), overlaps())
    table = with_verdict(table, "C2-random-25", verdict="inconclusive")
    assert [share for share, _ in answers.main_claims(table)] == [25, 50, 75]
    text = answers.against_chance(table)
    assert text.index("50 % frozen; ") < text.index("75 % frozen") < text.index("is not shown")
    assert text.index("is not shown") < text.index("25 % frozen")


def test_a_missing_main_claim_is_said_to_be_missing(made):
    assert "lack the claim C2-random" in answers.against_chance(made[made["claim"] != "C2-random"])


def test_the_other_sentences_turn_with_sign_and_verdict(made):
    table = with_verdict(made, "C2b-interpolation", estimate=-0.055, low=-0.065, high=-0.044)
    assert "keeps 5.5 [4.4, 6.5 at 95 %] points more of the first task than" in answers.forgetting(
        table
    )
    table = with_verdict(made, "C2b-interpolation", estimate=0.02, low=0.01, high=0.03)
    assert "keeps 2.0 [1.0, 3.0 at 95 %] points less of the first task than" in answers.forgetting(
        table
    )
    one = with_verdict(made, "C2b-interpolation", estimate=0.02, low=np.nan, high=np.nan)
    assert "not told apart" in answers.forgetting(one) and "2.0 points less" in str(
        answers.forgetting(one)
    )
    wide = with_verdict(made, "C2b-interpolation", estimate=-0.05, low=-0.3, high=0.2)
    text = answers.forgetting(wide)
    assert "is not told apart from freezing by explanation" in text
    assert text.endswith("(5.0 [-20.0, 30.0 at 95 %] points more, n = 6).")
    assert "do not tell" in answers.forgetting(made[:0])
    table = with_verdict(made, "C5b", verdict="contradicted")
    assert answers.of_the_map(table).startswith("Which class a map belongs to hardly changes")
    table = with_verdict(made, "C5b", verdict="undecided (n = 1)")
    assert answers.of_the_map(table).startswith("Whether the class matters to the choice is open")


def test_the_overview_s_sentences_name_settings_by_their_verdict(made):
    none = with_verdict(made, "C2-random", verdict=NO_ROOM)
    none = with_verdict(none, "C2b-interpolation", estimate=0.01, low=-0.1, high=0.1)
    tables = {"wide, two heads": made, "thin, one head": none}
    first, others, second, third = answers.answer_over(tables)
    assert "at random? It does in wide, two heads. In wide, two heads (6 seeds, where" in first
    assert re.search(
        r"it keeps \+5\.0 \[\S+, \S+\] points more with 50 % frozen \(intervals at", first
    )
    assert "; at equal accuracy on the second task, +5.5 [" in first
    assert others.startswith("And elsewhere? In points: thin, one head: +5.0 [")
    assert "] with 50 % frozen (n = 6: no room to tell). No room to tell: what even" in others
    (alone, listing, *_), (nothing, *_) = (answers.answer_over(t) for t in ({"thin": none}, {}))
    assert alone.endswith("than freezing at random?")
    assert listing.startswith("What was found? In points: th")
    assert nothing.endswith("These tables do not tell.")


def test_the_answer_in_three_sentences_says_what_the_verdicts_say(made):
    def nothing(name):
        raise FileNotFoundError(name)

    def said(table, reads=None):
        runs = {"wide": study().assign(rule="turns", scope="weights", fraction=0.5)}
        return answers.in_three({"wide": table}, runs, reads or {"wide": nothing})

    first, second, third = said(made)
    assert first.startswith("wide shows that freezing by explanation keeps more of the first task")
    assert "in wide (6 seeds) the mean difference is +5.0 points, by the share frozen" in first
    assert "freezing every filter keeps 30.0 points more than freezing none." in first
    assert "on the second, in 1 of 1 settings of two tasks." in second and "methods" not in second
    assert third == (
        "Which half of the filters is chosen hardly depends on the class: 98 % of them are those "
        "that the mean map of all classes chooses."
    )
    none = with_verdict(made, "C2-random", verdict="inconclusive")
    none = with_verdict(none, "C5b", verdict="supported")
    none = with_verdict(none, "C2b-interpolation", estimate=0.01, low=-0.1, high=0.1)
    first, second, third = said(none)
    assert first.startswith("No setting shows that freezing by explanation keeps more")
    assert (
        "on the second, in 0 of 1 settings of two tasks." in second
        and "chosen depends on the class" in third
    )
    assert said(with_verdict(made, "C2-random", verdict=NO_ROOM)) == []

    claim = {"claim": "C5", "n": 4, "level": 0.95, "estimate": 0.2, "low": 0.1, "high": 0.3}
    atlas = pd.DataFrame({"seed": [1]})
    square = pd.DataFrame({"class": ["a", "b"], "a": [1.0, 0.6], "b": [0.6, 1.0]})
    for verdict, tells in (("supported", "tells"), ("inconclusive", "is not shown to tell")):
        found = pd.DataFrame([claim | {"verdict": verdict}])
        read = {"claims_examined": found, "atlas": atlas, "runs": atlas, "readouts": atlas}
        read["class_overlap"] = square
        third = said(made, {"wide": read.__getitem__})[-1]
        assert f"; and a filter's score {tells} what the network loses without it" in third
        assert third.endswith("(rank correlation +0.20 [+0.10, +0.30 at 95 %], 4 seeds).")
        # of an overlap (IoU) of .6
        assert (
            "chooses, and two single classes' choices share 75 % (one network each); and" in third
        )


def test_averages_of_weights_are_no_further_methods(made):
    runs = pd.concat([study(), *(pd.DataFrame(arm_rows(a, 0.6, 0.5, m)) for a, m in METHODS)])
    runs = runs.assign(rule="turns", scope="weights")
    _, second, _ = answers.in_three({"wide": made}, {"wide": runs}, {})
    assert "; of 1 further methods that ask no explanation, 1 are more accurate" in second
    (told,) = [s for s in answers.answer_over({"wide": made}, {"wide": runs}) if "Do met" in s]
    assert "In wide, 2 of 2 have a higher accuracy" in told


METHODS = (("EWC", "ewc"), ("merge", "merge"))


def test_what_is_kept_is_told_beside_what_is_learned(made):
    (told,) = [
        s
        for s in answers.answer_over({"w": made}, {"w": study().assign(profile="w")})
        if s.startswith("Does it learn more instead?")
    ]
    # acc1 +2, +5 and +10 points, acc2 +0 at each share
    assert "+0.0 to +0.0 points on the second task (0 of 3 with" in told
    assert "+1.0 to +5.0 points of both tasks averaged (3 of 3 with a 95 % interval" in told
    three = study().assign(profile="w", acc3=0.2)
    said = answers.answer_over({"w": made}, {"w": three})
    assert not any(s.startswith("Does it learn more") for s in said)


def test_what_is_told_the_task_as_no_other_arm_is_no_recommendation():
    def use(arm, average, **more):
        return lines.Use(arm, "", "", average, lines.KEPT["nothing"], "", 3, **more)

    found = [use("told", 0.9, told_task=True), use("plain", 0.5)]
    assert "task: told" not in answers.advice(found)[0] and "plain" in answers.advice(found)[0]
    arms = pd.DataFrame([{"arm": "told", "keeps": "weights", "told_task": True}])
    assert "it is told the task" in lines._stored(arms, None, 2)["told"]


@pytest.mark.parametrize(("heads", "told"), [("shared", ["PackNet"]), ("per_task", [])])
def test_packnet_alone_is_told_the_task_where_the_head_is_shared(heads, told):
    profile = load("compact")
    network = profile.network.model_copy(update={"heads": heads})
    rows = arms_room.table(profile.model_copy(update={"network": network}))
    assert [row["arm"] for row in rows if row["told_task"]] == told


def test_every_strength_that_was_tried_is_told_by_hand():
    def run(grid, average, chosen, **options):
        failed = None if average else "diverged"
        row = {"grid": grid, "options": json.dumps(options), "average": average or np.nan}
        return row | {"failed": failed, "chosen": chosen}

    rows = [
        run("soft", 0.5, False, ranking="mse", strength=10),
        run("soft", 0.3, False, ranking="random", strength=10),
        run("soft", 0.6, True, ranking="mse", strength=2),
        run("soft", 0.4, True, ranking="random", strength=2),
        run("EWC", 0.7, True, fisher="exact", images=1000, strength=1),
        run("EWC", 0.5, False, fisher="exact", images=1000, strength=100),
        run("EWC", None, False, fisher="exact", images=1000, strength=100),
        run("alone", 0.7, True, images=5, strength=3),
    ]
    assert words.tried(pd.DataFrame(rows)) == [
        ("soft", [("strength 2", ".500", True), ("strength 10", ".400", False)]),
        ("EWC", [("strength 1", ".700", True), ("strength 100", "failed", False)]),
        ("alone", [("strength 3", ".700", True)]),
    ]
    assert words.tried(pd.DataFrame()) == []


def test_a_setting_at_an_end_of_its_grid_is_said_to_be():
    def grid(name, taken, values, **more):
        return [
            {"grid": name, "options": json.dumps({"strength": v} | more), "chosen": v == taken}
            for v in values
        ]

    rows = grid("low", 1, (1, 10)) + grid("mid", 10, (1, 10, 100)) + grid("high", 10, (1, 10))
    rows += grid("soft", 5, (1, 5), ranking="mse") + grid("none", 7, (1, 10))
    said = words.at_an_end(pd.DataFrame(rows))
    assert said.endswith(
        "may lie: low (strength 1, the smallest tried), high (strength 10, the largest tried), "
        "soft (strength 5, the largest tried)."
    )
    assert words.at_an_end(pd.DataFrame(rows[2:5])) == words.at_an_end(pd.DataFrame()) == ""


def test_nothing_is_written_with_a_sign_before_zero():
    assert answers.POINTS.write(-0.0001) == "+0.0" and answers.POINTS.write(-0.001) == "-0.1"
    assert answers.unit_of("C2c-gain").write(-0.001) == "0.00"


def test_the_overview_says_less_the_same_and_what_no_claim_was_registered_for(made):
    less = with_verdict(made, "C2-random", verdict="contradicted", low95=-0.05, high95=-0.01)
    same = with_verdict(made, "C2-random", verdict="inconclusive (equivalent)")
    runs = study()
    other = runs[runs["fraction"] != 0.5]
    tables = {"wide": made, "thin": less, "flat": same, "bare": made.iloc[:1]}
    listing = answers.answer_over(tables, {"bare": other.assign(profile="bare")})[1]
    assert "n = 6: less)" in listing and "n = 6: the same to within a point)" in listing
    assert re.search(r"bare: \+\d.* with 25 % frozen \(n = 6: no registered claim\), ", listing)
    bare = made.iloc[:1]
    text = answers.against_chance(bare, other.assign(profile="bare"))
    assert "points with 25 % frozen (n = 6)" in text and "no registered claim" in text
    assert "no registered claim" in answers.in_short(bare, other.assign(profile="bare"))
    assert answers.in_short(bare) == "no verdict"
    # a table that merely lacks the claim is not called a setting without one
    assert "lack the claim C2-random" in answers.against_chance(bare, runs.assign(profile="bare"))


def test_the_overview_s_sentences_on_the_line_and_the_maps(made):
    none = with_verdict(made, "C2b-interpolation", estimate=0.01, low=-0.1, high=0.1)
    *_, second, third = answers.answer_over({"wide, two heads": made, "thin, one head": none})
    assert (
        "in 1 of 2 settings of two tasks, less in 0, and is not told apart in 1" in second
        and "35.0 points" in second
    )
    assert "0.95" in third and "0.80" in third
    assert third.endswith("; 98 and 89 % of the filters are the same).")


def test_other_methods_stand_beside_the_best_share_frozen_by_explanation():
    freeze = {"method": "freeze", "ranking": "mse", "rule": "turns", "scope": "weights"}
    freeze["fraction"] = 0.25
    arms = {
        "fine-tune": ({"method": "finetune"}, 0.0),
        "MSE 25 %": (freeze, 0.01),
        "MSE 50 %": ({**freeze, "fraction": 0.5}, 0.02),  # the best of the default rule and scope
        "MSE united": ({**freeze, "rule": "union"}, 0.3),
        "LwF": ({"method": "lwf"}, 0.07),
        "L2": ({"method": "l2"}, -0.08),
        "once": ({"method": "der"}, 0.5),
        "soft": ({"method": "soft", "ranking": "mse"}, 0.2),  # asks the explanation
        "head": ({"method": "only"}, 0.2),  # a control
    }
    rows = [
        {"arm": arm, "seed": seed, "lineage": f"s{seed}", "curriculum": "sequence", **how}
        | {"acc1": 0.5 + gain + 0.001 * seed, "acc2": 0.3 + gain, "acc1_before": 0.9}
        for arm, (how, gain) in arms.items()
        for seed in ((1,) if arm == "once" else (1, 2, 3))
    ]
    best, others = answers.against_methods(pd.DataFrame(rows))
    assert best == "MSE 50 %" and [(o.arm, o.n) for o in others] == [("LwF", 3), ("L2", 3)]
    assert [o.written() for o in others] == [
        "+5.0 [+5.0, +5.0]",
        "-10.0 [-10.0, -10.0]",
    ]
    none = pd.DataFrame(rows).iloc[:3]  # fine-tuning alone, and
    two = pd.DataFrame(rows).iloc[:6]  # with a share frozen by explanation beside it
    assert beside_methods(two).empty and beside.sentence(two) == ""
    assert answers.against_methods(none) == ("", []) and beside_methods(none).empty
    table = beside_methods(pd.DataFrame(rows)).set_index("arm")
    assert list(table.index[:2]) == ["once", "soft"] and set(table["beside"]) == {"MSE 50 %"}
    assert table.loc["once", "n"] == 1 and pd.isna(table.loc["once", "acc1_low"])
    assert beside.sentence(pd.DataFrame(rows)).startswith("3 of 5 other methods do better")
    lower = table.loc["fine-tune", ["acc1", "acc1_low", "acc1_high", "average"]]
    assert list(lower) == pytest.approx([-0.02] * 4)
    said = answers.answer_over({}, {"wide": pd.DataFrame(rows)})[-1]
    assert "In wide, 1 of 2 have a higher accuracy" in said and "1 has a lower one" in said
    assert "(MSE 50 %), LwF (+5.0 [+5.0, +5.0]) points" in said


def test_what_explanations_tell_is_said_of_the_setting_with_most_examined_seeds():
    gains = {"random": 0, "mse": 0.001, "fisher": 0.05, "weight_norm": -0.02, "bottom": 0.2}
    usual = {"method": "freeze", "fraction": 0.75, "rule": "turns", "scope": "weights"}
    runs = pd.DataFrame(
        usual
        | {"arm": f"{ranking} 75 %", "ranking": ranking, "seed": seed, "lineage": f"s{seed}"}
        | {"acc1": 0.4 + gain + 0.001 * seed, "acc2": 0.5 - gain - 0.0001 * seed * (gain > 0.01)}
        for ranking, gain in gains.items()
        for seed in (1, 2, 3)
    )
    atlas = pd.DataFrame(
        {"seed": seed, "ranking": r, "label": r.upper(), "spearman": value, "ceiling": 0.9}
        for r, value in {"mse": 0.01, "fisher": 0.3, words.MEASURED: 0.8}.items()
        for seed in (1, 2)
    )
    claim = {"claim": "C5", "n": 2, "level": 0.95, "verdict": "inconclusive"}
    left = {"before": (0.6, 0.61), "fine-tune": (0.3, 0.5)}
    tables = {
        "claims_examined": pd.DataFrame([claim | {"estimate": 0.01, "low": -0.02, "high": 0.04}]),
        "atlas": atlas,
        "runs": runs,
        "choices": pd.DataFrame(
            {"seed": seed, "fraction": 0.5, "ranking": a, "other": b, "iou": iou + 0.01 * seed}
            for a, b, iou in (
                ("mse", "fisher", 0.385),
                ("mse", words.MEASURED, 0.325),
                ("fisher", words.MEASURED, 0.585),
            )
            for seed in (1, 2)
        ),
        "readouts": pd.DataFrame(
            {"way": way, "readout": readout, "acc1": acc1}
            for way, both in left.items()
            for readout, acc1 in zip(("as it is", "linear probe"), both)
        ),
    }

    def nothing(name):
        raise FileNotFoundError(name)

    fewer = tables | {"atlas": atlas[atlas["seed"] == 1]}
    reads = {"none": nothing, "few": fewer.__getitem__, "wide": tables.__getitem__}
    scores, choices, probe = answers.of_explanations(reads)
    assert choices == (
        "Do rankings choose the same filters? With 50 % chosen, MSE's choice overlaps most with "
        "those called FISHER (0.40) and ABLATION_DAMAGE (0.34); with the filters whose ablation "
        "does most damage at 0.34, where two random choices overlap at 0.33. Nearest to those "
        "comes FISHER (0.60; 2 seeds). Here counts what is chosen for all classes together; a "
        "score's correlation with the damage goes class by class, and another ranking can come "
        "first in it."
    )
    older = tables | {"choices": None}  # a record older than that table
    read = lambda name: nothing(name) if older.get(name) is None else older[name]  # noqa: E731
    assert len(answers.of_explanations({"wide": read})) == 2
    assert "In wide (2 seeds) its rank correlation" in scores
    assert "is +0.01 [-0.02, +0.04 at 95 %]" in scores and "that of FISHER" in scores
    assert "measure the damage, +0.30; that of the same damage on other images +0.90." in scores
    assert "Of 2 other rankings, each with 75 % of a layer frozen (n = 3), 1 keeps more" in scores
    assert "freezing, by +5.0 [+5.0, +5.0] (fisher) points; averaged over both tasks" in scores
    assert "tasks none does (95 %" in scores
    assert "falls from .600 to .300; a linear probe on the features finds .610 before" in probe
    assert probe.endswith("and still .500 after.")
    assert answers.of_explanations({"none": nothing}) == []


def test_estimates_are_written_in_their_units():
    row = {"estimate": 0.353, "low": 0.22, "high": 0.48}
    shown = {
        name: f"{answers.bounded(row, answers.unit_of(name))} {answers.unit_of(name).words}"
        for name in ("C2-random", "C1-acc1", "C2c-gain", "C4-acc1-25", "C5b", "C77")
    }
    assert shown == {
        "C2-random": "+35.3 [+22.0, +48.0] points",
        "C1-acc1": "+3.5 [+2.2, +4.8] points for each 10 % frozen",
        "C2c-gain": "0.35 [0.22, 0.48] gained for 1 lost",
        "C4-acc1-25": "35.3 [22.0, 48.0] % accuracy",
        "C5b": "0.35 [0.22, 0.48] overlap, 1 is the same choice",
        "C77": "+35.3 [+22.0, +48.0] points",
    }
    assert answers.bounded({**row, "estimate": np.nan}, answers.POINTS) == "no common range"


def test_every_claim_stands_in_one_group(made):
    more = pd.concat([made, made.tail(1).assign(claim="C9-new")])
    groups = answers.verdicts(more)
    names = [row.claim for rows in groups.values() for row in rows]
    assert sorted(names) == sorted(more["claim"]) and groups["Further claims"][0].claim == "C9-new"
    first = next(iter(groups.values()))
    assert [row.claim for row in first] == ["C2-random", "C2-bottom", "C2-Pearson", "C2b-random"]
    assert all(row.room for row in first)


def test_what_to_use_by_hand():
    arms = pd.DataFrame(
        {
            "arm": ["tune", "pen", "both"],
            "family": ["finetune", "penalties", "joint"],
            "keeps": ["nothing", "importances", "nothing"],
            "curriculum": ["sequence", "sequence", "joint20"],
        }
    )
    bounds = {f"{c}_{b}": np.nan for c in ("acc1", "acc2") for b in ("low", "high")}
    summary = pd.DataFrame({"arm": arms["arm"], "acc1": [0.1, 0.3, 0.6], "acc2": 0.5, "n": 1})
    summary = summary.assign(average=(summary["acc1"] + 0.5) / 2, **bounds)
    timing = pd.DataFrame({"run": ["tune/1/x", "tune/2/y", "pen/1/x"], "seconds": [10, 30, 50.0]})
    best, second, last = answers.uses(arms, summary, timing)
    assert (best.arm, best.stores, best.cost) == ("both", "all images of the first task", "")
    assert (second.stores, second.cost) == ("importances of the weights", "5.0 ×")
    assert (last.arm, last.kept, last.stores) == ("tune", ".100", "nothing but the network")
    assert answers.advice([best, second, last]) == ["No arm has 3 seeds: too few to recommend one."]
    several = [use._replace(n=3) for use in (best, second, last)]
    said = answers.advice(several)  # joint training is a mark to measure by
    assert "pen, .400 (n = 3); it stores importances" in said[0]
    assert "nothing but the network: tune, .300" in said[1]
    assert not any("straight line" in sentence for sentence in said)
    hindsight = several[0]._replace(arm="late", family="hindsight", stores=last.stores)
    assert answers.advice([hindsight, *several]) == said and answers.advice([]) == []


def test_an_arm_is_held_against_the_straight_line_of_weights_at_equal_acc2():
    # the made-up line is .75 - acc2 over .1 to .5: MSE at 50 % is .3 + jitter at .35
    runs, line = study(), controls()
    arms = runs[["arm", "curriculum"]].drop_duplicates().assign(family="x", keeps="nothing")
    timing = pd.DataFrame({"run": [f"{a}/1/x" for a in arms["arm"]], "seconds": 1.0})
    line["place"] /= 2  # the middle: .25 and .5
    line.loc[line["seed"] > 4, "task2"] -= 0.2  # two seeds reach .3 only
    found = {u.arm: u for u in answers.uses(arms, summary(runs), timing, runs, line)}
    ours, tuned, joint = (found[a] for a in ("mse 50%", "fine-tune", "joint 20-way"))
    # JITTER[:4] has mean -.00025 and s .0022
    assert ours.height == "-10.0 [-10.4, -9.7] (4 seeds)" and ours.side == -1
    assert tuned.height.startswith("-12.0 [") and (joint.height, joint.side) == ("", 0)
    half = found[answers.HALFWAY]
    assert (half.height, half.kept[:4], half.cost) == ("", ".250", "")
    assert {use.cost for use in found.values()} == {""}  # fine-tuning recorded the line
    assert "accuracy on the second: no arm." in answers.advice([*found.values()])[-1]
    runs.loc[runs["arm"] == "mse 50%", "acc1"] += 0.2
    found = answers.uses(arms, summary(runs), timing, runs, line)
    assert "accuracy on the second: mse 50%." in answers.advice(found)[-1]


def test_costs_are_taken_seed_by_seed():
    arms = pd.DataFrame({"arm": ["tune", "a/b"], "family": ["finetune", "x"]})
    runs = ["tune/1/x", "tune/2/y", "a/b/1/x", "a/b/2/y"]
    timing = pd.DataFrame({"run": runs, "seconds": [10.0, 100.0, 20.0, 300.0]})
    assert lines._costs(arms, timing) == {"tune": "1.0 ×", "a/b": "2.5 ×"}
    assert lines._costs(arms.iloc[1:], timing) == {}


def test_a_traced_fine_tuning_is_no_unit_of_time():
    arms = pd.DataFrame(
        {
            "arm": ["tune", "half", "x"],
            "family": ["finetune", "merging", "x"],
            "method": ["finetune", "merge", "x"],
        }
    )
    runs = ["tune/1/x", "half/1/x", "x/1/x", "tune/2/y", "x/2/y", "tune/3/z", "x/3/z"]
    seconds = [20.0, 10.0, 30.0, 20.0, 60.0, 10.0, 50.0]
    timing = pd.DataFrame({"run": runs, "seconds": seconds, "processor": "P"})
    unit = {"tune": "1.0 ×", "half": "1.0 ×"}
    assert lines._costs(arms, timing, traced=[1, 2, 3]) == {**unit, "x": "3.0 ×"}
    assert lines._costs(arms, timing, traced=[1, 2]) == {**unit, "x": "4.0 ×"}  # 3 and 5
    timing.loc[2, "processor"] = "Q"  # no pair on one machine is left
    assert lines._costs(arms, timing, traced=[1, 2, 3]) == unit


def test_what_is_stored_is_said_in_a_method_s_own_words_and_counted():
    arms = pd.DataFrame(
        {
            "arm": ["GPM", "PackNet", "L2", "replay", "DER++", "joint"],
            "method": ["gpm", "packnet", "l2", "replay", "der", "finetune"],
            "keeps": ["importances", "weights", "weights", "images", "images", "nothing"],
            "curriculum": [*["sequence"] * 5, "joint20"],
        }
    )
    memory = pd.DataFrame({"arm": ["replay"] * 2, "images": 200, "bytes": 617_600})
    found = lines._stored(arms, memory, 2)
    assert found["GPM"] == "bases of the layers' inputs" and "a byte each" in found["PackNet"]
    assert found["L2"] == "a copy of the old weights"
    assert found["replay"] == "200 images of the first task (0.6 MB)"
    assert found["DER++"].startswith("images of the first task and the network's answers")
    assert lines._stored(arms, None, 2)["replay"] == "images of the first task"
    assert lines._stored(arms, memory, 4)["replay"] == "200 images of earlier tasks (0.6 MB)"
    assert lines._stored(arms, memory, 4)["joint"] == "all images of earlier tasks"


@pytest.mark.parametrize("weight, seeds, shown", [("0.5", 3, 0), ("0.5", 9, 1), ("0.7", 3, 2)])
def test_the_middle_of_the_line_stands_once_where_it_has_more_seeds(weight, seeds, shown):
    merged = pd.DataFrame(
        {"arm": "half", "method": "merge", "options": [f'{{"weight": {weight}}}'] * 2}
    )
    read = lines.Use(answers.HALFWAY, "", "", 0.5, "", "", 6)
    made = lines.Use("half", "", "", 0.5, "", "", seeds)
    found = lines._once([read], made) if lines._merged_halfway(merged) else [read, made]
    assert [u.arm for u in found] == [[answers.HALFWAY], ["half"], [answers.HALFWAY, "half"]][shown]
    assert shown or found[0].called == lines.Called(answers.HALFWAY, "half")


def test_an_interval_wider_than_what_is_measured_says_so():
    row = {"estimate": 0.087, "low": -2.218, "high": 2.392, "level": 0.9875}
    assert answers.bounded(row, answers.POINTS) == "+8.7 [wider than the scale at 98.75 %]"
    row |= {"low": -0.9}
    assert "wider than the scale" in answers.bounded(row, answers.POINTS)
    row |= {"high": 1.0}
    assert answers.bounded(row, answers.POINTS) == "+8.7 [-90.0, +100.0 at 98.75 %]"
    rank = answers.unit_of("C2c-average")  # a mean rank has no such end
    assert answers.bounded({"estimate": 2, "low": -2.3, "high": 6.3}, rank) == "2.0 [-2.3, 6.3]"


def test_arms_are_called_by_their_label_and_share():
    arms = pd.read_csv(record.PUBLISHED / "compact_two_heads/tables/arms.csv")
    found = lines.called(arms)
    assert found["MSE 75 %"] == ("MSE 75 %", "") and found["merge Fisher"] == ("merge, Fisher", "")
    assert found["bottom 50 %"] == ("bottom (least similar) 50 %", "bottom 50 %")
    assert found["MSE 75 % whole network"].label == "MSE, one budget 75 %"
    assert found["all frozen whole filter"] == ("all frozen, whole filter", "")
    assert len(set(found.values())) == len(arms)  # together they name one arm
    assert lines.called(arms[["arm"]])["SI"] == ("SI", "")


@pytest.mark.parametrize(
    "verdict, words",
    [
        ("supported", "50 % frozen: explanation keeps more of the first task than chance (+5.0"),
        ("contradicted", "explanation keeps no more of the first task than chance"),
        ("contradicted (equivalent)", "explanation keeps as much of the first task as chance"),
        ("undecided (n = 1)", "one run, which cannot tell"),
        (NO_ROOM, "nothing to tell"),
    ],
)
def test_a_setting_in_one_line(made, verdict, words):
    text = answers.in_short(with_verdict(made, "C2-random", verdict=verdict))
    assert words in text and text.endswith("(+5.0 points, n = 6)")
    assert answers.in_short(made[:0]).startswith("no verdict")


def test_overlap_is_never_called_supported_alone(made):
    row = made.set_index("claim", drop=False).loc["C5c"]
    assert row["verdict"] == "supported"
    same = "89 % of the filters are the same"  # 2 * .8035 / 1.8035
    assert same in answers.verdict_of(row).unit and same in answers.of_the_map(made)
    assert f"supported, while {same}" in words.answer(made).splitlines()[-1]
    cells = words.readable_claims(made).set_index("claim")
    assert cells.loc["C5c", "verdict"] == f"supported, while {same}"
    assert cells.loc["C2-random", ["interval at", "verdict"]].tolist() == ["98.33 %", "supported"]


def test_how_it_was_made_by_hand():
    timing = pd.DataFrame(
        {
            "seconds": [1800.0, 3600.0],
            "made": [1795374960, 1795461360],
            "commit": ["a" * 40, "b" * 40],
            "dirty": [False, True],
            "processor": "P",
            "cores": 2,
            "torch": "2",
            "device": [None, "cpu"],
        }
    )
    found = dict(answers.how_made(timing))
    assert found["runs"].startswith("2, 1.5 hours") and found["machines"] == "P, 2 cores"
    assert found["commit"] == "aaaaaaaaaa and bbbbbbbbbb; 1 runs from uncommitted code"
    assert found["device"] == "cpu (not recorded for earlier runs)"
    assert found["made"] == "2026-11-22 to 2026-11-23"


@pytest.mark.parametrize(
    "profile, name",
    [
        ("paper", "paper, one head"),
        ("paper_batch_norm", "paper with batch norm, one head"),
        ("paper_two_heads", "paper, two heads"),
        ("compact_two_heads", "compact, two heads"),
    ],
)
def test_settings_are_named_by_what_they_are(profile, name):
    assert page.name_of(load(profile)) == name


# --- the page -------------------------------------------------------------------------------------


def test_committed_pages_are_small_and_the_main_setting_shows_every_picture():
    pages = {p.stem: p for p in (record.PUBLISHED / "report").glob("*.html")}
    assert all(path.stat().st_size < MOST for path in pages.values())
    main = pages["compact_two_heads"].read_text()
    assert all(f'id="figure-{name}"' in main for name in set(page.FIGURES) - {"readings"})
    assert main.count('<div class="gallery"><img src="data:image/webp') == 5
    assert "data:image/png" not in main  # four times as large


def test_the_page_of_the_record_holds_everything_in_one_file(compact):
    parts = Parts(compact)
    assert len(compact.encode()) < MOST and len(set(parts.ids)) == len(parts.ids)
    inside = {link[1:] for link in parts.links if link.startswith("#")}
    assert inside <= set(parts.ids) and len(inside) > 8
    assert all(link.startswith(("#", "data:text/csv")) for link in parts.links)
    assert len(parts.pictures) >= 9
    for picture in parts.pictures:
        assert picture["src"].startswith("data:image/") and len(picture["alt"]) > 15
        assert int(picture["width"]) > 100 and int(picture["height"]) > 100
    assert parts.levels[0] == 1 and all(b - a <= 1 for a, b in zip(parts.levels, parts.levels[1:]))
    assert '<meta name="viewport"' in compact and "prefers-color-scheme: dark" in compact
    assert not re.search(r"https?://(?!www\.w3\.org)", compact)
    for sentence in answers.answer_of(
        *(pd.read_csv(RECORD / f"tables/{t}.csv") for t in ("claims", "runs"))
    ):
        assert sentence.replace("'", "&#39;") in compact
    for text in ("no room to tell", "12 seeds", "4 test images", "AMD EPYC", "another network"):
        assert text in compact


def test_the_page_says_what_its_own_methods_and_rankings_are(compact):
    words = page.TEMPLATES.get_template("arms.html.j2").module
    known = [*words.METHODS, *words.RANKINGS]
    names = [name for name, _, _ in known]
    assert len(set(names)) == len(names)
    for folder in record.PUBLISHED.glob("*/tables"):
        assert page._named(page.reader(folder.parent)) <= set(names), folder
    mine, glossary = page._named(page.reader(RECORD)), compact[compact.index('id="glossary"') :]
    for name, term, _ in known:
        assert (f"<dt>{term}</dt>" in glossary) == (name in mine), name
    labels = pd.read_csv(record.PUBLISHED / "compact_two_heads/tables/rankings.csv")
    terms = {name: term for name, term, _ in known}
    assert all(label in terms[name] for name, label in labels[["ranking", "label"]].to_numpy())


def test_the_same_tables_give_the_same_page(compact):
    assert page.page(RECORD, "compact, one head", load("compact").about) == compact


def test_figures_just_drawn_are_taken_as_they_are_and_give_the_same_pictures(tmp_path, monkeypatch):
    folder, asked = with_tables(tmp_path, "compact", "runs", "arms"), []

    def from_tables(read, but=()):
        asked.append(set(but))
        drawn = {}
        for name in {"retained", "forest"} - set(but):
            drawn[name], ax = figures.style.new(2, 1)
            ax.set_title(name)
        return drawn

    monkeypatch.setattr(page.figures, "from_tables", from_tables)
    monkeypatch.setattr(page.figures, "forest", lambda *_: from_tables(None)["forest"])
    for name, figure in from_tables(None).items():
        figures.save(figure, folder / "figures", name)
    fresh = page.pictures(folder, "compact, one head")
    assert page.pictures(folder, "compact, one head", again=False) == fresh
    assert {"retained"} in asked and set(fresh) == {"forest", "retained"}  # the forest says names
    for kind in ("png", "svg"):
        (folder / f"figures/forest.{kind}").rename(folder / f"figures/retained.{kind}")
    taken = page.pictures(folder, "compact, one head", again=False)
    assert taken["retained"].src != fresh["retained"].src  # what is there, unasked


def test_names_are_text_whatever_they_hold(tmp_path, monkeypatch):
    few_figures(monkeypatch, "retained", "forest")
    shutil.copytree(RECORD / "tables", tmp_path / "tables")
    evil = "<b>&$x_{$ \"quoted\" 'too'</b>"
    for table, columns in {
        "runs": ["arm", "data", "setting"],
        "arms": ["arm", "label"],
        "summary": ["arm"],
        "per_class": ["class"],
        "claims": ["text"],
        "accuracy": ["arm"],
        "timing": ["processor"],
        "paper_tables": ["arm"],
    }.items():
        path = tmp_path / "tables" / f"{table}.csv"
        frame = read_table(path)
        for column in columns:
            frame[column] = frame[column].replace(frame[column].iloc[0], evil)
        if "run" in frame:
            frame["run"] = frame[["arm", "seed", "lineage"]].astype(str).agg("/".join, axis=1)
        path.write_text(as_written(frame))
    text = page.page(tmp_path, f"mine {evil}", evil, {evil: "a.html"})
    assert "<b>&" not in text and text.count("&lt;b&gt;&amp;$x_{$") > 8
    assert Parts(text).open == []


def test_a_page_of_nothing_but_a_first_notebook_says_so(tmp_path):
    (tmp_path / "tables").mkdir()
    shutil.copy(RECORD / "tables/accuracy_task1.csv", tmp_path / "tables")
    shutil.copy(RECORD / "tables/per_class.csv", tmp_path / "tables")
    text = page.page(tmp_path, "mine, one head")
    assert page.NO_CLAIMS in text and 'id="figure-per_class"' in text
    assert 'id="verdicts"' not in text and 'href="#verdicts"' not in text
    assert set(Parts(text).links) == {f"#{name}" for name in Parts(text).ids if name != "main"} - {
        link for link in (f"#figure-{n}" for n in ("per_class", "learning_curves", "heads"))
    } | {"#main"}


def test_the_overview_holds_every_setting_and_a_forest_of_those_alike(drawn, tmp_path):
    quick = with_tables(tmp_path, "quick", "runs", "claims", "arms", "summary", "timing")
    settings = [
        page.Setting(folder, f"{name} & co", "about <it>", f"{name}.html")
        for name, folder in (("compact", RECORD), ("quick", quick))
    ]
    own = {"compact & co": drawn, "quick & co": page.pictures(quick, "quick & co")}
    text = page.overview(settings, ["paper with batch norm, one head"], own)
    parts = Parts(text)
    assert len(text.encode()) < MOST and len(set(parts.ids)) == len(parts.ids)
    assert {"compact.html", "quick.html"} < set(parts.links)
    assert {"figure-plane-0", "figure-plane-1", "figure-forest"} < set(parts.ids)
    assert "about &lt;it&gt;" in text and "paper with batch norm, one head" in text
    # digits have another spread: neither in the forest's count nor in the sentences
    assert "of 4, 0 have a 95 % interval" in text
    assert "in 1 of 1 settings of two tasks, less in 0" in text


# --- the command ----------------------------------------------------------------------------------


def test_report_writes_of_the_record_and_of_results_here(tmp_path, monkeypatch, capsys):
    few_figures(monkeypatch, "retained", "forest")
    published = tmp_path / "published"
    for name in ("compact", "quick"):
        (with_tables(published, name, "runs", "claims", "arms") / "runs").mkdir()
        path = published / name / "tables/runs.csv"  # few arms are drawn in less time
        runs = pd.read_csv(path)
        runs[runs["fraction"].isna() | (runs["fraction"] == 0.5)].to_csv(path, index=False)
    (published / "paper/runs").mkdir(parents=True)
    monkeypatch.setattr(record, "PUBLISHED", published)
    monkeypatch.setenv("RESULTS", str(tmp_path / "results"))
    assert reproduce.main(["report", "--published"]) == 0
    names = sorted(p.name for p in (published / "report").iterdir() if p.suffix == ".html")
    assert names == ["compact.html", "index.html", "quick.html"]
    index = (published / "report/index.html").read_text()
    assert all((published / "report" / link).exists() for link in ("compact.html", "quick.html"))
    assert "without tables yet: paper, one head" in index
    assert not re.search(r"/(home|Users|root|tmp|work)/", index)
    executed = published / "quick/01_train_task1/notebook.ipynb"
    executed.parent.mkdir()
    executed.write_text("{}")
    before = (published / "report/quick.html").read_bytes()
    assert reproduce.main(["report", "--profile", "quick"]) == 0  # no run here: of the record, here
    here = tmp_path / "results/quick/report"
    assert [p.name for p in here.iterdir()] == ["index.html"]
    assert (published / "report/quick.html").read_bytes() == before
    link = re.search(r'href="([^"]*01_train_task1[^"]*)"', (here / "index.html").read_text())[1]
    assert (here / link).resolve() == executed.resolve()
    shutil.copytree(published / "quick/tables", tmp_path / "results/quick/tables")
    assert reproduce.main(["report", "--profile", "quick"]) == 0
    assert (tmp_path / "results/quick/report/index.html").stat().st_size > 100_000
    assert (tmp_path / "results/quick/report/manifest.json").exists()
    capsys.readouterr()
    assert reproduce.main(["report", "--profile", "smoke"]) == 1
    error = capsys.readouterr().err
    assert "no tables of profile smoke" in error and error.count("\n") == 1


# --- in a browser ---------------------------------------------------------------------------------

WIDE = (  # what sticks out of a window so wide and does not scroll in a box of its own
    "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll') && "
    "e.getBoundingClientRect().right > {} + 1).map(e => e.outerHTML.slice(0, 80))"
)
CUT = (  # tables of which a part is out of sight until they are scrolled
    "[...document.querySelectorAll('.scroll')].filter(e => e.querySelector('table') && "
    "e.scrollWidth > e.clientWidth + 1).map(e => e.getAttribute('aria-label'))"
)
DEAD = (
    "[...document.querySelectorAll('a[href^=\"#\"]')].map(a => a.getAttribute('href'))"
    ".filter(h => !document.getElementById(h.slice(1)))"
)
BLIND = "[...document.images].filter(i => !i.naturalWidth || !i.alt).map(i => i.alt)"
COLOUR = "getComputedStyle(document.body).backgroundColor"


@pytest.mark.skipif(not CHROMIUM, reason="needs Debian's chromium: apt-get install chromium")
def test_a_browser_shows_the_pages_without_complaint(compact, tmp_path):
    pages = {"compact": compact}
    setting = page.Setting(RECORD, "compact, one head", "about", "compact.html")
    pages["index"] = page.overview([setting])
    for name, text in pages.items():
        (tmp_path / f"{name}.html").write_text(text)
    committed = (record.PUBLISHED / "report").glob("*.html")
    files = {
        **{f"{p.stem} as committed": p for p in committed},
        **{n: tmp_path / f"{n}.html" for n in pages},
    }
    with Browser(tmp_path) as browser:
        for name, path in files.items():
            for width in (1200, 390):
                found = set()
                for dark in (False, True):
                    browser.open(path, width, dark)
                    assert browser.run("document.documentElement.scrollWidth") <= width
                    for script in (WIDE.format(width), CUT, DEAD, BLIND):
                        assert browser.run(script) == [], (name, width, dark)
                    found.add(browser.run(COLOUR))
                assert len(found) == 2  # light and dark
        assert browser.said == []
        # the test would see a fault: a wide table outside a box, a dead link, a script's error
        broken = compact.replace(
            "<h1>", '<a href="#nowhere">x</a><div style="width:600px">x</div><h1>'
        )
        broken = broken.replace("</style>", ".wide { min-width: 800px !important; }</style>")
        broken = broken.replace("</main>", "<script>oops()</script></main>")
        (tmp_path / "broken.html").write_text(broken)
        browser.open(tmp_path / "broken.html", 390)
        assert browser.run("document.documentElement.scrollWidth") > 390
        assert browser.run(DEAD) == ["#nowhere"]
        assert browser.run(CUT) and browser.run(WIDE.format(390))
        assert browser.said


def test_more_than_two_tasks_have_a_table_of_all_and_no_paper_beside(tmp_path):
    arms = {"fine-tune": (0.4, 0.5, 0.9), "freeze": (0.6, 0.7, 0.8)}
    runs = pd.DataFrame(
        {"arm": arm, "seed": seed, "lineage": f"s{seed}", "method": arm, "curriculum": "sequence"}
        | {f"acc{k}": a for k, a in enumerate(ends, 1)}
        | {f"acc{k}_before": 0.2 for k in (1, 2, 3)}
        for arm, ends in arms.items()
        for seed in (1, 2)
    )
    accuracy = pd.DataFrame(
        {"arm": arm, "seed": seed, "lineage": f"s{seed}", "run": f"{arm}/{seed}/s{seed}"}
        | {"round": number, "epoch": 1, "task": f"task{k}"}
        | {"accuracy": ends[k - 1] + (0.1 if k < number == 2 else 0)}
        for arm, ends in arms.items()
        for seed in (1, 2)
        for number in (2, 3)
        for k in (1, 2, 3)
    )
    masks = pd.DataFrame(
        {"arm": "freeze", "round": n, "layer": layer, "filters": filters, "free": free}
        for n, layer, filters, free in [(2, "a", 1, 1.0), (3, "a", 1, 1.0), (3, "b", 3, 0.0)]
    )
    head, rows = answers.all_tasks(runs, accuracy, masks)
    assert head[1:5] == ["task 1", "task 2", "task 3", "mean [95 %]"]
    assert [row[0] for row in rows] == ["freeze", "fine-tune"]
    assert rows[0][1:4] == [".600", ".700", ".800"] and rows[0][-2:] == ["25 %", "2"]
    assert rows[1][-2:] == ["", "2"]
    twice = runs[runs["seed"] == 1].assign(lineage="again")  # a seed weighs once, and is one
    twice = pd.concat([runs.assign(acc1=runs["acc1"] + 0.1 * (runs["seed"] == 2)), twice])
    _, rows = answers.all_tasks(twice, accuracy, masks)
    assert rows[0][1] == ".650" and rows[0][-1] == "2"
    lost = pd.DataFrame([{"claim": "C0", "estimate": 0.2, "low": 0.1, "high": 0.3}])
    for tasks, said in ((2, "the second task costs 20.0"), (3, "the other 2 tasks costs 20.0")):
        assert said in answers.forgetting(lost, tasks)
    assert statistics.tasks_in(runs) == 3
    many = {"many": lost}  # what the second task costs is said of settings with two alone
    assert "20.0" not in answers.answer_over(many, {"many": runs})[1]
    assert "20.0" in answers.answer_over(many)[1]
    assert not statistics.beside_paper(runs.assign(data="cifar100"))
    assert statistics.beside_paper(runs.assign(data="cifar100").drop(columns="acc3"))
