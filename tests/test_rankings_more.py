"""Every ranking against a slow, literal version in float64 and against numbers worked out by hand;
the trial of the next task; what rankings add to keys and jobs."""

import copy
from collections import OrderedDict
from math import exp, log

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lib.data import Task
from lib.evaluation import measure
from lib.network import VGG, conv_layers, norm_layers, vgg16
from lib.ranking import (
    RANKINGS,
    Evidence,
    LossChange,
    Trial,
    activations,
    damage,
    gradients,
    hindsight,
    natural_heat,
    similarity,
)
from lib.ranking import maps as maps_room
from lib.ranking.relevance import folded, relevances
from lib.recipe import Recipe
from lib.saliency import fullgrad, scale
from lib.study import arms, jobs
from lib.study.keys import digest
from lib.study.materials import tasks
from lib.study.products import (
    evidence,
    initial,
    later_evidence,
    network_after_task1,
    store,
    trial,
    trial_key,
)
from lib.study.profile import Arm
from lib.study.runs import run, run_key
from lib.training import Method, fit
from references import rankings as slow

BY_IMAGES = (
    *("mean_activation", "taylor", "fisher", "fisher_map", "fullgrad_filter", "conductance"),
    *("lrp", "ablation_damage"),
)
BY_MAPS = (
    *("minus_mean", "rescaled", "max_over_classes", "contrast", "one_image", "grad_cam"),
    *("input_gradient", "natural_patches"),
)
NEW = ("weight_norm", *BY_IMAGES, *BY_MAPS, "mse_at_init", "fisher_change", "loss_change")
ONE_ROW = ("weight_norm", "max_over_classes", "loss_change")  # the class plays no part


def small(batch_norm=True, outputs=2, seed=0, depth=11, width=0.03125):
    """A float64 VGG11 of 86 filters whose batch norms are not what they are at the start: shifted,
    and some turned round."""
    model = vgg16(
        outputs, width, batch_norm, depth=depth, generator=torch.Generator().manual_seed(seed)
    ).double()
    draw = torch.Generator().manual_seed(seed + 100)
    with torch.no_grad():
        for conv in conv_layers(model).values():
            conv.bias.copy_(0.2 * torch.randn(len(conv.bias), generator=draw))
        for norm in norm_layers(model).values():
            n = len(norm.weight)
            norm.weight.copy_(1 + 0.5 * torch.randn(n, generator=draw))
            norm.bias.copy_(0.3 * torch.randn(n, generator=draw))
            norm.running_mean.copy_(0.3 * torch.randn(n, generator=draw))
            norm.running_var.copy_(0.5 + torch.rand(n, generator=draw))
    return model


