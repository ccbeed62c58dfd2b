"""Words and small tables a reader sees: the paper's tables beside ours, the answers, and what the
notebooks show of their tables. No torch.

Every number comes from a table; nothing is typed in but the paper's own (`lib.report.paper`)."""

import json
import re
from collections.abc import Iterable

import numpy as np
import pandas as pd

from lib.report import paper
from lib.report.claims import EXAMINED, OVERLAPS, claims_in
from lib.report.numbers import POINTS, bounded, percent, unit_of
from lib.report.statistics import (
    FINE_TUNE,
    JOINT,
    Arm,
    accuracy_matrix,
    backward_transfer,
    by_seed,
    checkpoints,
    forgetting,
    forward_transfer,
    frozen_by,
    in_common,
    interval,
    pick,
    rows_of,
)
from lib.study.profile import Profile

ROUNDING = 1e-9  # in float64; what is larger was never rounding


def classes_per_task(profile: Profile) -> int:
    """Classes of each task: 1 / chance."""
    return len(profile.data.classes[0]) if profile.data.classes else profile.data.draw.classes


def plain(number: float) -> str:
    """`.169`: three digits, no zero before the point."""
    return re.sub(r"^(-?)0\.", r"\1.", f"{number:.3f}")


def spread(values) -> str:
    """`.169 [.150, .188]`: mean and 95 % interval over seeds; the mean alone for a single seed;
    points as fractions."""
    mean, low, high, n = interval(values)
    return f"{plain(mean)} [{plain(low)}, {plain(high)}]" if n > 1 else plain(mean)


def asked(text: str) -> tuple[str, str]:
    """A text that begins with a question: the question, and the rest; else nothing and the text."""
    question, mark, rest = text.partition("?")
    return (question + mark, rest) if mark else ("", text)


def sameness(iou: float) -> str:
    """An overlap (IoU) of two equally large choices as the share of filters they have in common."""
    return f"{100 * in_common(iou):.0f} % of the filters are the same"


def _but_the_same(claim: str, iou: float) -> str:
    """After the verdict of a claim on overlap, which alone would sound as if choices were apart."""
    return "" if claim not in OVERLAPS or pd.isna(iou) else f", while {sameness(iou)}"


# --- the paper's tables ---------------------------------------------------------------------------


def paper_tables(runs: pd.DataFrame) -> pd.DataFrame:
    """Tables 1 to 3 of the paper: its number or words beside our mean, 95 % interval and n, row by
    row. Rows whose arm is not there are left out."""
    rows = []
    for said in paper.TABLES:
        before = said.name == paper.BEFORE
        part = checkpoints(runs) if before else pick(runs, said.arm)
        if part.empty:
            continue
        ours = {c: by_seed(part, f"{c}_before" if before else c) for c in ("acc1", "acc2")}
        rows.append(
            {
                "table": said.table,
                "arm": said.name,
                "paper acc1": str(said.numbers.get("acc1", "")),
                "paper acc2": str(said.numbers.get("acc2", "")),
                "paper in words": said.words,
                "acc1 [95 %]": spread(ours["acc1"]),
                "acc2 [95 %]": spread(ours["acc2"]),
                "n": part["seed"].nunique(),
            }
        )
    return pd.DataFrame(rows)


def before_beside_paper(task1: pd.DataFrame) -> pd.DataFrame:
    """acc1 and acc2 before round 2 over seeds (mean, min, max, count) beside the paper's. task1:
    acc1_before, acc2_before, one row for each checkpoint."""
    found = task1[["acc1_before", "acc2_before"]].agg(["mean", "min", "max", "count"]).T
    return found.assign(paper=[paper.NUMBERS["before"][c] for c in ("acc1", "acc2")])


