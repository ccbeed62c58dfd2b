"""Whose explanations are examined: which seeds of a profile, and which rankings."""

from collections.abc import Sequence

from lib.ranking import RANKINGS
from lib.study.products import PRODUCTS
from lib.study.profile import Profile, parse_seeds


def examined_seeds(profile: Profile) -> list[int]:
    """The profile's seeds whose explanations are examined, in order."""
    named = parse_seeds(profile.examine.seeds) if profile.examine.seeds else []
    return [seed for seed in profile.seed_list if seed in named]


def with_shown(profile: Profile, seed: int) -> Profile:
    """The profile, or one that examines this seed too where it names none of its seeds."""
    if examined_seeds(profile):
        return profile
    return profile.model_copy(
        update={"examine": profile.examine.model_copy(update={"seeds": str(seed)})}
    )


def if_examined(profile: Profile, seed: int) -> Sequence[str]:
    return ("",) if seed in examined_seeds(profile) else ()


def judged(profile: Profile, seed: int) -> Sequence[str]:
    """The rankings that are examined, of those asked for: all that need no trial, and those that do
    where an arm of the profile has made one."""
    if seed not in examined_seeds(profile):
        return ()
    tried = bool(PRODUCTS["trial"].parts(profile, seed))
    may = [name for name, r in RANKINGS.items() if tried or "trial" not in r.needs]
    asked = profile.examine.rankings
    return may if asked == "all" else [name for name in may if name in asked]
