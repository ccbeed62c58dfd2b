"""The shipped seed is the record's own, and small; the controls of notebook 00 draw what they say;
nothing of the study stands on it."""

import io
import json
import shutil
import sys
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from lib.freezing import pack
from lib.ranking import RANKINGS
from lib.report import explorer, session
from lib.study import live, showcase
from lib.study.profile import ROOT, load
from lib.study.store import SHOWCASE, file_hash, read_table


@pytest.fixture(scope="module")
def show():
    return showcase.read()


@pytest.fixture(scope="module")
def record(show):
    return explorer.record_of(show)


def published(show, name: str) -> pd.DataFrame:
    """The rows of the record that are about the shipped checkpoint, read anew."""
    table = read_table(ROOT / "results/published" / show.about["profile"] / f"tables/{name}.csv")
    return table[
        (table["seed"] == show.about["seed"]) & (table["lineage"] == show.about["lineage"])
    ]


def drawn(panel) -> np.ndarray:
    """The picture a panel shows, as pixels."""
    return np.asarray(Image.open(io.BytesIO(panel.picture.value)).convert("RGB"))


# --- what is shipped ------------------------------------------------------------------------------


def test_what_is_shipped_is_small_whole_and_as_accurate_as_the_record(show):
    files = {path.name: path.stat().st_size for path in SHOWCASE.iterdir()}
    assert set(files) == {"manifest.json", "seed.npz"} and sum(files.values()) < 5_000_000
    about, row = show.about, published(show, "task1").iloc[0]
    assert about["sha256"] == file_hash(SHOWCASE / "seed.npz")
    for name in ("acc1_before", "acc2_before"):
        assert about["accuracy"]["record"][name] == row[name]
        assert abs(about["accuracy"]["half precision"][name] - row[name]) <= 0.01
    assert about["provenance"]["dirty"] is False


def test_what_is_shipped_chooses_the_filters_that_the_record_froze(show):
    masks, runs = published(show, "masks"), published(show, "runs")
    arms = runs[(runs["scope"] == "weights") & (runs["fraction"] < 1)]
    assert len(arms) >= 10 and {"mse", "random", "pearson", "bottom"} <= set(arms["ranking"])
    for arm in arms.itertuples():
        frozen = masks[masks["arm"] == arm.arm].set_index("layer")["mask"]
        chosen = show.choice(arm.ranking, arm.fraction)
        assert {k: pack(m) for k, m in chosen.items()} == frozen.to_dict(), arm.arm


def test_its_network_knows_the_example_images(show):
    for c, x in enumerate(show.evidence.task.x):
        seen, chances, saliency = show.look(x)
        assert int(chances.argmax()) == c and (seen == x.numpy()).all()
        assert saliency.shape == seen.shape[1:] and saliency.min() == 0 and saliency.max() == 1


@pytest.mark.parametrize("harm", ["no manifest", "no file", "damaged"])
def test_a_showcase_that_is_not_whole_is_named(harm, tmp_path):
    folder = tmp_path / "showcase"
    shutil.copytree(SHOWCASE, folder)
    gone = {"no manifest": "manifest.json", "no file": "seed.npz"}.get(harm)
    if gone:
        (folder / gone).unlink()
        with pytest.raises(FileNotFoundError, match=f"{gone} is not there.*git checkout"):
            showcase.read(folder)
    else:
        (folder / "seed.npz").write_bytes(b"half")
        with pytest.raises(ValueError, match="seed.npz is damaged.*git checkout"):
            showcase.read(folder)


def test_a_seed_that_is_not_finished_cannot_be_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("RESULTS", str(tmp_path))
    for ask in (showcase.make, showcase.here):
        with pytest.raises(
            ValueError, match="seed 1 of smoke has no task1: .*PROFILE=smoke SEEDS=1"
        ):
            ask(load("smoke"), 1)


# --- controls -------------------------------------------------------------------------------------


