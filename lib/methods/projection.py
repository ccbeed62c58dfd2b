"""Steps that leave what earlier tasks' inputs see of a layer as it was.

METHODS["gpm"](threshold=0.97)                  # gradient projection memory
METHODS["gpm"](threshold=0.97, scaled=True)     # scaled: SGP
"""

from collections.abc import Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.data import normalise
from lib.hooks import evaluation
from lib.methods.layers import all_but_weights, shared_layers, some_images, still, still_norms
from lib.methods.options import check_count, check_flag, check_number, refuse_decay
from lib.methods.registry import method
from lib.training import Method

BATCH = 25  # images whose patches are unfolded at once: bounds memory, not results
ALPHA = 10  # SGP's scale coefficient


class Space(NamedTuple):
    """What is kept of a layer's inputs: basis (D, r), orthonormal columns, and for each of them how
    much of a step along it is taken away, strength (r,) in [0, 1]. Float64."""

    basis: Tensor
    strength: Tensor


@method("GPM", keeps="importances", name="gpm")
@dataclass
class GPM(Method):
    """Gradient projection memory (Saha et al. 2021, equations 5 to 9), and its scaled form SGP
    (Saha & Roy 2023).

    A layer's inputs on earlier tasks, patches (D,) of a convolution or vectors of a linear layer,
    lie near a space with basis U (D, r). Every gradient G (F, D) becomes G - G U diag(s) U^T before
    the step, so that with s = 1 the layer answers such an input as before. SGD's momentum is a sum
    of projected gradients and needs no projection of its own; weight decay would, and is refused.
    Biases and batch norm, its statistics too, stand still from task 2 on. With outputs for each
    task the output layer trains freely (a round moves its own task's outputs only); a shared head
    is projected like the other layers.

    Round k + 1 extends the space by task k's inputs, of the network as it enters the round: the
    leading right singular vectors of what the space does not hold yet, until it holds `threshold`
    of their energy. For SGP a vector with singular value sigma has s = 11 sigma / (10 sigma + the
    largest), where an old vector's sigma is the norm of the new inputs along it; an old vector's s
    is the sum of its former and its new one, at most 1.

    Stored between tasks: the bases and strengths (rows `spaces`), and no image: those of task k are
    looked at once, as the next round begins. Departures: the same number of images for every layer;
    the threshold does not grow from task to task; the smallest number of vectors that reaches the
    threshold, as in the paper (the authors' code takes one fewer after task 1); the groups of a
    grouped convolution share a space.

    threshold: share of the energy (sum of squares) kept, in [0, 1]; images: how many, drawn at
    random from the task's training images, not augmented, at least 1; scaled: SGP. Costs singular
    values of a (D, D) matrix for each layer and round. Raises ValueError for other options, and
    before a round for weight decay or a convolution that pads otherwise than with zeros.
    """

    threshold: float = 0.97
    images: int = 128
    scaled: bool = False
    spaces: dict[str, Space] = field(default_factory=dict, repr=False, init=False)
    rows: list[dict] = field(default_factory=list, repr=False, init=False)

    steady = True  # hooks in the step only launch work

    def __post_init__(self):
        check_number("threshold", self.threshold, high=1, means="share of the energy")
        check_count("images", self.images)
        check_flag("scaled", self.scaled)
        self.label = "SGP" if self.scaled else "GPM"

    def fits(self, model, tasks, recipe):
        refuse_decay(self.label, recipe, "it would move weights within the kept space")
        for name, layer in shared_layers(model, tasks).items():
            _check_padding(layer, name)

    def before(self, model, task, context):
        self.fits(model, context.tasks, context.recipe)
        layers = shared_layers(model, context.tasks)
        for name, factor in self._inputs(model, layers, context).items():
            space = extended(self.spaces.get(name), factor, self.threshold, self.scaled)
            self.spaces[name] = space
            self.rows.append({"round": context.round, "layer": name, **_size(space)})
        self.kept = [
            (layer.weight, *(part.to(layer.weight) for part in self.spaces[name]))
            for name, layer in layers.items()
        ]
        self.resting = all_but_weights(model, layers)

    def _inputs(self, model: nn.Module, layers: Mapping[str, nn.Module], context) -> dict:
        old = context.tasks[context.round - 2]  # the task learned last
        pick = some_images(old, self.images, context.seed, "GPM")
        x = normalise(old.x[pick], old, next(model.parameters()).dtype)
        return input_factors(model, layers, x)

    @contextmanager
    def during(self, model):
        with ExitStack() as held:
            held.enter_context(still(self.resting))
            held.enter_context(still_norms(model))
            yield

    def after_backward(self, model):
        for weight, basis, strength in self.kept:
            along = weight.grad.flatten(1) @ basis * strength  # (F, r)
            weight.grad.sub_((along @ basis.T).view(weight.shape))

    def records(self):
        return {"spaces": self.rows}


