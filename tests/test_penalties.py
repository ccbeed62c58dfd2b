"""Penalties and soft freezing: equal to slow, literal versions in float64, to cases done by hand,
and to plain training or freezing at the ends of their scales."""

import copy
from dataclasses import replace

import pytest
import torch
from test_training import Tape
from torch import nn

from lib import kernels
from lib.data import Task, load, split_tasks
from lib.evaluation import measure
from lib.freezing import frozen
from lib.methods import EWC, L2, METHODS, SI, Context, FineTune, LwF, RecordPath, SoftFreeze
from lib.methods import penalties as penalties_room
from lib.methods import soft as soft_room
from lib.methods.penalties import Pull, fisher, flat
from lib.methods.soft import by_parameter, stiffness
from lib.network import conv_layers, norm_layers, vgg16
from lib.ranking import RANKINGS, Evidence
from lib.recipe import Recipe
from lib.seeds import seed_of
from lib.study.arms import table
from lib.study.materials import fresh_network, outputs_of
from lib.study.materials import tasks as tasks_of
from lib.study.products import network_after_task1, task1
from lib.study.profile import Arm
from lib.study.runs import run
from lib.study.tables import collect
from lib.training import Method, fit
from references import penalties as slow

WHOLE = Recipe(  # every step sees the whole task as it is
    epochs=3,
    batch_size=8,
    lr=0.05,
    momentum=0.9,
    weight_decay=0.01,
    crop_padding=0,
    flip=False,
    precision="float32",
)
STEPS = replace(WHOLE, epochs=2, batch_size=2, weight_decay=0.0, crop_padding=2, flip=True)


@pytest.fixture(scope="module")
def images(tmp_path_factory, tiny_npz):
    """Six classes of four images."""
    path = tmp_path_factory.mktemp("six") / "six.npz"
    return load(tiny_npz(path, classes=6, per_class=4))


@pytest.fixture(params=["shared", "per_task"])
def tasks(images, request):
    """Three tasks of two classes, eight training images each."""
    return split_tasks(images, [[0, 1], [2, 3], [4, 5]], request.param)


@pytest.fixture
def shared(images):
    return split_tasks(images, [[0, 1], [2, 3], [4, 5]])


def network(outputs=6, batch_norm=True, dtype=torch.float64, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return vgg16(outputs, 0.0625, batch_norm, generator=generator).to(dtype)


def learned(task, **how):
    """A network that has been trained on the task for a while: its running statistics are its
    own."""
    model = network(**how)
    fit(model, task, WHOLE)
    return model


def context(tasks, number=2, recipe=WHOLE, scores=None, **more):
    return Context(tasks, 7, recipe, scores or (lambda *_: {}), dict, round=number, **more)


def rounds(model, tasks, recipe, method, seed=0, **more):
    """Rounds 2, 3, ... as the study goes through them."""
    for number, task in enumerate(tasks[1:], 2):
        now = context(tasks, number, recipe, **more)
        method.before(model, task, now)
        fit(model, task, recipe, method, seed)
        method.after(model, task, now)
    return model


def by_name(model, vector):
    sizes = [p.numel() for p in model.parameters()]
    return {
        name: part.view(p.shape)
        for (name, p), part in zip(model.named_parameters(), vector.split(sizes))
    }


def close(found, expected, tolerance=1e-10):
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance, msg=name)


