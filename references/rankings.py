"""Every ranking the slow way: one image at a time, one filter at a time, in float64; formulas as
they stand in the papers, and nothing shared with lib.ranking.

All take a float64 VGG in evaluation mode without in-place ReLU, images x (N, 3, H, W), normalised,
and return layer -> (C, F) or (1, F). y: the class of each image; outputs: the task's.
"""

import torch
from torch import nn
from torch.nn import functional as F

from lib.network import conv_layers, norm_layers


def prepared(model):
    """A float64 copy in evaluation mode, nothing in place."""
    import copy

    twin = copy.deepcopy(model).double().eval()
    for module in twin.modules():
        if getattr(module, "inplace", False):
            module.inplace = False
    return twin


def by_class(rows, y):
    """Mean over the images of each class of per-image rows (each layer -> (F,))."""
    classes = sorted(set(y.tolist()))
    return {
        layer: torch.stack(
            [
                torch.stack([r[layer] for r, of in zip(rows, y.tolist()) if of == c]).mean(0)
                for c in classes
            ]
        )
        for layer in rows[0]
    }


def pixels(task):
    """Training images, normalised by hand."""
    mean, std = (s.double().view(3, 1, 1) for s in (task.mean, task.std))
    return torch.stack([(x.double() / 255 - mean) / std for x in task.x])


def forward(model, x, without=None):
    """Logits of one image (3, H, W), and layer -> the filters' maps after batch norm, before ReLU.
    without: (layer, filter) whose map is set to 0."""
    maps, norms, name = {}, norm_layers(model), None
    names = {conv: layer for layer, conv in conv_layers(model).items()}
    x = x[None]
    for module in model.features:
        x = module(x)
        if module in names:
            name = names[module]
        if (module in names and name not in norms) or isinstance(module, nn.BatchNorm2d):
            if without is not None and without[0] == name:
                keep = torch.ones(x.shape[1], dtype=x.dtype)
                keep[without[1]] = 0
                x = x * keep.view(1, -1, 1, 1)
            maps[name] = x
    return model.head(x.flatten(1))[0], maps


def loss_of(logits, c, outputs):
    return -logits[outputs].log_softmax(0)[c]


# --- one image after the other --------------------------------------------------------------------


def weight_norm(model):
    def norm(weights):
        return sum(w**2 for w in weights.flatten().tolist()) ** 0.5

    return {
        layer: torch.tensor([[norm(f) for f in conv.weight]], dtype=torch.float64)
        for layer, conv in conv_layers(model).items()
    }


def mean_activation(model, x, y):
    rows = []
    for image in x:
        _, maps = forward(model, image)
        rows.append(
            {k: torch.stack([f.relu().mean() for f in a[0]]).detach() for k, a in maps.items()}
        )
    return by_class(rows, y)


def _map_times_gradient(model, x, y, outputs, formula):
    rows = []
    for image, c in zip(x, y.tolist()):
        logits, maps = forward(model, image)
        gradients = torch.autograd.grad(loss_of(logits, c, outputs), list(maps.values()))
        rows.append(
            {
                k: torch.stack(
                    [formula((f.relu() * g).sum()) for f, g in zip(a[0], gs[0])]
                ).detach()
                for (k, a), gs in zip(maps.items(), gradients)
            }
        )
    return by_class(rows, y)


def taylor(model, x, y, outputs):
    return _map_times_gradient(model, x, y, outputs, lambda total: total.abs())


def fisher_map(model, x, y, outputs):
    return _map_times_gradient(model, x, y, outputs, lambda total: total**2 / 2)


def squared_gradients(model, x, y, outputs):
    """One backward pass for each image: rows of parameter -> squared gradient."""
    rows = []
    for image, c in zip(x, y.tolist()):
        model.zero_grad()
        loss_of(model(image[None])[0], c, outputs).backward()
        rows.append({k: p.grad.clone() ** 2 for k, p in model.named_parameters()})
    model.zero_grad()
    return rows


def fisher(model, x, y, outputs, change=None):
    """change: parameter -> how far it moved; then half of Fisher x change^2."""
    rows = []
    for squares in squared_gradients(model, x, y, outputs):
        row = {}
        for layer, conv in conv_layers(model).items():
            total = torch.zeros(conv.out_channels, dtype=torch.float64)
            for name in (f"features.{layer}.weight", f"features.{layer}.bias"):
                s = squares[name] if change is None else squares[name] * change[name] ** 2 / 2
                for f in range(conv.out_channels):
                    total[f] += s[f].sum()
            row[layer] = total
        rows.append(row)
    return by_class(rows, y)


def fullgrad_filter(model, x, y, first_output=0):
    """Bias x gradient of the logit by that bias, summed over a filter's constants: the bias of its
    convolution and, in its batch norm, beta - mean x gamma / sqrt(variance + epsilon), which enters
    where beta does. A bias is added at every place, so its gradient is the sum over places."""
    rows, norms = [], norm_layers(model)
    for image, c in zip(x, y.tolist()):
        row = {}
        for layer, conv in conv_layers(model).items():
            constants = [(conv.bias, conv.bias)]
            if layer in norms:
                n = norms[layer]
                sigma = (n.running_var + n.eps).sqrt()
                constants.append((n.bias, n.bias - n.running_mean * n.weight / sigma))
            logit = model(image[None])[0, first_output + c]
            gradients = torch.autograd.grad(logit, [place for place, _ in constants])
            terms = [value.detach() * g for (_, value), g in zip(constants, gradients)]
            row[layer] = torch.stack([sum(t[f] for t in terms).abs() for f in range(len(terms[0]))])
        rows.append(row)
    return by_class(rows, y)


