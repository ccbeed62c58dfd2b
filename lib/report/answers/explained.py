"""What the explanations tell, in the setting in which most seeds were examined."""

from collections.abc import Mapping

import pandas as pd

from lib.report.answers.conclusions import of_choices
from lib.report.numbers import POINTS, Read, bounded, listed, percent, unit_of
from lib.report.paper import RANKING
from lib.report.statistics import average, interval, paired
from lib.report.words import foretells_best, plain

NAMED = 3  # rankings that a sentence names


def of_explanations(reads: Mapping[str, Read]) -> list[str]:
    """Whether a score says which filters matter, which rankings keep more than chance, and what a
    linear probe finds of task 1; nothing where nothing was examined.
    reads: a setting's name -> its tables."""
    if not (most := examined_most(reads)):
        return []
    name, claims, atlas, runs, readouts = most
    scores = _of_scores(name, claims, atlas) + _of_rankings(runs)
    return [scores, *_of_choices(reads[name]), *_of_probe(readouts)]


def examined_most(reads: Mapping[str, Read]) -> tuple | None:
    """(its name, claims_examined, atlas, runs, readouts) of the setting in which most seeds were
    examined; None where none was."""
    found = []
    for name, read in reads.items():
        try:
            tables = [read(t) for t in ("claims_examined", "atlas", "runs", "readouts")]
        except FileNotFoundError:
            continue
        found.append((name, *tables))
    return max(found, key=lambda one: one[2]["seed"].nunique(), default=None)


def _of_scores(name: str, claims: pd.DataFrame, atlas: pd.DataFrame) -> str:
    row = claims.set_index("claim").loc["C5"]
    best, n = foretells_best(atlas), int(row["n"])
    return (
        f"Does the score say which filters matter? In {name} ({n} seed{'s' if n > 1 else ''}) its "
        "rank correlation with the damage of switching a filter off is "
        f"{bounded(row, unit_of('C5'))}, the mean of layers; that of {best['label']}, the best "
        f"ranking that does not measure the damage, {best['spearman']:+.2f}; that of the same "
        f"damage on other images {atlas['ceiling'].mean():+.2f}."
    )


def _of_choices(read: Read) -> list[str]:
    """Which rankings choose what the paper's does; nothing in a record older than that table."""
    try:
        told = of_choices(read("choices"), read("atlas"))
    except FileNotFoundError:
        return []
    return [f"Do rankings choose the same filters? {told}"] if told else []


def _of_rankings(runs: pd.DataFrame) -> str:
    """Every other ranking beside random freezing, at the share that most of them have."""
    if "rule" not in runs:  # none freezes
        return ""
    usual = runs[(runs["method"] == "freeze") & (runs["rule"] == "turns")]
    usual = usual[(usual["scope"] == "weights") & (usual["fraction"] < 1)]
    if usual.empty:
        return ""
    share = usual.groupby("fraction")["ranking"].nunique().idxmax()
    usual = usual[usual["fraction"] == share].assign(average=average(usual))
    arms = usual.drop_duplicates("arm").set_index("arm")["ranking"]
    chance = arms.index[arms == "random"]
    others = [arm for arm, ranking in arms.items() if ranking not in (RANKING, "random", "bottom")]
    if not len(chance) or not others:
        return ""
    apart = {
        column: {arm: interval(paired(usual, arm, chance[0], column)) for arm in others}
        for column in ("acc1", "average")
    }
    more, both = (
        sorted((a for a in others if found[a][1] > 0), key=lambda a: -found[a][0])
        for found in apart.values()
    )

    def named(column: str, found: list[str]) -> str:
        first = [
            f"{POINTS.write(mean)} [{POINTS.write(low)}, {POINTS.write(high)}] "
            f"({arm.removesuffix(f' {percent(share)}')})"
            for arm, (mean, low, high, _) in ((arm, apart[column][arm]) for arm in found[:NAMED])
        ]
        most = "by at most " if len(found) > NAMED else "by "
        return f", {most}{listed(first)} points" if found else ""

    seeds = {found[-1] for of in apart.values() for found in of.values()}
    n = f"n = {min(seeds)}" + (f" to {max(seeds)}" if len(seeds) > 1 else "")
    return (
        f" Of {len(others)} other rankings, each with {percent(share)} of a layer frozen ({n}), "
        f"{len(more) or 'none'} keep{'s' * (len(more) < 2)} more of the first task than random "
        f"freezing{named('acc1', more)}; averaged over both tasks {len(both) or 'none'} "
        f"do{'es' * (len(both) < 2)}{named('average', both)} (95 % intervals, not corrected for "
        "their number)."
    )


def _of_probe(readouts: pd.DataFrame) -> list[str]:
    left = readouts.groupby(["way", "readout"])["acc1"].mean().unstack()
    ways, read = ("before", "fine-tune"), ["as it is", "linear probe"]
    if not {*ways} <= set(left.index) or not {*read} <= set(left):
        return []
    (now0, probe0), (now, probe) = (map(plain, left.loc[way, read]) for way in ways)
    return [
        "Where does the forgetting sit? Over the same seeds, with nothing frozen, accuracy on the "
        f"first task falls from {now0} to {now}; a linear probe on the features finds {probe0} "
        f"before and still {probe} after."
    ]
