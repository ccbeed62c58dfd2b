"""Every convolution of a CNN by a unique name, with its batch norm, its input and its output.

conv_layers(model)            # {"conv1_1": Conv2d, ...}; a ResNet's have names as "layer1.0.conv1"
norm_layers(model)            # {"conv1_1": BatchNorm2d, ...}: what directly follows each of them
up_to(model, "conv3_1")       # the network cut after that convolution (before its norm and ReLU)
below(model, "conv3_1")       # the network cut before it
"""

from collections import Counter

from torch import Tensor, fx, nn

from lib.hooks import activations
from lib.network.vgg import VGG


def _unique_names(dotted: list[str]) -> list[str]:
    """Short names for modules' dotted names: the last part where no other has it and it is more
    than a number (`conv3_1`), else the dotted name (`layer1.0.conv1`) without the leading parts
    that all of them share (`features.`, or what a wrapper puts in front)."""
    parts = [name.split(".") for name in dotted]
    shared = 0
    while all(len(p) > shared + 1 and p[shared] == parts[0][shared] for p in parts):
        shared += 1
    ends = Counter(p[-1] for p in parts)
    return [
        p[-1] if ends[p[-1]] == 1 and not p[-1].isdecimal() else ".".join(p[shared:]) for p in parts
    ]


def conv_layers(model: nn.Module) -> dict[str, nn.Conv2d]:
    """Every convolution by a unique name, in the order in which the model's modules were
    registered: in VGG and torchvision's CNNs the order of the forward pass.

    The name is the last part of the module's own (`conv3_1`) where that is unique among the model's
    convolutions, else the dotted one (`layer2.0.downsample.0`) without what all have in front."""
    found = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    return dict(zip(_unique_names(list(found)), found.values())) if found else {}


def _uncompiled(model: nn.Module) -> nn.Module:
    """What torch.compile was given; any other model itself."""
    return getattr(model, "_orig_mod", model)


class _Tracer(fx.Tracer):
    """Writes down which module's output enters which; looks into no convolution and no norm, so
    that it does not matter what is done to their forward passes."""

    def is_leaf_module(self, m: nn.Module, name: str) -> bool:
        return isinstance(m, (nn.Conv2d, nn.BatchNorm2d)) or super().is_leaf_module(m, name)


def norm_layers(model: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """The batch norm that follows each convolution, by the convolution's name: the norm that the
    convolution's very output enters. Nothing is run, and module order plays no part.

    Absent: convolutions without one (a norm that works on a sum, on concatenated maps or before its
    convolution is nobody's), and norms or convolutions shared so that no pair is unique. Raises
    ValueError where a model with batch norm decides its way by values, so that it cannot be
    followed."""
    model = _uncompiled(model)
    if not any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
        return {}
    try:
        graph = _Tracer().trace(model)
    except Exception as error:
        raise ValueError(
            f"the way of an image through {type(model).__name__} cannot be followed "
            f"({error}), so it is not known which batch norm follows which convolution: expected a "
            "forward pass that torch.fx can trace, without branches on values"
        ) from error

    def called(node) -> nn.Module | None:
        is_call = isinstance(node, fx.Node) and node.op == "call_module"
        return model.get_submodule(node.target) if is_call else None

    pairs = {
        (called(node.args[0]), norm)
        for node in graph.nodes
        if isinstance(norm := called(node), nn.BatchNorm2d) and node.args
    }
    sources, norms = Counter(source for source, _ in pairs), Counter(norm for _, norm in pairs)
    own = {source: norm for source, norm in pairs if sources[source] == norms[norm] == 1}
    return {name: own[conv] for name, conv in conv_layers(model).items() if conv in own}


class Cut(nn.Module):
    """A model run as far as one layer, whose "output" (or "input") it returns; shares the model's
    weights and modules. What lies behind the layer is not run."""

    def __init__(self, model: nn.Module, layer: str, at: str):
        super().__init__()
        self.model, self.layer, self.at = model, layer, at

    def forward(self, x: Tensor) -> Tensor:
        conv = _conv(self.model, self.layer)
        with activations({self.layer: conv}, self.at, stop=True) as seen:
            self.model(x)
        if self.layer not in seen:
            raise ValueError(
                f"{self.layer} takes no part in the forward pass of {type(self.model).__name__}: "
                "expected a convolution that images go through"
            )
        return seen[self.layer]


def _conv(model: nn.Module, layer: str) -> nn.Conv2d:
    convs = conv_layers(model)
    if layer not in convs:
        raise ValueError(f"no convolution {layer!r}: expected one of {', '.join(convs)}")
    return convs[layer]


def up_to(model: nn.Module, layer: str) -> nn.Module:
    """The network from its input to the output of convolution `layer` (before batch norm and ReLU);
    shares weights. For VGG a Sequential of its layers; any other network is left on the way."""
    model = _uncompiled(model)
    _conv(model, layer)
    if not isinstance(model, VGG):
        return Cut(model, layer, "output")
    names = [name for name, _ in model.features.named_children()]
    return nn.Sequential(*list(model.features)[: names.index(layer) + 1])


def below(model: nn.Module, layer: str) -> nn.Module:
    """The network from its input to what enters convolution `layer`; as `up_to`."""
    cut = up_to(model, layer)
    return cut[:-1] if isinstance(cut, nn.Sequential) else Cut(cut.model, layer, "input")
