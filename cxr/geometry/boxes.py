"""Boxes as corners x1 y1 x2 y2, floats, in whatever frame: sizes, overlap, warps, clipping."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor


def centre_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Centres (..., 2) and sizes (..., 2), x before y, of boxes (..., 4)."""
    low = boxes[..., :2]
    high = boxes[..., 2:]
    return (low + high) / 2, high - low


def box_iou(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Intersection over union (..., A, M) of anchors (A, 4) with boxes (..., M, 4)."""
    boxes = boxes[..., None, :, :]
    anchors = anchors[:, None]
    low = torch.maximum(anchors[..., :2], boxes[..., :2])
    high = torch.minimum(anchors[..., 2:], boxes[..., 2:])
    size = (high - low).clamp(min=0)
    intersection = size[..., 0] * size[..., 1]
    return intersection / (_area(anchors) + _area(boxes) - intersection)


def paired_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union (n,) of each of boxes (n, 4) with the same row of others (n, 4)."""
    low = torch.maximum(boxes[:, :2], others[:, :2])
    high = torch.minimum(boxes[:, 2:], others[:, 2:])
    intersection = (high - low).clamp(min=0).prod(-1)
    return intersection / (_area(boxes) + _area(others) - intersection)


def _area(boxes: Tensor) -> Tensor:
    """Areas (...) of boxes (..., 4)."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return (x2 - x1) * (y2 - y1)


def move_edges(boxes: np.ndarray, share: float, side: int, rng: np.random.Generator) -> np.ndarray:
    """Boxes (n, 4) in a picture side x side, each edge moved by up to `share` of the box's side."""
    size = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    moved = boxes + rng.uniform(-share, share, boxes.shape) * size
    return clip_boxes(moved, side, side)


def warp_boxes(boxes: ArrayLike, matrix: np.ndarray) -> np.ndarray:
    """Boxes (n, 4) after an affine map, a matrix (2, 3) of pixels x y 1.

    The box around four rotated corners is too big for a rounded opacity, so the eight points at 1/3
    and 2/3 of each edge are moved and their bounding box is taken (Gabruseva et al. 2020, section
    3.3).
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    x1, y1, x2, y2 = np.split(boxes, 4, axis=1)

    # The eight points in units of the box: four on its upper and lower edge, four at its sides.
    thirds = np.array([1 / 3, 2 / 3])
    along = np.tile(thirds, 2)
    across = np.array([0, 0, 1, 1])
    x = x1 + (x2 - x1) * np.concatenate([along, across])
    y = y1 + (y2 - y1) * np.concatenate([across, along])

    linear = matrix[:, :2]
    shift = matrix[:, 2]
    points = np.stack([x, y], -1) @ linear.T + shift
    return np.concatenate([points.min(1), points.max(1)], 1)


def clip_boxes(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """Boxes (..., 4) cut at the edges of an image of this size."""
    return np.clip(boxes, 0, np.array([width, height, width, height], np.float64))
