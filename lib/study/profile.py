"""Profiles: every number a run depends on, read from `profiles/<name>.yaml` and checked before
anything starts.

    profile = load("compact", seeds="1-5", data="cifar100:/data")

A profile may say `extends: other` and then names only what differs (`more_arms` are added to the
other's arms). This module imports no torch: arm, ranking and method names are checked against their
registries by `lib.study.arms.check`."""

import difflib
import io
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lib.recipe import Recipe
from lib.study import own

ROOT = Path(__file__).resolve().parents[2]
FIRST_TUNING_SEED = 1000  # seeds from here on tune and calibrate; the study's own seeds lie below
MOST_SEEDS = 10_000  # of one run
VGG_ONLY = ("depth", "batch_norm", "classifier")  # as in lib.network, which needs torch
RESERVED = ("published", "bench")  # folders of results/ that belong to no profile


def survives(name: str, numbers: bool = False) -> bool:
    """True if a table gives a name back as it is: written as CSV and read as anybody reads one, NA
    or None would be missing, and 1.0 a number (which `numbers` allows)."""
    back = pd.read_csv(io.StringIO(pd.DataFrame({"name": [name]}).to_csv(index=False)))["name"]
    return len(back) == 1 and (numbers and bool(back.notna()[0]) or back[0] == name)


def checked_name(name: str, what: str) -> str:
    """The name, if tables, figures and run ids can carry it; else ValueError."""
    if name != name.strip() or not name.isprintable() or "/" in name or not survives(name):
        raise ValueError(
            f"{what} {name!r}: expected one line of text without / that a table gives back as it "
            "is (not empty, no number, no word for missing such as NA or None); rename it"
        )
    return name


