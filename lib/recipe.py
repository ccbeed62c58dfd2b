"""How a round is trained. No torch here: profiles are read without it."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt


@dataclass(frozen=True)
class Recipe:
    """SGD, the same for every task; see `lib.training.fit`. A profile checks the ranges."""

    epochs: Annotated[int, Ge(1)] = 10
    batch_size: Annotated[int, Ge(1)] = 64
    lr: Annotated[float, Gt(0)] = 1e-3
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    weight_decay: Annotated[float, Ge(0)] = 0.0
    crop_padding: Annotated[int, Ge(0)] = 4  # pixels of black on every side before the random crop
    flip: bool = True  # mirror each image with probability one half
    precision: Literal["auto", "bf16", "float32"] = "auto"  # auto: bf16 where the device has it

    __pydantic_config__ = {"extra": "forbid"}
