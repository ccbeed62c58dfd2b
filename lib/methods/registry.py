"""What a method may ask for, and how it says what it is.

    @method("EWC", keeps="importances")
    @dataclass
    class EWC(Method):
        strength: float = 100.0

The class's fields are its options in a profile line; its hooks are those of `lib.training.Method`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from lib.data import Task
from lib.ranking import Scores
from lib.recipe import Recipe
from lib.training import Method

KEEPS = ("nothing", "weights", "importances", "images")  # what a user pays between two tasks
METHODS: dict[str, type[Method]] = {}


@dataclass
class Context:
    """What a method may ask for, beside the model and the task of the round."""

    tasks: Sequence[Task]
    seed: int
    recipe: Recipe
    scores: Callable[..., Scores]  # scores(ranking, **options) of the model as it enters the round
    accuracies: Callable[[nn.Module], dict[str, float]]  # task name -> test accuracy
    path: Callable[[], dict[str, Tensor]] = dict  # parameter -> SI's path integral along task 1
    initial: Callable[[], dict[str, Tensor]] = dict  # parameter -> as it was before task 1
    say: Callable[[str], None] = lambda line: None  # a line for the log
    round: int = 2  # the round that trains task 2 is the second


def method(
    label: str, keeps: str = "nothing", name: str | None = None, version: int = 1
) -> Callable[[type[Method]], type[Method]]:
    """Enter a class into METHODS, under its own name in lower case unless another is given.

    label: its name in figures and tables; keeps: what it stores between tasks (see KEEPS), which is
    what must be there while the next task is learned. What a method looks at only as a round begins
    (images of the task learned last, for a ranking or a Fisher information) does not count: the
    network is still as that task left it, so it could look when the task ends. version: raised by
    hand when its numbers change, so that only its own rows are made again. Its family (one colour
    in figures) is the name of its file.
    """
    if keeps not in KEEPS:
        raise ValueError(f"method {label!r} keeps {keeps!r}: expected one of {', '.join(KEEPS)}")

    def enter(cls: type[Method]) -> type[Method]:
        cls.label, cls.keeps, cls.version = label, keeps, version
        cls.family = cls.__module__.rpartition(".")[2]
        METHODS[name or cls.__name__.lower()] = cls
        return cls

    return enter
