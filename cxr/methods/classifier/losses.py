"""Loss of a classifier that learns where the findings are, too."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from cxr.data.batch import Batch
from cxr.method_settings import ClassifierSettings
from cxr.methods.segmenter.losses import mask_loss, parse_terms


def classifier_loss(
    outputs: Mapping[str, Tensor], batch: Batch, settings: ClassifierSettings
) -> dict[str, Tensor]:
    """Weighted terms: 'class', 'none' with such an output, and those of --mask-loss times
    --aux-weight with an output 'mask'.

    outputs: logits 'label' (B, C), 'none' (B,), 'mask' (B, 1, S, S). The class's target are the
    probabilities of pseudo labels or of mixup where the batch has them, else its classes.
    """
    if settings.multilabel:
        terms = {"class": multilabel_loss(outputs["label"], batch, settings.label_smoothing)}
    else:
        target = batch.image_labels if batch.soft_labels is None else batch.soft_labels
        smoothing = settings.label_smoothing
        terms = {"class": F.cross_entropy(outputs["label"], target, label_smoothing=smoothing)}
    if "none" in outputs:
        terms["none"] = none_loss(outputs["none"], batch)
    if "mask" in outputs:
        for name, value in known_mask_loss(outputs["mask"], batch, settings.mask_loss).items():
            terms[name] = settings.aux_weight * value
    return terms


def multilabel_loss(logits: Tensor, batch: Batch, smoothing: float) -> Tensor:
    """Cross-entropy of each class by itself, the mean over classes and images; logits (B, C)."""
    assert batch.soft_labels is not None
    target = batch.soft_labels.float() * (1 - smoothing) + smoothing / 2
    return F.binary_cross_entropy_with_logits(logits, target)


def none_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy of whether nothing is marked, the mean over the images of which that is known;
    0 without one. logits (B,).

    An image that nobody marked counts as such, whatever its study: so the competition counts it.
    """
    assert batch.unmarked is not None
    known = ~torch.isnan(batch.unmarked)
    if not known.any():
        return 0 * logits.sum()
    return F.binary_cross_entropy_with_logits(logits[known], batch.unmarked[known])


def known_mask_loss(logits: Tensor, batch: Batch, terms: str) -> dict[str, Tensor]:
    """Terms of --mask-loss over the images whose mask is known; each 0 without such an image.

    logits (B, 1, S, S). What is unknown must not count as empty: in SIIM COVID-19 these are
    positive studies that nobody drew boxes in.
    """
    assert batch.masks is not None
    assert batch.mask_known is not None
    known = batch.mask_known
    if not known.any():
        nothing = 0 * logits.sum()
        return dict.fromkeys(parse_terms(terms), nothing)
    return mask_loss({"mask": logits[known]}, batch.masks[known], None, terms)
