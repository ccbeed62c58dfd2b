"""Share a layer's budget of frozen filters among the classes, and hold filters still through
training.

    masks = allocate(scores, fraction=0.5)               # layer -> bool (F,), True = frozen
    with frozen(model, masks, scope="weights"):
        fit(model, task, recipe)                         # or any loop, with any torch optimiser

This room does not know where scores come from.
"""

import copy
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.network import conv_layers, norm_layers
from lib.rows import Guard, Places, Rows, put, take

OURS = ("_rows", "_switched_off")  # what a held layer has beside its own attributes
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


def _and_by_turns(s: Tensor, old: Tensor | None, budget: int, number: int) -> Tensor:
    """bool (F,): what is held already and, by turns, `budget` more, or all that are free if they
    are fewer."""
    mask = torch.zeros(s.shape[1], dtype=torch.bool) if old is None else old.clone()
    order_cf = _free(s, old).argsort(dim=1, descending=True, stable=True).tolist()
    budget = min(budget, s.shape[1] - int(mask.sum()))
    mask[_turns(order_cf, budget, first=number % len(s))] = True
    return mask


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
        masks[layer] = _and_by_turns(s, old, int(fraction * s.shape[1] + 0.5), number)
    return masks


def union(scores: Scores, fraction: float, held: Masks | None = None) -> Masks:
    """Every class's top round(fraction * F) filters among those still free, united, beside those
    held already: what the paper may mean; freezes more than named."""
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


SCOPES = ("weights", "filter")  # what is held of a filter: weight and bias, or batch norm too
RULES: dict[str, Callable[..., Masks]] = {
    "turns": allocate,
    "union": union,
    "network": whole_network,
}


def as_many(scores: Scores, counts: Masks, held: Masks | None = None) -> Masks:
    """The best filters by these scores, in each layer exactly as many as the masks `counts` freeze
    there (held ones among them): the control of a choice whose size follows from the rankings, as a
    union's does. The classes take turns as in `allocate`."""
    masks = {}
    for number, (layer, s) in enumerate(scores.items()):
        old = (held or {}).get(layer)
        more = int(counts[layer].sum()) - (0 if old is None else int(old.sum()))
        masks[layer] = _and_by_turns(s, old, more, number)
    return masks


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


def pack(mask: Tensor) -> str:
    """bool (F,) as hexadecimal text, eight filters to two digits, the first filter the highest
    bit."""
    return np.packbits(mask.cpu().numpy()).tobytes().hex()


def unpack(text: str, filters: int) -> Tensor:
    """The inverse of `pack`: bool (F,)."""
    return torch.from_numpy(
        np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))[:filters].astype(bool)
    )


def packed(masks: Masks) -> dict[str, str]:
    """A choice in few letters: {layer: "<filters>:<pack>"}."""
    return {layer: f"{len(mask)}:{pack(mask)}" for layer, mask in masks.items()}


def unpacked(words: Mapping[str, str]) -> Masks:
    """What was `packed`."""
    parts = {layer: text.partition(":") for layer, text in words.items()}
    return {layer: unpack(bits, int(filters)) for layer, (filters, _, bits) in parts.items()}


