"""The answer in a few sentences, of one setting and over several."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from lib.report.beside import beside_methods, best_share
from lib.report.claims import ROOM
from lib.report.figures import chance_differences
from lib.report.numbers import (
    POINTS,
    Read,
    Unit,
    bounded,
    kind_of,
    listed,
    main_claims,
    percent,
    says,
    side,
    unit_of,
    unsigned,
)
from lib.report.paper import RANKING
from lib.report.statistics import average, in_common, interval, tasks_in
from lib.report.words import headline, sameness

SAYS = {  # what a verdict comes to (`says`) -> what it says of freezing by explanation
    "supported": "keeps more of the first task than freezing as many at random",
    "contradicted": "does not keep a point more of the first task than freezing as many at random",
    "equivalent": "keeps as much of the first task, to within a point, as freezing at random",
    "inconclusive": "is not shown to keep more of the first task than freezing as many at random",
    "undecided": "cannot be told by a single seed from freezing as many at random",
    "no": "has no room here to keep more of the first task than freezing as many at random",
}
SETTINGS_SAY = {  # the same in few words, of settings that are listed
    "supported": "more",
    "less": "less",
    "contradicted": "not a point more",
    "equivalent": "the same to within a point",
    "inconclusive": "not decided",
    "no": "no room to tell",
    "undecided": "one seed",
}
NO_ROOM = (
    "No room to tell: what even freezing every filter keeps beyond freezing none is shown to be "
    f"less than {100 * ROOM:.0f} points."
)


def unclaimed(runs: pd.DataFrame | None) -> list[tuple[int, dict]]:
    """(per cent frozen, a line like a claim's) of explanation minus random in acc1 at every
    fraction that has both, of a setting without the registered 50 %. At a plain 95 %."""
    found = {share: {**row, "level": 0.95} for share, row in _differences(runs).items()}
    return [] if 50 in found else list(found.items())


def _differences(runs: pd.DataFrame | None, column: str = "acc1") -> dict[int, dict]:
    """Per cent frozen -> explanation minus random in acc1, or another accuracy: estimate, low, high
    (95 %), n."""
    if runs is None or not {"profile", "ranking"} <= set(runs):
        return {}
    groups = chance_differences(runs, column).groupby("fraction")["difference"]
    names = "estimate", "low", "high", "n"
    return {round(100 * share): dict(zip(names, interval(values))) for share, values in groups}


def _at(share: int, row: Mapping) -> str:
    n = int(row["n"])
    seeds = f"n = {n}" if n > 1 else "one seed"
    return f"{bounded(row, POINTS)} points with {share} % frozen ({seeds})"


def against_chance(claims: pd.DataFrame, runs: pd.DataFrame | None = None) -> str:
    """Whether freezing by explanation beats freezing at random, at every fraction the claims ask
    of, and what there was to protect; runs: for the numbers of a setting without such a claim."""
    found = main_claims(claims)
    if not found:
        if others := unclaimed(runs):
            told = listed([_at(share, row) for share, row in others])
            return (
                "Freezing the filters that explanation chooses keeps, beyond freezing as many at "
                f"random, {told} of the first task; no registered claim asks it of this setting."
            )
        return headline(claims)  # says what is missing
    said = []
    for kind, words in SAYS.items():
        rows = [(share, row) for share, row in found if says(row["verdict"]) == kind]
        values = [f"{bounded(row, POINTS)} points with {share} % frozen" for share, row in rows]
        if rows:
            seeds = " / ".join(dict.fromkeys(f"{int(row['n'])}" for _, row in rows))
            said.append(f"{words} ({'; '.join(values)}; n = {seeds})")
    return f"Freezing the filters that explanation chooses {'; it '.join(said)}{_room(found)}."


def _room(found) -> str:
    """What freezing everything keeps beyond freezing nothing."""
    row = found[0][1]
    if pd.isna(row.get("headroom")):
        return ""
    kept = bounded(row, unsigned(POINTS), "headroom")
    none = any(kind_of(row["verdict"]) == "no" for _, row in found)
    words = (
        ", since even freezing every filter keeps only" if none else "; freezing every filter keeps"
    )
    return f"{words} {kept} points more than freezing none"


def forgetting(claims: pd.DataFrame, tasks: int = 2) -> str:
    """What is lost where nothing is frozen, and what a control that costs no further training
    keeps; tasks: learned one after the other."""
    later = "the second task" if tasks == 2 else f"the other {tasks - 1} tasks"
    table, parts = claims.set_index("claim"), []
    if "C0" in table.index:
        lost = bounded(table.loc["C0"], unsigned(POINTS))
        parts.append(
            f"with nothing frozen, learning {later} costs {lost} points of accuracy on the first"
        )
    if "C2b-interpolation" in table.index and pd.notna(table.loc["C2b-interpolation", "estimate"]):
        row = table.loc["C2b-interpolation"]
        sign, word = (-1, "more") if row["estimate"] < 0 else (1, "less")
        number = bounded(row, unsigned(POINTS), sign=sign)
        said = {
            -1: f"keeps {number} points more of the first task than freezing by explanation",
            1: f"keeps {number} points less of the first task than freezing by explanation",
            0: "is not told apart from freezing by explanation in what it keeps of the first task "
            f"({number} points {word}, n = {int(row['n'])})",
        }[side(row)]
        parts.append(
            "at equal accuracy on the second, averaging the weights from before and after it, "
            f"which costs no further training, {said}"
        )
    text = "; ".join(parts) or "these tables do not tell what is forgotten"
    return text[0].upper() + text[1:] + "."


CLASS_SAYS = {
    "supported": "which class a map belongs to changes which filters are chosen",
    "contradicted": "which class a map belongs to hardly changes which filters are chosen",
}
MAP_SAYS = {
    "supported": "a map without content chooses partly other filters",
    "contradicted": "a map without content chooses nearly the same filters",
}


def of_the_map(claims: pd.DataFrame) -> str:
    """Whether the choice of filters depends on the class and on the map."""
    table, parts = claims.set_index("claim"), []
    for claim, words, open_words, other in (
        (
            "C5b",
            CLASS_SAYS,
            "whether the class matters to the choice is open",
            "the mean of all maps",
        ),
        (
            "C5c",
            MAP_SAYS,
            "whether the map's content matters to the choice is open",
            "the closest map without content",
        ),
    ):
        if claim in table.index:
            row = table.loc[claim]
            value = bounded(row, unit_of(claim))
            parts.append(
                f"{words.get(kind_of(row['verdict']), open_words)} (overlap with the choice "
                f"by {other}: {value} of 1; {sameness(row['estimate'])})"
            )
    text = "; ".join(parts) or "these tables do not tell whether the choice depends on the map"
    return text[0].upper() + text[1:] + "."


def answer_of(claims: pd.DataFrame, runs: pd.DataFrame) -> list[str]:
    """The three sentences of a setting."""
    tasks = tasks_in(runs)
    return [against_chance(claims, runs), forgetting(claims, tasks), of_the_map(claims)]


# where there was room to tell
TELLING = ("supported", "contradicted", "equivalent", "inconclusive")


def answer_over(
    tables: Mapping[str, pd.DataFrame], runs: Mapping[str, pd.DataFrame] | None = None
) -> list[str]:
    """The answer over several settings, the main question first, and a sentence on other methods
    where some have run.
    tables: a setting's name -> its claims; runs: the same -> its runs."""
    runs = runs or {}
    two = {name: t for name, t in tables.items() if tasks_in(runs.get(name, pd.DataFrame())) == 2}
    second = _range(two, "C0", unsigned(POINTS))
    sides = [
        side(row)
        for table in two.values()
        for _, row in table[table["claim"] == "C2b-interpolation"].iterrows()
    ]
    third = [_range(tables, claim, unit_of(claim)) for claim in ("C5b", "C5c")]
    return [
        *_over_chance(tables, runs),
        *_over_learning(runs),
        "What does forgetting cost? With nothing frozen, learning the second task takes "
        f"{second} points of accuracy on the first; at equal accuracy on the second, averaging "
        "the weights from before and after it, which costs no further training, keeps more of the "
        f"first than freezing by explanation in {sides.count(-1)} of {len(sides)} settings of two "
        f"tasks, less in {sides.count(1)}, and is not told apart in {sides.count(0)}.",
        "Do class and map matter for the choice? Where half of the filters are frozen, those "
        f"chosen by each class's own map overlap by {third[0]} with those chosen by the mean map "
        f"of all classes, and by {third[1]} with those chosen by the closest map without content, "
        f"flat, a blob or shuffled pixels (1 is the same choice; {same_in(tables, 'C5b')} and "
        f"{same_in(tables, 'C5c')} % of the filters are the same).",
        *_over_methods(runs),
    ]


def _over_chance(tables: Mapping[str, pd.DataFrame], runs: Mapping[str, pd.DataFrame]) -> list[str]:
    """The main question over settings: whether any shows a difference, with the numbers of the one
    with most seeds; then the others, each with its numbers and what they come to."""
    found = {name: main_claims(claims) for name, claims in tables.items()}
    yes = [n for n, rows in found.items() if any(_says(row) == "supported" for _, row in rows)]
    seeds = {
        name: max(int(row["n"]) for _, row in rows)
        for name, rows in found.items()
        if any(_says(row) in TELLING for _, row in rows)
    }
    said = ["Does freezing by explanation keep more of the first task than freezing at random?"]
    if surest := max(seeds, key=seeds.get, default=None):
        said.append(f"It does in {listed(yes)}." if yes else "No setting shows that it does.")
        said.append(_most_seeds(surest, found.pop(surest), tables[surest]))
    others = [_in_setting(name, rows, runs.get(name)) for name, rows in found.items()]
    if not (others := [other for other in others if other]):
        return [" ".join(said if surest else [*said, "These tables do not tell."])]
    room = any(_says(row) == "no" for rows in found.values() for _, row in rows)
    where = "And elsewhere?" if surest else "What was found?"
    more = [NO_ROOM] if room else []
    more += _largest_unclaimed(tables, runs)
    return [" ".join(said), " ".join([f"{where} In points: {'; '.join(others)}.", *more])]


def _over_learning(runs: Mapping[str, pd.DataFrame]) -> list[str]:
    """What is kept is paid for: the same differences in accuracy on the second task and in the mean
    of both, in settings of two tasks; nothing where there are none."""
    two = [table for table in runs.values() if tasks_in(table) == 2]
    said = []
    for column, words in (("acc2", "on the second task"), ("average", "of both tasks averaged")):
        tables = [table.assign(average=average(table)) for table in two]
        found = [row for table in tables for row in _differences(table, column).values()]
        found = [row for row in found if row["n"] > 1]
        ends = [POINTS.write(f(row["estimate"] for row in found)) for f in (min, max) if found]
        above, below = (sum(row[e] * s > 0 for row in found) for e, s in (("low", 1), ("high", -1)))
        said.append(
            f"{' to '.join(ends)} points {words} ({above} of {len(found)} with a 95 % interval "
            f"wholly above zero, {below} below)"
        )
    if not found:
        return []
    return [
        "Does it learn more instead? In settings of two tasks freezing by explanation minus as "
        f"many at random is, by setting and share, {said[0]}, and {said[1]}."
    ]


def _largest_unclaimed(
    tables: Mapping[str, pd.DataFrame], runs: Mapping[str, pd.DataFrame]
) -> list[str]:
    """Of the differences that no claim was registered for, those whose 95 % interval leaves zero to
    one side, farthest first: a reader would look for them in the figure."""
    found = []
    for name, of in runs.items():
        claimed = {share for share, _ in main_claims(tables[name])} if name in tables else set()
        for share, row in _differences(of).items():
            apart = row["low"] > 0 or row["high"] < 0
            if share not in claimed and apart:
                found.append((abs(row["estimate"]), name, share, row))
    if not found:
        return []
    said = []
    for _, name, share, row in sorted(found, key=lambda one: -one[0])[:NAMED]:
        learned = _differences(runs[name], "acc2")[share]
        two = tasks_in(runs[name]) == 2
        while_learning = f", {bounded(learned, POINTS)} of the second task" if two else ""
        said.append(
            f"{name}, {share} % frozen: {bounded(row, POINTS)}{while_learning} (n = "
            f"{int(row['n'])})"
        )
    most = "the farthest from it" if len(found) > NAMED else "all of them"
    return [
        "Of the differences that no claim was registered for, those whose 95 % interval, not "
        f"corrected for their number, leaves out zero ({most}): {'; '.join(said)}."
    ]


def _says(row: Mapping) -> str:
    """What a line of the main claim comes to; *less* where the whole interval lies below zero."""
    kind = says(row["verdict"])
    return "less" if kind == "contradicted" and side(row) < 0 else kind


def _most_seeds(name: str, found: list[tuple[int, pd.Series]], claims: pd.DataFrame) -> str:
    """The numbers of one setting: what there was to protect, the difference at every fraction with
    its interval, and that at equal accuracy on task 2."""
    rows, seeds = [row for _, row in found], max(int(row["n"]) for _, row in found)
    whole, room, equal = "", rows[0].get("headroom"), ""
    if pd.notna(room):
        more = unsigned(POINTS).write(room)
        whole = f", where freezing every filter keeps {more} points more than freezing none"
    numbers = listed([bounded(row, POINTS, level=False) for row in rows])
    shares, levels = (listed([str(x) for x in xs]) for xs in ([s for s, _ in found], _levels(rows)))
    curve = claims.set_index("claim")
    if "C2b-random" in curve.index and pd.notna(curve.loc["C2b-random", "estimate"]):
        row = curve.loc["C2b-random"]
        same = ", the same to within a point" if says(row["verdict"]) == "equivalent" else ""
        equal = f"; at equal accuracy on the second task, {bounded(row, POINTS)}{same}"
    return (
        f"In {name} ({seeds} seeds{whole}) it keeps {numbers} points more with {shares} % frozen "
        f"(intervals at {levels}){equal}."
    )


def _levels(rows: Sequence[Mapping]) -> list[str]:
    """The levels of intervals, once if they are all the same."""
    found = [percent(row["level"]) for row in rows]
    return found[:1] if len(set(found)) == 1 else found


def _in_setting(
    name: str,
    rows: list[tuple[int, pd.Series]],
    runs: pd.DataFrame | None,
) -> str:
    """A setting's numbers and what they come to; its numbers alone where no claim was
    registered."""
    lines = [(share, row, SETTINGS_SAY[_says(row)]) for share, row in rows]
    if not lines:
        lines = [(share, row, "no registered claim") for share, row in unclaimed(runs)]
    said = [
        f"{bounded(row, POINTS)} with {share} % frozen ({_of_seeds(row, words)})"
        for share, row, words in lines
    ]
    return f"{name}: {', '.join(said)}" if said else ""


def _of_seeds(row: Mapping, words: str) -> str:
    n = int(row["n"])
    return words if words == SETTINGS_SAY["undecided"] else f"n = {n}: {words}"


NAMED = 4  # other methods that a sentence names


def _over_methods(runs: Mapping[str, pd.DataFrame]) -> list[str]:
    """A sentence on the setting in which most other methods have run; none if none has."""
    found = {name: against_methods(table) for name, table in runs.items()}
    name = max(found, key=lambda name: len(found[name][1]), default=None)
    if name is None or not (others := found[name][1]):
        return []
    ours, better = found[name][0], [o for o in others if o.low > 0]
    named = listed([f"{o.arm} ({o.written()})" for o in better[:NAMED]])
    first = "the first of them " if len(better) > NAMED else ""
    seeds = _from_to([o.n for o in others], Unit("seeds", 1, ".0f"))
    tasks, lower = tasks_in(runs[name]), sum(o.high < 0 for o in others)
    return [
        f"Do methods without an explanation keep more? In {name}, {len(better)} of {len(others)} "
        f"have a higher accuracy, averaged over {'both' if tasks == 2 else 'all'} "
        "tasks, than the paper's way of freezing has with its best share "
        f"({ours}){f', {first}{named} points' if named else ''}; "
        f"{lower} ha{'s' if lower == 1 else 've'} a lower one (the {seeds} seeds in which both "
        "started from one checkpoint; 95 % intervals, not corrected for their number)."
    ]


class Other(NamedTuple):
    """Another method beside freezing by explanation at its best: how far the average accuracy over
    all tasks lies above it, seed by seed."""

    arm: str
    mean: float
    low: float
    high: float
    n: int

    def written(self) -> str:
        ends = ", ".join(map(POINTS.write, (self.low, self.high)))
        return f"{POINTS.write(self.mean)} [{ends}]"


def against_methods(runs: pd.DataFrame) -> tuple[str, list[Other]]:
    """The arm of the main ranking with the highest average accuracy over tasks, and every method
    that neither freezes filters nor asks an explanation (as Nguyen's do) beside it, highest first;
    of those with two seeds or more in common. Training one part alone is a control and no
    method."""
    table = beside_methods(runs)
    out = runs["method"].isin(["freeze_layers", "nguyen", "finetune", "only"])
    if "ranking" in runs:
        out |= runs["ranking"] == RANKING
    table = table[~table["arm"].isin(runs.loc[out, "arm"]) & (table["n"] > 1)]
    columns = ("arm", "average", "average_low", "average_high", "n")
    return best_share(runs), [Other(*row) for row in zip(*(table[c] for c in columns))]


IN_SHORT = {  # a verdict's first word -> what it says to somebody who has read nothing else
    "supported": "explanation keeps more of the first task than chance",
    "contradicted": "explanation keeps no more of the first task than chance, not by a point",
    "equivalent": "explanation keeps as much of the first task as chance, to within a point",
    "inconclusive": "explanation is not shown to keep more of the first task than chance",
    "no": "nothing to tell: even freezing everything hardly keeps more of the first task",
    "undecided": "one run, which cannot tell",
}


def in_short(claims: pd.DataFrame, runs: pd.DataFrame | None = None) -> str:
    """A setting's answer in one line, verdict by verdict: how much more of the first task is kept
    by freezing the filters that explanation chooses than by as many at random; without a claim on
    it the numbers alone."""
    found, said = main_claims(claims), []
    for kind, words in IN_SHORT.items():
        rows = [(share, row) for share, row in found if says(row["verdict"]) == kind]
        shares = listed([str(share) for share, _ in rows])
        numbers = ", ".join(f"{POINTS.write(row['estimate'])}" for _, row in rows)
        seeds = " / ".join(dict.fromkeys(f"{int(row['n'])}" for _, row in rows))
        if rows:
            said.append(f"{shares} % frozen: {words} ({numbers} points, n = {seeds})")
    numbers = listed([_at(share, row) for share, row in unclaimed(runs)])
    none = f"explanation minus chance {numbers}, no registered claim" if numbers else "no verdict"
    return "; ".join(said) or none


def _range(tables: Mapping[str, pd.DataFrame], claim: str, unit: Unit) -> str:
    """`26.6 to 45.8`: a claim's estimate over settings."""
    return _from_to(_estimates(tables, claim), unit)


def _estimates(tables: Mapping[str, pd.DataFrame], claim: str) -> list[float]:
    return [
        row["estimate"] for t in tables.values() for _, row in t[t["claim"] == claim].iterrows()
    ]


def same_in(tables: Mapping[str, pd.DataFrame], claim: str) -> str:
    """`84 to 97`: per cent of filters that two choices have in common, over settings."""
    return _from_to([in_common(x) for x in _estimates(tables, claim)], Unit("%", 100, ".0f"))


def between_classes(reads: Mapping[str, Read]) -> str:
    """`92 to 95`: per cent of filters that the choices of two single classes have in common, the
    mean over pairs of classes in the network that a setting shows; empty where none shows one."""
    found = []
    for read in reads.values():
        try:
            found.append(in_common(off_diagonal(read("class_overlap"))))
        except FileNotFoundError:
            continue
    return _from_to(found, Unit("%", 100, ".0f")) if found else ""


def off_diagonal(table: pd.DataFrame) -> float:
    """The mean over pairs of different classes of a square of classes (class_overlap.csv)."""
    values = table.drop(columns="class").to_numpy(float)
    return values[~np.eye(len(values), dtype=bool)].mean()


def _from_to(values: Sequence[float], unit: Unit) -> str:
    if not values:
        return "an unknown number of"
    low, high = unit.write(min(values)), unit.write(max(values))
    return low if low == high else f"{low} to {high}"
