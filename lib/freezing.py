"""Share a layer's budget of frozen filters among the classes, and hold filters still through
training.

    masks = allocate(scores, fraction=0.5)               # layer -> bool (F,), True = frozen
    with frozen(model, masks, scope="weights"):
        fit(model, task, recipe)                         # or any loop, with any torch optimiser

This room does not know where scores come from.
"""

import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from lib.network import conv_layers, norm_layers

BLOCK = 16  # filters a convolution library works on at once: the width of a processor's vectors

Masks = dict[str, Tensor]  # layer -> bool (F,)
Scores = dict[str, Tensor]  # layer -> (C, F), or (1, F) where the class plays no part


# --- which filters --------------------------------------------------------------------------------


def _checked(scores: Mapping[str, Tensor], fraction: float) -> None:
    if not 0 <= fraction <= 1:
        raise ValueError(
            f"fraction {fraction}: expected a number from 0 to 1 (filters frozen / filters)"
        )
    for layer, s in scores.items():
        if s.ndim != 2 or not torch.isfinite(s).all():
            raise ValueError(
                f"scores of {layer}: expected finite (C, F), got shape {tuple(s.shape)}"
            )


def _free(s: Tensor, held: Tensor | None) -> Tensor:
    """Scores (C, F) with what is held already last in every class's order."""
    return s if held is None else s.masked_fill(held.to(s.device), -torch.inf)


def _turns(order_cf: list[list[int]], budget: int, first: int) -> list[int]:
    """Classes take turns, beginning with class `first`, each choosing its best filter not yet
    taken."""
    taken: dict[int, None] = {}
    pointer = [0] * len(order_cf)
    turn = first
    while len(taken) < budget:
        c = turn % len(order_cf)
        while order_cf[c][pointer[c]] in taken:
            pointer[c] += 1
        taken[order_cf[c][pointer[c]]] = None
        turn += 1
    return list(taken)


def allocate(scores: Scores, fraction: float, held: Masks | None = None) -> Masks:
    """The default budget rule: each layer freezes exactly round(fraction * F) filters (halves round
    up), beside those it holds already.

    scores: layer -> (C, F), higher = rather frozen. The C classes take turns choosing their best
    filter that is not yet taken; layer number l begins with class l mod C, since a small layer has
    fewer places than classes. Ties go to the lower filter number. held: filters frozen in earlier
    rounds, layer -> bool (F,); they stay, and where fewer than the budget are still free, all are
    taken. Returns layer -> bool (F,). Raises ValueError on a fraction outside [0, 1].
    """
    _checked(scores, fraction)
    masks = {}
    for number, (layer, s) in enumerate(scores.items()):
        old = (held or {}).get(layer)
        masks[layer] = torch.zeros(s.shape[1], dtype=torch.bool) if old is None else old.clone()
        free = s.shape[1] - int(masks[layer].sum())
        order_cf = _free(s, old).argsort(dim=1, descending=True, stable=True).tolist()
        budget = min(int(fraction * s.shape[1] + 0.5), free)
        masks[layer][_turns(order_cf, budget, first=number % len(s))] = True
    return masks


def union(scores: Scores, fraction: float, held: Masks | None = None) -> Masks:
    """Every class's top round(fraction * F) filters among those still free, united, beside those
    held already: what the paper may mean; freezes far more than named."""
    _checked(scores, fraction)
    masks = {}
    for layer, s in scores.items():
        old = (held or {}).get(layer)
        masks[layer] = torch.zeros(s.shape[1], dtype=torch.bool) if old is None else old.clone()
        free = s.shape[1] - int(masks[layer].sum())
        order_cf = _free(s, old).argsort(dim=1, descending=True, stable=True)
        top = order_cf[:, : min(int(fraction * s.shape[1] + 0.5), free)]
        masks[layer][top.reshape(-1)] = True
    return masks


