"""Triton kernels against their PyTorch references: on the GPU if there is one, else in Triton's
interpreter.

The interpreter must be chosen before Triton is imported, so without a GPU this file runs itself
again in a process of its own; the tests of the kernels are skipped in the first process."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lib import kernels
from lib.data import Task, augment
from lib.kernels import (
    crop_flip_normalise,
    crop_flip_normalise_reference,
    ssim_pairs,
    ssim_pairs_reference,
    use_triton,
)
from references.similarity import scores_by_pairs

ROOT = Path(__file__).resolve().parents[1]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
NAN = float("nan")
needs_kernels = pytest.mark.skipif(
    not use_triton(DEVICE), reason="no GPU: run by test_the_kernels_in_the_interpreter"
)


def fresh():
    """A generator that is different in every run; a failure prints its seed."""
    draw = torch.Generator()
    print("seed", draw.seed())
    return draw


def crops(draw, n=9, b=5, h=33, w=33, padding=4):
    """x, picks (some twice), top, left, mirror, mean, std: odd sizes, each offset's ends among
    them."""
    x = torch.randint(0, 256, (n, 3, h, w), generator=draw).to(torch.uint8)
    picks = torch.randint(0, n, (b,), generator=draw)
    top, left = torch.randint(0, 2 * padding + 1, (2, b), generator=draw)
    top[0], left[0], top[1], left[1] = 0, 2 * padding, 2 * padding, 0
    mirror = torch.rand(b, generator=draw) < 0.5
    mirror[:2] = torch.tensor([True, False])
    return (
        x,
        picks,
        top,
        left,
        mirror,
        torch.rand(3, generator=draw),
        torch.rand(3, generator=draw) + 0.1,
    )


def poisoned(*shape, dtype=torch.float32):
    return torch.full(shape, NAN, dtype=dtype, device=DEVICE).contiguous(
        memory_format=torch.channels_last if len(shape) == 4 else torch.contiguous_format
    )


def line_of_values(x):
    """The bits of bf16 as integers that count its values in order: neighbours differ by one."""
    bits = x.contiguous().view(torch.int16).int()
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)


# --- the references, on any machine ---------------------------------------------------------------


@pytest.mark.parametrize(("flip", "padding"), [(True, 4), (False, 1), (True, 0)])
def test_the_crop_reference_is_augment_with_its_numbers_handed_in(flip, padding):
    x, _, _, _, _, mean, std = crops(torch.Generator().manual_seed(0))
    task = Task("t", (0,), *[torch.zeros(0)] * 4, 0, mean, std)
    given = augment(x, task, torch.Generator().manual_seed(3), padding, flip)
    draw, b = torch.Generator().manual_seed(3), len(x)
    top, left = torch.randint(0, 2 * padding + 1, (2, b, 1), generator=draw)
    mirror = (torch.rand(b, 1, generator=draw) < 0.5) & flip
    ours = crop_flip_normalise_reference(x, torch.arange(b), top, left, mirror, mean, std, padding)
    assert torch.equal(ours, given) and ours.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [11, 32, 33])
def test_the_ssim_reference_is_that_of_torchmetrics(size):
    a, b = torch.rand(
        2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(size)
    )
    b[2] = 0  # a constant map
    ours = ssim_pairs_reference(a, b)
    slow = torch.from_numpy(scores_by_pairs(a.numpy(), b.numpy(), "ssim"))
    torch.testing.assert_close(ours, slow, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "bad", [torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 8, 8, dtype=torch.uint8)]
)
def test_wrong_images_are_refused(bad):
    with pytest.raises(ValueError, match="expected uint8"):
        crop_flip_normalise(
            bad,
            *[torch.zeros(1, dtype=torch.int64)] * 2,
            torch.zeros(1),
            torch.zeros(1).bool(),
            torch.zeros(3),
            torch.ones(3),
            4,
        )
    with pytest.raises(ValueError, match="at least 11 pixels"):
        ssim_pairs(torch.zeros(1, 10, 32), torch.zeros(1, 10, 32))


# --- the kernels ----------------------------------------------------------------------------------


@needs_kernels
@pytest.mark.parametrize("shape", [(33, 33), (32, 32), (19, 37), (5, 3)])
def test_crops_are_exact_in_float32_and_within_one_unit_in_bf16(shape):
    inputs = crops(fresh(), h=shape[0], w=shape[1])
    expected = crop_flip_normalise_reference(
        *inputs, padding=4
    )  # on the CPU: correctly rounded divisions
    on_device = [t.to(DEVICE) for t in inputs]
    out = poisoned(5, 3, *shape)
    given = crop_flip_normalise(*on_device, padding=4, out=out)
    assert given is out and torch.equal(given.cpu(), expected)
    half = crop_flip_normalise(
        *on_device,
        padding=4,
        dtype=torch.bfloat16,
        out=poisoned(5, 3, *shape, dtype=torch.bfloat16),
    )
    wanted = crop_flip_normalise_reference(*inputs, padding=4, dtype=torch.bfloat16)
    assert (
        line_of_values(half.cpu()) - line_of_values(wanted)
    ).abs().max() <= 1  # the interpreter truncates
    fresh_out = crop_flip_normalise(*on_device, padding=4)
    assert torch.equal(fresh_out, given) and fresh_out.is_contiguous(
        memory_format=torch.channels_last
    )


@needs_kernels
def test_crops_read_any_layout_of_the_images():
    x, *rest = crops(fresh())
    expected = crop_flip_normalise_reference(x, *rest, padding=4)
    for other in (x.contiguous(memory_format=torch.channels_last), x.repeat_interleave(2, 0)[::2]):
        given = crop_flip_normalise(other.to(DEVICE), *[t.to(DEVICE) for t in rest], padding=4)
        assert torch.equal(given.cpu(), expected)


@needs_kernels
@pytest.mark.parametrize(
    ("size", "c", "f"), [((33, 33), 3, 5), ((32, 32), 5, 7), ((11, 11), 2, 3), ((21, 40), 1, 1)]
)
def test_ssim_of_all_pairs_is_within_1e_5_of_float64(size, c, f):
    draw = fresh()
    a = torch.rand(c, *size, generator=draw) ** 3
    b = torch.rand(f, *size, generator=draw)
    b[0] = a[0]  # an equal pair
    b[-1] = 0.7 if f > 1 else b[-1]  # a constant map: its variance is nothing but rounding
    out = poisoned(c, f)
    given = ssim_pairs(a.to(DEVICE), b.to(DEVICE), out)
    torch.testing.assert_close(given.cpu(), ssim_pairs_reference(a, b), rtol=0, atol=1e-5)
    assert given.dtype == torch.float64 and torch.equal(given, out.double())
    assert float(given[0, 0]) == pytest.approx(1, abs=1e-5)


@needs_kernels
def test_ssim_of_smooth_maps_is_within_1e_5_of_float64():
    """Smooth maps have small variances: where float32 would lose digits first."""
    place = torch.linspace(0, 1, 32)
    a = torch.stack([0.9 + 0.1 * place[:, None] * place[None] ** k for k in range(1, 4)])
    b = torch.stack([1 - 0.05 * (place[:, None] ** k + place[None]) for k in range(1, 6)])
    torch.testing.assert_close(
        ssim_pairs(a.to(DEVICE), b.to(DEVICE)).cpu(), ssim_pairs_reference(a, b), rtol=0, atol=1e-5
    )


@needs_kernels
def test_large_maps_take_the_reference():
    a, b = torch.rand(2, 2, 70, 70, generator=fresh()).to(DEVICE)
    assert torch.equal(ssim_pairs(a, b), ssim_pairs_reference(a, b))


# --- which one runs where -------------------------------------------------------------------------


def in_a_process(code, **environment):
    return subprocess.run(
        [sys.executable, *code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**{k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}, **environment},
    )


@pytest.mark.skipif(
    kernels.INTERPRETED or DEVICE.type == "cuda" or importlib.util.find_spec("triton") is None,
    reason="this is that process, or the kernels ran on the GPU, or Triton is not installed",
)
def test_the_kernels_in_the_interpreter():
    done = in_a_process(
        [
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            str(Path(__file__)),
            "-k",
            "crops or ssim",
        ],
        TRITON_INTERPRET="1",
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout


@pytest.mark.parametrize(
    ("interpret", "expected"), [("1", "True True"), ("0", f"False {torch.cuda.is_available()}")]
)
def test_the_choice(interpret, expected):
    """Kernels run on CUDA with Triton or under the interpreter; the module can be imported where
    Triton is missing."""
    ask = "from lib.kernels import use_triton; print(use_triton('cpu'), use_triton('cuda')); "
    hide = "import sys; del sys.modules['lib.kernels']; sys.modules['triton'] = None; "
    done = in_a_process(["-c", ask + hide + ask], TRITON_INTERPRET=interpret)
    there, missing = done.stdout.splitlines()
    if importlib.util.find_spec("triton") is not None:
        assert there == expected, done.stderr
    assert missing == "False False", done.stderr
