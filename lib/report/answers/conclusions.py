"""What each figure lets one conclude: a sentence with numbers, of its tables."""

import numpy as np
import pandas as pd

from lib.report import beside, readings
from lib.report.answers.sentences import of_the_map, off_diagonal
from lib.report.claims import RELIABLE
from lib.report.figures import chance_differences
from lib.report.numbers import POINTS, Read, bounded, listed, unit_of, unsigned
from lib.report.paper import RANKING
from lib.report.statistics import FINE_TUNE, by_seed, interval, pick, rows_of
from lib.report.words import (
    MEASURED,
    agreement,
    as_square,
    grafts_beside_arms,
    plain,
    sameness,
)

FULLGRAD = "FullGrad"  # the study's saliency map, as deletion.csv calls it


def conclusions(read: Read) -> dict[str, str]:
    """Figure -> what its tables say, in a sentence with numbers; figures whose tables are not there
    are left out."""
    said = {}
    for name, (tables, tell) in TOLD.items():
        try:
            found = [read(table) for table in tables]
        except FileNotFoundError:
            continue
        if all(len(table) for table in found) and (sentence := tell(*found)):
            said[name] = sentence
    return said


def of_forest(runs: pd.DataFrame) -> str:
    """The spread of the main differences, and how many intervals leave zero to one side."""
    groups = chance_differences(runs).groupby(["profile", "fraction"])["difference"]
    found = [interval(values) for _, values in groups]
    if not found:
        return ""
    if len(found) == 1:
        names = "estimate", "low", "high", "n"
        one = " (one seed)" if found[0][3] < 2 else ""
        return f"The mean difference is {bounded(dict(zip(names, found[0])), POINTS)} points{one}."
    means = [POINTS.write(mean) for mean in (min(f[0] for f in found), max(f[0] for f in found))]
    above, below = (sum(ends) for ends in zip(*((f[1] > 0, f[2] < 0) for f in found)))
    single = sum(n < 2 for *_, n in found)
    words = (
        f", {single} ha{'s' if single == 1 else 've'} one seed and no interval" if single else ""
    )
    return (
        f"The mean differences run from {means[0]} to {means[1]} points; of {len(found)}, {above} "
        f"{'has' if above == 1 else 'have'} a 95 % interval (not corrected for their number) "
        f"wholly above zero, {below} wholly below{words}."
    )


def _of_plane(claims: pd.DataFrame) -> str:
    table, parts = claims.set_index("claim"), []
    for claim, other in (
        ("C2b-random", "random freezing"),
        ("C2b-trajectory", "fine-tuning stopped early"),
        ("C2b-interpolation", "the straight line of weights"),
    ):
        if claim in table.index and pd.notna(table.loc[claim, "estimate"]):
            row = table.loc[claim]
            place = "above" if row["estimate"] >= 0 else "below"
            sign = 1 if row["estimate"] >= 0 else -1
            parts.append(f"{bounded(row, unsigned(POINTS), sign=sign)} points {place} {other}")
    return (
        (
            f"At equal accuracy on task 2, freezing by explanation lies {listed(parts)} in "
            "accuracy on task 1."
        )
        if parts
        else ""
    )


def _of_epochs(runs: pd.DataFrame, accuracy: pd.DataFrame) -> str:
    tuned = pick(runs, FINE_TUNE)
    rows = rows_of(runs, FINE_TUNE, accuracy)
    rows = rows[(rows["task"] == "task1") & (rows["round"] == 2)] if len(rows) else rows
    if rows.empty or "acc1_before" not in tuned:
        return ""
    start = by_seed(tuned, "acc1_before").mean()
    means = rows.groupby("epoch").apply(lambda of: by_seed(of, "accuracy").mean())
    return (
        f"Fine-tuning starts from {plain(start)} on task 1, has {plain(means.iloc[0])} after one "
        f"epoch of task 2 and {plain(means.iloc[-1])} after the last."
    )


def _of_retained(summary: pd.DataFrame) -> str:
    part = summary.dropna(subset=["retained"])
    if part.empty:
        return ""
    best = part.loc[part["retained"].idxmax()]
    return (
        f"Most is retained by {best['arm']}: {100 * best['retained']:.0f} % of the accuracy above "
        "chance."
    )