def answer_before(task1: pd.DataFrame) -> str:
    """acc1 and acc2 before round 2 in words, and the paper's."""
    mean, said = task1[["acc1_before", "acc2_before"]].mean(), paper.NUMBERS["before"]
    return (
        f"before round 2, mean of {len(task1)} seeds: acc1 {plain(mean['acc1_before'])}, "
        f"acc2 {plain(mean['acc2_before'])}\nthe paper: acc1 {plain(said['acc1'])}, "
        f"acc2 {plain(said['acc2'])} (one run, CIFAR-100)"
    )


def answer_complete(residual: float) -> str:
    """Whether FullGrad splits a logit without remainder on this network. residual: the largest
    relative one in float64."""
    if residual < ROUNDING:
        return f"FullGrad is complete to {residual:.0e} (float64)"
    return (
        f"FullGrad's split misses a logit by up to {residual:.2g} of it (of 1, if it is smaller; "
        "float64): its maps are no split here. Something in this network is neither a convolution, "
        "a linear layer, batch norm, ReLU, pooling nor an addition"
    )


# --- summary and claims ---------------------------------------------------------------------------


def _bounds(row, name: str, low: str, high: str) -> str:
    text = f"{row[name]:.3f}"
    return (
        ""
        if pd.isna(row[name])
        else text
        if pd.isna(row[low])
        else f"{text} [{row[low]:.3f}, {row[high]:.3f}]"
    )


def readable_summary(summary: pd.DataFrame) -> pd.DataFrame:
    """`statistics.summary` with each mean and its interval in one cell."""
    names = ("acc1", "acc2", "average", "retained", "gained")
    return pd.DataFrame(
        [
            {
                "arm": row["arm"],
                "n": row["n"],
                **{name: _bounds(row, name, f"{name}_low", f"{name}_high") for name in names},
            }
            for _, row in summary.iterrows()
        ]
    )


def readable_methods(methods: pd.DataFrame, arms: pd.DataFrame) -> pd.DataFrame:
    """`beside.beside_methods` in points, each mean with its interval, and what each method keeps
    between tasks."""
    keeps = arms.set_index("arm")["keeps"]
    return pd.DataFrame(
        [
            {
                "arm": row["arm"],
                "n": row["n"],
                "acc1, points": bounded(row, POINTS, "acc1", level=False),
                "all tasks, points": bounded(row, POINTS, "average", level=False),
                "keeps between tasks": keeps.get(row["arm"], "unknown"),
            }
            for _, row in methods.iterrows()
        ]
    )


def readable_claims(claims: pd.DataFrame) -> pd.DataFrame:
    """`claims.claims` with each estimate and its interval in one cell, the interval's level beside
    it."""
    shown = claims[["claim", "text", "n", "verdict"]].copy()
    shown["verdict"] = [
        row["verdict"] + _but_the_same(row["claim"], row["estimate"])
        for _, row in claims.iterrows()
    ]
    shown.insert(
        2, "estimate", [_bounds(row, "estimate", "low", "high") for _, row in claims.iterrows()]
    )
    shown.insert(3, "interval at", claims["level"].map(percent).where(claims["low"].notna(), ""))
    shown.insert(5, "p", ["" if pd.isna(p) else f"{p:.3f}" for p in claims["p"]])
    return shown


ANSWERS = (  # claim, what it compares, unit; MSE against random first, whatever it says
    ("C2-random", "MSE-freezing minus random freezing at 50 %, in acc1", "points"),
    ("C2-random-25", "the same at 25 %", "points"),
    ("C2-random-75", "the same at 75 %", "points"),
    ("C2-random-90", "the same at 90 %", "points"),
    ("C2b-random", "the same at equal acc2 (mean height of MSE's curve over random's)", "points"),
    ("C2-bottom", "MSE minus the least similar filters at 50 %, in acc1", "points"),
    ("C2-Pearson", "MSE minus Pearson at 50 %, in acc1", "points"),
    ("C2b-trajectory", "MSE's curve over fine-tuning stopped early, at equal acc2", "points"),
    ("C2b-interpolation", "MSE's curve over the straight line of weights, at equal acc2", "points"),
    (
        "C3a",
        "MSE-freezing minus joint training, average accuracy, as scored in the paper",
        "points",
    ),
    ("C0", "what fine-tuning loses of acc1", "points"),
    ("C5b", "overlap of MSE's choice with that by the mean map of all classes", "share"),
    ("C5c", "overlap of MSE's choice with that by the closest map without content", "share"),
    ("C5", "correlation (Spearman) of MSE's score with the damage of ablation", "of 1"),
    ("C6", "correlation of MSE's ranking with itself made again, the worst of four ways", "of 1"),
)