def whole_network(scores: Scores, fraction: float, held: Masks | None = None) -> Masks:
    """One budget over all layers instead of layer by layer: the classes take turns over all filters
    at once. Scores must be on one scale over the layers, as similarities of maps are."""
    _checked(scores, fraction)
    joined = {"all": torch.cat(list(scores.values()), dim=1)}  # (C, all filters)
    old = {"all": torch.cat([held[layer] for layer in scores])} if held else None
    flat = allocate(joined, fraction, old)["all"]
    return dict(zip(scores, flat.split([s.shape[1] for s in scores.values()])))


RULES: dict[str, Callable[..., Masks]] = {
    "turns": allocate,
    "union": union,
    "network": whole_network,
}


def realised(masks: Masks) -> dict[str, float]:
    """Fraction really frozen in each layer, and over all filters under the key "all"."""
    counts = {layer: float(m.float().mean()) for layer, m in masks.items()}
    frozen_filters, filters = (
        sum(int(f(m)) for m in masks.values()) for f in (torch.sum, torch.numel)
    )
    return {**counts, "all": frozen_filters / max(filters, 1)}


def iou(a: Masks, b: Masks) -> float:
    """Overlap of two choices over all layers: filters in both / filters in either; 1.0 if both are
    empty."""
    both, either = (
        sum(int(op(a[k], b[k]).sum()) for k in a) for op in (torch.logical_and, torch.logical_or)
    )
    return both / either if either else 1.0


# --- holding them still ---------------------------------------------------------------------------


def _take(t: Tensor, rows: Tensor) -> Tensor:
    """t[rows], kept in t's memory format: index_select alone would rearrange a channels_last
    tensor."""
    if t.ndim == 4 and t.is_contiguous(memory_format=torch.channels_last):
        return t.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)
    return t.index_select(0, rows)


