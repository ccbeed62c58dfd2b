"""What is measured, section by section: each returns the lines of its own table and its lines of the table of targets.

    lines, rows = SECTIONS["train"](Setup(device, repeats=5))

Networks and recipes are those of the profiles; images and weights are random, since times do not depend on them.
"""

import statistics
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import NamedTuple

import torch

from bench import baselines
from bench.measure import Row, cores, macs, median_seconds, median_within, side_by_side, threads
from lib import kernels, profile
from lib.data import Task
from lib.freezing import Masks, frozen
from lib.network import VGG, conv_layers, up_to, vgg16
from lib.profile import Recipe
from lib.ranking import METRICS, similarity
from lib.saliency import fullgrad
from lib.training import Method, fit, resolve_precision
from lib.visualization import maximize_activation, noise_image

NETWORKS = {"full width": "paper", "compact": "compact"}  # -> profile
FRACTIONS = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
DTYPES = {"bf16": torch.bfloat16, "float32": torch.float32}
TARGETS = {  # measure -> (CPU, GPU); ratios
    "train full width": (">= 2", ">= 8"), "train compact": (">= 2", ">= 8"),
    "train full width, share of peak": (">= 0.8", ""), "freeze full width": ("<= 0.8", "<= 0.85"),
    "freeze compact": ("<= 0.9", ""), "conv3_1": (">= 6", ">= 100"), "conv5_3": (">= 10", ">= 100"),
    "fullgrad": (">= 10", ">= 30"), "scores": (">= 100", ">= 100")}
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
    model = vgg16(10, 0.0625 if setup.tiny else n.width, n.batch_norm, n.image_size, n.depth, n.classifier, n.init)
    return model.to(setup.device), found.recipe