def _of_classes(table: pd.DataFrame) -> str:
    mean = off_diagonal(table)
    return (
        f"The choices of two classes overlap (IoU) by {mean:.2f} on average, which is to say that "
        f"{sameness(mean)} (one network)."
    )


def _of_filters(table: pd.DataFrame) -> str:
    first, last = table.iloc[0], table.iloc[-1]
    return (
        f"Started from other noise, a filter's picture correlates with itself at "
        f"{first['correlation']:.2f} in {first['layer']} and {last['correlation']:.2f} in "
        f"{last['layer']} (1 is the same picture)."
    )


def _of_learning(curves: pd.DataFrame) -> str:
    last = curves[(curves["task"] == "task1") & (curves["epoch"] == curves["epoch"].max())]
    return (
        f"Task 1 ends at {plain(last['accuracy'].mean())} before the second task (one network a "
        "seed)."
        if len(last)
        else ""
    )


def _of_per_class(table: pd.DataFrame) -> str:
    means = table.groupby("class")["accuracy"].mean()
    return (
        f"From {means.idxmin()} ({plain(means.min())}) to {means.idxmax()} "
        f"({plain(means.max())}): what is forgotten is counted from here."
    )


def _of_examined(claims: pd.DataFrame, claim: str, words: str) -> str:
    table = claims.set_index("claim")
    if claim not in table.index:
        return ""
    row, n = table.loc[claim], int(table.loc[claim, "n"])
    told = f"n = {n}, {row['verdict']}" if n > 1 else "one seed: undecided"
    return f"{words}: {bounded(row, unit_of(claim))} ({told})."


def _of_atlas(claims: pd.DataFrame) -> str:
    words = "Rank correlation of the MSE score with the damage, mean of layers"
    return _of_examined(claims, "C5", words)


def of_choices(table: pd.DataFrame, atlas: pd.DataFrame, fraction: float = 0.5) -> str:
    """Whose choice is nearest to the paper's ranking's, and how far that is from the choice of
    those filters that matter most."""
    square = as_square(table, fraction)
    if RANKING not in square or MEASURED not in square:
        return ""
    labels = dict(zip(atlas["ranking"], atlas["label"]))
    near = square[RANKING].drop(RANKING).nlargest(3)
    next_to, seeds = square[MEASURED].drop(MEASURED), table["seed"].nunique()
    return (
        f"With {100 * fraction:.0f} % chosen, MSE's choice overlaps most with those called "
        f"{listed([f'{labels[name]} ({value:.2f})' for name, value in near.items()])}; with the "
        f"filters whose ablation does most damage at {square.loc[RANKING, MEASURED]:.2f}, where "
        f"two random choices overlap at {fraction / (2 - fraction):.2f}. Nearest to those comes "
        f"{labels[next_to.idxmax()]} ({next_to.max():.2f}; {seeds} seed{'s' * (seeds > 1)}). Here "
        "counts what is chosen for all classes together; a score's correlation with the damage "
        "goes class by class, and another ranking can come first in it."
    )


def _of_reliability(claims: pd.DataFrame, layers: pd.DataFrame) -> str:
    words = "Rank correlation of the MSE ranking with itself made again, in the worst of four ways"
    noise = layers.groupby("layer", sort=False)["noise"].mean()
    weak = [layer for layer, value in noise.items() if value < RELIABLE]
    below = f"below {RELIABLE:.1f} in {listed(weak)}" if weak else "nowhere below"
    return (
        f"{_of_examined(claims, 'C6', words)} From another noise, {int(layers['filters'].max())} "
        f"filters a layer: {noise.min():+.2f} ({noise.idxmin()}) to {noise.max():+.2f} "
        f"({noise.idxmax()}), {below}."
    )


def _of_sanity(randomised: pd.DataFrame, deletion: pd.DataFrame) -> str:
    """How alike maps stay, and whether pixels matter in FullGrad's order more than in another."""
    alike = randomised.groupby("layer", sort=False)["pearson"].mean()
    fall = deletion.groupby(["map", "deleted"])["probability"].mean().groupby("map").mean()
    ours, others = fall[FULLGRAD], fall.drop(FULLGRAD)
    sooner = "sooner" if ours < others.min() else "no sooner"
    beside = listed([f"{plain(value)} in that of the {name} map" for name, value in others.items()])
    seeds = randomised["seed"].nunique()
    return (
        f"Maps correlate at {alike.iloc[0]:.2f} with what they were once the {alike.index[0]} is "
        f"randomised, and at {alike.iloc[-1]:.2f} once all layers are. While pixels are deleted, "
        f"highest first, the class's probability is {plain(ours)} on average in {FULLGRAD}'s "
        f"order, {beside}: its order finds what matters {sooner} than the {others.idxmin()} map's "
        f"({seeds} seed{'s' if seeds > 1 else ''})."
    )


