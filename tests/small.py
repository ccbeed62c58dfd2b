"""A narrow network and a round's context for tests of methods."""

import torch

from lib.methods import Context
from lib.network import vgg16
from lib.recipe import Recipe

RECIPE = Recipe(epochs=1, batch_size=16, lr=0.02, momentum=0.9, precision="float32")


def network(tasks, batch_norm=True, dtype=torch.float32):
    outputs = max(t.outputs.stop for t in tasks)
    return vgg16(outputs, width=0.0625, batch_norm=batch_norm).to(dtype)


def context(tasks, number, recipe=RECIPE, seed=3, scores=dict):
    return Context(tasks, seed, recipe, scores=scores, accuracies=dict, round=number)
