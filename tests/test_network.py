"""The network is torchvision's VGG at another width: same plan, same parameter count, same output
for same weights. Any other is torchvision's own, and every convolution has a name, a norm, an input
and an output of its own."""

import copy
import math

import pytest
import torch
from torch import nn
from torchvision import models

from lib.freezing import frozen
from lib.hooks import activations
from lib.network import (
    INITS,
    below,
    build,
    conv_layers,
    layer_names,
    norm_layers,
    up_to,
    vgg16,
)
from references.network import inputs_and_outputs, norms_by_running

NAMES_16 = [
    f"conv{block}_{place + 1}"
    for block, places in enumerate((2, 2, 3, 3, 3), 1)
    for place in range(places)
]


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)


NAMES_RESNET18 = [
    "conv1",
    *(f"layer1.{block}.conv{n}" for block in (0, 1) for n in (1, 2)),
    *(
        f"layer{stage}.{part}"
        for stage in (2, 3, 4)
        for part in ("0.conv1", "0.conv2", "0.downsample.0", "1.conv1", "1.conv2")
    ),
]
# every kind of building block: residual, dense (norm first), inverted residual, branches, none
SEVERAL = (
    "resnet18",
    "resnet50",
    "densenet121",
    "mobilenet_v3_small",
    "shufflenet_v2_x0_5",
    "efficientnet_b0",
    "regnet_y_400mf",
    "googlenet",
    "squeezenet1_1",
    "convnext_tiny",
    "vgg11_bn",
)


def images(size=32, n=2, dtype=torch.float32):
    return torch.randn(n, 3, size, size, generator=seeded(), dtype=dtype)


def same_bits(a, b):
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