def random_task(images: int, device: torch.device) -> Task:
    """Ten classes of random 32 px images."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (images, 3, 32, 32), generator=draw, dtype=torch.uint8).to(device)
    y = torch.randint(0, 10, (images,), generator=draw).to(device)
    return Task("random", tuple(range(10)), x, y, x[:10], y[:10])


# --- the machine's peak -------------------------------------------------------------------------------------------

def _prepare_products(precision: str, size: int, calls: int, device: str):
    a, b, c = (torch.randn(size, size, device=device).to(DTYPES[precision]) for _ in range(3))

    def work():
        for _ in range(calls):
            torch.mm(a, b, out=c)

    return work, torch.device(device)


def ways(setup: Setup) -> dict[str, tuple[int, int]]:
    """Ways to use the machine: label -> (processes, threads of each)."""
    if setup.device.type == "cuda":
        return {f"{n} process{'es' * (n > 1)}": (n, 1) for n in (1, 2, 4)}
    if cores() == 1:
        return {"1 thread": (1, 1)}
    return {"1 thread": (1, 1), f"{cores()} threads": (1, cores()), f"{cores()} processes of 1 thread": (cores(), 1)}


def _run(way: tuple[int, int], prepare: Callable, repeats: int, *arguments) -> float:
    """Median seconds of the work done once in every process."""
    processes, number_of_threads = way
    if processes > 1:
        return side_by_side(processes, prepare, number_of_threads, repeats, *arguments)
    with threads(number_of_threads):
        work, device = prepare(*arguments)
        return median_seconds(work, repeats, device)


@lru_cache
def peak(setup: Setup, precision: str, way: tuple[int, int]) -> float:
    """FLOP/s of square matrix products in all processes together."""
    size = 64 if setup.tiny else 8192 if setup.device.type == "cuda" else 2048
    calls = 10 if setup.device.type == "cuda" else 2
    seconds = _run(way, _prepare_products, setup.repeats, precision, size, calls, str(setup.device))
    return way[0] * calls * 2 * size**3 / seconds


def best_peak(setup: Setup, precision: str) -> float:
    """The most over all ways to use the machine (on a GPU one process shows it)."""
    found = list(ways(setup).values())
    return max(peak(setup, precision, way) for way in (found[:1] if setup.device.type == "cuda" else found))


def peak_section(setup: Setup) -> tuple[Lines, list[Row]]:
    """Large matrix products: GFLOP/s the machine reaches in each precision and each way to use it."""
    found = list(ways(setup).items())[: 1 if setup.device.type == "cuda" else None]
    return [{"precision": precision, "way": label, "GFLOP/s": peak(setup, precision, way) / 1e9}
            for precision in ("bf16", "float32") for label, way in found], []


def _of_peak(setup: Setup, flops_per_second: float, precision: str) -> str:
    top = best_peak(setup, precision)
    return (f"operations: {flops_per_second / 1e9:.0f} GFLOP/s = {flops_per_second / top:.0%} of the {precision} peak "
            f"({top / 1e9:.0f})")


# --- training -----------------------------------------------------------------------------------------------------

def _steps(name: str, setup: Setup) -> int:
    """Steps of one measured epoch."""
    if setup.tiny:
        return 2
    return 78 if setup.device.type == "cuda" else {"full width": 6, "compact": 30}[name]


def _prepare_training(name: str, setup: Setup):
    model, recipe = network(name, setup)
    recipe = recipe.model_copy(update={"epochs": 1})
    task = random_task(_steps(name, setup) * recipe.batch_size, setup.device)
    return lambda: fit(model, task, recipe), setup.device


def textbook_rate(name: str, setup: Setup) -> float:
    """Images per second of the textbook loop, all threads; median over epochs, the first does not count."""
    model, recipe = network(name, setup)
    model = baselines.plain(model)
    images = _steps(name, setup) * recipe.batch_size
    loader = baselines.textbook_loader(random_task(images, setup.device), recipe.batch_size, recipe.crop_padding,
                                       0 if setup.tiny else min(8, cores()))
    _, seconds = baselines.textbook_training(model, loader, setup.repeats + 1, recipe.lr, recipe.momentum)
    return images / statistics.median(seconds[1:])


def train_section(setup: Setup) -> tuple[Lines, list[Row]]:
    """Images per second, nothing frozen: the textbook loop, and ours in each way to use the machine."""
    lines, rows = [], []
    precision = resolve_precision("auto", setup.device)
    for name in NETWORKS:
        model, recipe = network(name, setup)
        flop = TRAINING * 2 * macs(model)  # for each image
        images = _steps(name, setup) * recipe.batch_size
        slow = textbook_rate(name, setup)
        rates = {label: way[0] * images / _run(way, _prepare_training, setup.repeats, name, setup)
                 for label, way in ways(setup).items()}
        for label, rate in {"textbook": slow, **rates}.items():
            lines.append({"network": name, "loop": label, "images/s": rate, "MFLOP an image": flop / 1e6,
                          "GFLOP/s": rate * flop / 1e9})
        label = max(rates, key=rates.get)
        shares = _of_peak(setup, rates[label] * flop, precision)
        rows.append(Row(f"training, {name}, nothing frozen", f"{slow:.0f} images/s", f"{rates[label]:.0f} images/s "
                        f"({label}, {precision})", rates[label] / slow, setup.target(f"train {name}"), shares))
        if name == "full width":
            top = best_peak(setup, precision)
            rows.append(Row(f"the same, share of the {precision} peak", f"{top / 1e9:.0f} GFLOP/s",
                            f"{rates[label] * flop / 1e9:.0f} GFLOP/s", rates[label] * flop / top,
                            setup.target("train full width, share of peak"), "peak: the best of the section peak"))
    return lines, rows


# --- freezing -----------------------------------------------------------------------------------------------------

class Hold(Method):
    """Freezes given masks."""

    def __init__(self, masks: Masks):
        self.masks = masks

    def during(self, model):
        return frozen(model, self.masks)


def fraction_masks(model: VGG, fraction: float) -> Masks:
    """Of each layer, a fraction of the filters, at random places."""
    draw = torch.Generator().manual_seed(0)
    return {layer: torch.randperm(conv.out_channels, generator=draw) < int(fraction * conv.out_channels + 0.5)
            for layer, conv in conv_layers(model).items()}


def freeze_section(setup: Setup) -> tuple[Lines, list[Row]]:
    """Seconds of our own step with some filters frozen, over those with nothing frozen; one thread, as runs are made.

    "no weight gradient": every layer but the first frozen whole, so that gradients still go all the way back. What
    this takes, no fraction below 1 can save: the bound of step(f) is 1 - f * (1 - that).
    """
    lines, rows = [], []
    for name in NETWORKS:
        model, recipe = network(name, setup)
        recipe = recipe.model_copy(update={"epochs": 1})
        steps = _steps(name, setup) * 2 // 3
        task = random_task(steps * recipe.batch_size, setup.device)
        plans = {f"{f:.0%}": fraction_masks(model, f) for f in FRACTIONS}
        plans["no weight gradient"] = fraction_masks(model, 1) | {"conv1_1": fraction_masks(model, 0)["conv1_1"]}
        seconds: dict[str, list[float]] = {plan: [] for plan in plans}
        with threads(1):
            for _ in range(setup.repeats + 1):  # in turn, so that a slower minute of the machine meets all alike
                for plan, masks in plans.items():
                    work = partial(fit, model, task, recipe, Hold(masks))
                    seconds[plan].append(median_seconds(work, 1, setup.device, warm_up=0) / steps)
        medians = {plan: statistics.median(s[1:]) for plan, s in seconds.items()}
        free = medians["0%"]
        least = medians["no weight gradient"] / free
        for plan, value in medians.items():
            lines.append({"network": name, "frozen": plan, "ms a step": value * 1e3,
                          "over nothing frozen": value / free})
        rows.append(Row(f"a step at 75 % frozen, {name}", f"{free * 1e3:.1f} ms", f"{medians['75%'] * 1e3:.1f} ms",
                        medians["75%"] / free, setup.target(f"freeze {name}"),
                        f"operations: without any weight gradient a step takes {least:.2f}, so 75 % frozen cannot be "
                        f"under {1 - 0.75 * (1 - least):.2f}"))
    return lines, rows


# --- explanations -------------------------------------------------------------------------------------------------

def filters_section(setup: Setup) -> tuple[Lines, list[Row]]:
    """All filters of a middle and of the last layer visualised, 30 steps, float32. The loop is timed on a few filters
    (the same work for each) and scaled."""
    lines, rows = [], []
    model, _ = network("full width", setup)
    plain = baselines.plain(model).eval()
    steps, few = (2, 2) if setup.tiny else (30, 8)
    for layer in ("conv3_1", "conv5_3"):
        count = conv_layers(model)[layer].out_channels
        few = min(few, count)
        start = noise_image(0, layer, range(few), 32).to(setup.device)

        def loop(number=few, steps=steps):
            for f in range(number):
                baselines.maximize_one(plain, layer, f, start[f:f + 1], steps)

        maximize_activation(model, layer, range(min(count, 64)), steps=2)  # warm-up
        loop(1, 2)
        ours, ours_repeats = median_within(lambda: maximize_activation(model, layer, steps=steps), setup.repeats,
                                           setup.device)
        part, loop_repeats = median_within(loop, setup.repeats, setup.device)
        plain.zero_grad(set_to_none=True)
        slow = part * count / few
        flop = count * steps * ASCENT * 2 * macs(up_to(model, layer)[:-1])
        lines.append({"layer": layer, "filters": count, "loop s": slow, "loop timed on": few, "repeats": loop_repeats,
                      "ours s": ours, "our repeats": ours_repeats, "our GFLOP/s": flop / ours / 1e9})
        rows.append(Row(f"all {count} filters of {layer}, {steps} steps", f"{slow:.1f} s (timed on {few}, scaled)",
                        f"{ours:.2f} s", slow / ours, setup.target(layer), _of_peak(setup, flop / ours, "float32")))
    return lines, rows


def fullgrad_section(setup: Setup) -> tuple[Lines, list[Row]]:
    """FullGrad of 100 images at full width, float32."""
    model, _ = network("full width", setup)
    model.eval()
    plain = baselines.plain(model)
    images = 4 if setup.tiny else 100
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(images, 3, 32, 32, generator=draw).to(setup.device)
    targets = torch.arange(images, device=setup.device) % 10

    def loop(number=images):
        for i in range(number):
            baselines.fullgrad_one(plain, x[i:i + 1], i % 10)

    fullgrad(model, x, targets)  # warm-up
    loop(2)
    ours, ours_repeats = median_within(lambda: fullgrad(model, x, targets), setup.repeats, setup.device)
    slow, loop_repeats = median_within(loop, setup.repeats, setup.device)
    flop = images * ASCENT * 2 * macs(model)
    lines = [{"images": images, "loop s": slow, "repeats": loop_repeats, "ours s": ours, "our repeats": ours_repeats,
              "our GFLOP/s": flop / ours / 1e9}]
    return lines, [Row(f"FullGrad of {images} images, full width", f"{slow:.1f} s", f"{ours:.2f} s", slow / ours,
                       setup.target("fullgrad"), _of_peak(setup, flop / ours, "float32"))]


def scores_section(setup: Setup) -> tuple[Lines, list[Row]]:
    """Ten maps against the visualizations of all 4,224 filters. The loop over pairs calls scikit-learn (mse, cosine),
    scipy (pearson) and torchmetrics (ssim); it is timed on some pairs (the same work for each) and scaled."""
    n_maps, n_filters, some = (2, 16, 3) if setup.tiny else (10, 4224, 20)
    draw = torch.Generator().manual_seed(0)
    maps, heat = (torch.rand(n, 32, 32, generator=draw) for n in (n_maps, n_filters))
    maps_there, heat_there = maps.to(setup.device), heat.to(setup.device)
    few = heat[:some].numpy()
    lines = []
    for metric in METRICS:
        ours = median_seconds(lambda: similarity(maps_there, heat_there, metric), setup.repeats, setup.device)
        part = median_seconds(lambda: baselines.scores_by_pairs(maps.numpy(), few, metric), setup.repeats, setup.device)
        lines.append({"metric": metric, "pairs": n_maps * n_filters, "loop timed on": n_maps * some,
                      "loop s": part * n_filters / some, "ours s": ours, "ratio": part * n_filters / some / ours})
    slow, ours = (sum(line[k] for line in lines) for k in ("loop s", "ours s"))
    longest = max(lines, key=lambda line: line["ours s"])
    return lines, [Row(f"scores of {n_maps} maps against {n_filters:,} visualizations, four metrics",
                       f"{slow:.2f} s (timed on {n_maps * some} pairs, scaled)", f"{ours:.3f} s", slow / ours,
                       setup.target("scores"), f"{longest['metric']}: {longest['ours s'] / ours:.0%} of our time")]


# --- kernels ------------------------------------------------------------------------------------------------------

def kernels_section(setup: Setup) -> tuple[Lines, list[Row]]:
    """Each Triton kernel against its PyTorch reference, eager and compiled, on the same input; only on a GPU."""
    draw = torch.Generator().manual_seed(0)
    there = lambda *tensors: [t.to(setup.device) for t in tensors]  # noqa: E731
    plans = {}
    for batch in (64, 512):
        x = torch.randint(0, 256, (5000, 3, 32, 32), generator=draw).to(torch.uint8)
        top, left = torch.randint(0, 9, (2, batch), generator=draw)
        crop = there(x, torch.randint(0, 5000, (batch,), generator=draw), top, left,
                     torch.rand(batch, generator=draw) < 0.5, torch.rand(3, generator=draw),
                     torch.rand(3, generator=draw) + 0.1)
        plans[f"crop, flip, normalise: {batch} images to bf16"] = (
            kernels.crop_flip_normalise, kernels.crop_flip_normalise_reference, (*crop, 4, torch.bfloat16))
    maps, heat = there(torch.rand(10, 32, 32, generator=draw), torch.rand(4224, 32, 32, generator=draw))
    plans["SSIM: 10 maps, 4,224 visualizations"] = kernels.ssim_pairs, kernels.ssim_pairs_reference, (maps, heat)
    lines = []
    for label, (kernel, reference, inputs) in plans.items():
        line = {"kernel and input": label,
                **dict.fromkeys(("eager ms", "compiled ms", "kernel ms", "stays"), "not timed")}
        if setup.device.type == "cuda" and kernels.use_triton(setup.device):
            works = {"eager ms": reference, "compiled ms": torch.compile(reference), "kernel ms": kernel}
            for column, work in works.items():
                many = lambda work=work, inputs=inputs: [work(*inputs) for _ in range(20)]  # noqa: E731
                line[column] = median_seconds(many, setup.repeats, setup.device, warm_up=2) / 20 * 1e3
            line["stays"] = "yes" if line["kernel ms"] < line["compiled ms"] else "no"
        lines.append(line)
    return lines, []


SECTIONS: dict[str, Callable[[Setup], tuple[Lines, list[Row]]]] = {
    "peak": peak_section, "train": train_section, "freeze": freeze_section, "filters": filters_section,
    "fullgrad": fullgrad_section, "scores": scores_section, "kernels": kernels_section}


def measure_all(names: Iterable[str], setup: Setup, say: Callable[[str], None] = print
                ) -> tuple[dict[str, Lines], list[Row]]:
    """The tables of the named sections, and their lines of the table of targets."""
    details, rows = {}, []
    for name in names:
        say(f"{name} ...")
        details[name], more = SECTIONS[name](setup)
        rows += more
    return details, rows