def bits(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(a, b):
    return all(torch.equal(v, b[k]) for k, v in a.items())


# --- the Fisher information -----------------------------------------------------------------------


@pytest.mark.parametrize("batch_norm", [False, True])
def test_exact_fisher_equals_looped_per_sample_gradients(tasks, batch_norm):
    model, task = learned(tasks[1], batch_norm=batch_norm), tasks[1]
    expected = slow.fisher(copy.deepcopy(model), task)
    assert max(float(f.max()) for f in expected.values()) > 1e-3
    close(by_name(model, fisher(model, task)), expected)


def test_sampled_and_empirical_fisher_equal_looped_gradients_of_their_labels(shared):
    model, task = learned(shared[0]), shared[0]
    model.eval()
    with torch.no_grad():
        x = slow.normalise(task.x, task, torch.float64)
        p_nk = model(x)[:, task.outputs].softmax(1)
    generator = torch.Generator().manual_seed(seed_of(7, "task1", "fisher"))
    drawn = p_nk.multinomial(1, generator=generator)[:, 0]
    close(by_name(model, fisher(model, task, "sampled", seed=7)), slow.fisher(model, task, drawn))
    close(by_name(model, fisher(model, task, "empirical")), slow.fisher(model, task, task.y))


def test_fisher_by_hand():
    linear = nn.Linear(3, 2).double()
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.copy_(torch.tensor([4.0, 1.0]).log())  # p = .8, .2, whatever the image
    model = nn.Sequential(nn.Flatten(), linear)
    x = torch.tensor([[51, 102, 255], [0, 0, 0]], dtype=torch.uint8).view(2, 3, 1, 1)
    y = torch.tensor([0, 1])
    task = Task("t", (0, 1), x, y, x, y, 0, torch.zeros(3), torch.ones(3))
    squares = torch.tensor([0.2, 0.4, 1.0]).double() ** 2 / 2  # mean over the two images
    # exact: p (1 - p) x^2 for either output; empirical: (1[y = k] - p_k)^2 x^2
    found = fisher(model, task)
    torch.testing.assert_close(found[:6].view(2, 3), 0.16 * squares.expand(2, 3))
    torch.testing.assert_close(found[6:], torch.tensor([0.16, 0.16]).double())
    found = fisher(model, task, "empirical")
    torch.testing.assert_close(found[:6].view(2, 3), 0.04 * squares.expand(2, 3))
    torch.testing.assert_close(found[6:], torch.tensor([(0.04 + 0.64) / 2] * 2).double())


def test_sampled_fisher_tends_to_the_exact_one_and_has_a_generator_of_its_own(shared):
    model, task = learned(shared[0]), shared[0]
    state = torch.get_rng_state()
    draws = torch.stack([fisher(model, task, "sampled", seed=s) for s in range(20)])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(draws[3], fisher(model, task, "sampled", seed=3))
    assert len({float(d.sum()) for d in draws}) > 10
    exact = float(fisher(model, task).sum())
    error = draws.sum(1).std() / 20**0.5
    assert abs(float(draws.sum(1).mean()) - exact) < 4 * error < exact


def test_fisher_leaves_the_network_as_it_was_and_takes_batch_norm_in_evaluation_mode(shared):
    model, task = learned(shared[0]), shared[0]
    model.train()
    model.features.bn2_1.eval()  # modes may be mixed
    model(torch.zeros(2, 3, 32, 32).double()).sum().backward()
    before, modes = bits(model), [m.training for m in model.modules()]
    gradients = [p.grad.clone() for p in model.parameters()]
    found = fisher(model, task)
    assert same(before, bits(model)) and modes == [m.training for m in model.modules()]
    assert all(torch.equal(g, p.grad) for g, p in zip(gradients, model.parameters()))
    names = [name for name, _ in model.named_parameters()]
    assert len(found) == sum(p.numel() for p in model.parameters())  # gamma and beta, no statistics
    assert "features.bn3_1.weight" in names and found.min() >= 0
    assert by_name(model, found)["features.bn3_1.weight"].any()
    with torch.no_grad():  # running statistics matter, the batch's own do not
        model.features.bn1_1.running_var.mul_(4)
    other = fisher(model, task)
    assert not torch.allclose(other, found)
    cut = task._replace(x=task.x[:3], y=task.y[:3])
    torch.testing.assert_close(fisher(model, task, images=3), fisher(model, cut))


def test_fisher_does_not_depend_on_the_size_of_its_chunks(shared, monkeypatch):
    model, task = learned(shared[0]), shared[0]
    whole = fisher(model, task)
    monkeypatch.setattr(penalties_room, "CHUNK", 3 * len(whole))  # 3, 3 and 2 images
    torch.testing.assert_close(fisher(model, task), whole, rtol=1e-12, atol=1e-15)
    monkeypatch.setattr(penalties_room, "CHUNK", 1)
    torch.testing.assert_close(fisher(model, task), whole, rtol=1e-12, atol=1e-15)


# --- the penalty ----------------------------------------------------------------------------------


def test_the_penalty_by_hand_and_its_one_half():
    model = nn.Linear(1, 1)
    pull = Pull(strength=4.0)
    with torch.no_grad():
        model.weight.fill_(1.0), model.bias.fill_(0.0)
    pull.hold(model, torch.tensor([3.0, 5.0]), context([], recipe=Recipe()))
    with torch.no_grad():
        model.weight.fill_(1.5)
    penalty = pull.penalty(model, None, None, None)
    penalty.backward()
    assert float(penalty.detach()) == 0.5 * 4 * 3 * 0.5**2
    assert (float(model.weight.grad), float(model.bias.grad)) == (4 * 3 * 0.5, 0.0)


def test_sgd_runs_away_beyond_the_limit_and_returns_below_it():
    recipe = Recipe(lr=0.1, momentum=0.9, weight_decay=0.5)
    for share, returns in ((0.97, True), (1.03, False)):
        model, pull = nn.Linear(1, 1, bias=False).double(), Pull()
        pull.strength = share * pull.limit(3.0, recipe)
        pull.anchor, pull.curvature = torch.zeros(1).double(), torch.tensor([3.0 * pull.strength])
        nn.init.ones_(model.weight)
        optimiser = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=0.5)
        for _ in range(300):
            optimiser.zero_grad()
            pull.penalty(model, None, None, None).backward()
            optimiser.step()
        assert (abs(float(model.weight.detach())) < 1) == returns