def _size(space: Space) -> dict:
    """How much of a layer's input space is kept, and what storing it takes."""
    inputs, kept = space.basis.shape
    stored = sum(part.numel() * part.element_size() for part in space)
    return {
        "inputs": inputs,
        "kept": kept,
        "strength": float(space.strength.sum()),
        "bytes": stored,
    }


def patches(layer: nn.Module, x: Tensor) -> Tensor:
    """What a layer multiplies its weights (F, D) with: (n, D), of a convolution in the order of its
    flattened weight."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, layer.in_features)
    _check_padding(layer)
    unfolded = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    # (B, groups x D, places)
    size = layer.weight[0].numel()  # D; a grouped convolution has several patches at a place
    return unfolded.unflatten(1, (-1, size)).mT.reshape(-1, size)


def _check_padding(layer: nn.Module, name: str = "a convolution") -> None:
    if isinstance(layer, nn.Conv2d) and (
        isinstance(layer.padding, str) or layer.padding_mode != "zeros"
    ):
        raise ValueError(
            f"{name} has padding {layer.padding!r}, {layer.padding_mode}: expected zeros and a "
            "number of pixels"
        )


@torch.no_grad()
def input_factors(
    model: nn.Module, layers: Mapping[str, nn.Module], x: Tensor
) -> dict[str, Tensor]:
    """For each layer a matrix R (at most D, D), float64, with R^T R = P^T P, P (n, D) all its
    patches on images x in evaluation mode: the same singular values and right vectors, without
    holding P. The model's mode is put back."""
    factors: dict[str, Tensor] = {}
    with evaluation(model), ExitStack() as handles:
        for name, layer in layers.items():

            def take_in(layer, inputs, name=name):
                rows = patches(layer, inputs[0]).double()
                if name in factors:
                    rows = torch.cat([factors[name], rows])
                factors[name] = torch.linalg.qr(rows, mode="r").R

            handles.callback(layer.register_forward_pre_hook(take_in).remove)
        for part in x.split(BATCH):
            model(part)
    return factors


def extended(old: Space | None, factor: Tensor, threshold: float, scaled: bool) -> Space:
    """The space that also holds `threshold` of the energy of new inputs (see `GPM`). factor (m, D),
    float64: the new inputs, or what `input_factors` makes of them."""
    if old is None:
        old = Space(factor.new_zeros(factor.shape[1], 0), factor.new_zeros(0))
    basis, total = old.basis, factor.square().sum()
    along = factor @ basis  # (m, r)
    _, sigma, vectors = torch.linalg.svd(factor - along @ basis.T, full_matrices=False)
    held = along.square().sum() + F.pad(sigma.square().cumsum(0), (1, 0))  # with 0, 1, ... more
    tiny = total.sqrt() * max(factor.shape) * torch.finfo(factor.dtype).eps
    count = min(int((held < threshold * total).sum()), int((sigma > tiny).sum()))
    new = vectors[:count].T  # (D, count)
    new = torch.linalg.qr(new - basis @ (basis.T @ new)).Q  # rounding: small vectors lean on basis
    sizes = torch.cat([along.norm(dim=0), sigma[:count]])
    strength = torch.ones_like(sizes)
    if scaled and len(sizes):
        strength = (ALPHA + 1) * sizes / (ALPHA * sizes + sizes.max()).clamp_min(1e-300)
        strength[: len(old.strength)] += old.strength
        strength.clamp_(max=1)
    return Space(torch.cat([basis, new], 1), strength)
