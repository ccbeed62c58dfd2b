"""An idea tried at once, in this process: one arm beside a profile's plain training and random
freezing, no profile file.

    print(beside("smoke", method="freeze", ranking="largest_weight", fraction=0.5))

Only the references and what is behind them (checkpoint, maps, filters) are kept. The idea's own row
is made anew each time: its code may have changed, which no key could tell."""

import pandas as pd

from lib.study.arms import check, is_reference
from lib.study.inputs import check_fit
from lib.study.products import task1
from lib.study.profile import Arm, load
from lib.study.runs import run, sequence

COLUMNS = ["acc1_before", "acc1", "acc2_before", "acc2"]


def beside(
    profile: str, *, method: str, seed: int = 1, data: str | None = None, **options
) -> pd.DataFrame:
    """Accuracies before and after the last round, a line for each arm: the profile's fine-tuning,
    its random freezing of the same fraction, and "yours", the method with these options.

    ValueError for an unknown method, ranking or option, or one that fits no such network."""
    base = load(profile, str(seed), data)
    yours = Arm(name="yours", method=method, options=options)
    usual = [a for a in base.arms if is_reference(a) and a.asked_for(seed)]
    same = [a for a in usual if a.options.get("fraction") in (None, options.get("fraction"))]
    trial = base.model_copy(update={"arms": (*same, yours)})
    check(trial)
    check_fit(trial)
    # from the checkpoint that is here, as yours: published rows may be of another
    rows = [run(trial, seed, arm.name, again=True)["row"] for arm in same]
    rows.append(sequence(yours, seed, trial, task1(trial, seed)["lineage"])["row"])
    names = [arm.name for arm in trial.arms]
    return pd.DataFrame(rows, index=pd.Index(names, name="arm"))[COLUMNS]