class Checked(BaseModel):
    """A section of a profile: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Draw(Checked):
    """Classes drawn at random by the seed, as the paper's text says: `tasks` times `classes` of
    those there are."""

    tasks: int = Field(2, ge=2)
    classes: int = Field(10, ge=2)


class Data(Checked):
    """Where the images come from and which classes make up each task (given lists, or a draw by the
    seed). holdout: so many training images a class are kept from training and scored on, in place
    of the test images (see `lib.data.hold_out`); 0: none. No part of a key by itself: the checksum
    of the images differs."""

    source: str
    classes: tuple[tuple[int, ...], ...] | None = None
    draw: Draw | None = None
    holdout: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _one_way(self):
        if (self.classes is None) == (self.draw is None):
            raise ValueError(
                "give either `classes` (a list of classes for each task) or `draw`, not both, "
                "not neither"
            )
        sizes = {len(task) for task in self.classes or ((0, 1),)}
        if (
            len(sizes) != 1
            or min(sizes) < 2
            or (self.classes is not None and len(self.classes) < 2)
        ):
            raise ValueError(
                "`classes` needs two or more tasks of equal size, of two or more classes each"
            )
        return self


class Network(Checked):
    """See `lib.network.build`; heads: one for all tasks, or one for each."""

    architecture: str = "vgg"
    depth: Literal[11, 13, 16, 19] = 16
    width: float = Field(1.0, gt=0)
    batch_norm: bool = False
    image_size: int = Field(32, ge=32, le=1024)
    heads: Literal["shared", "per_task"] = "shared"
    classifier: Literal["linear", "torchvision"] = "linear"
    init: Literal["study", "pytorch", "torchvision", "kaiming_fan_in", "normal_head"] = "study"

    @property
    def description(self) -> dict[str, Any]:
        """What `lib.network.build` makes a network from."""
        return self.model_dump(exclude={"heads"})


class Explain(Checked):
    """How class maps and filter visualizations are made; see `lib.saliency` and
    `lib.visualization`."""

    map_images: int = Field(100, ge=1)
    steps: int = Field(30, ge=1)
    lr: float = Field(0.1, gt=0)
    heat_map: Literal["brightness", "difference"] = "brightness"
    class_map: Literal["mean of scaled maps", "rescaled", "one image"] = "mean of scaled maps"


class Examine(Checked):
    """Whose explanations are examined, and how closely; see `lib.study.examined`.

    seeds: such as "1-3" (None: none but the one a notebook shows); rankings: names, or "all";
    images of a class behind a measured damage; filters of a layer visualised again; masks: random
    ones that are grafted; arms whose features are asked what is left of task 1, each trained once
    more for it: names, or "all"."""

    seeds: str | None = None
    rankings: tuple[str, ...] | Literal["all"] = "all"
    images: int = Field(50, ge=2)
    filters: int = Field(16, ge=2)
    masks: int = Field(200, ge=1)
    arms: tuple[str, ...] | Literal["all"] = ()

    @field_validator("seeds", mode="before")
    @classmethod
    def _seeds(cls, text):
        return None if text is None else (parse_seeds(text), str(text))[1]


class Arm(Checked):
    """One way to go from the task-1 checkpoint to the end of the last round: one line of a profile.

    method and its options: see `lib.methods`; curriculum: see `lib.curricula`; seeds: these only,
    such as "1-3" (None: all of the profile's). What an arm is called elsewhere, and what it needs,
    `lib.study.arms` reads from its method's and its ranking's own definitions.
    """

    name: str
    method: str = "finetune"
    options: dict[str, Any] = {}
    curriculum: str = "sequence"
    seeds: str | None = None

    @field_validator("name")
    @classmethod
    def _name(cls, name):
        return checked_name(name, "an arm's name")

    @field_validator("seeds", mode="before")
    @classmethod
    def _seeds(cls, text):
        return None if text is None else (parse_seeds(text), str(text))[1]

    @model_validator(mode="after")
    def _no_method_from_scratch(self):
        if not self.from_checkpoint and (self.method != "finetune" or self.options):
            raise ValueError(
                f"curriculum {self.curriculum} trains plainly: expected no method and no options "
                "with it"
            )
        return self

    @property
    def from_checkpoint(self) -> bool:
        """True if the arm goes on from the task-1 checkpoint, False if it starts from scratch."""
        return self.curriculum == "sequence"

    def asked_for(self, seed: int) -> bool:
        """Whether the arm is to be run with this seed."""
        return self.seeds is None or seed in parse_seeds(self.seeds)


class Calibration(Checked):
    """Task 1 alone, under several profiles' settings, on tuning seeds: reports, chooses nothing."""

    profiles: tuple[str, ...] = ()
    seeds: str = "1000-1001"


class Grid(Checked):
    """One method's settings to choose among: every combination of the values in `grid`, beside the
    fixed `options`. each: options under every value of which a point is run too; it is judged by
    their mean, so that all of them share the chosen setting."""

    name: str
    method: str
    options: dict[str, Any] = {}
    grid: dict[str, tuple[int | float, ...]] = Field(min_length=1)
    each: dict[str, tuple[Any, ...]] = {}

    @model_validator(mode="after")
    def _rising(self):
        for option, values in self.grid.items():
            if not values or any(not a < b for a, b in zip(values, values[1:])):
                raise ValueError(
                    f"grid {self.name!r}, {option}: expected numbers that rise (of equally good "
                    f"ones the smaller is chosen), got {list(values)}"
                )
        if empty := [option for option, values in self.each.items() if not values]:
            raise ValueError(f"grid {self.name!r}: each {', '.join(empty)} names no value")
        named = [*self.options, *self.grid, *self.each]
        if twice := sorted({option for option in named if named.count(option) > 1}):
            raise ValueError(f"grid {self.name!r}: {', '.join(twice)} given twice")
        return self


class Tuning(Checked):
    """How settings are chosen, on tuning seeds and training images held out; see
    `lib.study.tuning`."""

    seeds: str = "1000-1001"
    holdout: int = Field(50, ge=1)
    grids: tuple[Grid, ...] = ()

    @field_validator("seeds", mode="before")
    @classmethod
    def _tuning_seeds(cls, text):
        check_tuning_seeds(parse_seeds(text))
        return str(text)

    @field_validator("grids")
    @classmethod
    def _names_once(cls, grids):
        names = [grid.name for grid in grids]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"grid names must be unique; given twice: {', '.join(twice)}")
        return grids


class Candidate(Checked):
    """What a recipe of the reading grid sets; all else is the profile's own."""

    momentum: float = Field(ge=0, lt=1)
    batch_size: int = Field(ge=1)


class Readings(Checked):
    """The grid over what the paper leaves open; see `lib.study.readings`.

    fraction: of the filters, frozen in every reading; recipes: candidates, in the order in which
    they are taken; seeds: tuning seeds on each of which a recipe must learn task 1 to `least`;
    most: recipes that are taken."""

    fraction: float = Field(0.75, gt=0, lt=1)
    recipes: tuple[Candidate, ...] = ()
    seeds: str = "1000-1001"
    least: float = Field(0.4, ge=0, le=1)
    most: int = Field(2, ge=1)

    @field_validator("seeds", mode="before")
    @classmethod
    def _tuning_seeds(cls, text):
        check_tuning_seeds(parse_seeds(text))
        return str(text)


def check_tuning_seeds(seeds: list[int]) -> None:
    """Raise ValueError if one of the study's own seeds is among them."""
    if own := [seed for seed in seeds if seed < FIRST_TUNING_SEED]:
        raise ValueError(
            f"seed {own[0]} is one of the study's own: expected tuning seeds, {FIRST_TUNING_SEED} "
            "and up"
        )


