"""One catalogue of encoders and the ways to fill them with weights."""

from pathlib import Path

import requests
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from segmentation_models_pytorch.encoders import encoders as catalogue
from segmentation_models_pytorch.encoders import get_encoder
from torch import nn

from cxr.inference.checkpoint import BROKEN, first_line
from cxr.system.errors import InputError

OFFLINE = (
    "give a downloaded file with --weights FILE (a state dict), or --weights none to train from random weights "
    "(then with --lr 5e-4 and more epochs)"
)


def build_encoder(name, weights):
    """Encoder with .out_channels and a list of feature maps at strides 1, 2, 4 ... 32 for (B, 3, H, W) input.

    weights: 'none', 'imagenet' (segmentation-models-pytorch's or timm's copy on the Hugging Face hub),
    'pretrainedmodels' (the address in that package), or a file. Raises InputError with the remedy.
    """
    if not (
        timm.is_model(name.removeprefix("tu-")) if name.startswith("tu-") else name in catalogue
    ):
        raise InputError(
            f"unknown --encoder {name}: choose from {', '.join(catalogue)}, or tu-NAME of timm"
        )
    try:
        return fill(name, weights)
    except ValueError as error:  # from segmentation-models-pytorch
        raise InputError(
            f"--encoder {name} has no pyramid of feature maps ({error}): choose a convolutional one"
        ) from error


class Trunk(nn.Module):
    """A network of timm up to what its classifier would see: [the last map (B, C, h, w)], after the wide convolution
    that ends an EfficientNet and that segmentation-models-pytorch leaves out."""

    def __init__(self, network):
        super().__init__()
        self.network, self.out_channels = network, [network.num_features]

    def forward(self, x):
        return [self.network.forward_features(x)]


def build_trunk(name, weights):
    """Trunk of tu-NAME; `weights` and errors as in `build_encoder`, a file having the names of timm."""
    if not timm.is_model(name.removeprefix("tu-")):
        raise InputError(f"unknown --encoder {name}: choose tu-NAME of timm")
    if weights == "pretrainedmodels":
        raise InputError(
            f"pretrainedmodels knows no weights of {name}: use --weights imagenet or a file"
        )
    trunk = Trunk(
        from_hub(name, timm_network) if weights == "imagenet" else timm_network(name, weights=False)
    )
    if weights not in ("imagenet", "none"):
        load_into(trunk.network, read_weights(Path(weights)), weights)
    return trunk


def timm_network(name, weights):
    return timm.create_model(
        name.removeprefix("tu-"), pretrained=weights, num_classes=0, global_pool=""
    )


def fill(name, weights):
    if weights == "imagenet":
        return from_hub(name)
    encoder = get_encoder(name, weights=None)
    if weights == "pretrainedmodels":
        load_into(encoder, fetch(name), f"pretrainedmodels' weights of {name}")
    elif weights != "none":
        load_into(encoder, read_weights(Path(weights)), weights)
    return encoder


def from_hub(name, build=get_encoder):
    """What build(name, weights=...) makes with the weights of the hub."""
    settings = None if name.startswith("tu-") else catalogue[name]["pretrained_settings"]
    if settings is not None and "imagenet" not in settings:
        raise InputError(f"encoder {name} has no weights named imagenet: {OFFLINE}")
    try:
        return build(name, weights=True if name.startswith("tu-") else "imagenet")
    # huggingface_hub raises OSError subclasses without a connection, requests' or httpx's errors inside one,
    # and RuntimeError when timm finds no weights under that name
    except (OSError, RuntimeError, requests.RequestException) as error:
        raise InputError(
            f"ImageNet weights of {name} could not be loaded from the hub "
            f"({type(error).__name__}): {OFFLINE}"
        ) from error


def fetch(name):
    """State dict from the address that pretrainedmodels gives for `name`."""
    import pretrainedmodels  # on import it takes half a gigabyte and a second in each process

    settings = pretrainedmodels.pretrained_settings.get(name, {}).get("imagenet")
    if settings is None:
        raise InputError(
            f"pretrainedmodels knows no ImageNet weights of {name}: use --weights imagenet or a file"
        )
    try:
        return torch.hub.load_state_dict_from_url(
            settings["url"], map_location="cpu", weights_only=True
        )
    except BROKEN as error:  # among them urllib's errors, which are OSErrors
        raise InputError(
            f"{settings['url']} could not be loaded ({first_line(error)}): use --weights imagenet, or "
            f"{OFFLINE}"
        ) from error


def read_weights(path):
    """State dict in a .safetensors or .pth/.pt file, there alone or under 'state_dict' or, as of step 03, 'model'."""
    if not path.is_file():
        raise InputError(
            f"--weights {path} is not a file: give an existing state dict, or imagenet, pretrainedmodels, "
            "none"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (*BROKEN, SafetensorError) as error:
        raise InputError(
            f"{path} holds no state dict that can be loaded safely ({first_line(error)}): "
            "save it again with torch.save(model.state_dict(), path)"
        ) from error
    if not isinstance(content, dict):
        raise InputError(
            f"{path} holds no state dict but a {type(content).__name__}: "
            "save it again with torch.save(model.state_dict(), path)"
        )
    return content.get("state_dict", content.get("model", content))


def load_into(encoder, state, source):
    """Load the tensors whose names the encoder knows; classifier layers of the file are left out.

    Raises InputError if less than nine tenths of the encoder's tensors find their like.
    """
    own = encoder.state_dict()
    state = {
        key.removeprefix("module.").removeprefix("encoder."): value for key, value in state.items()
    }
    fitting = {
        key: value for key, value in state.items() if key in own and own[key].shape == value.shape
    }
    parameters = [key for key in own if not key.endswith("num_batches_tracked")]
    found = sum(key in fitting for key in parameters)
    if found < 0.9 * len(parameters):
        raise InputError(
            f"{source} fits another encoder: only {found} of {len(parameters)} tensors have the right "
            "name and shape; choose the --encoder it was made for"
        )
    encoder.load_state_dict(fitting, strict=False)
