"""Is somebody looking on? No torch here.

Controls and bars are for a reader in front of a notebook. A terminal, a log and a notebook that is
executed from end to end (`make reproduce` sets HEADLESS=1) get plain lines and pictures instead."""

import os
import sys


def in_notebook() -> bool:
    """True inside a Jupyter or Colab kernel, whoever runs it."""
    ipython = sys.modules.get("IPython")  # a kernel has imported it
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


def live() -> bool:
    """True in a notebook that a person runs."""
    return in_notebook() and os.environ.get("HEADLESS") in (None, "", "0")
