"""Profiles: every number a run depends on, read from `profiles/<name>.yaml` and checked before
anything starts.

    profile = load("compact", seeds="1-5", data="cifar100:/data")

A profile may say `extends: other` and then names only what differs (`more_arms` are added to the
other's arms). This module imports no torch: arm, ranking and method names are checked against their
registries by `lib.study.arms.check`."""

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lib.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
FIRST_TUNING_SEED = 1000  # seeds from here on tune and calibrate; the study's own seeds lie below


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
    seed)."""

    source: str
    classes: tuple[tuple[int, ...], ...] | None = None
    draw: Draw | None = None

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
    image_size: int = Field(32, ge=32)
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


class Examine(Checked):
    """Whose explanations are examined, and how closely; see `lib.study.examined`.

    seeds: such as "1-3" (None: none but the one a notebook shows); images of a class behind a
    measured damage; filters of a layer visualised again; masks: random ones that are grafted."""

    seeds: str | None = None
    images: int = Field(50, ge=2)
    filters: int = Field(16, ge=2)
    masks: int = Field(200, ge=1)

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
    arms: tuple[Arm, ...]
    calibration: Calibration = Calibration()

    @field_validator("arms")
    @classmethod
    def _names_once(cls, arms):
        names = [arm.name for arm in arms]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"arm names must be unique; given twice: {', '.join(twice)}")
        return arms

    @property
    def seed_list(self) -> list[int]:
        """The seeds of this run in order."""
        return parse_seeds(self.seeds)


def parse_seeds(text: str) -> list[int]:
    """`"1-3,7"` -> `[1, 2, 3, 7]`. Raises ValueError on anything else."""
    seeds: list[int] = []
    for part in str(text).split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ValueError(f"seeds {text!r}: expected numbers and ranges such as 1-5 or 1,2,7")
        some = range(int(first), int(last if dash else first) + 1)
        if not some:
            raise ValueError(f"seeds {text!r}: expected ranges that rise, not {part.strip()}")
        seeds += some
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds {text!r}: expected at least one seed, and none twice")
    return seeds


def _read(path: Path, above: tuple[Path, ...] = ()) -> dict:
    """The YAML mapping of one profile file with what it `extends` merged below it, section by
    section."""
    if path in above:
        raise ValueError(f"{path}: extends itself ({' -> '.join(p.name for p in (*above, path))})")
    try:
        given = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(given, dict):
        raise ValueError(f"{path}: expected a mapping of sections, got {type(given).__name__}")
    if "extends" not in given:
        return given
    base = _read(_path(given.pop("extends")), (*above, path))
    base["arms"] = [*(base.get("arms") or []), *(given.pop("more_arms", None) or [])]
    for key, value in given.items():
        merge = isinstance(value, dict) and isinstance(base.get(key), dict)
        base[key] = {**base[key], **value} if merge else value
    return base


def _path(name: str) -> Path:
    path = Path(name) if str(name).endswith(".yaml") else ROOT / "profiles" / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in (ROOT / "profiles").glob("*.yaml")))
        raise FileNotFoundError(
            f"no profile {name!r}: expected one of {known}, or the path of a .yaml file"
        )
    return path


def load(name: str, seeds: str | None = None, data: str | None = None) -> Profile:
    """The checked profile `name` (a file in `profiles/`, or a path ending in .yaml).

    `seeds` and `data` replace the profile's own when given. Raises FileNotFoundError for an unknown
    profile and ValueError, one line naming every wrong entry, for a bad one."""
    path = _path(name)
    given = {"name": path.stem, **_read(path)}
    given["name"] = path.stem
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
            f"{str(e['input'])[:60]})"
            for e in error.errors()
        ]
        raise ValueError(f"profile {path.name}: " + "; ".join(lines)) from None
    return profile