def small_task(first_output=0, images=3, classes=2, seed=1):
    """A few random images of two classes, in mixed order."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(classes).repeat(images)
    x = torch.randint(0, 256, (len(y), 3, 32, 32), generator=draw, dtype=torch.uint8)
    return Task("old", tuple(range(classes)), x, y, x, y, first_output)


def look_at(model, task, **more):
    """Evidence with made-up class maps and heat maps of every filter."""
    draw = torch.Generator().manual_seed(5)
    size = task.x.shape[-2:]
    maps = torch.rand(len(task.classes), *size, generator=draw)
    heat = {
        layer: scale(torch.rand(conv.out_channels, *size, generator=draw))
        for layer, conv in conv_layers(model).items()
    }
    return Evidence(model, task, 3, lambda: maps, lambda: heat, 2, **more)


def complete(model, task):
    """The same with what the untrained network and the trial have to say."""
    draw = torch.Generator().manual_seed(6)

    def near(t):
        return t + 0.1 * torch.randn(t.shape, generator=draw).to(t) if t.is_floating_point() else t

    found = Trial(
        {k: near(v) for k, v in model.state_dict().items()},
        {k: near(0 * p.detach()) for k, p in model.named_parameters()},
    )
    return look_at(
        model,
        task,
        fetch_initial=lambda: look_at(small(seed=9), task),
        fetch_trial=lambda: found,
    )


def same(found, wanted):
    assert list(found) == list(wanted)
    for layer in found:
        torch.testing.assert_close(found[layer], wanted[layer], rtol=1e-9, atol=1e-12)


# --- against the slow versions --------------------------------------------------------------------


@pytest.mark.parametrize(("batch_norm", "first_output"), [(True, 0), (False, 2), (True, 2)])
@pytest.mark.parametrize("name", [n for n in BY_IMAGES if n != "conductance"])
def test_every_class_by_class_ranking_equals_one_image_one_filter_at_a_time(
    name, batch_norm, first_output, monkeypatch
):
    # batches that do not divide the classes' images
    monkeypatch.setattr(activations, "BATCH", 2)
    monkeypatch.setattr(gradients, "PER_SAMPLE", 2)
    monkeypatch.setattr(hindsight, "ABLATION_BATCH", 13)
    model, task = small(batch_norm, 4), small_task(first_output)
    twin, x = slow.prepared(model), slow.pixels(task)
    how = {"first_output": first_output} if name in ("fullgrad_filter", "lrp") else {}
    how |= {} if how or name == "mean_activation" else {"outputs": task.outputs}
    wanted = getattr(slow, name)(twin, x, task.y, **how)
    found = RANKINGS[name](look_at(model, task))
    same(found, wanted)
    deep = list(found.values())[-1]
    assert deep.shape[0] == 2 and not torch.equal(deep[0], deep[1])  # the class does play a part


def test_weight_norm_is_the_norm_of_each_filter():
    same(RANKINGS["weight_norm"](look_at(small(), small_task())), slow.weight_norm(small()))


@pytest.mark.parametrize("batch_norm", [True, False])
def test_conductance_is_captum_s_layer_by_layer(batch_norm, monkeypatch):
    captum = pytest.importorskip("captum.attr")
    monkeypatch.setattr(gradients, "CONDUCTANCE_IMAGES", 2)
    monkeypatch.setattr(gradients, "CONDUCTANCE_STEPS", 6)
    model, task = small(batch_norm, 4), small_task(first_output=2)
    twin, x = slow.prepared(model), slow.pixels(task)
    found = RANKINGS["conductance"](look_at(model, task))
    for layer, maker in activations.map_makers(twin).items():
        for c in (0, 1):
            images = x[task.y == c][:2]
            parts = captum.LayerConductance(twin, maker).attribute(images, target=2 + c, n_steps=6)
            wanted = parts.sum((2, 3)).abs().mean(0).detach()
            torch.testing.assert_close(found[layer][c], wanted, rtol=1e-9, atol=1e-12)


def test_lrp_loses_nothing_in_a_network_without_biases():
    model, task = small(False), small_task()
    with torch.no_grad():
        for conv in conv_layers(model).values():
            conv.bias.zero_()
        model.head.bias.zero_()
    layers = folded(slow.prepared(model))
    x = slow.pixels(task)
    with torch.no_grad():
        logit, parts = model.eval()(x)[:, 1], relevances(layers, x, 1)
    for r in parts:
        torch.testing.assert_close(r.sum((1, 2, 3)), logit, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_lrp_is_zennit_s(batch_norm):
    """Its epsilon-plus: the same rules for the same layers, read off at the convolutions."""
    pytest.importorskip("zennit", reason="Zennit is not installed: pip install zennit==0.5.1")
    from zennit import rules, types
    from zennit.canonizers import SequentialMergeBatchNorm
    from zennit.composites import LayerMapComposite

    class Merged(SequentialMergeBatchNorm):
        def register(self, linears, batch_norm):
            super().register(linears, batch_norm)
            batch_norm.eps = 0  # else what is merged still divides by sqrt(1 + epsilon)

    model, task = small(batch_norm, 4), small_task(first_output=2)
    twin, x, seen = slow.prepared(model), slow.pixels(task).requires_grad_(), {}
    by_layer = [
        ((types.Convolution,), rules.ZPlus(1e-6)),
        ((types.Linear,), rules.Epsilon(1e-6)),
        ((types.Activation, types.BatchNorm), rules.Pass()),
    ]
    with LayerMapComposite(by_layer, canonizers=[Merged()]).context(twin):
        for layer, conv in conv_layers(twin).items():
            conv.register_forward_hook(lambda _m, _x, z, layer=layer: seen.update({layer: z}))
        logits = twin(x)
        own = F.one_hot(2 + task.y, 4) * logits.detach()  # each image starts with its own logit
        parts = dict(zip(seen, torch.autograd.grad(logits, list(seen.values()), own)))
    found = RANKINGS["lrp"](look_at(model, task))
    for layer, r in parts.items():
        for c in (0, 1):
            wanted = r[task.y == c].abs().sum((2, 3)).mean(0)
            torch.testing.assert_close(found[layer][c], wanted, rtol=1e-6, atol=1e-12)
            assert (wanted > 0).sum() > len(wanted) / 2  # the others answer to no image


def test_lrp_refuses_a_network_whose_layers_do_not_follow_each_other():
    with pytest.raises(ValueError, match="LRP of Residual: expected a VGG"):
        RANKINGS["lrp"](Evidence(Residual(), small_task(), 0, dict, dict))


@pytest.mark.parametrize("batch", [2, 50])
def test_natural_images_are_a_filter_s_strongest(batch, monkeypatch):
    monkeypatch.setattr(activations, "BATCH", batch)
    model, task = small(), small_task(images=4)
    task.x[5] = task.x[2]  # two images alike: the earlier one counts
    look = look_at(model, task)
    wanted = slow.natural_heat(slow.prepared(model), slow.pixels(task), 3)
    found = natural_heat(look, 3)
    for layer in wanted:
        torch.testing.assert_close(found[layer], wanted[layer], rtol=1e-9, atol=1e-9)
    all_of_them = natural_heat(look)  # fewer images than asked for
    scores = RANKINGS["natural_patches"](look)
    for layer, heat in all_of_them.items():
        torch.testing.assert_close(scores[layer], slow.mse_score(look.maps, heat.float()))


# --- by hand --------------------------------------------------------------------------------------


def by_hand():
    """One pixel, one image a class, two filters of 1 x 1 whose maps are the two logits.

    Filter 0 is red + 0.5, filter 1 is twice green; image 0 is (1, 1, 0): maps 1.5 and 2."""
    conv, head = nn.Conv2d(3, 2, 1), nn.Linear(2, 2)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 2, 0]]).view(2, 3, 1, 1))
        conv.bias.copy_(torch.tensor([0.5, 0]))
        head.weight.copy_(torch.eye(2))
        head.bias.zero_()
    x = torch.tensor([[255, 255, 0], [0, 255, 0]], dtype=torch.uint8).view(2, 3, 1, 1)
    y = torch.tensor([0, 1])
    task = Task("t", (0, 1), x, y, x, y, 0, torch.zeros(3), torch.ones(3))
    model = nn.Sequential(conv, nn.ReLU(inplace=True), nn.Flatten(), head).double()
    return look_at(model, task, fetch_trial=lambda: moved(model, task))


def moved(model, task):
    """One step of a trial: filter 0's bias and red, and filter 1's green, rise by half each."""
    twin, method = copy.deepcopy(model), LossChange(task)
    method.before(twin, task)
    with torch.no_grad():
        twin[0].bias[0] += 0.5
        twin[0].weight[0, 0] += 0.5
        twin[0].weight[1, 1] += 0.5
    method.after_step(twin)
    return Trial(twin.state_dict(), method.loss_change)


P = exp(2) / (exp(1.5) + exp(2))  # image 0: what the network gives class 1
Q = exp(0.5) / (exp(0.5) + exp(2))  # image 1, maps 0.5 and 2: what it gives class 0
P_AFTER = 1 / 2  # after the trial's step image 0 has maps 2.5 and 2.5,
Q_AFTER = exp(1) / (exp(1) + exp(2.5))  # and image 1 has maps 1 and 2.5
BY_HAND = {
    "weight_norm": [[1, 2]],
    "mean_activation": [[1.5, 2], [0.5, 2]],
    "taylor": [[1.5 * P, 2 * P], [0.5 * Q, 2 * Q]],
    "fisher_map": [[(1.5 * P) ** 2 / 2, (2 * P) ** 2 / 2], [(0.5 * Q) ** 2 / 2, (2 * Q) ** 2 / 2]],
    # the squared gradient at the map, times red^2 + green^2 + blue^2 + 1 for the bias
    "fisher": [[P**2 * 3, P**2 * 3], [Q**2 * 2, Q**2 * 2]],
    "fullgrad_filter": [[0.5, 0], [0, 0]],
    # loss with one logit 0, minus loss
    "ablation_damage": [
        [log(1 + exp(2)) - log(1 + exp(0.5)), log(1 + exp(-1.5)) - log(1 + exp(0.5))],
        [log(1 + exp(-2)) - log(1 + exp(-1.5)), log(1 + exp(0.5)) - log(1 + exp(-1.5))],
    ],
    # half the squared gradients times .5^2; of filter 0 image 0 has red and bias, image 1 bias only
    "fisher_change": [[P**2 / 8 + P**2 / 8, P**2 / 8], [Q**2 / 8, Q**2 / 8]],
    # the loss is the mean of two images, whose gradients at map 0 are -P and Q, at map 1 P and -Q;
    # a weight's way is .5 times the mean of its gradients at both ends. Red is in image 0 alone
    "loss_change": [
        [
            0.5 * ((Q - P) / 2 + (Q_AFTER - P_AFTER) / 2) / 2  # bias
            + 0.5 * (-P / 2 - P_AFTER / 2) / 2,  # red
            0.5 * ((P - Q) / 2 + (P_AFTER - Q_AFTER) / 2) / 2,  # green
        ]
    ],
}


@pytest.mark.parametrize("name", BY_HAND)
def test_rankings_by_hand(name):
    found = list(RANKINGS[name](by_hand()).values())
    wanted = torch.tensor(BY_HAND[name], dtype=torch.float64)
    torch.testing.assert_close(found, [wanted])


def test_conductance_by_hand():
    # all of the way from the mean image runs through the map of the class's own logit; the rule's
    # nodes leave out a little at both ends
    (found,) = RANKINGS["conductance"](by_hand()).values()
    torch.testing.assert_close(
        found, torch.tensor([[1.0, 0], [0, 2]]).double(), rtol=0.01, atol=1e-12
    )


def test_lrp_by_hand():
    """A VGG of two convolutions of 1 x 1 on one pixel; image 0 is red and image 1 green."""
    conv1, conv2, head = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1), nn.Linear(2, 2)
    with torch.no_grad():
        conv1.weight.copy_(torch.tensor([[1.0, 1, 0], [2, 0, 0]]).view(2, 3, 1, 1))
        conv1.bias.zero_()
        conv2.weight.copy_(torch.tensor([[2.0, 1], [6, -2]]).view(2, 2, 1, 1))
        conv2.bias.copy_(torch.tensor([1.0, -1]))
        head.weight.copy_(torch.tensor([[1.0, -1], [-1, 2]]))
        head.bias.copy_(torch.tensor([3.0, 0]))
    named = {"conv1_1": conv1, "relu1_1": nn.ReLU(), "conv2_1": conv2, "relu2_1": nn.ReLU()}
    model = VGG(nn.Sequential(OrderedDict(named)), head).double()
    x = torch.tensor([[255, 0, 0], [0, 255, 0]], dtype=torch.uint8).view(2, 3, 1, 1)
    y = torch.tensor([0, 1])
    task = Task("t", (0, 1), x, y, x, y, 0, torch.zeros(3), torch.ones(3))
    # image 0: maps (1, 2), then (2 + 2 + 1, 6 - 4 - 1) = (5, 1), logit 0 is 5 - 1 + 3 = 7: the
    # second maps get 5 and -1, the bias 3. Of the positive parts (2 + 2 + 1) and (6) the first maps
    # get 5 x 2/5 - 1 x 6/6 = 1 and 5 x 2/5 = 2
    # image 1: maps (1, 0), then (2 + 1, 6 - 1) = (3, 5), logit 1 is -3 + 10 = 7: the second maps
    # get -3 and 10, the first -3 x 2/3 + 10 x 6/6 = 8 and 0
    found = RANKINGS["lrp"](look_at(model, task))
    wanted = {"conv1_1": [[1.0, 2], [8, 0]], "conv2_1": [[5.0, 1], [3, 10]]}
    assert list(found) == list(wanted)
    for layer, rows in wanted.items():  # the rule's epsilon takes a millionth
        torch.testing.assert_close(found[layer], torch.tensor(rows).double(), rtol=3e-6, atol=1e-9)


def in_a_row():
    """Three pixels in a row and two filters of 1 x 1: red, and twice green minus 1.

    Images, red / green / filter 0 / filter 1 (before ReLU):
    0 (class 0)   0 .2 0   1  1 .2   0 .2 0     1   1  -.6    as image 2
    1 (class 0)   1  0 .2  1 .2  0   1  0 .2    1 -.6  -1
    2 (class 1)   0 .2 0   1  1 .2   0 .2 0     1   1  -.6
    3 (class 0)   0 .2 .2  0  0  0   0 .2 .2   -1  -1  -1

    Logits: 3 f0[0] + 3 f0[2] - 3 f1[0] + 1, and -3 f0[0] + 3 f0[1] + 1.5 f1[0] + 1.5 f1[1]. Image
    0 has (-2, 3.6): wrong; image 1 (1.6, -1.5), image 2 (-2, 3.6), image 3 (1.6, .6): right."""
    conv, head = nn.Conv2d(3, 2, 1), nn.Linear(6, 2)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 2, 0]]).view(2, 3, 1, 1))
        conv.bias.copy_(torch.tensor([0.0, -1]))
        head.weight.copy_(torch.tensor([[3, 0, 3, -3, 0, 0], [-3, 3, 0, 1.5, 1.5, 0]]))
        head.bias.copy_(torch.tensor([1.0, 0]))
    red, green = [[0, 51, 0], [255, 0, 51]], [[255, 255, 51], [255, 51, 0]]
    pixels = torch.tensor([[*red, red[0], [0, 51, 51]], [*green, green[0], [0] * 3], [[0] * 3] * 4])
    x, y = pixels.transpose(0, 1)[:, :, None].to(torch.uint8), torch.tensor([0, 0, 1, 0])
    task = Task("t", (0, 1), x, y, x, y, 0, torch.zeros(3), torch.ones(3))
    model = nn.Sequential(conv, nn.ReLU(inplace=True), nn.Flatten(), head).double()
    heat = torch.tensor([[[0.0, 0.5, 1]], [[1.0, 1, 0]]]).double()
    maps = torch.tensor([[[0.0, 1, 0]], [[1.0, 1, 0.5]]]).double()
    return Evidence(model, task, 0, lambda: maps, lambda: {"0": heat}, 2)


OWN_MAPS = {
    # means of the gradients at the maps times the maps, summed, without what is below 0:
    # image 1: 2 f0 - f1 = (1, .6, 1.4), scaled (.5, 0, 1); image 3: f0, scaled (0, 1, 1)
    # image 2: f0 + f1 = (1, 1.2, -.6), scaled (5/6, 1, 0)
    "grad_cam": [[0.25, 0.5, 1], [5 / 6, 1, 0]],
    # image 1: red 3 and green -6 at the first pixel, red 3 at the last; image 3: red 3 at the last
    # image 2: green 3 at the first, red 3 and green 3 at the second
    "input_gradient": [[0.5, 0, 2 / 3], [0.5, 1, 0]],
    # pixels times gradients, then filter 1's bias of -1 times its gradients; each by its largest:
    # image 1: red 3 and green 6 of 6, red .6 of 6 at the last; bias 3 of 3: (2.5, 0, .1)
    # image 2: green 3 of 3, red .6 and green 3 of 3; bias 1.5 of 1.5 twice: (2, 2.2, 0)
    "one_image": [[1, 0, 0.04], [10 / 11, 1, 0]],
}


@pytest.mark.parametrize("name", OWN_MAPS)
def test_maps_of_the_images_by_hand(name):
    look = in_a_row()
    wanted = slow.mse_score(torch.tensor(OWN_MAPS[name])[:, None], look.heat["0"])
    # FullGrad's 1e-6 in the denominator is more than rounding
    torch.testing.assert_close(RANKINGS[name](look)["0"], wanted, rtol=1e-5, atol=1e-6)
    assert len(wanted.unique()) == 4


def test_natural_images_by_hand():
    look = in_a_row()
    (best,) = natural_heat(look, 1).values()  # filter 0: image 1 of mean .4; filter 1: image 0
    torch.testing.assert_close(best, torch.tensor([[[1, 0, 0.2]], [[1, 1, 0]]]).double())
    # all four, each scaled: filter 0 (0, 1, 0), (1, 0, .2), (0, 1, 0), (0, 1, 1), in sum (1, 3,
    # 1.2); filter 1 (1, 1, 0), (1, 0, 0), (1, 1, 0), 0, in sum (3, 2, 0)
    heat = torch.tensor([[[0, 1, 0.1]], [[1, 2 / 3, 0]]]).double()
    wanted = slow.mse_score(look.maps, heat)
    torch.testing.assert_close(RANKINGS["natural_patches"](look)["0"], wanted)
    assert float(wanted[0, 0]) == pytest.approx(-0.01 / 3)  # of (0, 0, .1)


MAPS = torch.tensor([[[0.0, 0.5], [1, 0.5]], [[0.0, 0.5], [0, 0.5]]])
HEAT = torch.tensor([[[0.0, 0], [1, 0]], [[1.0, 1], [0, 1]], [[0.0, 1], [0, 1]]])
FLAT_OTHERS = {
    # map 0 minus the mean is (0, 0, .5, 0), map 1 minus the mean (0, 0, -.5, 0)
    "minus_mean": [[[0.0, 0], [1, 0]], [[1.0, 1], [0, 1]]],
    "rescaled": [[[0.0, 0.5], [1, 0.5]], [[0.0, 1], [0, 1]]],
    "max_over_classes": [[[0.0, 0.5], [1, 0.5]]],
    "contrast": [[[0.0, 0], [1, 0]], [[1.0, 1], [0, 1]]],
}


@pytest.mark.parametrize("name", FLAT_OTHERS)
def test_other_maps_by_hand(name):
    look = Evidence(nn.Module(), None, 0, lambda: MAPS, lambda: {"a": HEAT})
    wanted = slow.mse_score(torch.tensor(FLAT_OTHERS[name]), HEAT)
    torch.testing.assert_close(RANKINGS[name](look)["a"], wanted)
    assert float(wanted[0].max()) > float(wanted[0].min())


def test_contrast_takes_the_largest_of_the_others():
    maps = torch.tensor([[[0.9, 0.1]], [[0.5, 0.3]], [[0.2, 0.8]]])
    look = Evidence(nn.Module(), None, 0, lambda: maps, lambda: {"a": HEAT[:, :1]})
    wanted = torch.tensor([[[1.0, 0]], [[1.0, 0]], [[0.0, 1]]])  # .4, -.7; -.4, -.5; -.7, .5
    torch.testing.assert_close(RANKINGS["contrast"](look)["a"], slow.mse_score(wanted, HEAT[:, :1]))


# --- maps of the images ---------------------------------------------------------------------------


@pytest.mark.parametrize("batch_norm", [True, False])
def test_grad_cam_is_captum_s(batch_norm):
    captum = pytest.importorskip("captum.attr")
    model, task = small(batch_norm, 4), small_task(first_output=2)
    twin, x = slow.prepared(model), slow.pixels(task)
    found = maps_room.cam_maps(look_at(model, task))
    maker = list(activations.map_makers(twin).values())[-1]
    right = twin(x)[:, 2:].argmax(1) == task.y
    for c in (0, 1):
        hits = [n for n in range(len(x)) if task.y[n] == c and right[n]]
        hits = (hits or [n for n in range(len(x)) if task.y[n] == c])[:2]
        cam = captum.LayerGradCam(twin, maker).attribute(x[hits], 2 + c, relu_attributions=True)
        cam = F.interpolate(cam, size=(32, 32), mode="bilinear")[:, 0].detach()
        wanted = sum(slow.scaled(one) for one in cam) / len(hits)
        torch.testing.assert_close(found[c], wanted, rtol=1e-9, atol=1e-9)


def test_grad_cam_and_input_gradient_rank_by_their_own_maps():
    model, task = small(outputs=4, depth=11), small_task(first_output=2)
    look = look_at(model, task)
    twin, x = slow.prepared(model), slow.pixels(task)
    right = twin(x)[:, 2:].argmax(1) == task.y
    maps = []
    for c in (0, 1):
        own = task.y == c
        pick = x[own & right][:2] if (own & right).any() else x[own][:2]
        maps.append(slow.input_gradient_map(twin, pick, 2 + c))
    found = RANKINGS["input_gradient"](look)
    cam = maps_room.cam_maps(look)
    by_cam = RANKINGS["grad_cam"](look)
    for layer, heat in look.heat.items():
        torch.testing.assert_close(found[layer], slow.mse_score(torch.stack(maps), heat))
        torch.testing.assert_close(by_cam[layer], slow.mse_score(cam, heat))
        assert not torch.allclose(found[layer], by_cam[layer])


def test_one_image_is_the_first_that_is_classified_correctly():
    model, task = small(), small_task(images=4)
    right = model.eval()(slow.pixels(task)).argmax(1) == task.y
    firsts = []
    for c in (0, 1):
        own = [n for n in range(8) if task.y[n] == c]
        firsts.append(next((n for n in own if right[n]), own[0]))
    with_x = slow.pixels(task)[firsts]
    maps = torch.stack([slow.scaled(m) for m in fullgrad(model, with_x, torch.tensor([0, 1]))])
    look = look_at(model, task)
    found = RANKINGS["one_image"](look)
    for layer, heat in look.heat.items():
        torch.testing.assert_close(found[layer], slow.mse_score(maps, heat))


def test_at_initialisation_both_maps_are_the_untrained_network_s():
    look = complete(small(), small_task())
    found, other = RANKINGS["mse_at_init"](look), look.initial
    for layer, heat in other.heat.items():
        assert torch.equal(found[layer], similarity(other.maps, heat))
    plain = look_at(small(), small_task())
    with pytest.raises(ValueError, match="no initial: expected Evidence.*fetch_initial"):
        RANKINGS["mse_at_init"](plain)
    with pytest.raises(ValueError, match="no trial: expected Evidence.*fetch_trial"):
        RANKINGS["loss_change"](plain)


# --- what holds for all ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", NEW)
def test_a_ranking_leaves_the_model_as_it_was_and_gives_the_same_again(name):
    model, task = small().train(), small_task()
    norm_layers(model)["conv1_1"].eval()  # mixed modes
    for p in model.head.parameters():
        p.grad = torch.ones_like(p)
    modes = [m.training for m in model.modules()]
    state = copy.deepcopy(model.state_dict())
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    scores = RANKINGS[name](complete(model, task))
    assert torch.equal(torch.rand(1), expected)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.features.parameters())
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.head.parameters())
    assert all(p.requires_grad for p in model.parameters())
    assert all(m.inplace for m in model.modules() if isinstance(m, nn.ReLU))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    rows = 1 if name in ONE_ROW else 2
    for layer, conv in conv_layers(model).items():
        s = scores[layer]
        assert s.shape == (rows, conv.out_channels) and s.dtype == torch.float64
        assert torch.isfinite(s).all() and not s.requires_grad and s.device.type == "cpu"
        assert len(s.unique()) > 1
    again = RANKINGS[name](complete(model, task))
    assert all(torch.equal(scores[layer], again[layer]) for layer in scores)


@pytest.mark.parametrize("name", [n for n in NEW if n not in ("lrp", "mse_at_init")])
def test_rankings_work_where_nothing_is_left_to_train(name):
    model, task = small().requires_grad_(False), small_task()
    trained = RANKINGS[name](complete(small(), task))
    frozen = RANKINGS[name](complete(model, task))
    assert all(torch.equal(trained[layer], frozen[layer]) for layer in trained)


@pytest.mark.parametrize("name", NEW)
def test_a_ranking_looks_at_nothing_it_did_not_name(name):
    model, task, asked = small(), small_task(), []
    whole = complete(model, task)

    def note(need, thing):
        return lambda: (asked.append(need), thing)[1]

    look = Evidence(
        model,
        task if {"images", "initial"} & RANKINGS[name].needs else None,
        0,
        note("maps", whole.maps),
        note("filters", whole.heat),
        2,
        note("initial", whole.initial),
        note("trial", whole.trial),
    )
    RANKINGS[name](look)
    assert set(asked) == RANKINGS[name].needs - {"images"}


class Residual(nn.Module):
    """Two convolutions and one beside them, added in place as in torchvision's ResNet."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.beside, self.bn3 = nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(5, 2)

    def forward(self, x, cut=None):
        def made(name, y):
            return y if cut is None else cut(name, y)

        y = self.relu(made("conv1", self.bn1(self.conv1(x))))
        y = made("conv2", self.bn2(self.conv2(y)))
        y += made("beside", self.bn3(self.beside(x)))
        return self.head(self.relu(y).mean((2, 3)))


