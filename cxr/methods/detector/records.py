"""What step 04 keeps of an image for a detector, and how that becomes its final boxes: size, merge
of overlapping boxes, score rule.

Source of the rules: Gabruseva, Poplavskiy, Kalinin 2020, arXiv 2005.13899, and the authors'
published code. Boxes are (n, 4) float64 arrays x1 y1 x2 y2 in original pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from ensemble_boxes import weighted_boxes_fusion
from torchvision.ops import batched_nms, nms

from cxr.geometry.boxes import clip_boxes
from cxr.geometry.detections import Detections, TrueBoxes
from cxr.system.errors import InputError

# Percentile shrink that gives the geometric mean of the two percentiles: neither shrunk nor grown.
NO_SHRINK = -0.5
SCORE_UNIT = 5.0  # thresholds are in fifths of a probability, as published
# Boxes of an image that enter the fusion, whose time grows with the square of their number.
FUSED_AT_MOST = 100
# A box that at most this share of the networks and views vote for is a lone one: the 3rd place had
# two networks, and raised the threshold of what one of them alone had found.
LONE_SHARE = 0.5
VOTE_TOLERANCE = 1e-6  # shares are stored as float32
# Whose classes of the whole image gate boxes: the detector's own, those of the run of --gate, or
# both, multiplied.
GATES = ("own", "run", "both")


@dataclass(eq=False)
class Candidates:
    """Merged boxes of one image before any is chosen, by descending score.

    width, height: of the image. category: (C,) probabilities of the image classes. centre: (n, 2)
    x, y. size20, size80: (n, 2) width and height, the 20th and the 80th percentile over models and
    views. score: (n,) mean probability. label: (n,) int, class of the box. All lengths in original
    pixels. votes: (n,) share of the networks and views that have a box there; None: all of them, as
    in records of older versions. gate_category: (C,) what the run of --gate says of the image
    classes, which is joined when it is needed and not kept here.
    """

    image_id: str
    width: int
    height: int
    category: np.ndarray
    centre: np.ndarray
    size20: np.ndarray
    size80: np.ndarray
    score: np.ndarray
    label: np.ndarray
    votes: np.ndarray | None = None
    gate_category: np.ndarray | None = None

    def gate(self, gate_weights: Sequence[float], gate_by: str = "own") -> float:
        """How much the class of the whole image speaks for boxes: weighted sum of probabilities.

        gate_by: one of GATES. Raises InputError where a run's classes are wanted and not joined.
        """
        own = float(np.dot(self.category, gate_weights))
        if gate_by == "own":
            return own
        if self.gate_category is None:
            raise InputError(
                "the parameters of step 05 were fitted with --gate, and the classes of that run "
                "are not at hand: run 05_postprocess.py again without it"
            )
        of_run = float(np.dot(self.gate_category, gate_weights))
        return of_run if gate_by == "run" else own * of_run

    @property
    def vote_shares(self) -> np.ndarray:
        """`votes`, 1 for all where nobody counted."""
        if self.votes is None:
            return np.ones(len(self.score), np.float32)
        return self.votes

    @staticmethod
    def columns(predictions: Sequence[Candidates]) -> dict[str, np.ndarray]:
        """Arrays of some candidates, for one file."""
        columns = {}
        for name in ("centre", "size20", "size80", "score", "label"):
            columns[name] = np.concatenate([getattr(each, name) for each in predictions])
        columns["votes"] = np.concatenate([each.vote_shares for each in predictions])
        columns["image_id"] = np.array([each.image_id for each in predictions])
        columns["count"] = np.array([len(each.score) for each in predictions])
        columns["frame"] = np.array([(each.width, each.height) for each in predictions])
        columns["category"] = np.stack([each.category for each in predictions])
        return columns

    @classmethod
    def rows(cls, part: Mapping[str, np.ndarray]) -> Iterator[Candidates]:
        """Yield the candidates of what `columns` gave."""
        start = 0
        for i, count in enumerate(part["count"]):
            of_image = slice(start, start + count)
            width, height = part["frame"][i]
            yield cls(
                image_id=str(part["image_id"][i]),
                width=int(width),
                height=int(height),
                category=part["category"][i],
                centre=part["centre"][of_image],
                size20=part["size20"][of_image],
                size80=part["size80"][of_image],
                score=part["score"][of_image],
                label=part["label"][of_image],
                votes=part["votes"][of_image] if "votes" in part else None,
            )
            start += count


@dataclass(frozen=True, eq=False)
class BoxCase:
    """One out-of-fold image: its candidates, its true boxes in original pixels, where it belongs.

    test_like: labelled like the test set. group: its patient; an image without one is a group of
    its own.
    """

    candidates: Candidates
    true: TrueBoxes
    fold: int
    test_like: bool = False
    group: str = ""


@dataclass(frozen=True, eq=False)
class QuickDetections:
    """Plainly decoded detections of one image for the figures after an epoch, by descending score.

    side: of the square picture in whose pixels the boxes are.
    """

    detections: Detections
    side: int


@dataclass(frozen=True)
class Params:
    """How candidates become boxes; the defaults change no size and use no image class."""

    percentile_shrink: float = NO_SHRINK
    scale: float = 1.0  # of final boxes about their centre
    merge: str = "nms"  # or "wbf", weighted boxes fusion
    gate: bool = False  # multiply in the probability of the image class
    half: bool = False  # drop scores below half the best of the image
    threshold: float = 0.5  # of 5 * score
    score_floor: float = 0.025  # below it no candidate takes part
    nms_iou: float = 0.05  # opacities do not overlap
    wbf_iou: float = 0.4  # boxes closer than this are views of one finding and are averaged
    votes: float = 0.0  # share of the networks and views that must vote for a box
    lone: float = 1.0  # what divides the score of a box that few of them vote for
    gate_by: str = "own"  # one of GATES: whose image class it is
    gate_run: str = ""  # the run of --gate

    def record(self) -> dict[str, Any]:
        """The content of params.json; rules that are not used are left out."""
        values = asdict(self)
        if not self.gate or self.gate_by == "own":
            values |= {"gate_by": "own", "gate_run": ""}
        usual = {field.name: field.default for field in fields(self)}
        for name in OPTIONAL_RULES:
            if values[name] == usual[name]:
                del values[name]
        return values


OPTIONAL_RULES = ("votes", "lone", "gate_by", "gate_run")


def boxes_at(candidates: Candidates, percentile_shrink: float) -> np.ndarray:
    """Boxes (n, 4) of all candidates, of log size p20 + s * (p20 - p80), cut at the image's edges.

    Labels of several readers, of which only the common part counts, are smaller than those of one
    reader; a size below what most models say imitates them.
    """
    log20 = np.log(np.asarray(candidates.size20, np.float64))
    log80 = np.log(np.asarray(candidates.size80, np.float64))
    half = np.exp(log20 + percentile_shrink * (log20 - log80)) / 2
    boxes = np.concatenate([candidates.centre - half, candidates.centre + half], axis=1)
    return clip_boxes(boxes, candidates.width, candidates.height)


def scale_boxes(
    boxes: np.ndarray, factor: float | np.ndarray, width: int, height: int
) -> np.ndarray:
    """Boxes (n, 4) times `factor` about their centres, cut at the edges of an image of this size.

    Factors (c, 1, 1) give boxes (c, n, 4).
    """
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 * factor
    scaled = np.concatenate([centre - half, centre + half], axis=-1)
    return clip_boxes(scaled, width, height)


def usable_detections(candidates: Candidates, params: Params) -> Detections:
    """Candidates above the score floor and at least one pixel wide and high inside the image, as
    far as enough networks vote for them."""
    boxes = boxes_at(candidates, params.percentile_shrink)
    size = boxes[:, 2:] - boxes[:, :2]
    is_visible = (size >= 1).all(axis=1)
    usable = (candidates.score > params.score_floor) & is_visible
    scores = candidates.score[usable].astype(np.float64)
    detections = Detections(boxes[usable], scores, candidates.label[usable])
    if not params.votes and params.lone == 1:
        return detections
    return weigh_votes(detections, candidates.vote_shares[usable], params)


def weigh_votes(detections: Detections, shares: np.ndarray, params: Params) -> Detections:
    """Without the boxes that too few vote for, and with lower scores of lone ones, best first.

    shares: (n,) of the networks and views that vote for a box. Before suppression, so that no lone
    box suppresses one that others confirm.
    """
    is_lone = shares <= LONE_SHARE + VOTE_TOLERANCE
    scores = np.where(is_lone, detections.scores / params.lone, detections.scores)
    weighed = Detections(detections.boxes, scores, detections.labels)
    return weighed.take(shares >= params.votes - VOTE_TOLERANCE).sorted()


def suppress_overlaps(detections: Detections, iou: float = 0.05) -> Detections:
    """Non-maximum suppression: without the boxes that overlap a better one of their class by more
    than `iou`; by descending score."""
    return detections.take(without_overlaps(detections, iou))


def without_overlaps(detections: Detections, iou: float) -> np.ndarray:
    """Numbers (m,) of the boxes that `suppress_overlaps` leaves, in its order."""
    boxes = torch.from_numpy(detections.boxes)
    scores = torch.from_numpy(detections.scores)
    labels = detections.labels
    if (labels == labels[:1]).all():
        keep = nms(boxes, scores, iou)
    else:
        keep = batched_nms(boxes, scores, torch.from_numpy(labels.astype(np.int64)), iou)
    return keep.numpy()


def fuse_boxes(detections: Detections, width: int, height: int, iou: float = 0.4) -> Detections:
    """Weighted boxes fusion of the FUSED_AT_MOST best: a cluster's mean box with its best score.

    The best score instead of the mean one: it stays below 1, and one scale of thresholds serves
    both merges.
    """
    size = np.array([width, height, width, height], np.float64)
    best = detections.take(slice(FUSED_AT_MOST))
    boxes, scores, labels = weighted_boxes_fusion(
        [best.boxes / size], [best.scores], [best.labels], iou_thr=iou, conf_type="max"
    )
    order = np.argsort(-scores, kind="stable")
    return Detections(
        clip_boxes(boxes[order] * size, width, height),
        scores[order],
        labels[order].astype(detections.labels.dtype),
    )


def merge_overlaps(detections: Detections, candidates: Candidates, params: Params) -> Detections:
    """Detections by descending score with overlapping ones merged as `params.merge` says.

    Fusion leaves boxes that touch less than `wbf_iou`, so suppression follows it too.
    """
    if params.merge not in ("nms", "wbf"):
        raise ValueError(f"merge is {params.merge!r}: use nms or wbf")
    if params.merge == "wbf":
        detections = fuse_boxes(detections, candidates.width, candidates.height, params.wbf_iou)
    return suppress_overlaps(detections, params.nms_iou)


def merged_detections(candidates: Candidates, params: Params) -> Detections:
    """Detections of an image by descending score, before the score rule and the scale."""
    return merge_overlaps(usable_detections(candidates, params), candidates, params)


def gated_scores(scores: np.ndarray, category_gate: float, gate: bool) -> np.ndarray:
    """5 * score, or 5 * sqrt(score * category_gate) with the gate, for scores (n,)."""
    if gate:
        scores = np.sqrt(scores * category_gate)
    return SCORE_UNIT * scores


def count_above_half(scores: np.ndarray) -> int:
    """Number of scores (n,), descending, that are at least half the best."""
    return int(np.sum(scores >= scores[:1] / 2))


def final_scores(scores: np.ndarray, category_gate: float, params: Params) -> np.ndarray:
    """Final scores (k,) of the first k of the merged scores (n,), descending, that the score rule
    keeps."""
    final = gated_scores(scores, category_gate, params.gate)
    kept = int(np.sum(final > params.threshold))
    if params.half:
        kept = min(kept, count_above_half(scores))
    return final[:kept]


def detect(candidates: Candidates, params: Params, gate_weights: Sequence[float]) -> Detections:
    """Final detections of an image, scores in 0 ... 1.

    gate_weights: (C,) how much each image class speaks for boxes.
    """
    merged = merged_detections(candidates, params)
    return apply_score_rule(merged, candidates, params, gate_weights)


def apply_score_rule(
    merged: Detections, candidates: Candidates, params: Params, gate_weights: Sequence[float]
) -> Detections:
    """Final detections from what `merged_detections` gave for these parameters, or for some that
    differ in the score rule or the scale only."""
    category_gate = candidates.gate(gate_weights, params.gate_by) if params.gate else 1.0
    final = final_scores(merged.scores, category_gate, params)
    kept = merged.take(slice(len(final)))
    boxes = scale_boxes(kept.boxes, params.scale, candidates.width, candidates.height)
    return Detections(boxes, final / SCORE_UNIT, kept.labels)
