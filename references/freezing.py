"""Freezing the plain way: full gradients from autograd, those of held rows set to 0, and held rows
put back after every step."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

Held = list[tuple[nn.Parameter, Tensor]]  # a parameter and the mask (rows,) of its held rows


class LiteralNorm(nn.Module):
    """Batch norm with held channels, channel by channel and in formulas (Ioffe & Szegedy 2015,
    algorithm 1): a held channel is normalised by its running statistics, which stay, whatever the
    mode. Shares all tensors with the module it stands for.

    mask: bool (C,), True is held; (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, norm: nn.BatchNorm2d, mask: Tensor):
        super().__init__()
        self.norm, self.mask = norm, mask
        self.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        norm, channels = self.norm, []
        if self.training:
            norm.num_batches_tracked += 1
        count = float(norm.num_batches_tracked)
        momentum = 1 / max(count, 1) if norm.momentum is None else norm.momentum
        for c in range(x.shape[1]):
            mean, var = norm.running_mean[c].clone(), norm.running_var[c].clone()
            if self.training and not self.mask[c]:
                mean, var = x[:, c].mean(), x[:, c].var(unbiased=False)
                spread = x[:, c].detach().var(unbiased=True)
                norm.running_mean[c] += momentum * (mean.detach() - norm.running_mean[c])
                norm.running_var[c] += momentum * (spread - norm.running_var[c])
            y = (x[:, c] - mean) / (var + norm.eps).sqrt()
            channels.append(y * norm.weight[c] + norm.bias[c] if norm.affine else y)
        return torch.stack(channels, 1)


class Literally:
    """A copy of a model that trains with plain autograd while some rows are held.

    masks: convolution -> bool (F,), True is held, by the attribute's name (`conv2`); scope "filter"
    also holds the channels of its batch norm (`bn2`). held: a function of the copy that names what
    is held by hand instead, as (parameter, mask) pairs."""

    def __init__(
        self,
        model: nn.Module,
        masks: dict[str, Tensor],
        scope: str = "weights",
        held: Callable[[nn.Module], Held] | None = None,
    ):
        self.model, self.held = copy.deepcopy(model), []
        if held is not None:
            self.held = held(self.model)
            return
        for layer, mask in masks.items():
            conv = getattr(self.model, layer)
            parts = [conv]
            if scope == "filter":
                name = layer.replace("conv", "bn")
                parts.append(getattr(self.model, name))
                setattr(self.model, name, LiteralNorm(parts[1], mask))
            self.held += [(p, mask) for part in parts for p in part.parameters()]

    def train(
        self,
        optimiser: torch.optim.Optimizer,
        loss_of: Callable[[nn.Module], Tensor],
        steps: int = 4,
        clip: float | None = None,
    ) -> None:
        """Steps of an optimiser made on this copy's parameters. A held row has gradient 0, a wholly
        held parameter none, and both have their old bits after each step."""
        start = [p.detach().clone() for p, _ in self.held]

        def losses():
            optimiser.zero_grad()
            loss = loss_of(self.model)
            loss.backward()
            for p, mask in self.held:
                if p.grad is not None:
                    p.grad[mask] = 0
                    if mask.all():
                        p.grad = None
            return loss

        for _ in range(steps):
            step_of(self.model, optimiser, losses, clip)
            with torch.no_grad():
                for (p, mask), then in zip(self.held, start):
                    p[mask] = then[mask]


def step_of(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    losses: Callable[[], Tensor],
    clip: float | None = None,
) -> None:
    """One step of anyone's loop. losses: computes the loss and its gradients, and returns the loss;
    clip: the largest norm of all gradients together. LBFGS calls `losses` itself, without clip."""
    if isinstance(optimiser, torch.optim.LBFGS):
        optimiser.step(losses)
        return
    losses()
    if clip:
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimiser.step()
