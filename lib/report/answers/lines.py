"""Rows of a page: verdicts, the paper's tables beside ours, what to use, every task, how it was
made."""

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from lib.report import paper
from lib.report.claims import OVERLAPS
from lib.report.numbers import POINTS, bounded, kind_of, listed, percent, side, unit_of
from lib.report.statistics import (
    accuracy_matrix,
    average,
    by_seed,
    heights,
    interval,
    tasks_in,
)
from lib.report.statistics import forgetting as lost_over_rounds
from lib.report.words import plain, sameness, spread

SIGNS = {"supported": "✓", "contradicted": "✗", "inconclusive": "≈", "undecided": "?", "no": "∅"}
NUMBERS = "Are the paper's numbers in our range?"
GROUPS = (  # what claims are about, by their names; every claim is in one
    ("Does the explanation beat chance?", r"C2-.*|C2b-random"),
    ("Does it beat learning less, at no cost?", r"C2b-(trajectory|interpolation)"),
    ("Does the choice depend on the class and on the map?", r"C5[bc].*"),
    ("Does the score mean anything, and can it be made again?", r"C5|C6.*"),
    ("Forgetting, and what freezing trades", r"C0|C1.*|C2c.*"),
    ("Does it beat training both tasks at once?", r"C3.*"),
    (NUMBERS, r"C4.*"),
    ("Further claims", r".*"),
)
KEPT = {  # arms.csv, keeps: what is stored between tasks
    "nothing": "nothing but the network",
    "weights": "a copy of the old weights",
    "importances": "importances of the weights",
    "images": "images of the first task",
}
KEPT_BY = {  # arms.csv, method: where what it stores is not what `keeps` says, or more
    "ewc": "the old weights and an importance for each",
    "si": "the old weights and an importance for each",
    "merge_fisher": "the old weights and an importance for each",
    "soft": "the old weights and how firmly each is held",
    "gpm": "bases of the layers' inputs",
    "packnet": "which task each weight belongs to, a byte each",
    "der": "images of the first task and the network's answers to them",
}


# --- verdicts, and the paper's tables -------------------------------------------------------------


def spoken(text: str) -> str:
    """A claim's sentence without short names of columns."""
    text = text.replace("acc1", "accuracy on task 1").replace("acc2", "accuracy on task 2")
    return text.replace("mse ranking", "MSE ranking")


class Verdict(NamedTuple):
    """A claim as a line of the page; kind: one of SAYS."""

    claim: str
    text: str
    value: str
    unit: str
    n: int
    verdict: str
    kind: str
    sign: str
    room: str


# within a point, which the interval beside it shows: *inconclusive* is of the question whether more
SHOWN_AS = {"inconclusive (equivalent)": "equivalent"}


def verdict_of(row: pd.Series) -> Verdict:
    """One line of claims.csv."""
    unit, kind = unit_of(row["claim"]), kind_of(row["verdict"])
    room = "" if pd.isna(row.get("headroom")) else bounded(row, POINTS, "headroom", level=False)
    same = f"; {sameness(row['estimate'])}" if row["claim"] in OVERLAPS else ""
    value, words = bounded(row, unit), unit.words + same
    return Verdict(
        *(row["claim"], spoken(row["text"]), value, words, int(row["n"])),
        *(SHOWN_AS.get(row["verdict"], row["verdict"]), kind, SIGNS.get(kind, ""), room),
    )


def verdicts(claims: pd.DataFrame) -> dict[str, list[Verdict]]:
    """What claims are about -> their lines, in the order of GROUPS."""
    found = {title: [] for title, _ in GROUPS}
    for _, row in claims.iterrows():
        title = next(t for t, names in GROUPS if re.fullmatch(names, row["claim"]))
        found[title].append(verdict_of(row))
    return {title: rows for title, rows in found.items() if rows}


def beside_paper(table: pd.DataFrame) -> dict[str, list[dict]]:
    """The paper's tables beside ours (paper_tables.csv): title -> lines; "" for what it does not
    say."""
    table = table.astype(object).where(table.notna(), "")
    lines = [
        {
            **row,
            **{
                f"paper {c}": plain(float(row[f"paper {c}"])) if row[f"paper {c}"] != "" else ""
                for c in ("acc1", "acc2")
            },
        }
        for row in table.to_dict("records")
    ]
    return {
        paper.TITLES.get(name, name): [line for line in lines if line["table"] == name]
        for name in dict.fromkeys(line["table"] for line in lines)
    }


