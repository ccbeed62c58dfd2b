"""Profiles: those that come with the study are sound; a wrong one is refused in one sentence that
names the entry."""

import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from lib import network as network_room
from lib.study import profile as profile_room
from lib.study.arms import check
from lib.study.jobs import jobs
from lib.study.profile import ROOT, Arm, load, parse_seeds

SHIPPED = sorted(p.stem for p in (ROOT / "profiles").glob("*.yaml"))
SMALL = """
setting: X
about: a small profile
seeds: 1-2
data: {source: digits, classes: [[0, 1], [2, 3]]}
arms: [{name: fine-tune}]
"""


@pytest.fixture
def written(tmp_path):
    """written(text) -> the path of a profile with this text."""

    def write(text, name="given"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(text)
        return str(path)

    return write


def with_arm(options):
    return SMALL.replace("[{name: fine-tune}]", f"[{{name: odd one, {options}}}]")


# --- good ones ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_every_profile_that_comes_with_the_study_is_sound(name):
    profile = load(name)
    check(profile)
    assert profile.name == name and profile.seed_list and hash(profile.data)
    assert {"compact", "paper", "paper_batch_norm", "paper_two_heads", "compact_two_heads"} <= set(
        SHIPPED
    )


def test_defaults_are_the_protocol_s(written):
    profile = load(written(SMALL))
    assert (profile.name, profile.setting, profile.seed_list) == ("given", "X", [1, 2])
    n, r, e = profile.network, profile.recipe, profile.explain
    assert (n.depth, n.width, n.batch_norm, n.image_size, n.heads, n.classifier, n.init) == (
        16,
        1.0,
        False,
        32,
        "shared",
        "linear",
        "study",
    )
    assert (r.epochs, r.batch_size, r.lr, r.momentum, r.weight_decay) == (10, 64, 0.001, 0.9, 0)
    assert (e.map_images, e.steps, e.lr, e.heat_map) == (100, 30, 0.1, "brightness")
    assert profile.arms == (Arm(name="fine-tune"),)
    assert profile.arms[0].method == "finetune" and profile.arms[0].curriculum == "sequence"


def test_the_paper_s_settings():
    settings = ("paper", "paper_batch_norm", "paper_two_heads", "compact", "compact_two_heads")
    s1, s2, t, k, kt = (load(name) for name in settings)
    assert [
        (p.setting, p.network.width, p.network.batch_norm, p.network.heads)
        for p in (s1, s2, t, k, kt)
    ] == [
        ("S1", 1.0, False, "shared"),
        ("S2", 1.0, True, "shared"),
        ("T", 1.0, False, "per_task"),
        ("K", 0.25, True, "shared"),
        ("KT", 0.25, True, "per_task"),
    ]
    assert kt.recipe == k.recipe and kt.explain == k.explain and kt.seed_list == list(range(21, 41))
    assert [(p.recipe.momentum, p.recipe.batch_size) for p in (s1, s2, t, k, kt)] == [
        (0.9, 64),
        (0.0, 128),
        (0.9, 64),
        (0.9, 64),
        (0.9, 64),
    ]
    assert all(
        p.recipe.lr == 0.001 and p.recipe.epochs == 10 and p.recipe.weight_decay == 0
        for p in (s1, s2, t, k, kt)
    )
    assert all(
        p.data.classes == (tuple(range(10)), tuple(range(10, 20))) for p in (s1, s2, t, k, kt)
    )


def test_extends_merges_section_by_section(written):
    base = written(SMALL + "recipe: {epochs: 3, lr: 0.5}\nnetwork: {width: 0.5}\n", "base")
    middle = written(f"extends: {base}\nrecipe: {{lr: 0.25}}\nseeds: 7-8\n", "middle")
    profile = load(
        written(f"extends: {middle}\nrecipe: {{batch_size: 8}}\narms: [{{name: other}}]\n", "top")
    )
    assert (profile.recipe.epochs, profile.recipe.lr, profile.recipe.batch_size) == (3, 0.25, 8)
    assert profile.network.width == 0.5 and profile.seed_list == [7, 8] and profile.name == "top"
    assert [a.name for a in profile.arms] == ["other"]  # lists are replaced, not merged
    assert load(base).recipe.batch_size == 64


def test_seeds_and_data_given_on_the_command_line_replace_the_profile_s(written):
    path = written(SMALL)
    profile = load(path, seeds="5,9-10", data="mine.npz")
    assert profile.seed_list == [5, 9, 10] and profile.data.source == "mine.npz"
    assert profile.data.classes == ((0, 1), (2, 3))
    assert load(path).seed_list == [1, 2] and load(path, seeds="").data.source == "digits"
    with pytest.raises(ValueError, match="seeds 'x': expected numbers and ranges"):
        load(path, seeds="x")


def test_classes_may_be_drawn(written):
    profile = load(
        written(SMALL.replace("classes: [[0, 1], [2, 3]]", "draw: {tasks: 3, classes: 2}"))
    )
    assert profile.data.classes is None and (
        profile.data.draw.tasks,
        profile.data.draw.classes,
    ) == (3, 2)


def test_a_profile_never_changes_after_loading(written):
    with pytest.raises(FrozenInstanceError):
        load(written(SMALL)).recipe.lr = 1


def test_no_torch_is_needed_to_read_a_profile():
    code = "import sys, lib.study.store; from lib.study import profile; profile.load('paper'); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-B", "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("1-3,7", [1, 2, 3, 7]), ("4", [4]), (" 2 , 1", [2, 1]), ("3-3", [3]), (5, [5])],
)
def test_parse_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    "text", ["", "a", "1-", "-3", "1-2-3", "1,,2", "1.5", "1,1", "1-3,2", "5-1"]
)
def test_wrong_seeds_are_refused(text):
    with pytest.raises(ValueError, match=f"seeds {text!r}: expected"):
        parse_seeds(text)


