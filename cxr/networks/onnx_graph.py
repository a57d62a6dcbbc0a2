"""A network as the bytes of an ONNX graph, for step 06 and for OpenVINO."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

# The first with an int8 scale for each channel, and plain enough for OpenCV 4.6 (Debian 12).
# PyTorch's newer exporter writes 18 and later only, which OpenCV before 5 misreads, so the older
# one is asked for.
OPSET = 13
INPUT = "image"


def write_graph(path: Path, network: nn.Module, side: int, outputs: Sequence[str]) -> None:
    """Write a module in evaluation mode that makes a tuple of tensors of an image.

    The input is (1, 1, side, side) float32 and is called INPUT; outputs: names of the tensors.
    """
    with warnings.catch_warnings(), torch.no_grad():
        # The exporter's age, and len() in the networks, which here is always 1.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(1, 1, side, side),),
            str(path),
            dynamo=False,
            input_names=[INPUT],
            output_names=list(outputs),
            opset_version=OPSET,
        )
