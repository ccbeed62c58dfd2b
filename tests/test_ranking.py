"""Similarities against loops and libraries; rankings on hand-built evidence."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lib.network import conv_layers, vgg16
from lib.ranking import METRICS, NULL_MAPS, RANKINGS, Evidence, by_similarity, null_maps, similarity
from references.similarity import scores_by_pairs


def pictures(n, size=32, seed=0, dtype=torch.float64):
    """Smooth pictures with some noise, so that no similarity is near 0 for all pairs."""
    draw = torch.Generator().manual_seed(seed)
    coarse = F.interpolate(
        torch.rand(n, 1, 4, 4, generator=draw), size=(size, size), mode="bilinear"
    )[:, 0]
    return (0.8 * coarse + 0.2 * torch.rand(n, size, size, generator=draw)).to(dtype)


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("metric", METRICS)
def test_similarity_of_all_pairs_equals_the_library_s_one_by_one(metric, size):
    maps, heat = pictures(3, size), pictures(5, size, seed=1)
    wanted = torch.from_numpy(scores_by_pairs(maps.numpy(), heat.numpy(), metric))
    found = similarity(maps, heat, metric)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    assert float(wanted.std()) > 1e-3  # the pairs do differ
    low = similarity(maps.float(), heat.float(), metric)  # as stored
    torch.testing.assert_close(low, wanted, rtol=1e-4, atol=1e-5)
    assert torch.equal(
        low, similarity(maps.float().double(), heat.float().double(), metric)
    )  # computed in float64


@pytest.mark.parametrize(
    ("metric", "best"), [("mse", 0.0), ("pearson", 1.0), ("cosine", 1.0), ("ssim", 1.0)]
)
def test_a_map_is_most_similar_to_itself(metric, best):
    maps = pictures(4)
    found = similarity(maps, maps, metric)
    torch.testing.assert_close(
        found.diagonal(), torch.full((4,), best, dtype=torch.float64), rtol=0, atol=1e-12
    )
    assert (found.argmax(1) == torch.arange(4)).all() and float(found.max()) <= best + 1e-12
    torch.testing.assert_close(found, found.T)


def test_what_pearson_and_cosine_do_not_see():
    maps, heat = pictures(2), pictures(3, seed=1)
    for a, b, metric in ((0.5, 0.3, "pearson"), (0.5, 0.0, "cosine")):
        torch.testing.assert_close(
            similarity(maps, a * heat + b, metric), similarity(maps, heat, metric)
        )
    assert not torch.allclose(
        similarity(maps, heat + 0.3, "cosine"), similarity(maps, heat, "cosine")
    )
    torch.testing.assert_close(
        similarity(maps, 1 - heat, "pearson"), -similarity(maps, heat, "pearson")
    )


@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, 1.0])
def test_constant_maps(value):
    maps, flat = pictures(2, dtype=torch.float32), torch.full((3, 32, 32), value)
    assert (
        similarity(maps, flat, "pearson").tolist()
        == similarity(flat, maps, "pearson").T.tolist()
        == [[0.0] * 3] * 2
    )
    assert similarity(flat, flat, "pearson").tolist() == [[0.0] * 3] * 3
    cosine = similarity(flat, flat, "cosine")
    torch.testing.assert_close(cosine, torch.full((3, 3), float(value > 0), dtype=torch.float64))
    for metric in METRICS:
        assert torch.isfinite(similarity(maps, flat, metric)).all()
    wanted = -((maps - value) ** 2).double().mean((1, 2))
    torch.testing.assert_close(similarity(maps, flat, "mse")[:, 0], wanted, rtol=1e-6, atol=0)


def test_constant_maps_in_float64_have_no_pearson_correlation_either():
    flat = torch.full((1, 30, 30), 0.1, dtype=torch.float64)
    assert abs(float(similarity(flat, pictures(1, 30), "pearson"))) < 1e-6


@pytest.mark.parametrize(
    ("maps", "heat"), [((2, 8, 8), (3, 9, 9)), ((8, 8), (3, 8, 8)), ((2, 8, 8), (3, 1, 8, 8))]
)
def test_maps_of_different_sizes_are_refused(maps, heat):
    with pytest.raises(ValueError, match="expected .C, H, W. and .F, H, W. of one size"):
        similarity(torch.zeros(maps), torch.zeros(heat))


def test_an_unknown_metric_and_maps_too_small_for_ssim_are_refused():
    with pytest.raises(ValueError, match="metric 'l1': expected one of mse, pearson, ssim, cosine"):
        similarity(pictures(1), pictures(1), "l1")
    with pytest.raises(ValueError, match="at least 11 pixels, got 10"):
        similarity(pictures(1, 10), pictures(1, 10), "ssim")
    assert similarity(pictures(1, 11), pictures(1, 11), "ssim").shape == (1, 1)


# --- null maps ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NULL_MAPS)
def test_null_maps_are_maps(kind):
    maps = pictures(3)
    kept = maps.clone()
    null = null_maps(maps, kind, seed=1)
    assert null.shape == maps.shape and null.dtype == maps.dtype and not torch.equal(null, maps)
    assert 0 <= float(null.min()) and float(null.max()) <= 1
    null.zero_()
    assert torch.equal(maps, kept)  # nothing is shared


def test_flat_and_mean_null_maps():
    maps = pictures(3)
    flat, mean = null_maps(maps, "flat"), null_maps(maps, "mean")
    torch.testing.assert_close(flat.mean((1, 2)), maps.mean((1, 2)))
    assert not (flat - flat[:, :1, :1]).any()
    for c in range(3):
        torch.testing.assert_close(mean[c], (maps[0] + maps[1] + maps[2]) / 3)


def test_the_gaussian_null_map_is_a_centred_blob():
    null = null_maps(pictures(3), "gaussian")
    assert (
        torch.equal(null[0], null[2])
        and torch.equal(null, null.flip(1))
        and torch.equal(null, null.transpose(1, 2))
    )
    assert float(null.min()) == 0 and float(null.max()) == 1 and null[0].argmax() == 15 * 32 + 15
    assert (null[0, 15, :16].diff() > 0).all()
    a, b = np.exp(
        -0.5 * ((np.array([5.5, 10.5])) / 8) ** 2
    )  # pixels 10 and 5 on the middle row: sigma 32 / 4
    lows = null[0, 15, 10], null[0, 15, 5]
    middle, corner = np.exp(-0.5 * (0.5 / 8) ** 2), np.exp(-0.5 * (15.5 / 8) ** 2)
    for seen, x in zip(lows, (a, b)):
        assert float(seen) == pytest.approx((middle * x - corner**2) / (middle**2 - corner**2))


def test_the_permuted_null_map_keeps_every_pixel():
    maps = pictures(3)
    null = null_maps(maps, "permuted", seed=1)
    assert torch.equal(null.flatten(1).sort().values, maps.flatten(1).sort().values)
    assert torch.equal(null, null_maps(maps, "permuted", seed=1))
    assert not torch.equal(null, null_maps(maps, "permuted", seed=2))
    assert similarity(maps, null, "pearson").diagonal().abs().max() < 0.2


def test_an_unknown_null_map_is_refused():
    with pytest.raises(
        ValueError, match="null map 'black': expected one of flat, gaussian, permuted, mean"
    ):
        null_maps(pictures(1), "black")


# --- the registry ---------------------------------------------------------------------------------


def evidence(seed=0, log=None):
    """Three classes, two layers; in layer `a` filter c looks like class c, in layer `b` like class
    2 - c."""
    maps, log = pictures(3, 16), [] if log is None else log

    def fetch(name, thing):
        return lambda: (log.append(name), thing)[1]

    noise = 0.05 * torch.rand(
        3, 16, 16, generator=torch.Generator().manual_seed(9), dtype=torch.float64
    )
    heat = {"a": torch.cat([maps + noise, 1 - maps]), "b": maps.flip(0) + noise}
    model = vgg16(2, 0.0625, generator=torch.Generator().manual_seed(0))
    return Evidence(model, None, seed, fetch("maps", maps), fetch("heat", heat))


@pytest.mark.parametrize("metric", METRICS)
def test_by_similarity_finds_the_filter_that_looks_like_the_class(metric):
    scores = RANKINGS[metric](evidence())
    assert {k: tuple(v.shape) for k, v in scores.items()} == {"a": (3, 6), "b": (3, 3)}
    assert scores["a"].argmax(1).tolist() == [0, 1, 2] and scores["b"].argmax(1).tolist() == [
        2,
        1,
        0,
    ]
    for layer, heat in evidence().heat.items():
        assert torch.equal(scores[layer], similarity(evidence().maps, heat, metric))


def test_bottom_is_mse_upside_down():
    top, bottom = RANKINGS["mse"](evidence()), RANKINGS["bottom"](evidence())
    for layer in ("a", "b"):
        assert torch.equal(bottom[layer], -top[layer])
        assert torch.equal(bottom[layer].argsort(1), top[layer].argsort(1, descending=True))


@pytest.mark.parametrize("kind", NULL_MAPS)
def test_rankings_by_null_maps(kind):
    look = evidence(seed=4)
    scores = RANKINGS[f"mse_{kind}"](look)
    for layer, heat in look.heat.items():
        assert torch.equal(scores[layer], similarity(null_maps(look.maps, kind, 4), heat, "mse"))
        assert torch.equal(scores[layer], by_similarity(look, "mse", null=kind)[layer])
        assert not torch.equal(scores[layer], RANKINGS["mse"](look)[layer])


def test_the_registry_has_the_protocol_s_names():
    assert {
        "mse",
        "pearson",
        "ssim",
        "cosine",
        "bottom",
        "random",
        "mse_flat",
        "mse_gaussian",
        "mse_permuted",
        "mse_mean",
    } <= set(RANKINGS)


def test_random_is_fixed_by_seed_draw_and_layer():
    log = []
    look = evidence(log=log)
    scores = RANKINGS["random"](look)
    assert log == []  # looks at no map
    assert {k: v.shape for k, v in scores.items()} == {
        k: (1, c.out_channels) for k, c in conv_layers(look.model).items()
    }
    torch.manual_seed(5)  # the global generator plays no part
    again = RANKINGS["random"](look)
    assert all(torch.equal(scores[k], again[k]) for k in scores)
    assert all(torch.equal(scores[k], v) for k, v in RANKINGS["random"](look, draw=0).items())
    for other in (RANKINGS["random"](look, draw=1), RANKINGS["random"](evidence(seed=1))):
        assert not any(torch.equal(scores[k], other[k]) for k in scores)
    alike = [scores[k][0, :4] for k in scores]  # layers of any width
    assert len({tuple(a.tolist()) for a in alike}) == len(alike)
    numbers = torch.cat([s.flatten() for s in scores.values()])
    assert (
        0 <= float(numbers.min())
        and float(numbers.max()) < 1
        and abs(float(numbers.mean()) - 0.5) < 0.1
    )


def test_evidence_is_fetched_when_asked_for_and_once():
    log = []
    look = evidence(log=log)
    assert log == []
    RANKINGS["mse_flat"](look)
    RANKINGS["mse"](look)
    RANKINGS["pearson"](look)
    assert sorted(log) == ["heat", "maps"]