class Profile(Checked):
    """A whole run: data, network, recipe, explanations, arms, seeds."""

    name: str
    setting: str
    about: str
    seeds: str
    data: Data
    network: Network = Network()
    recipe: Recipe = Recipe()
    explain: Explain = Explain()
    examine: Examine = Examine()
    arms: tuple[Arm, ...] = Field(min_length=1)
    calibration: Calibration = Calibration()
    tuning: Tuning = Tuning()
    readings: Readings = Readings()
    engine: Literal["local", "here"] = Field("local", exclude=True)  # unless $ENGINE is given
    asked: str = Field("", exclude=True)  # how a command line names it; `load` writes it

    @field_validator("seeds", mode="before")
    @classmethod
    def _one_seed(cls, seeds):
        return str(seeds) if type(seeds) is int else seeds

    @field_validator("setting")
    @classmethod
    def _setting(cls, setting):
        return checked_name(setting, "the setting")

    @field_validator("arms")
    @classmethod
    def _names_once(cls, arms):
        names = [arm.name for arm in arms]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"arm names must be unique; given twice: {', '.join(twice)}")
        return arms

    @model_validator(mode="after")
    def _examines_arms_it_has(self):
        names = () if self.examine.arms == "all" else self.examine.arms
        if strange := [name for name in names if name not in {arm.name for arm in self.arms}]:
            raise ValueError(
                f"examine: arms: {', '.join(strange)}: no such arm; expected names of the "
                'profile\'s own arms, or "all"'
            )
        if apart := [a.name for a in self.arms if a.name in names and not a.from_checkpoint]:
            raise ValueError(
                f"examine: arms: {', '.join(apart)}: trained from nothing, so that nothing of "
                "task 1 could be left; expected arms that go on from the task-1 checkpoint"
            )
        return self

    @property
    def seed_list(self) -> list[int]:
        """The seeds of this run in order."""
        return parse_seeds(self.seeds)


def parse_seeds(text: str) -> list[int]:
    """`"1-3,7"` -> `[1, 2, 3, 7]`. Raises ValueError on anything else."""
    seeds: list[int] = []
    for part in str(text).split(","):
        first, dash, last = part.strip().partition("-")
        if not is_number(first) or (dash and not is_number(last)):
            raise ValueError(f"seeds {text!r}: expected numbers and ranges such as 1-5 or 1,2,7")
        some = range(int(first), int(last if dash else first) + 1)
        if len(seeds) + len(some[: MOST_SEEDS + 1]) > MOST_SEEDS:
            raise ValueError(f"seeds {text!r}: expected no more than {MOST_SEEDS:,} of them")
        if not some:
            raise ValueError(f"seeds {text!r}: expected ranges that rise, not {part.strip()}")
        seeds += some
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds {text!r}: expected at least one seed, and none twice")
    return seeds


def is_number(text: str) -> bool:
    """Up to nine of the digits 0 to 9: other scripts have digits that are no numbers to Python."""
    return re.fullmatch(r"[0-9]{1,9}", text) is not None