@pytest.mark.parametrize("kind, factor", [(EWC, 1), (L2, 2), (SI, 2)])
def test_a_penalty_that_must_diverge_is_refused_before_training(shared, kind, factor):
    model = learned(shared[0])
    start = {k: p + 1e-3 for k, p in model.named_parameters()}
    more = {"path": lambda: start, "initial": lambda: dict(model.named_parameters())}
    now, before = context(shared, **more), bits(model)
    with pytest.raises(FloatingPointError, match="largest importance.*largest strength") as error:
        kind(strength=1e9).before(model, shared[1], now)
    assert "strength 1e+09" in str(error.value) and same(before, bits(model))
    named = float(str(error.value).rpartition(" ")[2])
    method = kind(strength=named)
    method.before(model, shared[1], now)
    row = method.records()["pulls"][0]
    expected = (2 * 1.9 / 0.05 - 0.01) / (factor * row["largest_importance"])
    assert row["largest_strength"] == pytest.approx(expected)
    assert 0.98 * expected < named < expected and row["round"] == 2
    with pytest.raises(FloatingPointError):
        kind(strength=expected * 1.001).before(model, shared[1], now)


def test_importances_that_are_not_finite_are_refused(shared):
    model = network()
    with torch.no_grad():
        model.head.bias[0] = torch.nan
    with pytest.raises(FloatingPointError, match="largest importance is nan"):
        EWC().before(model, shared[1], context(shared))


@pytest.mark.parametrize("batch_norm", [False, True])
def test_ewc_equals_the_literal_version_over_three_tasks(tasks, batch_norm):
    model = learned(tasks[0], batch_norm=batch_norm)
    literal, free = copy.deepcopy(model), copy.deepcopy(model)
    slow.ewc(literal, tasks, WHOLE, strength=2.0)
    rounds(model, tasks, WHOLE, EWC(strength=2.0))
    rounds(free, tasks, WHOLE, FineTune())
    close(bits(model), bits(literal), 1e-8)
    assert not torch.allclose(flat(free.parameters()), flat(model.parameters()), atol=1e-4)


