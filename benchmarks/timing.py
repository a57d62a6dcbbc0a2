"""The one place where benchmarks are started, measure and print, and where the machine's own limit
is found."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

Measured = Callable[[], object]  # a function whose time is taken
T = TypeVar("T")


class Row(NamedTuple):
    """A line of a table; `ratio`: how many times better than the reference, whose own is 1."""

    name: str
    value: str  # with its unit
    ratio: float | None = None
    target: str = ""
    reached: bool | None = None


def at_least(name: str, value: str, ratio: float, target: float) -> Row:
    """Row of a ratio that is to reach `target`."""
    return Row(name, value, ratio, f"ratio at least {target:g}", ratio >= target)


def arguments(description: str | None, **defaults: str | float) -> argparse.Namespace:
    """Command line of a benchmark: one flag for each name=default, and --threads of PyTorch, which
    are set here.

    A flag has the type of its default; False gives a switch.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in defaults.items():
        add_flag(parser, name, default)
    add_flag(parser, "threads", torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    return args


def add_flag(parser: argparse.ArgumentParser, name: str, default: str | float) -> None:
    flag = "--" + name.replace("_", "-")
    if default is False:
        parser.add_argument(flag, action="store_true", help="[False]")
    else:
        parser.add_argument(flag, type=type(default), default=default, help=f"[{default}]")


def measure(functions: Mapping[str, Measured], rounds: int) -> dict[str, float]:
    """{name: seconds} of {name: function}: the fastest of `rounds` calls each, after one that is
    not counted.

    Alternated round by round, so that a machine that slows down slows all of them. The fastest,
    since what else runs on a machine only ever adds time; the first call does not count, since
    libraries choose and cache their kernels in it.
    """
    best = dict.fromkeys(functions, float("inf"))
    for number in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if number:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def show(question: str, rows: Sequence[Row], precision: str = "fp32") -> None:
    """Print rows as a table below what they were measured on."""
    print(f"\n{question}\n\n{describe_machine()}; {precision}; `{command()}`\n")
    print("| what | value | ratio | to reach | reached |\n|---|---|---|---|---|")
    words = {None: "", True: "yes", False: "NO"}
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        print(f"| {row.name} | {row.value} | {ratio} | {row.target} | {words[row.reached]} |")


def describe_machine() -> str:
    versions = [f"{name} {version(name)}" for name in ("torch", "torchvision", "numpy")]
    facts = [processor(), f"{os.cpu_count()} cores", f"{torch.get_num_threads()} threads"]
    if hasattr(os, "getloadavg"):
        facts.append(f"load {os.getloadavg()[0]:.1f}")
    return ", ".join([*facts, *versions])


def processor() -> str:
    """The model's name as Linux gives it, elsewhere the architecture."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.machine()


def command() -> str:
    return " ".join(["python", *sys.argv])


def duration(seconds: float) -> str:
    """Seconds as text, in the unit that a person reads best."""
    for unit, size in (("s", 1), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def count_operations(function: Measured) -> int:
    """Floating point operations of a call, those of matrix products and convolutions, counted while
    it runs."""
    formulas = {torch.ops.aten.convolution_backward: backward_operations}
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        function()
    return counter.get_total_flops()


def backward_operations(
    grad_output: list[int],
    image: list[int],
    weight: list[int],
    *settings: Any,
    **_: Any,
) -> int:
    """Operations of a convolution's backward pass, of shapes: each gradient, the image's and the
    weight's, costs what forward costs.

    PyTorch's own formula (2.14) forgets the groups in the weight's: 32 times too many in a ResNeXt.
    """
    transposed = settings[4]
    wanted = settings[7]  # gradients: of the image, the weight, the bias
    return conv_flop_count(image, weight, grad_output, transposed) * sum(wanted[:2])


class LimitRows(NamedTuple):
    """Seconds that ours takes for one image, and the rows that `against_limit` makes."""

    seconds: float
    rows: list[Row]


def against_limit(
    ours: Measured, reference: Measured, images: int, rounds: int, goal: float, rate: float
) -> LimitRows:
    """Rows of two functions that do `images` each, beside the limit.

    The limit is what ours has to compute, at the machine's `rate` of operations a second.
    """
    functions = {"ours": ours, "reference": reference}
    flops = {name: count_operations(function) / images for name, function in functions.items()}
    measured = measure(functions, rounds)
    our_seconds = measured["ours"] / images
    plain_seconds = measured["reference"] / images
    limit = flops["ours"] / rate
    counted = f"limit: the operations of ours at the {rate / 1e9:.0f} GFLOP/s of a matrix product"
    rows = [
        Row(f"reference, {flops['reference'] / 1e9:.0f} GFLOP", duration(plain_seconds), 1),
        at_least(
            f"ours, {flops['ours'] / 1e9:.0f} GFLOP",
            duration(our_seconds),
            plain_seconds / our_seconds,
            goal,
        ),
        Row(counted, duration(limit), plain_seconds / limit),
        Row("share of the limit that ours reaches", f"{100 * limit / our_seconds:.0f} %"),
    ]
    return LimitRows(our_seconds, rows)


def matmul_rate(
    dtype: torch.dtype, device: torch.device | str = "cpu", side: int = 2048, rounds: int = 5
) -> float:
    """Operations a second in a large matrix product: what this machine can do in this format where
    nothing hinders."""
    one = torch.randn(side, side, device=device).to(dtype)
    other = torch.randn(side, side, device=device).to(dtype)
    seconds = measure({"matmul": lambda: finish(device, one @ other)}, rounds)["matmul"]
    return 2 * side**3 / seconds


def finish(device: torch.device | str, result: T) -> T:
    """The result, as soon as the device has computed it; a GPU answers before it has."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return result
