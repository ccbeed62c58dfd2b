"""PackNet with every weight written out: prune by sorting a list, train by hand."""

import torch
from torch import nn
from torch.nn import functional as F


def prune(weights, owners, share, number):
    """Two lists. Of the free weights (owner 0) the largest become task `number`'s; the smallest
    `share` of them, rounded down, become zero."""
    free = [i for i, owner in enumerate(owners) if owner == 0]
    gone = set(sorted(free, key=lambda i: (abs(weights[i]), i))[: int(share * len(free))])
    weights = [0.0 if i in gone else w for i, w in enumerate(weights)]
    owners = [number if i in free and i not in gone else o for i, o in enumerate(owners)]
    return weights, owners


def prune_network(model, owners, share, number):
    """In place; owners: layer -> list, one for each weight."""
    for name, old in owners.items():
        weight = model.get_submodule(name).weight
        pruned, owners[name] = prune(weight.detach().flatten().tolist(), old, share, number)
        with torch.no_grad():
            weight.copy_(torch.tensor(pruned, dtype=weight.dtype).view(weight.shape))


def train(model, batches, outputs, lr, momentum, owners, owner, everything):
    """SGD on given batches from rest. Packed weights move if they are that owner's; everything:
    biases and batch norm move as well. The head that is not packed always moves."""
    model.train()
    if not everything:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    velocity = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for x, y in batches:
        model.zero_grad()
        F.cross_entropy(model(x)[:, outputs], y).backward()
        for name, p in model.named_parameters():
            layer, _, part = name.rpartition(".")
            moves = torch.full_like(p, everything or layer == "head", dtype=torch.bool)
            if layer in owners and part == "weight":
                moves = torch.tensor([o == owner for o in owners[layer]]).view(p.shape)
            elif layer in owners and layer == "head":
                moves = torch.full_like(moves, everything)
            velocity[name] = momentum * velocity[name] + p.grad
            p.data = torch.where(moves, p.data - lr * velocity[name], p.data)
