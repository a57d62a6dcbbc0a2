"""Whether the ImageNet weights of an encoder can be had from the Hugging Face hub, or are here."""

from __future__ import annotations

import huggingface_hub.constants
from huggingface_hub import try_to_load_from_cache
from segmentation_models_pytorch.encoders import encoders as catalogue

from cxr.networks.encoders import hub_name
from cxr.system.kaggle import in_kernel

WEIGHTS_FILE = "model.safetensors"  # of segmentation-models-pytorch on the hub


def is_here(name: str) -> bool:
    """Whether the hub's weights of an encoder of segmentation-models-pytorch were downloaded."""
    source = catalogue[name]["pretrained_settings"][hub_name(name)]
    path = try_to_load_from_cache(source["repo_id"], WEIGHTS_FILE, revision=source["revision"])
    return isinstance(path, str)


def can_load(name: str) -> bool:
    """Whether they are here, or may be downloaded as far as is known without trying.

    In a Kaggle kernel nothing is downloaded, and HF_HUB_OFFLINE forbids it.
    """
    if is_here(name):
        return True
    return not in_kernel() and not huggingface_hub.constants.HF_HUB_OFFLINE
