"""Gradient projection memory, one patch and one direction at a time."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


def patches(layer, x):
    """Every place of every image, the patch cut out of the padded image by hand: (n, D)."""
    if isinstance(layer, nn.Linear):
        return np.stack([row.numpy() for row in x])
    (kh, kw), (sh, sw), (dh, dw), (ph, pw) = (
        layer.kernel_size,
        layer.stride,
        layer.dilation,
        layer.padding,
    )
    rows, each = [], x.shape[1] // layer.groups
    for image in F.pad(x, (pw, pw, ph, ph)).numpy():
        for y in range(0, image.shape[1] - dh * (kh - 1), sh):
            for z in range(0, image.shape[2] - dw * (kw - 1), sw):
                piece = image[:, y : y + dh * kh : dh, z : z + dw * kw : dw]
                for group in range(layer.groups):
                    rows.append(piece[group * each : (group + 1) * each].reshape(-1))
    return np.stack(rows)


def inputs(model, name, x):
    """What a layer sees of images x in evaluation mode."""
    seen, was_training = [], model.training
    handle = model.get_submodule(name).register_forward_pre_hook(lambda m, i: seen.append(i[0]))
    with torch.no_grad():
        model.eval()(x)
    model.train(was_training)
    handle.remove()
    return seen[0]


def space(rows, threshold, scaled, old=()):
    """old and the result: a list of [vector (D,), strength]. The new rows (n, D)."""
    new_on_old = [float(np.sqrt(sum((row @ u) ** 2 for row in rows))) for u, _ in old]
    rest = rows - sum((np.outer(rows @ u, u) for u, _ in old), np.zeros_like(rows))
    _, sigma, vectors = np.linalg.svd(rest, full_matrices=False)
    total, held, added = float((rows**2).sum()), sum(size**2 for size in new_on_old), []
    for size, vector in zip(sigma, vectors):
        if held >= threshold * total:
            break
        held += size**2
        added.append((float(size), vector))
    sizes = [*new_on_old, *(size for size, _ in added)]
    strengths = [11 * s / (10 * s + max(sizes)) if scaled else 1.0 for s in sizes]
    for i, (_, before) in enumerate(old):
        strengths[i] = min(1.0, strengths[i] + before)
    return list(zip([*(u for u, _ in old), *(v for _, v in added)], strengths))


def projected(update, kept):
    """Each row (a filter's update) less its part along each kept vector."""
    rows = update.flatten(1).numpy().copy()
    for i, row in enumerate(rows):
        rows[i] = row - sum((s * (row @ u) * u for u, s in kept), np.zeros_like(row))
    return torch.from_numpy(rows).view(update.shape)


def train(model, batches, outputs, lr, momentum, spaces):
    """SGD on given batches from rest, in evaluation mode. The *update* of a layer's weight is
    projected, momentum's sum being of plain gradients; of the rest a head without a space moves."""
    model.eval()
    velocity = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for x, y in batches:
        model.zero_grad()
        F.cross_entropy(model(x)[:, outputs], y).backward()
        for name, p in model.named_parameters():
            layer, _, part = name.rpartition(".")
            velocity[name] = momentum * velocity[name] + p.grad
            if layer in spaces and part == "weight":
                p.data = p.data - lr * projected(velocity[name], spaces[layer])
            elif layer == "head" and layer not in spaces:
                p.data = p.data - lr * velocity[name]