# --- what arms are called -------------------------------------------------------------------------


class Called(NamedTuple):
    """An arm as figures name it, and its name in the profile where that is another."""

    label: str
    aside: str = ""


def called(arms: pd.DataFrame) -> dict[str, Called]:
    """arm -> its label in the table of arms, with the fraction it freezes if that is a part."""
    found = {}
    for _, line in arms.iterrows():
        arm, label, fraction = line["arm"], line.get("label", line["arm"]), line.get("fraction")
        if pd.notna(fraction) and 0 < float(fraction) < 1:
            label = f"{label} {percent(float(fraction))}"
        found[arm] = Called(label, "" if label.replace(",", "") == arm else arm)
    return found


def named(arms: pd.DataFrame, *tables: pd.DataFrame) -> set[str]:
    """The methods and rankings, by their short names, of the arms and of tables of rankings."""
    return {
        str(name)
        for table in (arms, *tables)
        for column in ("method", "ranking")
        if column in table
        for name in table[column].dropna()
    }


# --- what should I use ----------------------------------------------------------------------------


class Use(NamedTuple):
    """An arm as something one could use: what it keeps, learns, stores and costs, and how far it
    lies above the straight line of weights at equal accuracy on task 2 (side: 1 or -1 where the
    whole interval lies above or below it). told_task: which task an image is from, as no other."""

    arm: str
    kept: str
    learned: str
    average: float
    stores: str
    cost: str
    n: int
    height: str = ""
    side: int = 0
    family: str = ""
    told_task: bool = False
    called: Called | None = None


HALFWAY = (
    "weights averaged half and half"  # the middle of the straight line: no training of its own
)
JOINT = ("joint20", "joint10", "joint")


def uses(
    arms: pd.DataFrame,
    summary: pd.DataFrame,
    timing: pd.DataFrame,
    runs: pd.DataFrame | None = None,
    trajectory: pd.DataFrame | None = None,
    memory: pd.DataFrame | None = None,
) -> list[Use]:
    """Every arm of the summary, highest average accuracy first, and the middle of the straight line
    of weights, once, whether it was read off the line or made by a merge. cost: see `_costs`; runs
    and trajectory: for the height over the line; memory: images and bytes that arms store."""
    lines, names = arms.set_index("arm"), called(arms)
    none = runs is None or trajectory is None or trajectory.empty
    cost = _costs(arms, timing, () if none else trajectory["seed"].unique())
    above = {} if none else heights(runs, trajectory)
    found = [] if none else _halfway(trajectory, bool(cost))
    stored = _stored(arms, memory, 2 if runs is None else tasks_in(runs))
    merged = [] if none else _merged_halfway(runs)
    for _, row in summary.iterrows():
        line = lines.loc[row["arm"]] if row["arm"] in lines.index else {}
        kept, learned, n = _mean(row, "acc1"), _mean(row, "acc2"), int(row["n"])
        stores = stored.get(row["arm"], "")
        use = Use(row["arm"], kept, learned, row["average"], stores, cost.get(row["arm"], ""), n)
        use = use._replace(family=line.get("family", ""), called=names.get(row["arm"]))
        use = use._replace(told_task=bool(line.get("told_task", False)))
        use = _over_the_line(use, above.get(row["arm"]))
        found = _once(found, use) if row["arm"] in merged else [*found, use]
    return sorted(found, key=lambda use: -use.average)


def _once(found: list[Use], merged: Use) -> list[Use]:
    """With the line's middle from where it has more seeds: read off the line, or merged."""
    read = next((use for use in found if use.arm == HALFWAY), None)
    if read is None or read.n < merged.n:
        return [*(use for use in found if use is not read), merged]
    both = Called(HALFWAY, merged.arm)
    return [use._replace(called=both) if use is read else use for use in found]


def _merged_halfway(runs: pd.DataFrame) -> list[str]:
    """The arms that are the middle of the straight line after a training of their own."""
    if not {"method", "options"} <= set(runs):
        return []
    rows = runs[runs["method"] == "merge"]
    options = rows["options"].map(lambda text: json.loads(text) if isinstance(text, str) else {})
    half = options.map(lambda given: given.get("weight", 0.5) == 0.5).astype(bool)
    return list(rows.loc[half, "arm"].unique())


