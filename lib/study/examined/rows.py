"""Tables of what was examined, from whatever is in the store."""

from collections.abc import Collection, Mapping
from itertools import combinations
from typing import Any

import numpy as np

from lib import freezing
from lib.ranking import RANKINGS
from lib.study.arms import SEEN
from lib.study.examined.rankings import ranking_key
from lib.study.examined.whose import examined_seeds, judged, with_shown
from lib.study.products import PRODUCTS, store
from lib.study.profile import Profile
from lib.study.store import digest

COMPARED_AT = (0.5, 0.75)  # shares at which every two rankings are compared


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
    """What each ranking took: ranking, label, needs, seconds (of its scores), beforehand (seconds
    of the products it needs, made once for all rankings that do: class maps, visualizations, the
    untrained network's, a trial of task 2; nan if one was not made here), both as medians over
    examined seeds, seeds. Of scores made here: none come with a published record."""
    shelf, rows = store(profile), []
    seconds = {
        kind: {digest(meta["key"]): meta["seconds"] for _, meta in shelf.metas(kind)}
        for kind in ("scores", *SEEN)
    }
    for name, ranking in RANKINGS.items():
        took = []
        for seed in examined_seeds(profile):
            key = digest(ranking_key(profile, seed, name))
            if key in seconds["scores"]:
                before = _beforehand(profile, seed, ranking.needs, seconds)
                took.append((seconds["scores"][key], before))
        if took:
            needs = " ".join(sorted(ranking.needs)) or "nothing"
            own, before = np.median(took, axis=0).tolist()
            row = {"ranking": name, "label": ranking.label, "needs": needs, "seconds": own}
            rows.append({**row, "beforehand": before, "seeds": len(took)})
    return rows


def _beforehand(profile: Profile, seed: int, needs: Collection[str], seconds: Mapping) -> float:
    """Seconds of the products among a ranking's needs; seconds: kind -> digest of a key -> its."""
    total = 0.0
    for kind in (kind for kind in SEEN if kind in needs):
        product = PRODUCTS[kind]
        for part in product.parts(profile, seed):
            key = digest(product.key(profile, seed, *filter(None, [part])))
            total += seconds[kind].get(key, np.nan)
    return total


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
