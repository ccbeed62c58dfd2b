"""What identity is made of: short hashes, the version of each product's numbers, and which fields
of a profile are part of a key.

Keys are for ever: rows made long ago are found under them. So the fields of today stay in with
their values, and what is added later enters only off its default.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from typing import Any

# Raised by hand, for one kind of product, when the numbers of that product change. Part of every
# product's key, so raising one makes that product, and all that is made from it, again.
# `tests/test_golden.py` fails when numbers changed and nothing was raised here. A method or a
# ranking has a version of its own, at its definition: mending one makes only its own rows again.
SCIENCE = {
    **{"task1": 1, "maps": 1, "filters": 1, "overlap": 1, "trial": 1, "run": 1},
    **{"damages": 1, "reliability": 1, "sanity": 1, "complexity": 1, "retrained": 1, "choices": 1},
}

# Fields of a profile's sections that came after the first rows were published, with the value that
# those rows were made with.
LATER: dict[str, dict[str, Any]] = {
    "network": {"architecture": "vgg"},
    "recipe": {},
    "explain": {"class_map": "mean of scaled maps"},
}


def digest(thing: Any, length: int = 16) -> str:
    """A short hash of anything JSON can write (keys sorted), the same on every machine."""
    return hashlib.sha256(json.dumps(thing, sort_keys=True, default=str).encode()).hexdigest()[
        :length
    ]


def fields(name: str, section: Any) -> dict[str, Any]:
    """What a section of a profile (`name`: network, recipe or explain) adds to a key."""
    given = asdict(section) if is_dataclass(section) else section.model_dump()
    usual = LATER[name]
    return {k: v for k, v in given.items() if k not in usual or v != usual[k]}


def later(name: str, section: Any, field: str) -> dict[str, Any]:
    """One later field of a section as part of the key of a product that depends on no other."""
    return {k: v for k, v in fields(name, section).items() if k == field}


def versions(**numbers: int) -> dict[str, int]:
    """Versions as part of a key: those above 1, so that a first version leaves keys alone."""
    return {name: number for name, number in numbers.items() if number > 1}


def seed_in(key: Any) -> int | None:
    """The seed a key is about, wherever it stands in it."""
    return next(_seeds(key), None)


def _seeds(key: Any) -> Iterator[int]:
    if isinstance(key, dict):
        if "seed" in key:
            yield key["seed"]
        for value in key.values():
            yield from _seeds(value)
