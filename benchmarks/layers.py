"""Where does the time of a training step go, by kind of layer, and how near to the limit is each?

    python benchmarks/layers.py                 the paper's network, two images, a minute
    python benchmarks/layers.py --preset small --batch-size 4
                                                that of a preset of the task rsna
    python benchmarks/layers.py --encoder resnet18 --image-size 192 --levels 3-5 --batch-size 1
                                                seconds

One step of ours under PyTorch's profiler, after one that does not count. A convolution's time is
that of its whole call, copies in it, too; what is not inside a convolution counts by the name of
its operation. The limit is the rate of a large matrix product in the number format of the step,
measured before and after it: a kind's ratio is its own rate over that. What only moves numbers has
no rate.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).parents[1]))

from reference import RSNA, network_settings, random_batch
from timing import Row, arguments, duration, matmul_rate, show
from training_step import CPU, NETWORK, OurTraining

from cxr.settings import Settings
from cxr.system.device import FORMATS, choose_precision
from cxr.system.runtime import Runtime

FORWARD = "aten::convolution"
BACKWARD = "aten::convolution_backward"
# What an operation is called that is no convolution, by parts of its name; the first that fits.
KINDS = {
    "batch norm": ("batch_norm",),
    "group norm": ("group_norm", "RowwiseMoments"),
    "drawing of dropout": ("bernoulli", "dropout"),
    "optimizer": ("fused_adam", "fused_sgd", "foreach", "linalg_vector_norm"),
    "copies between formats": ("copy_", "_to_copy", "contiguous"),
    "activations": ("relu", "clamp_min", "threshold", "sigmoid", "hardtanh", "silu"),
    "additions": ("add",),
    "multiplications": ("mul", "div"),
    "pooling and resizing": ("pool", "upsample", "mean"),
}
OTHER = "all else"


@dataclass
class Spent:
    """What the operations of a kind took: seconds, calls, floating point operations."""

    seconds: float = 0.0
    calls: int = 0
    flop: int = 0

    def add(self, seconds: float, flop: int = 0) -> None:
        self.seconds += seconds
        self.calls += 1
        self.flop += flop


def is_inside_convolution(event: Any) -> bool:
    """Whether an event of the profiler is a part of a convolution's call."""
    parent = event.cpu_parent
    while parent is not None:
        if parent.name in (FORWARD, BACKWARD):
            return True
        parent = parent.cpu_parent
    return False


def kind_of_convolution(image: Sequence[int], weight: Sequence[int]) -> str:
    """In words, of shapes (B, C, H, W) and (O, C / groups, h, w)."""
    groups = image[1] // weight[1]
    kernel = f"{weight[2]} x {weight[3]}"
    if groups == 1:
        return kernel
    if weight[1] == 1:
        return f"{kernel} depthwise"
    return f"{kernel} in groups of {weight[1]}"


def forward_flop(image: Sequence[int], weight: Sequence[int], stride: int) -> int:
    """Two for each product of a convolution that pads its edges."""
    cells = -(-image[2] // stride) * -(-image[3] // stride)
    return 2 * image[0] * cells * weight[0] * weight[1] * weight[2] * weight[3]


def spend(events: Sequence[Any]) -> dict[str, Spent]:
    """{kind: what it took} of the events of a step."""
    spent: dict[str, Spent] = {}
    for event in events:
        if is_inside_convolution(event):
            continue
        if event.name == FORWARD:
            image, weight = event.input_shapes[:2]
            kind = f"forward {kind_of_convolution(image, weight)}"
            stride = int(event.concrete_inputs[3][0])
            flop = forward_flop(image, weight, stride)
            spent.setdefault(kind, Spent()).add(event.cpu_time_total / 1e6, flop)
        elif event.name == BACKWARD:
            gradient, image, weight = event.input_shapes[:3]
            kind = f"backward {kind_of_convolution(image, weight)}"
            one = 2 * gradient[0] * gradient[2] * gradient[3] * torch.Size(weight).numel()
            flop = one * sum(event.concrete_inputs[10][:2])
            spent.setdefault(kind, Spent()).add(event.cpu_time_total / 1e6, flop)
        elif event.self_cpu_time_total:
            spent.setdefault(kind_of(event.name), Spent()).add(event.self_cpu_time_total / 1e6)
    return spent


def kind_of(name: str) -> str:
    """The kind of an operation that is no convolution."""
    for kind, parts in KINDS.items():
        if any(part in name for part in parts):
            return kind
    return OTHER


def make_settings(args: Namespace) -> Settings:
    """Of the flags, or of a preset with random weights."""
    if not args.preset:
        return network_settings(args)
    values = {
        "task": RSNA.name,
        "preset": args.preset,
        "weights": "none",
        "pretrain": 0,
        "batch_size": args.batch_size,
        "save_minutes": 1e9,
    }
    return RSNA.settings_of(values)


def profile_step(settings: Settings, precision: str) -> list[Any]:
    """Events of the second step."""
    train = OurTraining(settings, random_batch(settings), Runtime(CPU, precision))
    train()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        train()
    return list(profiler.events())


def main() -> None:
    args = arguments(__doc__, **NETWORK, preset="", least=0.005)
    settings = make_settings(args)
    precision = choose_precision("auto", CPU)
    dtype = FORMATS[precision]
    before = matmul_rate(dtype)
    spent = spend(profile_step(settings, precision))
    rate = max(before, matmul_rate(dtype))

    total = sum(each.seconds for each in spent.values())
    rows = []
    small = Spent()
    for kind, each in sorted(spent.items(), key=lambda item: -item[1].seconds):
        if each.seconds < args.least * total:
            small.seconds += each.seconds
            small.calls += each.calls
            small.flop += each.flop
            continue
        rows.append(row_of(kind, each, total, rate))
    rows.append(row_of(f"kinds below {100 * args.least:g} %", small, total, rate))
    flop = sum(each.flop for each in spent.values())
    rows.append(
        Row(
            "the whole step",
            f"{duration(total)}, {flop / 1e9:.0f} GFLOP",
            flop / total / rate,
        )
    )
    training = settings.training
    show(
        f"A training step of {training.encoder}, {training.image_size} px, "
        f"P{settings.method.levels}, {training.batch_size} images; ratio: to a matrix product of "
        f"{rate / 1e9:.0f} GFLOP/s",
        rows,
        precision,
    )


def row_of(kind: str, spent: Spent, total: float, rate: float) -> Row:
    """Share of the step, calls, and the rate beside the limit."""
    words = f"{100 * spent.seconds / total:.1f} % ({duration(spent.seconds)}, {spent.calls} calls"
    ratio = None
    if spent.flop and spent.seconds:
        own = spent.flop / spent.seconds
        words = f"{words}, {own / 1e9:.0f} GFLOP/s"
        ratio = own / rate
    return Row(kind, f"{words})", ratio)


if __name__ == "__main__":
    main()
