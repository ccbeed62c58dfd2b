"""GPU kernels (Triton), each beside its PyTorch reference, which of the two runs where; and a
recorded training step.

    x = crop_flip_normalise(pixels, picks, top, left, mirror, mean, std, padding=4)  # (B, 3, H, W)
    scores = ssim_pairs(maps, visualizations)  # (C, F), float64
    step = Recorded(step, device)  # a CUDA graph after a few calls

The kernels run on CUDA where Triton is installed, and in Triton's interpreter (slow, for tests) if
TRITON_INTERPRET=1 was set before this module was imported. Everywhere else the references run, and
Triton is not imported. On an H100 both agreed with their references, and the crop kernel has made
rows of the record (a study's maps are scored on the processor); neither was timed there. A kernel
that does not beat compiled PyTorch should go. CUDA_GRAPHS=0 in the environment leaves training
steps unrecorded."""

import os
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5  # Wang et al. 2004
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2  # for values in [0, 1]
# pixels a side that a kernel's program can hold in registers; larger maps take the reference
SSIM_LARGEST = 64
SSIM_CHUNK = 128  # visualizations the reference takes at once: what fits a processor's cache
CROP_BLOCK = 1024  # values written by one program of the crop kernel
WARM_UP = 3  # plain steps before a step is recorded

triton = None
if INTERPRETED or torch.cuda.is_available():
    try:
        import triton
        from triton import language as tl
    except ImportError:
        triton = None


def use_triton(device: torch.device | str) -> bool:
    """True if the Triton kernels serve this device: CUDA with Triton installed, or any device under
    its interpreter."""
    return triton is not None and (INTERPRETED or torch.device(device).type == "cuda")


# --- a step with one launch -----------------------------------------------------------------------


