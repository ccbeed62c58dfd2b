"""Whole layers and forgetting blocks, one filter, one image, one pixel at a time."""

import copy

import torch
from torch.nn import functional as F

from lib.data import normalise
from lib.network import conv_layers
from references.saliency import fullgrad_one


def by_parameters(model, which, fraction):
    """Filters in the order of layers, one after the other, as long as one more comes no further
    from the wanted number of parameters. Returns layer -> list of filters."""
    convs = conv_layers(model)
    order = list(convs) if which == "first" else list(convs)[::-1]
    wanted = fraction * sum(p.numel() for conv in convs.values() for p in conv.parameters())
    taken, count = {layer: [] for layer in convs}, 0
    for layer in order:
        for number in range(convs[layer].out_channels):
            each = sum(p[number].numel() for p in convs[layer].parameters())
            if abs(count + each - wanted) > abs(count - wanted):
                return taken
            taken[layer].append(number)
            count += each
    return taken


def iou(a, b):
    """Two masks as sets of pixels."""
    a, b = ({(y, x) for y, row in enumerate(m) for x, v in enumerate(row) if v} for m in (a, b))
    return len(a & b) / len(a | b) if a | b else 1.0


def repeated(m, size):
    """A small mask (list of rows) made `size` pixels wide by repeating its pixels."""
    times = size // len(m)
    return [[m[y // times][x // times] for x in range(size)] for y in range(size)]


def overlap(was, now, thing):
    """One image, one block: channels of the old and new network, the object (lists of rows)."""
    best = max(range(len(was)), key=lambda c: (iou(repeated(was[c], len(thing)), thing), -c))
    return max(iou(channel, was[best]) for channel in now)


def forgetting_block(overlaps):
    """Rows of overlaps, one an image."""
    votes = [0] * len(overlaps[0])
    for row in overlaps:
        drops = [(row[b - 1] if b else 1.0) - row[b] for b in range(len(row))]
        votes[drops.index(max(drops))] += 1
    return votes.index(max(votes))


def thing(model, image, output):
    """Where one image's FullGrad map for that output exceeds its mean (list of rows)."""
    rows = fullgrad_one(model, image, output).tolist()
    mean = sum(map(sum, rows)) / sum(map(len, rows))
    return [[v > mean for v in row] for row in rows]


@torch.no_grad()
def blocks_positive(model, image):
    """One image through a VGG, layer after layer: where each channel (list of rows) is positive as
    each pooling takes it in. What a ReLU lets through is what was positive before it."""
    x, found = image, []
    for layer in model.features:
        if isinstance(layer, torch.nn.MaxPool2d):
            found.append((x[0] > 0).tolist())
        x = layer(x)
    return found


def train(model, task, recipe, held):
    """Full-batch SGD with momentum on un-augmented images, one step an epoch, of all but the
    convolutions named in `held`; their batch norm goes on learning."""
    still = {p for layer in held for p in conv_layers(model)[layer].parameters()}
    x, velocity = normalise(task.x, task, next(model.parameters()).dtype), {}
    model.train()
    for _ in range(recipe.epochs):
        loss = F.cross_entropy(model(x)[:, task.outputs], task.y)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for p, g in zip(model.parameters(), gradients):
                velocity[p] = recipe.momentum * velocity.get(p, 0) + g + recipe.weight_decay * p
                if p not in still:
                    p -= recipe.lr * velocity[p]


def nguyen(model, tasks, recipe, picks, variant):
    """Rounds 2, 3, ... of a VGG that knows task 1 (Nguyen et al. 2020 and 2022), in place.

    picks: for each task, the numbers of its voting images. variant: "critical" holds every block up
    to the forgetting one, "fragile" that one alone. Yields of each round: the images' objects,
    their overlaps (rows, one an image), the forgetting block (1, 2, ...), and what is held (names
    of convolutions)."""
    held, dtype = set(), next(model.parameters()).dtype
    for old, new, numbers in zip(tasks, tasks[1:], picks):
        trial = copy.deepcopy(model)
        train(trial, new, recipe, held)
        model.eval(), trial.eval()
        things, overlaps = [], []
        for n in numbers:
            image = normalise(old.x[n : n + 1], old, dtype)
            things.append(thing(model, image, old.first_output + int(old.y[n])))
            both = zip(blocks_positive(model, image), blocks_positive(trial, image))
            overlaps.append([overlap(was, now, things[-1]) for was, now in both])
        chosen = forgetting_block(overlaps) + 1
        named = range(1, chosen + 1) if variant == "critical" else [chosen]
        held |= {name for name in conv_layers(model) if int(name[len("conv")]) in named}
        yield things, overlaps, chosen, set(held)
        train(model, new, recipe, held)