def _of_readouts(table: pd.DataFrame) -> str:
    """Before, then of two arms: as it is, with the old head and statistics, by a probe."""
    read = ["as it is", "both put back", "linear probe"]
    means = table.groupby(["way", "readout"], sort=False)["acc1"].mean().unstack(sort=False)
    if not {*read} <= set(means) or "before" not in means.index:
        return ""
    parts = [
        f"{way} {listed([plain(x[name]) for name in read])}" for way, x in means[read].iterrows()
    ]
    seeds = table.groupby("way")["seed"].nunique()
    n = " to ".join(dict.fromkeys(str(k) for k in (seeds.min(), seeds.max())))
    return (
        "As the network is, with the old head and statistics put back, and by a linear probe: "
        f"{'; '.join(parts[:3])} ({n} seed{'s' if n != '1' else ''})."
    )


def _of_grafts(table: pd.DataFrame, runs: pd.DataFrame) -> str:
    """Where the paper's choice lies among random ones, in the mean of both accuracies, and whether
    grafts foretell what freezing keeps."""
    foretold = agreement(grafts_beside_arms(table, runs))
    table = table.assign(mean=table[["acc1", "acc2"]].mean(axis=1))
    found = {}
    for (fraction, _, _), part in table.groupby(["fraction", "seed", "lineage"]):
        ours = part.loc[part["ranking"] == RANKING, "mean"].mean()
        chance = part.loc[part["family"] == "chance", "mean"]
        if pd.notna(ours) and len(chance) > 1:
            found.setdefault(fraction, []).append(100 * (chance < ours).mean())
    if not found:
        return foretold
    every, seeds = sum(found.values(), []), max(map(len, found.values()))
    shares = listed([f"{np.mean(values):.0f}" for values in found.values()])
    single = f", single seeds {min(every):.0f} to {max(every):.0f} %" if seeds > 1 else ""
    return (
        f"In the mean of both accuracies, MSE's choice lies above {shares} % of the random ones "
        f"of the same network with {listed([f'{100 * f:.0f}' for f in found])} % put back "
        f"({seeds} seed{'s' * (seeds > 1)}{single}). {foretold}"
    ).strip()


def _of_budget(table: pd.DataFrame) -> str:
    whole = table[(table["layer"] == "all") & np.isclose(table["nominal"], 0.5)]
    shares = whole.set_index("rule")["fraction"]
    if not {"turns", "union"} <= set(shares.index):
        return ""
    return (
        f"Sharing each layer's budget by turns freezes {100 * shares['turns']:.0f} % where 50 % "
        f"are asked for; a list for each class, put together, {100 * shares['union']:.0f} %."
    )


TOLD = {  # figure -> its tables, and what tells of them
    "forest": (("runs",), of_forest),
    "readings": (("readings",), readings.sentence),
    "plane": (("claims",), _of_plane),
    "over_epochs": (("runs", "accuracy"), _of_epochs),
    "methods": (("runs",), beside.sentence),
    "retained": (("summary",), _of_retained),
    "overlap": (("claims",), of_the_map),
    "class_overlap": (("class_overlap",), _of_classes),
    "learning_curves": (("accuracy_task1",), _of_learning),
    "per_class": (("per_class",), _of_per_class),
    "filter_grid": (("noise_reliability",), _of_filters),
    "realised": (("realised",), _of_budget),
    "atlas": (("claims_examined",), _of_atlas),
    "choices": (("choices", "atlas"), of_choices),
    "reliability": (("claims_examined", "reliability"), _of_reliability),
    "sanity": (("randomisation", "deletion"), _of_sanity),
    "readouts": (("readouts",), _of_readouts),
    "grafts": (("grafts", "runs"), _of_grafts),
}