def answer(claims: pd.DataFrame, missing: bool = True) -> str:
    """The study's main answers from the table of claims, a line each: estimate [interval at the
    level its verdict is read from], n, verdict; and one sentence on those the setting has and the
    table lacks."""
    found, lines = claims.set_index("claim"), []
    for claim, words, unit in ANSWERS:
        if claim not in found.index:
            continue
        c = found.loc[claim]
        known = "" if pd.isna(c["estimate"]) else f" {unit}"
        value = bounded(c, unit_of(claim)) + known
        verdict = c["verdict"] + _but_the_same(claim, c["estimate"]) + _room(c)
        lines.append(f"{claim}: {words}: {value}, n = {int(c['n'])}: {verdict}")
    if missing and (missing := _missing(claims)):
        lines.append(f"Not told by these tables, which lack what it needs: {', '.join(missing)}.")
    return "\n".join(lines)


def _room(claim: pd.Series) -> str:
    """What could have been protected, of a claim that compares freezing with freezing."""
    if pd.isna(claim.get("headroom")):
        return ""
    return f" (room: {bounded(claim, POINTS, 'headroom')} points)"


def _missing(claims: pd.DataFrame) -> list[str]:
    """Main answers of the table's setting that are not in it and have no table of their own."""
    setting = claims["setting"].iloc[0] if "setting" in claims and len(claims) else ""
    made = {claim.id for claim in claims_in(setting)} - set(claims["claim"]) - set(EXAMINED)
    return [claim for claim, *_ in ANSWERS if claim in made]


HEADLINES = {
    "supported": "protects task 1 better than freezing at random",
    "contradicted": "does not protect task 1 a point better than freezing at random",
    "inconclusive": "is not shown to protect task 1 better than freezing at random",
    "undecided": "cannot be told from freezing at random by a single seed",
    "no": "has no room here to do better than freezing at random: not even freezing all "
    "convolutions protects task 1",
}


def headline(claims: pd.DataFrame) -> str:
    """One sentence on the study's question, by the verdict of C2-random (MSE against random at 50
    %), or on what is missing for it."""
    found = claims.set_index("claim")
    if "C2-random" not in found.index:
        return (
            "Whether freezing by explanation protects task 1 better than freezing at random is not "
            "told by these tables: they lack the claim C2-random (no seed has both arms at 50 %)."
        )
    c = found.loc["C2-random"]
    return (
        f"Freezing half of the filters by explanation {HEADLINES[c['verdict'].split()[0]]}: "
        f"{bounded(c, POINTS)} points of acc1, n = {int(c['n'])}."
    )


# --- arms -----------------------------------------------------------------------------------------


def arm_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Each arm's acc1 and acc2 after the last round: mean and interval over seeds."""
    return pd.DataFrame(
        [
            {
                "arm": arm,
                "acc1 [95 %]": spread(by_seed(part, "acc1")),
                "acc2 [95 %]": spread(by_seed(part, "acc2")),
                "n": part["seed"].nunique(),
            }
            for arm, part in runs.groupby("arm", sort=False)
        ]
    )


def arm_means(runs: pd.DataFrame) -> pd.DataFrame:
    """Each arm's mean over its rows: realised share frozen, both accuracies before and after, and
    the two quieter measures of task 1 (loss on test images, accuracy on training images)."""
    names = ("realised", "acc1_before", "acc1", "acc2_before", "acc2", "loss1", "acc1_train")
    shown = {name: (name, "mean") for name in names if name in runs}
    return runs.groupby("arm", sort=False).agg(n=("seed", "nunique"), **shown)


