"""Losses of masks and image labels: the terms of SIIM-ACR Pneumothorax, places 1 to 5.

Logits and targets of masks are (B, 1, S, S), those of labels (B,); targets are 0 or 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from cxr.system.errors import InputError


def bce(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy, mean over all pixels or images."""
    return F.binary_cross_entropy_with_logits(logits, target)


def binary_focal(logits: Tensor, target: Tensor) -> Tensor:
    """Mean of -(1 - p_t)^2 log p_t, without alpha; log p_t as softplus, which needs no clamping."""
    distance = logits * (1 - 2 * target)  # the larger, the further from the target
    return (distance.sigmoid() ** 2 * F.softplus(distance)).mean()


def batch_dice(logits: Tensor, target: Tensor, smooth: float = 1e-6) -> Tensor:
    """1 - (2 sum py + e) / (sum p + sum y + e) over the whole batch; 1 where it has no mask."""
    probability = logits.sigmoid()
    overlap = 2 * (probability * target).sum()
    return 1 - (overlap + smooth) / (probability.sum() + target.sum() + smooth)


def squared_dice(logits: Tensor, target: Tensor, smooth: float = 0.01) -> Tensor:
    """1 - mean over images of 2 (sum py + e) / (sum p^2 + sum y^2 + e), cut at 1."""
    probability = logits.sigmoid().flatten(1)
    target = target.flatten(1)
    overlap = 2 * ((probability * target).sum(1) + smooth)
    total = probability.square().sum(1) + target.square().sum(1) + smooth
    return 1 - (overlap / total).clamp(max=1).mean()


def lovasz_hinge(logits: Tensor, target: Tensor) -> Tensor:
    """Lovasz extension of the Jaccard loss with hinge errors, mean over images.

    Berman et al. 2018, algorithm 1.
    """
    logits = logits.flatten(1)
    target = target.flatten(1)
    errors, order = (1 - logits * (2 * target - 1)).sort(1, descending=True)
    truth = target.gather(1, order)
    total = truth.sum(1, keepdim=True)
    jaccard = 1 - (total - truth.cumsum(1)) / (total + (1 - truth).cumsum(1))
    steps = jaccard.diff(dim=1, prepend=jaccard.new_zeros(len(jaccard), 1))
    return (F.relu(errors) * steps).sum(1).mean()


def symmetric_lovasz(logits: Tensor, target: Tensor) -> Tensor:
    """Mean of the hinge for the mask and for its complement.

    So an empty mask counts like any other.
    """
    return (lovasz_hinge(logits, target) + lovasz_hinge(-logits, 1 - target)) / 2


class LossTerm(NamedTuple):
    """A term of --mask-loss, and which output it judges: "mask" or "label"."""

    function: Callable[[Tensor, Tensor], Tensor]
    output: str


TERMS = {
    "bce": LossTerm(bce, "mask"),
    "dice": LossTerm(batch_dice, "mask"),
    "squared_dice": LossTerm(squared_dice, "mask"),
    "focal": LossTerm(binary_focal, "mask"),
    "lovasz": LossTerm(symmetric_lovasz, "mask"),
    "label": LossTerm(bce, "label"),
    "label_focal": LossTerm(binary_focal, "label"),
}


def parse_terms(text: str) -> dict[str, float]:
    """'bce=3,dice=1' -> {'bce': 3.0, 'dice': 1.0}.

    Raises InputError for a term that is unknown or has no weight.
    """
    weights: dict[str, float] = {}
    for term in text.split(","):
        name, _, weight = term.partition("=")
        try:
            weights[name] = float(weight)
        except ValueError:
            raise InputError(
                f"--mask-loss {text} is not a list such as bce=3,dice=1,focal=4"
            ) from None
    unknown = sorted(weights.keys() - TERMS)
    if unknown:
        raise InputError(
            f"--mask-loss knows no term {', '.join(unknown)}: choose from {', '.join(TERMS)}"
        )
    return weights


def mask_loss(
    outputs: Mapping[str, Tensor], masks: Tensor | None, labels: Tensor | None, terms: str
) -> dict[str, Tensor]:
    """Weighted terms of --mask-loss.

    outputs: logits 'mask' (B, 1, S, S) and, where a term judges it, 'label' (B,). masks
    (B, 1, S, S) and labels (B,) of 0 and 1. Raises InputError where the network has no such output.
    """
    targets = {"mask": masks, "label": labels}
    losses: dict[str, Tensor] = {}
    for name, weight in parse_terms(terms).items():
        term = TERMS[name]
        target = targets[term.output]
        if term.output not in outputs or target is None:
            raise InputError(
                f"--mask-loss {terms} needs a network with a --label-head for its term {name}"
            )
        losses[name] = weight * term.function(outputs[term.output], target.float())
    return losses
