"""Measures the study's parts against plain baselines and prints tables: ratios, within one run, on
this machine.

python -m bench                                    # everything, under 10 minutes on two cores
python -m bench --section train --out FOLDER       # one section (may be given more than once)
python -m bench --trace step.json                  # a profiler trace of one training step
(chrome://tracing)"""

from __future__ import annotations  # so that a Python too old gets as far as to say so

import sys
from collections.abc import Sequence

from lib.study.command import in_one_sentence


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: exit code 0, 1 after one sentence about an error, 130 after Ctrl-C."""

    def work() -> None:
        from bench.command import obey  # torch and all: inside, so that its absence is told

        obey(arguments)

    return in_one_sentence(work)


if __name__ == "__main__":
    sys.exit(main())