def ablation_damage(model, x, y, outputs):
    def losses(without=None):
        each = [loss_of(forward(model, i, without)[0], c, outputs) for i, c in zip(x, y.tolist())]
        return by_class([{"loss": e.detach()[None]} for e in each], y)["loss"][:, 0]

    whole = losses()
    return {
        layer: torch.stack([losses((layer, f)) - whole for f in range(conv.out_channels)], 1)
        for layer, conv in conv_layers(model).items()
    }


# --- relevance, entry by entry --------------------------------------------------------------------


def _matrix(layer, shape):
    """A linear map of images of this shape as a matrix, column by column."""
    eye = torch.eye(int(torch.tensor(shape).prod()), dtype=torch.float64).view(-1, *shape)
    return torch.stack([layer(e[None])[0].flatten() for e in eye], 1)


def lrp(model, x, y, first_output=0, epsilon=1e-6):
    """Epsilon-plus with the matrix of every layer written out."""
    rows, norms = [], norm_layers(model)
    for image, c in zip(x, y.tolist()):
        steps, a = [], image
        with torch.no_grad():
            for name, module in model.features.named_children():
                if isinstance(module, nn.Conv2d):
                    weight, bias = module.weight, module.bias
                    if name in norms:
                        n = norms[name]
                        gain = n.weight / (n.running_var + n.eps).sqrt()
                        weight = weight * gain.view(-1, 1, 1, 1)
                        bias = (bias - n.running_mean) * gain + n.bias
                    steps.append(("conv", name, a, weight, bias))
                    a = F.conv2d(a[None], weight, bias, padding=1)[0]
                elif isinstance(module, nn.ReLU):
                    a = a.relu()
                elif isinstance(module, nn.MaxPool2d):
                    steps.append(("pool", name, a, None, None))
                    a = F.max_pool2d(a[None], 2)[0]
            shape, flat = a.shape, a.flatten()
            logits = model.head(flat)
            z = logits[first_output + c]
            sign = 1.0 if z >= 0 else -1.0
            r = (flat * model.head.weight[first_output + c] * z / (z + epsilon * sign)).view(shape)
            row = {}
            for kind, name, a, weight, bias in reversed(steps):
                if kind == "conv":
                    row[name] = torch.stack([f.abs().sum() for f in r])
                    if name == "conv1_1":
                        break
                    w = _matrix(lambda e, w=weight: F.conv2d(e, w.clamp(min=0), padding=1), a.shape)
                    b = bias.clamp(min=0).view(-1, 1, 1).expand(r.shape).flatten()
                    z = w @ a.flatten() + b
                    r = (a.flatten() * (w.T @ (r.flatten() / (z + epsilon)))).view(a.shape)
                else:
                    back = torch.zeros_like(a)
                    for f in range(a.shape[0]):
                        for i in range(r.shape[1]):
                            for j in range(r.shape[2]):
                                window = a[f, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
                                k = int(window.flatten().argmax())
                                back[f, 2 * i + k // 2, 2 * j + k % 2] = r[f, i, j]
                    r = back
        rows.append({layer: row[layer] for layer in conv_layers(model)})
    return by_class(rows, y)


# --- maps -----------------------------------------------------------------------------------------


def scaled(picture):
    low, high = picture.min(), picture.max()
    return (picture - low) / (high - low) if high > low else torch.zeros_like(picture)


def input_gradient_map(model, images, output):
    """(H, W): mean of scaled |gradient| over RGB, image by image."""
    found = []
    for image in images:
        image = image.clone().requires_grad_()
        (g,) = torch.autograd.grad(model(image[None])[0, output], image)
        found.append(scaled((g[0].abs() + g[1].abs() + g[2].abs()) / 3))
    return sum(found) / len(found)


def natural_heat(model, x, top):
    """layer -> (F, H, W): filter by filter, its strongest images sorted in plain Python."""
    every = [forward(model, image)[1] for image in x]
    heat = {}
    for layer, conv in conv_layers(model).items():
        pictures = []
        for f in range(conv.out_channels):
            maps = [one[layer][0, f].detach().relu() for one in every]
            order = sorted(range(len(maps)), key=lambda n: (-float(maps[n].mean()), n))[:top]
            large = [
                F.interpolate(
                    maps[n][None, None], size=x.shape[-2:], mode="bilinear", align_corners=True
                )[0, 0]
                for n in order
            ]
            pictures.append(scaled(sum(scaled(m) for m in large) / len(large)))
        heat[layer] = torch.stack(pictures)
    return heat


def mse_score(maps, heat):
    """(C, F): minus the mean squared difference, pair by pair."""
    return torch.tensor(
        [[-float(((m.double() - h.double()) ** 2).mean()) for h in heat] for m in maps],
        dtype=torch.float64,
    )
