"""Whether the methods of a profile's arms fit its network, tasks and recipe, asked before anything
is trained."""

import copy

import pytest
import torch
from torch import nn

from lib.data import Task
from lib.methods import METHODS
from lib.network import build
from lib.recipe import Recipe
from lib.study import inputs
from lib.study.profile import ROOT, Arm, Draw, load


def tasks_of(profile, images=4):
    """As many tasks and classes as a profile has, `images` of each class, all black."""
    data, heads = profile.data, profile.network.heads
    sizes = [len(c) for c in data.classes or [range(data.draw.classes)] * data.draw.tasks]
    found, first = [], 0
    for number, size in enumerate(sizes, 1):
        y = torch.arange(size).repeat(images)
        x = torch.zeros(len(y), 3, *[profile.network.image_size] * 2, dtype=torch.uint8)
        found.append(Task(f"task{number}", tuple(range(size)), x, y, x, y, first))
        first += size if heads == "per_task" else 0
    return tuple(found)


@pytest.fixture
def black(monkeypatch):
    """black(images of a class by seed) -> every profile's images are black, so many a class."""

    def turn(images):
        monkeypatch.setattr(inputs, "tasks", lambda p, seed: tasks_of(p, images.get(seed, 50)))

    return turn


def with_arms(*arms, seeds="1-2", **sections):
    profile = load("smoke", seeds)
    return profile.model_copy(update={"arms": tuple(Arm(**arm) for arm in arms), **sections})


PROFILES = sorted(path.stem for path in (ROOT / "profiles").glob("*.yaml"))


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_fits(name, black):
    black({})
    inputs.check_fit(load(name))


def test_an_arm_that_no_seed_asks_for_is_not_looked_at(black):
    black({})
    arms = {"name": "plain"}, {"name": "replay", "method": "replay", "seeds": "1"}
    arms[1]["options"] = {"per_class": 51}
    with pytest.raises(ValueError, match="arm 'replay', method replay.*fewer than per_class 51"):
        inputs.check_fit(with_arms(*arms))
    inputs.check_fit(with_arms(*arms, seeds="2"))


@pytest.mark.parametrize("draws", [True, False], ids=["draws", "classes"])
def test_where_each_seed_has_tasks_of_its_own_each_is_looked_at(draws, black):
    black({1: 50, 2: 20})
    data = load("smoke").data
    if draws:
        draw = {"classes": None, "draw": Draw(tasks=2, classes=3)}
        data = data.model_copy(update=draw)
    arm = {"name": "replay", "method": "replay", "options": {"per_class": 21}}
    if draws:
        with pytest.raises(ValueError, match="has 20 training images.*per_class 21"):
            inputs.check_fit(with_arms(arm, data=data))
    else:
        inputs.check_fit(with_arms(arm, data=data))


OPTIONS = {
    "freeze": {"ranking": "lrp", "fraction": 0.5},
    "freeze_layers": {"which": "first", "count": 1},
    "only": {"part": "norm"},
    "merge_ranking": {"ranking": "lrp"},
    "soft": {"ranking": "lrp"},
}


@pytest.mark.parametrize("name", METHODS)
def test_to_ask_changes_nothing(name):
    model = build(6, depth=11, width=0.0625, batch_norm=True).train()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    METHODS[name](**OPTIONS.get(name, {})).fits(model, tasks_of(load("smoke"), 50), Recipe())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(m.training for m in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("name", ["freeze", "merge_ranking", "soft"])
def test_a_ranking_of_vggs_alone_is_refused_elsewhere(name):
    model = build(6, architecture="resnet18", width=0.25)
    with pytest.raises(ValueError, match="LRP of ResNet: expected a VGG"):
        METHODS[name](**OPTIONS[name]).fits(model, tasks_of(load("smoke")), Recipe())


@pytest.mark.parametrize("name", ["packnet", "gpm"])
def test_a_network_without_a_linear_layer_has_no_heads(name):
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    profile = load("smoke")
    network = profile.network.model_copy(update={"heads": "per_task"})
    split = tasks_of(profile.model_copy(update={"network": network}))
    with pytest.raises(ValueError, match="without a linear layer"):
        METHODS[name]().fits(model, split, Recipe())


def test_a_convolution_that_pads_otherwise_than_with_zeros_is_named():
    layers = nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect"), nn.AdaptiveAvgPool2d(1)
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(6, 6))
    with pytest.raises(ValueError, match="^0 has padding .*reflect: expected zeros"):
        METHODS["gpm"]().fits(model, tasks_of(load("smoke")), Recipe())


WRONG = [
    ("freeze", {"ranking": "mse", "fraction": 10**400}, "fraction 1000.*from 0 to 1"),
    ("freeze", {"ranking": "mse", "fraction": True}, "fraction True: expected a number"),
    ("freeze", {"ranking": "mse", "fraction": 0.5, "like": "astrology"}, "ranking 'astrology'"),
    ("freeze", {"ranking": "random", "fraction": 0.5, "draw": "x"}, "draw 'x': expected a whole"),
    ("freeze", {"ranking": "random", "fraction": 0.5, "draw": True}, "draw True: expected a whole"),
    ("freeze", {"ranking": "mse", "fraction": 0.5, "draw": 1}, "this ranking has no draws"),
    ("ewc", {"strength": float("inf")}, "strength inf: expected a number of at least 0, finite"),
    ("ewc", {"strength": float("nan")}, "strength nan: expected a number of at least 0, finite"),
    ("si", {"damping": 0}, "damping 0: expected a number above 0, finite"),
    ("lwf", {"temperature": 0}, "temperature 0: expected a number above 0, finite"),
]


@pytest.mark.parametrize(("name", "options", "words"), WRONG)
def test_an_option_that_is_none_is_told_with_what_is_expected(name, options, words):
    with pytest.raises(ValueError, match=words):
        METHODS[name](**options)


def test_the_ends_of_a_range_belong_to_it():
    for fraction in (0, 1, 0.0, 1.0):
        METHODS["freeze"](ranking="random", fraction=fraction, draw=0)
    METHODS["ewc"](strength=0)
