"""The baselines compute what lib computes, and the benchmark writes its tables; no times are
asserted."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest
import torch

from bench import sections
from bench.__main__ import main
from bench.baselines import (
    plain,
    textbook_loader,
    textbook_training,
)
from bench.measure import (
    Row,
    busy,
    cores,
    fresh,
    macs,
    markdown,
    side_by_side,
    targets_table,
    watched,
)
from bench.sections import (
    FRACTIONS,
    Setup,
    _left,
    _prepare_products,
    convolutions,
    fraction_masks,
    network,
)
from lib.data import Task, normalise
from lib.network import conv_layers, up_to, vgg16
from lib.ranking import METRICS, similarity
from lib.saliency import fullgrad
from lib.study.engine.processes import KEEP_MEMORY
from lib.visualization import maximize_activation, noise_image
from references.saliency import fullgrad_one
from references.similarity import scores_by_pairs
from references.visualization import without_hooks


def small(batch_norm, dtype=torch.float64):
    model = vgg16(4, 0.0625, batch_norm, generator=torch.Generator().manual_seed(5)).to(dtype)
    with torch.no_grad():
        for (
            p
        ) in model.parameters():  # biases away from zero, or FullGrad's terms would test nothing
            p.add_(
                0.05
                * torch.randn(
                    p.shape, generator=torch.Generator().manual_seed(p.numel()), dtype=dtype
                )
            )
    if batch_norm:
        model.train()(
            torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(6), dtype=dtype)
        )
    return model.eval()


@pytest.mark.parametrize("batch_norm", [False, True])
def test_fullgrad_of_the_baseline_is_ours(batch_norm):
    model = small(batch_norm)
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    loop = torch.stack([fullgrad_one(plain(model), x[i : i + 1], i) for i in range(3)])
    torch.testing.assert_close(loop, fullgrad(model, x, torch.arange(3)), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layer", ["conv1_1", "conv3_1", "conv5_3"])
def test_activation_maximisation_of_the_baseline_is_ours(layer):
    model = small(True)
    start = noise_image(7, layer, [1, 3], 32, None, torch.float64)
    loop = torch.cat(
        [without_hooks(plain(model), layer, f, 4, start[i : i + 1]) for i, f in enumerate([1, 3])]
    )
    torch.testing.assert_close(
        loop, maximize_activation(model, layer, [1, 3], 4, 7), rtol=1e-9, atol=1e-9
    )


def test_scores_of_the_baseline_are_ours():
    a, b = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    for metric in METRICS:
        loop = torch.from_numpy(scores_by_pairs(a.numpy(), b.numpy(), metric)).double()
        torch.testing.assert_close(loop, similarity(a, b, metric), rtol=1e-5, atol=1e-5)


def bright_and_dark():
    """Two classes anyone can tell apart."""
    y = torch.arange(64) % 2
    x = torch.randint(
        0, 100, (64, 3, 32, 32), generator=torch.Generator().manual_seed(3)
    ) + 150 * y.view(-1, 1, 1, 1)
    return Task("t", (0, 1), x.to(torch.uint8), y, x[:4].to(torch.uint8), y[:4])


def test_the_textbook_loop_trains():
    torch.manual_seed(0)
    model = plain(vgg16(2, 0.0625, True))
    losses, seconds = textbook_training(
        model, textbook_loader(bright_and_dark(), 16, workers=0), 5, 0.01, 0.9
    )
    assert len(losses) == len(seconds) == 5 and losses[-1] < 0.5 * losses[0]


def test_the_textbook_pictures_are_normalised_as_ours():
    task = bright_and_dark()
    loader = textbook_loader(task, 64, padding=0, workers=0)
    ours = normalise(task.x, task)
    for i, (picture, label) in enumerate(loader.dataset):
        assert label == task.y[i]
        assert any(
            torch.allclose(picture, either, atol=1e-6) for either in (ours[i], ours[i].flip(-1))
        )


def test_macs_on_a_hand_counted_network():
    model = vgg16(10, 1.0)  # at 32 px: 9 * in * out * side^2 for each convolution, and the head
    plan = [
        (3, 64, 32),
        (64, 64, 32),
        (64, 128, 16),
        (128, 128, 16),
        (128, 256, 8),
        (256, 256, 8),
        (256, 256, 8),
        (256, 512, 4),
        (512, 512, 4),
        (512, 512, 4),
        *[(512, 512, 2)] * 3,
    ]
    assert macs(model) == sum(9 * i * o * s**2 for i, o, s in plan) + 5120
    assert macs(up_to(model, "conv1_2")) == sum(9 * i * o * s**2 for i, o, s in plan[:2])
    assert model.training and not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_masks_freeze_the_fraction(fraction):
    model, _ = network("compact", Setup(torch.device("cpu"), tiny=True))
    masks = fraction_masks(model, fraction)
    assert all(
        int(masks[k].sum()) == int(fraction * c.out_channels + 0.5)
        for k, c in conv_layers(model).items()
    )


def test_targets_are_judged_and_tables_written():
    rows = [
        Row("fast", "2 s", "1 s", 2.0, ">= 2"),
        Row("a | b", "1 s", "1 s", 0.9, "<= 0.8"),
        Row("c", "", "", 1.0),
    ]
    table = targets_table(rows)
    assert table["reached"].tolist() == ["yes", "no", ""]
    lines = markdown(table).splitlines()
    assert len(lines) == 5 and all(line.count("|") == 8 for line in lines)


def test_processes_work_side_by_side():
    assert side_by_side(2, _prepare_products, 1, 2, "float32", "linear", 64, 1, "cpu") > 0


def test_only_ours_runs_with_the_workers_memory(monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert fresh(os.getenv, 1, "GLIBC_TUNABLES") == KEEP_MEMORY
    assert fresh(os.getenv, 1, "GLIBC_TUNABLES", as_worker=False) is None
    assert fresh(torch.get_num_threads, 1) == 1 and "GLIBC_TUNABLES" not in os.environ


def test_a_watched_command_is_weighed_with_its_children():
    child = "import time; x = bytearray(200_000_000); time.sleep(2)"
    seconds, memory = watched(
        [
            sys.executable,
            "-c",
            f"import subprocess, sys; subprocess.run([sys.executable, '-c', "
            f"{child!r}], check=True)",
        ],
        {},
    )
    assert seconds > 2 and 0.2 < memory < 0.5
    with pytest.raises(RuntimeError, match="ended with 3: .*no luck"):
        script = "import os; print(os.environ['WHAT']); raise SystemExit(3)"
        watched([sys.executable, "-c", script], {"WHAT": "no luck"})


def test_a_busy_machine_is_told():
    before = busy(0.5)
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        during = busy(1)
        other.kill()
    assert 0 <= before <= 1 and during > 0.5 / cores()


def test_every_convolution_is_timed_but_for_the_gradient_of_the_images():
    lines = convolutions("full width", Setup(torch.device("cpu"), 1, tiny=True))
    assert len(lines) == 13 * 3 - 1 and all(line["ms"] > 0 for line in lines)
    forward = sum(line["GFLOP"] for line in lines if line["work"] == "forward")
    model, recipe = network("full width", Setup(torch.device("cpu"), 1, tiny=True))
    assert forward == pytest.approx(2e-9 * recipe.batch_size * macs(up_to(model, "conv5_3")))


def test_whole_blocks_left():
    model = vgg16(10, 1.0)
    assert _left(model, 0) == 1
    assert 0.25 <= _left(model, 0.75) < 0.26  # all but the first layer's can be saved
    assert (
        _left(vgg16(10, 0.25), 0.75) > 0.35
    )  # sixteen filters or fewer in a layer: nothing to save


def test_one_section_writes_its_table(tmp_path, capsys):
    assert main(["--section", "scores", "--tiny", "--repeats", "1", "--out", str(tmp_path)]) == 0
    assert pd.read_csv(tmp_path / "scores.csv")["metric"].tolist() == list(METRICS)
    assert len(pd.read_csv(tmp_path / "targets_scores.csv")) == 1
    text = (tmp_path / "targets_scores.md").read_text()
    assert "processor" in text and "torch " in text and "## scores" in text
    assert "four metrics" in capsys.readouterr().out


@pytest.mark.parametrize(
    "section",
    [
        *("kernels", "freeze"),
        pytest.param("plan", marks=pytest.mark.slow),
        pytest.param("fullgrad", marks=pytest.mark.slow),
        pytest.param("compile", marks=pytest.mark.slow),
    ],
)
def test_other_sections_run(section, tmp_path, monkeypatch):
    # what a process of its own changes: test_only_ours_runs_with_the_workers_memory
    monkeypatch.setattr(sections, "fresh", lambda measure, threads, *given, **_: measure(*given))
    assert main(["--section", section, "--tiny", "--repeats", "1", "--out", str(tmp_path)]) == 0
    assert len(pd.read_csv(tmp_path / f"{section}.csv")) >= 1


def test_a_trace_of_one_step(tmp_path, capsys):
    assert main(["--trace", str(tmp_path / "step.json"), "--tiny"]) == 0
    assert any(
        "conv" in e.get("name", "")
        for e in json.loads((tmp_path / "step.json").read_text())["traceEvents"]
    )
    assert "trace:" in capsys.readouterr().out
