"""Networks as one ONNX file, in fp32 and int8, that onnxruntime and OpenCV's cv2.dnn both read.

Input: image (1, 1, S, S) float32, 0 ... 255. Outputs, for each network k, all but the deltas
probabilities: of boxes scores<k> (1, A, K), deltas<k> (1, A, 4) and category<k> (1, C); of masks
mask<k> (1, 1, S, S) and label<k> (1, 1); of classes category<k> (1, C). Everything else that a
predictor must know stands in the metadata as JSON.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cxr.methods.export import ExportPart
from cxr.networks.fused import read_gray
from cxr.networks.network import Network
from cxr.networks.onnx_graph import INPUT, write_graph
from cxr.system.disk import atomic
from cxr.system.errors import InputError

KEY = "settings"  # of the metadata
# At the end of a file stands an entry of the metadata (field 14): this, and in 64 characters the
# SHA-256 of everything before it. Protobuf takes fields in any order, so engines need not know.
SEAL = b"\x72\x4a\x0a\x06sha256\x12\x40"
LARGEST = 2**31 - 2**24  # bytes; one protobuf message holds less than 2 GiB


class Networks(nn.Module):
    """The networks side by side: image -> outputs of the first, outputs of the second, ...

    They are copies that read the gray image once, not as three equal colours.
    """

    def __init__(self, networks: Sequence[Network], part: ExportPart) -> None:
        super().__init__()
        self.networks = nn.ModuleList()
        for network in networks:
            gray = deepcopy(network).eval()
            read_gray(gray)
            self.networks.append(gray)
        self.part = part

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        outputs: list[Tensor] = []
        for network in self.networks:
            outputs += self.part.network_outputs(cast(Network, network), image)
        return tuple(outputs)


def output_names(part: ExportPart, network_count: int) -> list[str]:
    """Names of the outputs, such as scores0, deltas0, category0, scores1, ..."""
    names = []
    for number in range(network_count):
        for output in part.outputs:
            names.append(f"{output}{number}")
    return names


def count_flop(network: Network, part: ExportPart) -> int:
    """Floating point operations of an exported network for one view: two of each product."""
    image = torch.zeros(1, 1, network.image_size, network.image_size)
    exported = Networks([network], part)  # which runs it too, to compare the copy
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        exported(image)
    return counter.get_total_flops()


def write_fp32(
    path: Path, networks: Sequence[Network], settings: Mapping[str, Any], part: ExportPart
) -> None:
    """Write networks in evaluation mode, all of one image size; part: of their method.

    Raises InputError where they are too many for one file.
    """
    check_file_size(path, networks)
    side = networks[0].image_size
    with atomic(path) as temporary:
        names = output_names(part, len(networks))
        write_graph(temporary, Networks(networks, part), side, names)
        fold_constants(temporary)
        add_settings(temporary, settings)


def check_file_size(path: Path, networks: Sequence[Network]) -> None:
    """Raises InputError where the networks are too large for one file."""
    size = 0
    for network in networks:
        size += sum(4 * weights.numel() for weights in network.state_dict().values())
    if size > LARGEST:
        raise InputError(
            f"{path} would hold {len(networks)} networks of {size / len(networks) / 2**20:.0f} MiB "
            "and 2 GiB is the limit of a file: take fewer with --checkpoints or --fold"
        )


def fold_constants(path: Path) -> None:
    """Compute what is constant, in place.

    OpenCV 4 stumbles over the shapes that PyTorch has computed in the graph.
    """
    import onnxruntime  # slow, and only this step needs it

    options = onnxruntime.SessionOptions()
    # Basic: the result holds ONNX's own operators only.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])


def add_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Put the settings into the metadata, in place, and drop operator sets that are not used."""
    model = onnx.load(str(path))
    metadata = {
        KEY: json.dumps(settings),
        # Tells the quantiser that constants have been computed, else it warns.
        "onnx.quant.pre_process": "onnxruntime.quant",
    }
    onnx.helper.set_model_props(model, metadata)
    used_domains = {node.domain for node in model.graph.node}
    used_sets = [entry for entry in model.opset_import if entry.domain in used_domains]
    del model.opset_import[:]
    model.opset_import.extend(used_sets)
    onnx.save(model, str(path))
    seal(path)


