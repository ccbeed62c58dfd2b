"""What happens to a round: each method is a small class whose fields are its options in a profile
line, a file for each family.

    METHODS["freeze"](ranking="mse", fraction=0.5)

A new method is one class (see `lib.methods.registry`) and one line of a profile.
"""

from lib.methods.distillation import LwF
from lib.methods.finetune import LINE_POINTS, TRACE_STEPS, FineTune, interpolate
from lib.methods.freeze import Freeze, frozen_fraction, pack, unpack
from lib.methods.merging import Merge, MergeFisher, MergeRanking
from lib.methods.penalties import RecordPath
from lib.methods.registry import KEEPS, METHODS, Context, method
from lib.methods.rehearsal import DER, Replay
from lib.training import Method

__all__ = [
    "DER",
    "KEEPS",
    "LINE_POINTS",
    "METHODS",
    "TRACE_STEPS",
    "Context",
    "FineTune",
    "Freeze",
    "LwF",
    "Merge",
    "MergeFisher",
    "MergeRanking",
    "Method",
    "RecordPath",
    "Replay",
    "frozen_fraction",
    "interpolate",
    "method",
    "pack",
    "unpack",
]
