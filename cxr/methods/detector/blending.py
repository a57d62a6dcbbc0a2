"""Candidates of several runs as one: weighted boxes fusion, whatever anchors or points they had.

Solovyev, Wang, Gabruseva 2019, arXiv 1910.13302, whose package is called. Networks that share
their anchors are better merged before decoding (--merge of step 04).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ensemble_boxes import weighted_boxes_fusion
from torchvision.ops import box_iou

from cxr.geometry.detections import Detections
from cxr.methods.detector.records import (
    FUSED_AT_MOST,
    NO_SHRINK,
    Candidates,
    boxes_at,
    without_overlaps,
)

# Boxes of two runs closer than this are one finding: the paper's and the package's value.
FUSION_IOU = 0.55


@dataclass(frozen=True, eq=False)
class MemberBoxes:
    """What one run's own suppression leaves of an image, at most FUSED_AT_MOST boxes of a class.

    detections: of the middle of the sizes, in shares of the image's width and height. log_spread:
    (n, 2), log of size80 / size20: how far the votes for a width and height lie apart. votes: (n,)
    share of the run's networks and views that vote for a box.
    """

    detections: Detections
    log_spread: np.ndarray
    votes: np.ndarray


def fuse_candidates(
    members: Sequence[Candidates], weights: np.ndarray, nms_iou: float
) -> Candidates:
    """One image's candidates of M runs, mixed with weights (M,) that add up to 1.

    A box's score is the weighted mean over the runs, with 0 for a run that does not have it; its
    corners are means, weighted by weight and score. So are the spreads of the votes for its size,
    which step 05's shrink needs. Probabilities of the image classes are weighted means.
    """
    found = [best_boxes(candidates, nms_iou) for candidates in members]
    corners, scores, labels = weighted_boxes_fusion(
        [each.detections.boxes for each in found],
        [each.detections.scores for each in found],
        [each.detections.labels for each in found],
        weights=weights,
        iou_thr=FUSION_IOU,
        conf_type="box_and_model_avg",
    )
    order = np.argsort(-scores, kind="stable")
    fused = Detections(corners[order], scores[order], labels[order].astype(np.int16))
    nearest = [nearest_boxes(member.detections, fused) for member in found]
    half_spread = np.exp(fused_spreads(fused, found, nearest, weights) / 2)

    first = members[0]
    boxes = fused.boxes * np.array([first.width, first.height] * 2)
    middle_size = boxes[:, 2:] - boxes[:, :2]
    return Candidates(
        image_id=first.image_id,
        width=first.width,
        height=first.height,
        category=mix_categories(members, weights),
        centre=((boxes[:, :2] + boxes[:, 2:]) / 2).astype(np.float32),
        size20=(middle_size / half_spread).astype(np.float32),
        size80=(middle_size * half_spread).astype(np.float32),
        score=fused.scores.astype(np.float32),
        label=fused.labels,
        votes=fused_votes(fused, found, nearest, weights).astype(np.float32),
    )


def best_boxes(candidates: Candidates, nms_iou: float) -> MemberBoxes:
    """The best boxes of a run, without those that overlap a better one of their class."""
    frame = np.array([candidates.width, candidates.height] * 2)
    boxes = boxes_at(candidates, NO_SHRINK)
    visible = np.flatnonzero((boxes[:, 2:] - boxes[:, :2] >= 1).all(axis=1))
    scores = candidates.score.astype(np.float64)
    detections = Detections(boxes, scores, candidates.label).take(visible)
    kept = without_overlaps(detections, nms_iou)
    labels = detections.labels[kept]
    of_classes = [kept[labels == label][:FUSED_AT_MOST] for label in np.unique(labels)]
    kept = np.concatenate([kept[:0], *of_classes])
    best = detections.take(kept)
    shares = np.clip(best.boxes / frame, 0, 1)
    log_spread = np.log(candidates.size80 / candidates.size20)[visible][kept]
    votes = candidates.vote_shares[visible][kept]
    return MemberBoxes(Detections(shares, best.scores, best.labels), log_spread, votes)


def nearest_boxes(detections: Detections, fused: Detections) -> np.ndarray:
    """Number (n,) of the fused box of its class that each of n boxes overlaps most.

    The package does not tell which boxes it fused; that is the one. Empty where nothing was.
    """
    overlaps = box_iou(torch.from_numpy(detections.boxes), torch.from_numpy(fused.boxes)).numpy()
    overlaps[detections.labels[:, None] != fused.labels] = -1.0
    if not overlaps.size:
        return np.zeros(0, int)
    return overlaps.argmax(axis=1)


def fused_votes(
    fused: Detections,
    found: Sequence[MemberBoxes],
    nearest: Sequence[np.ndarray],
    weights: np.ndarray,
) -> np.ndarray:
    """Votes (m,) of fused boxes: the weighted mean over the runs, 0 for a run without the box."""
    votes = np.zeros(len(fused))
    for member, numbers, weight in zip(found, nearest, weights, strict=True):
        of_member = np.zeros(len(fused))
        np.maximum.at(of_member, numbers, member.votes[: len(numbers)])
        votes += weight * of_member
    return votes


def fused_spreads(
    fused: Detections,
    found: Sequence[MemberBoxes],
    nearest: Sequence[np.ndarray],
    weights: np.ndarray,
) -> np.ndarray:
    """Spreads (m, 2) of fused boxes: means over the boxes that lie nearest to each, weighted."""
    totals = np.zeros((len(fused), 2))
    shares = np.zeros((len(fused), 1))
    for member, numbers, weight in zip(found, nearest, weights, strict=True):
        if not len(numbers):
            continue
        share = weight * member.detections.scores[:, None]
        np.add.at(totals, numbers, share * member.log_spread)
        np.add.at(shares, numbers, share)
    return np.divide(totals, shares, out=np.zeros_like(totals), where=shares > 0)


def mix_categories(members: Sequence[Candidates], weights: np.ndarray) -> np.ndarray:
    """Weighted mean (C,) of the probabilities of the image classes over the runs that know them.

    What comes from a file of boxes knows none, which is nan.
    """
    categories = np.array([candidates.category for candidates in members], float)
    known = ~np.isnan(categories).any(axis=1)
    if not known.any():
        return categories[0]
    shares = weights[known] / weights[known].sum()
    return shares @ categories[known]
