"""From the merged anchors of an image to its final boxes: size, merge of overlapping boxes, score rule.

Source of the rules: Gabruseva, Poplavskiy, Kalinin 2020, arXiv 2005.13899, and the authors' published code.
Boxes are (n, 4) float64 arrays x1 y1 x2 y2 in original pixels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from ensemble_boxes import weighted_boxes_fusion
from torchvision.ops import batched_nms, nms

from cxr.geometry.boxes import clip_boxes

NO_SHRINK = -0.5  # percentile shrink that gives the geometric mean of the two percentiles: neither shrunk nor grown
SCORE_UNIT = 5.0  # thresholds are in fifths of a probability, as published
FUSED_AT_MOST = (
    100  # boxes of an image that enter the fusion, whose time grows with the square of their number
)


@dataclass(eq=False)
class Candidates:
    """Merged anchors of one image, sorted by falling score."""

    image_id: str
    width: int  # original pixels, as all lengths here
    height: int
    category: np.ndarray  # (C,) probabilities of the image classes
    centre: np.ndarray  # (n, 2) x, y
    size20: np.ndarray  # (n, 2) width, height: 20th percentile over models and views
    size80: np.ndarray  # (n, 2) 80th percentile
    score: np.ndarray  # (n,) mean probability
    label: np.ndarray  # (n,) int box class

    @staticmethod
    def columns(candidates):
        """Arrays of a list of Candidates, for one file."""
        boxes = {
            name: np.concatenate([getattr(c, name) for c in candidates])
            for name in ("centre", "size20", "size80", "score", "label")
        }
        return boxes | {
            "image_id": np.array([c.image_id for c in candidates]),
            "count": np.array([len(c.score) for c in candidates]),
            "frame": np.array([(c.width, c.height) for c in candidates]),
            "category": np.stack([c.category for c in candidates]),
        }

    @classmethod
    def rows(cls, part):
        """Yield the Candidates of what `columns` gave."""
        ends = part["count"].cumsum()
        for i, (end, count) in enumerate(zip(ends, part["count"])):
            own = slice(end - count, end)
            yield cls(
                str(part["image_id"][i]),
                *map(int, part["frame"][i]),
                part["category"][i],
                part["centre"][own],
                part["size20"][own],
                part["size80"][own],
                part["score"][own],
                part["label"][own],
            )


@dataclass(frozen=True)
class Params:
    """How candidates become boxes; the defaults change no size and use no image class."""

    percentile_shrink: float = NO_SHRINK
    scale: float = 1.0  # of final boxes about their centre
    merge: str = "nms"  # or "wbf", weighted boxes fusion
    gate: bool = False  # multiply in the probability of the image class
    half: bool = False  # drop scores below half the best of the image
    threshold: float = 0.5  # of 5 * score
    score_floor: float = 0.025  # below it no anchor takes part
    nms_iou: float = 0.05  # opacities do not overlap
    wbf_iou: float = 0.4  # boxes closer than this are views of one finding and are averaged


def boxes_at(candidates, percentile_shrink):
    """Boxes (n, 4) of all candidates, of log size p20 + s * (p20 - p80), cut at the image's edges.

    Labels of several readers, of which only the common part counts, are smaller than those of one reader; a size
    below what most models say imitates them.
    """
    log20, log80 = (
        np.log(np.asarray(size, np.float64)) for size in (candidates.size20, candidates.size80)
    )
    half = np.exp(log20 + percentile_shrink * (log20 - log80)) / 2
    boxes = np.concatenate([candidates.centre - half, candidates.centre + half], axis=1)
    return clip_boxes(boxes, candidates.width, candidates.height)


def scale_boxes(boxes, factor, width, height):
    """Boxes (n, 4) times `factor` about their centres, cut at the image's edges; factors (c, 1, 1) give (c, n, 4)."""
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * factor
    return clip_boxes(np.concatenate([centre - half, centre + half], axis=-1), width, height)


