"""Accuracy over epochs and by class, what is frozen, what is chosen."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.report import paper
from lib.report.claims import OVERLAP
from lib.report.figures.style import (
    BLUE,
    DASHES,
    GREEN,
    ORANGE,
    PURPLE,
    VERMILLION,
    Look,
    caption,
    in_order,
    ink,
    legend_below,
    line_of,
    looks_of,
    new,
    percent,
    standing_out,
    whole_numbers,
)
from lib.report.statistics import by_seed, interval

SHOWN_AT_MOST = 8  # arms over epochs
BARS = 22  # of classes in a line


def _chance_line(ax, chance: float | None) -> None:
    if chance:
        ax.axhline(chance, color=ink(), ls="--", lw=0.8, label=f"chance: {chance:.2f}")


def learning_curves(
    accuracy: pd.DataFrame, about: str, beside_paper: bool = True, classes: int | None = None
) -> Figure:
    """Test accuracy over the epochs of round 1: thin lines are seeds, thick ones their mean; with
    `beside_paper`, the paper's values as marks at the end; with `classes` of a task, chance.
    accuracy: seed, epoch, task, accuracy."""
    figure, ax = new(5.4, 3.4)
    said = list(paper.NUMBERS["before"].values()) if beside_paper else []
    for i, task in enumerate(sorted(accuracy["task"].unique())):
        tint = standing_out((BLUE, VERMILLION, GREEN, PURPLE)[i % 4])
        dash, part = DASHES[i % 4], accuracy[accuracy["task"] == task]
        for _, seed in part.groupby("seed"):
            ax.plot(seed["epoch"], seed["accuracy"], dash, color=tint, lw=0.6, alpha=0.4)
        mean, n = part.groupby("epoch")["accuracy"].mean(), part["seed"].nunique()
        words = f"{task}, " + ("1 seed" if n == 1 else f"mean of {n} seeds")
        ax.plot(mean.index, mean, dash, color=tint, lw=2, label=words)
        if i < len(said):
            words, end = f"paper: {said[i]:.3f}", mean.index.max() * 1.04
            ax.plot(end, said[i], "<", color=tint, mec=ink(), clip_on=False, label=words)
    _chance_line(ax, 1 / classes if classes else None)
    ax.set(xlabel="epoch of round 1", ylabel="test accuracy", title=about, ylim=(0, 1))
    percent(ax)
    whole_numbers(ax)
    legend_below(figure, *ax.get_legend_handles_labels(), columns=2)
    return figure


def classes_of_task(table: pd.DataFrame) -> int | None:
    """How many classes the first task has, of per_class.csv: the most that a seed has, since seeds
    may draw theirs; None for an empty table."""
    return int(table.groupby("seed")["class"].nunique().max()) if len(table) else None


def per_class(table: pd.DataFrame, about: str) -> Figure:
    """Accuracy of each class of task 1: mean over seeds, dots are seeds; dashed: chance. More
    classes than a line holds (seeds may draw theirs) stand in several, the best first. table:
    class, seed, accuracy."""
    names, n = list(dict.fromkeys(table["class"])), table["seed"].nunique()
    means = table.groupby("class")["accuracy"].mean()
    about += "; bars: mean, dots: seeds" if n > 1 else ""
    if len(names) > BARS:
        names = list(means.sort_values(ascending=False, kind="stable").index)
        about += "; the best class first"
    lines = -(-len(names) // BARS)
    each = -(-len(names) // lines)
    shift = pd.Series(_apart(table["seed"]), table.index)
    figure, axes = new(0.5 * each + 1.2, 3.4 if lines == 1 else 2.6 * lines, nrows=lines)
    for ax, start in zip(np.atleast_1d(axes), range(0, len(names), each)):
        shown = names[start : start + each]
        part = table[table["class"].isin(shown)]
        ax.bar(range(len(shown)), means[shown], color=BLUE, alpha=0.5)
        if n > 1:
            across = part["class"].map(shown.index) + shift[part.index]
            ax.plot(across, part["accuracy"], ".", color=ink(), ms=3)
        _chance_line(ax, 1 / classes_of_task(table))
        ax.set(ylabel="test accuracy", ylim=(0, 1), xticks=range(len(shown)))
        if lines > 1:
            ax.set_xlim(-0.7, each - 0.3)
        ax.set_xticklabels(shown, rotation=40, ha="right", rotation_mode="anchor")
        percent(ax)
    np.atleast_1d(axes)[0].set_title(about)
    legend_below(figure, *ax.get_legend_handles_labels(), columns=1)
    return figure


def _apart(seeds: pd.Series, width: float = 0.5) -> np.ndarray:
    """A shift for each row, the same for rows of one seed: dots that do not hide each other."""
    known = sorted(seeds.unique())
    return np.array([known.index(s) - (len(known) - 1) / 2 for s in seeds]) * width / len(known)


def overlap_bars(
    overlap: pd.DataFrame, rankings: pd.DataFrame, fraction: float, about: str
) -> Figure:
    """Overlap (IoU) of the filters the paper's ranking chooses with those chosen otherwise; dashed:
    two random choices.

    overlap: seed, fraction, ranking, other, iou. rankings: ranking, label. Dots are seeds."""
    labels = dict(zip(rankings["ranking"], rankings["label"]))
    part = overlap[
        (overlap["ranking"] == paper.RANKING) & np.isclose(overlap["fraction"], fraction)
    ]
    names = list(dict.fromkeys(part["other"]))[::-1]
    figure, ax = new(6.4, 0.32 * len(names) + 1.5)
    values, places = [part[part["other"] == n] for n in names], range(len(names))
    ax.barh(places, [v["iou"].mean() for v in values], color=BLUE, alpha=0.5)
    ax.set_yticks(places, [labels.get(n, n) for n in names])
    for y, v in enumerate(values):
        ax.plot(v["iou"], y + _apart(v["seed"]), ".", color=ink(), ms=3)
    chance, share = fraction / (2 - fraction), f"{fraction:.0%}"
    for place, dash, words in (
        (chance, "--", "two random choices"),
        (OVERLAP, ":", "the claims' margin"),
    ):
        ax.axvline(place, color=ink(), ls=dash, lw=1, label=f"{words}: {place:.2f}")
    ours = labels.get(paper.RANKING, paper.RANKING)
    ax.set(xlabel=f"overlap (IoU) with the filters {ours} chooses at {share}", xlim=(0, 1))
    figure.suptitle("\n".join(textwrap.wrap(about, 78)), fontsize=9)  # of the whole width
    legend_below(figure, *ax.get_legend_handles_labels(), columns=2)
    return figure


def realised_fractions(table: pd.DataFrame, about: str) -> Figure:
    """Fraction really frozen in each layer by each budget rule, one nominal fraction. table: rule,
    layer, fraction."""
    figure, ax = new(6.5, 3)
    tints = (BLUE, ORANGE, GREEN)
    for (rule, part), mark, tint in zip(table.groupby("rule", sort=False), "osv", tints):
        ax.plot(part["layer"], part["fraction"], f"{mark}-", color=tint, label=rule)
    ax.set(ylabel="filters frozen / filters", title=about, ylim=(0, 1.02))
    ax.tick_params(axis="x", rotation=45)
    percent(ax)
    ax.legend(fontsize=8)
    return figure


def of_budget_rules(table: pd.DataFrame, setting: str, seed: int, fraction=0.5) -> Figure:
    """`realised_fractions` at one nominal fraction, without the sum over layers. table: rule,
    nominal, layer, fraction."""
    part = table[np.isclose(table["nominal"], fraction) & (table["layer"] != "all")]
    rules = f"nominal {100 * fraction:.0f} % by three budget rules"
    return realised_fractions(part, f"{rules}; {setting}, seed {seed}")


# --- over the epochs of round 2 -------------------------------------------------------------------


def shown_over_epochs(arms: pd.DataFrame) -> list[str]:
    """The arms worth a curve over epochs, at most eight, in order: fine-tuning and all frozen, of
    each label its 50 % and then its 90 % arm, by the usual budget rule and scope, then what else
    starts from a checkpoint."""
    arms = arms[arms["curriculum"] == "sequence"].sort_values("order")
    bounds = [arms[arms["family"] == f]["arm"].head(1) for f in ("finetune", "all frozen")]
    how = arms.reindex(columns=["rule", "scope"])
    usual = arms[how["rule"].isin(["turns", np.nan]) & how["scope"].isin(["weights", np.nan])]
    at = [usual[np.isclose(usual["fraction"].astype(float), f)]["arm"] for f in (0.5, 0.9)]
    wanted = list(dict.fromkeys(pd.concat([*bounds, *at, arms["arm"]])))
    return in_order(arms, wanted[:SHOWN_AT_MOST])


def _whole(fraction: float) -> bool:
    """Whether an arm has no share of its own: all, none, or another method."""
    return not 0 < fraction < 1


def over_epochs(runs: pd.DataFrame, accuracy: pd.DataFrame, arms: pd.DataFrame) -> Figure:
    """Accuracy on both tasks over the epochs of round 2; epoch 0 is before round 2. A column for
    each share frozen, with the rankings side by side between what bounds them; bands are 95 % t
    intervals over seeds, dots at the end are seeds. Of the arms that were run, those of
    `shown_over_epochs`."""
    shown = shown_over_epochs(arms[arms["arm"].isin(set(runs["arm"]))])
    fractions = {arm: float(line_of(arms, arm)["fraction"]) for arm in shown}
    shares = sorted({f for f in fractions.values() if not _whole(f)}) or [np.nan]
    looks, labels = looks_of(arms), {arm: line_of(arms, arm)["label"] for arm in shown}
    figure, axes = new(
        3.6 * len(shares) + 0.6,
        6.4,
        nrows=2,
        ncols=len(shares),
        sharex=True,
        sharey="row",
        squeeze=False,
    )
    for column, share in zip(axes.T, shares):
        here = [arm for arm in shown if _whole(fractions[arm]) or fractions[arm] == share]
        for place, arm in enumerate(here):
            chosen, look = runs[runs["arm"] == arm], looks[labels[arm]]
            for ax, task in zip(column, (1, 2)):
                found = _over_epochs(chosen, accuracy[accuracy["arm"] == arm], task)
                _curve(ax, found, look, labels[arm], place)
        if not np.isnan(share):
            column[0].set_title(f"{100 * share:.0f} % frozen", fontsize=9)
        column[-1].set_xlabel("epoch of round 2 (0: before)")
    for line, task in zip(axes, (1, 2)):
        line[0].set_ylabel(f"test accuracy on task {task}")
        _by_lines(line)
        for ax in line:
            percent(ax)
            whole_numbers(ax)
    several = runs["seed"].nunique() > 1
    figure.suptitle(
        caption(runs) + ("; bands: 95 % over seeds, dots: seeds" if several else ""), fontsize=9
    )
    handles = {}
    for ax in axes[0]:
        handles |= dict(zip(*ax.get_legend_handles_labels()[::-1]))
    names = [label for label in dict.fromkeys(labels.values()) if label in handles]
    legend_below(figure, [handles[n] for n in names], names, columns=4)
    return figure


def _by_lines(axes) -> None:
    """Limits by means and seeds: bands of two seeds are wider than all that was measured."""
    known = np.concatenate([line.get_ydata() for ax in axes for line in ax.lines] or [[0.0, 1.0]])
    if np.isfinite(known).any():
        margin = 0.05 * (np.nanmax(known) - np.nanmin(known)) + 0.005
        axes[0].set_ylim(max(0, np.nanmin(known) - margin), min(1, np.nanmax(known) + margin))


def _over_epochs(runs: pd.DataFrame, accuracy: pd.DataFrame, task: int) -> dict[int, pd.Series]:
    """Epoch of round 2 -> one arm's accuracy on a task, a value for each seed; 0: before."""
    part = accuracy[accuracy["task"] == f"task{task}"]
    part = part[part["round"] == 2] if "round" in part else part
    after = {epoch: by_seed(rows, "accuracy") for epoch, rows in part.groupby("epoch")}
    return {0: by_seed(runs, f"acc{task}_before")} | after


def _curve(ax, found: dict[int, pd.Series], look: Look, label: str, place: int) -> None:
    """Mean, band, and the seeds beside the end, each arm's at a place of its own."""
    epochs = list(found)
    mean, low, high, n = np.array([interval(values) for values in found.values()]).T
    ax.plot(epochs, mean, ms=4, lw=1.2, **look.shape, label=label)
    if n.max() > 1:
        ax.fill_between(epochs, low, high, color=look.colour, alpha=0.15, lw=0)
        ends, across = found[epochs[-1]], epochs[-1] + (0.03 + 0.015 * place) * epochs[-1]
        ax.plot([across] * len(ends), ends, ".", color=look.colour, ms=2.5, alpha=0.7)