def test_l2_is_ewc_with_importances_of_one_and_twice_the_strength(shared, monkeypatch):
    model = learned(shared[0])
    other = copy.deepcopy(model)
    ones = lambda model, *_: torch.ones_like(flat(model.parameters())).detach()  # noqa: E731
    monkeypatch.setattr(penalties_room, "fisher", ones)
    rounds(model, shared[:2], STEPS, L2(strength=0.75))
    rounds(other, shared[:2], STEPS, EWC(strength=1.5))
    assert same(bits(model), bits(other))
    free = rounds(learned(shared[0]), shared[:2], STEPS, FineTune())
    assert not same(bits(model), bits(free))


def test_l2_over_three_tasks_pulls_to_the_latest_weights_at_the_same_strength(shared):
    method, model = L2(strength=0.5), network()
    for number in (2, 3):
        with torch.no_grad():
            model.head.bias += 1
        method.before(model, shared[number - 1], context(shared, number))
        assert float(method.penalty(model, None, None, None).detach()) == 0
        with torch.no_grad():
            model.head.bias[0] += 3
        assert float(method.penalty(model, None, None, None).detach()) == pytest.approx(0.5 * 9)


def test_the_penalty_is_not_rounded_under_bf16(shared):
    seen = []

    class Watched(EWC):
        def penalty(self, *step):
            found = super().penalty(*step)
            seen.append(found.dtype)
            return found

    model = network(dtype=torch.float32)
    rounds(model, shared[:2], replace(STEPS, precision="bf16"), Watched(strength=1.0))
    assert set(seen) == {torch.float32} and torch.isfinite(flat(model.parameters())).all()


# --- synaptic intelligence ------------------------------------------------------------------------


def gap(model, task, lr, method):
    """Relative difference of the path integral's sum and the fall of the loss."""
    model, recipe = copy.deepcopy(model), replace(WHOLE, lr=lr, momentum=0.0, weight_decay=0.0)
    method.before(model, task, context([task, task, task], recipe=recipe, **method_needs(model)))
    before = measure(model, task, part="train")["loss"]
    fit(model, task, recipe, method)
    fall = before - measure(model, task, part="train")["loss"]
    path = method.path if isinstance(method, SI) else flat(method.omega.values())
    assert fall > 0
    return abs(float(path.sum()) - fall) / fall


def method_needs(model):
    start = {k: p.detach() - 0.1 for k, p in model.named_parameters()}
    path = {k: torch.full_like(p, 0.1) for k, p in model.named_parameters()}
    return {"path": lambda: path, "initial": lambda: start}


@pytest.mark.parametrize("kind", [RecordPath, SI])
def test_the_path_integral_sums_to_the_fall_of_the_loss_to_first_order(shared, kind):
    torch.manual_seed(0)  # without kinks (ReLU, pooling) the gap is of the second order alone
    smooth = nn.Sequential(nn.Flatten(), nn.Linear(3072, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    gaps = [gap(smooth, shared[1], lr, kind()) for lr in (4e-4, 2e-4, 1e-4)]
    assert gaps[0] < 0.1
    assert 1.9 < gaps[0] / gaps[1] < 2.1 and 1.9 < gaps[1] / gaps[2] < 2.1
    assert gap(network(batch_norm=False), shared[1], 1e-4, kind()) < 1e-3


@pytest.mark.parametrize("batch_norm", [False, True])
def test_si_equals_the_literal_version_over_three_tasks(tasks, batch_norm):
    model = network(batch_norm=batch_norm)
    literal, start, path = copy.deepcopy(model), slow.weights(model), RecordPath()
    importance = slow.si(literal, tasks, WHOLE, strength=0.3, damping=1e-3)
    path.before(model, tasks[0])
    fit(model, tasks[0], WHOLE, path)
    method = SI(strength=0.3, damping=1e-3)
    rounds(model, tasks, WHOLE, method, path=lambda: path.omega, initial=lambda: start)
    close(by_name(model, method.importance), importance, 1e-7)
    close(bits(model), bits(literal), 1e-8)
    assert (method.importance == 0).any() and method.importance.max() > 1e-2  # clamped, and not


def test_si_by_hand():
    model = nn.Linear(1, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0], [1.0]])), model.bias.zero_()
    start = {"weight": torch.tensor([[1.0], [1.0]]), "bias": torch.tensor([0.0, 0.5])}
    path = {"weight": torch.tensor([[8.2], [0.3]]), "bias": torch.tensor([-7.0, 0.7])}
    method = SI(strength=2.0, damping=0.1)
    now = context([None] * 2, recipe=Recipe(), path=lambda: path, initial=lambda: start)
    method.before(model, None, now)
    expected = torch.tensor([8.2 / 4.1, 0.3 / 0.1, 0.0, 0.7 / 0.35])
    torch.testing.assert_close(method.importance, expected)
    with torch.no_grad():
        model.weight[0] += 0.5
    assert float(method.penalty(model, None, None, None).detach()) == pytest.approx(2 * 2 * 0.25)


