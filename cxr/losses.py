"""Losses as dictionaries of named terms, batched."""

import torch
import torch.nn.functional as F

from cxr import distributed
from cxr.boxes import encode, iou

ALPHA, GAMMA = 0.25, 2.0  # focal loss, Lin et al. 2017
BETA = 1 / 9  # where smooth L1 turns from square to linear
POSITIVE, NEGATIVE = 0.5, 0.4  # IoU with a true box
MEMORY = 50  # batches that the running mean of positives looks back


def match(anchors, boxes, labels):
    """Anchors (A, 4), padded boxes (B, M, 4) with labels (B, M), -1 where padded.

    Returns the best box's index (B, A), and masks positive (B, A), negative (B, A); anchors between are in neither.
    An image without boxes has negatives only.
    """
    overlap = iou(anchors, boxes).masked_fill(labels[:, None] < 0, -1)
    best, index = overlap.max(-1)
    return index, best >= POSITIVE, best < NEGATIVE


def focal(logits, target):
    """Elementwise focal loss with probabilities clamped to [1e-4, 1 - 1e-4], as published."""
    p = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    p_true = torch.where(target, p, 1 - p)
    alpha = torch.where(target, ALPHA, 1 - ALPHA)
    return -alpha * (1 - p_true) ** GAMMA * p_true.log()


def detection_loss(scores, deltas, anchors, boxes, labels, running=None):
    """Class and box terms: logits (B, A, K), deltas (B, A, 4), anchors (A, 4), boxes (B, M, 4), labels (B, M) or -1.

    Class: focal loss, summed over all anchors; box: smooth L1 over the positives, mean over their 4 numbers.
    As published: each image's sums are divided by max(1, its positives), then the mean over images is taken (an image
    without boxes has no box term). With `running`, a tensor () that holds the running mean of an image's positives and
    is updated here, all sums are divided by that: an image counts by its positives, and a batch that happens to have
    few of them is no outlier (as in Detectron2's RetinaNet).
    """
    index, positive, negative = match(anchors, boxes, labels)
    count = positive.sum(1)
    divisor = (count.clamp(min=1) if running is None else update_mean(running, count)) * len(boxes)
    matched = labels.gather(1, index)
    target = positive[..., None] & (matched[..., None] == torch.arange(scores.shape[-1], device=scores.device))
    used = (positive | negative)[..., None]
    class_loss = ((focal(scores, target) * used).sum((1, 2)) / divisor).sum()

    image, anchor = positive.nonzero(as_tuple=True)
    goal = encode(boxes[image, index[image, anchor]], anchors[anchor])
    each = F.smooth_l1_loss(deltas[image, anchor], goal, reduction="none", beta=BETA).mean(-1)
    return {"class": class_loss, "box": (each / divisor.expand(len(boxes))[image]).sum()}


@torch.no_grad()
def update_mean(running, count):
    """Move the running mean () towards the mean of count (B,), over all processes; returns what it is then."""
    running.lerp_(distributed.mean(count.float().mean()), 1 / MEMORY)
    return running.clone()


def global_loss(logits, label):
    """Cross-entropy (B, n) against classes (B,); rows with label -1 (unknown) are left out."""
    return F.cross_entropy(logits, label, ignore_index=-1) if (label >= 0).any() else logits.sum() * 0
