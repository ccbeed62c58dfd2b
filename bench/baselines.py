"""The plain way to do each thing, as tutorials and known repositories do it: what `make bench`
compares with.

Kept slow on purpose; each computes what `lib` computes (tests/test_bench.py). All in float32 (or
the model's own precision), in PyTorch's default memory layout."""

import time
from collections.abc import Iterable
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from lib.data import Task

# places at each edge where the window reaches beyond the map: torchmetrics counts them, we do not
SSIM_BORDER = 5


def plain(model: nn.Module) -> nn.Module:
    """A copy of the model in the default memory layout."""
    return deepcopy(model).to(memory_format=torch.contiguous_format)


# --- training -------------------------------------------------------------------------------------


class Pictures(Dataset):
    """PIL images and labels with a torchvision transform, as torchvision's CIFAR data sets give
    them."""

    def __init__(self, x: Tensor, y: Tensor, transform):
        self.x, self.y, self.transform = (
            x.permute(0, 2, 3, 1).contiguous().numpy(),
            y.tolist(),
            transform,
        )

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i: int):
        from PIL import Image

        return self.transform(Image.fromarray(self.x[i])), self.y[i]


def textbook_loader(task: Task, batch_size: int, padding: int = 4, workers: int = 2) -> DataLoader:
    """DataLoader with torchvision's RandomCrop, RandomHorizontalFlip, ToTensor, Normalize."""
    from torchvision import transforms

    transform = transforms.Compose(
        [
            transforms.RandomCrop(task.x.shape[-1], padding=padding),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(task.mean.tolist(), task.std.tolist()),
        ]
    )
    return DataLoader(
        Pictures(task.x.cpu(), task.y.cpu(), transform),
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def textbook_training(
    model: nn.Module, loader: DataLoader, epochs: int, lr: float, momentum: float
) -> tuple[list[float], list[float]]:
    """The loop of every tutorial: float32, eager, the loss read in every step. Mean loss and
    seconds of each epoch."""
    device = next(model.parameters()).device
    optimiser = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    losses, seconds = [], []
    model.train()
    for _ in range(epochs):
        running_loss, start = 0.0, time.perf_counter()
        for inputs, labels in loader:
            inputs, labels = inputs.to(device), labels.to(device)
            optimiser.zero_grad()
            loss = F.cross_entropy(model(inputs), labels)
            loss.backward()
            optimiser.step()
            running_loss += loss.item()
        losses.append(running_loss / len(loader))
        seconds.append(time.perf_counter() - start)
    return losses, seconds


# --- activation maximisation ----------------------------------------------------------------------


def maximize_one(
    model: nn.Module, layer: str, filter_: int, start: Tensor, steps: int = 30
) -> Tensor:
    """One filter's image (1, 3, H, W), from `start` of that shape: the network is left at the
    layer, and every step also computes the gradients of all weights below it, as
    pytorch-cnn-visualizations does."""
    x = start.clone().requires_grad_()
    adam = torch.optim.Adam([x], lr=0.1, weight_decay=1e-6)
    for _ in range(steps):
        adam.zero_grad()
        a = x
        for name, module in model.features.named_children():
            a = module(a)
            if name == layer:
                break
        loss = -torch.mean(a[0, filter_])
        loss.backward()
        adam.step()
    return x.detach()


# --- FullGrad -------------------------------------------------------------------------------------


def fullgrad_one(model: nn.Module, image: Tensor, target: int) -> Tensor:
    """One image's (1, 3, H, W) FullGrad map (H, W): every channel of every layer upsampled, then
    summed, as the authors' code does."""
    outputs, handles = [], []

    def keep(module, _inputs, output):
        outputs.append((module, output))
        return output.clone()  # an in-place ReLU follows: it must not touch the tensor kept

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            handles.append(module.register_forward_hook(keep))
    image = image.clone().requires_grad_()
    logit = model(image)[0, target]
    for handle in handles:
        handle.remove()
    grad_image, *grads = torch.autograd.grad(logit, [image, *(out for _, out in outputs)])
    total = _psi((grad_image * image).detach()).sum(1)[0]
    for (module, _), grad in zip(outputs, grads):
        bias = module.bias
        if isinstance(module, nn.BatchNorm2d):
            bias = bias - module.running_mean * module.weight / torch.sqrt(
                module.running_var + module.eps
            )
        term = _psi((grad * bias.view(1, -1, 1, 1)).detach())
        total = (
            total
            + F.interpolate(term, size=image.shape[-2:], mode="bilinear", align_corners=True).sum(
                1
            )[0]
        )
    return total


def _psi(term: Tensor) -> Tensor:
    term = term.abs()
    term = term - term.min()
    return term / (term.max() + 1e-6)


# --- scores ---------------------------------------------------------------------------------------


def _mse(a: np.ndarray, b: np.ndarray) -> float:
    from sklearn.metrics import mean_squared_error

    return -mean_squared_error(a.ravel(), b.ravel())


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    from scipy.stats import pearsonr

    return pearsonr(a.ravel(), b.ravel())[0]


def _ssim(a: np.ndarray, b: np.ndarray) -> float:
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    _, full = ssim(
        torch.from_numpy(a)[None, None],
        torch.from_numpy(b)[None, None],
        data_range=1.0,
        return_full_image=True,
    )
    inner = slice(SSIM_BORDER, -SSIM_BORDER)
    return float(full[0, 0, inner, inner].mean())


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    from sklearn.metrics.pairwise import cosine_similarity

    return cosine_similarity(a.reshape(1, -1), b.reshape(1, -1))[0, 0]


PAIR_METRICS = {"mse": _mse, "pearson": _pearson, "ssim": _ssim, "cosine": _cosine}


def scores_by_pairs(
    maps: Iterable[np.ndarray], visualizations: Iterable[np.ndarray], metric: str
) -> np.ndarray:
    """(C, F): a library's function called for one pair after the other (numpy arrays (H, W))."""
    return np.array([[PAIR_METRICS[metric](a, b) for b in visualizations] for a in maps])
