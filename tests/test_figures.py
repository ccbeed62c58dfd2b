"""Figures take labels, colours and order from the tables of arms and rankings; any name can
be drawn."""

import base64
from io import BytesIO

import matplotlib
import matplotlib.style
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text
from PIL import Image

from lib.report import figures, page
from lib.report.beside import beside_methods
from lib.report.figures import from_tables, looks_of, over_epochs, plane, shown_over_epochs
from lib.report.figures.style import contrast, spread
from lib.report.statistics import summary
from lib.study.profile import ROOT
from lib.study.store import read_table
from tests.made_up import ARMS, MANY, RANKINGS, arms_table, controls, overlaps, shares

TABLES = ROOT / "results/published/compact/tables"


def recorded(name):
    """The published tables of the profile compact, the arms that ARMS names, with tables of arms
    and rankings beside them."""
    given = {"arms": ARMS, "rankings": RANKINGS}
    table = given[name] if name in given else read_table(TABLES / f"{name}.csv")
    return table[table["arm"].isin(ARMS["arm"])] if "arm" in table else table


def legend_of(figure):
    """Label -> handle, of the figure's one legend."""
    (legend,) = figure.legends
    return {t.get_text(): h for t, h in zip(legend.get_texts(), legend.legend_handles)}


def tint(handle):
    """The colour of a legend's handle: a line, or the lines of an error bar."""
    colour = handle.get_color()
    return to_hex(colour if isinstance(colour, str) else colour[0]).upper()


def drawn(figure, tmp_path):
    """True if the figure can really be written."""
    return all(path.stat().st_size for path in figures.save(figure, tmp_path, "figure"))


# --- colours, labels, order -----------------------------------------------------------------------


def test_today_s_arms_have_today_s_colours():
    assert {label: look.colour for label, look in looks_of(ARMS).items()} == {
        "MSE": "#0072B2",
        "Pearson": "#009E73",
        "bottom (least similar)": "#CC79A7",
        "random": "#E69F00",
        "fine-tune": "#D55E00",
        "all frozen": "#56B4E9",
        "joint 20-way": "#000000",
        "joint shared head": "#000000",
        "task 2 only": "#666666",
    }


def test_colours_follow_families_not_names():
    renamed = ARMS.assign(label=[f"label {x}" for x in ARMS["label"]], arm=ARMS["arm"].str.upper())
    assert list(looks_of(renamed).values()) == list(looks_of(ARMS).values())
    # the first label of a family has its first colour, whatever it is called
    table = arms_table(*shares("similarity", "Pearson", "Pearson", 0.5))
    assert looks_of(table)["Pearson"].colour == looks_of(ARMS)["MSE"].colour
    backwards = ARMS.iloc[::-1]  # the order is a column, not the place of a line
    assert looks_of(backwards) == looks_of(ARMS)


def test_many_labels_are_told_apart_in_colour_and_in_grey():
    looks = looks_of(MANY)
    assert len(looks) == MANY["label"].nunique() > 25
    for table in (MANY, ARMS):
        found = looks_of(table).values()
        assert len({(look.marker, look.fill) for look in found}) == len(found)  # readable in grey
    family = dict(zip(MANY["label"], MANY["family"]))
    for name in set(family.values()):
        members = [looks[label].colour for label in looks if family[label] == name]
        assert len(set(members)) == len(members), name
    strange = arms_table(*[(f"x{i}", "a family of tomorrow", f"x{i}") for i in range(7)])
    assert len({look.colour for look in looks_of(strange).values()}) == 7


def names_of(figure):
    """What is written beside the marks of a plane, one list for each panel."""
    return [[t.get_text() for t in ax.texts if t.arrow_patch] for ax in figure.axes]


def test_the_plane_names_every_label_once_with_its_seeds():
    figure = plane(recorded("runs"), ARMS, recorded("trajectory"))
    whole, near = names_of(figure)
    assert set(whole) == {
        "joint 20-way, n = 3",
        "joint shared head, n = 3",
        "all frozen, n = 12",
        "task 2 only, n = 12",
    }
    assert set(near) == {
        "MSE 25, 50, 75, 90 %, n = 12",
        "random 25, 50, 75, 90 %, n = 12",
        "Pearson 50 %, n = 12",
        "bottom (least similar) 50 %, n = 12",
        "fine-tune, n = 12",
    }
    assert len(whole + near) == len(set(whole + near))
    legend = legend_of(figure)
    assert list(legend) == [
        "fine-tuning's trajectory",
        "line of weights, before to after",
        "before round 2",
        "the paper, one run: another network",
    ]
    assert tint(legend["line of weights, before to after"]) == "#999999"


