"""Methods that pull weights back by how important they were: what they need to know of task 1."""

from typing import Any

import torch
from torch import Tensor, nn

from lib.data import Task
from lib.training import Method


class RecordPath(Method):
    """Synaptic Intelligence's path integral (Zenke et al. 2017, equation 3) along training,
    recorded, never used: omega = - sum over steps of gradient x change. Reads only, so training's
    bits are the same with it or without."""

    def __init__(self):
        self.omega: dict[str, Tensor] = {}

    def before(self, model: nn.Module, task: Task, context: Any = None) -> None:
        self.omega = {k: torch.zeros_like(p) for k, p in model.named_parameters()}

    def after_backward(self, model):
        # cloned, not aliased: on a CPU a detached alias would follow the step and make every change
        # zero
        self.old = {k: p.detach().clone() for k, p in model.named_parameters()}

    @torch.no_grad()
    def after_step(self, model):
        for k, p in model.named_parameters():
            if p.grad is not None:
                self.omega[k].addcmul_(p.grad, p.detach() - self.old[k], value=-1)
