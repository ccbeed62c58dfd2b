"""Freezing that asks no ranking: the first or last layers, all but a part of the network, and the
blocks in which forgetting is seen.

    METHODS["freeze_layers"](which="first", fraction=0.5)    # half of the convolutions' parameters
    METHODS["only"](part="head")                             # everything else stands still
    METHODS["nguyen"](variant="critical")                    # up to the block that forgets
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.data import Task, normalise
from lib.freezing import SCOPES, Masks
from lib.hooks import activations, evaluation, out_of_place
from lib.methods.freeze import Hold
from lib.methods.options import check_choice, check_count, check_number
from lib.methods.registry import method
from lib.network import conv_layers, norm_layers
from lib.saliency import fullgrad
from lib.seeds import seed_of
from lib.training import fit

# --- what holds a part of a network still ---------------------------------------------------------


@contextmanager
def still(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Inside, the parameters ask for no gradient and every optimiser passes them over; afterwards
    they are as before, their gradients too."""
    before = [(p, p.requires_grad, p.grad) for p in parameters]
    for p, _, _ in before:
        p.requires_grad_(False).grad = None
    try:
        yield
    finally:
        for p, wanted, grad in before:
            p.requires_grad_(wanted).grad = grad


@contextmanager
def still_norms(model: nn.Module) -> Iterator[None]:
    """Inside, batch norm works in evaluation mode, whatever mode the model is put in: running
    statistics neither move nor give way to the batch's. Its affine parameters are not meant."""

    def to_evaluation(norm: nn.Module, _inputs: tuple) -> None:
        norm.training = False

    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    handles = [norm.register_forward_pre_hook(to_evaluation) for norm in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for norm in norms:
            norm.training = model.training


def shared_layers(model: nn.Module, tasks: Sequence[Task]) -> dict[str, nn.Module]:
    """Every convolution and linear layer by its full name, less the output layer where each task
    has outputs of its own there: what tasks have to share. ValueError if no layer is linear."""
    found = {name: m for name, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    starts = [task.first_output for task in tasks]
    if len(set(starts)) == len(starts):  # the output layer is the last linear one
        linear = [name for name, m in found.items() if isinstance(m, nn.Linear)]
        if not linear:
            raise ValueError("a network without a linear layer: expected one as the tasks' heads")
        del found[linear[-1]]
    return found


def all_but_weights(model: nn.Module, shared: Mapping[str, nn.Module]) -> list[nn.Parameter]:
    """Biases and batch norm: every parameter but the weights of the layers that tasks share and an
    output layer that they do not."""
    heads = [
        m for name, m in model.named_modules() if isinstance(m, nn.Linear) and name not in shared
    ]
    others = {m.weight for m in shared.values()} | {p for m in heads for p in m.parameters()}
    return [p for p in model.parameters() if p not in others]


def some_images(task: Task, count: int, seed: int, use: str) -> Tensor:
    """int64 (count,) or fewer: training images drawn at random, fixed by (seed, task name, use)."""
    draw = torch.Generator().manual_seed(seed_of(seed, task.name, use))
    return torch.randperm(len(task.x), generator=draw)[:count].to(task.x.device)


# --- the first or the last layers -----------------------------------------------------------------


@method("first or last layers", name="freeze_layers")
@dataclass
class FreezeLayers(Hold):
    """Freeze the first or the last convolutions, whole: the oldest practice of transfer (Yosinski
    et al. 2014, section 2: the first n layers of a trained network are kept and frozen, the rest is
    trained on the new task), and the control for any choice of filters.

    Departs from the paper: the layers above go on from where they are, not from random weights; the
    last layers instead of the first and part of a layer are ours. Stores nothing between tasks; the
    same layers are frozen in every round.

    which: "first" or "last". Either count, whole convolutions, at least 0; or fraction in [0, 1] of
    the parameters (weights and biases) of all convolutions: as many whole layers as fit, then of
    the next one as many filters (the lowest numbers) as bring the count within half a filter of
    that. It is then as many parameters as an arm freezes that takes this fraction of each layer's
    filters. `realised` in a row is of filters: more than the fraction for the first layers, less
    for the last. scope: "weights", or "filter" (batch norm too). Raises ValueError for options
    outside these, and before the round for a count larger than the network's.
    """

    which: str
    count: int | None = None
    fraction: float | None = None
    scope: str = "weights"

    def __post_init__(self):
        check_choice("scope", self.scope, SCOPES)
        check_choice("which", self.which, ("first", "last"))
        if (self.count is None) == (self.fraction is None):
            raise ValueError(
                f"count {self.count!r}, fraction {self.fraction!r}: expected one of the two"
            )
        check_count("count", self.count, low=0, or_none=True)
        if self.fraction is not None:
            means = "parameters frozen / parameters of all convolutions"
            check_number("fraction", self.fraction, high=1, means=means)
        self.label = f"{self.which} layers"  # two series in a figure

    def fits(self, model, tasks, recipe):
        there = len(conv_layers(model))
        if self.count is not None and self.count > there:
            raise ValueError(
                f"count {self.count}: expected no more than the {there} convolutions of the network"
            )

    def before(self, model, task, context):
        self.fits(model, context.tasks, context.recipe)
        if not self.none_free(context):
            self.rounds.append((context.round, self._chosen(conv_layers(model))))

    def _chosen(self, convs: Mapping[str, nn.Conv2d]) -> Masks:
        if self.count is None:
            return by_parameters(convs, self.which, self.fraction)
        chosen = list(convs)[: self.count]
        if self.which == "last":
            chosen = list(convs)[len(convs) - self.count :]
        return whole(convs, chosen)


def whole(convs: Mapping[str, nn.Conv2d], chosen: Iterable[str]) -> Masks:
    """Masks of all layers, all True for the chosen ones and all False for the others."""
    chosen = set(chosen)
    return {
        layer: torch.full((conv.out_channels,), layer in chosen) for layer, conv in convs.items()
    }


def filter_parameters(conv: nn.Conv2d) -> int:
    """Weights and bias of one filter."""
    return conv.weight[0].numel() + (conv.bias is not None)


def by_parameters(convs: Mapping[str, nn.Conv2d], which: str, fraction: float) -> Masks:
    """Masks of all layers that freeze, from the first (or last) layer on, filters with that
    fraction of all layers' parameters, to within half a filter of the layer it ends in."""
    left = fraction * sum(conv.out_channels * filter_parameters(conv) for conv in convs.values())
    masks = whole(convs, ())
    for layer in list(convs) if which == "first" else reversed(convs):
        filters, each = convs[layer].out_channels, filter_parameters(convs[layer])
        count = min(max(int(left / each + 0.5), 0), filters)
        masks[layer][:count] = True
        left -= count * each
        if count < filters:
            break
    return masks


# --- one part alone -------------------------------------------------------------------------------

PARTS = {  # option -> what trains
    "head": {"head"},
    "norm": {"norm"},
    "all but head": {"convolutions", "norm"},
    "all but norm": {"convolutions", "head"},
}


@method("one part alone", name="only")
@dataclass
class Only(Hold):
    """Train one part of the network alone, or all but one: which part carries learning, and which
    forgetting? The head alone is a linear probe (Alain & Bengio 2016) where the head is one layer;
    batch norm alone, its gamma and beta, is what Frankle et al. (2021) train. All but one of them
    is ours.

    Departs: from the weights that task 1 left, where Frankle et al. start from random ones; the
    probe is of the last features alone, where Alain & Bengio probe every layer. Stores nothing
    between tasks.

    part: "head", "norm", "all but head" or "all but norm". The head is every parameter that belongs
    neither to a convolution nor to batch norm. Batch norm that does not train works in evaluation
    mode, so that its statistics stand still too. Raises ValueError for another part, and before the
    round where there is no batch norm to speak of.
    """

    part: str

    def __post_init__(self):
        check_choice("part", self.part, tuple(PARTS))
        self.label = self.part if self.part.startswith("all") else f"{self.part} alone"

    def fits(self, model, tasks, recipe):
        if "norm" in self.part and not norm_layers(model):
            raise ValueError(f"part {self.part!r}: expected a network with batch norm")

    def before(self, model, task, context):
        self.fits(model, context.tasks, context.recipe)
        convs = conv_layers(model)
        held = {} if "convolutions" in PARTS[self.part] else whole(convs, convs)
        self.rounds.append((context.round, held))

    @contextmanager
    def during(self, model):
        trains, groups = PARTS[self.part], _parts(model)
        with ExitStack() as held:
            held.enter_context(super().during(model))  # convolutions
            for part in {"norm", "head"} - trains:
                held.enter_context(still(groups[part]))
            if "norm" not in trains:
                held.enter_context(still_norms(model))
            yield


def _parts(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Parameters of batch norm, and of all that is neither convolution nor batch norm."""
    modules = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))]
    taken = {p for m in modules for p in m.parameters()}
    norms = [p for m in modules if isinstance(m, nn.BatchNorm2d) for p in m.parameters()]
    return {"norm": norms, "head": [p for p in model.parameters() if p not in taken]}


# --- the blocks in which forgetting is seen -------------------------------------------------------


@method("Nguyen", keeps="images", name="nguyen")
@dataclass
class Nguyen(Hold):
    """Freeze where forgetting is seen: Nguyen et al. 2020 (arXiv 2005.01004) and the thesis of 2022
    (2211.14177): the block is what their Catastrophic Forgetting Dissector looks for, to freeze by
    it their Critical Freezing.

    A trial fine-tuning (of a copy; same seed, batches and recipe as the round) shows what would be
    forgotten. For each of some images of the task learned last and each block: of the network as it
    is, the channel whose positive part best overlaps the object (intersection / union); of the
    fine-tuned copy, the best overlap of any channel with that channel's. The forgetting block has
    the largest drop of this overlap from the block before it; images vote (see `forgetting_block`).
    "critical" (2022) freezes all blocks up to it, "fragile" (2020) it alone; filters' weights and
    biases, or by scope "filter" their batch norm too. Blocks frozen in earlier rounds stay frozen,
    in the trial too. Costs a second round of training.

    Departures, since the papers segment and caption large images and their code fixes by hand what
    is frozen: the object is where the FullGrad map of the image's own class exceeds its mean
    (CIFAR-100 has no object masks); a block is a run of convolutions with maps of one size, which
    are VGG's five, and is seen at its last convolution (after its batch norm, before any addition
    of a residual network); maps are brought to the image's size by repetition; the first block's
    drop is taken from 1, since both networks see the same image (the authors' code never names the
    first); of blocks with as large a drop, or as many votes, the earlier one is meant (their code
    names them all); a dead channel is kept where the copy has one too (see `iou`).

    Over more than two tasks each round has voting images of the task learned last. A round that
    finds no free filter trains no trial and asks for no votes, and says so once.

    variant: "critical" or "fragile"; images: how many vote, at least 1, drawn at random from the
    old task's training images: these are what is stored between tasks, until the trial of the next
    one is done. Raises ValueError for other options, and before the round for a network whose maps
    never change size.
    """

    variant: str = "critical"
    images: int = 20
    scope: str = "weights"
    rows: list[dict] = field(default_factory=list, repr=False, init=False)

    def __post_init__(self):
        check_choice("scope", self.scope, SCOPES)
        check_choice("variant", self.variant, ("critical", "fragile"))
        check_count("images", self.images)
        self.label = f"Nguyen, {self.variant}"

    def before(self, model, task, context):
        self.fits(model, context.tasks, context.recipe)
        if self.none_free(context):  # nothing to vote for: no trial
            return
        x, objects = self._images(model, context)
        old_maps = positive_maps(model, x)
        blocks = blocks_of(old_maps)
        trial = copy.deepcopy(model)
        fit(trial, task, context.recipe, self, context.seed)  # holds what earlier rounds froze
        overlaps = block_overlaps(old_maps, positive_maps(trial, x), objects)
        chosen = forgetting_block(overlaps)
        first = 0 if self.variant == "critical" else chosen
        layers = [layer for block in blocks[first : chosen + 1] for layer in block]
        held = [layer for layer, mask in self.masks.items() if mask.all()]
        masks = whole(conv_layers(model), [*held, *layers])
        self.rounds.append((context.round, masks))
        self._write_down(context.round, blocks, overlaps)

    def fits(self, model, tasks, recipe):
        one = normalise(tasks[0].x[:1], tasks[0], next(model.parameters()).dtype)
        if len(blocks_of(positive_maps(model, one))) < 2:
            raise ValueError("the network's maps all have one size: expected blocks to compare")

    def _images(self, model: nn.Module, context) -> tuple[Tensor, Tensor]:
        """Images (N, 3, H, W) of the task learned last, and where their objects are: bool (N, H,
        W)."""
        old = context.tasks[context.round - 2]
        pick = some_images(old, self.images, context.seed, "voting images")
        x = normalise(old.x[pick], old, next(model.parameters()).dtype)
        maps = fullgrad(model, x, old.y[pick] + old.first_output)
        return x, maps > maps.mean((1, 2), keepdim=True)

    def _write_down(self, number: int, blocks: list[list[str]], overlaps_nb: Tensor) -> None:
        votes = torch.bincount(_votes(overlaps_nb), minlength=len(blocks)).tolist()
        for block, layers in enumerate(blocks):
            mean = float(overlaps_nb[:, block].mean())
            row = {"round": number, "block": block + 1, "layers": " ".join(layers)}
            self.rows.append({**row, "overlap": mean, "votes": votes[block]})

    def records(self):
        return {**super().records(), "votes": self.rows}


def _votes(overlaps_nb: Tensor) -> Tensor:
    """int64 (N,): each image's block with the largest drop from the block before it."""
    before = torch.cat([torch.ones_like(overlaps_nb[:, :1]), overlaps_nb[:, :-1]], 1)
    return (before - overlaps_nb).argmax(1)


def forgetting_block(overlaps_nb: Tensor) -> int:
    """The block (0, 1, ...) that most images name as the one with the largest drop of overlap from
    the block before it, the first block's drop being from 1. overlaps: (N, blocks) in [0, 1]. Ties
    go to the earlier block."""
    return int(torch.bincount(_votes(overlaps_nb), minlength=overlaps_nb.shape[1]).argmax())


def blocks_of(maps: Mapping[str, Tensor]) -> list[list[str]]:
    """Runs of layers whose maps (..., h, w) have one size."""
    return [list(run) for _, run in groupby(maps, key=lambda layer: maps[layer].shape[-2:])]


@torch.no_grad()
def positive_maps(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Where every channel of every convolution is positive, after its batch norm, in evaluation
    mode: layer -> bool (N, C, h, w). The model's mode is put back."""
    norms = norm_layers(model)
    seen_at = {layer: norms.get(layer, conv) for layer, conv in conv_layers(model).items()}
    with evaluation(model), out_of_place(model), activations(seen_at) as seen:
        model(x)
    return {layer: seen[layer] > 0 for layer in seen_at}


def iou(a_nchw: Tensor, b_nchw: Tensor) -> Tensor:
    """(N, C): intersection / union of masks bool (N, C, h, w).

    1 where both are empty, by our choice: a channel that was dead and has a dead one to match it
    counts as kept, so that no forgetting is seen in it. (In the code of Nguyen et al. 0 / 0 is no
    number and never the best.) It matters for an image of which no channel of a block touches the
    object."""
    both, either = (op(a_nchw, b_nchw).sum((2, 3)) for op in (torch.logical_and, torch.logical_or))
    return torch.where(either > 0, both / either.clamp_min(1), torch.ones_like(both / 1))


def block_overlaps(
    old: Mapping[str, Tensor], new: Mapping[str, Tensor], objects_nhw: Tensor
) -> Tensor:
    """(N, blocks) in [0, 1]: in each block's last layer, the old network's channel that best
    overlaps the object is the one to keep; the best overlap of any of the new network's channels
    with it. old, new: layer -> bool (N, C, h, w); objects: bool (N, H, W)."""
    size, every = objects_nhw.shape[-2:], torch.arange(len(objects_nhw))
    columns = []
    for layers in blocks_of(old):
        was, now = old[layers[-1]], new[layers[-1]]
        large = F.interpolate(was.float(), size=size) > 0  # (N, C, H, W), by repetition
        best = iou(large, objects_nhw[:, None]).argmax(1)  # (N,)
        columns.append(iou(now, was[every, best][:, None]).amax(1))
    return torch.stack(columns, 1).cpu()
