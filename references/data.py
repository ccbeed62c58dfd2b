"""Augmentation one image after the other."""

import torch
from torch import Tensor
from torch.nn import functional as F

from lib.data import Task


def augment_one_by_one(
    x: Tensor,
    task: Task,
    generator: torch.Generator,
    padding: int,
    flip: bool,
    dtype: torch.dtype,
) -> Tensor:
    """Zero-pad each side, crop at a random place, mirror with probability 1/2, scale to [0, 1],
    normalise: what torchvision's RandomCrop, RandomHorizontalFlip, ToTensor and Normalize
    do, with the numbers drawn as `lib.data.augment` draws them.

    x: uint8 (B, 3, H, W) -> (B, 3, H, W) of dtype, normalised with the task's mean and std."""
    top, left = torch.randint(0, 2 * padding + 1, (2, len(x), 1), generator=generator)
    mirror = torch.rand(len(x), 1, generator=generator) < 0.5
    done = []
    for i, image in enumerate(x):  # (3, H, W)
        padded = F.pad(image, (padding,) * 4)
        crop = padded[:, top[i] : top[i] + x.shape[2], left[i] : left[i] + x.shape[3]]
        crop = crop.flip(2) if flip and mirror[i] else crop
        channels = [
            (crop[c].to(dtype) / 255 - task.mean[c].to(dtype)) / task.std[c].to(dtype)
            for c in range(3)
        ]
        done.append(torch.stack(channels))
    return torch.stack(done)