def _read(path: Path, above: tuple[Path, ...] = ()) -> dict:
    """The YAML mapping of one profile file with what it `extends` merged below it, section by
    section."""
    if path in above:
        raise ValueError(f"{path}: extends itself ({' -> '.join(p.name for p in (*above, path))})")
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(
            f"{path}: not valid YAML ({' '.join(str(error).split())}): expected UTF-8 text, as in "
            "profiles/quick.yaml; mend it"
        ) from None
    if not isinstance(given, dict):
        raise ValueError(f"{path}: expected a mapping of sections, got {type(given).__name__}")
    if odd := _key_that_is_no_text(given):
        raise ValueError(f"{path}: the key {odd[0]!r} is no text; expected names of sections")
    if "extends" not in given:
        return given
    try:
        below = _path(given.pop("extends"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}, extends: {error}") from None
    base = _read(below, (*above, path))
    base["arms"] = [*(base.get("arms") or []), *(given.pop("more_arms", None) or [])]
    if "arms" in given and isinstance(base.get("examine"), dict):
        base["examine"].pop("arms", None)  # names of the arms below
    _of_another_architecture(given.get("network"), base.get("network"))
    for key, value in given.items():
        merge = isinstance(value, dict) and isinstance(base.get(key), dict)
        base[key] = {**base[key], **value} if merge else value
    return base


def _of_another_architecture(given: Any, base: Any) -> None:
    """Drop from the network below what only its own architecture has, if another is named."""
    if isinstance(given, dict) and isinstance(base, dict) and "architecture" in given:
        if given["architecture"] != base.get("architecture", "vgg"):
            for option in VGG_ONLY:
                base.pop(option, None)


def _key_that_is_no_text(given: Any) -> list:
    """The first key that is no text, however deep, in a list (it may be None); empty if none is."""
    if isinstance(given, dict):
        odd = [key for key in given if not isinstance(key, str)]
        return odd[:1] or _key_that_is_no_text(list(given.values()))
    found = map(_key_that_is_no_text, given) if isinstance(given, list) else ()
    return next(filter(None, found), [])


def _name_of(path: Path) -> str:
    """What a profile file is called, and its folder of results: nothing that would leave results/,
    be another folder of it, or be a shipped profile's."""
    name = path.stem
    if not re.fullmatch(r"\w[\w.-]*", name) or not survives(name) or name.lower() in RESERVED:
        raise ValueError(
            f"{path}: a profile's results go to a folder of its name, and {name!r} cannot be one: "
            "expected letters, digits, _ and -, no word for missing, and not "
            f"{' or '.join(RESERVED)}; rename the file"
        )
    shipped = {p.stem.lower(): p for p in (ROOT / "profiles").glob("*.yaml")}
    own = shipped.get(name.lower())
    if own and own.resolve() != path.resolve():
        raise ValueError(
            f"{path}: results of {name!r} belong to {own}, which is another file: rename yours"
        )
    return name


def _path(name: str) -> Path:
    path = Path(name) if str(name).endswith(".yaml") else ROOT / "profiles" / f"{name}.yaml"
    if not str(name).endswith(".yaml") and path.parent != ROOT / "profiles" or not path.is_file():
        known = ", ".join(sorted(p.stem for p in (ROOT / "profiles").glob("*.yaml")))
        raise FileNotFoundError(
            f"no profile {name!r}: expected one of {known}, or the path of a .yaml file"
        )
    return path


def load(name: str, seeds: str | None = None, data: str | None = None) -> Profile:
    """The checked profile `name` (a file in `profiles/`, or a path ending in .yaml).

    `seeds` and `data` replace the profile's own when given; with another data set than its own the
    profile is fitted to it, and its results get a name of their own (`lib.study.own`). Raises
    FileNotFoundError for an unknown profile and ValueError, one line naming every wrong entry, for
    a bad one."""
    path = _path(name)
    asked, name = f"PROFILE={shlex.quote(str(name))}", _name_of(path)
    given = {**_read(path), "name": name, "asked": asked}
    usual = given["data"].get("source") if isinstance(given.get("data"), dict) else None
    if seeds:
        given["seeds"] = str(seeds)
    if data:
        section = given.get("data", {})
        given["data"] = {**section, "source": data} if isinstance(section, dict) else section
    try:
        profile = Profile(**given)
        profile.seed_list, parse_seeds(profile.calibration.seeds)
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, e['loc'])) or 'profile'}: {e['msg']} (given: "
            f"{str(e['input'])[:60]}){_nearest(e)}"
            for e in error.errors()
        ]
        raise ValueError(f"profile {path.name}: " + "; ".join(lines)) from None
    other = data and isinstance(usual, str) and own.kind_of(data) != own.kind_of(usual)
    return _of_other_data(profile, usual) if other else profile


def _of_other_data(profile: Profile, usual: str) -> Profile:
    """The profile under another name, its tasks and its batch fitted to data that are not its
    `usual` ones."""
    source, classes, batch = profile.data.source, profile.data.classes, profile.recipe.batch_size
    name, about = own.name_with(profile.name, source, usual), f"{profile.name} on other data"
    if (ROOT / "profiles" / f"{name}.yaml").exists():
        name = f"{name}_images"
    if classes:
        classes, batch = own.fitted(classes, batch, source)
        about += f": {own.kind_of(source)}, classes {own.shown(classes)}, batch {batch}"
    change = {
        **{"name": name, "about": about, "recipe": replace(profile.recipe, batch_size=batch)},
        "asked": f"{profile.asked} DATA={shlex.quote(source)}",
        "data": profile.data.model_copy(update={"classes": classes}),
    }
    return profile.model_copy(update=change)


def _nearest(error: Any) -> str:
    """After an unknown key: which there are, and which one may have been meant."""
    if error["type"] not in ("extra_forbidden", "unexpected_keyword_argument"):
        return ""
    *sections, key = error["loc"]
    known: Any = Profile
    for place in sections:
        if isinstance(place, str):
            known = known.model_fields[place].annotation
            known = getattr(known, "__args__", (known,))[0]  # of tuple[Arm, ...], Draw | None
    names = list(getattr(known, "model_fields", None) or known.__dataclass_fields__)
    near = difflib.get_close_matches(str(key), names, 1, 0.5)
    meant = f"; did you mean {near[0]}?" if near else ""
    return f", expected one of {', '.join(names)}{meant}"