def test_names_in_the_plane_say_how_the_seeds_differ_and_do_not_touch():
    runs = recorded("runs")
    runs = runs[(runs["arm"] != "MSE 25 %") | (runs["seed"] <= 2)]
    figure = plane(runs, ARMS, recorded("trajectory"))
    assert "MSE 25, 50, 75, 90 %, n = 2 to 12" in names_of(figure)[1]
    figure.draw_without_rendering()
    for ax in figure.axes:
        boxes = [Text.get_window_extent(t) for t in ax.texts if t.arrow_patch]
        pairs = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
        assert pairs and not any(a.overlaps(b) for a, b in pairs)


def test_spread_moves_places_apart_as_little_as_can_be():
    assert spread([0.1, 0.5, 0.9], 0.1) == pytest.approx([0.1, 0.5, 0.9])
    assert spread([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])
    assert spread([0.0, 0.0, 1.0], 0.2) == pytest.approx([0.0, 0.2, 1.0])
    assert spread([1.0, 1.0], 0.2) == pytest.approx([0.8, 1.0])


def test_the_plane_s_title_is_the_main_answer_by_hand():
    runs = recorded("runs")
    at = runs[runs["arm"].isin(["MSE 50 %", "random 50 %", "fine-tune", "all frozen"])]
    wide = 100 * at.pivot_table(index=["seed", "lineage"], columns="arm", values="acc1")
    wide["apart"] = wide["MSE 50 %"] - wide["random 50 %"]  # some checkpoints have no MSE
    means = wide.groupby("seed").mean().mean()
    title = plane(at, ARMS).get_suptitle().replace("\n", " ")
    room = means["all frozen"] - means["fine-tune"]
    said = f"explanation keeps {means['apart']:+.1f} points more than random at 50 %"
    assert title.startswith(f"{said} (room: {room:.1f}) compact (K)")
    few = at[(at["arm"] != "random 50 %") | (at["seed"] < 4)]  # fewer pairs than seeds
    title = plane(few, ARMS).get_suptitle().replace("\n", " ")
    assert "; n = 3) compact (K)" in title
    alone = plane(at[at["ranking"] != "random"], ARMS).get_suptitle()
    assert "more than random" not in alone


@pytest.mark.parametrize(("moved", "times"), [(0.0, 1), (0.3, 2)])
def test_numbers_beside_marks_that_lie_together_are_written_once(moved, times):
    runs = recorded("runs")
    twins = runs[runs["arm"].str.fullmatch("(MSE|random) (25|50|75|90) %")].copy()
    mse = twins[twins["ranking"] == "mse"].set_index(["seed", "lineage", "fraction"])
    for column in ("acc1", "acc2"):  # random's marks are those of MSE, or elsewhere
        where = pd.MultiIndex.from_frame(twins[["seed", "lineage", "fraction"]])
        twins[column] = mse[column].groupby(level=[0, 1, 2]).mean().reindex(where).to_numpy()
    twins.loc[twins["ranking"] == "random", "acc1"] += moved
    ax = plane(twins.dropna(subset=["acc1"]), ARMS).axes[1]
    notes = [text.get_text() for text in ax.texts if not text.arrow_patch]
    assert sorted(notes) == sorted(["25", "50", "75", "90"] * times)


def test_whole_filters_make_a_curve_of_their_own():
    runs = recorded("runs")
    mse = runs[runs["arm"].isin(["MSE 25 %", "MSE 50 %"])]
    whole = mse.assign(arm=mse["arm"] + " whole filter", scope="filter", acc1=mse["acc1"] + 0.3)
    lines = [
        (f"MSE {f} % whole filter", "similarity", "MSE, whole filter", f / 100) for f in (25, 50)
    ]
    more = arms_table(*lines).assign(order=[100, 101])
    both = plane(pd.concat([runs, whole]), pd.concat([ARMS, more]))
    assert "MSE, whole filter 25, 50 %, n = 12" in sum(names_of(both), [])
    curves = [
        line.get_xydata()
        for line in both.axes[0].lines
        if line.get_color() == "#0072B2" and len(line.get_xydata()) == 4
    ]
    means = runs[runs["ranking"] == "mse"].groupby("fraction")[["acc2", "acc1"]].mean()
    assert len(curves) == 1 and curves[0] == pytest.approx(means.to_numpy(), abs=1e-12)


