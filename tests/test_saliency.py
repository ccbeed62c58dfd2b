"""FullGrad: complete in float64, batch = loop, the model untouched, the map equal to the plain
formula."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lib.data import Task
from lib.hooks import out_of_place
from lib.network import build, vgg16
from lib.saliency import choose_images, class_maps, decompose, effective_bias, fullgrad, scale
from references.saliency import fullgrad_one


def network(batch_norm, classifier="linear", dtype=torch.float64):
    model = vgg16(
        4, 0.0625, batch_norm, classifier=classifier, generator=torch.Generator().manual_seed(5)
    ).to(dtype)
    return unlike_the_start(model, dtype)


def unlike_the_start(model, dtype):
    """Biases away from zero, or the bias terms would test nothing; statistics from a batch."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(
                0.05
                * torch.randn(
                    p.shape, generator=torch.Generator().manual_seed(p.numel()), dtype=dtype
                )
            )
    model.train()
    model(images(32, dtype))
    return model


def resnet(dtype=torch.float64):
    draw = torch.Generator().manual_seed(5)
    model = build(4, draw, architecture="resnet18", width=0.25).to(dtype)
    return unlike_the_start(model, dtype)


def images(n=6, dtype=torch.float64):
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize(
    ("batch_norm", "classifier", "terms"),
    [
        (False, "linear", 14),
        (True, "linear", 27),
        (False, "torchvision", 16),
        (True, "torchvision", 29),
    ],
)
def test_completeness(batch_norm, classifier, terms):
    model, x = network(batch_norm, classifier), images()
    parts = decompose(model, x, torch.arange(6) % 4)
    assert len(parts.bias_terms) == terms
    assert parts.residual.max() < 1e-12
    assert (
        sum(t.abs().sum() for t in parts.bias_terms.values()) > 0.01 * parts.logit.abs().sum()
    )  # they take part
    torch.testing.assert_close(parts.logit, model.eval()(x)[range(6), torch.arange(6) % 4].detach())
    low = decompose(
        network(batch_norm, classifier, torch.float32),
        images(dtype=torch.float32),
        torch.arange(6) % 4,
    )
    assert low.residual.max() < 1e-5


def test_completeness_on_a_resnet():
    """Residual additions in place, strided and 1 x 1 convolutions, average pooling; 20 batch norms
    and the head have a constant, convolutions have none."""
    model, x, targets = resnet(), images(), torch.arange(6) % 4
    parts = decompose(model, x, targets)
    norms = [name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert list(parts.bias_terms) == [*norms, "fc"] and len(norms) == 20
    assert parts.residual.max() < 1e-12
    assert sum(t.abs().sum() for t in parts.bias_terms.values()) > 0.01 * parts.logit.abs().sum()
    torch.testing.assert_close(parts.logit, model.eval()(x)[range(6), targets].detach())
    assert decompose(resnet(torch.float32), x.float(), targets).residual.max() < 1e-5


class PointByPoint(nn.Module):
    """A linear layer at every place, channels last, as ConvNeXt has them."""

    def __init__(self, conv):
        super().__init__()
        self.linear = nn.Linear(conv.in_channels, conv.out_channels).to(conv.weight)
        with torch.no_grad():
            self.linear.weight.copy_(conv.weight[:, :, 0, 0])
            self.linear.bias.copy_(conv.bias)

    def forward(self, x):
        return self.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def test_a_linear_layer_at_every_place_is_a_one_by_one_convolution():
    torch.manual_seed(0)
    parts = nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 7, 1), nn.ReLU()
    first = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 4)).double()
    second = copy.deepcopy(first)
    second[2] = PointByPoint(first[2])
    x, targets = images(2), torch.tensor([1, 2])
    one, two = decompose(first, x, targets), decompose(second, x, targets)
    assert max(one.residual.max(), two.residual.max()) < 1e-12
    for a, b in zip(one.bias_terms.values(), two.bias_terms.values()):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    maps = fullgrad(second, x, targets)
    torch.testing.assert_close(maps, fullgrad(first, x, targets))
    for k, target in enumerate(targets.tolist()):
        torch.testing.assert_close(maps[k], fullgrad_one(second.eval(), x[k : k + 1], target))


