"""Losses of masks and of the image's label: pure functions of logits and targets of equal shape, 0 or 1.

All are batched and wait for no device. What was published beside them: SIIM-ACR Pneumothorax, places 1 to 5.
"""

import torch.nn.functional as F

from cxr.system.disk import InputError


def bce(logits, target):
    return F.binary_cross_entropy_with_logits(logits, target)


def focal(logits, target):
    """Mean of -(1 - p_t)^2 log p_t, without alpha; log p_t as softplus, which needs no clamping."""
    away = logits * (1 - 2 * target)  # the larger, the further from the target
    return (away.sigmoid() ** 2 * F.softplus(away)).mean()


def batch_dice(logits, target, smooth=1e-6):
    """1 - (2 sum py + e) / (sum p + sum y + e) over the whole batch: 1 where no image has a mask."""
    probability = logits.sigmoid()
    overlap = 2 * (probability * target).sum()
    return 1 - (overlap + smooth) / (probability.sum() + target.sum() + smooth)


def squared_dice(logits, target, smooth=0.01):
    """1 - mean over images of 2 (sum py + e) / (sum p^2 + sum y^2 + e), cut at 1."""
    probability, target = logits.sigmoid().flatten(1), target.flatten(1)
    overlap = 2 * ((probability * target).sum(1) + smooth)
    return (
        1
        - (overlap / (probability.square().sum(1) + target.square().sum(1) + smooth))
        .clamp(max=1)
        .mean()
    )


def lovasz_hinge(logits, target):
    """Lovasz extension of the Jaccard loss with hinge errors, mean over images (Berman et al. 2018, algorithm 1)."""
    logits, target = logits.flatten(1), target.flatten(1)
    errors, order = (1 - logits * (2 * target - 1)).sort(1, descending=True)
    truth = target.gather(1, order)
    total = truth.sum(1, keepdim=True)
    jaccard = 1 - (total - truth.cumsum(1)) / (total + (1 - truth).cumsum(1))
    steps = jaccard.diff(dim=1, prepend=jaccard.new_zeros(len(jaccard), 1))
    return (F.relu(errors) * steps).sum(1).mean()


def symmetric_lovasz(logits, target):
    """Mean of the hinge for the mask and for its complement, so that an empty mask is as good as any."""
    return (lovasz_hinge(logits, target) + lovasz_hinge(-logits, 1 - target)) / 2


# name in --mask-loss: (function, what it compares)
TERMS = {
    "bce": (bce, "mask"),
    "dice": (batch_dice, "mask"),
    "squared_dice": (squared_dice, "mask"),
    "focal": (focal, "mask"),
    "lovasz": (symmetric_lovasz, "mask"),
    "label": (bce, "label"),
    "label_focal": (focal, "label"),
}


def parse_terms(text):
    """'bce=3,dice=1' -> {'bce': 3.0, 'dice': 1.0}. Raises InputError for a term that is unknown or has no weight."""
    try:
        weights = {
            name: float(weight) for name, weight in (part.split("=") for part in text.split(","))
        }
    except ValueError:
        raise InputError(f"--mask-loss {text} is not a list such as bce=3,dice=1,focal=4") from None
    unknown = sorted(weights.keys() - TERMS)
    if unknown:
        raise InputError(
            f"--mask-loss knows no term {', '.join(unknown)}: choose from {', '.join(TERMS)}"
        )
    return weights


def mask_loss(outputs, batch, config):
    """Weighted terms of --mask-loss: outputs and batch with 'mask' (B, 1, S, S) and, where it is used, 'label' (B,)."""
    terms = {}
    for name, weight in parse_terms(config.mask_loss).items():
        loss, what = TERMS[name]
        if what not in outputs:
            raise InputError(
                f"--mask-loss {config.mask_loss} needs a network with a --label-head for its term {name}"
            )
        terms[name] = weight * loss(outputs[what], batch[what].float())
    return terms