def test_every_control_draws_anew_and_says_what_it_drew(show, record):
    panel, shots, runs = explorer.choices(show, record), [], published(show, "runs")
    moves = [("layer", "conv2_1"), ("name", "bee"), ("ranking", "random"), ("fraction", 0.9)]
    for control, value in moves:
        panel.controls[control].value = value
        shots.append((drawn(panel).tobytes(), panel.words.value))
        state = panel.state()
        masks = show.choice(state["ranking"], state["fraction"])
        arm = runs[(runs["ranking"] == state["ranking"]) & (runs["fraction"] == state["fraction"])]
        arm = arm[arm["scope"] == "weights"].iloc[0]
        here = masks[state["layer"]]
        assert f"freezes {int(here.sum())} of {len(here)} filters of {state['layer']}" in (
            panel.words.value
        )
        assert f"{arm['acc1']:.1%} of task 1" in panel.words.value
        assert f"{arm['acc2']:.1%} of task 2" in panel.words.value
    assert len({picture for picture, _ in shots}) == len(moves)
    assert len({words for _, words in shots}) == 3  # the class plays no part in what is frozen


def test_an_arm_that_nobody_trained_is_said_to_be_none(show, record):
    panel = explorer.choices(show, record)
    panel.controls["fraction"].value = 0.1
    assert "The record has no arm of MSE at 10%" in panel.words.value


def test_the_order_is_the_class_s_own_and_a_ranking_without_classes_has_one(show):
    by_class = {name: tuple(explorer.order(show, name, "conv3_3", "mse")) for name in show.classes}
    assert len(set(by_class.values())) > 1
    scores = show.scores("mse")["conv3_3"].numpy()
    c = show.classes.index("bee")
    assert (np.diff(scores[c][list(by_class["bee"])]) <= 0).all()
    orders = {tuple(explorer.order(show, name, "conv3_3", "random")) for name in show.classes}
    assert len(orders) == 1


@pytest.mark.parametrize("filters", [5, 32, 40])
def test_in_the_mosaic_frozen_filters_are_framed_and_free_ones_pale(filters):
    heat, frozen = np.zeros((filters, 4, 4)), np.arange(filters) % 3 == 0
    tiles = explorer.mosaic(heat, frozen)
    size, across = 12, min(filters, explorer.ACROSS)
    assert tiles.shape == (-(-filters // across) * size, across * size, 3)
    tint = mpl.colors.to_rgb(explorer.VERMILLION)
    for f in range(filters):
        y, x = f // across * size, f % across * size
        assert np.allclose(tiles[y + 2, x + 2], tint if frozen[f] else 1)
        assert (tiles[y + 5, x + 5].mean() < 0.5) == frozen[f]


def test_the_sliders_run_along_the_record(show, record):
    panel, shots = explorer.path(record), set()
    table = published(show, "trajectory")
    for control, name in (("step", "trajectory"), ("alpha", "interpolation")):
        rows = table[table["control"] == name]
        places = [value for _, value in panel.controls[control].options]
        assert places == sorted(rows["place"]) and len(places) > 10
        for place in (places[0], places[-1]):
            panel.controls[control].value = place
            shots.add(drawn(panel).tobytes())
            row = rows[rows["place"] == place].iloc[0]
            assert (
                f"{row['task1']:.1%} of task 1, {row['task2']:.1%} of task 2" in panel.words.value
            )
    assert len(shots) >= 3


def test_rows_of_another_checkpoint_are_not_taken_for_this_one_s(show):
    other = SimpleNamespace(about={**show.about, "lineage": "0" * 12})
    with pytest.raises(ValueError, match="no rows of seed 21.*make reproduce"):
        explorer.record_of(other)


def test_controls_are_shown_to_a_person_alone(show, record, monkeypatch, capsys):
    panel, displayed = explorer.choices(show, record), []
    monkeypatch.setattr("IPython.display.display", displayed.append)
    monkeypatch.setattr(explorer, "live", lambda: False)
    panel._ipython_display_()
    assert not displayed and capsys.readouterr().out.strip() == explorer.NOT_LIVE
    monkeypatch.setattr(explorer, "live", lambda: True)
    panel._ipython_display_()
    assert displayed == [panel.box] and drawn(panel).shape[0] > 300


def test_live_is_a_kernel_that_was_not_told_otherwise(monkeypatch):
    monkeypatch.delenv("HEADLESS", raising=False)
    for kernel, there in ((object(), True), (None, False)):
        shell = SimpleNamespace(kernel=kernel)
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda s=shell: s))
        assert live.in_notebook() == live.live() == there
        monkeypatch.setenv("HEADLESS", "1")
        assert not live.live() and live.in_notebook() == there
        monkeypatch.delenv("HEADLESS")
    monkeypatch.delitem(sys.modules, "IPython")
    assert not live.live()


