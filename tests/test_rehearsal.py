"""Replay and DER++: what is kept, what a step sees of it, and what is learned from it."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from lib.data import normalise
from lib.evaluation import predict
from lib.methods import DER, METHODS, Replay
from lib.methods.rehearsal import Buffer, choose
from lib.recipe import Recipe
from lib.study.arms import table
from lib.study.profile import Arm
from lib.study.runs import run
from lib.study.tables import collect
from lib.training import Method, fit
from references.rehearsal import der_penalty, replay_penalty
from tests.small import context, network

RECIPE = Recipe(epochs=2, batch_size=16, lr=0.02, momentum=0.9, precision="float32")
STILL = Recipe(epochs=2, batch_size=16, lr=0.02, crop_padding=0, flip=False, precision="float32")


def watched(cls, **options):
    """The method, keeping what its penalty saw: (x, y, outputs, penalty, picks) of every step."""

    class Watched(cls):
        seen = ()

        def penalty(self, model, x, y, outputs):
            value = super().penalty(model, x, y, outputs)
            self.seen = (*self.seen, (x, y, outputs.detach(), float(value.detach()), self.picks))
            return value

    return Watched(**options)


# --- what is kept ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["replay", "der"])
def test_the_buffer_is_fixed_by_the_seed_and_balanced(tasks, name):
    """Both methods of one seed keep the same images, as they are; a smaller buffer is part of a
    larger one; every earlier task's stay."""
    model, method = network(tasks), METHODS[name](per_class=3)
    method.before(model, tasks[1], context(tasks, 2))
    picks = choose(tasks[0], 3, seed=3)
    assert torch.equal(method.buffer.x, tasks[0].x[picks]) and len(set(picks.tolist())) == 6
    assert torch.equal(method.buffer.y, tasks[0].y[picks])
    assert method.buffer.y.tolist() == [0] * 3 + [1] * 3
    assert set(picks.tolist()) <= set(choose(tasks[0], 5, seed=3).tolist())
    assert set(picks.tolist()) != set(choose(tasks[0], 3, seed=4).tolist())
    method.before(model, tasks[2], context(tasks, 3))
    second = choose(tasks[1], 3, seed=3)
    assert torch.equal(method.buffer.x, torch.cat([tasks[0].x[picks], tasks[1].x[second]]))
    heads = [tasks[0].first_output] * 6 + [tasks[1].first_output] * 6
    assert method.buffer.first.tolist() == heads
    numbers = 12 * (3 * 32 * 32 + 8 + 8)  # a byte a pixel, eight for the label and for the head
    logits = {"replay": 0, "der": 12 * 2 * 4}[name]
    assert method.records() == {"memory": [{"images": 12, "bytes": numbers + logits}]}


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_logits_are_stored_in_evaluation_mode_at_the_end_of_their_round(tasks, precision):
    recipe = Recipe(epochs=1, batch_size=16, precision=precision)
    model, method = network(tasks).train(), DER(per_class=4)
    stored = []
    for number, task in enumerate(tasks[1:], 2):
        before = {k: v.clone() for k, v in model.state_dict().items()}
        method.before(model, task, context(tasks, number, recipe))
        assert model.training  # nothing of the model is moved by looking at it
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
        learned = tasks[number - 2]
        x = learned.x[choose(learned, 4, seed=3)]
        stored.append(predict(model, learned, x, precision)[:, learned.outputs])
        assert torch.equal(method.buffer.logits, torch.cat(stored))
        fit(model, task, recipe, method, seed=3)
    assert stored[0].shape == (8, 2) and not stored[0].requires_grad
    if precision == "float32":  # and literally, without predict
        again = network(tasks).eval()
        with torch.no_grad():
            literal = again(normalise(tasks[0].x[choose(tasks[0], 4, seed=3)], tasks[0]))
        torch.testing.assert_close(stored[0], literal[:, tasks[0].outputs])


# --- what a step sees -----------------------------------------------------------------------------


