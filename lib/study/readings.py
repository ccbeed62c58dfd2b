"""One grid over what the paper leaves open: does any reading of it beat chance?

    learn(profile)                   # task 1 under every candidate recipe, on tuning seeds
    run_all(profile)                 # every reading, beside its random twin
    rows = table(profile)            # of readings.csv: a line for each (reading, seed)

A reading is one choice of head, recipe, freeze scope, budget rule, heat map and class map. Two
heads are crossed with everything, one head with the default maps alone. Its twin freezes as many
filters of every layer, at random: by turns their number is that of the fraction, united it follows
from the ranking (`like`). Rows lie in the profile's store beside its arms'."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple, get_args

from lib.study import engine
from lib.study.arms import check
from lib.study.jobs import Job, Making, do
from lib.study.products import PRODUCTS, store
from lib.study.profile import Arm, Candidate, Explain, Profile, parse_seeds
from lib.study.runs import run_key
from lib.study.store import results_dir
from lib.study.tuning import make_all

RANKING, TWIN = "mse", "random"
SCOPES, RULES = ("weights", "filter"), ("turns", "union")  # the grid's, the usual ones first
HEAT_MAPS, CLASS_MAPS = (
    get_args(Explain.model_fields[name].annotation) for name in ("heat_map", "class_map")
)


class Variant(NamedTuple):
    """What a reading shares with all that start from the same checkpoint and look at the same
    maps."""

    heads: str
    recipe: Candidate
    heat_map: str = HEAT_MAPS[0]
    class_map: str = CLASS_MAPS[0]

    def of(self, profile: Profile) -> Profile:
        """The profile that runs it: its arms are the readings and their twins."""
        return profile.model_copy(
            update={
                "network": profile.network.model_copy(update={"heads": self.heads}),
                "recipe": replace(profile.recipe, **self.recipe.model_dump()),
                "explain": profile.explain.model_copy(
                    update={"heat_map": self.heat_map, "class_map": self.class_map}
                ),
                "arms": tuple(arm for pair in _pairs(profile.readings.fraction) for arm in pair),
            }
        )


def variants(recipes: Sequence[Candidate]) -> list[Variant]:
    """Two heads in full, one head at the default maps; the profile's own recipe first."""
    full = [Variant("per_task", *rest) for rest in product(recipes, HEAT_MAPS, CLASS_MAPS)]
    return full + [Variant("shared", recipe) for recipe in recipes]


def _pairs(fraction: float) -> list[tuple[Arm, Arm]]:
    """(reading, its random twin) for every scope and rule; what is usual is left out, as in other
    profiles, so that rows are found under the same keys."""
    return [(_arm(RANKING, fraction, s, r), _arm(TWIN, fraction, s, r)) for s, r in CHOSEN]


CHOSEN = tuple(product(SCOPES, RULES))


def _arm(ranking: str, fraction: float, scope: str, rule: str) -> Arm:
    options: dict[str, Any] = {"ranking": ranking, "fraction": fraction}
    options |= {} if scope == SCOPES[0] else {"scope": scope}
    options |= {} if rule == RULES[0] else {"rule": rule}
    options |= {"like": RANKING} if ranking == TWIN and rule != RULES[0] else {}
    return Arm(name=f"{ranking}, {scope}, {rule}", method="freeze", options=options)


# --- which recipes learn --------------------------------------------------------------------------


def _alone(profile: Profile, recipe: Candidate) -> Profile:
    """Task 1 under a candidate, on the tuning seeds, with two heads."""
    seeds = profile.readings.seeds
    return Variant("per_task", recipe).of(profile).model_copy(update={"seeds": seeds, "arms": ()})


def learn(profile: Profile, workers: int | None = None) -> None:
    """Train task 1 under one candidate after another on the tuning seeds, where it is missing,
    until as many learn as are wanted: no later one would be taken. ValueError for a profile that
    names no candidate."""
    if not profile.readings.recipes:
        raise ValueError(
            f"profile {profile.name} has no readings: expected a `readings` section with recipes"
        )
    log = results_dir(profile.name) / "log.txt"
    for recipe in profile.readings.recipes:
        if len(recipes(profile)) == profile.readings.most:
            return
        alone = _alone(profile, recipe)
        missing = [
            Job("task1_rows", seed)
            for seed in alone.seed_list
            if not PRODUCTS["task1_rows"].there(alone, seed)
        ]
        engine.side_by_side(missing, Making(alone), log, workers)


def recipes_table(profile: Profile) -> list[dict]:
    """Rows of recipes.csv, of what is there: momentum, batch_size, seed, acc1_before, acc2_before,
    taken."""
    taken, found = recipes(profile), []
    for recipe in profile.readings.recipes:
        for seed, before in _before(profile, recipe).items():
            row = {**recipe.model_dump(), "seed": seed, "acc1_before": before["task1"]}
            found.append({**row, "acc2_before": before["task2"], "taken": recipe in taken})
    return found