def test_a_point_of_the_plane_is_an_interval_over_seeds_not_over_rows():
    runs = recorded("runs")
    tuned = runs[runs["arm"] == "fine-tune"]
    again = tuned.assign(lineage="again")  # each checkpoint twice: no more seeds than before
    spans = []
    for table in (tuned, pd.concat([tuned, again])):
        (bar,) = [c for c in plane(table, ARMS).axes[0].containers]
        spans.append(bar.lines[2][0].get_segments()[0])
    assert spans[0] == pytest.approx(spans[1], abs=1e-12)


def test_the_plane_enlarges_freezing_and_writes_fractions_at_the_marks():
    runs = recorded("runs")
    whole, near = plane(runs, ARMS, recorded("trajectory")).axes
    for ax in (whole, near):
        for low, high in (ax.get_xlim(), ax.get_ylim()):
            assert 0 <= low < high <= 1
    assert whole.get_xlim()[0] == whole.get_ylim()[0] == 0
    part = runs["method"].eq("freeze") & runs["fraction"].lt(1)
    frozen = runs[part | runs["arm"].eq("fine-tune")]
    means = frozen.groupby("arm")[["acc2", "acc1"]].mean()
    for column, (low, high) in (("acc2", near.get_xlim()), ("acc1", near.get_ylim())):
        assert means[column].between(low, high).all()
        # as large as it can be: the arms fill most of it
        assert np.ptp(means[column]) > 0.4 * (high - low)
    notes = [text.get_text() for text in near.texts if not text.arrow_patch]
    # MSE's and random's marks lie together at 50 and 75 %; Pearson and bottom have one share each
    assert notes == ["25", "25", "50", "75", "90", "90"]
    places = np.array([text.xy for text in near.texts[:6]])
    level = ["ranking", "fraction", "seed", "lineage"]  # a seed's mean is over its checkpoints
    mean = runs.groupby(level)[["acc2", "acc1"]].mean()
    while len(level) > 2:
        level = level[:-1]
        mean = mean.groupby(level).mean()
    shares = [0.25, 0.5, 0.75, 0.9]
    mse, random = (mean.loc[name].loc[shares].to_numpy() for name in ("mse", "random"))
    assert places[[0, 4]] == pytest.approx(mse[[0, 3]])
    assert places[[1, 5]] == pytest.approx(random[[0, 3]])
    assert places[[2, 3]] == pytest.approx(np.minimum(mse, random)[[1, 2]])
    joint = runs[runs["curriculum"] == "joint20"]["acc1"].mean()
    assert not near.get_ylim()[0] < joint < near.get_ylim()[1]


def test_the_paper_s_points_are_another_network_s_where_they_are():
    runs = recorded("runs")
    words = "the paper, one run"
    assert f"{words}: another network" in legend_of(plane(runs, ARMS))
    assert words in legend_of(plane(runs.assign(setting="S1"), ARMS))
    assert not [w for w in legend_of(plane(runs, ARMS, beside_paper=False)) if words in w]


# --- the forest -----------------------------------------------------------------------------------


def bars_of(ax):
    """(mean, low, high) of each error bar; bounds are None for a single seed."""
    found = []
    for bar in ax.containers:
        (mean,) = bar.lines[0].get_xdata()
        ends = bar.lines[2][0].get_segments()[0][:, 0] if bar.lines[2] else (None, None)
        found.append((mean, *ends))
    return found


