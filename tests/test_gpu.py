"""What only a GPU can show: a step replayed as a CUDA graph trains to the plain step's bits, frozen
filters stand still there, the same seed gives the same bytes, and every explanation, ranking and
method is what the processor makes of it."""

import copy
from dataclasses import replace

import pytest
import torch

from lib.examination import damage_in_halves, efficient_mprt, readouts
from lib.freezing import frozen
from lib.methods import (
    DER,
    EWC,
    GPM,
    L2,
    SI,
    Freeze,
    LwF,
    MergeFisher,
    Nguyen,
    Only,
    PackNet,
    RecordPath,
    Replay,
    SoftFreeze,
)
from lib.network import conv_layers, vgg16
from lib.ranking import RANKINGS, Evidence, Trial
from lib.saliency import class_maps, decompose
from lib.study.materials import reproducibly
from lib.training import Method, fit
from lib.visualization import maximize_activation
from tests.small import RECIPE, context

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CPU, GPU = torch.device("cpu"), torch.device("cuda")
ON_TASKS = replace(RECIPE, epochs=3, batch_size=4, lr=0.002)  # three plain steps, then replays


@pytest.fixture
def on_gpu(tasks):
    return [task.to(GPU) for task in tasks]


def network(tasks, device=GPU, dtype=torch.float32, seed=5):
    outputs = max(t.outputs.stop for t in tasks)
    generator = torch.Generator().manual_seed(seed)
    return vgg16(outputs, width=0.125, generator=generator, batch_norm=True).to(device, dtype)


def halves(model):
    return {k: torch.arange(c.out_channels) % 2 == 0 for k, c in conv_layers(model).items()}


class Halves(Method):
    """Every other filter of every layer stands still."""

    def __init__(self, scope):
        self.scope = scope

    def during(self, model):
        return frozen(model, halves(model), self.scope)


def bits(model):
    return {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}


def same(a, b):
    return all(torch.equal(v, b[k]) for k, v in a.items())


def heat_at_random(model, device=CPU):
    draw = torch.Generator().manual_seed(1)
    return {
        layer: torch.rand(conv.out_channels, 32, 32, generator=draw).to(device)
        for layer, conv in conv_layers(model).items()
    }


def all_the_evidence(model, task):
    """Evidence whose maps, filters and trial are the same numbers on every device."""
    draw = torch.Generator().manual_seed(2)
    maps = torch.rand(len(task.classes), 32, 32, generator=draw)
    changes = {k: torch.rand(p.shape, generator=draw) for k, p in model.named_parameters()}
    after = {k: p.detach().cpu() + 0.01 * changes[k] for k, p in model.named_parameters()}
    heat = heat_at_random(model)

    def look(more):
        return Evidence(model, task, 3, lambda: maps, lambda: heat, 4, **more)

    trial = Trial(after, changes)
    return look({"fetch_initial": lambda: look({}), "fetch_trial": lambda: trial})


def trained(tasks, method, monkeypatch, graphs, precision="float32"):
    """Bits of the network, and of what the method records, after rounds 2 and 3."""
    monkeypatch.setenv("CUDA_GRAPHS", str(int(graphs)))
    recipe = replace(ON_TASKS, precision=precision)
    model, method = network(tasks), copy.deepcopy(method)
    with reproducibly():
        path = RecordPath()
        path.before(model, tasks[0])
        fit(model, tasks[0], recipe, path, 3)
        start = {k: p.detach().clone() for k, p in network(tasks).named_parameters()}
        for number, task in enumerate(tasks[1:], 2):
            now = replace(
                context(tasks, number, recipe),
                scores=lambda name, **how: RANKINGS[name](all_the_evidence(model, tasks[0]), **how),
                path=lambda: path.omega,
                initial=lambda: start,
            )
            method.before(model, task, now)
            fit(model, task, recipe, method, 3)
            method.after(model, task, now)
    return {**bits(model), **{f"path of {k}": v.cpu() for k, v in path.omega.items()}}