def test_si_uses_the_path_and_the_start_of_task_1(shared):
    model = learned(shared[0])
    needs = method_needs(model)
    first, other, far = SI(), SI(), SI()
    first.before(model, shared[1], context(shared, **needs))
    double = {k: 2 * v for k, v in needs["path"]().items()}
    other.before(model, shared[1], context(shared, **{**needs, "path": lambda: double}))
    torch.testing.assert_close(other.importance, 2 * first.importance)
    start = {k: v - 1 for k, v in needs["initial"]().items()}
    far.before(model, shared[1], context(shared, **{**needs, "initial": lambda: start}))
    assert (far.importance < first.importance).all()
    with pytest.raises(ValueError, match="path along task 1 lacks features.conv1_1.weight"):
        SI().before(model, shared[1], context(shared))
    with pytest.raises(ValueError, match="network before task 1 lacks"):
        SI().before(model, shared[1], context(shared, path=needs["path"]))


# --- soft freezing --------------------------------------------------------------------------------


def at_random(model, task, seed=7):
    """scores(ranking, **options), as the study hands them to a method."""

    def scores(ranking, **options):
        return RANKINGS[ranking](Evidence(model, task, seed, dict, dict), **options)

    return scores


def held_by(monkeypatch, s):
    """Every filter gets stiffness s."""
    monkeypatch.setattr(
        soft_room, "stiffness", lambda scores_cf, _: torch.full((scores_cf.shape[1],), s).double()
    )


def after(model, method, tasks, recipe=STEPS):
    return bits(rounds(model, tasks, recipe, method, scores=at_random(model, tasks[0])))


FORMS = [
    {"form": "stiffness", "strength": 2.0},
    {"form": "stiffness", "strength": 2.0, "importance": "exact", "scope": "filter"},
    {"form": "learning rate"},
    {"form": "learning rate", "scope": "filter"},
]


@pytest.mark.parametrize("options", FORMS)
def test_nothing_held_is_fine_tuning_to_the_bit(tasks, monkeypatch, options):
    model = learned(tasks[0], dtype=torch.float32)
    models = [copy.deepcopy(model) for _ in range(3)]
    free = after(model, FineTune(), tasks)
    weak = SoftFreeze(**{"ranking": "random", **options, "strength": 0.0})
    assert same(free, after(models[0], weak, tasks))
    some = after(models[1], SoftFreeze(ranking="random", **options), tasks)
    assert not same(free, some)  # or the two below would prove nothing
    held_by(monkeypatch, 0.0)
    assert same(free, after(models[2], SoftFreeze(ranking="random", **options), tasks))


