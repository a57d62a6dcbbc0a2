"""Where an encoder's first weights come from: the hub, pretrainedmodels' addresses, or a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cxr.system.errors import BROKEN, InputError, first_line

WITHOUT_NETWORK = (
    "give a downloaded file with --weights FILE (a state dict), or --weights none to train from "
    "random weights (then with --lr 5e-4 and more epochs)"
)
LEAST_SHARE = 0.9  # of an encoder's tensors that a file must have


def fetch_pretrainedmodels(name: str) -> dict[str, Tensor]:
    """State dict from the address that pretrainedmodels gives for encoder `name`."""
    import pretrainedmodels  # on import it takes half a gigabyte and a second in each process

    settings = pretrainedmodels.pretrained_settings.get(name, {}).get("imagenet")
    if settings is None:
        raise InputError(
            f"pretrainedmodels knows no ImageNet weights of {name}: use --weights imagenet or a "
            "file"
        )
    address = settings["url"]
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
            f"--weights {path} is not a file: give an existing state dict, or imagenet, "
            "pretrainedmodels, none"
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
    """Load the tensors whose names the encoder knows; a classifier's layers are left out.

    source: what the error says they come from. Raises InputError if less than nine tenths of the
    encoder's tensors find their like.
    """
    known = encoder.state_dict()
    fitting = {}
    for key, value in state.items():
        name = key.removeprefix("module.").removeprefix("encoder.")
        if name in known and known[name].shape == value.shape:
            fitting[name] = value

    needed = [name for name in known if not name.endswith("num_batches_tracked")]
    loaded = [name for name in needed if name in fitting]
    if len(loaded) < LEAST_SHARE * len(needed):
        raise InputError(
            f"{source} fits another encoder: only {len(loaded)} of {len(needed)} tensors have the "
            "right name and shape; choose the --encoder it was made for"
        )
    encoder.load_state_dict(fitting, strict=False)