# --- holding them still ---------------------------------------------------------------------------


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
    frozen fraction (where `_worth_slicing`; else all are computed and the frozen ones dropped, as
    in a grouped convolution, whose filters see different channels); the gradient to the input needs
    all rows, as ever."""

    @staticmethod
    def forward(ctx, x, weight, bias, keep, stride, padding, dilation, groups):
        ctx.weight_dtype = weight.dtype
        if torch.is_autocast_enabled(x.device.type):
            # what autocast would do below, done here so that it can be saved
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weight, bias = (
                t if t is None or t.dtype == torch.float64 else t.to(dtype)
                for t in (x, weight, bias)
            )
        ctx.save_for_backward(x, weight, keep)
        ctx.how = (stride, padding, dilation, False, [0, 0], groups)
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    def backward(ctx, grad_bfhw):
        x, weight, keep = ctx.saved_tensors
        conv_backward = torch.ops.aten.convolution_backward
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        n, groups = len(keep), ctx.how[-1]
        sliced = wants_weight and groups == 1 and _worth_slicing(weight, n)
        grad_x, grad_rows, grad_bias_rows = conv_backward(
            grad_bfhw,
            x,
            weight,
            [len(weight)],
            *ctx.how,
            [wants_x, wants_weight and not sliced, wants_bias and not sliced],
        )
        if sliced:
            rows = (
                grad_bfhw.permute(0, 2, 3, 1).index_select(3, keep).permute(0, 3, 1, 2)
            )  # (B, rows, h, w)
            # of the weight only the shape matters here: any n rows will do, and a slice costs
            # nothing
            _, grad_rows, grad_bias_rows = conv_backward(
                rows, x, weight[:n], [n], *ctx.how, [False, True, wants_bias]
            )
        else:
            grad_rows = take(grad_rows, keep) if wants_weight else None
            grad_bias_rows = grad_bias_rows[keep] if wants_bias else None
        grad_weight = grad_bias = None
        # widened to the parameter's precision here, where it is rows only
        if wants_weight:
            grad_weight = torch.zeros_like(weight, dtype=ctx.weight_dtype)
            grad_weight = put(grad_weight, keep, grad_rows.to(ctx.weight_dtype))
        if wants_bias:
            grad_bias = weight.new_zeros(len(weight), dtype=ctx.weight_dtype)
            grad_bias = grad_bias.index_copy_(0, keep, grad_bias_rows.to(ctx.weight_dtype))
        return grad_x, grad_weight, grad_bias, *[None] * 5


def _padded(conv: nn.Conv2d, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """x with all padded on that a convolution cannot be told in two numbers (a padding mode, an
    uneven "same"), and the zero padding left to do."""
    if conv.padding_mode == "zeros" and not isinstance(conv.padding, str):
        return x, conv.padding
    sides = left, right, top, bottom = conv._reversed_padding_repeated_twice
    if conv.padding_mode != "zeros":
        return F.pad(x, sides, mode=conv.padding_mode), (0, 0)
    if left == right and top == bottom:
        return x, (top, left)
    return F.pad(x, sides), (0, 0)


class _Held:
    """What a layer with frozen filters is inside the block: its own class with this before it.

    _rows: which filters; _switched_off: names of the parameters whose requires_grad the block took
    away. A copy made inside, by `copy` or pickle, is a plain layer of the own class: it computes
    with its own weights and trains freely."""

    _own: type[nn.Module]

    def __deepcopy__(self, memo):
        held, ours = type(self), {name: vars(self).pop(name) for name in OURS}
        self.__class__ = held._own
        try:
            twin = copy.deepcopy(self, memo)
        finally:
            self.__class__ = held
            vars(self).update(ours)
        for name in self._switched_off:
            twin._parameters[name].requires_grad_(True)
        return twin

    def __reduce_ex__(self, protocol):
        _, _, state, *rest = super().__reduce_ex__(protocol)
        free = {k: nn.Parameter(self._parameters[k].data) for k in self._switched_off}
        state = {k: v for k, v in state.items() if k not in OURS}
        state["_parameters"] = {**state["_parameters"], **free}
        return object.__new__, (self._own,), state, *rest


class _HeldConv(_Held):
    def forward(self, x: Tensor) -> Tensor:
        rows, weight, bias = self._rows, self.weight, self.bias
        if not len(rows.free):  # no gradient, even if requires_grad was switched on again
            return self._conv_forward(x, weight.detach(), None if bias is None else bias.detach())
        if x.ndim == 3:
            return self.forward(x.unsqueeze(0)).squeeze(0)
        x, padding = _padded(self, x)
        how = (self.stride, padding, self.dilation, self.groups)
        return _RowsConv.apply(x, weight, bias, rows.on(x.device).free, *how)


class _HeldNorm(_Held):
    """Batch norm, except that in training mode masked channels use (and keep) their running
    statistics."""

    def forward(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        mask = self._rows.on(x.device).mask
        mean, var, weight, bias = self.running_mean, self.running_var, self.weight, self.bias
        still = [None if p is None else p.detach() for p in (weight, bias)]  # affine of the masked
        if not self.training:
            if torch.is_grad_enabled():
                weight, bias = (
                    None if p is None else torch.where(mask, fixed, p)
                    for p, fixed in zip((weight, bias), still)
                )
            return F.batch_norm(x, mean, var, weight, bias, False, 0.0, self.eps)
        old = mean.clone(), var.clone()  # copies: the graph must not see them change
        new = mean.clone(), var.clone()
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:  # the mean of all batches so far
            momentum = 1.0 / float(self.num_batches_tracked)
        fixed = F.batch_norm(x, *old, *still, False, 0.0, self.eps)
        moving = F.batch_norm(x, *new, weight, bias, True, momentum, self.eps)
        mean.copy_(torch.where(mask, old[0], new[0]))
        var.copy_(torch.where(mask, old[1], new[1]))
        return torch.where(mask.view(1, -1, 1, 1), fixed, moving)


@functools.cache
def _held_class(own: type[nn.Module], way: type[_Held]) -> type[_Held]:
    return type(f"Held{own.__name__}", (way, own), {"_own": own})


def _computes_as(module: nn.Module, base: type[nn.Module]) -> bool:
    """Whether the module's forward pass is that of `base`, and not a subclass's or its own."""
    names = [name for name in ("forward", "_conv_forward") if hasattr(base, name)]
    return all(
        name not in vars(module) and getattr(type(module), name) is getattr(base, name)
        for name in names
    )


def _hold(module: nn.Module, mask: Tensor, undo: ExitStack) -> None:
    """Make the layer hold the filters of `mask`, beside those that a block around this one holds,
    until `undo`."""
    before = type(module), {name: vars(module)[name] for name in OURS if name in vars(module)}
    undo.callback(_let_go, module, *before)
    if not isinstance(module, _Held):
        way = _HeldNorm if isinstance(module, nn.BatchNorm2d) else _HeldConv
        if not _computes_as(module, nn.Conv2d) and way is _HeldConv:
            way = _Held  # its forward pass stays its own
        module.__class__ = _held_class(type(module), way)
        module._switched_off = frozenset()
    else:
        mask = mask | module._rows.mask.to(mask.device)
    module._rows = Rows(mask)


def _let_go(module: nn.Module, kind: type[nn.Module], ours: dict) -> None:
    for name in OURS:
        vars(module).pop(name, None)
    vars(module).update(ours)
    module.__class__ = kind


def _hold_gradients(model: nn.Module, places: Places, undo: ExitStack) -> None:
    """No gradient for what is frozen: none at all for a parameter frozen whole, so that every
    optimiser passes it over and nothing below is computed for it; else zero in frozen rows, where
    the layer's own forward pass does not see to it."""
    uses = Counter(p for m in model.modules() for p in m._parameters.values())
    for (module, name), rows in places.items():
        p = module._parameters[name]
        if p.requires_grad and (uses[p] > 1 or not isinstance(module, (_HeldConv, _HeldNorm))):
            undo.callback(
                p.register_hook(
                    lambda g, rows=rows: g.index_fill(0, rows.on(g.device).still, 0)
                ).remove
            )
        if not len(rows.free):
            if p.requires_grad:
                module._switched_off |= {name}
            undo.callback(_give_back, p, p.requires_grad, p.grad)
            p.requires_grad_(False).grad = None