@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_learning_rate_form_wholly_held_is_freezing_to_the_bit(tasks, monkeypatch, batch_norm):
    class FreezeAll(Method):
        def during(self, model):
            masks = {k: torch.ones(c.out_channels).bool() for k, c in conv_layers(model).items()}
            return frozen(model, masks)

    model = learned(tasks[0], batch_norm=batch_norm, dtype=torch.float32)
    soft, start = copy.deepcopy(model), bits(model)
    held_by(monkeypatch, 1.0)
    method = SoftFreeze(ranking="random", form="learning rate")
    frozen_bits, soft_bits = after(model, FreezeAll(), tasks), after(soft, method, tasks)
    assert same(frozen_bits, soft_bits)
    assert torch.equal(soft_bits["features.conv3_1.weight"], start["features.conv3_1.weight"])
    assert not torch.equal(soft_bits["head.weight"], start["head.weight"])
    with pytest.raises(ValueError, match="weight_decay 0.01.*form stiffness allows it.*expected 0"):
        after(model, SoftFreeze(ranking="random", form="learning rate"), tasks, WHOLE)


@pytest.mark.parametrize("scope", ["weights", "filter"])
def test_the_learning_rate_form_shortens_each_filters_step_by_its_stiffness(shared, scope):
    recipe = replace(WHOLE, epochs=1, weight_decay=0.0)  # one step
    model = learned(shared[0])
    free, start = copy.deepcopy(model), slow.weights(model)
    method = SoftFreeze(ranking="random", form="learning rate", strength=0.5, scope=scope)
    after(model, method, shared[:2], recipe), after(free, FineTune(), shared[:2], recipe)
    convs, norms = conv_layers(model), norm_layers(model)
    held = {id(p): layer for layer, conv in convs.items() for p in conv.parameters()}
    if scope == "filter":
        held |= {id(p): layer for layer, norm in norms.items() for p in norm.parameters()}
    ways = dict(free.named_parameters())
    for name, p in model.named_parameters():
        for f in range(len(p)):
            s = float(method.stiffness[held[id(p)]][f]) if id(p) in held else 0.0
            expected = (1 - 0.5 * s) * (ways[name][f] - start[name][f])
            torch.testing.assert_close(p[f] - start[name][f], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scope", ["weights", "filter"])
@pytest.mark.parametrize("importance", ["uniform", "exact"])
def test_the_stiffness_form_equals_a_sum_over_filters(shared, scope, importance):
    model = learned(shared[0])
    old = slow.weights(model)
    method = SoftFreeze(ranking="random", strength=3.0, importance=importance, scope=scope)
    method.before(model, shared[1], context(shared, scores=at_random(model, shared[0])))
    assert float(method.penalty(model, None, None, None).detach()) == 0
    with torch.no_grad():
        for p in model.parameters():
            p += 0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    ones = {name: torch.ones_like(p) for name, p in old.items()}
    weight = ones
    if importance == "exact":
        before = copy.deepcopy(model)
        before.load_state_dict({**before.state_dict(), **old})
        weight = slow.fisher(before, shared[0])
    s = {f"features.{layer}": s_f.tolist() for layer, s_f in method.stiffness.items()}
    also = {layer: layer.replace("conv", "bn") for layer in s} if scope == "filter" else {}
    expected = 1.5 * slow.soft_penalty(model, old, s, weight, also)
    assert float(method.penalty(model, None, None, None).detach()) == pytest.approx(
        expected, rel=1e-9
    )


@pytest.mark.parametrize("classes", ["mean", "max"])
def test_stiffness_is_the_filters_place_in_its_layer(classes):
    scores = torch.tensor([[0.1, 0.5, 0.3], [-4.0, -9.0, -9.0]])  # (C, F)
    expected = {"mean": [0.5, 0.625, 0.375], "max": [1.0, 1.0, 0.5]}[classes]
    assert stiffness(scores, classes).tolist() == pytest.approx(expected)
    many = torch.randint(0, 9, (5, 12), generator=torch.Generator().manual_seed(2)).float()
    assert stiffness(many, classes).tolist() == pytest.approx(slow.stiffness(many, classes))
    scaled = many.exp() * 1000
    assert torch.equal(stiffness(scaled, classes), stiffness(many, classes))
    assert stiffness(torch.zeros(2, 4), classes).tolist() == [0.5] * 4
    assert stiffness(torch.ones(3, 1), classes).tolist() == [0.5]
    with pytest.raises(ValueError, match="finite"):
        stiffness(torch.tensor([[0.0, torch.nan]]), classes)


def test_a_filter_never_softens_and_information_adds_up_over_the_rounds(shared):
    model = learned(shared[0])
    given = iter([torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])])
    model = nn.Sequential(nn.Conv2d(3, 2, 32), nn.Flatten()).double()
    scores = lambda *_: {"0": next(given)}  # noqa: E731
    method = SoftFreeze(ranking="mse", strength=1.0, importance="exact")
    method.before(model, shared[1], context(shared, 2, scores=scores))
    first = method.curvature.clone()
    bias = by_name(model, fisher(model, shared[0]))["0.bias"]
    torch.testing.assert_close(first[-2:], torch.tensor([0.0, 1.0]).double() * bias)
    method.before(model, shared[2], context(shared, 3, scores=scores))
    both = bias + by_name(model, fisher(model, shared[1]))["0.bias"]
    torch.testing.assert_close(method.curvature[-2:], both)
    assert [row["stiffness"] for row in method.records()["stiffness"]] == [0.5, 1.0]


