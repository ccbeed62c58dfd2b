"""What a method's options must be: each check raises ValueError, one sentence that says what was
given and what was expected."""

import math
import sys
from collections.abc import Sequence
from typing import Any

from lib.ranking import RANKINGS
from lib.recipe import Recipe


def check_number(
    name: str,
    value: Any,
    low: float = 0.0,
    high: float = math.inf,
    above: bool = False,
    below: bool = False,
    means: str = "",
) -> None:
    """A finite number from low to high. above, below: not that end itself; means: what the number
    says, for the sentence."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    outside = not number or not low <= value <= min(high, sys.float_info.max)
    if outside or (above and value == low) or (below and value == high):
        where = f"from {low:g} to {high:g}"
        if high == math.inf:
            where = f"above {low:g}, finite" if above else f"of at least {low:g}, finite"
        elif above or below:
            ends = (f"{end:g}" for end, left_out in ((low, above), (high, below)) if left_out)
            where += f", not {' or '.join(ends)} itself"
        said = means and f" ({means})"
        raise ValueError(f"{name} {value!r}: expected a number {where}{said}")


def check_count(name: str, value: Any, low: int = 1, or_none: bool = False) -> None:
    """A whole number of at least low. or_none: or none given."""
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= low
    if not whole and not (or_none and value is None):
        also = ", or none given" if or_none else ""
        raise ValueError(f"{name} {value!r}: expected a whole number of at least {low}{also}")


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """One of the choices."""
    if value not in choices:
        raise ValueError(f"{name} {value!r}: expected one of {', '.join(choices)}")


def check_flag(name: str, value: Any) -> None:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} {value!r}: expected true or false")


def check_ranking(ranking: Any, draw: Any = None) -> None:
    """A ranking there is; draw: none, or the number of a draw of a ranking that has draws."""
    check_choice("ranking", ranking, tuple(RANKINGS))
    if draw is not None and "draw" not in RANKINGS[ranking].options:
        raise ValueError(
            f"draw {draw!r} with ranking {ranking!r}: this ranking has no draws; leave it out"
        )
    check_count("draw", draw, low=0, or_none=True)


def refuse_decay(what: str, recipe: Recipe, why: str) -> None:
    """No weight decay, which moves weights that no gradient moves."""
    if recipe.weight_decay:
        raise ValueError(f"{what} with weight_decay {recipe.weight_decay}: {why}; expected 0")
