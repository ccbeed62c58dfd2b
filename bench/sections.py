"""What is measured, section by section: each returns the lines of its own table and its lines of
the table of targets.

    lines, rows = SECTIONS["train"](Setup(device, repeats=5))

Networks and recipes are those of the profiles; images and weights are random, since times do not
depend on them."""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from bench import baselines
from bench.measure import (
    Row,
    cores,
    fresh,
    macs,
    median_seconds,
    median_within,
    side_by_side,
    watched,
)
from lib import kernels
from lib.data import Task
from lib.freezing import BLOCK, Masks, frozen
from lib.network import VGG, conv_layers, up_to, vgg16
from lib.precision import autocast, resolve_precision
from lib.ranking import METRICS, similarity
from lib.recipe import Recipe
from lib.saliency import fullgrad
from lib.study import profile
from lib.training import Method, fit
from lib.visualization import maximize_activation, noise_image
from references.saliency import fullgrad_one
from references.similarity import scores_by_pairs
from references.visualization import without_hooks

NETWORKS = {"full width": "paper", "compact": "compact"}  # -> profile
FRACTIONS = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
DTYPES = {"bf16": torch.bfloat16, "float32": torch.float32}
TARGETS = {  # measure -> (CPU, GPU); ratios
    "train full width": (">= 2", ">= 8"),
    "train compact": (">= 2", ">= 8"),
    "train full width, share of peak": (">= 0.8", ""),
    "freeze full width": ("<= 0.8", "<= 0.85"),
    "freeze compact": ("<= 0.9", ""),
    "conv3_1": (">= 6", ">= 100"),
    "conv5_3": (">= 10", ">= 100"),
    "fullgrad": (">= 10", ">= 30"),
    "scores": (">= 100", ">= 100"),
    "quick": ("<= 5", ""),
    "quick memory": ("<= 3", ""),
    "plan": ("<= 60", ""),
}
UNIT_IMAGES = 5000  # of one epoch of one task of CIFAR-100
TRAINING = 3  # a training step computes about three times the products of a forward pass
ASCENT = 2  # a pass that needs the gradient of the image alone: twice


class Setup(NamedTuple):
    """Where to measure and how often; tiny: sizes for the tests, whose times mean nothing."""

    device: torch.device
    repeats: int = 5
    tiny: bool = False

    def target(self, name: str) -> str:
        """The target of a measure on this kind of device; none if tiny."""
        return "" if self.tiny else TARGETS[name][self.device.type == "cuda"]


Lines = list[dict]


def network(name: str, setup: Setup) -> tuple[VGG, Recipe]:
    """A network of the study with fresh weights, on the device, and its recipe."""
    found = profile.load(NETWORKS[name])
    n = found.network
    model = vgg16(
        10,
        0.0625 if setup.tiny else n.width,
        n.batch_norm,
        n.image_size,
        n.depth,
        n.classifier,
        n.init,
    )
    return model.to(setup.device), found.recipe


