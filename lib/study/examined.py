"""The explanations of a seed, examined: products, each made once, and their tables.

    look = with_shown(profile, seed)         # a profile that names no seed examines the one shown
    fulfil(look, *EXAMINED)                  # lib.study.jobs
    atlas_rows(look), choice_rows(look)      # and reliability_rows, readout_rows, graft_rows, ...

What is measured stands in `lib.examination`. The atlas, the choices and the grafts are made ranking
by ranking, so that a ranking added later makes only rows of its own.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import nn

from lib import examination, freezing, visualization
from lib.methods import Freeze
from lib.network import conv_layers
from lib.ranking import RANKINGS
from lib.study.arms import SEEN, needs
from lib.study.engine import say
from lib.study.keys import SCIENCE, fields, versions
from lib.study.materials import epochs, tasks
from lib.study.products import (
    ARRAYS,
    CHECKPOINT,
    FRACTIONS,
    PRODUCTS,
    evidence,
    heat,
    maps_key,
    network_after_task1,
    product,
    store,
    task1,
    task1_key,
)
from lib.study.profile import Profile, parse_seeds
from lib.study.runs import arm_named, run_key, trained
from lib.study.store import digest
from lib.training import fit

EXAMINED = (
    "scores",
    "choices",
    "damages",
    "atlas",
    "reliability",
    "sanity",
    "complexity",
    "retrained",
    "readouts",
    "left",
    "grafts",
)
SHARES = (*FRACTIONS, 0.9)  # of each layer that a ranking chooses, to be compared and put back
COMPARED_AT = (0.5, 0.75)  # those of SHARES at which every two rankings are compared
WAYS = ("fine-tune", "all frozen")  # of going through round 2, told apart by what is left


# --- whose, and what ------------------------------------------------------------------------------


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


def _if_examined(profile: Profile, seed: int) -> Sequence[str]:
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


def _looks_at(profile: Profile, name: str) -> Sequence[str]:
    """The products a ranking's scores are made from."""
    return ("task1", *(kind for kind in SEEN if kind in RANKINGS[name].needs))


def _ranking_key(profile: Profile, seed: int, name: str) -> dict:
    """What a ranking's scores depend on."""
    ranking = RANKINGS[name]
    key = {
        "task1": task1_key(profile, seed),
        "ranking": name,
        **versions(ranking_version=ranking.version),
    }
    if ranking.needs & {"images", "maps", "filters", "initial"}:
        key["explain"] = fields("explain", profile.explain), SCIENCE["maps"], SCIENCE["filters"]
    if "trial" in ranking.needs:
        key["trial"] = SCIENCE["trial"]
    return key


@product(_ranking_key, needs=_looks_at, parts=judged, filetype=ARRAYS)
def scores(profile: Profile, seed: int, name: str) -> dict[str, np.ndarray]:
    """A ranking's scores after task 1: {layer: (C, F) or (1, F)}; empty, after a line that says
    why, where it refuses the network."""
    try:
        found = RANKINGS[name](evidence(profile, seed))
    except ValueError as error:
        say(f"seed {seed}  {name} left out: {error}")
        return {}
    return {layer: s.numpy() for layer, s in found.items()}


# --- do rankings choose the same filters? ---------------------------------------------------------


def choices_key(profile: Profile, seed: int, name: str) -> dict:
    """What a ranking's choices depend on."""
    shares = {"science": SCIENCE["choices"], "shares": list(SHARES)}
    return {**shares, **_ranking_key(profile, seed, name)}


@product(choices_key, needs=("scores",), parts=judged, published=True)
def choices(profile: Profile, seed: int, name: str) -> dict:
    """Which filters a ranking chooses, by the default budget rule: {"seed", "lineage", "chosen":
    {share: {layer: `lib.freezing.packed`}}}; no shares where it refuses the network."""
    given = {k: torch.from_numpy(a) for k, a in scores(profile, seed, name).items()}
    masks = {str(share): freezing.allocate(given, share) for share in SHARES} if given else {}
    chosen = {share: freezing.packed(mask) for share, mask in masks.items()}
    return {"seed": seed, "lineage": task1(profile, seed)["lineage"], "chosen": chosen}


# --- does a score predict damage? -----------------------------------------------------------------


def damages_key(profile: Profile, seed: int) -> dict:
    """What measured damage depends on."""
    return {
        "science": SCIENCE["damages"],
        "task1": task1_key(profile, seed),
        "images": profile.examine.images,
    }


@product(damages_key, needs=("task1",), parts=_if_examined, filetype=ARRAYS)
def damages(profile: Profile, seed: int) -> dict[str, np.ndarray]:
    """What ablating each filter does to each class's loss, on two halves of the test images:
    {"<layer>/0" and "<layer>/1": float64 (C, F)}."""
    model, task = network_after_task1(profile, seed), tasks(profile, seed)[0]
    halves = examination.damage_in_halves(model, task, profile.examine.images)
    say(f"seed {seed}  damage of ablating each filter")
    return {f"{k}/{h}": s.numpy() for h, half in enumerate(halves) for k, s in half.items()}