def test_the_forest_s_differences_by_hand():
    def row(ranking, fraction, seed, acc1, profile="a", lineage="x", scope="weights"):
        more = {"method": "freeze", "curriculum": "sequence", "rule": "turns", "setting": "M"}
        names = {"arm": f"{ranking}{fraction}{scope}", "profile": profile, "scope": scope}
        row = {**more, **names, "ranking": ranking, "fraction": fraction, "lineage": lineage}
        return {**row, "seed": seed, "acc1": acc1}

    rows = [row("mse", 0.5, s, 0.30 + 0.01 * s) for s in (1, 2, 3)]
    rows += [row("random", 0.5, s, 0.30) for s in (1, 2, 3)]
    rows += [row("mse", 0.25, 1, 0.5), row("random", 0.25, 1, 0.4, lineage="another checkpoint")]
    rows += [row("mse", 0.5, s, 0.9, scope="filter") for s in (1, 2, 3)]  # another scope
    rows += [row("mse", 0.75, 1, 0.40, profile="b"), row("random", 0.75, 1, 0.45, profile="b")]
    runs = pd.DataFrame(rows)
    table = figures.chance_differences(runs)
    assert table[["profile", "fraction", "seed"]].to_numpy().tolist() == [
        ["a", 0.5, 1],
        ["a", 0.5, 2],
        ["a", 0.5, 3],
        ["b", 0.75, 1],
    ]
    assert table["difference"].tolist() == pytest.approx([0.01, 0.02, 0.03, -0.05])
    ax = figures.forest(runs, {"a": "one & <two>"}).axes[0]
    # mean 2 points, s = 1, t(.975, 2) = 4.302653
    half = 4.302653 / 3**0.5
    (first, second) = bars_of(ax)
    assert first == pytest.approx((2, 2 - half, 2 + half), abs=1e-4)
    assert second == (pytest.approx(-5), None, None)
    dots = [line.get_xdata() for line in ax.lines if line.get_marker() == "o"]
    assert np.concatenate(dots) == pytest.approx([1, 2, 3, -5])
    labels = [t.get_text() for t in ax.get_yticklabels()]
    assert labels == ["50 % frozen, n = 3", "75 % frozen, 1 seed"]
    texts = [t.get_text() for t in ax.texts]
    assert texts == ["one & <two>", "room not measured", "b", "room not measured"]
    assert ax.patches[0].get_extents().width > 0 and [-1, 1] == pytest.approx(
        [ax.patches[0].get_x(), ax.patches[0].get_x() + ax.patches[0].get_width()]
    )


def test_an_interval_far_wider_than_its_seeds_ends_in_arrows_at_the_edge():
    runs = recorded("runs")

    def drawn(seeds):
        ax = figures.forest(runs[runs["seed"].isin(seeds)]).axes[0]
        ends = {line.get_marker(): line.get_xdata()[0] for line in ax.lines}
        return ax.get_xlim(), ends

    (left, right), ends = drawn([1, 2])
    assert (ends["<"], ends[">"]) == (left, right)
    table = figures.chance_differences(runs[runs["seed"].isin([1, 2])])
    assert 100 * table["difference"].abs().max() < right < 12  # two seeds' interval: +-12.7 sd
    _, ends = drawn(range(1, 13))
    assert not {"<", ">"} & ends.keys()


def test_the_forest_says_what_room_there_was_and_refuses_without_pairs():
    from lib.report.claims import headroom

    runs = recorded("runs")
    mean, low, high = (100 * x for x in headroom(runs, "weights"))
    texts = [t.get_text() for t in figures.forest(runs).axes[0].texts]
    assert texts == ["compact", f"room {mean:+.1f} [{low:+.1f}, {high:+.1f}]"]
    with pytest.raises(ValueError, match="random freezing at one fraction"):
        figures.forest(runs[runs["ranking"] != "random"])
    assert "forest" not in from_tables(
        lambda name: (
            recorded(name)[lambda t: t["ranking"] != "random"] if name == "runs" else recorded(name)
        )
    )


# --- which arms are shown over epochs -------------------------------------------------------------


def test_shown_over_epochs_are_bounds_and_half_and_nine_tenths_in_order():
    assert shown_over_epochs(ARMS) == [
        "fine-tune",
        "all frozen",
        "MSE 50 %",
        "MSE 90 %",
        "random 50 %",
        "random 90 %",
        "Pearson 50 %",
        "bottom 50 %",
    ]
    # more labels: their halves go before any nine tenths
    more = arms_table(
        ("fine-tune", "finetune", "fine-tune"),
        *(line for name in "abcdef" for line in shares("weights", name, name, 0.5, 0.9)),
        ("all frozen", "all frozen", "all frozen", 1.0),
    )
    halves = [f"{name} 50 %" for name in "abcdef"]
    assert shown_over_epochs(more) == ["fine-tune", *halves, "all frozen"]
    # a reader's profile without any of them: what starts from a checkpoint, in order
    own = arms_table(
        *((f"x{i}", "soft", f"x{i}") for i in range(9)), ("j", "joint", "j", None, "joint20")
    )
    assert shown_over_epochs(own) == [f"x{i}" for i in range(8)]
    assert shown_over_epochs(own.iloc[-1:]) == []


