"""Other methods beside the paper's way of freezing, seed by seed. No torch.

table = beside_methods(runs)  # methods.csv: EWC, SI, PackNet, ... minus MSE at its best share
"""

import pandas as pd

from lib.report.numbers import POINTS, bounded, listed
from lib.report.paper import RANKING
from lib.report.statistics import average, frozen_by, interval, paired, pick

# arms of the related work that the study's question names
NAMED = ("EWC", "SI", "PackNet", "Nguyen 2020", "Nguyen 2022")
MEASURES = ("acc1", "average")  # what is left of task 1; the mean over all tasks


def best_share(runs: pd.DataFrame) -> str:
    """The arm of the paper's way of freezing with the highest average accuracy over tasks; "" where
    there is none. It is chosen on these very seeds, which is to its advantage."""
    if "ranking" not in runs:  # no arm that freezes by one
        return ""
    mine = pick(runs, frozen_by(RANKING))
    means = mine.assign(average=average(mine)).groupby("arm")["average"].mean()
    return means.idxmax() if len(means) else ""


def apart(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Arm -> seed -> acc1, average: every arm that goes from task to task by a method other than
    freezing ranked filters, minus `best_share`, paired as by `lib.report.statistics.paired`. Empty
    where fine-tuning alone is there."""
    ours, found = best_share(runs), {}
    table = runs[runs["curriculum"] == "sequence"]
    table = table.assign(average=average(table))
    for arm in table.loc[table["method"] != "freeze", "arm"].unique() if ours else ():
        differences = pd.DataFrame({c: paired(table, arm, ours, c) for c in MEASURES})
        if len(differences):
            found[arm] = differences
    others = set(table.loc[table["arm"].isin(found), "method"]) - {"finetune"}
    return found if others else {}


def beside_methods(runs: pd.DataFrame) -> pd.DataFrame:
    """methods.csv, a row for each arm of `apart`, highest average first: arm, beside (the paper's
    arm), n (seeds), and for acc1 and average the mean difference and its 95 % t interval (`acc1`,
    `acc1_low`, `acc1_high`, ...). Fractions of 1; no interval where n = 1."""
    ours, rows = best_share(runs), []
    for arm, differences in apart(runs).items():
        row = {"arm": arm, "beside": ours, "n": len(differences)}
        for name in MEASURES:
            row[name], row[f"{name}_low"], row[f"{name}_high"], _ = interval(differences[name])
        rows.append(row)
    bounds = [f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high")]
    table = pd.DataFrame(rows, columns=["arm", "beside", "n", *bounds])
    return table.sort_values("average", ascending=False, ignore_index=True)


def sentence(runs: pd.DataFrame) -> str:
    """How many of the arms of `beside_methods` (fine-tuning and controls are among them) do better
    over all tasks than the paper's way, and what the methods that the paper names do; "" where
    nothing pairs."""
    table = beside_methods(runs)
    if table.empty:
        return ""
    lines, ours = table.set_index("arm"), table["beside"].iloc[0]
    named = lines.loc[[arm for arm in NAMED if arm in lines.index]]
    said = [
        f"{arm} {bounded(row, POINTS, 'average', level=False)}" for arm, row in named.iterrows()
    ]
    several, above = table[table["n"] > 1], (table["average_low"] > 0).sum()
    found = []
    if len(several):
        found.append(
            f"{above} of {len(several)} other methods do better over all tasks than {ours}, "
            f"{(several['average_high'] < 0).sum()} worse (95 % intervals, not corrected for their "
            "number)"
        )
    if said:
        seeds = listed([str(n) for n in sorted(named["n"].unique())])
        found.append(
            f"of those that the paper names, minus {ours}: {listed(said)} points (n = {seeds})"
        )
    text = "; ".join(found)
    return f"{text[:1].upper()}{text[1:]}." if text else ""
