"""Where and how exactly numbers are computed: the device, and bf16 where it runs in hardware."""

from contextlib import AbstractContextManager

import torch


def default_device() -> torch.device:
    """The GPU if there is one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def bf16_supported(device: torch.device) -> bool:
    """True where bf16 products run in hardware (a T4 or a processor without AVX-512 BF16 / AMX has
    none)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    probes = (
        getattr(torch.cpu, name, bool)
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return device.type == "cpu" and any(probe() for probe in probes)


def resolve_precision(precision: str, device: torch.device | str) -> str:
    """`auto` -> "bf16" where the device has it, else "float32"; anything else unchanged."""
    if precision != "auto":
        return precision
    return "bf16" if bf16_supported(torch.device(device)) else "float32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """bf16 autocast (float32 master weights) if the resolved precision says so, else nothing."""
    use = resolve_precision(precision, device) == "bf16"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=use)