# --- of one's own ---------------------------------------------------------------------------------


@pytest.fixture
def own(monkeypatch):
    """RANKINGS, to add to for one test."""
    found = type(RANKINGS)(RANKINGS)
    monkeypatch.setattr(showcase, "RANKINGS", found)
    return found


def test_a_ranking_of_one_s_own_is_offered_and_followed(show, record, own):
    own["mine"] = lambda evidence: {
        k: -torch.arange(len(h))[None] for k, h in evidence.heat.items()
    }
    assert show.labels["mine"] == "mine" and "taylor" not in show.labels
    panel = explorer.choices(show, record, ranking="mine")
    panel.controls["layer"].value = "conv1_1"
    assert "mine at 50% freezes 8 of 16" in panel.words.value
    assert show.choice("mine", 0.5)["conv1_1"].tolist() == [True] * 8 + [False] * 8
    # another function under this name; numpy will do
    own["mine"] = lambda evidence: {k: np.arange(len(h))[None] for k, h in evidence.heat.items()}
    assert show.choice("mine", 0.5)["conv1_1"].tolist() == [False] * 8 + [True] * 8


@pytest.mark.parametrize(
    "given",
    [
        None,
        {},
        {"conv1_1": torch.zeros(16)},
        {"conv1_1": torch.zeros(2, 16)},
        torch.zeros(1, 16),
    ],
)
def test_scores_that_are_none_are_refused_in_a_sentence(given, show, own):
    own["mine"] = lambda evidence: given
    with pytest.raises(ValueError, match="'mine' gives .*: expected scores .1, "):
        show.choice("mine", 0.5)


def test_an_image_of_one_s_own_is_cut_to_a_square_and_looked_at(show, tmp_path):
    Image.new("RGB", (90, 50), (200, 30, 30)).save(tmp_path / "red.png")
    image = showcase.image(str(tmp_path / "red.png"))
    assert image.shape == (3, 32, 32) and (image[0] == 200).all()
    figure = explorer.draw_look(show, image)
    assert [ax.get_title() for ax in figure.axes][0] == "as the network sees it"
    widths = [bar.get_width() for bar in figure.axes[3].patches]
    assert sum(widths) == pytest.approx(1, abs=1e-5) and len(widths) == len(show.classes)
    assert showcase.image().shape == (3, 32, 32)
    with pytest.raises(ValueError, match="none.png: not a readable image"):
        showcase.image(str(tmp_path / "none.png"))


# --- nothing stands on it -------------------------------------------------------------------------


def test_notebook_00_is_nobody_s_upstream_and_depends_on_what_is_shipped(tmp_path, monkeypatch):
    monkeypatch.setenv("RESULTS", str(tmp_path))
    profile, first = load("smoke"), session.NOTEBOOKS[0]
    assert first == "00_explore" and session.STUDY == session.NOTEBOOKS[1:]
    monkeypatch.setattr(session, "code_hash", lambda: "code")  # a second each
    before = {name: session.inputs(name, profile) for name in session.NOTEBOOKS}
    assert "upstream" not in before[first] and "upstream" not in before[session.STUDY[0]]
    assert all(before[name]["upstream"] == "none" for name in session.STUDY[1:])
    path = session.manifest_path(tmp_path / "smoke", first)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"inputs": {}, "outputs": {"x.png": "y"}}))
    assert {name: session.inputs(name, profile) for name in session.NOTEBOOKS} == before
    monkeypatch.setattr(session, "SHOWCASE", tmp_path)
    assert session.inputs(first, profile) != before[first]
    assert session.inputs(session.STUDY[0], profile) == before[session.STUDY[0]]
