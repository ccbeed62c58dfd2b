"""A made-up study with known answers, and the tables of arms and rankings that go with it."""

import numpy as np
import pandas as pd

JITTER = np.array([-0.003, 0.002, -0.001, 0.001, -0.002, 0.003])  # sums to 0: six seeds


def arm_rows(
    arm,
    acc1,
    acc2,
    method="freeze",
    ranking=None,
    fraction=None,
    curriculum="sequence",
    jitter=0,
    seeds=6,
    lineage=None,
    before=(0.5, 0.1),
):
    """One arm: acc1 (+ jitter for each seed) and acc2, the same for all seeds."""
    jitter = np.broadcast_to(jitter, seeds)
    scratch = curriculum != "sequence"
    return [
        {
            "profile": "made up",
            "setting": "M",
            "arm": arm,
            "data": "none",
            "seed": s,
            "lineage": "scratch" if scratch else lineage or f"a{s}",
            "method": method,
            "ranking": ranking,
            "fraction": fraction,
            "realised": fraction or 0.0,
            "curriculum": curriculum,
            "acc1": acc1 + jitter[s - 1],
            "acc2": acc2,
            "acc1_before": None if scratch else before[0],
            "acc2_before": None if scratch else before[1],
        }
        for s in range(1, seeds + 1)
    ]


def freeze_rows(name, ranking, fraction, acc1, acc2, **more):
    return arm_rows(
        f"{name} {fraction:.0%}", acc1, acc2, ranking=ranking, fraction=fraction, **more
    )


def study(seeds=6):
    jitter = np.resize(JITTER, seeds)
    wide = np.resize([-0.1, 0.1, -0.06, 0.06, -0.08, 0.08], seeds)
    found = arm_rows("fine-tune", 0.15, 0.48, "finetune", seeds=seeds)
    found += arm_rows("all frozen", 0.45, 0.15, ranking="random", fraction=1.0, seeds=seeds)
    for ranking, values in (("mse", (0.2, 0.3, 0.4)), ("random", (0.18, 0.25, 0.30))):
        for fraction, acc1, acc2 in zip((0.25, 0.5, 0.75), values, (0.45, 0.35, 0.25)):
            found += freeze_rows(
                ranking,
                ranking,
                fraction,
                acc1,
                acc2,
                seeds=seeds,
                jitter=jitter if (ranking, fraction) == ("mse", 0.5) else 0,
            )
    found += freeze_rows("Pearson", "pearson", 0.5, 0.3, 0.2, jitter=wide, seeds=seeds)
    found += freeze_rows("bottom", "bottom", 0.5, 0.2995, 0.34, jitter=0, seeds=seeds)
    found += arm_rows(
        "joint 20-way", 0.31, 0.29, "finetune", curriculum="joint20", seeds=min(seeds, 3)
    )
    found += arm_rows("task 2 only", 0.1, 0.5, "finetune", curriculum="last", seeds=seeds)
    return pd.DataFrame(found)


def joint_accuracy(seeds=3):
    """Over all outputs .3 at the end and .2 after epoch 10, masked .6; everything else is a
    trap."""
    values = {
        "task1": {20: 0.31, 10: 0.22},
        "task2": {20: 0.29, 10: 0.18},
        "task1 masked": {20: 0.65, 10: 0.9},
        "task2 masked": {20: 0.55, 10: 0.9},
    }
    found = [
        {
            "run": f"joint 20-way/{s}/scratch",
            "arm": "joint 20-way",
            "seed": s,
            "lineage": "scratch",
            "round": 0,
            "epoch": e,
            "task": task,
            "accuracy": at.get(e, 0.99),
        }
        for s in range(1, seeds + 1)
        for e in range(1, 21)
        for task, at in values.items()
    ]
    found.append(
        {
            "run": "fine-tune/1/a1",
            "arm": "fine-tune",
            "seed": 1,
            "lineage": "a1",
            "round": 2,
            "epoch": 30,
            "task": "task1",
            "accuracy": 0.0,
        }
    )
    return pd.DataFrame(found)


def controls(seeds=6):
    """Trajectory: acc1 = .5 - acc2 / 2, above MSE's curve nowhere; interpolation: MSE's curve plus
    .1."""
    line = {"trajectory": lambda x: 0.5 - x / 2, "interpolation": lambda x: 0.75 - x}
    return pd.DataFrame(
        [
            {
                "arm": "fine-tune",
                "seed": s,
                "lineage": f"a{s}",
                "control": control,
                "place": i,
                "task1": f(x),
                "task2": x,
            }
            for s in range(1, seeds + 1)
            for control, f in line.items()
            for i, x in enumerate((0.1, 0.5, 0.3, 0.2))
        ]
    )