def test_the_new_images_are_those_of_fine_tuning_and_the_buffers_come_last(tasks):
    """Without augmentation, so that images can be told: every step, over two epochs."""

    class Look(Method):
        seen = ()

        def penalty(self, model, x, y, outputs):
            self.seen = (*self.seen, (x, y))
            return 0.0

    plain = Look()
    fit(network(tasks), tasks[1], STILL, plain, seed=3)
    for size, expected in ((None, 16), (5, 5), (100, 24)):  # the whole buffer where it is smaller
        method = watched(Replay, per_class=12, batch_size=size)
        method.before(network(tasks), tasks[1], context(tasks, 2))
        fit(network(tasks), tasks[1], STILL, method, seed=3)
        assert len(method.seen) == len(plain.seen) == 4
        for (x, y, _, _, picks), (own_x, own_y) in zip(method.seen, plain.seen):
            assert torch.equal(x[:16], own_x) and torch.equal(y[:16], own_y)
            assert len(picks) == len(set(picks.tolist())) == expected == len(x) - 16
            torch.testing.assert_close(x[16:], normalise(method.buffer.x[picks], tasks[1]))
            assert torch.equal(y[16:], method.buffer.y[picks])
        assert not torch.equal(method.seen[0][4], method.seen[1][4])  # drawn anew in every step


def test_draws_are_the_seeds_own(tasks):
    """Equal for the same seed whichever method asks; other ones for another seed and in the next
    round."""

    def draws(cls, seed, number=2):
        method = watched(cls, per_class=12)
        method.before(network(tasks), tasks[1], context(tasks, 2, seed=seed))
        if number == 3:
            method.before(network(tasks), tasks[2], context(tasks, 3, seed=seed))
        fit(network(tasks), tasks[number - 1], RECIPE, method, seed=seed)
        return torch.stack([picks for *_, picks in method.seen]), method.draws.initial_seed()

    (first, own), (again, _), (der, _) = draws(Replay, 3), draws(Replay, 3), draws(DER, 3)
    assert torch.equal(first, again) and torch.equal(first, der)
    assert not torch.equal(first, draws(Replay, 4)[0])
    assert len({own, draws(Replay, 3, number=3)[1], draws(Replay, 4)[1]}) == 3


def test_draws_leave_the_global_random_numbers_to_dropout(tasks):
    """The buffer's choice and the step's draw have generators apart from the global one."""
    method, before = Replay(per_class=12), torch.get_rng_state()
    method.before(network(tasks), tasks[1], context(tasks, 2))
    method.batch(tasks[1].x[:16], tasks[1].y[:16])
    assert torch.equal(before, torch.get_rng_state())


class NoReading(TorchDispatchMode):
    """Refuses what makes a device wait: a number read from a tensor, a size that depends on one."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "item"):
            raise AssertionError(f"{func} reads from the device")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["replay", "der"])
def test_a_step_reads_nothing_back(tasks, name):
    method = METHODS[name](per_class=12)
    method.before(network(tasks), tasks[1], context(tasks, 2))
    with NoReading():
        x, y = method.batch(tasks[1].x[:16], tasks[1].y[:16])
        outputs = torch.zeros(len(x), max(t.outputs.stop for t in tasks), requires_grad=True)
        method.penalty(None, x, y, outputs).backward()
    with pytest.raises(AssertionError, match="reads"), NoReading():  # the guard itself can fail
        float(outputs.detach().sum())


# --- what is learned from it ----------------------------------------------------------------------


def test_the_penalties_by_hand():
    """Two heads of two outputs, an image of each. Logits (ln 3, 0): probability 3/4 of label 0."""
    outputs = torch.tensor([[9.0, 9, 9, 9], [math.log(3), 0, 5, -5], [7, 7, math.log(3), 0]])
    y = torch.tensor([1, 0, 1])  # the first row is a new image: no business of the penalty
    stored = torch.tensor([[math.log(3) - 1, 0], [math.log(3), 2]])
    buffer = Buffer(torch.empty(2, 3, 1, 1), y[1:], torch.tensor([0, 2]), stored)
    cross_entropy = (-math.log(0.75) - math.log(0.25)) / 2
    distance = (1 + 0 + 0 + 4) / 4
    cases = (
        (Replay(), cross_entropy),
        (DER(alpha=0.3, beta=0), 0.3 * distance),
        (DER(alpha=0.1, beta=0.5), 0.1 * distance + 0.5 * cross_entropy),
    )
    for method, expected in cases:
        method.buffer, method.picks, method.classes = buffer, torch.tensor([0, 1]), 2
        found = float(method.penalty(None, None, y, outputs))
        assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("name", ["replay", "der"])
def test_training_equals_the_literal_method(tasks, name, batch_norm):
    """float64, both rounds: every step's penalty, and SGD written out over the literal loss."""
    model = network(tasks, batch_norm, torch.float64)
    weights = {"alpha": 0.3, "beta": 0.5} if name == "der" else {}
    method = watched(METHODS[name], per_class=4, **weights)
    for number, task in enumerate(tasks[1:], 2):
        slow, velocity, method.seen = copy.deepcopy(model).train(), {}, ()
        method.before(model, task, context(tasks, number))
        fit(model, task, RECIPE, method, seed=3)
        method.after(model, task, context(tasks, number))
        buffer, k = method.buffer, torch.arange(2)
        assert len(method.seen) == 4
        for x, y, outputs, value, picks in method.seen:
            first, labels = buffer.first[picks], y[16:]
            rows = outputs[16:].tolist(), labels.tolist(), first.tolist()
            if name == "replay":
                literal = replay_penalty(*rows, 2)
            else:
                literal = der_penalty(*rows, buffer.logits[picks].tolist(), 0.3, 0.5)
            assert value == pytest.approx(literal, rel=1e-10)
            out = slow(x)
            own = torch.stack([row[f + k] for row, f in zip(out[16:], first)])
            loss = F.cross_entropy(out[:16, task.outputs], y[:16])
            share = 1.0 if name == "replay" else 0.5
            loss = loss - share * own.log_softmax(1)[torch.arange(len(own)), labels].mean()
            if name == "der":
                loss = loss + 0.3 * ((own - buffer.logits[picks]) ** 2).mean()
            names, params = zip(*slow.named_parameters())
            gradients = torch.autograd.grad(loss, params)
            with torch.no_grad():
                for n, p, g in zip(names, params, gradients):
                    velocity[n] = 0.9 * velocity.get(n, 0) + g
                    p -= 0.02 * velocity[n]
        for n, p in slow.state_dict().items():
            torch.testing.assert_close(model.state_dict()[n], p, rtol=1e-9, atol=1e-12)


