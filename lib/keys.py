"""What identity is made of: short hashes, seeds derived from names, and the version of each
product's numbers."""

import hashlib
import json
from typing import Any

# Raised by hand, for one kind of product, when the numbers of that product change. Part of every
# product's key, so raising one makes that product, and all that is made from it, again.
# `tests/test_golden.py` fails when numbers changed and nothing was raised here.
SCIENCE = {"task1": 1, "maps": 1, "filters": 1, "overlap": 1, "run": 1}


def digest(thing: Any, length: int = 16) -> str:
    """A short hash of anything JSON can write (keys sorted), the same in every process and on every
    machine."""
    return hashlib.sha256(json.dumps(thing, sort_keys=True, default=str).encode()).hexdigest()[
        :length
    ]


def seed_of(*parts: Any) -> int:
    """A 63-bit seed from any names and numbers: independent generators for independent purposes."""
    return (
        int.from_bytes(
            hashlib.sha256(json.dumps([str(p) for p in parts]).encode()).digest()[:8], "big"
        )
        >> 1
    )
