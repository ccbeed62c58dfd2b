"""What is still missing of a profile, and doing it side by side; resuming is nothing else.

    fulfil(profile, "task1", "maps")     # these kinds, for all seeds
    complete(profile)                    # everything

Everything heavy goes through the store: what a killed run had finished is never made again.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from lib.data import Images
from lib.kernels import recorder, use_triton
from lib.precision import default_device, resolve_precision
from lib.study import engine, examined  # noqa: F401  (its products enter the table)
from lib.study.arms import is_reference
from lib.study.engine.progress import watching
from lib.study.materials import images, receive_images
from lib.study.products import PRODUCTS, store, task1
from lib.study.profile import Profile
from lib.study.runs import arm_named, run, run_key
from lib.study.store import results_dir


class Job(NamedTuple):
    """One product still to be made. part: the layer's or the arm's name."""

    kind: str
    seed: int
    part: str = ""
    again: bool = False

    def __str__(self) -> str:
        return f"seed {self.seed}  {self.part or self.kind.replace('_', ' ')}"


def lacking(profile: Profile, seed: int, show: bool = False) -> set[tuple[str, str]]:
    """(kind, part) of every product a seed still lacks: those that are published, and what making
    these needs. A seed whose rows are all there needs no checkpoint, maps or filters; `show`: they
    are wanted all the same, to be looked at. An arm whose rows have no pair is lacking too."""
    found: set[tuple[str, str]] = set()
    unpaired = _unpaired(profile, seed)

    def there(kind: str, part: str) -> bool:
        useless = kind == "run" and part in unpaired
        return not useless and PRODUCTS[kind].there(profile, seed, part)

    def want(kind: str) -> None:
        for part in PRODUCTS[kind].parts(profile, seed):
            if (kind, part) not in found and not there(kind, part):
                found.add((kind, part))
                for needed in PRODUCTS[kind].needs(profile, part):
                    want(needed)

    for kind, product in PRODUCTS.items():
        if product.published or show:
            want(kind)
    return found


def jobs(profile: Profile, kind: str, show: int | None = None) -> list[Job]:
    """What is still missing of a kind, in the profile's order. `show` names a seed whose products
    are wanted even if no row is missing."""
    found = []
    for seed in profile.seed_list:
        missing = lacking(profile, seed, seed == show)
        parts = [p for p in PRODUCTS[kind].parts(profile, seed) if (kind, p) in missing]
        if kind == "run":  # references first: without them the rows of a killed run have no pair
            found += _references(profile, seed, parts)
        again = _unpaired(profile, seed) if kind == "run" else ()
        found += [Job(kind, seed, part, again=part in again) for part in parts]
    return found


def _lineages(profile: Profile, seed: int, references: bool) -> dict[str, set[str]]:
    """The checkpoints that each arm's rows of a seed start from, of the reference arms or of the
    others; arms without rows are left out."""
    arms = [a for a in profile.arms if a.asked_for(seed) and a.from_checkpoint]
    names = [arm.name for arm in arms if is_reference(arm) == references]
    shelf = store(profile)
    found = {name: set(shelf.branches("run", run_key(profile, seed, name))) for name in names}
    return {name: lineages for name, lineages in found.items() if lineages}


def _unpaired(profile: Profile, seed: int) -> set[str]:
    """Arms all of whose rows start from checkpoints that no reference arm started from (a run was
    killed, and its checkpoint is gone): nothing can be compared with them."""
    paired = set().union(*_lineages(profile, seed, references=True).values())
    others = _lineages(profile, seed, references=False) if paired else {}
    return {name for name, lineages in others.items() if not lineages & paired}


def _references(profile: Profile, seed: int, missing: Sequence[str]) -> list[Job]:
    """On a checkpoint whose lineage is new, its reference arms once more, so that new rows have a
    pair."""
    if not any(arm_named(profile, name).from_checkpoint for name in missing):
        return []
    have = _lineages(profile, seed, references=True)
    if not have:
        return []  # and no checkpoint is made just to learn its lineage
    lineage = task1(profile, seed)["lineage"]
    return [
        Job("run", seed, name, again=True)
        for name, lineages in have.items()
        if lineage not in lineages
    ]


def do(job: Job, profile: Profile) -> None:
    """Make one product (or read it, if it was made meanwhile)."""
    if job.again:
        run(profile, job.seed, job.part, again=True)
    else:
        PRODUCTS[job.kind].get(profile, job.seed, *filter(None, [job.part]))


class Making(NamedTuple):
    """A profile's jobs, to be done by an engine: making(job), on this machine or elsewhere."""

    profile: Profile
    make: Callable[[Job, Profile], object] = do

    def __call__(self, job: Job) -> None:
        self.make(job, self.profile)

    def reads(self, job: Job) -> list[Path]:
        """Files of the store that making a product reads: what it needs, what that needs, ..."""
        found: dict[tuple[str, str], list[Path]] = {}

        def add(kind: str, part: str) -> None:
            for needed in PRODUCTS[kind].needs(self.profile, part):
                for one in PRODUCTS[needed].parts(self.profile, job.seed):
                    if (needed, one) not in found:
                        found[needed, one] = PRODUCTS[needed].files(self.profile, job.seed, one)
                        add(needed, one)

        add(job.kind, job.part)
        return [path for paths in found.values() for path in paths]

    def luggage(self) -> Images:
        """What every job needs, wherever it is done."""
        return images(self.profile)

    def receive(self, fetch: Callable[[], Images]) -> None:
        """On another machine: take the luggage, once."""
        receive_images(self.profile, fetch)


def fulfil(
    profile: Profile, *kinds: str, show: int | None = None, workers: int | None = None
) -> None:
    """Do all that is missing of these kinds, one kind after the other, each side by side; progress
    goes to the output and into `<results>/log.txt` (see `lib.study.engine`), after a line that says
    which paths this machine gets."""
    told = engine.chosen() == "ray"  # a cluster says it of its own
    with engine.workers_kept():
        for kind in kinds:
            if todo := jobs(profile, kind, show):
                if not told:
                    engine.say(_paths(profile))
                    told = True
                log = results_dir(profile.name) / "log.txt"
                with watching(len(todo), kind.replace("_", " ")):
                    engine.side_by_side(todo, Making(profile), log, workers, profile.engine)


def _paths(profile: Profile) -> str:
    device = default_device()
    return (
        f"on {device.type}: training in {resolve_precision(profile.recipe.precision, device)}, "
        f"{'Triton' if use_triton(device) else 'PyTorch'} kernels, training steps "
        f"{'recorded as CUDA graphs' if recorder(device) else 'not recorded'}"
    )


def complete(profile: Profile, show: int | None = None, workers: int | None = None) -> None:
    """Everything the profile's seeds still lack, kind by kind."""
    fulfil(profile, *PRODUCTS, show=show, workers=workers)
