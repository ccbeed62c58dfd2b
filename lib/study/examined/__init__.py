"""The explanations of a seed, examined: products, each made once, and their tables.

    look = with_shown(profile, seed)         # a profile that names no seed examines the one shown
    fulfil(look, *EXAMINED)                  # lib.study.jobs
    atlas_rows(look), choice_rows(look)      # and reliability_rows, readout_rows, graft_rows, ...

What is measured stands in `lib.examination`.
"""

import lib.study.runs  # noqa: F401  (among products, arms come before what is examined)
from lib.study.examined.checks import complexity, reliability, sanity
from lib.study.examined.rankings import SHARES, atlas, atlas_key, choices, damages, scores
from lib.study.examined.remains import WAYS, grafts, grafts_key, left, readouts, retrained
from lib.study.examined.rows import (
    atlas_rows,
    choice_rows,
    complexity_rows,
    graft_rows,
    ranking_cost_rows,
    readout_rows,
    reliability_rows,
    sanity_rows,
    tables,
)
from lib.study.examined.whose import examined_seeds, judged, with_shown

EXAMINED = (
    "scores",
    "choices",
    "damages",
    "atlas",
    "reliability",
    "sanity",
    "complexity",
    "retrained",
    "readouts",
    "left",
    "grafts",
)

__all__ = [
    "EXAMINED",
    "SHARES",
    "WAYS",
    "atlas",
    "atlas_key",
    "atlas_rows",
    "choice_rows",
    "choices",
    "complexity",
    "complexity_rows",
    "damages",
    "examined_seeds",
    "graft_rows",
    "grafts",
    "grafts_key",
    "judged",
    "left",
    "ranking_cost_rows",
    "readout_rows",
    "readouts",
    "reliability",
    "reliability_rows",
    "retrained",
    "sanity",
    "sanity_rows",
    "scores",
    "tables",
    "with_shown",
]
