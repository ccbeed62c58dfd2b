"""Saliency maps written out: FullGrad one image and one term at a time, Grad-CAM from its two
tensors."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def fullgrad_one(model: nn.Module, image: Tensor, target: int) -> Tensor:
    """One image's FullGrad map (H, W), as the authors' code makes it (Srinivas & Fleuret 2019,
    equation 5; fullgrad-saliency): every channel of every layer is upsampled, then all are summed.

    image: normalised (1, 3, H, W), of the model's precision; target: the output explained. The
    model is in evaluation mode and may work in place behind its layers (ReLU, residual additions).
    Terms: input gradient x input, then output gradient x constant of each convolution with a bias
    and of each batch norm; linear layers have no place in the image, but for those that work at
    every place (their output is (1, h, w, C))."""
    outputs, handles = [], []

    def keep(module, _inputs, output):
        if output.ndim == 4:
            outputs.append((module, output))
        return output.clone()  # an in-place ReLU follows: it must not touch the tensor kept

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d, nn.Linear)):
            handles.append(module.register_forward_hook(keep))
    image = image.clone().requires_grad_()
    logit = model(image)[0, target]
    for handle in handles:
        handle.remove()
    grad_image, *grads = torch.autograd.grad(logit, [image, *(out for _, out in outputs)])
    total = _psi((grad_image * image).detach()).sum(1)[0]  # (H, W)
    for (module, _), grad in zip(outputs, grads):
        bias = module.bias
        if bias is None:  # a convolution in front of batch norm adds no constant
            continue
        if isinstance(module, nn.BatchNorm2d):
            bias = bias - module.running_mean * module.weight / torch.sqrt(
                module.running_var + module.eps
            )
        if isinstance(module, nn.Linear):
            grad = grad.permute(0, 3, 1, 2)
        term = _psi((grad * bias.view(1, -1, 1, 1)).detach())  # (1, C, h, w)
        total = (
            total
            + F.interpolate(term, size=image.shape[-2:], mode="bilinear", align_corners=True).sum(
                1
            )[0]
        )
    return total


def _psi(term: Tensor) -> Tensor:
    """|term| moved and scaled to [0, 1], jointly over all channels, as the authors' code does."""
    term = term.abs()
    term = term - term.min()
    return term / (term.max() + 1e-6)


def grad_cam(activations: Tensor, gradients: Tensor, size: int) -> Tensor:
    """Grad-CAM maps (B, size, size) in [0, 1] (Selvaraju et al. 2017, equations 1 and 2): mean
    gradient of each channel x its activation, summed, positive part; upsampled, then scaled by each
    map's own minimum and maximum.

    activations, gradients: (B, C, h, w), of one layer, for the logit explained."""
    weights = gradients.mean((2, 3), keepdim=True)  # (B, C, 1, 1)
    cam = (weights * activations).sum(1, keepdim=True).relu().detach()  # (B, 1, h, w)
    cam = F.interpolate(cam, size=(size, size), mode="bilinear", align_corners=False)[:, 0]
    span = cam.amax((1, 2), True) - cam.amin((1, 2), True)
    return (cam - cam.amin((1, 2), True)) / span.clamp_min(1e-12)