def test_a_backward_range_beside_other_seeds_is_refused():
    with pytest.raises(ValueError, match="expected"):
        parse_seeds("1-3,9-7")


# --- bad ones -------------------------------------------------------------------------------------

BAD = {
    r"learning_rate: Extra inputs are not permitted": SMALL + "learning_rate: 1\n",
    r"recipe\.learning_rate: Unexpected keyword argument.*given: 1": SMALL
    + "recipe: {learning_rate: 1}\n",
    r"recipe\.lr: Input should be a valid number.*given: fast": SMALL + "recipe: {lr: fast}\n",
    r"recipe\.lr: Input should be greater than 0 .*given: -1": SMALL + "recipe: {lr: -1}\n",
    r"recipe\.momentum: Input should be less than 1 .*given: 1": SMALL + "recipe: {momentum: 1}\n",
    r"recipe\.epochs: Input should be a valid integer.*given: 1\.5": SMALL
    + "recipe: {epochs: 1.5}\n",
    r"recipe\.precision: Input should be 'auto', .*given: half": SMALL
    + "recipe: {precision: half}\n",
    r"network\.depth: Input should be 11, 13, 16 or 19 .*given: 12": SMALL
    + "network: {depth: 12}\n",
    r"network\.width: Input should be greater than 0": SMALL + "network: {width: 0}\n",
    r"network\.width: .*given: nan": SMALL + "network: {width: .nan}\n",
    r"network\.image_size: .*greater than or equal to 32": SMALL + "network: {image_size: 28}\n",
    r"network\.heads: Input should be 'shared' or 'per_task'": SMALL + "network: {heads: two}\n",
    r"explain\.heat_map: Input should be 'brightness' or 'difference'": SMALL
    + "explain: {heat_map: jet}\n",
    r"recipe: Input should be a dictionary.*given: fast": SMALL + "recipe: fast\n",
    r"arms: Field required": SMALL.replace("arms: [{name: fine-tune}]", ""),
    r"arms\.0\.name: Field required": SMALL.replace("name: fine-tune", "method: finetune"),
    r"arms\.0\.seeds: .*expected numbers and ranges": with_arm("seeds: none"),
    r"arms: .*names must be unique; given twice: a, b": SMALL.replace(
        "[{name: fine-tune}]", "[{name: a}, {name: b}, {name: a}, {name: b}, {name: c}]"
    ),
    r"data: .*give either `classes` .* or `draw`": SMALL.replace(
        "classes: [[0, 1], [2, 3]]", "draw: null"
    ),
    r"data: .*or `draw`, not both": SMALL.replace("[2, 3]]", "[2, 3]], draw: {tasks: 2}"),
    r"data: .*two or more tasks of equal size": SMALL.replace("[2, 3]", "[2, 3, 4]"),
    r"data\.classes\.1\.0: .*given: cat": SMALL.replace("[2, 3]", "[cat, 3]"),
    r"data: .*two or more tasks": SMALL.replace(", [2, 3]", ""),
    r"data\.draw\.tasks: .*greater than or equal to 2": SMALL.replace(
        "classes: [[0, 1], [2, 3]]", "draw: {tasks: 1}"
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_a_wrong_entry_is_refused_in_one_line_that_names_it(written, message):
    with pytest.raises(ValueError, match=f"profile given.yaml: .*{message}") as caught:
        load(written(BAD[message]))
    assert "\n" not in str(caught.value)


def test_all_wrong_entries_are_named_at_once(written):
    with pytest.raises(
        ValueError, match=r"recipe\.lr: .*; network\.width: |network\.width: .*; recipe\.lr: "
    ):
        load(written(SMALL + "recipe: {lr: 0}\nnetwork: {width: 0}\n"))


def test_wrong_seeds_in_a_profile_are_refused(written):
    with pytest.raises(ValueError, match="seeds 'all': expected"):
        load(written(SMALL.replace("1-2", "all")))
    with pytest.raises(ValueError, match="seeds '9-': expected"):
        load(written(SMALL + "calibration: {seeds: 9-}\n"))


@pytest.mark.parametrize("name", ["papre", "nowhere/papre.yaml"])
def test_an_unknown_profile_is_refused(name):
    with pytest.raises(
        FileNotFoundError, match=f"no profile '{name}': expected one of compact, .*paper.*yaml file"
    ):
        load(name)


def test_another_architecture_takes_over_what_any_network_has(written):
    small = "extends: smoke\nnetwork: {architecture: resnet18, width: 0.5}\n"
    network = load(written(small)).network
    assert (network.width, network.depth, network.batch_norm) == (0.5, 16, False)
    assert network.image_size == load("smoke").network.image_size
    same = load(written("extends: smoke\nnetwork: {architecture: vgg, width: 0.5}\n")).network
    assert (same.depth, same.batch_norm) == (11, True)
    assert set(profile_room.VGG_ONLY) == set(network_room.VGG_ONLY)


def test_more_arms_come_after_those_of_the_extended_profile(written, tmp_path):
    base = tmp_path / "base.yaml"
    base.write_text(SMALL)
    path = written(f"extends: {base}\nmore_arms: [{{name: one more}}]\n")
    assert [arm.name for arm in load(path).arms] == [
        *(arm.name for arm in load(str(base)).arms),
        "one more",
    ]


def test_extending_an_unknown_profile_is_refused(written):
    with pytest.raises(FileNotFoundError, match="no profile 'papre'"):
        load(written("extends: papre\n"))


def test_what_is_not_a_mapping_is_refused(written):
    path = written("- a\n- b\n")
    with pytest.raises(ValueError, match="expected a mapping of sections, got list") as caught:
        load(path)
    assert path in str(caught.value)
    with pytest.raises(ValueError, match="not valid YAML") as caught:
        load(written("recipe: {lr: 1\nseeds: ]"))
    assert path in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="not valid YAML"):  # the safe loader builds no objects
        load(written("seeds: !!python/object/apply:os.getcwd []"))


def test_a_profile_that_extends_itself_is_refused(written, tmp_path):
    with pytest.raises(ValueError, match="extends"):
        load(written(f"extends: {Path(tmp_path, 'given.yaml')}\n"))


def test_data_on_the_command_line_of_a_profile_without_a_data_section_is_refused(written):
    with pytest.raises(ValueError, match="data"):
        load(
            written(SMALL.replace("{source: digits, classes: [[0, 1], [2, 3]]}", "digits")),
            data="other.npz",
        )


def test_tasks_without_classes_are_refused(written):
    with pytest.raises(ValueError, match="data"):
        load(written(SMALL.replace("[[0, 1], [2, 3]]", "[[], []]")))


# --- arms against the registries ------------------------------------------------------------------

BAD_ARMS = {
    "no curriculum 'upside'; expected one of sequence, joint20": "curriculum: upside",
    "no method 'thaw'; expected one of .*finetune, freeze": "method: thaw",
    "ranking 'msse': expected one of .*mse, pearson": "method: freeze, options: {ranking: msse, fraction: 0.5}",
    "fraction 1.5: expected a number from 0 to 1": "method: freeze, options: {ranking: mse, fraction: 1.5}",
    "fraction -0.1: expected": "method: freeze, options: {ranking: mse, fraction: -0.1}",
    "fraction nan: expected": "method: freeze, options: {ranking: mse, fraction: .nan}",
    "fraction 'half': expected": "method: freeze, options: {ranking: mse, fraction: half}",
    "unexpected keyword argument 'part'": "method: freeze, options: {ranking: mse, fraction: 0.5, part: 1}",
    "missing 1 required positional argument: 'fraction'": "method: freeze, options: {ranking: mse}",
    "rule 'all': expected one of turns, union, network": "method: freeze, options: {ranking: mse, fraction: 0.5, rule: all}",
    "scope 'bias': expected": "method: freeze, options: {ranking: mse, fraction: 0.5, scope: bias}",
    "method finetune, .*unexpected keyword argument 'fraction'": "options: {fraction: 0.5}",
}


@pytest.mark.parametrize("message", BAD_ARMS)
def test_an_arm_that_cannot_run_is_refused_by_name(written, message):
    profile = load(written(with_arm(BAD_ARMS[message])))
    with pytest.raises(ValueError, match=f"arm 'odd one'.*{message}") as caught:
        check(profile)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        "{ranking: mse, fraction: 0.5}",
        "{ranking: random, fraction: 1, draw: 3}",
        "{ranking: ssim, fraction: 0, rule: union, scope: filter}",
    ],
)
def test_an_arm_that_can_run_is_accepted(written, options):
    check(load(written(with_arm(f"method: freeze, options: {options}"))))