def test_a_random_ranking_has_draws(shared):
    model = network()
    found = []
    for draw in (None, 0, 1):
        method = SoftFreeze(ranking="random", form="learning rate", draw=draw)
        now = context(shared, recipe=STEPS, scores=at_random(model, shared[0]))
        method.before(model, shared[1], now)
        found.append(method.stiffness["conv3_1"])
        sizes = {layer: c.out_channels for layer, c in conv_layers(model).items()}
        assert {layer: len(s) for layer, s in method.stiffness.items()} == sizes
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    shapes = {p.ndim for p in by_parameter(model, method.stiffness)}
    assert shapes == {1, 4}


# --- as methods of the study ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("ewc", {"strength": -1}, "strength -1: expected a number of at least 0"),
        ("ewc", {"strength": float("inf")}, "strength inf: expected"),
        ("ewc", {"strength": True}, "strength True: expected"),
        ("ewc", {"fisher": "kfac"}, "fisher 'kfac': expected one of exact, sampled, empirical"),
        ("ewc", {"images": 0}, "images 0: expected a whole number of at least 1"),
        ("l2", {"strength": "big"}, "strength 'big': expected"),
        ("si", {"damping": 0}, "damping 0: expected a number above 0"),
        ("soft", {"ranking": "stars"}, "ranking 'stars': expected one of"),
        ("soft", {"ranking": "mse", "form": "hard"}, "form 'hard': expected one of stiffness"),
        ("soft", {"ranking": "mse", "importance": "si"}, "importance 'si': expected one of"),
        ("soft", {"ranking": "mse", "classes": "min"}, "classes 'min': expected one of mean"),
        ("soft", {"ranking": "mse", "scope": "all"}, "scope 'all': expected one of weights"),
        ("soft", {"ranking": "mse", "draw": 1}, "draw 1 with ranking 'mse'"),
        ("soft", {"ranking": "mse", "images": 5}, "images 5 with importance uniform"),
        (
            "soft",
            {"ranking": "mse", "form": "learning rate", "strength": 1.5},
            "strength .form learning rate. 1.5: expected a number from 0 to 1",
        ),
        (
            "soft",
            {"ranking": "mse", "form": "learning rate", "importance": "exact"},
            "importance 'exact' with form learning rate",
        ),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(name, options, words):
    with pytest.raises(ValueError, match=words):
        METHODS[name](**options)


