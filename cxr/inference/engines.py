"""What computes the networks when images are predicted: PyTorch, or on a CPU OpenVINO.

OpenVINO takes each network as an ONNX graph, which is made in memory from the loaded checkpoint, so
nothing has to be exported before. Before it is trusted, it must say of a drawn picture what PyTorch
says in fp32, as edge_predict.py asks of its engines.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from cxr.methods.base import Method, Outputs
from cxr.networks.network import Network
from cxr.networks.onnx_graph import INPUT, write_graph
from cxr.system.device import FORMATS
from cxr.system.errors import InputError, first_line
from cxr.system.runtime import Runtime

# With fewer images the graphs cost more time than they spare.
FEW_IMAGES = 16
# What OpenVINO is told of a number format. It has no fp16 on most CPUs.
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f32"}
# The self-test. Correlation of an output with that of PyTorch in fp32: OpenVINO had 0.9999999 in
# fp32 and 0.9985 in bf16 with trained weights, PyTorch itself 0.9991 in bf16.
CORRELATION = {"f32": 0.999, "bf16": 0.98}
SAME = 1e-4  # distance of values that counts as none
FEW_VALUES = 20  # such as the logits of classes, of which a correlation says nothing
NEAR = 0.05  # mean distance of these, as a share of their size


class Engine(Protocol):
    """Computes a network."""

    name: str  # "" for PyTorch, which needs no mention

    def __call__(self, network: Network, images: Tensor) -> Outputs:
        """What `Method.undo_view` takes, of images (B, 1, S, S) with values 0 ... 255."""


class TorchEngine:
    """PyTorch, in the number format of the runtime.

    networks: those whose weights are brought into this format now, in place, since autocast would
    do so again for every batch; the results are the same.
    """

    name = ""

    def __init__(self, method: Method, runtime: Runtime, networks: Sequence[Network] = ()) -> None:
        self.method = method
        self.runtime = runtime
        for network in networks:
            cast_weights(network, FORMATS[runtime.precision])

    def __call__(self, network: Network, images: Tensor) -> Outputs:
        with self.runtime.autocast():
            return self.method.raw_outputs(network, images)


def cast_weights(network: Network, dtype: torch.dtype) -> None:
    """Weights of plain convolutions and linear layers, which autocast always computes so.

    Layers that make something else of their weights first are left alone.
    """
    for module in network.modules():
        if type(module) in (nn.Conv2d, nn.Linear):
            module.to(dtype)


class GraphOutputs(nn.Module):
    """A network whose outputs are a tuple, as a graph has them. names: of the last call."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.names: list[str] = []

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs = self.network(images)
        self.names = list(outputs)
        return tuple(outputs.values())


class Compiled(NamedTuple):
    """A network as OpenVINO runs it for images of one side; names: of its outputs, in order."""

    run: Any
    names: list[str]


class OpenVinoEngine:
    """OpenVINO on the CPU, image by image.

    A batch brings nothing here: each network is compiled for one shape, and one image keeps all
    cores busy. Raises ImportError where the package is missing.
    """

    def __init__(self, runtime: Runtime) -> None:
        import openvino  # an extra

        version = openvino.__version__.split("-")[0]
        self.name = f"OpenVINO {version}"
        self.hint = HINTS[runtime.precision]
        self.core = openvino.Core()
        self.compiled: dict[tuple[Network, int], Compiled] = {}

    def __call__(self, network: Network, images: Tensor) -> Outputs:
        side = images.shape[-1]
        compiled = self.prepare(network, side)
        by_image = []
        for image in images.float():
            results = compiled.run({INPUT: image[None].contiguous().numpy()})
            values = [results[number] for number in range(len(compiled.names))]
            by_image.append(values)
        outputs = {}
        for number, name in enumerate(compiled.names):
            values = [values_of_image[number] for values_of_image in by_image]
            outputs[name] = torch.from_numpy(np.concatenate(values))
        return outputs

    def prepare(self, network: Network, side: int) -> Compiled:
        """The network for images of this side, compiled when it is first asked for."""
        key = (network, side)
        if key not in self.compiled:
            self.compiled[key] = self.compile(network, side)
        return self.compiled[key]

    def compile(self, network: Network, side: int) -> Compiled:
        graph = GraphOutputs(network).eval()
        with torch.no_grad():
            graph(torch.zeros(1, 1, side, side))  # for the names
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.onnx"
            write_graph(path, graph, side, graph.names)
            model = self.core.read_model(str(path))
            options = {
                "INFERENCE_PRECISION_HINT": self.hint,
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            }
            return Compiled(self.core.compile_model(model, "CPU", options), list(graph.names))


