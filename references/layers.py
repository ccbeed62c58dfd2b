"""Whole layers and forgetting blocks, one filter, one image, one pixel at a time."""

from lib.network import conv_layers


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