def atlas_key(profile: Profile, seed: int, name: str) -> dict:
    """What a ranking's rows of the atlas depend on."""
    return {"damages": damages_key(profile, seed), **_ranking_key(profile, seed, name)}


@product(atlas_key, needs=("scores", "damages"), parts=judged, published=True)
def atlas(profile: Profile, seed: int, name: str) -> dict:
    """How well a ranking predicts damage: {"seed", "lineage", "rows": {layer, spearman, ceiling}};
    no rows where it refuses the network."""
    given, found = scores(profile, seed, name), damages(profile, seed)
    halves = tuple({k: found[f"{k}/{h}"] for k in given} for h in (0, 1))
    rows = examination.predicts_damage(given, halves)
    return {"seed": seed, "lineage": task1(profile, seed)["lineage"], "rows": rows}


# --- does it hold? --------------------------------------------------------------------------------


def reliability_key(profile: Profile, seed: int) -> dict:
    """What the reliability of the MSE ranking depends on."""
    return {
        "science": SCIENCE["reliability"],
        "maps": maps_key(profile, seed),
        "explain": fields("explain", profile.explain),
        "filters": [SCIENCE["filters"], profile.examine.filters],
    }


def _heat_rule(profile: Profile, images, noise, task) -> torch.Tensor:
    found = {
        "pixels": visualization.to_pixels(images, task).cpu().numpy(),
        "change": (visualization.change_maps(images, noise) * 255).round().byte().cpu().numpy(),
    }
    return heat(profile, found)


@product(reliability_key, needs=("task1", "maps", "filters"), parts=_if_examined, published=True)
def reliability(profile: Profile, seed: int) -> dict:
    """{"seed", "lineage", "rows"}: see `lib.examination.ranking_reliability`."""
    model, task, e = network_after_task1(profile, seed), tasks(profile, seed)[0], profile.explain
    look = evidence(profile, seed, model)
    how = e.steps, e.lr, profile.network.image_size, profile.examine.filters
    rule = lambda images, noise, task: _heat_rule(profile, images, noise, task)  # noqa: E731
    again = {
        layer: examination.heat_again(model, task, layer, seed, *how, rule) for layer in look.heat
    }
    halves = examination.maps_in_halves(model, task, e.map_images)
    say(f"seed {seed}  reliability of the MSE ranking")
    rows = examination.ranking_reliability(look.maps, look.heat, again, halves)
    return {"seed": seed, "lineage": task1(profile, seed)["lineage"], "rows": rows}


# --- are the maps right? --------------------------------------------------------------------------


def sanity_key(profile: Profile, seed: int) -> dict:
    """What the checks of FullGrad's maps depend on."""
    return {"science": SCIENCE["sanity"], "task1": task1_key(profile, seed)}


@product(sanity_key, needs=("task1",), parts=_if_examined, published=True)
def sanity(profile: Profile, seed: int) -> dict:
    """{"seed", "lineage", "randomisation", "deletion", "alike"}: see `lib.examination`."""
    model, task = network_after_task1(profile, seed), tasks(profile, seed)[0]
    init = profile.network.init
    found = {
        "randomisation": examination.randomisation(model, task, init=init, seed=seed),
        "deletion": examination.deletion(model, task, seed=seed),
        "alike": [examination.within_and_between(model, task)],
    }
    say(f"seed {seed}  sanity checks of saliency maps")
    return {"seed": seed, "lineage": task1(profile, seed)["lineage"], **found}


def complexity_key(profile: Profile, seed: int) -> dict:
    """What the order in FullGrad's maps depends on."""
    return {"science": SCIENCE["complexity"], "task1": task1_key(profile, seed)}


@product(complexity_key, needs=("task1",), parts=_if_examined, published=True)
def complexity(profile: Profile, seed: int) -> dict:
    """{"seed", "lineage", "rows": [{"before", "after", "rise"}]}: see
    `lib.examination.efficient_mprt`."""
    model, task = network_after_task1(profile, seed), tasks(profile, seed)[0]
    *_, (_, randomised) = examination.cascade(model, profile.network.init, seed)
    rows = [examination.efficient_mprt(model, randomised, task)]
    return {"seed": seed, "lineage": task1(profile, seed)["lineage"], "rows": rows}


# --- what is left after round 2? ------------------------------------------------------------------


def retrained_key(profile: Profile, seed: int) -> dict:
    """What the two networks after round 2 depend on (the recipe is in task 1's key)."""
    key = {"science": SCIENCE["retrained"], "task1": task1_key(profile, seed)}
    return {**key, **versions(freeze=Freeze.version)}