def test_over_epochs_has_a_column_for_each_share_with_means_bands_and_seeds():
    runs, accuracy = recorded("runs"), recorded("accuracy")
    figure = over_epochs(runs, accuracy, ARMS)
    legend = legend_of(figure)
    assert list(legend) == [
        "fine-tune",
        "all frozen",
        "MSE",
        "random",
        "Pearson",
        "bottom (least similar)",
    ]
    assert tint(legend["MSE"]) == "#0072B2"
    half, most = figure.axes[:2]
    assert [ax.get_title() for ax in (half, most)] == ["50 % frozen", "90 % frozen"]
    for ax, share in ((half, 50), (most, 90)):
        curves = {line.get_label(): line for line in ax.lines if line.get_label() in legend}
        assert ("Pearson" in curves) == (share == 50)
        part = accuracy[accuracy["arm"].eq(f"MSE {share} %") & accuracy["task"].eq("task1")]
        means = part[part["round"] == 2].groupby("epoch")["accuracy"].mean()
        assert curves["MSE"].get_ydata()[1:] == pytest.approx(means.to_numpy())
        dots = [line for line in ax.lines if line.get_marker() == "."]
        assert len(ax.collections) == len(dots) == len(curves)  # a band and seeds each
        assert all(len(line.get_ydata()) == 12 for line in dots)


def test_over_epochs_shows_round_two_alone():
    runs, accuracy = recorded("runs"), recorded("accuracy")
    third = accuracy.assign(round=3, accuracy=0.0)
    one, other = (over_epochs(runs, t, ARMS) for t in (accuracy, pd.concat([accuracy, third])))
    for a, b in zip(one.axes[0].lines, other.axes[0].lines):
        assert np.array_equal(a.get_xydata(), b.get_xydata())


# --- overlap --------------------------------------------------------------------------------------


def test_overlap_bars_are_labelled_by_the_table_of_rankings():
    figure = figures.overlap_bars(overlaps(), RANKINGS, 0.5, "made up")
    ax = figure.axes[0]
    labels = [t.get_text() for t in ax.get_yticklabels()]
    assert labels[::-1] == [
        "mean map of all classes",
        "null: flat map",
        "null: centred blob",
        "null: shuffled pixels",
        "random",
    ]
    widths = [bar.get_width() for bar in ax.patches][::-1]
    assert widths == pytest.approx([0.9535, 0.5035, 0.8035, 0.6035, 0.3035])
    assert "filters MSE chooses at 50%" in ax.get_xlabel()
    other = RANKINGS.replace({"label": {"MSE": "squares", "random": "dice"}})
    ax = figures.overlap_bars(overlaps(), other, 0.5, "").axes[0]
    assert "squares" in ax.get_xlabel() and ax.get_yticklabels()[0].get_text() == "dice"
    unknown = figures.overlap_bars(overlaps(), RANKINGS[:1], 0.5, "").axes[0]
    assert unknown.get_yticklabels()[0].get_text() == "random"


# --- all of them, any name, older records ---------------------------------------------------------


def test_every_figure_of_a_record_can_be_drawn(tmp_path):
    found = from_tables(recorded)
    names = {
        "learning_curves",
        "per_class",
        "overlap",
        "over_epochs",
        "retained",
        "plane",
        "forest",
        "class_overlap",
        "realised",
    }
    assert set(found) == names
    for name, figure in found.items():
        assert drawn(figure, tmp_path / name)


@pytest.mark.parametrize("name", ["$x_{$", "a $ and b $ c_{", r"\$1 & <b>"])
def test_any_name_of_a_class_or_an_arm_can_be_drawn(name, tmp_path):
    tables = {t: recorded(t) for t in ("runs", "accuracy", "arms", "rankings", "per_class")}
    few = tables["runs"]["fraction"].isin([0.25, 0.5]) | tables["runs"]["fraction"].isna()
    tables["runs"] = tables["runs"][few]  # drawn in less time
    for table in ("runs", "accuracy", "arms"):
        tables[table] = tables[table].replace({"arm": {"fine-tune": name}})
    tables["arms"] = tables["arms"].replace({"label": {"MSE": name}})
    tables["runs"]["data"] = name
    tables["per_class"] = tables["per_class"].replace({"class": {"apple": name}})
    tables["rankings"] = RANKINGS.replace({"label": {"MSE": name, "random": name}})
    tables |= {"overlap": overlaps(), "summary": summary(tables["runs"])}

    def read(table):
        if table not in tables:
            raise FileNotFoundError(table)
        return tables[table]

    found = from_tables(read)
    assert set(found) == {"per_class", "overlap", "over_epochs", "retained", "plane", "forest"}
    picture = np.zeros((3, 4, 4))
    found["grid"] = figures.image_grid({name: [picture]}, [name], heading=name)
    found["matrix"] = figures.matrix(np.eye(2), [name, "b"], name, name)
    found["scores"] = figures.score_heat_map(np.eye(2), [name, "b"], name)
    found["realised"] = figures.realised_fractions(
        pd.DataFrame({"rule": [name], "layer": [name], "fraction": [0.5]}), name
    )
    for figure in found.values():
        figure.draw_without_rendering()  # raises where a name is read as a formula
    assert drawn(found["plane"], tmp_path)
    assert name in legend_of(found["over_epochs"])  # as it is, not as a formula