def shown_arms(arms: pd.DataFrame) -> pd.DataFrame:
    """The table of arms as a notebook shows it: empty cells instead of NaN."""
    return arms.astype(object).where(arms.notna(), "")


def _main_arms(runs: pd.DataFrame) -> Iterable[tuple[str, Arm]]:
    """Fine-tuning, random and the paper's ranking at 50 %: those there are, by display name."""
    for arm in (FINE_TUNE, frozen_by("random", 0.5), frozen_by(paper.RANKING, 0.5)):
        if len(found := pick(runs, arm)):
            yield found["arm"].iloc[0], arm


def answer_rounds(runs: pd.DataFrame) -> str:
    """What is left of task 1 and learned of task 2 in words, a line for each main arm."""
    lines = []
    for name, arm in _main_arms(runs):
        row = {c: by_seed(pick(runs, arm), c) for c in ("acc1_before", "acc1", "acc2")}
        before, acc1, acc2 = (f"{values.mean():.3f}" for values in row.values())
        n = len(row["acc1"])
        lines.append(f"{name}: task 1 from {before} to {acc1}, task 2 at {acc2} (n = {n})")
    return "\n".join(lines)


def accuracy_matrices(runs: pd.DataFrame, accuracy: pd.DataFrame) -> pd.DataFrame:
    """R[i, j], mean over seeds, of each main arm: a line for each (arm, round), a column for each
    task."""
    found = {
        name: accuracy_matrix(runs, accuracy, arm).groupby("round").mean()
        for name, arm in _main_arms(runs)
    }
    return pd.concat(found, names=["arm"]) if found else pd.DataFrame()


def transfer_table(
    runs: pd.DataFrame, accuracy: pd.DataFrame, classes_per_task: int | None = None
) -> pd.DataFrame:
    """Forgetting and backward transfer of every arm that starts from a checkpoint, and with
    classes_per_task forward transfer: mean and interval over seeds."""
    rows = []
    for arm in runs["arm"].unique():
        matrix = accuracy_matrix(runs, accuracy, arm)
        if len(matrix):
            lost, moved = forgetting(matrix), backward_transfer(matrix)
            row = {"arm": arm, "forgetting [95 %]": spread(lost)}
            row["backward transfer [95 %]"] = spread(moved)
            if classes_per_task:
                ahead = forward_transfer(matrix, classes_per_task)
                row["forward transfer [95 %]"] = spread(ahead)
            rows.append({**row, "n": len(lost)})
    return pd.DataFrame(rows)


def controls_by_place(trajectory: pd.DataFrame) -> pd.DataFrame:
    """The two controls that cost no training: mean accuracies at each place of fine-tuning's path
    (steps) and of the straight line between the weights (0 before, 1 after). Empty without a traced
    arm."""
    if trajectory.empty:
        return trajectory
    return trajectory.groupby(["control", "place"])[["task1", "task2"]].mean()


