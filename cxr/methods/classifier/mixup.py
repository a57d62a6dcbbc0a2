"""Mixup: pairs of images and their labels are mixed (Zhang et al. 2018, arXiv 1710.09412)."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from cxr.data.batch import Batch
from cxr.methods.segmenter.losses import parse_terms
from cxr.settings import Settings
from cxr.system.errors import InputError

SOFT_TERMS = ("bce", "dice", "squared_dice")  # of --mask-loss, which take shares of a mask


def check_mixup(settings: Settings) -> None:
    """Raises InputError for a mask loss that knows only yes and no."""
    method = settings.method
    if not method.mixup or not method.aux_weight:
        return
    hard = [name for name in parse_terms(method.mask_loss) if name not in SOFT_TERMS]
    if hard:
        raise InputError(
            f"--mixup makes masks of shares, of which --mask-loss {', '.join(hard)} knows nothing: "
            f"use {', '.join(SOFT_TERMS)}, or --aux-weight 0"
        )


def draw_mixture(batch: Batch, alpha: float, classes: int) -> Batch:
    """A batch whose images are mixed with one another, all with one share of Beta(alpha, alpha)."""
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    order = torch.randperm(len(batch)).to(batch.images.device)
    return mix_batch(batch, share, order, classes)


def mix_batch(batch: Batch, share: float, order: Tensor, classes: int) -> Batch:
    """Image i takes `share` of itself and the rest of image order[i], and so do its labels.

    The labels become probabilities (`soft_labels`), masks shares of 0 ... 1. What is unknown of
    one of the two is unknown of both. Boxes stay those of the image itself.
    """

    def mix(values: Tensor) -> Tensor:
        values = values.float()
        return share * values + (1 - share) * values[order]

    soft_labels = batch.soft_labels
    if soft_labels is None:
        soft_labels = F.one_hot(batch.image_labels, classes)
    mixed = replace(batch, images=mix(batch.images), soft_labels=mix(soft_labels))
    if batch.masks is not None and batch.mask_known is not None:
        mixed.masks = mix(batch.masks)
        mixed.mask_known = batch.mask_known & batch.mask_known[order]
    if batch.unmarked is not None:
        mixed.unmarked = mix(batch.unmarked)  # nan of one makes nan
    return mixed