@pytest.fixture(scope="module")
def residual():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = Residual().double().eval()
        for norm in norm_layers(model).values():
            nn.init.normal_(norm.bias), nn.init.uniform_(norm.running_mean)
    return model


@pytest.mark.parametrize("name", [n for n in (*BY_IMAGES, "grad_cam") if n != "lrp"])
def test_rankings_of_a_network_that_adds_in_place(residual, name):
    scores = RANKINGS[name](look_at(residual, small_task()))
    assert {k: s.shape for k, s in scores.items()} == {
        "conv1": (2, 4),
        "conv2": (2, 5),
        "beside": (2, 5),
    }


def test_a_filter_s_map_is_what_it_was_before_the_addition(residual):
    task, seen, damages, taylors = small_task(), {}, {}, {}
    x = slow.pixels(task)
    residual(x, lambda name, y: (seen.update({name: y.detach().clone()}), y)[1])
    found = RANKINGS["mean_activation"](look_at(residual, task))
    for c in (0, 1):
        for layer, a in seen.items():
            wanted = a[task.y == c].relu().mean((0, 2, 3)).detach()
            torch.testing.assert_close(found[layer][c], wanted)
    # a filter's damage, and what Taylor's first order says of it, by a factor on its map
    for layer, a in seen.items():
        for f in range(a.shape[1]):

            def scaled_by(s, layer=layer, f=f):
                factor = torch.ones(seen[layer].shape[1]).double()
                factor[f] = s
                cut = lambda n, y: y * factor.view(1, -1, 1, 1) if n == layer else y  # noqa: E731
                return F.cross_entropy(residual(x, cut), task.y, reduction="none").detach()

            damages[layer, f] = scaled_by(0) - scaled_by(1)
            taylors[layer, f] = ((scaled_by(1 + 1e-5) - scaled_by(1 - 1e-5)) / 2e-5).abs()
    for name, each in (("ablation_damage", damages), ("taylor", taylors)):
        found = RANKINGS[name](look_at(residual, task))
        for (layer, f), values in each.items():
            for c in (0, 1):
                wanted = float(values[task.y == c].mean())
                assert float(found[layer][c, f]) == pytest.approx(wanted, rel=1e-5, abs=1e-8)


