"""The command line: notebooks through papermill, the published record, figures again, the README's
numbers.

    python -m lib.reproduce run --profile quick          (make reproduce)
    python -m lib.reproduce publish --profile compact    (make publish PROFILE=compact)

What each command does stands in `lib.reproduce.commands`; errors end in one sentence and exit code
1, Ctrl-C in one sentence and 130 (`lib.study.command`).
"""

from __future__ import annotations  # so that a Python too old gets as far as to say so

from collections.abc import Sequence

from lib.study.command import in_one_sentence, leave


def main(arguments: Sequence[str] | None = None) -> int:
    """See the head of this module."""

    def work() -> None:
        from lib.reproduce.commands import (
            obey,
        )  # pandas and all: inside, so that its absence is told

        obey(arguments)

    return in_one_sentence(work)


if __name__ == "__main__":
    leave(main())
