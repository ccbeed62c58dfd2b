"""Any of torchvision's CNNs by its name, for small images, with weights from a generator.

model = torchvision_cnn("resnet18", 10, generator=torch.Generator().manual_seed(1))
"""

import torch
from torch import nn

from lib.network.vgg import INITS, initialise

# what some networks must be told to return logits and nothing else
OPTIONS = {
    name: {"aux_logits": False, "init_weights": False} for name in ("googlenet", "inception_v3")
}
# fewer input channels than this in a strided 1 x 1 convolution, channels_last, make the weight
# gradient of oneDNN (PyTorch's convolutions on a processor) wrong, or end the process
# (uxlfoundation/oneDNN issue 6035: 2 to 7 channels with AVX2, up to 15 with AVX-512)
FEWEST = 16
SMALL = 64  # images up to this size (px) enter a ResNet by the stem usual for CIFAR


def torchvision_names() -> list[str]:
    """The names of torchvision's networks for classification."""
    from torchvision import models

    return models.list_models(module=models)


def torchvision_cnn(
    name: str,
    n_classes: int,
    width: float = 1.0,
    image_size: int = 32,
    init: str = "study",
    generator: torch.Generator | None = None,
) -> nn.Module:
    """torchvision's network `name` with `n_classes` outputs and random weights, channels_last,
    float32.

    A ResNet for images up to 64 px has the stem usual for CIFAR: its first convolution is 3 x 3
    with stride 1, and no max pooling follows. width scales every channel count of a ResNet; other
    networks come at width 1 only, and widths that leave a ResNet too few channels are refused (for
    resnet18 those below 0.25). init, generator: as for `lib.network.vgg16`, for every
    convolution and linear layer ("study" is what torchvision does in a ResNet). Raises ValueError
    for an unknown name or init, and for a network that cannot work on such images."""
    if init not in INITS:
        raise ValueError(f"{name}: init {init!r}: expected one of {INITS}")
    with torch.device("meta"):
        _try(_skeleton(name, n_classes, width, image_size), name, n_classes, image_size)
    model = _skeleton(name, n_classes, width, image_size)
    initialise(model, init, generator or torch.Generator().manual_seed(0))
    return model.to(memory_format=torch.channels_last)


def _skeleton(name: str, n_classes: int, width: float, image_size: int) -> nn.Module:
    """The modules on the default device; their weights are still to be drawn."""
    from torchvision import models

    if name not in torchvision_names():
        raise ValueError(
            f"architecture {name!r}: expected vgg or one of torchvision's networks: "
            f"{', '.join(torchvision_names())}"
        )
    plain_resnet = name.startswith(("resnet", "wide_resnet"))  # no grouped convolutions
    if width != 1 and not plain_resnet:
        raise ValueError(f"width {width} for {name}: expected 1; only vgg and ResNets are scaled")
    device = planned_on = torch.get_default_device()
    if name.startswith("regnet"):  # plans itself by tensors, and the meta device has no numbers
        planned_on = torch.device("cpu")
    elif width != 1:  # no layer of this size stays
        planned_on = torch.device("meta")
    with torch.random.fork_rng(devices=[]):  # constructors draw weights of their own
        with planned_on:
            options = OPTIONS.get(name, {})
            model = models.get_model(name, weights=None, num_classes=n_classes, **options)
            if isinstance(model, models.ResNet) and image_size <= SMALL:
                stem = nn.Conv2d(3, model.conv1.out_channels, 3, stride=1, padding=1, bias=False)
                model.conv1, model.maxpool = stem, nn.Identity()
        if width != 1:
            _scale_channels(model, width)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and max(layer.stride) > 1:
            if layer.in_channels < FEWEST:
                raise ValueError(
                    f"width {width} for {name}: a strided 1 x 1 convolution would have "
                    f"{layer.in_channels} input channels, and training it fails on some processors "
                    f"below {FEWEST}: choose a greater width"
                )
    return model.to(device)


def _scale_channels(model: nn.Module, width: float) -> None:
    """Every convolution, batch norm and linear layer replaced by one with `width` times the
    channels; images keep their three, and the head its outputs."""

    def wide(channels: int) -> int:
        return max(1, round(channels * width))

    for name, m in list(model.named_modules()):
        if isinstance(m, nn.Conv2d):
            enter = m.in_channels if m is model.conv1 else wide(m.in_channels)
            sizes = enter, wide(m.out_channels), m.kernel_size, m.stride, m.padding
            model.set_submodule(name, nn.Conv2d(*sizes, bias=m.bias is not None))
        elif isinstance(m, nn.BatchNorm2d):
            model.set_submodule(name, nn.BatchNorm2d(wide(m.num_features)))
        elif isinstance(m, nn.Linear):
            model.set_submodule(name, nn.Linear(wide(m.in_features), m.out_features))


def _try(model: nn.Module, name: str, n_classes: int, image_size: int) -> None:
    """Refuse a network that does not turn two images into two rows of logits; on the meta device,
    where nothing is computed."""
    try:
        shape = tuple(model(torch.zeros(2, 3, image_size, image_size, device="meta")).shape)
    except Exception as error:
        raise ValueError(
            f"{name} does not work on images of {image_size} px ({error}): choose another "
            "architecture or a larger image_size"
        ) from error
    if shape != (2, n_classes):
        raise ValueError(
            f"{name} turns two images into {shape}, expected logits (2, {n_classes}): choose "
            "another architecture"
        )