def test_an_older_record_names_the_command_that_makes_what_it_lacks():
    def without(missing):
        def read(name):
            if name == missing:
                raise FileNotFoundError(name)
            return recorded(name)

        return read

    for missing in ("arms", "rankings"):
        with pytest.raises(
            FileNotFoundError, match=f"{missing}.csv.*make reproduce PROFILE=compact"
        ):
            from_tables(without(missing))


def test_an_arm_without_a_line_in_its_table_is_named():
    arms = ARMS[ARMS["arm"] != "MSE 25 %"]
    with pytest.raises(ValueError, match="'MSE 25 %'.*arms.csv.*make reproduce"):
        plane(recorded("runs"), arms)


def test_more_than_two_tasks_have_a_learning_curve_each():
    rows = [
        {"seed": s, "epoch": e, "task": f"task{k}", "accuracy": 0.1 * k}
        for s in (1, 2)
        for e in (1, 2)
        for k in (1, 2, 3)
    ]
    legend = legend_of(figures.learning_curves(pd.DataFrame(rows), "made up"))
    assert [name for name in legend if "task" in name] == [
        f"task{k}, mean of 2 seeds" for k in (1, 2, 3)
    ]
    assert sum(name.startswith("paper") for name in legend) == 2


def test_the_plane_of_one_seed_without_checkpoints_or_controls(tmp_path):
    runs = recorded("runs")
    runs = runs[(runs["seed"] == 1) & runs["arm"].isin(["task 2 only", "joint 20-way"])]
    figure = plane(runs, ARMS, pd.DataFrame(), beside_paper=False)
    assert names_of(figure) == [["task 2 only, 1 seed", "joint 20-way, 1 seed"]]
    assert "1 seed: no intervals" in figure.get_suptitle() and drawn(figure, tmp_path)
    assert "fine-tuning's trajectory" in legend_of(plane(recorded("runs"), ARMS, controls()))


# --- arm by arm, classes, galleries ---------------------------------------------------------------


def test_retained_puts_equal_shares_side_by_side_with_seeds_by_hand():
    runs = recorded("runs")
    figure = figures.retained_arms(runs, ARMS, 10)
    ax = figure.axes[0]
    groups = [t.get_text() for t in ax.texts]
    shares = [f"{f} % frozen" for f in (25, 50, 75, 90)]
    assert groups == ["nothing and everything frozen", *shares]
    names = [t.get_text() for t in ax.get_yticklabels()]
    half = ["MSE", "random", "Pearson", "bottom (least similar)"]
    pair = ["MSE", "random"]
    assert names == ["fine-tune", "all frozen", *pair, *half, *pair, *pair]
    table = summary(runs, 10).set_index("arm")
    place = names.index("random")
    mean, low, high = bars_of(ax)[place]
    row = table.loc["random 25 %"]
    expected = [row[c] for c in ("retained", "retained_low", "retained_high")]
    assert (mean, low, high) == pytest.approx(expected)
    part = runs[runs["arm"] == "random 25 %"]
    dots = [line.get_xdata() for line in ax.lines if line.get_marker() == "o"]
    dots = [x for x in dots if len(x) == 12]
    by_row = (part["acc1"] - 0.1) / (part["acc1_before"] - 0.1)
    assert dots[place] == pytest.approx(by_row.groupby(part["seed"]).mean())
    few = runs[(runs["arm"] != "Pearson 50 %") | (runs["seed"] == 1)]
    labels = figures.retained_arms(few, ARMS).axes[0].get_yticklabels()
    assert "Pearson, 1 seed" in [t.get_text() for t in labels]


def test_methods_stand_beside_the_best_share_with_the_numbers_of_their_table():
    alone, none = recorded("runs"), pd.DataFrame()
    with pytest.raises(ValueError, match="no other method starts from a checkpoint"):
        figures.methods(alone, ARMS)  # fine-tuning is none
    tuned = alone[alone["arm"] == "fine-tune"]
    ewc = tuned.assign(arm="EWC", method="ewc", acc1=tuned["acc1"] + 0.1)[tuned["seed"] < 5]
    runs = pd.concat([alone, ewc], ignore_index=True)
    arms = pd.concat([ARMS, ARMS[:1].assign(arm="EWC", label="EWC", family="other", order=99)])
    assert "methods" in from_tables(lambda name: {"runs": runs, "arms": arms}.get(name, none))
    figure, table = figures.methods(runs, arms), beside_methods(runs)
    assert f"minus {table['beside'][0]}" in figure.get_suptitle()
    names = [t.get_text().split(", ")[0] for t in figure.axes[0].get_yticklabels()]
    assert names == list(table["arm"]) == ["EWC", "fine-tune"]
    for ax, column in zip(figure.axes, ("acc1", "average")):
        expected = table[[column, f"{column}_low", f"{column}_high"]].to_numpy()
        assert np.array(bars_of(ax), float) == pytest.approx(100 * expected)


