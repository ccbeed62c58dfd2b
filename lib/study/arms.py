"""An arm from its line in a profile to its row in `arms.csv`: what it is called, what it needs,
what its rows depend on. All of it is read from its method's and its ranking's own definitions.

    check(profile)                     # before anything is trained
    pd.DataFrame(table(profile))       # arm, family, label, method, ranking, fraction, ...
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lib.curricula import CURRICULA
from lib.examination import COMPARED
from lib.methods import METHODS
from lib.methods.options import check_choice
from lib.ranking import RANKINGS, Ranking
from lib.study.keys import SCIENCE, fields, seed_in, versions
from lib.study.profile import Arm, Profile
from lib.training import Method

SEEN = ("maps", "filters", "initial", "trial")  # products that a ranking may look at
EXPLAINED = {"maps", "filters", "initial"}  # those made as the profile's `explain` says
LOOKING = ("ranking", "like")  # options that name a ranking
USUAL = {"rule": "turns", "scope": "weights"}  # what an arm's line means by leaving these out


def check(profile: Profile) -> None:
    """Raise ValueError, one sentence, if an arm names an unknown curriculum, method, option,
    ranking or value, if two arms are alike but for their names, or if the examination names an
    unknown ranking."""
    asked = profile.examine.rankings
    if strange := [name for name in asked if name not in RANKINGS] if asked != "all" else []:
        raise ValueError(
            f"examine: rankings: no ranking {strange[0]!r}; expected all, or some of "
            f"{', '.join(RANKINGS)}"
        )
    if asked != "all" and "mse" not in asked:
        raise ValueError(
            f"examine: rankings: {', '.join(asked) or 'none'}: expected the paper's, mse, among "
            "them, or all; the others are shown beside it"
        )
    names: dict[str, str] = {}
    for arm in profile.arms:
        if arm.curriculum not in CURRICULA:
            raise ValueError(
                f"arm {arm.name!r}: no curriculum {arm.curriculum!r}; expected one of "
                f"{', '.join(CURRICULA)}"
            )
        if arm.method not in METHODS:
            raise ValueError(
                f"arm {arm.name!r}: no method {arm.method!r}; expected one of {', '.join(METHODS)}"
            )
        with naming(arm):
            for option in LOOKING:
                if option in arm.options:
                    check_choice(option, arm.options[option], tuple(RANKINGS))
        if (twin := names.setdefault(_what(arm), arm.name)) != arm.name:
            raise ValueError(
                f"arms {twin!r} and {arm.name!r} are the same but for their names: expected each "
                "once; a row would count for one of them alone"
            )
        with naming(arm):
            METHODS[arm.method](**arm.options)


@contextmanager
def naming(arm: Arm) -> Iterator[None]:
    """What is wrong with an arm's method inside is told with the arm's name."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"arm {arm.name!r}, method {arm.method}, options {dict(arm.options)}: {error}"
        ) from None


def _what(arm: Arm) -> str:
    """Arms that are alike but for their name have the same."""
    return json.dumps([arm.method, dict(arm.options), arm.curriculum], sort_keys=True)


def ranking_of(arm: Arm) -> Ranking | None:
    """The ranking an arm's method asks for, if any."""
    return RANKINGS[arm.options["ranking"]] if "ranking" in arm.options else None


def needs(arm: Arm) -> tuple[str, ...]:
    """The products of a seed that an arm cannot do without."""
    if not arm.from_checkpoint:
        return ()
    looked = [RANKINGS[arm.options[option]].needs for option in LOOKING if option in arm.options]
    return ("task1", *(kind for kind in SEEN if any(kind in needed for needed in looked)))


def is_reference(arm: Arm) -> bool:
    """True for the arms run again on a new checkpoint, so that new arms have something to pair
    with: fine-tuning, and freezing at random."""
    if arm.method == "freeze":
        return ranking_of(arm).family == "chance"
    return arm.from_checkpoint and arm.method == "finetune"