def random_task(images: int, device: torch.device) -> Task:
    """Ten classes of random 32 px images."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (images, 3, 32, 32), generator=draw, dtype=torch.uint8).to(device)
    y = torch.randint(0, 10, (images,), generator=draw).to(device)
    return Task("random", tuple(range(10)), x, y, x[:10], y[:10])


# --- the machine's peak ---------------------------------------------------------------------------


def _products(size: int) -> dict[str, Callable]:
    """Ways torch has to multiply (size, size) matrices: by different libraries, at different
    speeds."""
    return {
        "linear": F.linear,
        "1x1 convolution": lambda a, b: F.conv2d(
            a.view(-1, 8, 8, size).permute(0, 3, 1, 2), b[..., None, None]
        ),
    }


def _prepare_products(precision: str, product: str, size: int, calls: int, device: str):
    a, b = (torch.randn(size, size, device=device).to(DTYPES[precision]) for _ in range(2))
    multiply = _products(size)[product]

    @torch.no_grad()
    def work():
        for _ in range(calls):
            multiply(a, b)

    return work, torch.device(device)


def ways(setup: Setup) -> dict[str, tuple[int, int]]:
    """Ways to use the machine: label -> (processes, threads of each)."""
    if setup.device.type == "cuda":
        return {f"{n} process{'es' * (n > 1)}": (n, 1) for n in (1, 2, 4)}
    if cores() == 1:
        return {"1 thread": (1, 1)}
    return {
        "1 thread": (1, 1),
        f"{cores()} threads": (1, cores()),
        f"{cores()} processes of 1 thread": (cores(), 1),
    }


def _run(way: tuple[int, int], prepare: Callable, repeats: int, *arguments) -> float:
    """Median seconds of the work done once in every process."""
    return side_by_side(way[0], prepare, way[1], repeats, *arguments)


@lru_cache
def peaks(setup: Setup, precision: str) -> Lines:
    """GFLOP/s of large square matrix products, by library and by way to use the machine (on a GPU
    one process)."""
    size = 64 if setup.tiny else 8192 if setup.device.type == "cuda" else 2048
    calls, lines = 10 if setup.device.type == "cuda" else 2, []
    found = list(ways(setup).items())
    for label, way in (
        found[:1] if setup.device.type == "cuda" else dict([found[0], found[-1]]).items()
    ):
        for product in _products(size):
            seconds = _run(
                way,
                _prepare_products,
                setup.repeats,
                precision,
                product,
                size,
                calls,
                str(setup.device),
            )
            lines.append(
                {
                    "precision": precision,
                    "way": label,
                    "product": product,
                    "GFLOP/s": way[0] * calls * 2 * size**3 / seconds / 1e9,
                }
            )
    return lines


def best_peak(setup: Setup, precision: str) -> float:
    """FLOP/s of the fastest product."""
    return max(line["GFLOP/s"] for line in peaks(setup, precision)) * 1e9


def peak_section(setup: Setup) -> tuple[Lines, list[Row]]:
    """Large matrix products: GFLOP/s the machine reaches in each precision, by each library, in
    each way to use it."""
    return peaks(setup, "bf16") + peaks(setup, "float32"), []


def _of_peak(setup: Setup, flops_per_second: float, precision: str) -> str:
    top = best_peak(setup, precision)
    return (
        f"operations: {flops_per_second / 1e9:.0f} GFLOP/s = {flops_per_second / top:.0%} of the "
        f"{precision} peak "
        f"({top / 1e9:.0f})"
    )


# --- training -------------------------------------------------------------------------------------


def _steps(name: str, setup: Setup) -> int:
    """Steps of one measured epoch."""
    if setup.tiny:
        return 2
    return 78 if setup.device.type == "cuda" else {"full width": 6, "compact": 30}[name]


def _prepare_training(name: str, setup: Setup, graphs: bool = True):
    os.environ["CUDA_GRAPHS"] = str(int(graphs))
    model, recipe = network(name, setup)
    recipe = replace(recipe, epochs=1)
    task = random_task(_steps(name, setup) * recipe.batch_size, setup.device)
    return lambda: fit(model, task, recipe), setup.device


def _textbook_rate(name: str, setup: Setup) -> float:
    """Images per second of the textbook loop, all threads; median over epochs, the first does not
    count."""
    model, recipe = network(name, setup)
    model = baselines.plain(model)
    images = _steps(name, setup) * recipe.batch_size
    loader = baselines.textbook_loader(
        random_task(images, setup.device),
        recipe.batch_size,
        recipe.crop_padding,
        0 if setup.tiny else min(8, cores()),
    )
    _, seconds = baselines.textbook_training(
        model, loader, setup.repeats + 1, recipe.lr, recipe.momentum
    )
    return images / statistics.median(seconds[1:])


@lru_cache
def _rate(way: tuple[int, int], name: str, setup: Setup, graphs: bool = True) -> float:
    """Images per second of our own loop."""
    images = _steps(name, setup) * network(name, setup)[1].batch_size
    return way[0] * images / _run(way, _prepare_training, setup.repeats, name, setup, graphs)


def train_section(setup: Setup) -> tuple[Lines, list[Row]]:
    """Images per second, nothing frozen: the textbook loop, and ours in each way to use the
    machine.

    Operations are counted as usual, with the places of a filter that lie in the padding; libraries
    skip many of them."""
    lines, rows = [], []
    precision = resolve_precision("auto", setup.device)
    for name in NETWORKS:
        flop = TRAINING * 2 * macs(network(name, setup)[0])  # for each image
        slow = fresh(_textbook_rate, cores(), name, setup, as_worker=False)
        rates = {label: _rate(way, name, setup) for label, way in ways(setup).items()}
        if setup.device.type == "cuda":
            rates["1 process, no CUDA graph"] = _rate((1, 1), name, setup, graphs=False)
        for label, rate in {"textbook": slow, **rates}.items():
            lines.append(
                {
                    "network": name,
                    "loop": label,
                    "images/s": rate,
                    "MFLOP an image": flop / 1e6,
                    "GFLOP/s": rate * flop / 1e9,
                }
            )
        label = max(rates, key=rates.get)
        shares = _of_peak(setup, rates[label] * flop, precision)
        rows.append(
            Row(
                f"training, {name}, nothing frozen",
                f"{slow:.0f} images/s",
                f"{rates[label]:.0f} images/s ({label}, {precision})",
                rates[label] / slow,
                setup.target(f"train {name}"),
                shares,
            )
        )
        if name == "full width":
            top = best_peak(setup, precision)
            rows.append(
                Row(
                    f"the same, share of the {precision} peak",
                    f"{top / 1e9:.0f} GFLOP/s",
                    f"{rates[label] * flop / 1e9:.0f} GFLOP/s",
                    rates[label] * flop / top,
                    setup.target("train full width, share of peak"),
                    "see convolutions alone, below",
                )
            )
    return lines, rows


# --- what bounds a step ---------------------------------------------------------------------------


def convolutions(name: str, setup: Setup) -> Lines:
    """Each convolution's three products of one training step, by itself: milliseconds and
    GFLOP/s."""
    model, recipe = network(name, setup)
    dtype = DTYPES[resolve_precision("auto", setup.device)]
    lines, x = [], torch.randn(recipe.batch_size, 3, 32, 32, device=setup.device)
    for layer in model.features:
        out = layer(x).detach()
        if isinstance(layer, nn.Conv2d):
            a, w, grad = (
                t.detach().to(dtype).contiguous(memory_format=torch.channels_last)
                for t in (x, layer.weight, torch.randn_like(out))
            )
            how = (w, [len(w)], [1, 1], [1, 1], [1, 1], False, [0, 0], 1)

            def backward(which, a=a, grad=grad, how=how):
                return torch.ops.aten.convolution_backward(grad, a, *how, which)

            works = {
                "forward": lambda a=a, w=w: F.conv2d(a, w, padding=1),
                "input gradient": lambda: backward([True, False, False]),
                "weight gradient": lambda: backward([False, True, True]),
            }
            with torch.no_grad():
                for work, do in works.items():
                    if (work, a.shape[1]) == ("input gradient", 3):
                        continue  # nobody asks for the gradient of the images
                    seconds = median_seconds(do, 2 * setup.repeats, setup.device)
                    gflop = 2e-9 * out.numel() * w[0].numel()
                    lines.append(
                        {
                            "convolution": f"{a.shape[1]} -> {len(w)} at {out.shape[-1]} px",
                            "work": work,
                            "ms": seconds * 1e3,
                            "GFLOP": gflop,
                            "GFLOP/s": gflop / seconds,
                        }
                    )
        x = out
    return lines


def convolutions_section(setup: Setup) -> tuple[Lines, list[Row]]:
    """Full width, one thread: what the library's convolutions take, beside a whole step of ours.
    What they take, no training loop around them can save."""
    lines = fresh(convolutions, 1, "full width", setup)
    step = network("full width", setup)[1].batch_size / _rate((1, 1), "full width", setup)
    alone, gflop = (sum(line[k] for line in lines) for k in ("ms", "GFLOP"))
    precision = resolve_precision("auto", setup.device)
    top = max(line["GFLOP/s"] for line in peaks(setup, precision) if line["way"].startswith("1 "))
    lines += [
        {
            "convolution": "all of them",
            "work": "",
            "ms": alone,
            "GFLOP": gflop,
            "GFLOP/s": gflop / alone * 1e3,
        },
        {
            "convolution": "a whole step",
            "work": "",
            "ms": step * 1e3,
            "GFLOP": gflop,
            "GFLOP/s": gflop / step,
        },
    ]
    return lines, [
        Row(
            "convolutions alone, full width, one thread",
            f"{step * 1e3:.0f} ms a step",
            f"{alone:.0f} ms",
            alone / step / 1e3,
            "",
            f"{gflop / alone * 1e3:.0f} GFLOP/s = {gflop / alone * 1e3 / top:.0%} of one "
            "thread's peak "
            f"({top:.0f}): no loop around the library's convolutions can have a larger share",
        )
    ]


def _compiled(name: str, setup: Setup) -> Lines:
    model, recipe = network(name, setup)
    x = torch.randn(recipe.batch_size, 3, 32, 32, device=setup.device).contiguous(
        memory_format=torch.channels_last
    )
    y = torch.arange(recipe.batch_size, device=setup.device) % 10

    def step(forward):
        with autocast("auto", setup.device):
            logits = forward(x)
        F.cross_entropy(logits.float(), y).backward()
        model.zero_grad()

    compiled = torch.compile(model, backend="eager" if setup.tiny else "inductor")
    with (
        tempfile.TemporaryDirectory() as empty
    ):  # the time to compile is asked, not to load what was compiled before
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = empty
        start = time.perf_counter()
        step(compiled)
        to_compile = time.perf_counter() - start
    eager, fast = (
        median_seconds(partial(step, f), 2 * setup.repeats, setup.device) for f in (model, compiled)
    )
    pays = to_compile / (eager - fast) if fast < eager else float("inf")
    unit = UNIT_IMAGES // recipe.batch_size * recipe.epochs
    return [
        {
            "network": name,
            "eager ms": eager * 1e3,
            "compiled ms": fast * 1e3,
            "s to compile": to_compile,
            "steps until it pays": pays,
            "steps of a unit": unit,
        }
    ]


def compile_section(setup: Setup) -> tuple[Lines, list[Row]]:
    """Compact network, forward and backward pass, one thread: eager as we run it, and by
    torch.compile; the time to compile, and after how many steps it is paid back."""
    return fresh(_compiled, 1, "compact", setup), []


# --- freezing -------------------------------------------------------------------------------------


class Hold(Method):
    """Freezes given masks."""

    def __init__(self, masks: Masks):
        self.masks = masks

    def during(self, model):
        return frozen(model, self.masks)


def fraction_masks(model: VGG, fraction: float) -> Masks:
    """Of each layer, a fraction of the filters, at random places."""
    draw = torch.Generator().manual_seed(0)
    return {
        layer: torch.randperm(conv.out_channels, generator=draw)
        < int(fraction * conv.out_channels + 0.5)
        for layer, conv in conv_layers(model).items()
    }


def _frozen_seconds(name: str, setup: Setup) -> dict[str, float]:
    """Median seconds of a step for each plan; the plans take turns, so that a slower minute meets
    all alike."""
    model, recipe = network(name, setup)
    recipe = replace(recipe, epochs=1)
    steps = max(1, _steps(name, setup) // 3)
    task = random_task(steps * recipe.batch_size, setup.device)
    plans = {f"{f:.0%}": fraction_masks(model, f) for f in FRACTIONS}
    plans["one filter a layer"] = {
        layer: torch.arange(len(mask)) == 0 for layer, mask in plans["0%"].items()
    }
    plans["no weight gradient"] = fraction_masks(model, 1) | {
        "conv1_1": fraction_masks(model, 0)["conv1_1"]
    }
    seconds: dict[str, list[float]] = {plan: [] for plan in plans}
    for _ in range(2 * setup.repeats + 1):
        for plan, masks in plans.items():
            work = partial(fit, model, task, recipe, Hold(masks))
            seconds[plan].append(median_seconds(work, 1, setup.device, warm_up=0) / steps)
    return {plan: statistics.median(s[1:]) for plan, s in seconds.items()}


def _left(model: VGG, fraction: float) -> float:
    """Share of the weight gradients' operations left when only whole blocks of filters can be
    saved."""
    blocks = lambda rows: -(-rows // BLOCK)  # noqa: E731
    full = left = 0
    for layer, conv in conv_layers(model).items():
        work = (
            32 // 2 ** int(layer[4])
        ) ** 2 * conv.in_channels  # for each filter: places times channels
        kept = conv.out_channels - int(fraction * conv.out_channels + 0.5)
        full += work * blocks(conv.out_channels)
        left += work * blocks(kept if conv.in_channels >= BLOCK else conv.out_channels)
    return left / full


def freeze_section(setup: Setup) -> tuple[Lines, list[Row]]:
    """Seconds of our own step with some filters frozen, over those with nothing frozen; one thread,
    as runs are made.

    "no weight gradient": every layer but the first frozen whole, so that gradients still go all the
    way back. What this takes, no fraction below 1 can save. "one filter a layer": saves nothing, so
    that what it takes above nothing frozen is the cost of freezing itself."""
    lines, rows = [], []
    for name in NETWORKS:
        medians = fresh(_frozen_seconds, 1, name, setup)
        free = medians["0%"]
        least, left = medians["no weight gradient"] / free, _left(network(name, setup)[0], 0.75)
        for plan, value in medians.items():
            lines.append(
                {
                    "network": name,
                    "frozen": plan,
                    "ms a step": value * 1e3,
                    "over nothing frozen": value / free,
                }
            )
        rows.append(
            Row(
                f"a step at 75 % frozen, {name}",
                f"{free * 1e3:.1f} ms",
                f"{medians['75%'] * 1e3:.1f} ms",
                medians["75%"] / free,
                setup.target(f"freeze {name}"),
                f"operations: without weight gradients a step takes {least:.2f}; {left:.0%} of "
                "them are left "
                f"in whole blocks of {BLOCK} filters, so 75 % frozen cannot be under "
                f"{least + left * (1 - least):.2f}; launches: one filter frozen in each layer, "
                "which saves "
                f"nothing, makes a step {medians['one filter a layer'] / free:.2f}",
            )
        )
    return lines, rows


# --- explanations ---------------------------------------------------------------------------------


def _ours_filters(layer: str, steps: int, setup: Setup) -> tuple[float, int]:
    model, _ = network("full width", setup)
    maximize_activation(
        model, layer, range(min(64, conv_layers(model)[layer].out_channels)), steps=2
    )  # warm-up
    return median_within(
        lambda: maximize_activation(model, layer, steps=steps), setup.repeats, setup.device
    )


def _loop_filters(layer: str, steps: int, few: int, setup: Setup) -> tuple[float, int]:
    model = baselines.plain(network("full width", setup)[0]).eval()
    start = noise_image(0, layer, range(few), 32).to(setup.device)

    def loop(number=few, steps=steps):
        for f in range(number):
            without_hooks(model, layer, f, steps, start[f : f + 1])

    loop(1, 2)
    return median_within(loop, setup.repeats, setup.device)


def filters_section(setup: Setup) -> tuple[Lines, list[Row]]:
    """All filters of a middle and of the last layer visualised, 30 steps, float32, all threads. The
    loop is timed on a few filters (the same work for each) and scaled."""
    lines, rows = [], []
    model, _ = network("full width", setup)
    steps, few = (2, 2) if setup.tiny else (30, 8)
    for layer in ("conv3_1", "conv5_3"):
        count = conv_layers(model)[layer].out_channels
        few = min(few, count)
        part, loop_repeats = fresh(
            _loop_filters, cores(), layer, steps, few, setup, as_worker=False
        )
        ours, ours_repeats = fresh(_ours_filters, cores(), layer, steps, setup)
        slow = part * count / few
        macs_once = macs(up_to(model, layer)[:-1])
        flop, loop_flop = (count * steps * 2 * passes * macs_once for passes in (ASCENT, TRAINING))
        lines.append(
            {
                "layer": layer,
                "filters": count,
                "loop s": slow,
                "loop timed on": few,
                "repeats": loop_repeats,
                "loop GFLOP/s": loop_flop / slow / 1e9,
                "ours s": ours,
                "our repeats": ours_repeats,
                "our GFLOP/s": flop / ours / 1e9,
            }
        )
        rows.append(
            Row(
                f"all {count} filters of {layer}, {steps} steps",
                f"{slow:.1f} s (timed on {few}, scaled)",
                f"{ours:.2f} s",
                slow / ours,
                setup.target(layer),
                _of_peak(setup, flop / ours, "float32"),
            )
        )
    return lines, rows


def _explained(images: int, setup: Setup) -> tuple[VGG, torch.Tensor, torch.Tensor]:
    model, _ = network("full width", setup)
    x = torch.randn(images, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(setup.device)
    return model.eval(), x, torch.arange(images, device=setup.device) % 10


def _ours_fullgrad(images: int, setup: Setup) -> tuple[float, int]:
    model, x, targets = _explained(images, setup)
    fullgrad(model, x, targets)  # warm-up
    return median_within(lambda: fullgrad(model, x, targets), setup.repeats, setup.device)


def _loop_fullgrad(images: int, setup: Setup) -> tuple[float, int]:
    model, x, _ = _explained(images, setup)
    model = baselines.plain(model)

    def loop(number=images):
        for i in range(number):
            fullgrad_one(model, x[i : i + 1], i % 10)

    loop(2)
    return median_within(loop, setup.repeats, setup.device)


def fullgrad_section(setup: Setup) -> tuple[Lines, list[Row]]:
    """FullGrad of 100 images at full width, float32, all threads."""
    images = 4 if setup.tiny else 100
    slow, loop_repeats = fresh(_loop_fullgrad, cores(), images, setup, as_worker=False)
    ours, ours_repeats = fresh(_ours_fullgrad, cores(), images, setup)
    flop = images * ASCENT * 2 * macs(network("full width", setup)[0])
    lines = [
        {
            "images": images,
            "loop s": slow,
            "repeats": loop_repeats,
            "ours s": ours,
            "our repeats": ours_repeats,
            "our GFLOP/s": flop / ours / 1e9,
        }
    ]
    return lines, [
        Row(
            f"FullGrad of {images} images, full width",
            f"{slow:.1f} s",
            f"{ours:.2f} s",
            slow / ours,
            setup.target("fullgrad"),
            _of_peak(setup, flop / ours, "float32"),
        )
    ]


def scores_section(setup: Setup) -> tuple[Lines, list[Row]]:
    """Ten maps against the visualizations of all 4,224 filters. The loop over pairs calls
    scikit-learn (mse, cosine), scipy (pearson) and torchmetrics (ssim); it is timed on some pairs
    (the same work for each) and scaled."""
    n_maps, n_filters, some = (2, 16, 3) if setup.tiny else (10, 4224, 20)
    draw = torch.Generator().manual_seed(0)
    maps, heat = (torch.rand(n, 32, 32, generator=draw) for n in (n_maps, n_filters))
    maps_there, heat_there = maps.to(setup.device), heat.to(setup.device)
    few = heat[:some].numpy()
    lines = []
    for metric in METRICS:
        ours = median_seconds(
            lambda: similarity(maps_there, heat_there, metric), setup.repeats, setup.device
        )
        part = median_seconds(
            lambda: scores_by_pairs(maps.numpy(), few, metric),
            setup.repeats,
            setup.device,
        )
        lines.append(
            {
                "metric": metric,
                "pairs": n_maps * n_filters,
                "loop timed on": n_maps * some,
                "loop s": part * n_filters / some,
                "ours s": ours,
                "ratio": part * n_filters / some / ours,
            }
        )
    slow, ours = (sum(line[k] for line in lines) for k in ("loop s", "ours s"))
    longest = max(lines, key=lambda line: line["ours s"])
    return lines, [
        Row(
            f"scores of {n_maps} maps against {n_filters:,} visualizations, four metrics",
            f"{slow:.2f} s (timed on {n_maps * some} pairs, scaled)",
            f"{ours:.3f} s",
            slow / ours,
            setup.target("scores"),
            f"{longest['metric']}: {longest['ours s'] / ours:.0%} of our time",
        )
    ]


# --- whole profiles -------------------------------------------------------------------------------


def quick_section(setup: Setup) -> tuple[Lines, list[Row]]:
    """The quick profile (smoke, if tiny) from nothing to its report, by the command that `make
    reproduce` runs."""
    name = "smoke" if setup.tiny else "quick"
    with tempfile.TemporaryDirectory() as results:
        command = [sys.executable, "-m", "lib.reproduce", "run", "--profile", name]
        seconds, memory = watched(command, {"RESULTS": results})
    lines = [{"profile": name, "s": seconds, "GB at most": memory}]
    return lines, [
        Row(
            f"the {name} profile, minutes",
            "-",
            f"{seconds:.0f} s",
            seconds / 60,
            setup.target("quick"),
        ),
        Row(
            f"the {name} profile, GB at most",
            "-",
            f"{memory:.2f} GB",
            memory,
            setup.target("quick memory"),
            "all its processes together",
        ),
    ]


def _ascent_seconds(setup: Setup) -> float:
    """Seconds of one step of all filters' visualizations, measured on a batch of each layer and
    scaled."""
    model, total = network("full width", setup)[0], 0.0
    for layer, conv in conv_layers(model).items():
        some = min(64, conv.out_channels)
        once, more = (
            median_seconds(
                lambda n=n, some=some: maximize_activation(model, layer, range(some), steps=n),
                1,
                setup.device,
                warm_up=1,
            )
            for n in (1, 3)
        )  # noqa: B023  used at once
        total += (more - once) / 2 * conv.out_channels / some
    return total


def plan_section(setup: Setup) -> tuple[Lines, list[Row]]:
    """One seed of the paper profile's arms at this machine's rates: computed from short
    measurements, not run."""
    found = profile.load("paper")
    label, way = list(ways(setup).items())[-1]
    rate = _rate(way, "full width", setup)
    curricula = [arm.curriculum for arm in found.arms]
    # a unit: ten epochs of one task; joint training has twice the images and twice the epochs
    units = 1 + sum(
        {"sequence": 1, "last": 1}.get(c, len(found.data.classes) ** 2) for c in curricula
    )
    training = units * found.recipe.epochs * UNIT_IMAGES / rate
    steps = found.explain.steps
    a_step = fresh(_ascent_seconds, 1, setup) / (
        cores() if setup.device.type == "cpu" else 1
    )  # layers side by side
    lines = [
        {"part": f"{units} units of training, {label}", "minutes": training / 60},
        {"part": f"visualizations of all filters, {steps} steps", "minutes": steps * a_step / 60},
    ]
    total = sum(line["minutes"] for line in lines)
    return lines, [
        Row(
            "one seed's primary arms, paper profile, minutes",
            "-",
            f"{total:.0f} min (computed)",
            total,
            setup.target("plan"),
            "from rates measured here; joint training included",
        )
    ]


# --- kernels --------------------------------------------------------------------------------------


def kernels_section(setup: Setup) -> tuple[Lines, list[Row]]:
    """Each Triton kernel against its PyTorch reference, eager and compiled, on the same input; only
    on a GPU."""
    draw = torch.Generator().manual_seed(0)
    there = lambda *tensors: [t.to(setup.device) for t in tensors]  # noqa: E731
    plans = {}
    for batch in (64, 512):
        x = torch.randint(0, 256, (5000, 3, 32, 32), generator=draw).to(torch.uint8)
        top, left = torch.randint(0, 9, (2, batch), generator=draw)
        crop = there(
            x,
            torch.randint(0, 5000, (batch,), generator=draw),
            top,
            left,
            torch.rand(batch, generator=draw) < 0.5,
            torch.rand(3, generator=draw),
            torch.rand(3, generator=draw) + 0.1,
        )
        plans[f"crop, flip, normalise: {batch} images to bf16"] = (
            kernels.crop_flip_normalise,
            kernels.crop_flip_normalise_reference,
            (*crop, 4, torch.bfloat16),
        )
    maps, heat = there(
        torch.rand(10, 32, 32, generator=draw), torch.rand(4224, 32, 32, generator=draw)
    )
    plans["SSIM: 10 maps, 4,224 visualizations"] = (
        kernels.ssim_pairs,
        kernels.ssim_pairs_reference,
        (maps, heat),
    )
    lines = []
    for label, (kernel, reference, inputs) in plans.items():
        line = {
            "kernel and input": label,
            **dict.fromkeys(("eager ms", "compiled ms", "kernel ms", "stays"), "not timed"),
        }
        if setup.device.type == "cuda" and kernels.use_triton(setup.device):
            works = {
                "eager ms": reference,
                "compiled ms": torch.compile(reference),
                "kernel ms": kernel,
            }
            for column, work in works.items():
                many = lambda work=work, inputs=inputs: [work(*inputs) for _ in range(20)]  # noqa: E731
                line[column] = (
                    median_seconds(many, setup.repeats, setup.device, warm_up=2) / 20 * 1e3
                )
            line["stays"] = "yes" if line["kernel ms"] < line["compiled ms"] else "no"
        lines.append(line)
    return lines, []


SECTIONS: dict[str, Callable[[Setup], tuple[Lines, list[Row]]]] = {
    "peak": peak_section,
    "train": train_section,
    "convolutions": convolutions_section,
    "freeze": freeze_section,
    "filters": filters_section,
    "fullgrad": fullgrad_section,
    "scores": scores_section,
    "kernels": kernels_section,
    "compile": compile_section,
    "quick": quick_section,
    "plan": plan_section,
}


def measure_all(
    names: Iterable[str], setup: Setup, say: Callable[[str], None] = print
) -> tuple[dict[str, Lines], list[Row]]:
    """The tables of the named sections, and their lines of the table of targets."""
    details, rows = {}, []
    for name in names:
        say(f"{name} ...")
        details[name], more = SECTIONS[name](setup)
        rows += more
    return details, rows
