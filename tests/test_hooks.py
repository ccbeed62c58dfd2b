"""Hooks see what they say, change nothing, and are gone afterwards, also when the body raises."""

import pytest
import torch
from torch import nn

from lib.hooks import activations, evaluation, out_of_place, output_gradients, plain_norms
from lib.network import build, conv_layers


def network():
    """Two convolutions with batch norm, in-place ReLU and a residual addition in place."""

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
            self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
            self.relu, self.runs = nn.ReLU(inplace=True), []

        def forward(self, x):
            self.runs.append("conv1")
            x = self.relu(self.bn1(self.conv1(x)))
            self.runs.append("conv2")
            y = self.bn2(self.conv2(x))
            y += x
            y = self.relu(y)
            self.runs.append("end")
            return y.mean((2, 3))

    torch.manual_seed(1)
    return Small()


def images(n=2):
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def hooks_of(model):
    return [h for m in model.modules() for h in (m._forward_hooks, m._forward_pre_hooks) if h]


class Boom(Exception):
    pass


MANAGERS = {
    "evaluation": evaluation,
    "out_of_place": out_of_place,
    "plain_norms": plain_norms,
    "outputs": lambda m: activations(conv_layers(m)),
    "inputs": lambda m: activations(conv_layers(m), "input", stop=True),
    "gradients": lambda m: output_gradients(conv_layers(m)),
}


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("manager", MANAGERS)
def test_nothing_is_left_behind(manager, raises):
    model = network().train()
    model.bn1.eval()  # a mixed state: one norm in evaluation
    other = nn.ReLU()  # one ReLU that never worked in place
    model.other = other
    before = {name: (m.training, getattr(m, "inplace", None)) for name, m in model.named_modules()}
    try:
        with MANAGERS[manager](model):
            changed = {
                n: (m.training, getattr(m, "inplace", None)) for n, m in model.named_modules()
            }
            own = any("forward" in vars(m) for m in model.modules())
            assert changed != before or hooks_of(model) or own  # it does something
            model(images()).sum().backward()
            if raises:
                raise Boom
    except Boom:
        assert raises
    assert before == {
        name: (m.training, getattr(m, "inplace", None)) for name, m in model.named_modules()
    }
    assert not hooks_of(model) and not any("forward" in vars(m) for m in model.modules())


@pytest.mark.parametrize("manager", MANAGERS)
def test_an_error_in_the_body_comes_through(manager):
    with pytest.raises(Boom), MANAGERS[manager](network()):
        raise Boom


def test_evaluation_is_evaluation_inside():
    model = network().train()
    with evaluation(model) as same:
        assert same is model and not any(m.training for m in model.modules())


@pytest.mark.parametrize("affine", [True, False])
def test_plain_norms_are_batch_norm_in_evaluation_mode(affine):
    norm = nn.BatchNorm2d(4, affine=affine).double()
    x = torch.randn(5, 4, 3, 3, dtype=torch.float64) * 2 + 1
    norm(x)  # running statistics of its own
    if affine:
        torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    norm.eval()
    expected = norm(x)
    with plain_norms(norm):
        found = norm(x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(norm(x), expected)


def test_activations_are_the_tensors_themselves():
    model, x = network().eval(), images()
    with out_of_place(model), activations(conv_layers(model)) as outputs:
        model(x)
    assert list(outputs) == ["conv1", "conv2"]
    assert torch.equal(outputs["conv1"], model.conv1(x))
    assert torch.equal(outputs["conv2"], model.conv2(model.bn1(outputs["conv1"]).relu()))
    with activations(conv_layers(model), "input") as inputs:
        model(x)
    assert inputs["conv1"] is x
    assert torch.equal(inputs["conv2"], model.bn1(model.conv1(x)).relu())
    assert inputs["conv2"].grad_fn is not None


def test_in_place_work_changes_what_was_seen_unless_it_is_put_aside():
    """Why `out_of_place` is there."""
    model, x = network().eval(), images()
    true = model.bn1(model.conv1(x))
    with activations({"bn1": model.bn1}) as seen:
        model(x)
    assert torch.equal(seen["bn1"], true.relu()) and not torch.equal(seen["bn1"], true)
    with out_of_place(model), activations({"bn1": model.bn1}) as seen:
        model(x)
    assert torch.equal(seen["bn1"], true)


@pytest.mark.parametrize(
    ("at", "layer", "runs"),
    [("output", "conv1", ["conv1"]), ("input", "conv2", ["conv1", "conv2"])],
)
def test_stop_runs_nothing_behind_the_layer(at, layer, runs):
    model, x = network().eval(), images()
    after = []
    with activations({layer: getattr(model, layer)}, at, stop=True) as seen:
        model(x)
        after.append("not reached")
    assert model.runs == runs and not after and list(seen) == [layer]
    before_relu = model.bn1(model.conv1(x))
    assert torch.equal(seen[layer], model.conv1(x) if at == "output" else before_relu.relu())


def test_stop_waits_for_every_layer_and_knows_whose_stop_it_is():
    model, x = network().eval(), images()
    with activations(conv_layers(model), stop=True) as seen:
        model(x)
    assert set(seen) == {"conv1", "conv2"} and model.runs == ["conv1", "conv2"]
    model.runs.clear()
    reached = []
    with activations({"first": model.conv1}, stop=True) as outer:
        with activations({"second": model.conv2}, stop=True) as inner:
            model(x)
        reached.append("between")
    assert outer and not inner and not reached and model.runs == ["conv1"]


def test_another_place_is_refused():
    with pytest.raises(ValueError, match="'middle': expected output or input"):
        with activations({}, "middle"):
            pass


def test_output_gradients_are_those_of_the_outputs_as_they_were():
    """Against a network without anything in place, its gradients taken by autograd.grad; the batch
    norm's output has the residual added in place and then ReLU in place."""
    model, x = network().eval().double(), images().double()
    layers = {name: m for name, m in model.named_modules() if name and name != "relu"}
    with output_gradients(layers) as gradients:
        model(x).square().sum().backward()
    outputs = [model.conv1(x)]
    outputs.append(model.bn1(outputs[-1]))
    a = outputs[-1].relu()
    outputs.append(model.conv2(a))
    outputs.append(model.bn2(outputs[-1]))
    scalar = (outputs[-1] + a).relu().mean((2, 3)).square().sum()
    slow = torch.autograd.grad(scalar, outputs)
    for name, gradient in zip(["conv1", "bn1", "conv2", "bn2"], slow, strict=True):
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-12, atol=1e-14)
        assert gradient.abs().max() > 0


def test_hooks_work_on_a_resnet_with_all_its_layers():
    model = build(4, architecture="resnet18", width=0.25).eval()
    with activations(conv_layers(model)) as seen:
        model(torch.zeros(1, 3, 32, 32))
    assert list(seen) == list(conv_layers(model)) and len(seen) == 20
