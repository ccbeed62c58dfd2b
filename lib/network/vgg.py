"""VGG, layer for layer torchvision's, at any width, depth and input size.

model = vgg16(10, width=0.25, batch_norm=True, generator=torch.Generator().manual_seed(1))
"""

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

# convolutions in each block (Simonyan & Zisserman 2015, table 1: A, B, D, E), and their channels
PLANS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
CHANNELS = (64, 128, 256, 512, 512)
INITS = ("study", "pytorch", "torchvision", "kaiming_fan_in", "normal_head")


class VGG(nn.Module):
    """`features` (named layers), then the flattened last map, then `head`. Input float (B, 3, H,
    W), output logits."""

    def __init__(self, features: nn.Sequential, head: nn.Module):
        super().__init__()
        self.features, self.head = features, head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))


def vgg16(
    n_classes: int,
    width: float = 1.0,
    batch_norm: bool = False,
    image_size: int = 32,
    depth: int = 16,
    classifier: str = "linear",
    init: str = "study",
    generator: torch.Generator | None = None,
) -> VGG:
    """VGG with random weights, channels_last, float32.

    width scales every channel count; depth 11, 13, 16 or 19. classifier "linear": one layer from
    the last pooled map; "torchvision": two 4096-wide layers (scaled by width) with dropout. init
    "study": convolutions Kaiming normal, fan-out, bias 0, head as PyTorch's default (PROTOCOL
    section 1); "pytorch": PyTorch's defaults throughout; "torchvision": linear layers N(0, .01) and
    bias 0; "kaiming_fan_in": "study" with fan-in; "normal_head": "study" with the head N(0, .01).
    All numbers are drawn from `generator` (seed 0 if None), never from the global one."""
    if image_size < 32:
        raise ValueError(
            f"image_size {image_size}: VGG halves the image five times, expected at least 32"
        )
    if depth not in PLANS or init not in INITS or classifier not in ("linear", "torchvision"):
        raise ValueError(
            f"vgg: depth {depth}, init {init!r}, classifier {classifier!r}: expected depth in "
            f"{sorted(PLANS)}, init in {INITS}, classifier linear or torchvision"
        )
    with torch.random.fork_rng(
        devices=[]
    ):  # torch's constructors draw weights of their own, at once drawn anew
        model = VGG(*_layers(PLANS[depth], n_classes, width, batch_norm, image_size, classifier))
    initialise(model, init, generator or torch.Generator().manual_seed(0))
    return model.to(memory_format=torch.channels_last)


def _layers(
    plan: Sequence[int],
    n_classes: int,
    width: float,
    batch_norm: bool,
    image_size: int,
    classifier: str,
) -> tuple[nn.Sequential, nn.Module]:
    """Named features and head; plan: how many convolutions each block has."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = 3
    for block, (count, full) in enumerate(zip(plan, CHANNELS), 1):
        wide = max(1, round(full * width))
        for place in range(1, count + 1):
            layers[f"conv{block}_{place}"] = nn.Conv2d(channels, wide, 3, padding=1)
            if batch_norm:
                layers[f"bn{block}_{place}"] = nn.BatchNorm2d(wide)
            layers[f"relu{block}_{place}"] = nn.ReLU(inplace=True)
            channels = wide
        layers[f"pool{block}"] = nn.MaxPool2d(2)
    flat = channels * (image_size // 32) ** 2
    if classifier == "linear":
        head: nn.Module = nn.Linear(flat, n_classes)
    else:
        hidden = max(1, round(4096 * width))
        head = nn.Sequential(
            nn.Linear(flat, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, n_classes),
        )
    return nn.Sequential(layers), head


@torch.no_grad()
def initialise(model: nn.Module, init: str, generator: torch.Generator) -> None:
    """Draw the weights of all convolutions and linear layers anew, layer by layer, from
    `generator`; batch norm to 1 / 0. For init see `vgg16`. On the meta device, which holds no
    weights, nothing (drawing there would first import PyTorch's compiler, seconds long)."""
    if any(p.is_meta for p in model.parameters()):
        return
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.Conv2d) and init != "pytorch":
            mode = "fan_in" if init == "kaiming_fan_in" else "fan_out"
            nn.init.kaiming_normal_(
                module.weight, mode=mode, nonlinearity="relu", generator=generator
            )
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and init in ("torchvision", "normal_head"):
            nn.init.normal_(module.weight, 0, 0.01, generator=generator)
            nn.init.zeros_(module.bias)
        elif isinstance(
            module, (nn.Conv2d, nn.Linear)
        ):  # what reset_parameters does, from our generator
            nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5), generator=generator)
            bound = 1 / math.sqrt(module.weight[0].numel())
            if module.bias is not None:
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)