def joint_by_epoch(runs: pd.DataFrame, accuracy: pd.DataFrame) -> pd.DataFrame:
    """Joint training over all classes and masked to each task's own, after the last epoch and after
    1 / tasks of them (as many SGD steps as the rounds have). Empty without such an arm."""
    rows = rows_of(runs, JOINT, accuracy)
    if rows.empty:
        return rows
    last = rows["epoch"].max()
    tasks = rows.loc[~rows["task"].str.endswith(" masked"), "task"].nunique()
    rows = rows[rows["epoch"].isin([last // tasks, last])]
    return rows.pivot_table(index="epoch", columns="task", values="accuracy")


def costs(timing: pd.DataFrame) -> pd.DataFrame:
    """Runs, median and sum of seconds by machine and version of torch."""
    seconds = timing.groupby(["processor", "cores", "torch"])["seconds"]
    return seconds.agg(["count", "median", "sum"]).rename(columns={"sum": "seconds in all"})


def readable_costs(costs: pd.DataFrame) -> pd.DataFrame | str:
    """ranking_costs.csv for reading, dearest first; or a word that nothing was timed here."""
    if costs.empty:
        return "no ranking was made here (rows of the record came without their scores)"
    if "beforehand" not in costs:  # a record from before these seconds were kept
        costs = costs.assign(beforehand=np.nan)
    shown = costs.assign(together=costs["seconds"] + costs["beforehand"])
    shown = shown.sort_values(["together", "seconds"], ascending=False, na_position="last")
    columns = ["label", "needs", "seconds", "beforehand", "together", "seeds"]
    return shown[columns].round(2).set_index("label")


def calibration_table(calibration: pd.DataFrame) -> pd.DataFrame | str:
    """Task 1 on tuning seeds by setting and precision, or a word that there is none."""
    if calibration.empty:
        return "this profile names no calibration"
    parts = calibration.groupby(["setting", "precision"])[["acc1_before", "acc2_before"]]
    return parts.agg(["mean", "min", "max", "count"])


def tuning_table(tuning: pd.DataFrame) -> pd.DataFrame | str:
    """How each setting of a grid did on tuning seeds and held-out images: mean accuracies over
    seeds (empty where a run failed), how many runs failed, and which was chosen; or a word that
    there is none."""
    if tuning.empty:
        return "this profile has no tuned settings"
    if "again" in tuning:  # once more, beside a point of another network
        tuning = tuning[~tuning["again"].astype(bool)]
    columns = [*(c for c in tuning if re.fullmatch(r"acc\d+", c)), "average"]
    found = []
    for (grid, options), part in tuning.groupby(["grid", "options"], sort=False):
        failed = int(part["failed"].notna().sum())
        means = {c: "" if failed else plain(part[c].mean()) for c in columns}
        row = {"grid": grid, "options": options, "n": part["seed"].nunique(), **means}
        word = "chosen" if part["chosen"].all() else ""
        found.append({**row, "failed": failed or "", "": word})
    return pd.DataFrame(found)


def tried(tuning: pd.DataFrame) -> list[tuple[str, list[tuple[str, str, bool]]]]:
    """Every grid and its settings, smaller values first: (grid, [(values, mean, chosen), ...]).
    values: such as `strength 10`; mean: of the accuracies over all tasks, seeds and what shares the
    setting, or `failed`, where a run of it diverged; where a point started from another network
    than the first ones, with what the choice so far came to there."""
    found, beside = [], tuning[:0]
    if "again" in tuning:
        again = tuning["again"].astype(bool)
        beside, tuning = tuning[again], tuning[~again]
    for grid, part in tuning.groupby("grid", sort=False) if len(tuning) else ():
        options = pd.DataFrame(map(json.loads, part["options"]), index=part.index)
        numbers = options.select_dtypes("number")
        varied = [c for c in numbers if numbers[c].nunique() > 1] or [*numbers][-1:]
        lines = []
        for values, rows in part.groupby([options[c] for c in varied], sort=True):
            words = ", ".join(f"{name} {value:g}" for name, value in zip(varied, values))
            failed = rows["failed"].notna().any()
            mean = "failed" if failed else plain(rows["average"].mean())
            mean += _of_the_choice_there(rows, beside) if len(beside) else ""
            lines.append((words, mean, bool(rows["chosen"].all())))
        found.append((grid, lines))
    return found


def _of_the_choice_there(rows: pd.DataFrame, again: pd.DataFrame) -> str:
    """What the choice so far came to on the networks these rows started from, if these are other
    networks than the first points'; again: what was run once more."""
    there = again[again["lineage"].isin(rows["lineage"]) & (again["grid"] == rows["grid"].iloc[0])]
    if there.empty or set(there["options"]) & set(rows["options"]):
        return ""
    return f" (where the choice so far had {plain(there['average'].mean())})"


def at_an_end(tuning: pd.DataFrame) -> str:
    """The tuned settings that are the smallest or largest of their grid, beyond which a better one
    may lie; empty if there is none."""
    found = []
    for grid, part in tuning.groupby("grid", sort=False) if len(tuning) else ():
        options = pd.DataFrame(map(json.loads, part["options"]), index=part.index)
        for option in options.select_dtypes("number"):
            values, taken = options[option], options.loc[part["chosen"].astype(bool), option]
            for name, end in (("smallest", values.min()), ("largest", values.max())):
                if len(taken) and values.nunique() > 1 and (taken == end).all():
                    found.append(f"{grid} ({option} {end:g}, the {name} tried)")
    return (
        f"Tuned settings at an end of their grid, beyond which a better one may lie: "
        f"{', '.join(found)}."
        if found
        else ""
    )


# --- choices of filters ---------------------------------------------------------------------------


def label_of(rankings: pd.DataFrame) -> dict[str, str]:
    """ranking -> label, from rankings.csv."""
    return dict(zip(rankings["ranking"], rankings["label"]))


def realised_shares(realised: pd.DataFrame) -> pd.DataFrame:
    """Share of the whole network that is frozen, by budget rule and nominal share. realised: rule,
    nominal, layer ("all" for the network), fraction."""
    whole = realised[realised["layer"] == "all"]
    return whole.pivot(index="rule", columns="nominal", values="fraction").round(3)


def overlap_by_fraction(overlap: pd.DataFrame, rankings: pd.DataFrame) -> pd.DataFrame:
    """Overlap of the paper's choice with other choices, by fraction, mean over seeds; in the order
    of the table."""
    part = overlap[overlap["ranking"] == paper.RANKING]
    table = part.pivot_table(index="other", columns="fraction", values="iou", sort=False)
    return table.rename(index=label_of(rankings)).round(3)


def answer_overlap(overlap: pd.DataFrame, rankings: pd.DataFrame, fraction: float = 0.5) -> str:
    """Overlap of the paper's choice of filters with other choices in words, a line each."""
    labels = label_of(rankings)
    at = np.isclose(overlap["fraction"], fraction) & (overlap["ranking"] == paper.RANKING)
    mean = overlap[at].groupby("other", sort=False)["iou"].mean()
    name, n = labels.get(paper.RANKING, paper.RANKING), overlap[at]["seed"].nunique()
    lines = [
        f"overlap of {name}'s choice at {100 * fraction:.0f} % with other choices, mean of {n} "
        f"seed{'s' * (n != 1)}:"
    ]
    lines += [
        f"  {labels.get(other, other)}: {value:.2f}; {sameness(value)}"
        for other, value in mean.items()
    ]
    return "\n".join(lines)


# --- explanations, examined -----------------------------------------------------------------------


def as_square(choices: pd.DataFrame, fraction: float) -> pd.DataFrame:
    """Overlap of every two rankings' choices at one fraction, mean over seeds: a symmetric table by
    ranking, 1 on its diagonal, in the order in which the rankings come."""
    part = choices[np.isclose(choices["fraction"], fraction)]
    names = list(dict.fromkeys([*part["ranking"], *part["other"]]))
    mean = part.groupby(["ranking", "other"])["iou"].mean().unstack()
    half = mean.reindex(index=names, columns=names)
    return half.combine_first(half.T).loc[names, names].where(~np.eye(len(names), dtype=bool), 1.0)


def beside_chance(grafts: pd.DataFrame) -> pd.DataFrame:
    """Grafts as means over seeds: a row for each fraction and ranking, and of random choices one
    for each draw, which takes a mask of every seed. So a ranking and a random draw are means of as
    many networks. Of those checkpoints alone that random choices were put back into as well (all,
    where there are none): a network keeps more than another, whatever is put back."""
    both = grafts["lineage"].isin(grafts.loc[grafts["family"] == "chance", "lineage"])
    shown = grafts[both] if both.any() else grafts
    keys = ["fraction", "ranking", "label", "family", "draw"]
    accuracies = [c for c in shown if c.startswith("acc")]
    mean = shown.groupby(keys, dropna=False, sort=False)[accuracies].mean().reset_index()
    return mean.assign(seeds=shown["seed"].nunique())


def grafts_beside_arms(grafts: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """acc1 of each choice put back without training beside that of the arm that froze it through
    round 2 (the default rule and scope), means over the seeds that have both: arm; fraction, put
    back, frozen."""
    usual = runs[runs["method"] == "freeze"]
    for column, value in (("rule", "turns"), ("scope", "weights")):
        usual = usual[usual[column] == value] if column in usual else usual
    keys = ["seed", "lineage", "ranking", "fraction"]
    mean = grafts.groupby(keys)["acc1"].mean().rename("put back").reset_index()
    both = usual.groupby([*keys, "arm"])["acc1"].mean().rename("frozen").reset_index()
    of = both.merge(mean, on=keys).groupby(["arm", "fraction"], sort=False)
    return of[["put back", "frozen"]].mean().reset_index("fraction")


def agreement(beside: pd.DataFrame) -> str:
    """Of `grafts_beside_arms`: whether what is put back foretells what freezing keeps, by
    Spearman's correlation over the arms of the fraction that most have (the more is put back or
    frozen, the more either changes, whatever was chosen); empty below three arms."""
    if beside.empty:
        return ""
    fraction = beside["fraction"].mode().iloc[0]
    same = beside.loc[beside["fraction"] == fraction, ["put back", "frozen"]]
    if len(same) < 3:
        return ""
    ranks = same.round(6).rank()  # equal accuracies tie, whatever their last bit
    return (
        f"What a choice of {percent(fraction)} keeps when put back and what freezing it keeps: "
        f"rank correlation {ranks.corr().iloc[0, 1]:+.2f} over {len(same)} rankings (1: a graft "
        "foretells it, 0: it does not)."
    )


MEASURED = "ablation_damage"  # the ranking that is the damage, of training images


def foretells_best(atlas: pd.DataFrame) -> pd.Series:
    """(ranking, label, spearman) of the ranking whose score correlates most with the damage, mean
    over seeds and layers, of those that do not measure it."""
    others = atlas[atlas["ranking"] != MEASURED]
    means = others.groupby(["ranking", "label"])["spearman"].mean().reset_index()
    return means.loc[means["spearman"].idxmax()]


def answer_examined(atlas: pd.DataFrame, readouts: pd.DataFrame) -> str:
    """What the explanations tell in words: the paper's ranking, the best one that has not measured
    the damage itself, and the ceiling; and what a linear probe finds of task 1 before round 2,
    after the first two arms of the table, and where it finds least (its figure shows all)."""
    ours = atlas[atlas["ranking"] == paper.RANKING]["spearman"].mean()
    best, seeds = foretells_best(atlas), atlas["seed"].nunique()
    left = readouts.groupby(["way", "readout"], sort=False)["acc1"].mean().unstack(sort=False)
    now, probe = left.columns[0], left.columns[-1]
    first, after = left.head(3), left.iloc[1:]
    kept = "; ".join(f"{way} {plain(x[now])} and {plain(x[probe])}" for way, x in first.iterrows())
    if len(after) > 2:
        lost = after[probe].idxmin()
        kept += f"; a probe finds least after {lost} ({plain(left.loc[lost, probe])})"
    return (
        "Rank correlation of the score with the damage of switching the filter off, mean of layers "
        f"({seeds} seed{'s' if seeds > 1 else ''}): MSE {plain(ours)}; the best ranking that does "
        f"not measure that damage, {best['label']}, {plain(best['spearman'])}; the damage on other "
        f"images {plain(atlas['ceiling'].mean())}.\n"
        f"Accuracy on task 1, {now} and by a {probe}: {kept}."
    )
