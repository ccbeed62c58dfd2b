"""What the tables say, for a reader who has seen none of them: sentences and rows of a page. No
torch.

    against_chance(claims), forgetting(claims), of_the_map(claims)     # the answer, three sentences
    verdicts(claims)                                                   # a row for each claim
    conclusions(read)                                                  # a sentence for each figure

Every sentence follows from a verdict; its numbers come from the same line of the table."""

from lib.report.answers.conclusions import conclusions, of_forest
from lib.report.answers.explained import of_explanations
from lib.report.answers.lines import (
    HALFWAY,
    TOLD_APART,
    advice,
    all_tasks,
    beside_paper,
    how_made,
    uses,
    verdict_of,
    verdicts,
)
from lib.report.answers.sentences import (
    SAYS,
    against_chance,
    against_methods,
    answer_of,
    answer_over,
    forgetting,
    in_short,
    of_the_map,
)
from lib.report.answers.three import in_three
from lib.report.numbers import POINTS, Read, bounded, kind_of, main_claims, unit_of

__all__ = [
    "HALFWAY",
    "POINTS",
    "Read",
    "SAYS",
    "TOLD_APART",
    "advice",
    "against_chance",
    "against_methods",
    "all_tasks",
    "answer_of",
    "answer_over",
    "beside_paper",
    "bounded",
    "conclusions",
    "forgetting",
    "how_made",
    "in_short",
    "in_three",
    "kind_of",
    "main_claims",
    "of_explanations",
    "of_forest",
    "of_the_map",
    "unit_of",
    "uses",
    "verdict_of",
    "verdicts",
]