def _give_back(p: nn.Parameter, requires_grad: bool, grad: Tensor | None) -> None:
    p.requires_grad_(requires_grad)
    p.grad = None if grad is None else grad.to(p)  # p may have another dtype by now


# --- the block ------------------------------------------------------------------------------------


def _layers(model: nn.Module, masks: Masks, scope: str) -> dict[nn.Module, Tensor]:
    """Every layer that has something to hold -> mask bool (F,), on its device; refuses what cannot
    be held."""
    if scope not in SCOPES:
        raise ValueError(
            f"scope {scope!r}: expected weights (weight and bias) or filter (batch norm too)"
        )
    convs, norms = conv_layers(model), norm_layers(model) if scope == "filter" else {}
    found: dict[nn.Module, Tensor] = {}
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
        if not mask.any():
            continue
        for module in [convs[layer], *([norms[layer]] if layer in norms else [])]:
            _check_holdable(module, layer, len(mask))
            mask = mask.to(module.weight.device if module.weight is not None else mask.device)
            found[module] = mask | found[module] if module in found else mask.clone()
    return found


def _check_holdable(module: nn.Module, layer: str, filters: int) -> None:
    """Raises ValueError where frozen rows could not be held."""
    what = f"{'convolution' if isinstance(module, nn.Conv2d) else 'batch norm'} of {layer}"
    for name in ("weight", "bias"):
        if getattr(module, name) is not None and module._parameters.get(name) is None:
            raise ValueError(
                f"{what}: its {name} is computed from other parameters (a parametrization, weight "
                "or spectral norm, pruning), expected a parameter of its own: make it one before "
                "frozen(), as remove_parametrizations does"
            )
    if isinstance(module.weight, nn.UninitializedParameter):
        raise ValueError(
            f"{what}: it has no weights yet, expected an initialised layer: run one batch through "
            "the model before frozen()"
        )
    if isinstance(module, nn.Conv2d):
        return
    if module.num_features != filters:
        raise ValueError(
            f"{what}: it has {module.num_features} channels, expected the convolution's {filters}: "
            "use scope weights"
        )
    if module.running_mean is None or not module.track_running_stats:
        raise ValueError(
            f"{what}: it keeps no running statistics, expected some to hold its filters by: use "
            "scope weights, or track_running_stats=True"
        )
    if not isinstance(module, _Held) and not _computes_as(module, nn.BatchNorm2d):
        raise ValueError(
            f"{what}: {type(module).__name__} has a forward pass of its own, expected that of "
            "nn.BatchNorm2d: use scope weights"
        )


