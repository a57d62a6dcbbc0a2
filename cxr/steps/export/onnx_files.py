"""Networks as one ONNX file, in fp32 and int8, that onnxruntime and OpenCV's cv2.dnn both read.

image (1, 1, S, S) float32, 0 ... 255, to scores<k> (1, A, K) and category<k> (1, C), probabilities, and deltas<k>
(1, A, 4), for each network k. Everything else that a predictor must know stands in the metadata as JSON.
"""

import json
import warnings

import numpy as np
import onnx
import torch
from torch import nn

from cxr.system.disk import InputError, atomic

KEY = "settings"  # of the metadata
# The first with an int8 scale for each channel, and plain enough for OpenCV 4.6 (Debian 12). PyTorch's newer exporter
# writes 18 and later only, which OpenCV before 5 misreads, so the older one is asked for.
OPSET = 13
LARGEST = 2**31 - 2**24  # bytes; one protobuf message holds less than 2 GiB


class Networks(nn.Module):
    """The networks side by side: image -> scores0, deltas0, category0, scores1, ..."""

    def __init__(self, networks):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, image):
        outputs = []
        for network in self.networks:
            raw = network(image)
            outputs += [raw["scores"].sigmoid(), raw["deltas"], raw["category"].softmax(-1)]
        return tuple(outputs)


def write_fp32(path, networks, settings):
    """Write networks in evaluation mode, all of one image size. InputError where they are too many for one file."""
    size = sum(4 * part.numel() for network in networks for part in network.state_dict().values())
    if size > LARGEST:
        raise InputError(
            f"{path} would hold {len(networks)} networks of {size / len(networks) / 2**20:.0f} MiB and "
            "2 GiB is the limit of a file: take fewer with --checkpoints or --fold"
        )
    names = [
        f"{part}{k}" for k in range(len(networks)) for part in ("scores", "deltas", "category")
    ]
    side = networks[0].image_size
    with atomic(path) as temporary, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter(
            "ignore"
        )  # the exporter's age; len() in the networks, which here is always 1
        torch.onnx.export(
            Networks(networks).eval(),
            (torch.zeros(1, 1, side, side),),
            str(temporary),
            dynamo=False,
            input_names=["image"],
            output_names=names,
            opset_version=OPSET,
        )
        simplify(temporary)
        add_settings(temporary, settings)


def simplify(path):
    """Compute what is constant, in place: OpenCV 4 stumbles over the shapes that PyTorch has computed in the graph."""
    import onnxruntime  # slow, and only this step needs it

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = (
        onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    )  # ONNX's own operators only
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])


def add_settings(path, settings):
    """Put the settings into the metadata, in place, and drop the mention of operator sets that are not used."""
    model = onnx.load(str(path))
    # The second entry tells the quantiser that constants have been computed, else it warns.
    onnx.helper.set_model_props(
        model, {KEY: json.dumps(settings), "onnx.quant.pre_process": "onnxruntime.quant"}
    )
    used = {node.domain for node in model.graph.node}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    onnx.save(model, str(path))


class Pictures:
    """What onnxruntime asks for while it looks for the ranges of int8: pictures (S, S) uint8 one by one."""

    def __init__(self, pictures):
        self.waiting = iter(pictures)

    def get_next(self):
        picture = next(self.waiting, None)
        return None if picture is None else {"image": np.float32(picture)[None, None]}


def write_int8(path, source, pictures, settings):
    """Write the file `source` with 8-bit convolutions, whose ranges are those seen on the pictures (S, S) uint8.

    Weights of 7 bits (reduce_range): processors without VNNI add two products in 16 bits, and those of 8 bits overflow.
    The last convolutions stay in floats: of 8 bits, thousands of anchors would share some hundred scores.
    """
    from onnxruntime.quantization import (
        QuantFormat,
        QuantType,
        quantize_static,
    )  # slow, and only needed here

    with atomic(path) as temporary:
        quantize_static(
            str(source),
            str(temporary),
            Pictures(pictures),
            QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=last_convolutions(onnx.load(str(source)).graph),
        )
        add_settings(temporary, settings)


def last_convolutions(graph):
    """Names of the convolutions from which no other one follows on the way to the outputs."""
    maker = {name: node for node in graph.node for name in node.output}
    waiting, seen, found = [output.name for output in graph.output], set(), []
    while waiting:
        node = maker.get(waiting.pop())
        if node is None or node.name in seen:
            continue
        seen.add(node.name)
        if node.op_type == "Conv":
            found.append(node.name)
        elif node.op_type != "Gemm":  # of the image's class, behind a mean over the image
            waiting += node.input
    return sorted(found)