# --- hindsight ------------------------------------------------------------------------------------


def test_ablation_looks_at_the_first_images_of_each_class(monkeypatch):
    monkeypatch.setattr(hindsight, "ABLATION_IMAGES", 2)
    model, task = small(), small_task(images=4)
    found = RANKINGS["ablation_damage"](look_at(model, task))
    first = torch.tensor([0, 2, 1, 3])  # classes alternate
    same(found, damage(model, task, first))
    same(found, damage(model, task, first[[3, 1, 0, 2]]))  # whatever their order
    assert not torch.allclose(found["conv1_1"], damage(model, task, first + 4)["conv1_1"])


def test_a_filter_that_nothing_reads_does_no_damage():
    model, task = small(False), small_task()
    with torch.no_grad():
        conv_layers(model)["conv2_1"].weight[:, 1] = 0
    scores = RANKINGS["ablation_damage"](look_at(model, task))["conv1_1"]
    assert scores[:, 1].abs().max() < 1e-12 < scores[:, 0].abs().min()


def test_fisher_change_is_what_ewc_would_pay():
    model, task = small(), small_task()
    look = complete(model, task)
    change = {k: look.trial.after[k] - p.detach() for k, p in model.named_parameters()}
    wanted = slow.fisher(slow.prepared(model), slow.pixels(task), task.y, task.outputs, change)
    same(RANKINGS["fisher_change"](look), wanted)


