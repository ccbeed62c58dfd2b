"""What happens to a round: each method is a small class whose fields are its options in a profile
line, a file for each family; `options` holds what they check them by.

    METHODS["freeze"](ranking="mse", fraction=0.5)

A new method is one class (see `lib.methods.registry`) and one line of a profile.
"""

from lib.methods.distillation import LwF
from lib.methods.finetune import LINE_POINTS, TRACE_STEPS, FineTune, interpolate
from lib.methods.freeze import Freeze, frozen_fraction
from lib.methods.layers import FreezeLayers, Nguyen, Only
from lib.methods.merging import Merge, MergeFisher, MergeRanking
from lib.methods.packnet import PackNet
from lib.methods.penalties import EWC, L2, SI, RecordPath
from lib.methods.projection import GPM
from lib.methods.registry import KEEPS, METHODS, Context, method
from lib.methods.rehearsal import DER, Replay
from lib.methods.soft import SoftFreeze
from lib.training import Method

__all__ = [
    "DER",
    "EWC",
    "GPM",
    "KEEPS",
    "L2",
    "LINE_POINTS",
    "METHODS",
    "SI",
    "TRACE_STEPS",
    "Context",
    "FineTune",
    "Freeze",
    "FreezeLayers",
    "LwF",
    "Merge",
    "MergeFisher",
    "MergeRanking",
    "Method",
    "Nguyen",
    "Only",
    "PackNet",
    "RecordPath",
    "Replay",
    "SoftFreeze",
    "frozen_fraction",
    "interpolate",
    "method",
]
