"""Everything that was given, looked at in one place before anything is trained, written or removed.

check(load("compact", seeds="1-3"))       # ValueError, FileNotFoundError, ...: one sentence
"""

import os

from lib.methods import METHODS
from lib.network import conv_layers
from lib.study import arms
from lib.study.engine import chosen, default_workers
from lib.study.materials import class_names, fresh_network, outputs_of, tasks
from lib.study.profile import Profile, load, survives
from lib.study.store import naming, results_dir

FEWEST_FILTERS = 2  # in a layer: of one filter there is nothing to choose


def check(profile: Profile, workers: int | None = None) -> None:
    """Look at arms, calibration, engine, workers, data, tasks, batch, network, whether each arm's
    method fits them, and the results folder of a profile; raises the first sentence there is."""
    arms.check(profile)
    calibrated = [_calibrated(profile, name) for name in profile.calibration.profiles]
    default_workers(workers)
    chosen()
    for seed in profile.seed_list if profile.data.draw else profile.seed_list[:1]:
        for asked in (profile, *calibrated):
            _tasks(asked, seed)
    _network(profile)
    check_fit(profile)
    _room_for_results(profile)


def check_fit(profile: Profile) -> None:
    """Whether the method of each arm fits network, tasks and recipe, on the seeds that ask for the
    arm: on one of them, unless each draws its own classes."""
    todo = [arm for arm in profile.arms if arm.from_checkpoint]
    for seed in profile.seed_list:
        if asked := [arm for arm in todo if arm.asked_for(seed)]:
            split = tasks(profile, seed)
            model = fresh_network(profile, seed, outputs_of(split))
            for arm in asked:
                with arms.naming(arm):
                    METHODS[arm.method](**arm.options).fits(model, split, profile.recipe)
        if not profile.data.draw:
            todo = [arm for arm in todo if arm not in asked]


def _calibrated(profile: Profile, name: str) -> Profile:
    try:
        return load(name, data=profile.data.source)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"profile {profile.name}, calibration.profiles: {error}") from None


def _room_for_results(profile: Profile) -> None:
    """The folder of results is there, or can be made, and can be written to."""
    folder = results_dir(profile.name)
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".probe.{os.getpid()}.tmp"
    try:
        with naming(folder):
            probe.write_bytes(b"0" * 4096)
    finally:
        probe.unlink(missing_ok=True)


def _tasks(profile: Profile, seed: int) -> None:
    split = tasks(profile, seed)
    for task in split:
        if len(task.x) < profile.recipe.batch_size:
            raise ValueError(
                f"profile {profile.name}: batch_size {profile.recipe.batch_size}, but {task.name} "
                f"has {len(task.x)} training images: expected no more than that; name a smaller "
                "one in the section recipe, or give more images"
            )
        for name in class_names(profile, task):
            if not survives(name, numbers=True):
                raise ValueError(
                    f"{profile.data.source}: a class is called {name!r}, which a table would give "
                    "back as missing: rename it"
                )


def _network(profile: Profile) -> None:
    seed = profile.seed_list[0]
    model = fresh_network(profile, seed, outputs_of(tasks(profile, seed)))
    narrow = {name: c.out_channels for name, c in conv_layers(model).items()}
    name = min(narrow, key=narrow.get)
    if narrow[name] < FEWEST_FILTERS:
        raise ValueError(
            f"profile {profile.name}: width {profile.network.width} leaves {name} "
            f"{narrow[name]} filter: expected {FEWEST_FILTERS} or more in every layer; give a "
            "larger width in the section network"
        )