def test_retained_of_no_arm_that_starts_from_a_checkpoint(tmp_path):
    runs = recorded("runs")
    runs = runs[runs["arm"].isin(["task 2 only", "joint 20-way"])]
    assert drawn(figures.retained_arms(runs, ARMS), tmp_path)


def test_thirty_arms_and_more_are_drawn_with_every_name_once():
    one = recorded("runs")
    one = one[(one["arm"] == "fine-tune") & (one["seed"] <= 2)]
    parts = [
        one.assign(
            arm=line.arm,
            fraction=line.fraction,
            curriculum=line.curriculum,
            acc1=one["acc1"] + 0.002 * line.Index,
            acc2=one["acc2"] - 0.003 * (line.Index % 7),
        )
        for line in MANY.itertuples()
    ]
    runs = pd.concat(parts)
    figure = plane(runs, MANY)
    written = sum(names_of(figure), [])
    assert len(written) == len(set(written)) >= 25
    figure.draw_without_rendering()
    for ax in figure.axes:
        boxes = [Text.get_window_extent(t) for t in ax.texts if t.arrow_patch]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_more_names_than_can_be_told_apart_are_dots():
    one = recorded("runs")
    one = one[(one["arm"] == "fine-tune") & (one["seed"] <= 2)]
    parts = [
        one.assign(
            arm=line.arm,
            method="finetune" if pd.isna(line.fraction) else "freeze",
            fraction=line.fraction,
            curriculum=line.curriculum,
            acc1=one["acc1"] + 0.002 * line.Index,
            acc2=one["acc2"] - 0.003 * (line.Index % 7),
        )
        for line in MANY.itertuples()
    ]
    figure = plane(pd.concat(parts), MANY)
    dots = [line for line in figure.axes[0].lines if "more rankings" in str(line.get_label())]
    shares = MANY[(MANY["fraction"] > 0) & (MANY["fraction"] < 1)].groupby("label")["fraction"]
    alone = sum(shares.nunique() == 1)
    assert len(dots) == 1 and len(dots[0].get_xdata()) == alone > 3
    assert str(dots[0].get_label()).startswith(f"{alone} more rankings, each at one share")
    assert all(len(names) <= 24 for names in names_of(figure))


def test_a_matrix_has_a_fixed_scale_numbers_and_the_mark_of_chance():
    values = np.array([[1.0, 0.82], [0.82, -0.05]])
    figure = figures.matrix(values, ["a", "b"], "heading", "IoU", 1 / 3)
    ax, scale = figure.axes
    assert ax.images[0].get_clim() == (0, 1)
    assert [t.get_text() for t in ax.texts] == ["1.0", ".82", ".82", "-.05"]
    assert {line.get_ydata()[0] for line in scale.lines} >= {1 / 3}
    assert figure.get_suptitle() == "heading\nmarked on the scale: unrelated, 0.33"


def test_a_gallery_names_its_columns_groups_and_lines():
    picture = np.zeros((3, 4, 4), np.uint8)
    groups, notes = [("left", 2), ("right", 1)], ["0.5", "0.1"]
    rows = {"a": [picture] * 3, "b": [picture] * 3}
    figure = figures.image_grid(rows, ["x", "y", "z"], heading="h", groups=groups, notes=notes)
    shown = [ax for ax in figure.axes if ax.images]
    assert len(shown) == 6 and len(figure.axes) == 8  # a column between the groups
    assert [ax.get_title().strip() for ax in shown] == ["x", "y", "z", "", "", ""]
    texts = [t.get_text() for ax in figure.axes for t in ax.texts]
    assert {"left", "right", "a", "b", "0.5", "0.1"} == set(texts)