@product(retrained_key, needs=("task1",), parts=_if_examined, filetype=CHECKPOINT)
def retrained(profile: Profile, seed: int) -> dict:
    """The network's state after the last round, by fine-tuning and with the weights of all
    convolutions frozen, as the arms of these names: {way: state}. Rows keep no weights, so it is
    trained again."""
    split, found = tasks(profile, seed), {}
    for way in WAYS:
        model, method = network_after_task1(profile, seed), None
        if way == "all frozen":
            method = Freeze("random", 1.0)
            masks = {
                k: torch.ones(c.out_channels, dtype=bool) for k, c in conv_layers(model).items()
            }
        for number, task in enumerate(split[1:], 2):
            if method:
                method.rounds.append((number, masks))
            report = epochs(f"seed {seed}  {way}, again")
            fit(model, task, profile.recipe, method, seed, (), report)
        found[way] = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
    return found


def _network(profile: Profile, seed: int, state: dict) -> nn.Module:
    model = network_after_task1(profile, seed)
    model.load_state_dict(state)
    return model


@product(retrained_key, needs=("task1", "retrained"), parts=_if_examined, published=True)
def readouts(profile: Profile, seed: int) -> dict:
    """{"seed", "lineage", "rows": {way, readout, acc1}}: what is left of task 1 and where, before
    round 2 and after it; see `lib.examination.readouts`."""
    task, precision = tasks(profile, seed)[0], profile.recipe.precision
    before, rows = task1(profile, seed)["model"], []
    for way, state in {"before": before, **retrained(profile, seed)}.items():
        found = examination.readouts(_network(profile, seed, state), before, task, precision)
        rows += [{"way": way, "readout": name, "acc1": acc1} for name, acc1 in found.items()]
    return {"seed": seed, "lineage": task1(profile, seed)["lineage"], "rows": rows}


def _asked_what_is_left(profile: Profile, seed: int) -> Sequence[str]:
    """Arms beside WAYS that `examine.arms` names."""
    asked = profile.examine.arms
    return [
        arm.name
        for arm in profile.arms
        if seed in examined_seeds(profile)
        and (asked == "all" or arm.name in asked)
        and arm.from_checkpoint
        and arm.asked_for(seed)
        and arm.name not in WAYS
    ]


def left_key(profile: Profile, seed: int, name: str) -> dict:
    """What is left after an arm depends on what its run depends on."""
    return {"science": SCIENCE["retrained"], "run": run_key(profile, seed, name)}


@product(
    left_key,
    needs=lambda profile, name: needs(arm_named(profile, name)),
    parts=_asked_what_is_left,
    published=True,
)
def left(profile: Profile, seed: int, name: str) -> dict:
    """`readouts` after an arm. Its row holds no weights, so it is trained again."""
    model, before = network_after_task1(profile, seed), task1(profile, seed)
    method, _ = trained(arm_named(profile, name), seed, profile, model, ", again")
    with method.view(model, 1):
        found = examination.readouts(
            model, before["model"], tasks(profile, seed)[0], profile.recipe.precision
        )
    rows = [{"way": name, "readout": readout, "acc1": acc1} for readout, acc1 in found.items()]
    return {"seed": seed, "lineage": before["lineage"], "rows": rows}


def grafts_key(profile: Profile, seed: int, name: str) -> dict:
    """What a ranking's grafts depend on."""
    key = {**retrained_key(profile, seed), **_ranking_key(profile, seed, name)}
    key["shares"] = list(SHARES)
    return {**key, "masks": profile.examine.masks} if name == "random" else key


@product(grafts_key, needs=("scores", "retrained"), parts=judged, published=True)
def grafts(profile: Profile, seed: int, name: str) -> dict:
    """{"seed", "lineage", "rows": {fraction, draw, acc1, acc2, ...}}: a ranking's choices, by the
    default budget rule, put back into the fine-tuned network. Of the random ranking, many draws."""
    split, precision = tasks(profile, seed), profile.recipe.precision
    tuned, before = retrained(profile, seed)["fine-tune"], task1(profile, seed)["model"]
    model, rows = _network(profile, seed, tuned), []
    for draw in range(profile.examine.masks) if name == "random" else (None,):
        for fraction in SHARES:
            masks = _chosen(profile, seed, name, fraction, draw)
            if masks:
                found = examination.judge(model, before, split, masks, precision=precision)
                rows.append({"fraction": fraction, "draw": draw, **found})
    return {"seed": seed, "lineage": task1(profile, seed)["lineage"], "rows": rows}


