"""What is trained on what, and how it is scored, by arms that start from no checkpoint.

    plan = CURRICULA["joint20"].plan(tasks)
    fit(model, plan.task, recipe, watch=plan.watch)      # for plan.rounds times the epochs

The others go from the task-1 checkpoint through the rest of the tasks, one a round: `SEQUENCE`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from lib.data import Task, join

SEQUENCE = "sequence"


class Plan(NamedTuple):
    """One training from scratch: task is trained on, scored are what a row's accuracies are of,
    watch what is evaluated after every epoch, rounds how many times a task's epochs it takes."""

    task: Task
    scored: Sequence[Task]
    watch: Sequence[Task]
    rounds: int = 1


class Curriculum(NamedTuple):
    """A name's meaning: the family it belongs to and, if it starts from scratch, its plan."""

    family: str
    plan: Callable[[Sequence[Task]], Plan] | None = None


def joint(tasks: Sequence[Task]) -> Plan:
    """All classes at once, one output each, T times the epochs; every epoch is scored over all
    outputs (as in the paper) and masked to each task's own."""
    task, k = join(tasks, shared=False), len(tasks[0].classes)
    # scored over all outputs: classes widened to the joint list, labels moved to their place in it
    scored = [
        t._replace(classes=task.classes, first_output=0, y=t.y + i * k, y_test=t.y_test + i * k)
        for i, t in enumerate(tasks)
    ]
    masked = [t._replace(name=f"{t.name} masked", first_output=i * k) for i, t in enumerate(tasks)]
    return Plan(task, scored, [*scored, *masked], len(tasks))


def joint_shared_head(tasks: Sequence[Task]) -> Plan:
    """All tasks at once over the outputs of one task: class i of every task is output i."""
    tasks = [t._replace(first_output=0) for t in tasks]
    return Plan(join(tasks, shared=True), tasks, tasks, len(tasks))


def last(tasks: Sequence[Task]) -> Plan:
    """The last task alone, as if there had been none before."""
    return Plan(tasks[-1], tasks, tasks)


CURRICULA: dict[str, Curriculum] = {
    SEQUENCE: Curriculum("sequence"),
    "joint20": Curriculum("joint", joint),
    "joint10": Curriculum("joint", joint_shared_head),
    "last": Curriculum("last", last),
}