def test_a_gallery_is_in_a_page_at_the_size_it_is_shown(tmp_path):
    figure = figures.image_grid({"a": [np.zeros((4, 4))] * 2})
    (path,) = figures.save(figure, tmp_path, "gallery", svg=False)
    shown = page._picture(path, "gallery", page.Shown("t", "a", "s"), "")
    inside = Image.open(BytesIO(base64.b64decode(shown.src.partition(",")[2])))
    with Image.open(path) as whole:
        assert whole.size == pytest.approx([2 * side for side in inside.size], abs=1)
    assert inside.size == (shown.width, shown.height) and not shown.plot


def test_an_overlay_is_colour_on_the_grey_image():
    image = np.zeros((3, 1, 2), np.uint8)
    image[0] = 255  # red, of which nothing is left in grey
    out = figures.overlay(image, np.array([[0.0, 1.0]]))
    grey, (low, high) = 0.299, matplotlib.colormaps["inferno"]([0.0, 1.0])[:, :3]
    assert out.shape == image.shape
    assert out[:, 0, 0] == pytest.approx(0.5 * grey + 0.5 * low)
    assert out[:, 0, 1] == pytest.approx(0.5 * grey + 0.5 * high)


def test_chance_and_a_single_seed_are_said():
    rows = [{"seed": 1, "epoch": e, "task": "task1", "accuracy": 0.5, "class": "a"} for e in (1, 2)]
    legend = legend_of(figures.learning_curves(pd.DataFrame(rows), "", False, 4))
    assert list(legend) == ["task1, 1 seed", "chance: 0.25"]
    table = recorded("per_class")
    assert list(legend_of(figures.per_class(table, ""))) == ["chance: 0.10"]
    runs = recorded("runs")
    assert figures.caption(runs[runs["seed"] == 1]) == "compact (K); CIFAR-100, 1 seed"


def test_many_classes_stand_in_several_lines_the_best_first():
    rows = [(seed, f"class {k}", 0.2 + 0.01 * k) for k in range(50) for seed in (1, 2) if k > seed]
    drawn = figures.per_class(pd.DataFrame(rows, columns=["seed", "class", "accuracy"]), "about")
    names = [[t.get_text() for t in ax.get_xticklabels()] for ax in drawn.axes]
    assert sum(names, []) == [f"class {k}" for k in range(49, 1, -1)]
    assert [len(part) for part in names] == [16, 16, 16]
    for ax, part in zip(drawn.axes, names):
        dots, expected = ax.lines[0], [0.2 + 0.01 * int(name.split()[1]) for name in part]
        assert [bar.get_height() for bar in ax.patches] == pytest.approx(expected)
        for place, height in zip(dots.get_xdata(), dots.get_ydata()):  # each over its own bar
            assert height == pytest.approx(expected[round(place)]) and abs(place % 1 - 0.5) > 0.2
    assert drawn.axes[0].get_title() == "about; bars: mean, dots: seeds; the best class first"


def test_in_a_dark_style_nothing_is_drawn_dark_on_dark():

    try:
        figures.use_style("dark_background")
        for label, look in looks_of(MANY).items():
            assert contrast(look.colour, "black") >= 3.4, label
        figure = plane(recorded("runs"), ARMS, recorded("trajectory"))
        frame = figure.axes[0].patches[-1].get_edgecolor()
        assert contrast(frame[:3], "black") > 4
    finally:
        figures.use_style()


def test_a_style_used_before_in_this_process_plays_no_part():
    figures.use_style()
    before = dict(matplotlib.rcParams)
    matplotlib.style.use("ggplot")
    assert dict(matplotlib.rcParams) != before
    figures.use_style()
    assert dict(matplotlib.rcParams) == before


def test_the_last_bits_of_a_place_change_no_byte(monkeypatch, tmp_path):
    """The layout's solver adds up in the order in which its terms lie in memory."""
    solve = ConstrainedLayoutEngine.execute
    moved = []

    def nudged(self, fig):
        solve(self, fig)
        for ax in fig.axes:
            place = ax.get_position(original=True)
            place.set_points(np.nextafter(place.get_points(), 2))
            ax.set_position(place, which="original")
            moved.append(ax)

    def written():
        paths = figures.save(figures.matrix(np.eye(2), ["a", "b"], "", ""), tmp_path, "f")
        return [path.read_bytes() for path in paths]

    before = written()
    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", nudged)
    assert written() == before and moved


def test_chance_is_that_of_a_seed_s_own_classes():
    rows = [(seed, f"class {10 * seed + k}", 0.5) for seed in (1, 2, 3) for k in range(10)]
    table = pd.DataFrame(rows, columns=["seed", "class", "accuracy"])  # each seed drew its ten
    labels = [line.get_label() for line in figures.per_class(table, "about").axes[0].lines]
    assert "chance: 0.10" in labels
