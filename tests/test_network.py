"""The network is torchvision's VGG at another width: same plan, same parameter count, same output
for same weights."""

import math

import pytest
import torch
from torch import nn
from torchvision import models

from lib.network import INITS, conv_layers, norm_layers, up_to, vgg16

NAMES_16 = [
    f"conv{block}_{place + 1}"
    for block, places in enumerate((2, 2, 3, 3, 3), 1)
    for place in range(places)
]


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)


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


@pytest.mark.parametrize("layer", NAMES_16)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_up_to_equals_a_hook_s_output(layer, batch_norm):
    model, seen, x = vgg16(4, 0.0625, batch_norm).eval(), [], images()
    cut = up_to(model, layer)
    # cloned, since the ReLU that follows works in place
    handle = conv_layers(model)[layer].register_forward_hook(
        lambda m, i, out: seen.append(out.clone())
    )
    model(x)
    handle.remove()
    assert torch.equal(cut(x), seen[0])
    assert cut[-1] is conv_layers(model)[layer]  # the same weights, not a copy


def test_up_to_an_unknown_layer_is_refused():
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
