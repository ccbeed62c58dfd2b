"""Rows of parameters held still while optimisers step.

    held = {(conv, "weight"): Rows(mask)}                # mask bool (F,), True = held
    with Guard(held):
        ...                                              # any loop, with any torch optimiser

This room knows parameters and optimisers; why a row is held is no business of its own.
"""

import weakref
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

# Optimisers that update each number by its own gradient and state alone, so that a step on some
# rows does to them what a step on all does. A subclass may do otherwise and is not meant.
BY_ROWS = (
    optim.SGD,
    optim.Adam,
    optim.AdamW,
    optim.NAdam,
    optim.RAdam,
    optim.Adamax,
    optim.Adagrad,
    optim.Adadelta,
    optim.RMSprop,
    optim.Rprop,
    optim.ASGD,
)


Places = dict[tuple[nn.Module, str], "Rows"]  # (module, name of its parameter) -> rows


class Rows:
    """A mask bool (F,), True = held, and the same as row numbers, int64: `free` and `still`."""

    def __init__(self, mask: Tensor):
        self.mask = mask
        self.free, self.still = ((~mask).nonzero().squeeze(1), mask.nonzero().squeeze(1))

    def on(self, device: torch.device) -> "Rows":
        """The same on `device`: itself, unless the parameter was moved to another."""
        return self if self.mask.device == device else Rows(self.mask.to(device))


def take(t: Tensor, rows: Tensor) -> Tensor:
    """t[rows], kept in t's memory format: index_select alone would rearrange a channels_last
    tensor."""
    if t.ndim == 4 and t.is_contiguous(memory_format=torch.channels_last):
        return t.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)
    return t.index_select(0, rows)


