"""Replay and DER++, literally: one image and one output at a time."""

import math


def cross_entropy(logits: list[float], label: int) -> float:
    """- log of the label's share of exp(logits), of one image, in nats."""
    return math.log(sum(math.exp(z) for z in logits)) - logits[label]


def replay_penalty(
    outputs: list[list[float]], labels: list[int], first: list[int], classes: int
) -> float:
    """Mean over the buffer's images of their cross-entropy over their own head, outputs
    first[i] .. first[i] + classes - 1."""
    total = 0.0
    for row, label, f in zip(outputs, labels, first):
        total += cross_entropy([row[f + k] for k in range(classes)], label)
    return total / len(outputs)


def der_penalty(
    outputs: list[list[float]],
    labels: list[int],
    first: list[int],
    stored: list[list[float]],
    alpha: float,
    beta: float,
) -> float:
    """alpha * mean over images and outputs of (logit - stored logit)^2 + beta * replay's term;
    stored: each image's own head's logits, a row an image."""
    classes, total = len(stored[0]), 0.0
    for row, f, kept in zip(outputs, first, stored):
        for k in range(classes):
            total += (row[f + k] - kept[k]) ** 2
    distance = total / (len(outputs) * classes)
    return alpha * distance + beta * replay_penalty(outputs, labels, first, classes)