def _stored(arms: pd.DataFrame, memory: pd.DataFrame | None, tasks: int) -> dict[str, str]:
    """arm -> what it stores between tasks, with the number of images and megabytes of memory.csv
    where they were recorded."""
    size, found = {}, {}
    if memory is not None and len(memory):
        size = memory.groupby("arm")[["images", "bytes"]].median().to_dict("index")
    for _, line in arms.iterrows():
        text = KEPT_BY.get(line.get("method"), KEPT.get(line.get("keeps"), ""))
        if line.get("curriculum", "") in JOINT:
            text = "all images of the first task"
        if many := size.get(line["arm"]):
            text = f"{many['images']:.0f} {text} ({many['bytes'] / 1e6:.1f} MB)"
        if line.get("told_task"):
            text += "; at test it is told the task, as no other arm is"
        found[line["arm"]] = text.replace("the first task", "earlier tasks") if tasks > 2 else text
    return found


MACHINE = ("processor", "device")


def _costs(arms: pd.DataFrame, timing: pd.DataFrame, traced: Sequence = ()) -> dict[str, str]:
    """arm -> `1.3 ×`: its time over that of one plain training, the median over seeds of pairs of
    one seed on one machine.

    traced: seeds whose fine-tuning also recorded the line and its path, which takes about as long
    again. There the unit is the arm of method `merge`, a plain training and an average; seeds with
    neither are left out, and nothing is said if none is left."""
    run = timing["run"].str.rsplit("/", n=2, expand=True)
    machine = [timing[c].astype(str) for c in MACHINE if c in timing]
    table = timing.groupby([run[1].rename("seed"), *machine, run[0]])["seconds"].median().unstack()
    tuned = [a for a in arms.loc[arms["family"] == "finetune", "arm"] if a in table]
    unit = pd.Series(np.nan, index=table.index)
    if tuned:
        plain_run = ~table.index.get_level_values("seed").isin([str(seed) for seed in traced])
        unit = table[tuned[0]].where(plain_run)
    merged = arms.loc[arms["method"] == "merge", "arm"] if "method" in arms else ()
    for arm in merged:
        unit = unit.fillna(table[arm]) if arm in table else unit
    ratio = table.div(unit, axis=0).median().dropna()
    if len(ratio):
        ratio[tuned] = 1.0  # without its trace
    return {arm: f"{value:.1f} ×" for arm, value in ratio.items()}


def _over_the_line(use: Use, above: pd.Series | None) -> Use:
    """With its height, and how many seeds that counts where they are not all."""
    if above is None or above.empty:
        return use
    mean, low, high, n = interval(above)
    some = f" ({n} seeds)" if n < use.n else ""
    row = {"estimate": mean, "low": low, "high": high, "high95": high}
    return use._replace(height=bounded(row, POINTS) + some, side=side(row))


def _halfway(trajectory: pd.DataFrame, costs: bool) -> list[Use]:
    """The middle of the straight line between the weights before and after task 2; costs: whether
    those of other arms are known."""
    line = trajectory[trajectory["control"] == "interpolation"]
    middle = line[np.isclose(line["place"], 0.5)].groupby("seed")[["task1", "task2"]].mean()
    if middle.empty:
        return []
    kept, learned = (spread(middle[task]) for task in ("task1", "task2"))
    average = middle.to_numpy().mean()
    cost = "1.0 ×" if costs else ""
    return [Use(HALFWAY, kept, learned, average, KEPT["weights"], cost, len(middle))]


def _mean(row: pd.Series, column: str) -> str:
    text = plain(row[column])
    low, high = row[f"{column}_low"], row[f"{column}_high"]
    return text if pd.isna(low) else f"{text} [{plain(low)}, {plain(high)}]"


MARKS = ("joint", "last", "hindsight")  # families that no one could use: they know too much
FEW = 3  # seeds, below which no arm is named


def advice(found: Sequence[Use]) -> list[str]:
    """Which arm has the highest average of all, and of those that store nothing, of arms with three
    seeds or more that are no upper marks and know no more than the others; and which lie above the
    straight line of weights."""
    known = [use for use in found if use.family not in MARKS and use.n >= FEW]
    known = [use for use in known if not use.told_task]
    if not known:
        return [f"No arm has {FEW} seeds: too few to recommend one."] if found else []
    best = known[0]
    said = [
        f"Highest average accuracy over all tasks: {best.arm}, {plain(best.average)} (n = "
        f"{best.n}{_fewer(best, known)}); it stores {best.stores or 'what arms.csv does not say'}."
    ]
    free = [use for use in known if use.stores == KEPT["nothing"]]
    if free and free[0] is not best:
        said.append(
            f"Highest average of those that store nothing but the network: {free[0].arm}, "
            f"{plain(free[0].average)} (n = {free[0].n}{_fewer(free[0], known)})."
        )
    if any(use.height for use in known):
        over = [use.arm for use in known if use.side > 0]
        said.append(
            "Shown to keep more of the first task than the straight line of weights, which costs "
            f"no further training, at equal accuracy on the second: {listed(over) or 'no arm'}."
        )
    return said