def test_loss_change_sums_a_filter_s_weights_and_bias():
    model, task = small(), small_task()
    look = complete(model, task)
    found, parts = RANKINGS["loss_change"](look), look.trial.loss_change
    for layer in conv_layers(model):
        w, b = parts[f"features.{layer}.weight"], parts[f"features.{layer}.bias"]
        wanted = torch.tensor([[float(w[f].sum() + b[f]) for f in range(len(b))]]).double()
        torch.testing.assert_close(found[layer], wanted, rtol=1e-6, atol=1e-7)


class Snapshots(Method):
    """Keeps the network after every step."""

    def before(self, model, task, context=None):
        self.seen = [copy.deepcopy(model)]

    def after_step(self, model):
        self.seen.append(copy.deepcopy(model))


RECIPE = Recipe(epochs=2, batch_size=4, lr=0.02, momentum=0.9, flip=False, precision="float32")


@pytest.mark.parametrize(("batch_norm", "first_output"), [(True, 0), (False, 2)])
def test_the_trial_follows_the_old_loss_and_moves_no_bit(batch_norm, first_output):
    old, new = small_task(first_output), small_task(0, images=6, seed=2)._replace(name="new")
    start, plain = small(batch_norm, 4), Snapshots()
    model, twin = copy.deepcopy(start), copy.deepcopy(start)
    plain.before(twin, new)
    fit(twin, new, RECIPE, plain, seed=4)
    method = LossChange(old)
    method.before(model, new)
    fit(model, new, RECIPE, method, seed=4)
    a, b = model.state_dict(), twin.state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
    # the sum, step by step, from the networks along the way
    x, gradients, losses = slow.pixels(old), [], []
    for seen in plain.seen:
        seen = slow.prepared(seen)
        each = [slow.loss_of(seen(i[None])[0], c, old.outputs) for i, c in zip(x, old.y.tolist())]
        loss = sum(each) / len(each)
        loss.backward()
        losses.append(float(loss.detach()))
        gradients.append({k: p.grad for k, p in seen.named_parameters()})
    assert len(losses) == 7
    for name, found in method.loss_change.items():
        wanted = torch.zeros_like(found)
        for t in range(6):
            step = plain.seen[t + 1].get_parameter(name) - plain.seen[t].get_parameter(name)
            wanted += (gradients[t][name] + gradients[t + 1][name]) / 2 * step.detach()
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
    if not batch_norm:  # nothing but parameters moved: the parts add up to the loss's change
        total = sum(float(v.sum()) for v in method.loss_change.values())
        assert total == pytest.approx(losses[-1] - losses[0], rel=0.1)
        assert abs(losses[-1] - losses[0]) > 0.01