def check_one_checkpoint(metas: Sequence[Mapping]) -> None:
    """Raise ValueError where an arm's rows of one seed start from two task-1 checkpoints that can
    both be paired. A seed's value is the mean over its checkpoints, so a second one that is chosen
    after the first was seen would move a result; on a new checkpoint only the reference arms run
    again (PROTOCOL.md, section 6). metas: of runs."""
    lineages: dict[tuple, set] = {}
    for meta in metas:
        arm = {k: meta["key"][k] for k in ("method", "options", "curriculum")}
        known = arm["options"].get("ranking", "random") in RANKINGS
        reference = known and is_reference(Arm(name="a row's", **arm))
        what = "reference" if reference else json.dumps(meta["key"], sort_keys=True)
        lineages.setdefault((seed_in(meta["key"]), what), set()).add(meta["branch"])
    for (seed, what), found in lineages.items():
        paired = sorted(found & lineages.get((seed, "reference"), set()))
        if what != "reference" and len(paired) > 1:
            arm = json.loads(what)
            words = ", ".join(f"{k} {v}" for k, v in arm["options"].items())
            raise ValueError(
                f"seed {seed}, {arm['method']} ({words}) has rows from {len(paired)} task-1 "
                f"checkpoints, {' and '.join(paired)}: only fine-tuning and freezing at random are "
                "run again on a new one (PROTOCOL.md, section 6); keep the rows that came first, "
                "and delete the others"
            )


def identity(arm: Arm, profile: Profile) -> dict[str, Any]:
    """What an arm's rows depend on beside the seed and its task-1 checkpoint: not its name."""
    ranking = ranking_of(arm)
    key = {
        "method": arm.method,
        "options": dict(arm.options),
        "curriculum": arm.curriculum,
        **versions(
            method_version=METHODS[arm.method].version,
            ranking_version=ranking.version if ranking else 1,
            like_version=RANKINGS[arm.options["like"]].version if arm.options.get("like") else 1,
        ),
    }
    if EXPLAINED & set(needs(arm)):
        explain = fields("explain", profile.explain)
        key["explain"] = explain, SCIENCE["maps"], SCIENCE["filters"]
    if "trial" in needs(arm):
        key["trial"] = SCIENCE["trial"]
    return key


def family_and_label(arm: Arm) -> tuple[str, str]:
    """What figures give one colour, and the series an arm belongs to (fractions of one label form a
    curve)."""
    if not arm.from_checkpoint:
        return CURRICULA[arm.curriculum].family, arm.name
    how, ranking = METHODS[arm.method](**arm.options), ranking_of(arm)
    if ranking is None:
        return how.family, how.label
    if arm.method != "freeze":
        return how.family, f"{how.label}, {ranking.label}"
    if arm.options.get("fraction") == 1:
        return "all frozen", "all frozen" + unusual(arm.options)
    return ranking.family, ranking.label + unusual(arm.options)


def unusual(options: Mapping[str, Any]) -> str:
    """What sets a freezing arm apart from the default: ", whole filter", ", union", ..."""
    words = {"scope": {"filter": "whole filter"}, "rule": {"network": "one budget"}}
    return "".join(
        f", {words[name].get(options[name], options[name])}"
        for name, usual in USUAL.items()
        if options.get(name, usual) != usual
    ) + (f", as many as {options['like']}" if "like" in options else "")


def table(profile: Profile) -> list[dict]:
    """Rows of arms.csv, in the profile's order: what figures and reports know of an arm."""
    rows = []
    for order, arm in enumerate(profile.arms, 1):
        family, label = family_and_label(arm)
        how = {}
        if arm.method == "freeze":
            how = {k: arm.options.get(k, usual) for k, usual in USUAL.items()}
        rows.append(
            {
                "arm": arm.name,
                "family": family,
                "label": label,
                "method": arm.method,
                "ranking": arm.options.get("ranking"),
                "fraction": arm.options.get("fraction"),
                "curriculum": arm.curriculum,
                "rule": how.get("rule"),
                "scope": how.get("scope"),
                "keeps": METHODS[arm.method].keeps,
                "told_task": _told_what_others_are_not(arm, profile),
                "order": order,
            }
        )
    return rows


def _told_what_others_are_not(arm: Arm, profile: Profile) -> bool:
    """True for a method whose network is another one for each task, where all tasks share the
    head: it must be told which task an image is from, and no other arm is."""
    views = METHODS[arm.method].view is not Method.view
    return arm.from_checkpoint and views and profile.network.heads == "shared"


def rankings_table(profile: Profile) -> list[dict]:
    """Rows of rankings.csv: name, family and label of every ranking that the profile's arms ask for
    or whose choices are compared (`lib.examination.overlaps`)."""
    named = {"mse", *COMPARED, *(arm.options.get("ranking") for arm in profile.arms)}
    return [
        {"ranking": name, "family": r.family, "label": r.label}
        for name, r in RANKINGS.items()
        if name in named
    ]