def _fewer(use: Use, known: Sequence[Use]) -> str:
    """Said where a mean is of fewer seeds than others beside it."""
    return ", other arms more seeds" if use.n < max(other.n for other in known) else ""


TOLD_APART = (
    "Arms whose intervals overlap are not told apart by their order; verdicts compare arms seed by "
    "seed. Not named: joint training, task 2 alone and rankings in hindsight, which are marks to "
    "measure by and no methods, what is told the task where other arms are not, and arms with "
    f"fewer than {FEW} seeds."
)


# --- more than two tasks --------------------------------------------------------------------------


def all_tasks(
    runs: pd.DataFrame, accuracy: pd.DataFrame, masks: pd.DataFrame
) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table over arms, highest mean first: accuracy on every task after the last
    round, their mean, what was forgotten (see `statistics.forgetting`), the share of filters that
    is still free, seeds."""
    tasks = list(runs.filter(regex=r"^acc\d+$"))
    free, rows = _free_at_the_end(masks), []
    runs = runs.assign(mean=average(runs))
    for arm, of in runs.groupby("arm", sort=False):
        matrix = accuracy_matrix(runs, accuracy, arm)
        lost = spread(lost_over_rounds(matrix)) if len(matrix) else ""
        ends = [plain(by_seed(of, task).mean()) for task in tasks]
        left = percent(free[arm]) if arm in free else ""
        mean = by_seed(of, "mean")
        rows.append((mean.mean(), [arm, *ends, spread(mean), lost, left, str(len(mean))]))
    names = [f"task {task[3:]}" for task in tasks]
    head = ["arm", *names, "mean [95 %]", "forgotten [95 %]", "filters still free", "seeds"]
    return head, [row for _, row in sorted(rows, key=lambda row: -row[0])]


def _free_at_the_end(masks: pd.DataFrame) -> dict[str, float]:
    """arm -> share of all filters that its last round leaves free."""
    if "free" not in masks:
        return {}
    last = masks[masks["round"] == masks["round"].max()]
    sums = (
        last.assign(free=last["free"] * last["filters"]).groupby("arm")[["free", "filters"]].sum()
    )
    return (sums["free"] / sums["filters"]).to_dict()


# --- how it was made ------------------------------------------------------------------------------


def how_made(timing: pd.DataFrame) -> list[tuple[str, str]]:
    """(what, which) of the runs: machines, versions, precision, commits, dates, hours."""
    if timing.empty:
        return []
    day = (
        pd.to_datetime(timing["made"], unit="s").dt.strftime("%Y-%m-%d") if "made" in timing else []
    )
    dirty = int(timing["dirty"].astype(str).eq("True").sum()) if "dirty" in timing else 0
    found = [
        (
            "runs",
            f"{len(timing)}, {timing['seconds'].sum() / 3600:.1f} hours of one process in all "
            f"(median {timing['seconds'].median():.0f} s)",
        ),
        (
            "machines",
            "; ".join(
                f"{p}, {c} cores"
                for p, c in timing[["processor", "cores"]].drop_duplicates().to_numpy()
            ),
        ),
    ]
    for words, column in (("device", "device"), ("precision", "precision"), ("torch", "torch")):
        if column in timing and len(known := timing[column].dropna().unique()):
            found.append(
                (
                    words,
                    listed([str(x) for x in known])
                    + (" (not recorded for earlier runs)" if timing[column].isna().any() else ""),
                )
            )
    if "commit" in timing:
        commits = timing["commit"].dropna().astype(str).str[:10].unique()
        found.append(
            (
                "commit",
                listed(list(commits)) + (f"; {dirty} runs from uncommitted code" if dirty else ""),
            )
        )
    if len(day):
        found.append(
            ("made", day.min() if day.min() == day.max() else f"{day.min()} to {day.max()}")
        )
    return found