@pytest.mark.parametrize(
    "arm",
    [
        "method: freeze, options: {ranking: mse, fraction: 0.5, draw: 1}",  # only random takes a draw
        "method: freeze, options: {ranking: [mse], fraction: 0.5}",  # unhashable
        "method: freeze, options: {ranking: null, fraction: 0.5}",
        "method: freeze, options: {ranking: mse, fraction: true}",
        "options: {trace: 'no'}",  # text is true
        "options: {rows: 3}",  # not an option
        "method: freeze, curriculum: last, options: {ranking: mse, fraction: 0.5}",  # the method would be ignored
    ],
)
def test_an_arm_that_would_fail_later_or_be_misread_is_refused(written, arm):
    with pytest.raises(ValueError, match="odd one"):
        check(load(written(with_arm(arm))))


# --- seeds of arms --------------------------------------------------------------------------------


def test_arms_for_the_first_seeds_only_stay_so_in_a_shard(written, monkeypatch, tmp_path):
    monkeypatch.setenv("RESULTS", str(tmp_path))
    path = written(
        SMALL.replace("1-2", "1-4").replace("[{name: fine-tune}]", "[{name: few, seeds: 1}]")
    )
    missing = [bool(jobs(load(path, seeds=str(seed)), "run")) for seed in (1, 2, 3, 4)]
    assert missing == [True, False, False, False]


def test_a_profile_says_how_a_command_line_names_it(tmp_path, tiny_npz):
    own = tiny_npz(tmp_path / "my images.npz", classes=6)
    assert load("quick").asked == "PROFILE=quick"
    assert load("quick", data="digits").asked == "PROFILE=quick"
    other = load("quick", data=own)
    assert other.name == "quick_my_images" and other.asked == f"PROFILE=quick DATA='{own}'"
    assert "asked" not in other.model_dump()
