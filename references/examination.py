"""The examination of explanations the slow way: one pair, one image, one pixel at a time."""

import numpy as np
import torch


def mse_parts(a, b):
    """(brightness, contrast, pattern) of two pictures (H, W), by the three statistics of each."""
    a, b = np.asarray(a, float).ravel(), np.asarray(b, float).ravel()
    r = np.corrcoef(a, b)[0, 1]
    return (
        (a.mean() - b.mean()) ** 2,
        (a.std() - b.std()) ** 2,
        2 * a.std() * b.std() * (1 - r),
    )


def deletion_curve(model, outputs, images, classes, maps, steps):
    """Mean probability of the class, image by image, after the highest pixels were set to 0 one by
    one. images: normalised (N, 3, H, W)."""
    curve = np.zeros(steps + 1)
    for x, c, m in zip(images, classes.tolist(), maps):
        height, width = m.shape
        places = [(i, j) for i in range(height) for j in range(width)]
        places.sort(key=lambda place: -float(m[place]))
        for step in range(steps + 1):
            cut = x.clone()
            for i, j in places[: round(step * len(places) / steps)]:
                cut[:, i, j] = 0
            with torch.no_grad():
                curve[step] += float(model(cut[None])[0, outputs].softmax(0)[c])
    return curve / len(images)


def within_and_between(maps, classes):
    """Mean correlation of pairs of maps (N, H, W) of one class, and of two classes."""
    same, other = [], []
    for i in range(len(maps)):
        for j in range(i):
            r = np.corrcoef(maps[i].ravel(), maps[j].ravel())[0, 1]
            (same if classes[i] == classes[j] else other).append(r)
    return np.mean(same), np.mean(other)


def probe_accuracy(x, y, x_test, y_test, ridge):
    """scikit-learn's ridge regression onto one-hot classes, of standardised features."""
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(x)
    one_hot = np.eye(y.max() + 1)[y]
    fitted = Ridge(alpha=ridge * len(x)).fit(scaler.transform(x), one_hot)
    return float((fitted.predict(scaler.transform(x_test)).argmax(1) == y_test).mean())


def entropy(values, bins=100):
    """Quantus' discrete entropy: scipy's, of numpy's histogram over the values' own range."""
    from scipy.stats import entropy as of_counts

    return float(of_counts(np.histogram(values, bins=bins)[0]))


def quantus_beside(model, task, each=5, seed=42):
    """{"ours", "Quantus", "difference"}: the rise of `lib.examination.efficient_mprt` and Quantus'
    own EfficientMPRT of FullGrad, on the same images and against the same random weights (those
    that Quantus draws); or a line that says how to install it."""
    try:
        import quantus
        from quantus.helpers.model.pytorch_model import PyTorchModel
    except ImportError:
        return "Quantus is not installed (make oracles): its number is missing here"
    from lib.data import normalise
    from lib.examination import efficient_mprt
    from lib.saliency import choose_images, fullgrad

    def explain(model, inputs, targets, **_):
        x = torch.as_tensor(inputs, dtype=next(model.parameters()).dtype)
        return fullgrad(model.eval(), x, torch.as_tensor(targets)).numpy()[:, None]

    drawn = PyTorchModel(model, channel_first=True)
    *_, (_, randomised) = drawn.get_random_layer_generator(order="bottom_up", seed=seed)
    pick = torch.cat(choose_images(model, task, each)[0])
    x, y = normalise(task.x[pick], task).numpy(), (task.y[pick] + task.first_output).numpy()
    test = quantus.EfficientMPRT(disable_warnings=True, seed=seed)
    theirs = float(np.mean(test(model=model, x_batch=x, y_batch=y, explain_func=explain)))
    ours = efficient_mprt(model, randomised, task, each)["rise"]
    return {"ours": ours, "Quantus": theirs, "difference": ours - theirs}