# --- the plan -------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(
    ("width", "size", "flat"), [(1.0, 32, 512), (0.25, 32, 128), (0.25, 64, 512), (0.125, 48, 64)]
)
def test_shapes(width, size, flat, batch_norm):
    model = vgg16(7, width, batch_norm, size)
    assert model(images(size)).shape == (2, 7)
    assert model.head.in_features == flat
    wide = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    assert [c.out_channels for c in conv_layers(model).values()] == [int(w * width) for w in wide]
    assert all(
        c.weight.is_contiguous(memory_format=torch.channels_last)
        for c in conv_layers(model).values()
    )


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("depth", [11, 13, 16, 19])
def test_same_weights_give_torchvision_s_output_at_every_depth(depth, batch_norm):
    """torchvision's `features` with our plan, narrow: built by its own make_layers, filled with our
    weights."""
    model = vgg16(4, 0.0625, batch_norm, depth=depth, generator=seeded()).double()
    plan = [
        v if v == "M" else v // 16
        for v in models.vgg.cfgs[{11: "A", 13: "B", 16: "D", 19: "E"}[depth]]
    ]
    theirs = models.vgg.make_layers(plan, batch_norm).double()
    for layer, norm in norm_layers(model).items():  # away from 1 / 0 / 0 / 1
        for part in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            part.data += 0.3 * torch.rand(
                part.shape, generator=seeded(len(layer)), dtype=torch.float64
            )
    theirs.load_state_dict(
        dict(zip(theirs.state_dict(), model.features.state_dict().values(), strict=True))
    )
    assert len(conv_layers(model)) == depth - 3
    x = images(dtype=torch.float64)
    for part in (model.eval(), theirs.eval()):
        part.requires_grad_(False)
    torch.testing.assert_close(model.features(x), theirs(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model(x), model.head(theirs(x).flatten(1)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_full_width_is_torchvision_s_vgg16(batch_norm):
    with torch.device("meta"):  # shapes only
        theirs = (models.vgg16_bn if batch_norm else models.vgg16)(num_classes=10)
    ours = vgg16(10, batch_norm=batch_norm)
    assert [p.shape for p in ours.features.parameters()] == [
        p.shape for p in theirs.features.parameters()
    ]
    assert [type(m) for m in ours.features] == [type(m) for m in theirs.features]
    count = sum(p.numel() for p in ours.parameters())
    assert count == sum(p.numel() for p in theirs.features.parameters()) + 512 * 10 + 10
    assert count == (14_728_266 if batch_norm else 14_719_818)


def test_torchvision_s_classifier():
    model = vgg16(10, 0.0625, image_size=64, classifier="torchvision")
    kinds = [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    assert [type(m) for m in model.head] == kinds
    assert [tuple(m.weight.shape) for m in model.head if hasattr(m, "weight")] == [
        (256, 128),
        (256, 256),
        (10, 256),
    ]
    assert model(images(64)).shape == (2, 10)


# --- layers by name -------------------------------------------------------------------------------


def test_conv_layers_and_their_norms():
    model = vgg16(4, 0.0625, batch_norm=True)
    assert list(conv_layers(model)) == list(norm_layers(model)) == NAMES_16
    for layer, conv in conv_layers(model).items():
        assert conv is model.features.get_submodule(layer)
        assert norm_layers(model)[layer] is model.features.get_submodule(
            layer.replace("conv", "bn")
        )
        assert norm_layers(model)[layer].num_features == conv.out_channels
    plain = vgg16(4, 0.0625, batch_norm=False)
    assert list(conv_layers(plain)) == NAMES_16 and norm_layers(plain) == {}
    assert list(conv_layers(vgg16(4, 0.0625, depth=11)))[:3] == ["conv1_1", "conv2_1", "conv3_1"]


def meta(name, **options):
    """The network without a single number: shapes and ways only."""
    with torch.device("meta"):
        return build(3, architecture=name, **options)


def test_a_resnet_s_20_convolutions_have_20_names():
    """The last part of a dotted name alone would leave three."""
    model = models.resnet18()
    found = conv_layers(model)
    assert list(found) == NAMES_RESNET18 == layer_names(architecture="resnet18")
    assert len({name.rpartition(".")[2] for name in found}) == 3
    assert all(found[name] is model.get_submodule(name) for name in found)


@pytest.mark.parametrize("name", SEVERAL)
def test_every_convolution_has_a_name_in_the_order_of_the_forward_pass(name):
    model = meta(name)
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    found, run = conv_layers(model), []
    assert list(found.values()) == convs and len(found) == len(convs)
    for layer, conv in found.items():
        conv.register_forward_hook(lambda m, i, o, layer=layer: run.append(layer))
    model(torch.zeros(2, 3, 32, 32, device="meta"))
    assert run == list(found)


def test_names_do_not_change_with_a_wrapper_and_drop_what_all_share_in_front():
    model = vgg16(4, 0.0625)
    assert list(conv_layers(nn.Sequential(model))) == NAMES_16
    assert list(conv_layers(nn.Sequential(models.resnet18()))) == NAMES_RESNET18
    conv = lambda: nn.Conv2d(3, 3, 1)  # noqa: E731
    assert list(conv_layers(nn.Sequential(conv(), nn.ReLU(), conv()))) == ["0", "2"]
    twice = nn.Sequential(nn.Sequential(conv(), conv()), nn.Sequential(conv()))
    assert list(conv_layers(nn.Sequential(twice))) == ["0.0", "0.1", "1.0"]
    assert list(conv_layers(twice[1])) == ["0"] and conv_layers(nn.ReLU()) == {}
    assert layer_names(architecture="vgg11")[:3] == ["0", "3", "6"]  # `features.` in front of all
    assert layer_names(architecture="densenet121")[1] == "denseblock1.denselayer1.conv1"


@pytest.mark.parametrize("name", SEVERAL)
def test_norms_are_those_an_image_meets_next(name):
    model = meta(name)
    found = norm_layers(model)
    assert found == norms_by_running(model, torch.zeros(2, 3, 32, 32, device="meta"))
    assert list(found) == [layer for layer in conv_layers(model) if layer in found]


@pytest.mark.parametrize("batch_norm", [False, True])
def test_norms_of_vgg_by_running_it(batch_norm):
    model = vgg16(4, 0.0625, batch_norm)
    assert norm_layers(model) == norms_by_running(model, images())


def test_norms_of_a_resnet_and_of_a_densenet_by_name():
    model = meta("resnet18")
    for layer, norm in norm_layers(model).items():
        twin = layer.replace("conv", "bn").replace("downsample.0", "downsample.1")
        assert norm is model.get_submodule(twin)
    assert list(norm_layers(model)) == NAMES_RESNET18
    dense = meta("densenet121")
    found, features = norm_layers(dense), dense.features
    # a norm before its convolution belongs to the convolution before it, if to any
    assert found["conv0"] is features.norm0
    assert found["denseblock1.denselayer2.conv1"] is features.denseblock1.denselayer2.norm2
    assert "denseblock1.denselayer2.conv2" not in found and "transition1.conv" not in found


class Shared(nn.Module):
    """One norm after two convolutions, one of its own, and one also used after a ReLU."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(3, 3, 1) for _ in range(4))
        self.both, self.own, self.late = (nn.BatchNorm2d(3) for _ in range(3))

    def forward(self, x):
        x = self.both(self.b(self.both(self.a(x))))
        x = self.d(self.own(self.c(x)).relu())
        return self.late(self.late(x).relu())


def test_a_norm_of_two_convolutions_is_nobody_s_and_registration_order_plays_no_part():
    model = Shared()
    assert norm_layers(model) == {"c": model.own}


class Branching(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), norm

    def forward(self, x):
        return self.norm(self.conv(x)) if x.sum() > 0 else x


def test_a_way_that_depends_on_values_is_refused_where_there_is_a_norm():
    with pytest.raises(ValueError, match="Branching cannot be followed .* torch.fx can trace"):
        norm_layers(Branching(nn.BatchNorm2d(3)))
    assert norm_layers(Branching(nn.Identity())) == {}


def test_names_and_norms_are_the_same_inside_frozen():
    for model in (vgg16(4, 0.0625, True), build(4, architecture="resnet18", width=0.25)):
        convs, norms = conv_layers(model), norm_layers(model)
        masks = {k: torch.arange(c.out_channels) % 2 == 0 for k, c in convs.items()}
        with frozen(model, masks, "filter"):
            assert conv_layers(model) == convs and norm_layers(model) == norms
    assert len(norms) == 20


@pytest.mark.parametrize("layer", NAMES_16)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_up_to_equals_a_hook_s_output(layer, batch_norm):
    model, x = vgg16(4, 0.0625, batch_norm).eval(), images()
    cut = up_to(model, layer)
    assert torch.equal(cut(x), inputs_and_outputs(model, x)[layer][1])
    assert cut[-1] is conv_layers(model)[layer]  # the same weights, not a copy


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "googlenet"])
def test_any_network_is_cut_before_and_after_every_layer(name):
    """Inputs and outputs as hooks on the whole run see them."""
    model = build(3, seeded(), architecture=name, width=0.25 if name == "resnet18" else 1).eval()
    x = images()
    seen = inputs_and_outputs(model, x)
    with torch.no_grad():
        for layer in list(seen)[:: 1 if name == "resnet18" else 13]:
            entered, left = seen[layer]
            assert torch.equal(below(model, layer)(x), entered), layer
            assert torch.equal(up_to(model, layer)(x), left), layer
    cut = up_to(model, layer)
    assert all(p is q for p, q in zip(cut.parameters(), model.parameters(), strict=True))


def test_below_vgg_is_a_sequential_that_ends_before_the_convolution():
    model, x = vgg16(4, 0.0625, True).eval(), images()
    cut = below(model, "conv3_1")
    assert isinstance(cut, nn.Sequential) and cut[-1] is model.features.pool2
    assert torch.equal(conv_layers(model)["conv3_1"](cut(x)), up_to(model, "conv3_1")(x))


def test_a_compiled_model_s_layers_are_those_of_the_model():
    """Nothing is compiled here: only the wrapper is put around."""
    for model, layer in ((vgg16(4, 0.0625, True), "conv2_1"), (meta("resnet18"), "layer1.0.conv1")):
        wrapped = torch.compile(model)
        assert conv_layers(wrapped) == conv_layers(model)
        assert norm_layers(wrapped) == norm_layers(model) and norm_layers(model)
        assert type(up_to(wrapped, layer)) is type(up_to(model, layer))
        whole, cut = below(model, layer).state_dict(), below(wrapped, layer).state_dict()
        assert list(whole) == list(cut)


def test_what_lies_behind_the_layer_is_not_run():
    model = build(3, architecture="resnet18", width=0.25)
    model.layer3.register_forward_pre_hook(lambda m, i: pytest.fail("layer3 was run"))
    up_to(model, "layer2.1.conv2")(images())
    unused = nn.Sequential(nn.Conv2d(3, 3, 1))
    unused.aside = nn.Conv2d(3, 3, 1)
    unused.forward = lambda x: unused[0](x)
    with pytest.raises(ValueError, match="aside takes no part in the forward pass of Sequential"):
        up_to(unused, "aside")(images())


def test_up_to_an_unknown_layer_is_refused():
    for model in (models.resnet18(), nn.Sequential(nn.Conv2d(3, 3, 1))):
        with pytest.raises(ValueError, match="no convolution 'conv6_1': expected one of"):
            below(model, "conv6_1")
    with pytest.raises(ValueError, match="no convolution 'conv6_1': expected one of conv1_1"):
        up_to(vgg16(4, 0.0625), "conv6_1")


# --- initialisation -------------------------------------------------------------------------------


@pytest.mark.parametrize("init", INITS)
def test_weights_come_from_the_generator_alone(init):
    torch.manual_seed(1)
    a = vgg16(4, 0.0625, True, init=init, classifier="torchvision", generator=seeded(5))
    torch.manual_seed(2)
    b = vgg16(4, 0.0625, True, init=init, classifier="torchvision", generator=seeded(5))
    assert same_bits(a, b)
    other = vgg16(4, 0.0625, True, init=init, classifier="torchvision", generator=seeded(6))
    assert not any(
        torch.equal(p, q) for p, q in zip(a.parameters(), other.parameters()) if p.ndim > 1
    )
    assert same_bits(
        vgg16(4, 0.0625), vgg16(4, 0.0625, generator=seeded(0))
    )  # seed 0 if none is given


@pytest.mark.parametrize(
    ("init", "fan"),
    [("study", "out"), ("torchvision", "out"), ("normal_head", "out"), ("kaiming_fan_in", "in")],
)
def test_convolutions_are_kaiming_normal_with_bias_0(init, fan):
    for conv in conv_layers(vgg16(10, 0.5, init=init, generator=seeded())).values():
        channels = conv.out_channels if fan == "out" else conv.in_channels
        expected, n = math.sqrt(2 / (9 * channels)), conv.weight.numel()
        weight = conv.weight.detach() / expected
        assert float(weight.std()) == pytest.approx(
            1, abs=4 / math.sqrt(2 * n)
        )  # 4 standard errors
        assert abs(float(weight.mean())) < 4 / math.sqrt(n)
        assert float(weight.abs().max()) > 2.5  # a normal, not a uniform (1.73)
        assert not conv.bias.any()


@pytest.mark.parametrize(
    ("init", "normal"),
    [("study", False), ("kaiming_fan_in", False), ("torchvision", True), ("normal_head", True)],
)
def test_heads(init, normal):
    head = vgg16(100, 0.5, init=init, generator=seeded()).head.requires_grad_(False)  # (100, 256)
    if normal:
        assert float(head.weight.std()) == pytest.approx(0.01, rel=0.03) and not head.bias.any()
        assert float(head.weight.abs().max()) > 0.025
    else:  # PyTorch's default: U(-1 / sqrt(fan in), 1 / sqrt(fan in)) for weight and bias
        bound = 1 / math.sqrt(256)
        for part in (head.weight, head.bias):
            assert 0.95 * bound < float(part.abs().max()) <= bound
        assert float(head.weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.03)


def test_init_pytorch_is_what_pytorch_does():
    torch.manual_seed(8)
    wide = [3, 4, 4, 8, 8, 16, 16, 16, 32, 32, 32, 32, 32, 32]
    theirs = [*(nn.Conv2d(a, b, 3) for a, b in zip(wide, wide[1:])), nn.Linear(32, 4)]
    ours = vgg16(4, 0.0625, init="pytorch", generator=seeded(8))
    for a, b in zip([*conv_layers(ours).values(), ours.head], theirs, strict=True):
        assert torch.equal(a.weight, b.weight) and torch.equal(a.bias, b.bias)


def test_batch_norm_starts_at_1_and_0():
    for norm in norm_layers(vgg16(4, 0.0625, True)).values():
        assert (norm.weight == 1).all() and not norm.bias.any()
        assert not norm.running_mean.any() and (norm.running_var == 1).all()


@pytest.mark.parametrize("bad", [{"depth": 12}, {"init": "zeros"}, {"classifier": "mlp"}])
def test_an_unknown_option_is_refused(bad):
    with pytest.raises(
        ValueError,
        match=f"{next(iter(bad.values()))!r}.*expected depth in .* init in .* classifier",
    ):
        vgg16(4, **bad)


# --- one description, one place -------------------------------------------------------------------

DESCRIPTIONS = [
    {},
    {"width": 0.0625, "batch_norm": True, "depth": 13, "image_size": 64, "init": "pytorch"},
    {"width": 0.0625, "classifier": "torchvision", "init": "normal_head"},
]


@pytest.mark.parametrize("description", DESCRIPTIONS)
def test_build_makes_the_study_s_vgg_bit_for_bit(description):
    ours = build(5, seeded(3), **description)
    theirs = vgg16(5, generator=seeded(3), **description)
    assert type(ours) is type(theirs) and same_bits(ours, theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert layer_names(**description) == list(conv_layers(theirs))


def test_resnet18_is_torchvision_s_but_for_the_stem():
    ours, theirs = build(10, seeded(), architecture="resnet18"), models.resnet18(num_classes=10)
    assert sum(p.numel() for p in ours.parameters()) == 11_173_962  # as published for CIFAR-10
    assert (ours.conv1.kernel_size, ours.conv1.stride, ours.conv1.padding) == (
        (3, 3),
        (1, 1),
        (1, 1),
    )
    assert ours.conv1.bias is None
    theirs.conv1, theirs.maxpool = copy.deepcopy(ours.conv1), nn.Identity()
    theirs.load_state_dict(ours.state_dict())
    x = images()
    with torch.no_grad(), activations({"layer1": ours.layer1, "layer4": ours.layer4}) as seen:
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
    assert seen["layer1"].shape == (2, 64, 32, 32) and seen["layer4"].shape == (2, 512, 4, 4)
    assert {p.dtype for p in ours.parameters()} == {torch.float32}
    assert ours.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    large = meta("resnet18", image_size=224)  # torchvision's own stem
    assert large.conv1.kernel_size == (7, 7) and isinstance(large.maxpool, nn.MaxPool2d)


def test_a_resnet_s_weights_are_distributed_as_torchvision_s():
    model = build(100, seeded(), architecture="resnet18", width=0.5)
    for conv in conv_layers(model).values():
        n, fan_out = conv.weight.numel(), conv.weight[:, 0].numel()
        scaled = conv.weight.detach() / math.sqrt(2 / fan_out)
        assert float(scaled.std()) == pytest.approx(1, abs=4 / math.sqrt(2 * n))
        assert abs(float(scaled.mean())) < 4 / math.sqrt(n)
    bound = 1 / math.sqrt(256)
    for part in (model.fc.weight, model.fc.bias):
        assert 0.95 * bound < float(part.detach().abs().max()) <= bound
    for norm in norm_layers(model).values():
        assert (norm.weight == 1).all() and not norm.bias.any()


@pytest.mark.parametrize(("name", "blocks"), [("resnet18", 1), ("resnet50", 4)])
def test_width_scales_every_channel_count_of_a_resnet(name, blocks):
    wide, narrow = meta(name), build(3, architecture=name, width=0.25)
    for layer, conv in conv_layers(narrow).items():
        whole = conv_layers(wide)[layer]
        assert conv.out_channels == whole.out_channels // 4
        assert conv.in_channels == (3 if layer == "conv1" else whole.in_channels // 4)
        assert (conv.kernel_size, conv.stride) == (whole.kernel_size, whole.stride)
        assert norm_layers(narrow)[layer].num_features == conv.out_channels
    assert (narrow.fc.in_features, narrow.fc.out_features) == (128 * blocks, 3)
    assert narrow(images()).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "width"),
    [("resnet18", 0.25), ("shufflenet_v2_x0_5", 1), ("squeezenet1_1", 1), ("regnet_y_400mf", 1)],
)
def test_a_network_s_weights_come_from_the_generator_alone(name, width):
    torch.manual_seed(1)
    a = build(3, seeded(5), architecture=name, width=width)
    after = torch.rand(3)
    b = build(3, seeded(5), architecture=name, width=width)
    assert same_bits(a, b)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), after)  # and the global generator is left alone
    if name == "regnet_y_400mf":  # seconds for each
        return
    other = build(3, seeded(6), architecture=name, width=width)
    assert not any(
        torch.equal(p, q) for p, q in zip(a.parameters(), other.parameters()) if p.ndim > 1
    )
    none, zero = (build(3, g, architecture=name, width=width) for g in (None, seeded(0)))
    assert same_bits(none, zero)


@pytest.mark.parametrize(
    ("description", "sentence"),
    [
        ({"architecture": "resnet18", "depth": 11}, "depth 11 for resnet18: only vgg has this"),
        ({"architecture": "resnet18", "batch_norm": True}, "batch_norm True for resnet18"),
        ({"architecture": "resnet18", "classifier": "torchvision"}, "classifier 'torchvision' for"),
        ({"architecture": "resnet18", "init": "zeros"}, "init 'zeros': expected one of"),
        ({"architecture": "densenet121", "width": 0.5}, "width 0.5 for densenet121: expected 1"),
        ({"architecture": "resnext50_32x4d", "width": 0.5}, "expected 1; only vgg and ResNets"),
        ({"architecture": "resnet18", "width": 0.2}, "would have 13 input channels.*below 16"),
        ({"architecture": "resnet17"}, "'resnet17': expected vgg or one of .*resnet18"),
        ({"architecture": "alexnet"}, "alexnet does not work on images of 32 px"),
        ({"architecture": "vit_b_16"}, "vit_b_16 does not work on images of 32 px"),
        ({"depth": 12}, "depth 12"),
    ],
)
def test_what_an_architecture_does_not_know_is_refused(description, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(3, **description)