# --- as arms --------------------------------------------------------------------------------------


def freezing(name, ranking):
    return Arm(name=name, method="freeze", options={"ranking": ranking, "fraction": 0.5})


@pytest.fixture
def study(small_study):
    return small_study(
        Arm(name="fine-tune"),
        freezing("norm", "weight_norm"),
        freezing("init", "mse_at_init"),
        freezing("loss change", "loss_change"),
    )


def test_arms_by_the_new_rankings(study):
    fine, norm, init, change = (arm.name for arm in study.arms)
    assert jobs.lacking(study, 1) >= {("trial", ""), ("initial", ""), ("task1", "")}
    only = study.model_copy(update={"arms": study.arms[:2]})
    assert not {"trial", "initial"} & {kind for kind, _ in jobs.lacking(only, 1, show=True)}
    rows = {name: run(study, 1, name)["row"] for name in (fine, norm, init, change)}
    assert store(study).has("trial", trial_key(study, 1), ".pt")
    # the trial is what fine-tuning comes to
    model, split = network_after_task1(study, 1), tasks(study, 1)
    model.load_state_dict(trial(study, 1)["after"])
    precision = study.recipe.precision
    assert measure(model, split[0], precision)["loss"] == rows[fine]["loss1"]
    assert {r["realised"] for n, r in rows.items() if n != fine} == {0.5}
    # and the untrained network's maps are not the trained one's
    look, before = evidence(study, 1), initial(study, 1)
    assert list(before) == ["maps", *conv_layers(model)]
    assert look.map_images == 2 and not torch.equal(look.initial.maps, look.maps)
    assert torch.equal(look.initial.heat["conv1_1"], torch.from_numpy(before["conv1_1"]))


