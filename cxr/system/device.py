"""Which device and number format this machine is good at."""

from __future__ import annotations

import torch

from cxr.system.errors import InputError

FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str) -> torch.device:
    """'auto' takes CUDA, then Apple's MPS, then the CPU.

    Raises InputError for a device that is not there.
    """
    if name == "auto":
        name = _best_device()
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"--device {name} is unknown: use auto, cpu, cuda, cuda:1 or mps")
    counts = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    if (device.index or 0) >= counts[device.type]:
        raise InputError(f"--device {name} is not available on this machine: use --device auto")
    return device


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def cpu_has_bf16() -> bool:
    """True where the processor multiplies bf16 itself; elsewhere bf16 is slower than fp32."""
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        test = getattr(torch.cpu, name, None)  # not every version of PyTorch has both
        if test is not None and test():
            return True
    return False


def choose_precision(name: str, device: torch.device) -> str:
    """Name of the number format of the network's arithmetic: 'fp32', 'bf16' or 'fp16'."""
    if name != "auto":
        return name
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if has_bf16 else "fp16"
    if device.type == "cpu" and cpu_has_bf16():
        return "bf16"
    return "fp32"


def training_format(device: torch.device, precision: str) -> torch.memory_format:
    """Memory format of a network in training: channels last, except in fp32 on a CPU.

    There oneDNN's backward convolutions take longer in it (SE-ResNeXt-101 on AVX2: 6.2 s of a step
    instead of 4.9).
    """
    if device.type == "cpu" and precision == "fp32":
        return torch.contiguous_format
    return torch.channels_last


def describe_device(device: torch.device, precision: str) -> str:
    """Words for the console."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{torch.get_num_threads()} threads"
    return f"{device} ({name}), {precision}"