class ChosenEngine(NamedTuple):
    """What computes, and a sentence on what was passed over, "" where nothing was."""

    engine: Engine
    note: str


def is_installed() -> bool:
    """Whether OpenVINO is there."""
    return importlib.util.find_spec("openvino") is not None


def choose_engine(
    asked: str, networks: Sequence[Network], method: Method, runtime: Runtime
) -> ChosenEngine:
    """The engine of --engine for these networks.

    auto takes OpenVINO where it is installed, the device is a CPU, and it says what PyTorch says.
    Raises InputError where OpenVINO is asked for and cannot be had.
    """
    if asked == "torch":
        return ChosenEngine(TorchEngine(method, runtime, networks), "")
    reason = ""
    if runtime.device.type != "cpu":
        reason = f"it computes on the CPU, and the device is {runtime.device}"
    elif not is_installed():
        reason = "it is not installed: pip install openvino"
    if reason and asked == "auto":
        return ChosenEngine(TorchEngine(method, runtime, networks), "")

    if not reason:
        try:
            engine = OpenVinoEngine(runtime)
            reason = find_difference(engine, networks[0])
            if not reason:
                for network in networks:
                    engine.prepare(network, network.image_size)
                return ChosenEngine(engine, "")
        except Exception as error:  # of the package, its export or its compiler: anything at all
            reason = f"it cannot run these networks ({type(error).__name__}: {first_line(error)})"
    if asked == "openvino":
        raise InputError(f"--engine openvino cannot be used, since {reason}; take --engine torch")
    note = f"OpenVINO is passed over, PyTorch computes: {reason}"
    return ChosenEngine(TorchEngine(method, runtime, networks), note)


@torch.inference_mode()
def find_difference(engine: OpenVinoEngine, network: Network) -> str:
    """In which output an engine differs from PyTorch in fp32, "" where it is right.

    Many values must correlate, few must be near.
    """
    image = draw_test_picture(network.image_size)[None, None].float()
    expected = network(image)
    found = engine(network, image)
    for name, output in expected.items():
        right = output.numpy().astype(np.float64).ravel()
        values = found[name].numpy().astype(np.float64).ravel()
        if values.shape != right.shape or not np.isfinite(values).all():
            return f"{name} of the test picture has other values than numbers, or not as many"
        distance = np.abs(values - right)
        size = max(1.0, np.abs(right).max())
        if distance.max() <= SAME * size:
            continue
        if len(right) < FEW_VALUES:
            if distance.mean() > NEAR * size:
                return f"{name} of the test picture is wrong by {distance.mean():.2g}"
            continue
        reached = np.corrcoef(values, right)[0, 1] if np.ptp(values) > 0 else 0.0
        wanted = CORRELATION[engine.hint]
        if reached < wanted:
            return (
                f"{name} of the test picture has a correlation of {reached:.3f} with PyTorch's, "
                f"and {wanted} is wanted"
            )
    return ""


def draw_test_picture(side: int) -> Tensor:
    """(side, side) uint8, about a chest: two dark lungs, a heart, an opacity."""
    y = torch.arange(side)[:, None] / side
    x = torch.arange(side)[None] / side
    picture = torch.full((side, side), 180.0)
    for middle in (0.31, 0.69):
        lung = 9 * (x - middle) ** 2 + 2 * (y - 0.49) ** 2 < 0.48
        picture[lung] = 110
    heart = (x - 0.55) ** 2 + (y - 0.6) ** 2 < 0.02
    opacity = (x - 0.25) ** 2 + (y - 0.6) ** 2 < 0.005
    return (picture + 50 * heart + 60 * opacity).clamp(0, 255).byte()
