"""FullGrad (Srinivas & Fleuret 2019): a logit split without remainder, the saliency map made from
it, class maps.

parts = decompose(model, x, targets)   # parts.residual: what the split leaves: rounding
maps = fullgrad(model, x, targets)     # (B, H, W)
class_maps(model, task).maps           # (C, H, W), what the network looks at for each class
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.data import Task, normalise
from lib.evaluation import predict
from lib.hooks import evaluation, output_gradients

BATCH = 50  # images explained at once: bounds memory, not results


class Decomposition(NamedTuple):
    """logit = sum(input_term) + sum over layers of sum(bias_terms[layer]), for each image."""

    logit: Tensor  # (B,)
    input_term: Tensor  # (B, 3, H, W): input gradient x input
    # layer -> (B, C, h, w), (B, C), or (B, C, T) of T tokens: output gradient x effective bias
    bias_terms: dict[str, Tensor]

    @property
    def residual(self) -> Tensor:
        """(B,): logit minus the sum of all terms, relative to max(|logit|, 1)."""
        total = self.input_term.flatten(1).sum(1) + sum(
            t.flatten(1).sum(1) for t in self.bias_terms.values()
        )
        return (self.logit - total).abs() / self.logit.abs().clamp_min(1)


def effective_bias(module: nn.Module) -> Tensor | None:
    """The constant (C,) a layer adds in evaluation mode: its bias, or beta - mean * gamma /
    sqrt(var + eps) (gamma 1 and beta 0 in batch norm without them); None if it adds nothing.
    Raises ValueError for batch norm without running statistics."""
    if isinstance(module, nn.BatchNorm2d):
        if module.running_mean is None:
            raise ValueError(
                "batch norm without running statistics, which makes an image's logit depend on the "
                "others in its batch: expected track_running_stats=True"
            )
        sigma = torch.sqrt(module.running_var + module.eps)
        if module.weight is None:
            return -module.running_mean / sigma
        return module.bias - module.running_mean * module.weight / sigma
    return module.bias if isinstance(module, (nn.Conv2d, nn.Linear)) else None


def decompose(model: nn.Module, images: Tensor, targets: Tensor) -> Decomposition:
    """Split the raw logit of each image's target into input and bias terms (the paper's equation
    3).

    images: normalised float (B, 3, H, W); targets: int64 (B,), output numbers. Exact for networks
    of convolutions, linear layers, batch norm (evaluation mode), ReLU, max and average pooling and
    residual additions. Modes, requires_grad and hooks of the model are afterwards as before; no
    parameter gets a gradient."""
    if images.ndim != 4 or len(images) != len(targets):
        raise ValueError(
            f"images {tuple(images.shape)} and targets {tuple(targets.shape)}: "
            "expected (B, 3, H, W) and (B,)"
        )
    biased = {name: m for name, m in model.named_modules() if effective_bias(m) is not None}
    x = images.detach().clone().requires_grad_()
    with torch.enable_grad(), evaluation(model), output_gradients(biased) as gradients:
        logit = model(x).gather(1, targets.view(-1, 1)).squeeze(1)
        (grad_x,) = torch.autograd.grad(logit.sum(), x)
    terms = {}
    with torch.no_grad():
        for name, module in biased.items():
            if name in gradients:
                gradient = gradients[name]
                if isinstance(module, nn.Linear):  # channels last, where there are places too
                    gradient = gradient.movedim(-1, 1)
                bias = effective_bias(module)
                terms[name] = gradient * bias.view(1, -1, *[1] * (gradient.ndim - 2))
        return Decomposition(logit.detach(), grad_x * images, terms)


def _psi_summed(term_bchw: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h, w): psi = |term| minus its minimum over (max + 1e-6), jointly over C,
    h, w for each image (the paper leaves open whether per channel; this follows the authors' code),
    then summed over channels."""
    term = term_bchw.abs()
    low, high = (extreme((1, 2, 3), keepdim=True) for extreme in (term.amin, term.amax))
    return term.sub_(low).div_(high - low + 1e-6).sum(1)


def fullgrad(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """FullGrad saliency maps (B, H, W), at least 0, not scaled (the paper's equation 5).

    Arguments as for `decompose`. Linear layers have no place in the image and are left out, but for
    those that work at every place, which are 1 x 1 convolutions. Channels are summed before the
    bilinear upsampling (align_corners=True), which is linear: the same map, at a tenth of the
    cost."""
    size = images.shape[-2:]
    maps = []
    for x, t in zip(images.split(BATCH), targets.split(BATCH)):
        parts = decompose(model, x, t)
        total = _psi_summed(parts.input_term)
        for term in parts.bias_terms.values():
            if term.ndim == 4:
                small = _psi_summed(term)[:, None]
                total = (
                    total
                    + F.interpolate(small, size=size, mode="bilinear", align_corners=True)[:, 0]
                )
        maps.append(total)
    return torch.cat(maps)


def scale(maps: Tensor) -> Tensor:
    """Each map (..., H, W) scaled to [0, 1] by its own minimum and maximum; a constant map becomes
    0."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp_min(1e-12)


class ClassMaps(NamedTuple):
    """maps (C, H, W) in [0, 1]; used: images behind each map; correct: whether they were correctly
    classified."""

    maps: Tensor
    used: list[int]
    correct: list[bool]


def choose_images(model: nn.Module, task: Task, count: int) -> tuple[list[Tensor], list[bool]]:
    """For each class, indices of up to `count` correctly classified training images, the first in
    data set order.

    All there are, if fewer; the class's first `count` images, if none is classified correctly (then
    False)."""
    right = predict(model, task, task.x)[:, task.outputs].argmax(1) == task.y
    picks, correct = [], []
    for c in range(len(task.classes)):
        hits = ((task.y == c) & right).nonzero().squeeze(1)
        correct.append(len(hits) > 0)
        picks.append((hits if len(hits) else (task.y == c).nonzero().squeeze(1))[:count])
    return picks, correct


def class_maps(
    model: nn.Module, task: Task, count: int = 100, kind: str = "mean of scaled maps"
) -> ClassMaps:
    """The class map (PROTOCOL section 2): mean of the FullGrad maps, each scaled to [0, 1], of
    `count` images.

    The explained output is the class's own, in the task's head. kind: the mean as it is, "rescaled"
    to [0, 1] once more, or of "one image", whatever `count` says.
    """
    if kind == "one image":
        return class_maps(model, task, 1)
    picks, correct = choose_images(model, task, count)
    maps = []
    for c, pick in enumerate(picks):
        targets = torch.full_like(pick, c + task.first_output)
        x = normalise(task.x[pick], task, next(model.parameters()).dtype)
        maps.append(scale(fullgrad(model, x, targets)).mean(0))
    found = torch.stack(maps)
    found = scale(found) if kind == "rescaled" else found
    return ClassMaps(found, [len(p) for p in picks], correct)
