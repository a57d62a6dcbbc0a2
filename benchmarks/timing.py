"""The one place where benchmarks are started, measure and print, and where the machine's own limit is found."""

import argparse
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count


class Row(NamedTuple):
    """A line of a table; `ratio`: how many times better than the reference, whose own is 1."""

    name: str
    value: str  # with its unit
    ratio: float | None = None
    target: str = ""
    reached: bool | None = None


def at_least(name, value, ratio, target):
    """Row of a ratio that is to reach `target`."""
    return Row(name, value, ratio, f"ratio at least {target:g}", ratio >= target)


def arguments(description, **defaults):
    """Command line of a benchmark: one flag for each name=default, and --threads of PyTorch, which are set here.

    A flag has the type of its default; False gives a switch.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (defaults | {"threads": torch.get_num_threads()}).items():
        kind = (
            {"action": "store_true"}
            if default is False
            else {"type": type(default), "default": default}
        )
        parser.add_argument("--" + name.replace("_", "-"), **kind, help=f"[{default}]")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    return args


def measure(functions, rounds):
    """{name: seconds} of {name: function}: the fastest of `rounds` calls each, after one that is not counted.

    Alternated round by round, so that a machine that slows down slows all of them. The fastest, since what else runs on
    a machine only ever adds time; the first call does not count, since libraries choose and cache their kernels in it.
    """
    best = dict.fromkeys(functions, float("inf"))
    for number in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if number:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def show(question, rows, precision="fp32"):
    """Print Rows as a table below what they were measured on."""
    print(
        f"\n{question}\n\n{machine()}; {precision}; `{command()}`\n\n"
        "| what | value | ratio | to reach | reached |\n|---|---|---|---|---|"
    )
    for name, value, ratio, target, reached in rows:
        print(
            f"| {name} | {value} | {'' if ratio is None else f'{ratio:.2f}'} | {target} | "
            f"{ {None: '', True: 'yes', False: 'NO'}[reached] } |"
        )


def machine():
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "numpy"))
    load = f"load {os.getloadavg()[0]:.1f}, " if hasattr(os, "getloadavg") else ""
    return f"{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {load}{versions}"


def processor():
    info = Path("/proc/cpuinfo")
    names = (
        [
            line.split(":")[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        if info.exists()
        else []
    )
    return names[0] if names else platform.machine()


def command():
    return " ".join(["python", *sys.argv])


def duration(seconds):
    """Seconds as text, in the unit that a person reads best."""
    for unit, size in (("s", 1), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def operations(function):
    """Floating point operations of a call, those of matrix products and convolutions, counted while it runs."""
    formulas = {torch.ops.aten.convolution_backward: backward_operations}
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        function()
    return counter.get_total_flops()


def backward_operations(grad_output, image, weight, *settings, **_):
    """Operations of a convolution's backward pass, of shapes: each gradient, the image's and the weight's, costs what
    forward costs. PyTorch's own formula (2.14) forgets the groups in the weight's: 32 times too many in a ResNeXt.
    """
    transposed, wanted = settings[4], settings[7]
    return conv_flop_count(image, weight, grad_output, transposed) * sum(wanted[:2])


def against_limit(functions, images, rounds, goal, rate):
    """Seconds that "ours" takes for one image, and rows of {"ours": function, "reference": function} that do `images`.

    The limit is what ours has to compute, at the machine's rate of operations a second.
    """
    flops = {name: operations(function) / images for name, function in functions.items()}
    found = {name: seconds / images for name, seconds in measure(functions, rounds).items()}
    limit = flops["ours"] / rate
    names = {name: f"{name}, {flops[name] / 1e9:.0f} GFLOP" for name in functions}
    counted = f"limit: the operations of ours at the {rate / 1e9:.0f} GFLOP/s of a matrix product"
    return found["ours"], [
        Row(names["reference"], duration(found["reference"]), 1),
        at_least(names["ours"], duration(found["ours"]), found["reference"] / found["ours"], goal),
        Row(counted, duration(limit), found["reference"] / limit),
        Row("share of the limit that ours reaches", f"{100 * limit / found['ours']:.0f} %"),
    ]


def matmul_rate(dtype, device="cpu", side=2048, rounds=5):
    """Operations a second in a large matrix product: what this machine can do in this format where nothing hinders."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / measure({"matmul": lambda: finish(device, a @ b)}, rounds)["matmul"]


def finish(device, result=None):
    """Wait until the device has done what it was given; a GPU answers before it has."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return result