def _put(t: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """t[rows] = values, in place, along t's memory format; returns t."""
    if t.ndim == 4 and t.is_contiguous(memory_format=torch.channels_last):
        t.permute(0, 2, 3, 1).index_copy_(0, rows, values.permute(0, 2, 3, 1))
        return t
    return t.index_copy_(0, rows, values)


def _worth_slicing(weight: Tensor, rows: int) -> bool:
    """Whether the weight gradient of `rows` filters alone is had sooner than that of all of them.

    A convolution library works on BLOCK filters at once, so only whole blocks saved count, and they
    must pay for picking rows out of the gradient: they do not in the first layer, whose filters
    have few weights."""
    filters, channels = weight.shape[:2]
    return channels >= BLOCK and -(-rows // BLOCK) < -(-filters // BLOCK)


class _RowsConv(torch.autograd.Function):
    """conv2d whose weight and bias gradients are computed for the rows `keep` (trainable filters)
    only.

    Frozen rows of the returned gradients are zero. The cost of the weight gradient falls with the
    frozen fraction (where `_worth_slicing`; else all are computed and the frozen ones dropped); the
    gradient to the input needs all rows, as ever."""

    @staticmethod
    def forward(ctx, x, weight, bias, keep, stride, padding, dilation, groups):
        ctx.weight_dtype = weight.dtype
        if torch.is_autocast_enabled(
            x.device.type
        ):  # what autocast would do below, done here so that it can be saved
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weight, bias = (
                x.to(dtype),
                weight.to(dtype),
                bias.to(dtype) if bias is not None else None,
            )
        ctx.save_for_backward(x, weight, keep)
        ctx.how = (stride, padding, dilation, False, [0, 0], groups)
        ctx.has_bias = bias is not None
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    def backward(ctx, grad_bfhw):
        x, weight, keep = ctx.saved_tensors
        conv_backward = torch.ops.aten.convolution_backward
        wants_x, wants_weight = ctx.needs_input_grad[:2]
        n, sliced = len(keep), _worth_slicing(weight, len(keep))
        grad_x, grad_rows, grad_bias_rows = conv_backward(
            grad_bfhw,
            x,
            weight,
            [len(weight)],
            *ctx.how,
            [wants_x, wants_weight and not sliced, wants_weight and not sliced and ctx.has_bias],
        )
        if not wants_weight:
            return grad_x, *[None] * 7
        if sliced:
            rows = (
                grad_bfhw.permute(0, 2, 3, 1).index_select(3, keep).permute(0, 3, 1, 2)
            )  # (B, rows, h, w)
            # of the weight only the shape matters here: any n rows will do, and a slice costs
            # nothing
            _, grad_rows, grad_bias_rows = conv_backward(
                rows, x, weight[:n], [n], *ctx.how, [False, True, ctx.has_bias]
            )
        else:
            grad_rows = _take(grad_rows, keep)
            grad_bias_rows = grad_bias_rows[keep] if ctx.has_bias else None
        # widened to the parameter's precision here, where it is rows only
        grad_weight = _put(
            torch.zeros_like(weight, dtype=ctx.weight_dtype), keep, grad_rows.to(ctx.weight_dtype)
        )
        grad_bias = None
        if ctx.has_bias:
            grad_bias = grad_weight.new_zeros(len(weight)).index_copy_(
                0, keep, grad_bias_rows.to(ctx.weight_dtype)
            )
        return grad_x, grad_weight, grad_bias, *[None] * 5


def _norm_forward(norm: nn.BatchNorm2d, mask: Tensor, x: Tensor) -> Tensor:
    """Batch norm in training mode, except that masked channels use (and keep) their running
    statistics."""
    if not norm.training:
        return F.batch_norm(
            x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps
        )
    old = (
        norm.running_mean.clone(),
        norm.running_var.clone(),
    )  # copies: the graph must not see them change
    new = norm.running_mean.clone(), norm.running_var.clone()
    fixed = F.batch_norm(x, *old, norm.weight, norm.bias, False, 0.0, norm.eps)
    moving = F.batch_norm(x, *new, norm.weight, norm.bias, True, norm.momentum, norm.eps)
    norm.running_mean.copy_(torch.where(mask, old[0], new[0]))
    norm.running_var.copy_(torch.where(mask, old[1], new[1]))
    norm.num_batches_tracked += 1
    return torch.where(mask.view(1, -1, 1, 1), fixed, moving)


class _Rows:
    """What an optimiser sees of a partly frozen parameter while it steps: the trainable rows,
    nothing else.

    Just before a step the parameter's data, gradient and optimiser state are narrowed to the
    trainable rows; just after it the rows are written back. Whatever the optimiser does (momentum
    left from before, weight decay, a fused kernel), it cannot reach a frozen row, and keeps no
    state for one."""

    def __init__(self, keep: dict[nn.Parameter, Tensor]):
        self.keep = keep  # parameter -> int64 (rows,)
        self.full: dict[nn.Parameter, tuple[Tensor, Tensor]] = {}
        self.seen: weakref.WeakSet = weakref.WeakSet()

    def _mine(self, optimiser):
        return [
            p
            for g in optimiser.param_groups
            for p in g["params"]
            if p in self.keep and p.grad is not None
        ]

    def narrow(self, optimiser, args, kwargs):
        if any(
            a is not None for a in (*args[1:], kwargs.get("closure"))
        ):  # args[0] is the optimiser itself
            raise ValueError(
                "optimiser.step(closure) inside frozen(): a closure makes its gradients after "
                "the frozen "
                "rows were put out of reach; call loss.backward() first, then step() without one"
            )
        self.seen.add(optimiser)
        for p in self._mine(optimiser):
            rows, data, grad = self.keep[p], p.data, p.grad
            self.full[p] = data, grad
            p.grad = None
            p.data = _take(data, rows)
            p.grad = _take(grad, rows)
            for name, state in optimiser.state.get(p, {}).items():
                if isinstance(state, Tensor) and state.shape == data.shape:
                    optimiser.state[p][name] = _take(state, rows)

    def widen(self, optimiser, args, kwargs):
        for p in self._mine(optimiser):
            data, grad = self.full.pop(p)
            _put(data, self.keep[p], p.data)
            p.grad = None
            p.data = data
            p.grad = grad

    def undo(self):
        """Full-sized optimiser state again (frozen rows zero), for optimisers that outlive the
        block; and full parameters, should a step have been interrupted between narrowing and
        widening."""
        for p, (data, grad) in self.full.items():
            p.grad = None
            p.data = data
            p.grad = grad
        for optimiser in self.seen:
            for p, rows in self.keep.items():
                for name, state in optimiser.state.get(p, {}).items():
                    narrowed = (
                        isinstance(state, Tensor)
                        and state.ndim == p.ndim
                        and len(state) == len(rows)
                    )
                    if narrowed and state.shape[1:] == p.shape[1:]:
                        optimiser.state[p][name] = _put(torch.zeros_like(p), rows, state)


@contextmanager
def frozen(model: nn.Module, masks: Masks, scope: str = "weights"):
    """Hold the masked filters bit for bit inside the block, for any torch optimiser; everything is
    undone on exit.

    masks: layer -> bool (F,), True = frozen; layers not named train as ever. scope "weights": a
    filter's weight and bias. "filter": also its batch-norm affine and running statistics, so that
    the filter's own function of its input stays what it was. Frozen rows cost no weight gradient
    and no optimiser state; layers frozen whole are not back-propagated through below the first
    trainable one. `conv_layers(model)` reads full weights inside. Writing to a parameter by hand
    (not through an optimiser's step) is not guarded against. Raises ValueError for an unknown layer
    or scope, a mask of the wrong length, or a step with a closure."""
    if scope not in ("weights", "filter"):
        raise ValueError(
            f"scope {scope!r}: expected weights (weight and bias) or filter (batch norm too)"
        )
    convs, norms = conv_layers(model), norm_layers(model)
    for layer, mask in masks.items():
        if (
            layer not in convs
            or mask.shape != (convs[layer].out_channels,)
            or mask.dtype != torch.bool
        ):
            wanted = (
                f"bool ({convs[layer].out_channels},)"
                if layer in convs
                else f"a layer of {', '.join(convs)}"
            )
            raise ValueError(
                f"mask of {layer}: got {mask.dtype} {tuple(mask.shape)}, expected {wanted}"
            )
    keep: dict[nn.Parameter, Tensor] = {}
    with ExitStack() as undo:
        for layer, mask in masks.items():
            if not mask.any():
                continue
            conv, norm = convs[layer], norms.get(layer) if scope == "filter" else None
            mask = mask.to(conv.weight.device)
            rows = (~mask).nonzero().squeeze(1)
            held = [conv.weight, *([conv.bias] if conv.bias is not None else [])]
            if norm is not None:
                held += [norm.weight, norm.bias]
                undo.callback(norm.__dict__.pop, "forward", None)
                norm.forward = lambda x, norm=norm, mask=mask: _norm_forward(norm, mask, x)
            if mask.all():
                for p in held:
                    undo.callback(p.requires_grad_, p.requires_grad)
                    undo.callback(setattr, p, "grad", p.grad)
                    p.requires_grad_(
                        False
                    ).grad = None  # no gradient: every optimiser passes it over
                continue
            keep.update({p: rows for p in held})
            undo.callback(conv.__dict__.pop, "forward", None)
            conv.forward = lambda x, conv=conv, rows=rows: _RowsConv.apply(
                x,
                conv.weight,
                conv.bias,
                rows,
                conv.stride,
                conv.padding,
                conv.dilation,
                conv.groups,
            )
        guard = _Rows(keep)
        undo.callback(guard.undo)
        undo.callback(register_optimizer_step_pre_hook(guard.narrow).remove)
        undo.callback(register_optimizer_step_post_hook(guard.widen).remove)
        yield model
