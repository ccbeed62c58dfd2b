"""Learning without Forgetting: its penalty, its teacher, and what a step costs."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lib.data import Task, load, split_tasks
from lib.evaluation import predict
from lib.methods import METHODS, LwF
from lib.methods.distillation import divergence
from lib.recipe import Recipe
from lib.study.arms import table
from lib.study.profile import Arm
from lib.study.runs import run
from lib.training import Method, fit
from references.distillation import lwf_penalty
from tests.small import RECIPE, context, network


@pytest.fixture(scope="module")
def six_classes(tmp_path_factory, tiny_npz):
    """A step more an epoch than other methods' tests take: 144 training images."""
    return load(tiny_npz(tmp_path_factory.mktemp("six") / "six.npz", classes=6, per_class=24))


class Watched(LwF):
    """LwF that keeps what its penalty saw: (x, y, outputs, penalty) of every step."""

    def penalty(self, model, x, y, outputs):
        value = super().penalty(model, x, y, outputs)
        self.seen = [*getattr(self, "seen", []), (x, y, outputs.detach(), float(value.detach()))]
        return value


def test_the_divergence_by_hand():
    # T 2 turns logits (2 ln 3, 0) into (3/4, 1/4) and (0, 0) into halves
    old, new = torch.tensor([[2 * math.log(3), 0.0]]), torch.zeros(1, 2)
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert float(divergence(old, new, 2.0)) == pytest.approx(expected, rel=1e-6)
    assert float(divergence(old, old, 2.0)) == 0.0
    assert float(divergence(new, old, 2.0)) != pytest.approx(expected, rel=1e-2)  # not symmetric


def test_the_penalty_by_hand():
    """Two heads of two outputs; round 2 knows one of them, and strength and T^2 multiply."""
    pixels, labels = torch.zeros(8, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 1] * 4)
    tasks = [Task(f"task{k + 1}", (0, 1), pixels, labels, pixels, labels, 2 * k) for k in (0, 1)]
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4))
    nn.init.zeros_(teacher[1].weight)
    with torch.no_grad():  # answers (3/4, 1/4) at T 2 on the old head; the new head is not asked
        teacher[1].bias.copy_(torch.tensor([2 * math.log(3), 0.0, 9.0, -9.0]))
    x, outputs = torch.zeros(5, 3, 32, 32), torch.zeros(5, 4)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    for options, factor in (({}, 1), ({"strength": 3}, 3), ({"strength": 3, "scaled": True}, 12)):
        lwf = LwF(**options)
        lwf.before(teacher, tasks[1], context(tasks, 2))
        assert float(lwf.penalty(teacher, x, labels, outputs)) == pytest.approx(
            factor * expected, rel=1e-5
        )


@pytest.mark.parametrize("batch_norm", [True, False])
def test_training_equals_the_literal_method(tasks, batch_norm):
    """float64, both rounds: every step's penalty, and SGD written out over the literal loss."""
    model = network(tasks, batch_norm, torch.float64)
    for number, task in enumerate(tasks[1:], 2):
        lwf = Watched(strength=0.7, temperature=3.0, scaled=number == 3)
        teacher, slow = copy.deepcopy(model).eval(), copy.deepcopy(model).train()
        lwf.before(model, task, context(tasks, number))
        fit(model, task, RECIPE, lwf, seed=3)
        lwf.after(model, task, context(tasks, number))
        heads = [list(range(t.outputs.start, t.outputs.stop)) for t in tasks[: number - 1]]
        if tasks[1].first_output == 0:
            heads = heads[:1]  # one shared head, however many tasks used it
        velocity = {}
        assert len(lwf.seen) == 3
        for x, y, outputs, value in lwf.seen:
            with torch.no_grad():
                old = teacher(x)
            factor = 0.7 * (9 if number == 3 else 1)
            literal = lwf_penalty(old.tolist(), outputs.tolist(), heads, 3.0, factor)
            assert value == pytest.approx(literal, rel=1e-10)
            new, loss = slow(x), 0.0
            for h in heads:
                p, q = (F.softmax(z[:, h] / 3.0, 1) for z in (old, new))
                loss = loss + factor * (p * (p / q).log()).sum() / len(x)
            loss = loss + F.cross_entropy(new[:, task.outputs], y)
            names, weights = zip(*slow.named_parameters())
            gradients = torch.autograd.grad(loss, weights)
            with torch.no_grad():
                for name, p, g in zip(names, weights, gradients):
                    velocity[name] = 0.9 * velocity.get(name, 0) + g
                    p -= 0.02 * velocity[name]
        for name, p in slow.state_dict().items():
            torch.testing.assert_close(model.state_dict()[name], p, rtol=1e-9, atol=1e-12)


