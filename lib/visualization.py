"""Activation maximisation (Erhan 2009) of every filter, batched.

    images = maximize_activation(model, "conv3_1", filters=range(256), seed=1)  # (256, 3, 32, 32)
    heat = heat_maps(to_pixels(images, statistics))  # (256, 32, 32) in [0, 1]

As in pytorch-cnn-visualizations' `CNNLayerVisualization`: one noise image U(150, 180) / 255,
normalised; Adam, lr 0.1, weight decay 1e-6, 30 steps; the loss is minus the mean of the filter's
map before ReLU; nothing clamped or blurred."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.data import Images, Task
from lib.hooks import evaluation
from lib.network import below, conv_layers
from lib.saliency import scale
from lib.seeds import seed_of

NOISE = (150, 180)
BATCH = 64  # filters visualised at once: bounds memory, not results


def noise_image(
    seed: int,
    layer: str,
    filters: Sequence[int],
    size: int,
    statistics: Task | Images | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The images (F, 3, size, size) the search starts from, normalised; each fixed by (seed, layer,
    filter)."""
    draws = [
        torch.rand(
            3,
            size,
            size,
            dtype=torch.float64,
            generator=torch.Generator().manual_seed(seed_of(seed, layer, f, "noise")),
        )
        for f in filters
    ]
    pixels = (NOISE[0] + (NOISE[1] - NOISE[0]) * torch.stack(draws)) / 255
    return _normalise(pixels, statistics).to(dtype)


def _statistics(statistics, like: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = (
        (statistics.mean, statistics.std)
        if statistics is not None
        else (torch.zeros(3), torch.ones(3))
    )
    return mean.to(like).view(1, 3, 1, 1), std.to(like).view(1, 3, 1, 1)


def _normalise(pixels: Tensor, statistics: Task | Images | None) -> Tensor:
    mean, std = _statistics(statistics, pixels)
    return (pixels - mean) / std


def mean_activation_weights(
    conv: nn.Conv2d, filters: Sequence[int], size: tuple[int, int]
) -> Tensor:
    """(F, C, *size): the mean of a filter's map is linear in the layer's input; these are its
    coefficients.

    mean(conv(x)[f]) = <x, weights[f]> + bias[f]. So the visualised convolution itself never has to
    be run: for F filters it would compute F maps for each of F images, of which F are used. For
    any kernel, stride and dilation, zero padding in numbers and no groups; for the others see
    `weights_by_gradient`."""
    shape = zip(size, conv.kernel_size, conv.stride, conv.padding, conv.dilation)
    ways = [divmod(n + 2 * p - d * (k - 1) - 1, s) for n, k, s, p, d in shape]
    h_out, w_out = (steps + 1 for steps, _ in ways)
    ones = conv.weight.new_ones(1, 1, h_out, w_out) / (h_out * w_out)
    parts = [
        F.conv_transpose2d(
            ones,
            conv.weight[f : f + 1],
            stride=conv.stride,
            padding=conv.padding,
            output_padding=[rest for _, rest in ways],
            dilation=conv.dilation,
        )
        for f in filters
    ]
    return torch.cat(parts)


def weights_by_gradient(
    conv: nn.Conv2d, filters: Sequence[int], shape: tuple[int, int, int]
) -> Tensor:
    """The same coefficients (F, *shape) for any convolution (groups, any padding), as the gradient
    of the mean with respect to the input (C, H, W), whose value plays no part."""
    x = conv.weight.new_zeros(len(filters), *shape).requires_grad_()
    with torch.enable_grad():
        means = conv(x)[range(len(filters)), list(filters)].mean((1, 2))
        (weights,) = torch.autograd.grad(means.sum(), x)
    return weights


def _weights(conv: nn.Conv2d, filters: Sequence[int], shape: tuple[int, int, int]) -> Tensor:
    numbers = conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    if numbers and conv.groups == 1:
        return mean_activation_weights(conv, filters, shape[1:]).detach()
    return weights_by_gradient(conv, filters, shape)


def maximize_activation(
    model: nn.Module,
    layer: str,
    filters: Sequence[int] | None = None,
    steps: int = 30,
    seed: int = 0,
    lr: float = 0.1,
    image_size: int = 32,
    statistics: Task | Images | None = None,
) -> Tensor:
    """Images (F, 3, H, W), in normalised space, that raise the mean activation of each filter of
    `layer`.

    filters None: all. Image i optimises filter i; the loss is a sum over images, so a batch equals
    the loop exactly (Adam works element by element). Evaluation mode; only the network below the
    layer is run, without weight gradients. statistics: mean / std the network's inputs were
    normalised with (None: 0 / 1). float32 or float64 as the model; not under autocast, since deep
    images drift apart in bf16. The model is afterwards as before. Raises ValueError for an unknown
    layer or filter."""
    before = below(model, layer)
    conv = conv_layers(model)[layer]
    filters = list(range(conv.out_channels)) if filters is None else list(filters)
    if wrong := [f for f in filters if not 0 <= f < conv.out_channels]:
        raise ValueError(f"{layer} has filters 0 to {conv.out_channels - 1}, not {wrong[:5]}")
    with evaluation(model):
        done = [
            _ascend(before, conv, layer, part, steps, seed, lr, image_size, statistics)
            for part in (filters[i : i + BATCH] for i in range(0, len(filters), BATCH))
        ]
    return torch.cat(done) if done else conv.weight.new_zeros(0, 3, image_size, image_size)


def _ascend(
    before: nn.Module,
    conv: nn.Conv2d,
    layer: str,
    filters: list[int],
    steps: int,
    seed: int,
    lr: float,
    image_size: int,
    statistics,
) -> Tensor:
    """The search for one batch of filters."""
    x = noise_image(seed, layer, filters, image_size, statistics, conv.weight.dtype).to(
        conv.weight.device
    )
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    adam = torch.optim.Adam([x], lr=lr, weight_decay=1e-6)
    weights = None
    for _ in range(steps):
        with torch.enable_grad():
            a = before(x)  # (F, C, h, w): what enters the convolution
            if weights is None:
                weights = _weights(conv, filters, tuple(a.shape[1:]))
            loss = -(a * weights).sum()  # the bias is constant: no gradient
            (x.grad,) = torch.autograd.grad(loss, x)
        adam.step()
    return x.detach().contiguous()


def to_pixels(images: Tensor, statistics: Task | Images | None = None) -> Tensor:
    """Normalised float (F, 3, H, W) -> uint8 (F, 3, H, W): un-normalised, clamped to [0, 1],
    rounded to 1 / 255."""
    mean, std = _statistics(statistics, images)
    return ((images * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)


def heat_maps(pixels: Tensor) -> Tensor:
    """The default heat map: uint8 (F, 3, H, W) -> float (F, H, W) in [0, 1], mean over RGB, min-max
    per filter."""
    return scale(pixels.float().mean(1) / 255)


def change_maps(images: Tensor, start: Tensor) -> Tensor:
    """The alternative heat map: mean over RGB of |image - its initial noise| (F, H, W), scaled to
    [0, 1]."""
    return scale((images - start).abs().mean(1))
