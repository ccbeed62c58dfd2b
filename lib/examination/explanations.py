"""Are saliency maps right? Other attributions beside FullGrad, completeness, layer randomisation,
deletion, similarity within and between classes."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.data import Task, normalise
from lib.hooks import evaluation, out_of_place
from lib.kernels import ssim_pairs
from lib.network import conv_layers, initialise, norm_layers
from lib.ranking import null_maps, similarity
from lib.saliency import choose_images, decompose, fullgrad, scale
from lib.seeds import seed_of


def example_images(model: nn.Module, task: Task) -> Tensor:
    """uint8 (C, 3, H, W): for each class the first training image that enters its class map."""
    picks, _ = choose_images(model, task, 1)
    return torch.stack([task.x[p[0]] for p in picks])


def attributions(model: nn.Module, task: Task, images: Tensor) -> dict[str, Tensor]:
    """Maps (C, H, W) in [0, 1] of uint8 images (C, 3, H, W), image c explained for class c:
    FullGrad, and Captum's input gradient (mean of |gradient| over RGB) and Grad-CAM (last
    convolution, upsampled) beside it."""
    from captum.attr import LayerGradCam, Saliency

    x = normalise(images, task)
    targets = torch.arange(len(images), device=x.device) + task.first_output
    # Captum's layer hooks need a convolution's output unharmed
    with evaluation(model), out_of_place(model):
        gradient = Saliency(model).attribute(x.clone().requires_grad_(), target=targets).mean(1)
        last = list(conv_layers(model).values())[-1]
        cam = LayerGradCam(model, last).attribute(x, target=targets, relu_attributions=True)
        cam = F.interpolate(cam, size=x.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    return {
        "FullGrad": scale(fullgrad(model, x, targets)),
        "input gradient": scale(gradient.detach()),
        "Grad-CAM": scale(cam.detach()),
    }


def completeness(model: nn.Module, task: Task, images: Tensor) -> dict[str, float]:
    """Largest relative residual of FullGrad's decomposition on uint8 images (C, 3, H, W), in
    float32 and float64."""
    targets = torch.arange(len(images), device=images.device) + task.first_output
    found = {}
    for name, dtype in (("float32", torch.float32), ("float64", torch.float64)):
        twin = copy.deepcopy(model).to(dtype)
        found[name] = float(decompose(twin, normalise(images, task, dtype), targets).residual.max())
    return found


# --- are the maps about what was learned? ---------------------------------------------------------


def _images_of(model: nn.Module, task: Task, each: int) -> tuple[Tensor, Tensor]:
    """Normalised images (N, 3, H, W), `each` a class of those behind its class map, and their
    classes (N,)."""
    picks, _ = choose_images(model, task, each)
    pick = torch.cat(picks)
    return normalise(task.x[pick], task, next(model.parameters()).dtype), task.y[pick]


def cascade(
    model: nn.Module, init: str = "study", seed: int = 0
) -> Iterator[tuple[str, nn.Module]]:
    """A copy of the model whose layers lose what they learned, one after the other from the head
    down (Adebayo et al. 2018, cascading randomisation): (name of the layer just drawn anew, copy).

    Drawn by the rule `init` (see `lib.network.initialise`); a convolution's batch norm goes with
    it, to 1 / 0, statistics too."""
    twin = copy.deepcopy(model)
    convs, norms = conv_layers(twin), norm_layers(twin)
    heads = [m for m in twin.modules() if isinstance(m, nn.Linear)]
    for name, parts in [("head", heads), *((k, [m]) for k, m in reversed(convs.items()))]:
        draw = torch.Generator().manual_seed(seed_of(seed, name, "randomised"))
        for part in [*parts, *([norms[name]] if name in norms else [])]:
            device = next(part.parameters()).device
            initialise(part.cpu(), init, draw)  # drawn alike on every device
            part.to(device)
        yield name, twin


def randomisation(
    model: nn.Module, task: Task, each: int = 5, init: str = "study", seed: int = 0
) -> list[dict]:
    """Rows {layer, pearson, ssim}: how alike FullGrad's maps (of `each` images a class, explained
    for their own class, scaled) stay as layers lose what they learned, from the head down to
    `layer`; means over images. Maps that stay alike show the images, not the network."""
    x, y = _images_of(model, task, each)
    whole, rows = scale(fullgrad(model, x, y + task.first_output)), []
    for layer, twin in cascade(model, init, seed):
        maps = scale(fullgrad(twin, x, y + task.first_output))
        pearson = similarity(whole, maps, "pearson").diagonal().mean()
        ssim = ssim_pairs(whole, maps).diagonal().mean()
        rows.append({"layer": layer, "pearson": float(pearson), "ssim": float(ssim)})
    return rows


def map_entropy(maps: Tensor, bins: int = 100) -> Tensor:
    """float64 (N,), in nats: the entropy of each map's values (N, H, W) over `bins` equal parts of
    its own range. A map of one value has 0."""
    found = []
    for values in maps.double().flatten(1):
        low, high = float(values.min()), float(values.max())
        if low == high:
            found.append(0.0)
            continue
        share = torch.histc(values, bins, low, high) / len(values)
        found.append(float(torch.special.entr(share).sum()))
    return torch.tensor(found, dtype=torch.float64)


def efficient_mprt(
    model: nn.Module, randomised: nn.Module, task: Task, each: int = 5
) -> dict[str, float]:
    """{"before", "after", "rise"}: the entropy of FullGrad's maps (of `each` images a class,
    explained for their own) before and after the whole network lost what it learned, and its
    relative rise image by image, after / before - 1: Hedström et al. 2023, efficient model
    parameter randomisation test. Means over images. Above 0: the maps are more orderly than those
    of a network that knows nothing.

    randomised: such a network, the last of `cascade` for one. The entropy is of 100 bins, Quantus'
    default. The rise is nan or infinite if a map before has a single value."""
    x, y = _images_of(model, task, each)
    before, after = (
        map_entropy(fullgrad(m, x, y + task.first_output)) for m in (model, randomised)
    )
    rise = (after - before) / before
    return {k: float(v.mean()) for k, v in dict(before=before, after=after, rise=rise).items()}


@torch.no_grad()
def deleted(
    model: nn.Module, task: Task, x: Tensor, y: Tensor, maps: Tensor, steps: int = 10
) -> list[float]:
    """Probability (mean over images) that the model gives their classes y, among the task's
    outputs, after the pixels with the highest values of maps (N, H, W) were set to the mean colour:
    none, 1 / steps of them, ..., all (Petsiuk et al. 2018). Ties go to the earlier pixel."""
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    place = order.argsort(dim=1).view_as(maps)[:, None]  # 0: goes first
    found, pixels = [], order.shape[1]
    with evaluation(model):
        for step in range(steps + 1):
            kept = x * (place >= round(step * pixels / steps)).to(
                x
            )  # the mean is 0 once normalised
            p = model(kept)[:, task.outputs].softmax(1)
            found.append(float(p.gather(1, y.view(-1, 1)).mean()))
    return found


def deletion(
    model: nn.Module, task: Task, each: int = 5, steps: int = 10, seed: int = 0
) -> list[dict]:
    """Rows {map, deleted, probability}: deletion curves by FullGrad, by random maps (uniform
    pixels, one draw an image) and by a centred blob, which knows nothing of the image. The area
    between a control's curve and FullGrad's says what FullGrad finds."""
    x, y = _images_of(model, task, each)
    found = fullgrad(model, x, y + task.first_output)
    draw = torch.Generator().manual_seed(seed_of(seed, "random maps"))
    controls = {
        "FullGrad": found,
        "random": torch.rand(found.shape, generator=draw).to(found),
        "centred blob": null_maps(found.cpu(), "gaussian").to(found),
    }
    return [
        {"map": name, "deleted": step / steps, "probability": p}
        for name, maps in controls.items()
        for step, p in enumerate(deleted(model, task, x, y, maps, steps))
    ]


def within_and_between(model: nn.Module, task: Task, each: int = 5) -> dict[str, float]:
    """{"within", "between"}: mean Pearson correlation of FullGrad's maps of two images of one class
    (each explained for its own), and of two classes. Alike: the map hardly depends on the class. An
    image is not compared with itself; within is nan if every class has a single image."""
    x, y = _images_of(model, task, each)
    maps = fullgrad(model, x, y + task.first_output)
    alike = similarity(maps, maps, "pearson").to(y.device)
    same = y[:, None] == y[None]
    others = ~torch.eye(len(y), dtype=torch.bool, device=y.device)
    return {"within": float(alike[same & others].mean()), "between": float(alike[~same].mean())}