def test_the_teacher_is_untouched_and_the_student_runs_once_a_step(tasks):
    """Bit-equal weights and batch-norm statistics, no gradients; one forward pass of each a
    step, the teacher's in evaluation mode."""
    model = network(tasks)
    model(torch.rand(4, 3, 32, 32)).sum().backward()  # a gradient that a copy might keep
    lwf = LwF(strength=5.0)
    lwf.before(model, tasks[1], context(tasks, 2))
    before = {k: v.clone() for k, v in lwf.teacher.state_dict().items()}
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    modes = {"student": [], "teacher": []}
    for name, net in (("student", model), ("teacher", lwf.teacher)):
        net.register_forward_hook(lambda m, *_, name=name: modes[name].append(m.training))
    fit(model, tasks[1], RECIPE, lwf, seed=3)
    assert modes == {"student": [True] * 3, "teacher": [False] * 3}
    assert all(torch.equal(before[k], v) for k, v in lwf.teacher.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in lwf.teacher.parameters())
    assert all(p.requires_grad for p in model.parameters())
    assert any(not torch.equal(before[k], v) for k, v in model.state_dict().items())
    lwf.after(model, tasks[1], context(tasks, 2))
    assert not hasattr(lwf, "teacher")  # a whole network less to carry


def test_no_strength_is_fine_tuning_to_the_bit(tasks):
    plain, held = network(tasks), network(tasks)
    fit(plain, tasks[1], RECIPE, Method(), seed=3)
    lwf = LwF(strength=0.0)
    lwf.before(held, tasks[1], context(tasks, 2))
    fit(held, tasks[1], RECIPE, lwf, seed=3)
    assert all(torch.equal(v, held.state_dict()[k]) for k, v in plain.state_dict().items())


@pytest.mark.parametrize("batch_norm, epochs", [(True, 8), (False, 4)])
def test_it_holds_old_answers_on_an_old_head(six_classes, batch_norm, epochs):
    """With heads apart the old head's answers to the new images stay near the teacher's."""
    tasks, moved = split_tasks(six_classes, [[0, 1], [2, 3]], "per_task"), {}
    start, recipe = network(tasks, batch_norm), replace(RECIPE, epochs=epochs)
    fit(start, tasks[0], recipe, seed=3)
    for strength in (0.0, 10.0):
        model, lwf = copy.deepcopy(start), LwF(strength)
        lwf.before(model, tasks[1], context(tasks, 2))
        fit(model, tasks[1], recipe, lwf, seed=3)
        old, new = (predict(m, tasks[1], tasks[1].x) for m in (lwf.teacher, model))
        head = tasks[0].outputs
        moved[strength] = float(divergence(old[:, head], new[:, head], 1.0))
    assert moved[10.0] < 0.3 * moved[0.0]


def test_the_teacher_runs_in_the_students_precision(six_classes):
    tasks = split_tasks(six_classes, [[0, 1], [2, 3]], "per_task")
    recipe, kinds = Recipe(epochs=1, batch_size=16, precision="bf16"), []
    model, lwf = network(tasks), Watched()
    lwf.before(model, tasks[1], context(tasks, 2, recipe))
    lwf.teacher.head.register_forward_hook(lambda m, i, o: kinds.append(o.dtype))
    fit(model, tasks[1], recipe, lwf, seed=3)
    assert kinds == [torch.bfloat16] * 3
    assert all(outputs.dtype == torch.float32 for _, _, outputs, _ in lwf.seen)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"strength": -1}, "strength -1.*at least 0"),
        ({"strength": "much"}, "strength 'much'"),
        ({"strength": math.nan}, "strength nan"),
        ({"temperature": 0}, "temperature 0: expected.*above 0"),
        ({"temperature": True}, "temperature True"),
        ({"scaled": 2}, "scaled 2: expected true or false"),
    ],
)
def test_wrong_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        METHODS["lwf"](**options)


def test_it_runs_as_an_arm(small_study):
    arm = Arm(name="LwF", method="lwf", options={"strength": 1, "temperature": 2})
    profile = small_study(arm)
    assert run(profile, 1, "LwF")["row"]["method"] == "lwf"
    row = table(profile)[0]
    assert (row["label"], row["family"], row["keeps"]) == ("LwF", "distillation", "weights")
