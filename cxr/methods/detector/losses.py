"""Losses as dictionaries of named terms, batched."""

import math

import torch
import torch.nn.functional as F

from cxr.system import distributed

ALPHA, GAMMA = 0.25, 2.0  # focal loss, Lin et al. 2017
CERTAIN = math.log(
    (1 - 1e-4) / 1e-4
)  # logits are cut here: probabilities in [1e-4, 1 - 1e-4], as published
BETA = 1 / 9  # where smooth L1 turns from square to linear
MEMORY = 50  # batches that the running mean of positives looks back


def focal(logits, target):
    """Elementwise focal loss of logits whose target is `target` (0 or 1) for all of them.

    alpha_t * (1 - p_t)^gamma * -log(p_t). The logarithm is that of a probability of at least 1e-4, so it needs no
    softplus, which takes ten times as long on a CPU.
    """
    wrong = (logits.clamp(-CERTAIN, CERTAIN) * (1 - 2 * target)).sigmoid()  # 1 - p_t
    return -(ALPHA if target else 1 - ALPHA) * wrong**GAMMA * (1 - wrong).log()


def detection_loss(scores, deltas, matched, running=None):
    """Class and box terms: logits (B, A, K), deltas (B, A, 4) or those of the positives only (p, 4), and what `Matcher`
    said of the batch's images.

    Class: focal loss, summed over all anchors but the ignored ones; box: smooth L1 over the positives, mean over their
    4 numbers. As published: each image's sums are divided by max(1, its positives), then the mean over images is taken
    (an image without boxes has no box term). With `running`, a tensor () that holds the running mean of an image's
    positives and is updated here, all sums are divided by that: an image counts by its positives, and a batch that
    happens to have few of them is no outlier (as in Detectron2's RetinaNet).
    """
    image, anchor = matched["positive_image"], matched["positive"]
    deltas = deltas[image, anchor] if deltas.dim() == 3 else deltas
    count = scores.new_zeros(len(scores)).index_add(0, image, scores.new_ones(len(image)))
    divisor = (count.clamp(min=1) if running is None else update_mean(running, count)) * len(scores)
    box = F.smooth_l1_loss(deltas, matched["goal"], reduction="none", beta=BETA).mean(-1)
    return {
        "class": (class_sums(scores, matched) / divisor).sum(),
        "box": (box / divisor.expand(len(scores))[image]).sum(),
    }


def class_sums(scores, matched):
    """Sum of the focal losses (B,) of each image: all anchors as if negative, then put right where some are not."""
    image = torch.cat([matched["positive_image"], matched["ignored_image"]])
    logits = scores[image, torch.cat([matched["positive"], matched["ignored"]])]
    positive, ignored = logits.tensor_split([len(matched["positive"])])
    true = positive.gather(1, matched["positive_label"][:, None])[:, 0]
    too_much = torch.cat([focal(true, 0) - focal(true, 1), focal(ignored, 0).sum(1)])
    return focal(scores, 0).sum((1, 2)).index_add(0, image, too_much, alpha=-1)


@torch.no_grad()
def update_mean(running, count):
    """Move the running mean () towards the mean of count (B,), over all processes; returns what it is then."""
    running.lerp_(distributed.mean(count.float().mean()), 1 / MEMORY)
    return running.clone()


def global_loss(logits, label):
    """Cross-entropy (B, n) against classes (B,), mean over the rows whose label is known (not -1); 0 if none is."""
    return F.cross_entropy(logits, label, ignore_index=-1, reduction="sum") / (
        label >= 0
    ).sum().clamp(min=1)