def test_der_without_logits_is_replay_to_the_bit(tasks):
    models = []
    for method in (Replay(per_class=4), DER(per_class=4, alpha=0, beta=1)):
        model = network(tasks)
        method.before(model, tasks[1], context(tasks, 2))
        fit(model, tasks[1], RECIPE, method, seed=3)
        models.append(model.state_dict())
    assert all(torch.equal(v, models[1][k]) for k, v in models[0].items())


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("replay", {"per_class": 0}, "per_class 0: expected a whole number"),
        ("replay", {"per_class": 2.5}, "per_class 2.5"),
        ("replay", {"per_class": None}, "per_class None"),
        ("replay", {"batch_size": 0}, "batch_size 0"),
        ("der", {"batch_size": True}, "batch_size True"),
        ("der", {"alpha": -0.1}, "alpha -0.1: expected a number of at least 0"),
        ("der", {"beta": math.inf}, "beta inf"),
        ("der", {"beta": "half"}, "beta 'half'"),
    ],
)
def test_wrong_options_are_refused(name, options, words):
    with pytest.raises(ValueError, match=words):
        METHODS[name](**options)


def test_a_class_with_too_few_images_is_named(tasks):
    with pytest.raises(ValueError, match="class 0 of task1 has 16 training images.*per_class 17"):
        Replay(per_class=17).before(network(tasks), tasks[1], context(tasks, 2))


def test_they_run_as_arms(small_study):
    arms = (
        Arm(name="replay", method="replay", options={"per_class": 5}),
        Arm(name="DER++", method="der", options={"per_class": 5, "alpha": 0.1}),
    )
    profile = small_study(*arms)
    memory = [run(profile, 1, arm.name)["memory"] for arm in arms]
    assert [rows[0]["images"] for rows in memory] == [10, 10]
    assert memory[1][0]["bytes"] - memory[0][0]["bytes"] == 10 * 2 * 4
    runs = {row["arm"]: row for row in collect(profile)["runs"]}
    for arm, (rows,) in zip(arms, memory):
        size = {"buffer_images": rows["images"], "buffer_bytes": rows["bytes"]}
        assert {k: runs[arm.name][k] for k in size} == size
    assert [row["keeps"] for row in table(profile)] == ["images", "images"]
    assert {row["family"] for row in table(profile)} == {"rehearsal"}


def test_new_images_are_cropped_as_in_fine_tuning(tasks):
    """Augmented, over two epochs: images of the buffer draw their crops from a generator apart."""

    class Look(Method):
        seen = ()

        def penalty(self, model, x, y, outputs):
            self.seen = (*self.seen, x)
            return 0.0

    plain, method = Look(), watched(Replay, per_class=12)
    method.before(network(tasks), tasks[1], context(tasks, 2))
    fit(network(tasks), tasks[1], RECIPE, plain, seed=3)
    fit(network(tasks), tasks[1], RECIPE, method, seed=3)
    assert all(torch.equal(x[:16], own) for (x, *_), own in zip(method.seen, plain.seen))