def _chosen(profile: Profile, seed: int, name: str, fraction: float, draw: int | None):
    """A ranking's mask; draw: of the random ranking."""
    if draw is None:
        given = {k: torch.from_numpy(a) for k, a in scores(profile, seed, name).items()}
    else:
        given = RANKINGS[name](evidence(profile, seed), draw=draw)
    return freezing.allocate(given, fraction)


# --- tables ---------------------------------------------------------------------------------------


def _rows(
    profile: Profile, kind: str, name: str = "rows", label: bool = False, column: str = ""
) -> list[dict[str, Any]]:
    """Rows of all examined seeds (and, with `label`, all rankings) that are in the store;
    column: the one that says of which part of the product they are, if any."""
    rows = []
    for seed in examined_seeds(profile):
        for part in PRODUCTS[kind].parts(profile, seed):
            if not PRODUCTS[kind].there(profile, seed, part):
                continue
            found = PRODUCTS[kind].get(profile, seed, *filter(None, [part]))
            about = {"seed": seed, "lineage": found["lineage"]}
            if label:
                r = RANKINGS[part]
                about |= {"ranking": part, "label": r.label, "family": r.family}
            named = {column: part} if column else {}
            rows += [{**about, **row, **named} for row in found[name]]
    return rows


def atlas_rows(profile: Profile) -> list[dict]:
    """atlas.csv: seed, lineage, ranking, label, family, layer, spearman, ceiling."""
    return _rows(profile, "atlas", label=True)


def choice_rows(profile: Profile) -> list[dict]:
    """choices.csv: seed, lineage, fraction, ranking, other, iou (overlap of what the two choose,
    over all layers), for every two rankings, in the registry's order."""
    made, rows = PRODUCTS["choices"], []
    for seed in examined_seeds(profile):
        found = {
            name: made.get(profile, seed, name)
            for name in judged(profile, seed)
            if made.there(profile, seed, name)
        }
        for fraction in COMPARED_AT:
            masks = {
                name: freezing.unpacked(one["chosen"][str(fraction)])
                for name, one in found.items()
                if one["chosen"]
            }
            rows += [
                {
                    "seed": seed,
                    "lineage": found[a]["lineage"],
                    "fraction": fraction,
                    "ranking": a,
                    "other": b,
                    "iou": freezing.iou(masks[a], masks[b]),
                }
                for a, b in combinations(masks, 2)
            ]
    return rows


def ranking_cost_rows(profile: Profile) -> list[dict]:
    """What each ranking took: ranking, label, needs (products made beforehand, which are not
    counted), seconds (median over examined seeds), seeds. Of scores made here: none come with a
    published record."""
    shelf, rows = store(profile), []
    seconds = {digest(meta["key"]): meta["seconds"] for _, meta in shelf.metas("scores")}
    for name, ranking in RANKINGS.items():
        keys = [digest(_ranking_key(profile, seed, name)) for seed in examined_seeds(profile)]
        if took := [seconds[key] for key in keys if key in seconds]:
            needs = " ".join(sorted(ranking.needs)) or "nothing"
            row = {"ranking": name, "label": ranking.label, "needs": needs}
            rows.append({**row, "seconds": float(np.median(took)), "seeds": len(took)})
    return rows


def reliability_rows(profile: Profile) -> list[dict]:
    """reliability.csv: seed, lineage, layer, noise, images, both for the pattern alone, shares."""
    return _rows(profile, "reliability")


def sanity_rows(profile: Profile, name: str) -> list[dict]:
    """Of one check: "randomisation" (layer, pearson, ssim), "deletion" (map, deleted, probability)
    or "alike" (within, between), with seed and lineage."""
    return _rows(profile, "sanity", name)


def complexity_rows(profile: Profile) -> list[dict]:
    """complexity.csv: seed, lineage, before, after, rise."""
    return _rows(profile, "complexity")


def readout_rows(profile: Profile) -> list[dict]:
    """readouts.csv: seed, lineage, way (before round 2, or an arm), readout, acc1."""
    left = _rows(profile, "left", column="way")  # as the arm is called today
    return _rows(profile, "readouts") + left


def graft_rows(profile: Profile) -> list[dict]:
    """grafts.csv: seed, lineage, ranking, label, family, fraction, draw, acc1, acc2, ..."""
    return _rows(profile, "grafts", label=True)


def tables(profile: Profile) -> dict[str, list[dict]]:
    """Every table of notebook 06 that rows in the store give, by name; none where nothing was
    examined."""
    p = with_shown(profile, profile.seed_list[0])
    found = {
        **{"atlas": atlas_rows(p), "choices": choice_rows(p), "reliability": reliability_rows(p)},
        **{name: sanity_rows(p, name) for name in ("randomisation", "deletion", "alike")},
        **{"complexity": complexity_rows(p), "readouts": readout_rows(p), "grafts": graft_rows(p)},
    }
    return {name: rows for name, rows in found.items() if rows}