def overlaps(seeds=6):
    iou = {
        "mse_mean": 0.95,
        "mse_flat": 0.5,
        "mse_gaussian": 0.8,
        "mse_permuted": 0.6,
        "random": 0.3,
    }
    found = [
        {
            "seed": s,
            "lineage": f"a{s}",
            "fraction": f,
            "ranking": "mse",
            "other": other,
            "iou": (x if f == 0.5 else 0.0) + 0.001 * s,
        }
        for s in range(1, seeds + 1)
        for other, x in iou.items()
        for f in (0.25, 0.5)
    ]
    return pd.DataFrame(found)


def arms_table(*lines):
    """arms.csv by hand: (arm, family, label, fraction[, curriculum[, scope]]) in order."""
    columns = ["arm", "family", "label", "fraction", "curriculum", "scope"]
    usual = [None, None, None, None, "sequence", "weights"]
    full = [[*line, *usual[len(line) :]] for line in lines]
    table = pd.DataFrame(full, columns=columns)
    return table.assign(order=range(len(full)), fraction=table["fraction"].astype(float))


def shares(family, label, name, *fractions):
    """Lines for `arms_table`: one ranking at some fractions."""
    return [(f"{name} {f:.0%}".replace("%", " %"), family, label, f) for f in fractions]


ALL = (0.25, 0.5, 0.75, 0.9)
ARMS = arms_table(  # of the profiles compact and paper
    ("fine-tune", "finetune", "fine-tune"),
    ("all frozen", "all frozen", "all frozen", 1.0),
    *shares("similarity", "MSE", "MSE", *ALL),
    *shares("chance", "random", "random", *ALL),
    *shares("similarity", "Pearson", "Pearson", 0.5),
    *shares("similarity", "bottom (least similar)", "bottom", 0.5),
    ("joint 20-way", "joint", "joint 20-way", None, "joint20"),
    ("task 2 only", "last", "task 2 only", None, "last"),
    ("joint shared head", "joint", "joint shared head", None, "joint10"),
)
MANY = arms_table(  # as many as a grown study has
    ("fine-tune", "finetune", "fine-tune"),
    ("all frozen", "all frozen", "all frozen", 1.0),
    ("all frozen whole filter", "all frozen", "all frozen, whole filter", 1.0),
    *shares("similarity", "MSE", "MSE", *ALL),
    *shares("chance", "random", "random", *ALL),
    *shares("similarity", "Pearson", "Pearson", 0.5, 0.75),
    *shares("similarity", "bottom (least similar)", "bottom", 0.5, 0.75),
    *[
        line
        for family, names in {
            "similarity": ("SSIM", "cosine", "MSE, whole filter"),
            "weights": ("norm", "batch-norm scale"),
            "gradients": ("Taylor", "Fisher", "FullGrad", "conductance"),
            "activations": ("mean activation", "selectivity"),
            "hindsight": ("ablation", "loss change", "Fisher x change"),
        }.items()
        for name in names
        for line in shares(family, name, name, 0.75)
    ],
    *[
        (name, family, name)
        for family, names in {
            "penalties": ("EWC", "SI", "L2"),
            "distillation": ("LwF",),
            "rehearsal": ("replay",),
            "packnet": ("PackNet",),
            "layers": ("first 5 layers", "most changed layer"),
            "merging": ("WiSE-FT",),
            "soft": ("soft MSE",),
        }.items()
        for name in names
    ],
    ("joint 20-way", "joint", "joint 20-way", None, "joint20"),
    ("task 2 only", "last", "task 2 only", None, "last"),
)
RANKINGS = pd.DataFrame(
    [
        ("mse", "similarity", "MSE"),
        ("pearson", "similarity", "Pearson"),
        ("ssim", "similarity", "SSIM"),
        ("cosine", "similarity", "cosine"),
        ("bottom", "similarity", "bottom (least similar)"),
        ("random", "chance", "random"),
        ("mse_flat", "similarity", "null: flat map"),
        ("mse_gaussian", "similarity", "null: centred blob"),
        ("mse_permuted", "similarity", "null: shuffled pixels"),
        ("mse_mean", "similarity", "mean map of all classes"),
    ],
    columns=["ranking", "family", "label"],
)