@pytest.mark.parametrize(
    "method",
    [
        EWC(strength=1.0),
        SI(strength=1.0),
        SoftFreeze(ranking="random", strength=1.0),
        SoftFreeze(ranking="random", form="learning rate"),
        LwF(),
    ],
    ids=["ewc", "si", "stiffness", "learning rate", "lwf"],
)
def test_a_recorded_step_trains_to_the_same_bits(shared, monkeypatch, method):
    """A GPU records a step and replays it: the hooks must do all their work on the device."""
    recordings = []

    def record(step):
        with Tape() as noted:
            step()
        replays = iter([lambda: None])
        recordings.append(step)
        return lambda: next(replays, noted.replay)()

    assert method.steady
    plain = network(dtype=torch.float32)
    recorded, again = copy.deepcopy(plain), copy.deepcopy(method)
    needs = {"scores": at_random(plain, shared[0]), **method_needs(plain)}
    rounds(plain, shared, STEPS, method, **needs)
    monkeypatch.setattr(kernels, "recorder", lambda device: record)
    rounds(recorded, shared, STEPS, again, **needs)
    assert len(recordings) == 2 and same(bits(plain), bits(recorded))


@pytest.fixture
def three_tasks(small_study):
    """Three tasks, a head each."""
    arms = (
        Arm(name="fine-tune"),
        Arm(name="EWC", method="ewc", options={"strength": 1.0, "images": 16}),
        Arm(name="SI", method="si", options={"strength": 1.0}),
        Arm(name="L2", method="l2", options={"strength": 0.1}),
        Arm(name="stiff", method="soft", options={"ranking": "random", "strength": 1.0}),
        Arm(name="slow", method="soft", options={"ranking": "random", "form": "learning rate"}),
    )
    return small_study(*arms, tasks=3, network={"heads": "per_task"})


def test_they_run_as_arms_of_a_study_with_three_tasks(three_tasks):
    for arm in three_tasks.arms:
        run(three_tasks, 1, arm.name)
    tables = collect(three_tasks)
    rows = {row["arm"]: row for row in tables["runs"]}
    assert list(rows) == [arm.name for arm in three_tasks.arms]
    assert len({row["loss1"] for row in rows.values()}) == len(rows)  # each does something else
    assert len({row["lineage"] for row in rows.values()}) == 1
    pulls = [(row["arm"], row["round"]) for row in tables["pulls"]]
    assert pulls == [(arm, r) for arm in ("EWC", "SI", "L2", "stiff") for r in (2, 3)]
    assert {row["arm"] for row in tables["stiffness"]} == {"stiff", "slow"}
    kept = {row["arm"]: (row["family"], row["keeps"]) for row in table(three_tasks)}
    assert kept["EWC"] == kept["SI"] == ("penalties", "importances")
    assert kept["L2"] == ("penalties", "weights") and kept["slow"][1] == "importances"


def test_si_in_a_study_weighs_by_the_path_recorded_along_task_1(small_study):
    """Its importances, as its row tells them, recomputed one parameter at a time; and the path in
    the product is that of task 1's training."""
    damping = 1e-3
    profile = small_study(Arm(name="SI", method="si", options={"damping": damping}))
    (pull,), path = run(profile, 1, "SI")["pulls"], task1(profile, 1)["path"]
    split = tasks_of(profile, 1)
    model, recorded = fresh_network(profile, 1, outputs_of(split)), RecordPath()
    start, largest, total, count = slow.weights(model), 0.0, 0.0, 0
    for name, now in network_after_task1(profile, 1).named_parameters():
        importance = path[name] / ((now.detach() - start[name]) ** 2 + damping)
        for value in importance.flatten().tolist():
            largest, total, count = max(largest, value), total + max(value, 0.0), count + 1
    assert largest == pytest.approx(pull["largest_importance"], rel=1e-5) and largest > 0
    assert total / count == pytest.approx(pull["mean_importance"], rel=1e-5)
    recorded.before(model, split[0])
    fit(model, split[0], profile.recipe, recorded, seed=1)
    close(path, recorded.omega, 1e-6)