def put(t: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """t[rows] = values, in place, along t's memory format; returns t."""
    if t.ndim == 4 and t.is_contiguous(memory_format=torch.channels_last):
        t.permute(0, 2, 3, 1).index_copy_(0, rows, values.permute(0, 2, 3, 1))
        return t
    return t.index_copy_(0, rows, values)


def _whole_state(p: Tensor, rows: Rows, state: dict[str, Any]) -> dict[str, Any]:
    """An optimiser's state of p at full size: what was kept for the free rows, and 0 for the held
    ones."""

    def whole(value):
        narrow = (len(rows.free), *p.shape[1:])
        if not isinstance(value, Tensor) or value.shape != narrow or value.shape == p.shape:
            return value
        full = torch.zeros_like(p, dtype=value.dtype, device=value.device, requires_grad=False)
        return put(full, rows.on(value.device).free, value)

    return {name: whole(value) for name, value in state.items()}


class _Narrowed:
    """A parameter that is, until `end`, its free rows and nothing else: data, gradient, and the
    optimiser's state.

    Whatever the optimiser does meanwhile (momentum left from before, weight decay, a fused kernel),
    it cannot reach a held row, and keeps no state for one."""

    def __init__(self, p: nn.Parameter, rows: Rows, optimiser: optim.Optimizer):
        self.p, self.rows, self.data, self.grad = p, rows.on(p.device), p.data, p.grad
        p.grad = None  # all an optimiser needs to pass it over
        if not len(rows.free):
            return
        p.data = take(self.data, rows.free)
        p.grad = take(self.grad, rows.free)
        state = optimiser.state.get(p, {})
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == self.data.shape:
                state[name] = take(value, rows.free)

    def end(self) -> None:
        kept = not len(self.rows.free) or self.p.grad is not None  # the step itself may drop it
        if len(self.rows.free):
            put(self.data, self.rows.free, self.p.data)
            self.p.grad = None
            self.p.data = self.data
        self.p.grad = self.grad if kept else None


class _Remembered:
    """A parameter of full size whose held rows are put back by `end`: for an optimiser that looks
    at more than one number at a time, such as the mean square of a layer."""

    def __init__(self, p: nn.Parameter, rows: Rows):
        self.p, self.rows = p, rows.on(p.device)
        self.held = take(p.data, self.rows.still)

    def end(self) -> None:
        put(self.p.data, self.rows.still, self.held.to(self.p.data))


class Guard:
    """Holds rows bit for bit through every optimiser's step, while entered; a guard entered inside
    another holds the other's rows too, and the other rests meanwhile.

    held: (module, name of its parameter) -> Rows. It is looked up anew in every step, so that a
    parameter put in another's place is held as well. Between steps parameters have full size;
    optimiser state does not, but `state_dict()` gives it at full size (0 in held rows), and so it
    stays on leaving."""

    working: list["Guard"] = []  # the innermost last: it alone acts

    def __init__(self, held: Places):
        self.held = held
        self.open: dict[optim.Optimizer, list] = {}  # steps under way: what they must end
        self.depth: dict[optim.Optimizer, int] = {}  # of steps called within their own step
        self.seen: weakref.WeakSet = weakref.WeakSet()
        self.hooks: list[Any] = []

    def __enter__(self) -> "Guard":
        if Guard.working:
            Guard.working[-1]._rest()
        Guard.working.append(self)
        self._work()
        return self

    def __exit__(self, *_) -> None:
        self._rest()
        innermost = Guard.working[-1] is self
        Guard.working.remove(self)
        if innermost and Guard.working:
            Guard.working[-1]._work()

    def _work(self) -> None:
        self.hooks = [
            # never traced: a compiled step must see each parameter as these leave it
            register_optimizer_step_pre_hook(torch.compiler.disable(self._before)),
            register_optimizer_step_post_hook(torch.compiler.disable(self._after)),
        ]

    def _rest(self) -> None:
        """Nothing left behind: no hook, no step half done (an error may have ended it), optimiser
        state at full size."""
        for hook in self.hooks:
            hook.remove()
        for optimiser in list(self.open):
            self._end(optimiser)
        for optimiser in self.seen:
            for p, rows in self._held_by(optimiser).items():
                if p in optimiser.state:
                    optimiser.state[p].update(_whole_state(p, rows, optimiser.state[p]))
        self.seen.clear()

    def _held_by(self, optimiser: optim.Optimizer) -> dict[nn.Parameter, Rows]:
        rows = {id(module._parameters.get(name)): r for (module, name), r in self.held.items()}
        params = [p for group in optimiser.param_groups for p in group["params"]]
        return {p: rows[id(p)] for p in params if id(p) in rows}

    def _before(self, optimiser: optim.Optimizer, args: tuple, kwargs: dict) -> None:
        if type(optimiser) in BY_ROWS:
            self._end(optimiser)  # of a step that an error ended
            # args[0] is the optimiser itself
            given = (*args[1:], kwargs.get("closure"))
            self._narrow(optimiser, closure=any(a is not None for a in given))
            return
        if optimiser not in self.open:
            parts = [_Remembered(p, rows) for p, rows in self._held_by(optimiser).items()]
            self.open[optimiser] = parts
        self.depth[optimiser] = self.depth.get(optimiser, 0) + 1

    def _after(self, optimiser: optim.Optimizer, args: tuple, kwargs: dict) -> None:
        self.depth[optimiser] = self.depth.get(optimiser, 1) - 1
        if not self.depth[optimiser]:  # else called by a step of the same optimiser, which goes on
            self._end(optimiser)

    def _narrow(self, optimiser: optim.Optimizer, closure: bool) -> None:
        if closure:
            raise ValueError(
                f"{type(optimiser).__name__}.step(closure) inside frozen(): a closure makes its "
                "gradients after the frozen rows were put out of reach; call loss.backward() "
                "first, then step() without one"
            )
        if optimiser not in self.seen:
            self.seen.add(optimiser)
            self.hooks.append(optimiser.register_state_dict_post_hook(self._save_whole))
        parts = self.open[optimiser] = []
        for p, rows in self._held_by(optimiser).items():
            if p.grad is not None:
                parts.append(_Narrowed(p, rows, optimiser))

    def _end(self, optimiser: optim.Optimizer) -> None:
        self.depth.pop(optimiser, None)
        for part in self.open.pop(optimiser, []):
            part.end()

    def _save_whole(self, optimiser: optim.Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
        """Hook of state_dict: as `_rest` leaves the state, without touching it."""
        rows = self._held_by(optimiser)
        for group, names in zip(optimiser.param_groups, saved["param_groups"]):
            for p, number in zip(group["params"], names["params"]):
                if p in rows and number in saved["state"]:
                    saved["state"][number] = _whole_state(p, rows[p], saved["state"][number])
        return saved