def test_work_in_place_after_a_layer_does_not_touch_its_term():
    """Term for term the same as with every ReLU out of place and every residual added anew; without
    a single layer's terms the split is no longer complete."""
    model, x, targets = resnet(), images(2), torch.tensor([1, 2])
    parts = decompose(model, x, targets)

    def block_forward(self, x):
        out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (out + (x if self.downsample is None else self.downsample(x))).relu()

    with out_of_place(model), pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model.layer1[0]), "forward", block_forward)
        slow = decompose(model, x, targets)
    torch.testing.assert_close(parts.input_term, slow.input_term, rtol=1e-12, atol=1e-14)
    for name, term in parts.bias_terms.items():
        torch.testing.assert_close(term, slow.bias_terms[name], rtol=1e-12, atol=1e-14)
        less = {k: t for k, t in parts.bias_terms.items() if k != name}
        assert parts._replace(bias_terms=less).residual.max() > 1e-6, name


def test_a_constant_for_each_kind_of_layer():
    x = torch.zeros(1, 3, 4, 4)
    for norm in (nn.BatchNorm2d(3), nn.BatchNorm2d(3, affine=False)):
        norm.running_mean += torch.tensor([0.5, -1.0, 2.0])
        norm.running_var *= 3
        for p in norm.parameters():
            p.data += 0.7
        constant = norm.eval()(x)[0, :, 0, 0]
        torch.testing.assert_close(effective_bias(norm), constant)
        assert constant.abs().min() > 0
    assert effective_bias(nn.Conv2d(3, 3, 1, bias=False)) is None
    assert effective_bias(nn.ReLU()) is None
    with pytest.raises(ValueError, match="expected track_running_stats=True"):
        effective_bias(nn.BatchNorm2d(3, track_running_stats=False))


@pytest.mark.parametrize("make", [lambda: network(False), lambda: network(True), resnet])
def test_a_batch_equals_the_loop_with_every_channel_upsampled(make, monkeypatch):
    monkeypatch.setattr("lib.saliency.BATCH", 4)
    model, x = make(), images()
    targets = torch.tensor([0, 1, 2, 3, 0, 1])
    plain = copy.deepcopy(model).eval()
    loop = torch.stack([fullgrad_one(plain, x[i : i + 1], int(targets[i])) for i in range(6)])
    torch.testing.assert_close(fullgrad(model, x, targets), loop, rtol=1e-10, atol=1e-10)
    low = fullgrad(model.float(), x.float(), targets)
    torch.testing.assert_close(low.double(), loop, rtol=1e-3, atol=1e-3)


def test_the_map_differs_between_targets_and_the_model_is_left_as_it_was():
    model, x = network(True).train(), images()
    model.features.bn3_1.eval()  # one layer's mode differs from the others'
    model.features.conv1_1.weight.requires_grad_(False)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    a, b = (fullgrad(model, x, torch.full((6,), t)) for t in (0, 1))
    assert not torch.allclose(a, b, rtol=1e-2)
    assert model.training and not model.features.conv1_1.weight.requires_grad
    assert [m for m in model.modules() if not m.training] == [model.features.bn3_1]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())


def task(model):
    """Labels are the network's own answers, but class 3 is never answered right."""
    x = torch.randint(0, 256, (40, 3, 32, 32), generator=torch.Generator().manual_seed(2)).to(
        torch.uint8
    )
    y = torch.arange(40) % 4
    return Task("task1", (0, 1, 2, 3), x, y, x, y)


def test_class_maps_use_the_first_correct_images_of_each_class(monkeypatch):
    model = network(False, dtype=torch.float32)
    t = task(model)
    logits = F.one_hot(t.y, 4).float()
    logits[t.y == 3] = F.one_hot(torch.tensor(0), 4).float()  # class 3: none correct
    logits[1] = F.one_hot(torch.tensor(2), 4).float()  # image 1 (class 1) is wrong
    monkeypatch.setattr("lib.saliency.predict", lambda *a: logits)
    picks, correct = choose_images(model, t, 3)
    assert [p.tolist() for p in picks] == [[0, 4, 8], [5, 9, 13], [2, 6, 10], [3, 7, 11]]
    assert correct == [True, True, True, False]
    found = class_maps(model, t, 3)
    assert (
        found.maps.shape == (4, 32, 32) and found.used == [3, 3, 3, 3] and found.correct == correct
    )
    assert found.maps.min() >= 0 and found.maps.max() <= 1
    from lib.data import normalise

    one = scale(fullgrad(model, normalise(t.x[picks[1]], t), torch.tensor([1, 1, 1]))).mean(0)
    torch.testing.assert_close(found.maps[1], one)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="expected"):
        decompose(network(False), images(), torch.zeros(2, dtype=torch.int64))
