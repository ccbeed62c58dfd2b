"""Learning without Forgetting, literally: one image, one head, one class at a time."""

import math


def softmax(logits: list[float], temperature: float) -> list[float]:
    """Probabilities of one image: exp(z / T) over their sum."""
    powers = [math.exp(z / temperature) for z in logits]
    return [p / sum(powers) for p in powers]


def divergence(old: list[float], new: list[float], temperature: float) -> float:
    """KL(old || new) of one image and one head, in nats."""
    p, q = softmax(old, temperature), softmax(new, temperature)
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q))


def lwf_penalty(
    old: list[list[float]],
    new: list[list[float]],
    heads: list[list[int]],
    temperature: float,
    strength: float,
) -> float:
    """strength * mean over images of the sum over heads of KL; old, new: an image's logits a row;
    heads: the numbers of each old head's outputs."""
    total = 0.0
    for a, b in zip(old, new):
        for head in heads:
            total += divergence([a[k] for k in head], [b[k] for k in head], temperature)
    return strength * total / len(old)