METHODS_TRIED = {
    "fine-tune": Method(),
    "weights": Halves("weights"),
    "filter": Halves("filter"),
    "freeze": Freeze("random", 0.3),
    "EWC": EWC(strength=1.0, images=8),
    "SI": SI(strength=1.0),
    "L2": L2(strength=0.1),
    "LwF": LwF(),
    "soft": SoftFreeze(ranking="mse", strength=1.0),
    "soft, learning rate": SoftFreeze(ranking="mse", form="learning rate", strength=1.0),
    "PackNet": PackNet(retrain=1),
    "GPM": GPM(images=8),
    "replay": Replay(per_class=2),
    "DER": DER(per_class=2),
    "Nguyen": Nguyen(images=4),
    "head": Only(part="head"),
    "merge": MergeFisher(images=8),
}


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("name", METHODS_TRIED)
def test_a_replayed_step_trains_to_the_plain_bits(on_gpu, monkeypatch, name, precision):
    method = METHODS_TRIED[name]
    plain = trained(on_gpu, method, monkeypatch, False, precision)
    assert same(plain, trained(on_gpu, method, monkeypatch, True, precision))
    assert all(torch.isfinite(v).all() for v in plain.values())


@pytest.mark.parametrize("scope", ["weights", "filter"])
def test_frozen_filters_stand_still_bit_for_bit(on_gpu, scope):
    model = network(on_gpu)
    before = bits(model)
    fit(model, on_gpu[0], ON_TASKS, Halves(scope), 3)
    after = bits(model)
    for layer, mask in halves(model).items():
        name = next(n for n, m in model.named_modules() if m is conv_layers(model)[layer])
        for part in ("weight", "bias"):
            was, now = before[f"{name}.{part}"], after[f"{name}.{part}"]
            assert torch.equal(was[mask], now[mask]) and not torch.equal(was[~mask], now[~mask])


def test_a_step_is_the_processors_but_for_rounding(tasks, on_gpu):
    states = []
    for split, device in ((tasks, CPU), (on_gpu, GPU)):
        model = network(split, device, torch.float64)
        fit(model, split[0], replace(ON_TASKS, epochs=1), Halves("weights"), 3)
        states.append(bits(model))
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-8, atol=1e-9, msg=name)


def test_fullgrad_is_complete_and_the_processors(tasks, on_gpu):
    maps = []
    for split, device in ((tasks, CPU), (on_gpu, GPU)):
        model = network(split, device, torch.float64)
        maps.append(class_maps(model, split[0], 4).maps.cpu())
        x = torch.rand(4, 3, 32, 32, dtype=torch.float64, device=device)
        residual = decompose(model, x, torch.zeros(4, dtype=torch.int64, device=device)).residual
        assert residual.max() < 1e-12
    torch.testing.assert_close(maps[1], maps[0], rtol=1e-7, atol=1e-8)


def test_visualizations_are_the_processors(tasks):
    found = [
        maximize_activation(network(tasks, d, torch.float64), "conv3_1", range(5), 5).cpu()
        for d in (CPU, GPU)
    ]
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", RANKINGS)
def test_every_ranking_is_the_processors(tasks, on_gpu, name):
    scores = []
    for split, device in ((tasks, CPU), (on_gpu, GPU)):
        model = network(split, device, torch.float64)
        scores.append(RANKINGS[name](all_the_evidence(model, split[0])))
    for layer, on_cpu in scores[0].items():
        assert scores[1][layer].device == CPU
        torch.testing.assert_close(scores[1][layer], on_cpu, rtol=1e-5, atol=1e-7, msg=layer)


@pytest.mark.parametrize("name", RANKINGS)
def test_every_ranking_takes_the_studys_own_network(tasks, on_gpu, name):
    """Float32, channels last: there some of PyTorch's kernels for a GPU are others."""
    scores = []
    for split, device in ((tasks, CPU), (on_gpu, GPU)):
        model = network(split, device).to(memory_format=torch.channels_last)
        scores.append(RANKINGS[name](all_the_evidence(model, split[0])))
    for layer, on_cpu in scores[0].items():
        apart = (scores[1][layer] - on_cpu).abs()
        assert torch.isfinite(apart).all() and apart.median() <= 0.01 * on_cpu.abs().max() + 1e-6


def test_examinations_are_the_processors(tasks, on_gpu):
    found = []
    for split, device in ((tasks, CPU), (on_gpu, GPU)):
        model, other = (network(split, device, torch.float64, seed) for seed in (5, 6))
        first, _ = damage_in_halves(model, split[0], 4)
        found.append(
            {
                **{k: s.double() for k, s in first.items()},
                **efficient_mprt(model, other, split[0], 2),
                **readouts(model, dict(other.state_dict()), split[0]),
            }
        )
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-7)