def seal(path: Path) -> None:
    """Append the check sum by which edge_predict.py finds out that bytes have changed."""
    with open(path, "rb") as file:
        check_sum = hashlib.file_digest(file, "sha256").hexdigest()
    with open(path, "ab") as file:
        file.write(SEAL + check_sum.encode())


def stored_settings(path: Path) -> dict[str, Any]:
    """What stands in the metadata of a file. KeyError where it is none of ours."""
    for entry in onnx.load(str(path)).metadata_props:
        if entry.key == KEY:
            settings: dict[str, Any] = json.loads(entry.value)
            return settings
    raise KeyError(KEY)


def replace_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Put other settings into a file that is there."""
    with atomic(path) as temporary:
        shutil.copyfile(path, temporary)
        add_settings(temporary, settings)


class CalibrationPictures:
    """What onnxruntime asks for the ranges of int8: pictures (S, S) uint8, one by one."""

    def __init__(self, pictures: Iterable[np.ndarray]) -> None:
        self.waiting = iter(pictures)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next input of the network, None after the last one."""
        picture = next(self.waiting, None)
        if picture is None:
            return None
        return {INPUT: picture.astype(np.float32)[None, None]}


def write_int8(
    path: Path,
    source: Path,
    pictures: Iterable[np.ndarray],
    settings: Mapping[str, Any],
) -> None:
    """Write the file `source` with 8-bit convolutions.

    Their ranges are those seen on the pictures (S, S) uint8. Weights have 7 bits (reduce_range):
    processors without VNNI add two products in 16 bits, and those of 8 bits overflow. The early
    convolutions stay in floats, since all that follows stands on their few channels, and so do the
    last ones: of 8 bits, thousands of anchors would share some hundred scores.
    """
    # Slow, and only needed here.
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    model = onnx.load(str(source))
    in_floats = [*early_convolutions(model), *last_convolutions(model.graph)]
    with atomic(path) as temporary:
        quantize_static(
            str(source),
            str(temporary),
            CalibrationPictures(pictures),
            QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=in_floats,
        )
        add_settings(temporary, settings)


def early_convolutions(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions that read maps of at least half the image's side, on the way from
    the image, before any smaller map has had its say.

    What a decoder or a head does with larger maps later is none of them.
    """
    graph = onnx.shape_inference.infer_shapes(model).graph
    sides = {}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        shape = value.type.tensor_type.shape.dim
        sides[value.name] = shape[-1].dim_value if len(shape) == 4 else 1
    image = graph.input[0].name
    early = {image}
    late: set[str] = set()
    convolutions = []
    for node in graph.node:  # each behind those that make its inputs
        if not late.isdisjoint(node.input):
            late.update(node.output)
        elif not early.isdisjoint(node.input):
            if node.op_type == "Conv":
                convolutions.append(node.name)
            for name in node.output:
                side = sides.get(name, 0)
                if 2 * side >= sides[image]:
                    early.add(name)
                elif side > 1:  # else a number for each channel, such as a gate
                    late.add(name)
    return sorted(convolutions)


def last_convolutions(graph: onnx.GraphProto) -> list[str]:
    """Names of the convolutions from which no other one follows on the way to the outputs."""
    makers = {}
    for node in graph.node:
        for name in node.output:
            makers[name] = node

    # From the outputs backwards, each way until its first convolution.
    waiting = [output.name for output in graph.output]
    visited = set()
    convolutions = []
    while waiting:
        node = makers.get(waiting.pop())
        if node is None or node.name in visited:
            continue
        visited.add(node.name)
        if node.op_type == "Conv":
            convolutions.append(node.name)
        elif node.op_type != "Gemm":  # of the image's class, behind a mean over the image
            waiting.extend(node.input)
    return sorted(convolutions)