def usable_boxes(candidates, params):
    """(boxes, scores, labels) above the score floor and at least one pixel wide and high inside the image."""
    boxes = boxes_at(candidates, params.percentile_shrink)
    usable = (candidates.score > params.score_floor) & (boxes[:, 2:] - boxes[:, :2] >= 1).all(
        axis=1
    )
    return boxes[usable], candidates.score[usable].astype(np.float64), candidates.label[usable]


def nms_boxes(boxes, scores, labels, iou=0.05):
    """The same three without the boxes that overlap a better one of their class by more than `iou`; falling scores."""
    corners, confidence = torch.from_numpy(boxes), torch.from_numpy(scores)
    if (labels == labels[:1]).all():
        keep = nms(corners, confidence, iou).numpy()
    else:
        keep = batched_nms(
            corners, confidence, torch.from_numpy(labels.astype(np.int64)), iou
        ).numpy()
    return boxes[keep], scores[keep], labels[keep]


def fuse_boxes(boxes, scores, labels, width, height, iou=0.4):
    """Weighted boxes fusion of the FUSED_AT_MOST best: the same three, a cluster's mean box with its best score.

    The best score instead of the mean one: it stays below 1, and one scale of thresholds serves both merges.
    """
    size = np.array([width, height, width, height], np.float64)
    inputs = ([part[:FUSED_AT_MOST]] for part in (boxes / size, scores, labels))
    boxes, scores, fused_labels = weighted_boxes_fusion(*inputs, iou_thr=iou, conf_type="max")
    order = np.argsort(-scores, kind="stable")
    return (
        clip_boxes(boxes[order] * size, width, height),
        scores[order],
        fused_labels[order].astype(labels.dtype),
    )


def merge_boxes(candidates, boxes, scores, labels, params):
    """(boxes, scores, labels) by falling score with overlapping ones merged as `params.merge` says.

    Fusion leaves boxes that touch less than `wbf_iou`, so suppression follows it too.
    """
    if params.merge not in ("nms", "wbf"):
        raise ValueError(f"merge is {params.merge!r}: use nms or wbf")
    if params.merge == "wbf":
        boxes, scores, labels = fuse_boxes(
            boxes, scores, labels, candidates.width, candidates.height, params.wbf_iou
        )
    return nms_boxes(boxes, scores, labels, params.nms_iou)


def merged_boxes(candidates, params):
    """(boxes, scores, labels) of an image by falling score, before the score rule and the scale."""
    return merge_boxes(candidates, *usable_boxes(candidates, params), params)


def gated_scores(scores, category_gate, gate):
    """5 * score, or 5 * sqrt(score * category_gate) with the gate, for scores (n,)."""
    return SCORE_UNIT * (np.sqrt(scores * category_gate) if gate else scores)


def above_half(scores):
    """Number of scores (n,), sorted falling, that are at least half the best."""
    return int(np.sum(scores >= scores[:1] / 2))


def final_scores(scores, category_gate, params):
    """Final scores (k,) of the first k of the merged scores (n,), sorted falling, that the score rule keeps."""
    final = gated_scores(scores, category_gate, params.gate)
    kept = np.sum(final > params.threshold)
    return final[: min(kept, above_half(scores)) if params.half else kept]


def detect_labelled(candidates, params, gate_weights):
    """(boxes (k, 4), scores (k,) in 0..1 falling, labels (k,)) of an image; see `detect`."""
    return kept_boxes(candidates, merged_boxes(candidates, params), params, gate_weights)


def kept_boxes(candidates, merged, params, gate_weights):
    """The same from what `merged_boxes` gave for these parameters, or for some that differ in the score rule only."""
    boxes, scores, labels = merged
    final = final_scores(scores, float(np.dot(candidates.category, gate_weights)), params)
    boxes = scale_boxes(boxes[: len(final)], params.scale, candidates.width, candidates.height)
    return boxes, final / SCORE_UNIT, labels[: len(final)]


def detect(candidates, params, gate_weights):
    """(boxes (k, 4), scores (k,) in 0..1 falling) of an image.

    `gate_weights` (C,) say how much each image class speaks for boxes; their weighted sum of `category` is the gate.
    """
    return detect_labelled(candidates, params, gate_weights)[:2]