def _before(profile: Profile, recipe: Candidate) -> dict[int, dict[str, float]]:
    """seed -> accuracies before round 2, of the tuning seeds that are there."""
    alone, made = _alone(profile, recipe), PRODUCTS["task1_rows"]
    there = [seed for seed in alone.seed_list if made.there(alone, seed)]
    return {seed: made.get(alone, seed)["before"] for seed in there}


def recipes(profile: Profile) -> list[Candidate]:
    """The rule: in the order listed, the first `most` candidates under which task 1 is learned to
    `least` on every tuning seed; none beyond one that has not been tried on all of them."""
    asked, found = profile.readings, []
    for recipe in asked.recipes:
        before = _before(profile, recipe)
        if len(found) == asked.most or set(before) != set(parse_seeds(asked.seeds)):
            break
        if all(accuracies["task1"] >= asked.least for accuracies in before.values()):
            found.append(recipe)
    return found


def _all_tried(profile: Profile) -> bool:
    """Whether no candidate is left that could still be taken."""
    asked = profile.readings
    return all(set(_before(profile, r)) == set(parse_seeds(asked.seeds)) for r in asked.recipes)


# --- every reading --------------------------------------------------------------------------------


def run_all(profile: Profile, workers: int | None = None) -> None:
    """Whatever is missing of every reading and its twin, on the profile's seeds. ValueError if no
    recipe learns."""
    chosen = recipes(profile)
    if not chosen:
        raise ValueError(
            f"profile {profile.name}: under no candidate recipe is task 1 learned to "
            f"{profile.readings.least} on seeds {profile.readings.seeds}; nothing to read"
        )
    for wanted in (variant.of(profile) for variant in variants(chosen)):
        check(wanted)
        make_all(wanted, _missing(wanted), workers, do)


def _missing(wanted: Profile) -> list[Job]:
    """The runs that a variant lacks; both of a pair once more, from the checkpoint that is here,
    where its rows start from different ones."""
    found: dict[str, Job] = {}  # a twin may be that of two readings
    for seed in wanted.seed_list:
        for pair in zip(wanted.arms[::2], wanted.arms[1::2]):
            there = [PRODUCTS["run"].there(wanted, seed, arm.name) for arm in pair]
            apart = all(there) and not _both(wanted, seed, pair)
            for arm, have in zip(pair, there):
                if apart or not have:
                    job = Job("run", seed, arm.name, again=apart)
                    found[str(job)] = job
    return list(found.values())


def make(profile: Profile, workers: int | None = None) -> None:
    """Which recipes learn, then whatever is missing of the grid."""
    learn(profile, workers)
    run_all(profile, workers)


def lacking(profile: Profile) -> bool:
    """True if a reading or its twin is missing on one of the profile's seeds."""
    rows = table(profile)
    return not rows or len(rows) < rows[0]["of_readings"] * len(profile.seed_list)


def table(profile: Profile) -> list[dict]:
    """Rows of readings.csv, of the profile's seeds and of what is there: the reading's choices,
    seed, lineage, how much was frozen, both accuracies of it and of its random twin, and how many
    readings and seeds the whole grid has."""
    found, chosen = [], recipes(profile)
    several = len(chosen) if _all_tried(profile) else profile.readings.most
    readings = len(variants(chosen[:1])) * several * len(CHOSEN)
    whole = {"of_readings": readings, "of_seeds": len(profile.seed_list)}
    for variant in variants(chosen):
        wanted = variant.of(profile)
        for (scope, rule), pair in zip(CHOSEN, _pairs(profile.readings.fraction)):
            for seed in wanted.seed_list:
                if rows := _both(wanted, seed, pair):
                    found.append(_line(wanted, variant, scope, rule, *rows) | whole)
    return found


def _both(wanted: Profile, seed: int, pair: tuple[Arm, Arm]) -> list[dict]:
    """The rows of a reading and its twin from one checkpoint; none unless both are there."""
    shelf = store(wanted)
    keys = [run_key(wanted, seed, arm.name) for arm in pair]
    common = [b for b in shelf.branches("run", keys[0]) if b in shelf.branches("run", keys[1])]
    paths = [shelf.path("run", key, branch=common[0]) for key in keys if common]
    return [shelf.read(path)["row"] for path in paths]


def _line(wanted: Profile, variant: Variant, scope: str, rule: str, ours: dict, twin: dict) -> dict:
    choices = {
        "heads": variant.heads,
        **variant.recipe.model_dump(),
        "scope": scope,
        "rule": rule,
        "heat_map": variant.heat_map,
        "class_map": variant.class_map,
    }
    start = {"setting": wanted.setting, "seed": ours["seed"], "lineage": ours["lineage"]}
    frozen = {"realised": ours["realised"], "realised_random": twin["realised"]}
    ends = {f"acc{k}{w}": r[f"acc{k}"] for k in (1, 2) for w, r in (("", ours), ("_random", twin))}
    return {**start, **choices, **frozen, "acc1_before": ours["acc1_before"], **ends}
