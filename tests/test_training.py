"""The loop is the textbook's, fixed by its seed, and calls a method's hooks; recording changes no
bit of training."""

import copy
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from sklearn.metrics import confusion_matrix
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from lib import kernels, training
from lib.data import split_tasks
from lib.evaluation import confusion, evaluate, measure, predict
from lib.freezing import frozen, pack, unpack
from lib.methods import (
    LINE_POINTS,
    Context,
    FineTune,
    Freeze,
    RecordPath,
    frozen_fraction,
    interpolate,
)
from lib.network import conv_layers, vgg16
from lib.precision import autocast, resolve_precision
from lib.recipe import Recipe
from lib.training import Method, fit
from references.training import sgd_by_hand

RECIPE = Recipe(
    epochs=2,
    batch_size=32,
    lr=0.01,
    momentum=0.9,
    weight_decay=0.01,
    crop_padding=2,
    precision="float32",
)


def network(outputs=2, batch_norm=True, dtype=torch.float32, classifier="linear"):
    generator = torch.Generator().manual_seed(3)
    return vgg16(outputs, 0.0625, batch_norm, classifier=classifier, generator=generator).to(dtype)


def with_dropout():
    return network(classifier="torchvision")


def bits(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(a, b):
    return all(torch.equal(v, b[k]) for k, v in a.items())


# --- the loop -------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_norm", [False, True])
def test_fit_and_the_recorded_path_equal_the_textbook_loop_in_float64(tiny_images, batch_norm):
    task = split_tasks(tiny_images, [[0, 1], [2, 3]], "per_task")[1]  # outputs 2 and 3 of 4
    fast, slow = (network(4, batch_norm, torch.float64) for _ in range(2))
    path = RecordPath()
    path.before(fast, task)
    history = fit(fast, task, RECIPE, path, seed=5)
    losses, omega = sgd_by_hand(slow, task, RECIPE, seed=5)
    moved = (
        (
            fast.features.conv1_1.weight
            - network(4, batch_norm, torch.float64).features.conv1_1.weight
        )
        .abs()
        .max()
    )
    assert moved > 1e-4 and history.loss == pytest.approx(losses, rel=1e-6)
    for k, v in fast.state_dict().items():
        torch.testing.assert_close(v, slow.state_dict()[k], rtol=1e-12, atol=1e-12)
    assert set(path.omega) == set(omega) == {k for k, _ in fast.named_parameters()}
    for k, v in path.omega.items():
        assert v.any()
        torch.testing.assert_close(v, omega[k], rtol=1e-9, atol=1e-13)


def test_a_float64_loss_is_not_rounded_to_float32(tiny_tasks):
    model, recipe = network(dtype=torch.float64), replace(RECIPE, epochs=1)
    slow = copy.deepcopy(model)
    losses, _ = sgd_by_hand(slow, tiny_tasks[0], recipe, 0)
    assert fit(model, tiny_tasks[0], recipe).loss == pytest.approx(losses, rel=1e-11)


def test_it_learns(tiny_tasks):
    model = network()
    history = fit(model, tiny_tasks[0], replace(RECIPE, epochs=6, batch_size=16))
    assert history.loss[-1] < 0.5 * history.loss[0] and len(history.loss) == 6
    assert evaluate(model, tiny_tasks[0]) > 0.9


def test_a_seed_gives_the_same_bits_and_another_seed_others(tiny_tasks):
    trained = []
    for seed, noise in ((1, 0), (1, 99), (2, 0)):
        model = with_dropout()
        torch.manual_seed(noise)  # the global generator plays no part, and is left alone
        state = torch.get_rng_state()
        history = fit(model, tiny_tasks[0], RECIPE, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        trained.append((bits(model), history.loss))
    assert same(trained[0][0], trained[1][0]) and trained[0][1] == trained[1][1]
    weights = [k for k, v in trained[0][0].items() if v.ndim > 1]
    assert not any(torch.equal(trained[0][0][k], trained[2][0][k]) for k in weights)


def test_tasks_of_other_names_see_other_batches(tiny_tasks):
    a, b = network(), network()
    fit(a, tiny_tasks[0], RECIPE)
    fit(b, tiny_tasks[0]._replace(name="other"), RECIPE)
    assert not same(bits(a), bits(b))


def test_watching_changes_no_bit(tiny_tasks):
    alone, watched, said = with_dropout(), with_dropout(), []
    fit(alone, tiny_tasks[0], RECIPE)
    history = fit(
        watched, tiny_tasks[0], RECIPE, watch=tiny_tasks, report=lambda *line: said.append(line)
    )
    assert same(bits(alone), bits(watched))
    assert [(r["epoch"], r["task"]) for r in history.accuracy] == [
        (e, f"task{t}") for e in (1, 2) for t in (1, 2)
    ]
    assert [r["accuracy"] for r in history.accuracy[2:]] == [
        evaluate(watched, t) for t in tiny_tasks
    ]
    assert [line[:2] for line in said] == [(1, 2), (2, 2)] and set(said[0][2]) == {"task1", "task2"}
    assert 0 < said[0][3] <= said[1][3] <= history.seconds


def test_recording_the_path_changes_no_bit(tiny_tasks):
    plain, recorded, path = with_dropout(), with_dropout(), RecordPath()
    path.before(recorded, tiny_tasks[0])
    histories = [fit(plain, tiny_tasks[0], RECIPE), fit(recorded, tiny_tasks[0], RECIPE, path)]
    assert same(bits(plain), bits(recorded)) and histories[0].loss == histories[1].loss
    assert sum(float(v.sum()) for v in path.omega.values()) > 0


class Tape(TorchDispatchMode):
    """What a CUDA graph does, on a processor: notes each operation with the memory it reads and
    writes, and does the same again, on the same memory, whatever Python objects have come to mean
    since."""

    def __init__(self):
        super().__init__()
        self.work = []

    def __torch_dispatch__(self, operation, _types, args=(), kwargs=None):
        here = lambda tree: tree_map_only(Tensor, lambda t: t.detach(), tree)  # noqa: E731  the memory of this moment
        noted = here((args, kwargs or {}))
        result = operation(*args, **(kwargs or {}))
        assert operation not in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.nonzero.default,
        ), f"{operation} waits for the device"
        assert (kwargs or {}).get("generator") is None, (
            f"{operation} draws numbers that a graph would not draw again"
        )
        if not operation.is_view:
            self.work.append((operation, noted, here(result)))
        return result

    def replay(self):
        with torch.no_grad():
            for operation, (args, kwargs), outputs in self.work:
                again = operation(*args, **kwargs)
                for old, new in zip(tree_leaves(outputs), tree_leaves(again)):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


class Halves(Method):
    """Freezes every other filter."""

    def __init__(self, scope):
        self.scope = scope

    def during(self, model):
        return frozen(
            model,
            {k: torch.arange(c.out_channels) % 2 == 0 for k, c in conv_layers(model).items()},
            self.scope,
        )


@pytest.mark.parametrize("method", [Method(), Halves("weights"), Halves("filter")])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_recorded_step_trains_to_the_same_bits(tiny_tasks, monkeypatch, method, precision):
    recipe = replace(RECIPE, batch_size=8, precision=precision)
    plain, recorded = network(), network()
    before = fit(plain, tiny_tasks[0], recipe, method, seed=4, watch=tiny_tasks)
    recordings = []

    def record(step):
        with (
            Tape() as noted
        ):  # unlike a CUDA graph it does what it notes, so that the first replay has nothing to do
            step()
        replays = iter([lambda: None])
        recordings.append(step)
        return lambda: next(replays, noted.replay)()

    monkeypatch.setattr(kernels, "recorder", lambda device: record)
    after = fit(recorded, tiny_tasks[0], recipe, method, seed=4, watch=tiny_tasks)
    assert (
        len(recordings) == 1 and kernels.WARM_UP + 1 < 10 * recipe.epochs
    )  # the other steps were replays
    assert same(bits(plain), bits(recorded))
    assert before.loss == after.loss and before.accuracy == after.accuracy


def test_the_path_of_a_recorded_training_is_the_plain_ones(tiny_tasks, monkeypatch):
    recipe, ways = replace(RECIPE, batch_size=8), []

    def record(step):
        with Tape() as noted:
            step()
        replays = iter([lambda: None])
        return lambda: next(replays, noted.replay)()

    for recorder in (lambda device: None, lambda device: record):
        monkeypatch.setattr(kernels, "recorder", recorder)
        model, path = network(), RecordPath()
        path.before(model, tiny_tasks[0])
        fit(model, tiny_tasks[0], recipe, path, seed=4)
        ways.append({**bits(model), **{f"path of {k}": v for k, v in path.omega.items()}})
    assert any(v.any() for k, v in ways[0].items() if k.startswith("path"))
    assert same(*ways)


def test_only_methods_without_hooks_in_the_step_are_recorded(tiny_tasks, monkeypatch):
    def never(step):
        raise AssertionError("recorded")

    monkeypatch.setattr(kernels, "recorder", lambda device: never)
    assert Method().steady and Freeze("random", 0.5).steady
    assert not FineTune(trace=True).steady and not Diary().steady
    fit(network(), tiny_tasks[0], replace(RECIPE, batch_size=8), Diary())
    with pytest.raises(AssertionError, match="recorded"):
        fit(network(), tiny_tasks[0], replace(RECIPE, batch_size=8))


class Diary(Method):
    """Notes every call, and looks at what it may look at."""

    def __init__(self):
        self.events, self.sizes = [], []

    def before(self, *_):
        self.events.append("before")

    def after(self, *_):
        self.events.append("after")

    @contextmanager
    def during(self, model):
        self.events.append("in")
        yield
        self.events.append("out")

    def batch(self, x, y):
        self.events.append("batch")
        self.sizes.append((len(x), len(y), x.dtype))
        return x, y

    def penalty(self, model, x, y, outputs):
        assert x.dtype == torch.float32 and outputs.shape == (len(y), 2) and torch.is_grad_enabled()
        self.events.append("penalty")
        return 0.0

    def after_backward(self, model):
        self.events.append("backward")
        assert all(p.grad is not None for p in model.parameters())
        self.old = bits(model)

    def after_step(self, model):
        self.events.append("step")
        assert not torch.equal(model.head.weight, self.old["head.weight"])


def test_hooks_are_called_in_order_and_the_last_incomplete_batch_is_dropped(tiny_tasks):
    diary = Diary()
    fit(network(), tiny_tasks[0], RECIPE, diary)  # 80 images: two batches of 32, 16 left over
    assert diary.events == ["in", *["batch", "penalty", "backward", "step"] * 4, "out"]
    assert diary.sizes == [(32, 32, torch.uint8)] * 4


def test_batch_and_penalty_take_effect(tiny_tasks):
    class Other(Method):
        def batch(self, x, y):
            return torch.cat([x, x[:1]]), torch.cat([y, y[:1] + 7])  # replay: a longer batch

        def penalty(self, model, x, y, outputs):
            # the added image is the method's own business: its label is no output of this task
            assert len(x) == len(y) == len(outputs) == 33 and y[-1] >= 7
            return 1000 * model.head.weight.square().sum()

    plain, other = network(), network()
    fit(plain, tiny_tasks[0], RECIPE)
    loss = fit(other, tiny_tasks[0], replace(RECIPE, lr=1e-4), Other()).loss
    assert other.head.weight.norm() < 0.5 * plain.head.weight.norm() and loss[0] > 100 > loss[1]


def test_a_batch_larger_than_the_task_is_refused(tiny_tasks):
    with pytest.raises(
        ValueError, match="task1 has 80 training images, fewer than one batch of 81"
    ):
        fit(network(), tiny_tasks[0], replace(RECIPE, batch_size=81))
    fit(network(), tiny_tasks[0], replace(RECIPE, batch_size=80, epochs=1))


def test_a_loss_that_is_not_finite_ends_the_run(tiny_tasks):
    recipe = replace(RECIPE, lr=1e30)
    with pytest.raises(
        FloatingPointError, match="loss of task1 became nan in epoch 1 .*lower the learning rate"
    ):
        fit(network(batch_norm=False), tiny_tasks[0], recipe)


# --- evaluation -----------------------------------------------------------------------------------


class Reads(nn.Module):
    """Logits of four outputs written in the image: pixel (0, 0, k) is the logit of output k."""

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.one * x[:, 0, 0, :4]


def test_evaluate_is_over_the_task_s_own_outputs(tiny_tasks):
    x = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    x[:, 0, 0, :4] = torch.tensor([[9, 1, 2, 3], [9, 1, 3, 2], [1, 9, 2, 3], [1, 9, 3, 2]])
    y = torch.tensor([1, 0, 0, 0])  # the second head answers 1, 0, 1, 0; the first 0, 0, 1, 1
    second = tiny_tasks[0]._replace(x_test=x, y_test=y, first_output=2)
    first = second._replace(first_output=0)
    joint = first._replace(classes=(0, 1, 2, 3))
    assert [evaluate(Reads(), t) for t in (first, second, joint)] == [0.25, 0.75, 0.25]
    logits = (x[:, 0, 0, 2:4].float() / 255 - second.mean[0]) / second.std[0]
    assert measure(Reads(), second) == {
        "accuracy": 0.75,
        "loss": pytest.approx(float(F.cross_entropy(logits, y))),
    }


def test_measure_of_the_training_part(tiny_tasks):
    swapped = tiny_tasks[0]._replace(x_test=tiny_tasks[0].x, y_test=tiny_tasks[0].y)
    model = network()
    assert (
        measure(model, tiny_tasks[0], part="train")
        == measure(model, swapped)
        != measure(model, tiny_tasks[0])
    )


@pytest.mark.parametrize(
    ("batch_norm", "fraction", "once"),
    [(False, 1.0, True), (True, 1.0, False), (False, 0.5, False)],
)
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_features_that_stay_as_they_are_are_computed_once(
    tiny_tasks, monkeypatch, batch_norm, fraction, once, precision
):
    recipe, runs = replace(RECIPE, epochs=3, precision=precision), []
    for cached in (True, False):
        model, calls = network(batch_norm=batch_norm), []
        model.features.conv1_1.register_forward_hook(
            lambda m, i, o, calls=calls: calls.append(m.training)
        )
        masks = {
            k: torch.arange(c.out_channels) < fraction * c.out_channels
            for k, c in conv_layers(model).items()
        }
        method = Method()
        method.during = lambda model, masks=masks: frozen(model, masks)
        if not cached:
            monkeypatch.setattr(training, "_features_are_fixed", lambda model: False)
        runs.append((fit(model, tiny_tasks[0], recipe, method, watch=tiny_tasks), bits(model)))
        assert calls.count(False) == len(tiny_tasks) * (1 if once and cached else 3)
    monkeypatch.undo()
    assert runs[0][0].accuracy == runs[1][0].accuracy and same(runs[0][1], runs[1][1])


@pytest.mark.parametrize("training", [True, False])
def test_predict_restores_the_mode_and_changes_nothing(tiny_tasks, training, monkeypatch):
    model = with_dropout().train(training)
    before = bits(model)
    whole = predict(model, tiny_tasks[0], tiny_tasks[0].x)
    monkeypatch.setattr("lib.evaluation.EVALUATION_BATCH", 7)
    torch.testing.assert_close(
        predict(model, tiny_tasks[0], tiny_tasks[0].x), whole, rtol=1e-5, atol=1e-6
    )
    assert model.training is training and same(before, bits(model)) and not whole.requires_grad
    model.head.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        predict(model, tiny_tasks[0], tiny_tasks[0].x)
    assert model.training is training


def test_confusion_equals_scikit_learn_s(tiny_images):
    task = split_tasks(tiny_images, [[0, 1], [2, 3]], "per_task")[1]
    task = task._replace(y_test=(task.y_test + torch.arange(20) // 15) % 2)  # not symmetric
    model = network(4)
    counts = confusion(model, task)
    answers = predict(model, task, task.x_test)[:, 2:].argmax(1)
    assert counts.tolist() == confusion_matrix(task.y_test, answers, labels=[0, 1]).tolist()
    assert (
        int(counts.sum()) == 20 and counts.sum(1).tolist() == torch.bincount(task.y_test).tolist()
    )
    assert float(counts.trace()) / 20 == evaluate(model, task)


@pytest.mark.parametrize(("has_bf16", "auto"), [(True, "bf16"), (False, "float32")])
def test_precision_auto_is_bf16_where_the_device_has_it(monkeypatch, has_bf16, auto):
    monkeypatch.setattr("lib.precision.bf16_supported", lambda device: has_bf16)
    assert [resolve_precision(p, "cpu") for p in ("auto", "bf16", "float32")] == [
        auto,
        "bf16",
        "float32",
    ]
    with autocast("auto", torch.device("cpu")):
        assert torch.is_autocast_enabled("cpu") is has_bf16
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (
            torch.bfloat16 if has_bf16 else torch.float32
        )


def test_bf16_trains_float32_weights_close_to_float32(tiny_tasks):
    models = [network(), network()]
    losses = [
        fit(m, tiny_tasks[0], replace(RECIPE, precision=p)).loss
        for m, p in zip(models, ("float32", "bf16"))
    ]
    assert all(p.dtype == torch.float32 for p in models[1].parameters())
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.1)


# --- methods --------------------------------------------------------------------------------------


def context(tasks, recipe, scores=None):
    return Context(tasks, 0, recipe, scores, lambda m: {t.name: evaluate(m, t) for t in tasks})


def test_the_trace_of_fine_tuning_meets_both_ends_and_leaves_no_trace(tiny_tasks):
    recipe = replace(RECIPE, epochs=3, batch_size=8)  # 30 steps
    model, plain = network(), network()
    for m in (model, plain):
        fit(m, tiny_tasks[0], recipe)
    method, around = FineTune(trace=True), context(tiny_tasks, recipe)
    start, before = bits(model), around.accuracies(model)
    method.before(model, tiny_tasks[1], around)
    fit(model, tiny_tasks[1], recipe, method)
    end, at_end = bits(model), around.accuracies(model)
    method.after(model, tiny_tasks[1], around)
    fit(plain, tiny_tasks[1], recipe)
    assert same(end, bits(model)) and same(end, bits(plain)) and not same(start, end)
    ((table, rows),) = method.records().items()
    assert table == "trajectory"
    trajectory = [r for r in rows if r["control"] == "trajectory"]
    line = [r for r in rows if r["control"] == "interpolation"]
    places = [r["place"] for r in trajectory]
    assert (
        places[0] == 0
        and places[-1] == 30
        and places == sorted(set(places))
        and 10 <= len(places) <= 21
    )
    assert trajectory[0] == {"control": "trajectory", "place": 0, **before}
    assert trajectory[-1] == {"control": "trajectory", "place": 30, **at_end}
    assert [r["place"] for r in line] == [k / 10 for k in range(LINE_POINTS)]
    assert line[0] == {"control": "interpolation", "place": 0, **before}
    assert line[-1] == {"control": "interpolation", "place": 1, **at_end}
    plain.load_state_dict(interpolate(start, end, 0.5))
    assert line[5] == {"control": "interpolation", "place": 0.5, **around.accuracies(plain)}
    assert len({tuple(r.values())[2:] for r in line}) > 1  # accuracies really change along the line
    method.before(model, tiny_tasks[0], around)  # a third round
    fit(model, tiny_tasks[0], recipe, method)
    method.after(model, tiny_tasks[0], around)
    assert method.records()["trajectory"] == [*trajectory, *line]  # of round 2 alone


def test_fine_tuning_without_a_trace_records_nothing(tiny_tasks):
    method = FineTune()
    method.before(network(), tiny_tasks[0], None)
    method.after(network(), tiny_tasks[0], None)
    model = network()
    assert method.records() == {} and method.after_step(model) is None and method.rows == []


def test_interpolate():
    start = {"w": torch.tensor([0.1, -4.0]), "n": torch.tensor(3)}
    end = {"w": torch.tensor([0.3, 4.0]), "n": torch.tensor(9)}
    assert same(interpolate(start, end, 0), start) and same(interpolate(start, end, 1), end)
    half = interpolate(start, end, 0.5)
    torch.testing.assert_close(half["w"], torch.tensor([0.2, 0.0]))
    assert half["n"] == 9 and half["n"].dtype == torch.int64
    torch.testing.assert_close(interpolate(start, end, 0.25)["w"], torch.tensor([0.15, -2.0]))
    for alpha in (0, 0.5, 1):  # never the given tensors themselves
        interpolate(start, end, alpha)["w"].zero_()
    assert start["w"].any() and end["w"].any()


def test_freeze_asks_its_ranking_and_holds_its_masks(tiny_tasks):
    asked = []

    def scores(name, **options):
        asked.append((name, options))
        return {
            k: torch.arange(c.out_channels).view(1, -1).double()
            for k, c in conv_layers(model).items()
        }

    model, method = network(), Freeze("random", 0.5, scope="filter", draw=3)
    before = bits(model)
    method.before(model, tiny_tasks[0], context(tiny_tasks, RECIPE, scores))
    fit(model, tiny_tasks[0], RECIPE, method)
    assert asked == [("random", {"draw": 3})] and frozen_fraction(model, method) == 0.5
    assert frozen_fraction(model, FineTune()) == 0
    for layer, conv in conv_layers(model).items():
        half = conv.out_channels // 2  # the higher scores
        assert torch.equal(conv.weight[half:], before[f"features.{layer}.weight"][half:])
        assert not torch.equal(conv.weight[:half], before[f"features.{layer}.weight"][:half])
    rows = method.records()["masks"]
    assert [r["layer"] for r in rows] == list(conv_layers(model)) and {
        r["fraction"] for r in rows
    } == {0.5}
    assert [unpack(r["mask"], r["filters"]).tolist() for r in rows] == [
        m.tolist() for m in method.masks.values()
    ]
    assert [r["frozen"] for r in rows] == [r["filters"] // 2 for r in rows]
    Freeze("mse", 0.5).before(model, tiny_tasks[0], context(tiny_tasks, RECIPE, scores))
    assert asked[1] == ("mse", {})  # a ranking without draws is asked for none


@pytest.mark.parametrize(
    "bad",
    [
        {"fraction": 1.1},
        {"fraction": -0.1},
        {"fraction": float("nan")},
        {"fraction": "half"},
        {"fraction": 0.5, "rule": "all"},
        {"fraction": 0.5, "scope": "bias"},
    ],
)
def test_freeze_refuses_wrong_options(bad):
    with pytest.raises(ValueError, match="expected"):
        Freeze("mse", **bad)


@pytest.mark.parametrize("filters", [1, 4, 8, 9, 64, 100])
def test_pack_and_unpack(filters):
    mask = torch.rand(filters, generator=torch.Generator().manual_seed(filters)) < 0.5
    assert torch.equal(unpack(pack(mask), filters), mask)
    assert len(pack(mask)) == 2 * -(-filters // 8)
    assert pack(torch.tensor([True] + [False] * 8)) == "8000"  # the first filter is the highest bit
