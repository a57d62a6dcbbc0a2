"""Which device and number format this machine is good at."""

from contextlib import nullcontext

import torch

from cxr.system.disk import InputError

FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name):
    """'auto' takes CUDA, then Apple's MPS, then the CPU. Raises InputError for a device that is not there."""
    if name == "auto":
        name = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"--device {name} is unknown: use auto, cpu, cuda, cuda:1 or mps")
    count = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }[device.type]
    if (device.index or 0) >= count:
        raise InputError(f"--device {name} is not available on this machine: use --device auto")
    return device


def cpu_has_bf16():
    """True where the processor multiplies bf16 itself; elsewhere bf16 on a CPU is slower than fp32."""
    tests = [
        getattr(torch.cpu, name, None)
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    ]
    return any(test() for test in tests if test is not None)


def choose_precision(name, device):
    """Name of the number format of the network's arithmetic: 'fp32', 'bf16' or 'fp16'."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device.type == "cpu" and cpu_has_bf16() else "fp32"


def training_format(device, precision):
    """Memory format of a network in training: channels last, except in fp32 on a CPU, where oneDNN's backward
    convolutions take longer in it (SE-ResNeXt-101 on AVX2: 6.2 s of a step instead of 4.9)."""
    return (
        torch.contiguous_format
        if device.type == "cpu" and precision == "fp32"
        else torch.channels_last
    )


def autocast(device, precision):
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, FORMATS[precision])


def describe(device, precision):
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{torch.get_num_threads()} threads"
    )
    return f"{device} ({name}), {precision}"