def test_later_rounds_have_a_trial_and_a_beginning_of_their_own(study):
    three = study.model_copy(
        update={
            "data": study.data.model_copy(update={"classes": ((0, 1), (2, 3), (4, 5))}),
            "network": study.network.model_copy(update={"heads": "per_task"}),
        }
    )
    model = network_after_task1(three, 1)
    kept = copy.deepcopy(model.state_dict())
    look = later_evidence(three, 1, model, 3)
    assert look.task.name == "task2" and look.initial.task.name == "task2"
    after = look.trial.after
    assert all(torch.equal(v, kept[k]) for k, v in model.state_dict().items())
    # plain training on task 3 moves its own head's rows, and not the others' in the first layers
    moved = (after["head.weight"] - kept["head.weight"].cpu()).abs().sum(1) > 0
    assert moved.tolist() == [False] * 4 + [True] * 2
    assert look.trial.loss_change["head.weight"][:2].abs().sum() == 0  # task 1's loss is not asked
    assert RANKINGS["loss_change"](look)["conv1_1"].shape == (1, 4)


def test_what_the_new_rankings_add_to_a_key(study):
    fine, norm, init, change = study.arms
    identity = {arm.name: arms.identity(arm, study) for arm in study.arms}
    usual = {"method", "options", "curriculum"}
    assert identity["norm"].keys() == usual and identity["init"].keys() == usual | {"explain"}
    assert identity["loss change"].keys() == usual | {"trial"}
    assert arms.needs(norm) == ("task1",) and arms.needs(init) == ("task1", "initial")
    assert arms.needs(change) == ("task1", "trial")
    # the explanations' settings count where they are looked at, and nowhere else
    other = study.model_copy(update={"explain": study.explain.model_copy(update={"steps": 9})})
    differs = {a.name for a in study.arms if run_key(study, 1, a.name) != run_key(other, 1, a.name)}
    assert differs == {"init"} and digest(trial_key(study, 1)) == digest(trial_key(other, 1))
