"""One catalogue of encoders: those of segmentation-models-pytorch, and `tu-NAME` of timm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import requests
import timm
from segmentation_models_pytorch.encoders import encoders as catalogue
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn

from cxr.networks.weights import WITHOUT_NETWORK, fetch_pretrainedmodels, load_into, read_weights
from cxr.system.errors import InputError


def build_encoder(name: str, weights: str) -> nn.Module:
    """Encoder: images (B, 3, H, W) -> list of maps at strides 1, 2, 4 ... 32; see encoder_channels.

    weights: 'none', 'imagenet' (segmentation-models-pytorch's or timm's copy on the Hugging Face
    hub), 'pretrainedmodels' (the address in that package), or a file. Raises InputError with the
    remedy.
    """
    if not is_known(name):
        raise InputError(
            f"unknown --encoder {name}: choose from {', '.join(catalogue)}, or tu-NAME of timm"
        )
    try:
        return fill_encoder(name, weights)
    except ValueError as error:  # from segmentation-models-pytorch
        raise InputError(
            f"--encoder {name} has no pyramid of feature maps ({error}): choose a convolutional one"
        ) from error


def is_known(name: str) -> bool:
    if name.startswith("tu-"):
        return timm.is_model(name.removeprefix("tu-"))
    return name in catalogue


def encoder_channels(encoder: nn.Module) -> list[int]:
    """Channels of an encoder's maps, the finest first."""
    return list(cast(Any, encoder).out_channels)


class Trunk(nn.Module):
    """A network of timm up to what its classifier would see: [the last map (B, C, h, w)].

    That is after the wide convolution that ends an EfficientNet and that
    segmentation-models-pytorch leaves out.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.out_channels = [cast(Any, network).num_features]

    def forward(self, x: Tensor) -> list[Tensor]:
        return [cast(Any, self.network).forward_features(x)]


def build_trunk(name: str, weights: str) -> Trunk:
    """Trunk of tu-NAME; weights and errors as in `build_encoder`, a file having timm's names."""
    if not is_known(name):
        raise InputError(f"unknown --encoder {name}: choose tu-NAME of timm")
    if weights == "pretrainedmodels":
        raise InputError(
            f"pretrainedmodels knows no weights of {name}: use --weights imagenet or a file"
        )
    if weights == "imagenet":
        return Trunk(load_from_hub(name, build_timm_network))
    trunk = Trunk(build_timm_network(name, weights=False))
    if weights != "none":
        load_into(trunk.network, read_weights(Path(weights)), weights)
    return trunk


def build_timm_network(name: str, weights: bool) -> nn.Module:
    """Network of tu-NAME without its classifier, with the hub's weights or random ones."""
    return timm.create_model(
        name.removeprefix("tu-"), pretrained=weights, num_classes=0, global_pool=""
    )


def fill_encoder(name: str, weights: str) -> nn.Module:
    if weights == "imagenet":
        return load_from_hub(name, get_encoder)
    encoder = get_encoder(name, weights=None)
    if weights == "pretrainedmodels":
        load_into(encoder, fetch_pretrainedmodels(name), f"pretrainedmodels' weights of {name}")
    elif weights != "none":
        load_into(encoder, read_weights(Path(weights)), weights)
    return encoder


def load_from_hub(name: str, build: Callable[..., nn.Module]) -> nn.Module:
    """What build(name, weights=...) makes with the weights of the hub."""
    weights: bool | str = True
    if not name.startswith("tu-"):
        weights = "imagenet"
        if weights not in catalogue[name]["pretrained_settings"]:
            raise InputError(f"encoder {name} has no weights named imagenet: {WITHOUT_NETWORK}")
    try:
        return build(name, weights=weights)
    # huggingface_hub raises OSError subclasses without a connection, requests' or httpx's errors
    # inside one, and RuntimeError when timm finds no weights under that name.
    except (OSError, RuntimeError, requests.RequestException) as error:
        raise InputError(
            f"ImageNet weights of {name} could not be loaded from the hub "
            f"({type(error).__name__}): {WITHOUT_NETWORK}"
        ) from error