def _places(held: Iterable[nn.Module]) -> Places:
    """Which rows of which parameters must not move: those of these layers, and of the blocks around
    this one; what several layers share is held for each of them."""
    places = dict(Guard.working[-1].held) if Guard.working else {}
    for module in held:
        places.update({(module, name): module._rows for name in ("weight", "bias")})
    masks: dict[nn.Parameter, Tensor] = {}
    for (module, name), rows in places.items():
        if (p := module._parameters.get(name)) is not None:
            masks[p] = masks[p] | rows.mask.to(p.device) if p in masks else rows.mask.to(p.device)
    rows_of = {p: Rows(mask) for p, mask in masks.items()}
    return {
        (module, name): rows_of[p]
        for module, name in places
        if (p := module._parameters.get(name)) is not None
    }


@contextmanager
def frozen(model: nn.Module, masks: Masks, scope: str = "weights"):
    """Hold the masked filters bit for bit inside the block, for any torch optimiser; everything is
    undone on exit.

    masks: layer -> bool (F,), True = frozen; layers not named train as ever. scope "weights": a
    filter's weight and bias. "filter": also its batch-norm affine and running statistics, so that
    the filter's own function of its input stays what it was. Frozen rows cost no weight gradient,
    and no optimiser state with torch's optimisers that update each number by itself
    (`lib.rows.BY_ROWS`); layers frozen whole are not back-propagated through below the first
    trainable one. What the others do is what they would do if frozen rows had no gradient and were
    put back after every step.

    `conv_layers(model)` reads full weights inside, and state dictionaries, the optimiser's too,
    have their usual keys and sizes. A block inside a block holds the union. A copy of the model
    made inside is a plain model that trains freely. After the block an optimiser's state of frozen
    rows is 0. Writing to a parameter by hand (not through an optimiser's step) is not guarded
    against. Raises ValueError for an unknown layer or scope, a mask of the wrong length, a layer
    that cannot be held (parametrized or lazy weights; in scope filter a batch norm without running
    statistics or with a forward pass of its own), or a step with a closure by an optimiser of
    BY_ROWS."""
    held = _layers(model, masks, scope)
    with ExitStack() as undo:
        for module, mask in held.items():
            _hold(module, mask, undo)
        places = _places(held)
        _hold_gradients(model, {place: r for place, r in places.items() if place[0] in held}, undo)
        undo.enter_context(Guard(places))
        yield model
