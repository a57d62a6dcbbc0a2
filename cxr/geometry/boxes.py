"""Boxes as x1 y1 x2 y2 floats: anchors, coding against anchors, flips, warps."""

import math
from functools import lru_cache

import numpy as np
import torch

from cxr.system.disk import InputError

SCALES = tuple(
    2 ** (i / 3) for i in range(3)
)  # Lin et al. 2017, "Focal loss for dense object detection", section 4
RATIOS = (0.5, 1.0, 2.0)  # height / width
PER_CELL = len(SCALES) * len(RATIOS)
STD = (0.1, 0.1, 0.2, 0.2)  # scale of dx, dy, dw, dh, as in Fast R-CNN


def parse_levels(text):
    """'2-7' -> (2, 3, 4, 5, 6, 7). Raises InputError for another form."""
    try:
        first, last = (int(part) for part in text.split("-"))
    except ValueError:
        raise InputError(
            f"--levels {text} is not understood: give the first and the last level, such as 2-7"
        ) from None
    return tuple(range(first, last + 1))


def cell_shapes():
    """Anchor width and height in units of the level's base size 2^(level+2): (9, 2), scale-major."""
    return torch.tensor([(s / math.sqrt(r), s * math.sqrt(r)) for s in SCALES for r in RATIOS])


def make_anchors(image_size, levels):
    """Anchors (A, 4) in input pixels, ordered by level, row, column, then 9 shapes; centres at (i + 0.5) * stride."""
    parts = []
    for level in levels:
        cells = image_size // 2**level
        centre = (torch.arange(cells) + 0.5) * 2**level
        y, x = torch.meshgrid(centre, centre, indexing="ij")
        xy = torch.stack([x, y], -1)[:, :, None]
        half = cell_shapes() * 2 ** (level + 2) / 2
        parts.append(torch.cat([xy - half, xy + half], -1).reshape(-1, 4))
    return torch.cat(parts)


@lru_cache(16)
def flip_index(image_size, levels):
    """Index (A,) with outputs_of_flipped_image[index] at the anchors of the unflipped image."""
    parts, start = [], 0
    for level in levels:
        cells = image_size // 2**level
        index = torch.arange(cells * cells * PER_CELL).reshape(cells, cells, PER_CELL)
        parts.append(start + index.flip(1).reshape(-1))
        start += index.numel()
    return torch.cat(parts)


@lru_cache(16)
def scale_index(image_size, larger, levels, octave_thirds):
    """Index (A,) into the anchors of an input of side `larger` = about image_size * 2^(octave_thirds / 3).

    Each anchor finds, in the larger image, the anchor of the same ratio whose size grew by the same factor (one step of
    the three scales per third of an octave) and whose cell holds the scaled centre.
    """
    anchors = make_anchors(image_size, levels)
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2 * (larger / image_size)
    level_of = torch.cat([torch.full(((image_size // 2**v) ** 2 * PER_CELL,), v) for v in levels])
    shape = torch.arange(len(anchors)) % PER_CELL
    step = level_of * len(SCALES) + shape // len(RATIOS) + octave_thirds
    step = step.clamp(levels[0] * len(SCALES), levels[-1] * len(SCALES) + len(SCALES) - 1)
    level, scale = step // len(SCALES), step % len(SCALES)
    cells = larger // 2**level
    column, row = ((centre[:, i] / 2**level).long().clamp(min=0) for i in (0, 1))
    column, row = torch.minimum(column, cells - 1), torch.minimum(row, cells - 1)
    counts = torch.tensor([(larger // 2**v) ** 2 * PER_CELL for v in levels])
    start = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])[level - levels[0]]
    return start + (row * cells + column) * PER_CELL + scale * len(RATIOS) + shape % len(RATIOS)


def centre_size(boxes):
    """(..., 4) corners -> centres (..., 2) and sizes (..., 2)."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]


def encode(boxes, anchors):
    """Deltas (..., 4) that move anchors (..., 4) onto boxes (..., 4), scaled by STD."""
    (xy, wh), (anchor_xy, anchor_wh) = centre_size(boxes), centre_size(anchors)
    deltas = torch.cat([(xy - anchor_xy) / anchor_wh, torch.log(wh / anchor_wh)], -1)
    return deltas / deltas.new_tensor(STD)


def decode(deltas, anchors):
    """Inverse of `encode`; sizes are limited to 16 times the anchor, so that no output can overflow."""
    anchor_xy, anchor_wh = centre_size(anchors)
    deltas = deltas * deltas.new_tensor(STD)
    xy = anchor_xy + deltas[..., :2] * anchor_wh
    half = anchor_wh * deltas[..., 2:].clamp(max=math.log(16)).exp() / 2
    return torch.cat([xy - half, xy + half], -1)


def iou(anchors, boxes):
    """IoU of anchors (A, 4) with boxes (..., M, 4) -> (..., A, M)."""
    boxes = boxes[..., None, :, :]
    anchors = anchors[:, None]
    low, high = (
        torch.maximum(anchors[..., :2], boxes[..., :2]),
        torch.minimum(anchors[..., 2:], boxes[..., 2:]),
    )
    wh = (high - low).clamp(min=0)
    inter = wh[..., 0] * wh[..., 1]
    area = (anchors[..., 2] - anchors[..., 0]) * (anchors[..., 3] - anchors[..., 1])
    area_boxes = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    return inter / (area + area_boxes - inter)


def warp_boxes(boxes, matrix):
    """Boxes (n, 4) after a 2x3 affine matrix.

    The box around four rotated corners is too big for a rounded opacity, so the eight points at 1/3 and 2/3 of each
    edge are moved and their bounding box is taken (Gabruseva et al. 2020, section 3.3).
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    third = np.array([1 / 3, 2 / 3])
    x = np.concatenate([np.tile(third, 2), [0, 0, 1, 1]])
    y = np.concatenate([[0, 0, 1, 1], np.tile(third, 2)])
    px = boxes[:, :1] + (boxes[:, 2:3] - boxes[:, :1]) * x
    py = boxes[:, 1:2] + (boxes[:, 3:] - boxes[:, 1:2]) * y
    points = np.stack([px, py], -1) @ matrix[:, :2].T + matrix[:, 2]
    return np.concatenate([points.min(1), points.max(1)], 1)


def clip_boxes(boxes, width, height):
    """Boxes (..., 4) cut at the image's edges."""
    return np.clip(boxes, 0, np.array([width, height, width, height], np.float64))
