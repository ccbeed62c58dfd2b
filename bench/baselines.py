"""Training as tutorials do it: what `make bench` compares ours with.

Kept slow on purpose; float32, eager, PyTorch's default memory layout. The other baselines
(activation maximisation, FullGrad, scores) are slow references (`references/`), called on `plain`
models, so in that layout too; tests/test_bench.py holds them to `lib`. A ratio that was published
stands for this code: what makes it faster or slower changes the ratio."""

import time
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from lib.data import Task


def plain(model: nn.Module) -> nn.Module:
    """A copy of the model in the default memory layout."""
    return deepcopy(model).to(memory_format=torch.contiguous_format)


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