def cuda_graph(step: Callable[[], None]) -> Callable[[], None]:
    """Record the device's work of one step, without doing it; the result does it all, with one
    launch."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            step()
    except RuntimeError as error:
        raise RuntimeError(
            f"a training step could not be recorded as a CUDA graph ({error}): set CUDA_GRAPHS=0 "
            "to "
            "train without one; what was finished is kept"
        ) from error
    return graph.replay


def recorder(device: torch.device) -> Callable[[Callable[[], None]], Callable[[], None]] | None:
    """What records a step on this device; None where nothing does (or CUDA_GRAPHS=0)."""
    return cuda_graph if device.type == "cuda" and os.environ.get("CUDA_GRAPHS") != "0" else None


class Recorded:
    """A step that takes no argument and does the same work on the same tensors each time, recorded
    and replayed.

    A small network's step is hundreds of launches that take longer than the work; a replay is one.
    The first WARM_UP calls are plain steps (they count), in which everything made once is made:
    optimiser state, compiled kernels, library workspaces. Where nothing records, every call is a
    plain step."""

    def __init__(self, step: Callable[[], None], device: torch.device):
        self.step, self.device, self.calls = step, device, 0
        self.record, self.replay = recorder(device), None

    def __call__(self) -> None:
        self.calls += 1
        if self.record is None:
            self.step()
        elif self.calls <= WARM_UP:
            self._aside()
        else:
            self.replay = self.replay or self.record(self.step)
            self.replay()

    def _aside(self) -> None:
        """A plain step on a stream of its own, as PyTorch asks of the steps before a recording."""
        if self.device.type != "cuda":
            return self.step()
        main, aside = torch.cuda.current_stream(self.device), torch.cuda.Stream(self.device)
        aside.wait_stream(main)
        with torch.cuda.stream(aside):
            self.step()
        main.wait_stream(aside)


# --- crop, flip, normalise ------------------------------------------------------------------------

if triton is not None:

    @triton.jit
    def _crop_kernel(
        x_ptr,
        picks_ptr,
        top_ptr,
        left_ptr,
        mirror_ptr,
        mean_ptr,
        std_ptr,
        out_ptr,
        height,
        width,
        stride_n,
        stride_c,
        stride_h,
        stride_w,
        padding,
        BLOCK: tl.constexpr,
    ):
        """Program (b, k) writes the k-th BLOCK of values of image b of the batch, in the order they
        lie in memory."""
        b = tl.program_id(0).to(
            tl.int64
        )  # 64 bits: a whole data set may hold more than 2^31 values
        place = tl.program_id(1) * BLOCK + tl.arange(
            0, BLOCK
        )  # place in the image, laid out (H, W, 3)
        exists = place < height * width * 3  # the last block may reach beyond the image
        channel = place % 3
        row = place // 3 // width
        col = place // 3 % width
        # where the value comes from: mirror within the crop, then move by the offset, less the
        # border that the reference pads on and this kernel only imagines
        mirrored = tl.load(mirror_ptr + b) != 0
        col = tl.where(mirrored, width - 1 - col, col)
        row = row + (tl.load(top_ptr + b) - padding)
        col = col + (tl.load(left_ptr + b) - padding)
        inside = exists & (row >= 0) & (row < height) & (col >= 0) & (col < width)
        pick = tl.load(picks_ptr + b)
        source = x_ptr + pick * stride_n + channel * stride_c + row * stride_h + col * stride_w
        pixel = tl.load(source, mask=inside, other=0).to(tl.float32)  # outside the picture: black
        mean = tl.load(mean_ptr + channel)
        std = tl.load(std_ptr + channel)
        # div_rn is the correctly rounded division; "/" on a GPU is an approximation, one unit off
        # now and then
        value = tl.div_rn(tl.div_rn(pixel, 255.0) - mean, std)
        tl.store(
            out_ptr + b * height * width * 3 + place,
            value.to(out_ptr.dtype.element_ty),
            mask=exists,
        )


def crop_flip_normalise_reference(
    x: Tensor,
    picks: Tensor,
    top: Tensor,
    left: Tensor,
    mirror: Tensor,
    mean: Tensor,
    std: Tensor,
    padding: int,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """What `crop_flip_normalise` computes, in PyTorch: `lib.data.augment` with its random numbers
    handed in."""
    b, (h, w) = len(picks), x.shape[-2:]
    rows = top.view(b, 1) + torch.arange(h, device=x.device)  # (B, H), in the padded image
    cols = torch.arange(w, device=x.device).expand(b, w)
    cols = left.view(b, 1) + torch.where(mirror.view(b, 1), w - 1 - cols, cols)  # (B, W)
    padded = F.pad(x[picks], (padding,) * 4).permute(0, 2, 3, 1)  # (B, H + 2p, W + 2p, 3)
    crop = padded[
        torch.arange(b, device=x.device).view(b, 1, 1), rows.view(b, h, 1), cols.view(b, 1, w)
    ]
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    values = (crop.to(exact) / 255 - mean.to(exact)) / std.to(exact)  # (B, H, W, 3)
    return values.to(dtype).permute(0, 3, 1, 2)


def crop_flip_normalise(
    x: Tensor,
    picks: Tensor,
    top: Tensor,
    left: Tensor,
    mirror: Tensor,
    mean: Tensor,
    std: Tensor,
    padding: int,
    dtype: torch.dtype = torch.float32,
    out: Tensor | None = None,
) -> Tensor:
    """Images `picks` of x, cropped, flipped and normalised in one pass: (B, 3, H, W), channels
    last, of `dtype`.

    x: uint8 (N, 3, H, W); picks, top, left: int64 (B,), the offsets from 0 to 2 * padding; mirror:
    bool (B,); mean, std: (3,). Everything on one device. Computed in float32 and rounded to `dtype`
    once (so bf16 equals what autocast makes of float32). out: written to, if given. Raises
    ValueError if x is not uint8 (N, 3, H, W)."""
    if x.dtype != torch.uint8 or x.ndim != 4 or x.shape[1] != 3:
        raise ValueError(f"images {x.dtype} {tuple(x.shape)}: expected uint8 (N, 3, H, W)")
    if not use_triton(x.device) or dtype == torch.float64:
        values = crop_flip_normalise_reference(
            x, picks, top, left, mirror, mean, std, padding, dtype
        )
        return values if out is None else out.copy_(values)
    b, (h, w) = len(picks), x.shape[-2:]
    if out is None:
        out = torch.empty(
            b, 3, h, w, dtype=dtype, device=x.device, memory_format=torch.channels_last
        )
    elif out.shape != (b, 3, h, w) or not out.is_contiguous(memory_format=torch.channels_last):
        raise ValueError(f"out {tuple(out.shape)}: expected channels-last {(b, 3, h, w)}")
    parts = picks, top, left, mirror, mean.float(), std.float()
    picks, top, left, mirror, mean, std = (t.contiguous() for t in parts)
    _crop_kernel[b, triton.cdiv(h * w * 3, CROP_BLOCK)](
        x,
        picks,
        top,
        left,
        mirror.view(torch.uint8),
        mean,
        std,
        out,
        h,
        w,
        *x.stride(),
        padding,
        BLOCK=CROP_BLOCK,
    )
    return out


# --- SSIM of all pairs ----------------------------------------------------------------------------

if triton is not None:

    @triton.jit
    def _ssim_kernel(
        a_ptr,
        b_ptr,
        band_ptr,
        mean_a_ptr,
        mean_b_ptr,
        var_a_ptr,
        var_b_ptr,
        level_a_ptr,
        level_b_ptr,
        out_ptr,
        n_filters,
        height,
        width,
        places_h,
        places_w,
        c1,
        c2,
        SIZE: tl.constexpr,
    ):
        """Program (f, c) scores visualization f against map c; all its images are (SIZE, SIZE)
        tiles in registers."""
        f, c = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
        i = tl.arange(0, SIZE)[:, None]
        j = tl.arange(0, SIZE)[None, :]
        pixel = (i < height) & (j < width)  # the tile is padded to a power of two
        place = (i < places_h) & (j < places_w)  # whole windows only
        band = tl.load(
            band_ptr + i * SIZE + j
        )  # row p: the window's weights at place p, along one axis
        a = tl.load(a_ptr + (c * height + i) * width + j, mask=pixel, other=0.0)
        b = tl.load(b_ptr + (f * height + i) * width + j, mask=pixel, other=0.0)
        mean_a = tl.load(mean_a_ptr + (c * places_h + i) * places_w + j, mask=place, other=0.0)
        mean_b = tl.load(mean_b_ptr + (f * places_h + i) * places_w + j, mask=place, other=0.0)
        var_a = tl.load(var_a_ptr + (c * places_h + i) * places_w + j, mask=place, other=0.0)
        var_b = tl.load(var_b_ptr + (f * places_h + i) * places_w + j, mask=place, other=0.0)
        # the Gaussian window is separable: filtering along one axis, then the other, is band @
        # image @ band.T; "ieee" keeps float32, the default would round to TensorFloat-32
        moment = tl.dot(
            tl.dot(band, a * b, input_precision="ieee"), tl.trans(band), input_precision="ieee"
        )
        cov = moment - mean_a * mean_b
        # images come with their overall level taken off, or the line above would lose digits; here
        # it counts
        full_a = mean_a + tl.load(level_a_ptr + c)
        full_b = mean_b + tl.load(level_b_ptr + f)
        ssim = ((2 * full_a * full_b + c1) * (2 * cov + c2)) / (
            (full_a * full_a + full_b * full_b + c1) * (var_a + var_b + c2)
        )
        total = tl.sum(tl.sum(tl.where(place, ssim, 0.0), axis=1), axis=0)
        tl.store(out_ptr + c * n_filters + f, total / (places_h * places_w))


@lru_cache
def gaussian_band(size: int, device: torch.device | str = "cpu") -> Tensor:
    """float64 (size - 10, size): row p holds the weights of the Gaussian window at the p-th whole
    place of a line."""
    offset = torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2
    g = torch.exp(-(offset**2) / (2 * SSIM_SIGMA**2))
    g = g / g.sum()
    places = size - SSIM_WINDOW + 1
    return torch.stack(
        [torch.cat([g.new_zeros(p), g, g.new_zeros(places - 1 - p)]) for p in range(places)]
    ).to(device)


def _windowed(x_hwn: Tensor) -> Tensor:
    """Gaussian mean of N images, float64 (H, W, N), at every whole place: (H - 10, W - 10, N).

    One axis after the other. The images come last: then both steps are large matrix products and
    nothing is moved."""
    h, w, n = x_hwn.shape
    rows = gaussian_band(h, x_hwn.device) @ x_hwn.reshape(h, w * n)  # (H - 10, W * N)
    return gaussian_band(w, x_hwn.device) @ rows.view(-1, w, n)


def _moments(x_hwn: Tensor) -> tuple[Tensor, Tensor]:
    """Windowed mean and variance of N images, float64 (H, W, N)."""
    mean = _windowed(x_hwn)
    return mean, _windowed(x_hwn**2) - mean**2


def ssim_pairs_reference(maps: Tensor, visualizations: Tensor) -> Tensor:
    """What `ssim_pairs` computes, in PyTorch and float64: one map with SSIM_CHUNK visualizations at
    a time."""
    a = maps.double().permute(1, 2, 0).contiguous()  # (H, W, C)
    mean_a, var_a = _moments(a)
    parts = []
    for some in visualizations.double().split(SSIM_CHUNK):
        b = some.permute(1, 2, 0).contiguous()  # (H, W, chunk)
        mean_b, var_b = _moments(b)
        rows = []
        for one, m, v in zip(
            *(t.unsqueeze(3).unbind(2) for t in (a, mean_a, var_a))
        ):  # each (., ., 1)
            mean_ab = mean_b * m
            cov = _windowed(b * one) - mean_ab
            ssim = ((2 * mean_ab + SSIM_C1) * (2 * cov + SSIM_C2)) / (
                (mean_b**2 + (m**2 + SSIM_C1)) * (var_b + (v + SSIM_C2))
            )
            rows.append(ssim.mean((0, 1)))
        parts.append(torch.stack(rows))
    return torch.cat(parts, dim=1)


def ssim_pairs(maps: Tensor, visualizations: Tensor, out: Tensor | None = None) -> Tensor:
    """Mean SSIM (C, F), float64, of every map (C, H, W) with every visualization (F, H, W), values
    in [0, 1].

    Gaussian window of 11 pixels, sigma 1.5, whole windows only. The kernel computes in float32
    (within 1e-5 of the reference) and stores nothing of a pair but its score. out: float32 (C, F),
    written to by the kernel if given. Raises ValueError if a side is shorter than the window."""
    h, w = maps.shape[-2:]
    if min(h, w) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs maps of at least {SSIM_WINDOW} pixels, got {h} by {w}")
    if not use_triton(maps.device) or max(h, w) > SSIM_LARGEST:
        return ssim_pairs_reference(maps, visualizations)
    size = max(16, triton.next_power_of_2(max(h, w)))  # 16: the least that tl.dot takes
    band = torch.zeros(
        size, size, device=maps.device
    )  # serves both axes: a shorter one uses fewer rows
    band[: size - SSIM_WINDOW + 1] = gaussian_band(size, maps.device)
    parts = []
    for x in (maps.double(), visualizations.double()):
        level = x.mean((1, 2))
        x = x - level[:, None, None]
        # moments of single images in float64: they are few, and a difference of squares needs the
        # digits
        moments = (t.permute(2, 0, 1) for t in _moments(x.permute(1, 2, 0)))  # (N, places, places)
        parts.append([t.float().contiguous() for t in (x, *moments, level)])
    (a, mean_a, var_a, level_a), (b, mean_b, var_b, level_b) = parts
    out = torch.empty(len(a), len(b), device=a.device) if out is None else out
    _ssim_kernel[len(b), len(a)](
        a,
        b,
        band,
        mean_a,
        mean_b,
        var_a,
        var_b,
        level_a,
        level_b,
        out,
        len(b),
        h,
        w,
        h - SSIM_WINDOW + 1,
        w - SSIM_WINDOW + 1,
        SSIM_C1,
        SSIM_C2,
        SIZE=size,
    )
    return out.double()
