"""Losses of a detector as dictionaries of named terms, over a whole batch at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from cxr.data.batch import Batch
from cxr.geometry.anchors import decode_boxes
from cxr.geometry.boxes import paired_iou
from cxr.system import distributed

ALPHA = 0.25  # weight of a positive's focal loss, and of a negative's 1 - ALPHA; Lin et al. 2017
GAMMA = 2.0  # focusing exponent, Lin et al. 2017
# Logits are cut here: probabilities in [1e-4, 1 - 1e-4], as published.
LARGEST_LOGIT = math.log((1 - 1e-4) / 1e-4)
BETA = 1 / 9  # where smooth L1 turns from square to linear
MEMORY = 50  # batches that the running mean of positives looks back


def focal_loss(logits: Tensor, target: int) -> Tensor:
    """Focal loss of each logit, all of which have the same target, 0 or 1.

    alpha_t * (1 - p_t)^gamma * -log(p_t). The logarithm is that of a probability of at least 1e-4,
    so it needs no softplus, which takes ten times as long on a CPU.
    """
    alpha = ALPHA if target else 1 - ALPHA
    away_from_target = logits.clamp(-LARGEST_LOGIT, LARGEST_LOGIT) * (1 - 2 * target)
    error = away_from_target.sigmoid()  # 1 - p_t
    return -alpha * error**GAMMA * (1 - error).log()


def varifocal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Varifocal loss of logits of positives with targets in 0 ... 1, both (n,).

    -q (q log p + (1 - q) log(1 - p)), Zhang et al. 2021, "VarifocalNet". Its negatives are those of
    `focal_loss`.
    """
    kept = logits.clamp(-LARGEST_LOGIT, LARGEST_LOGIT)
    return target * F.binary_cross_entropy_with_logits(kept, target, reduction="none")


@dataclass(frozen=True)
class LossKind:
    """box: "smooth_l1" or "giou". score: what a positive's score is to say, "one" or "iou".

    anchors: (A, 4), which only the other kinds than the published one need.
    """

    box: str = "smooth_l1"
    score: str = "one"
    anchors: Tensor | None = None


PUBLISHED = LossKind()


def detection_loss(
    scores: Tensor,
    deltas: Tensor,
    batch: Batch,
    running: Tensor | None = None,
    kind: LossKind = PUBLISHED,
) -> dict[str, Tensor]:
    """RetinaNet's terms: {'class': focal loss of the anchors, 'box': smooth L1 of the positives}.

    scores: logits (B, A, K). deltas: (B, A, 4), or those of the positive anchors only, (p, 4).
    batch: with what `Matcher` said of its images as target. running: see `image_divisors`.

    Class: summed over all anchors but the ignored ones; of kind.score "iou" a positive is to say
    how well its box fits. Box: mean over the 4 numbers, summed over the positives; of kind.box
    "giou" the generalised IoU loss of the boxes themselves (Rezatofighi et al. 2019). Each image's
    sums are divided by its divisor, then the mean over images is taken; an image without boxes has
    no box term.
    """
    image = batch.target_image["positive"]
    anchor = batch.target["positive"]
    goal = batch.target["goal"]
    if deltas.dim() == 3:
        deltas = deltas[image, anchor]
    box_losses = F.smooth_l1_loss(deltas, goal, reduction="none", beta=BETA).mean(-1)
    quality = None
    if kind.anchors is not None:
        boxes = decode_boxes(deltas, kind.anchors[anchor])
        true_boxes = decode_boxes(goal, kind.anchors[anchor])
        if kind.box == "giou":
            box_losses = generalized_box_iou_loss(boxes, true_boxes, reduction="none")
        if kind.score == "iou":
            quality = paired_iou(boxes.detach(), true_boxes)
    divisor = image_divisors(scores, batch, running) * len(scores)
    return {
        "class": (class_loss_sums(scores, batch, quality) / divisor).sum(),
        "box": (box_losses / divisor[image]).sum(),
    }


def image_divisors(scores: Tensor, batch: Batch, running: Tensor | None) -> Tensor:
    """What each image's sums of losses are divided by, (B,).

    As published it is the number of the image's positives, at least 1. With `running`, a tensor ()
    that holds the running mean of an image's positives and is updated here, it is that for all
    images: then an image counts by its positives, and a batch that happens to have few of them is
    no outlier (as in Detectron2's RetinaNet).
    """
    image = batch.target_image["positive"]
    ones = scores.new_ones(len(image))
    positives = scores.new_zeros(len(scores)).index_add(0, image, ones)
    if running is None:
        return positives.clamp(min=1)
    return update_mean(running, positives).expand(len(scores))


def class_loss_sums(scores: Tensor, batch: Batch, quality: Tensor | None = None) -> Tensor:
    """Sum of the focal losses (B,) of each image, from logits (B, A, K).

    quality: targets (p,) of the positives for the varifocal loss, in place of 1. All are summed as
    if they were negative, which is then put right where they are positive or ignored: these are
    few.
    """
    target = batch.target
    image = torch.cat([batch.target_image["positive"], batch.target_image["ignored"]])
    logits = scores[image, torch.cat([target["positive"], target["ignored"]])]
    positive_logits, ignored_logits = logits.tensor_split([len(target["positive"])])
    true_logits = positive_logits.gather(1, target["positive_label"][:, None])[:, 0]
    if quality is None:
        losses_of_positives = focal_loss(true_logits, 1)
    else:
        losses_of_positives = varifocal_loss(true_logits, quality)
    too_much_for_positives = focal_loss(true_logits, 0) - losses_of_positives
    too_much_for_ignored = focal_loss(ignored_logits, 0).sum(1)
    too_much = torch.cat([too_much_for_positives, too_much_for_ignored])
    as_negatives = focal_loss(scores, 0).sum((1, 2))
    return as_negatives.index_add(0, image, too_much, alpha=-1)


@torch.no_grad()
def update_mean(running: Tensor, positives: Tensor) -> Tensor:
    """Move the running mean () towards the mean of positives (B,), over all processes.

    Returns what it is then.
    """
    running.lerp_(distributed.mean(positives.float().mean()), 1 / MEMORY)
    return running.clone()


def global_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy () of logits (B, n) with the classes (B,) of whole images.

    The mean over the images whose class is known (not -1); 0 if none is.
    """
    total = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
    known = (labels >= 0).sum()
    return total / known.clamp(min=1)
