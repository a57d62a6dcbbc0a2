"""Anchors of the detector: where they stand, boxes coded against them, and which anchor takes the
place of which when an image is flipped or scaled.

Boxes and anchors are corners x1 y1 x2 y2 in network pixels. All anchors of an image are one list of
A, ordered by level, row, column, then the 9 shapes of a cell; level v has cells of 2^v pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from cxr.geometry.boxes import centre_size
from cxr.system.errors import InputError

# Lin et al. 2017, "Focal loss for dense object detection", section 4
SCALES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
RATIOS = (0.5, 1.0, 2.0)  # height / width
PER_CELL = len(SCALES) * len(RATIOS)
STD = (0.1, 0.1, 0.2, 0.2)  # scale of dx, dy, dw, dh, as in Fast R-CNN
LARGEST_GROWTH = math.log(16)  # a decoded box has at most 16 times the sides of its anchor


def parse_levels(text: str) -> tuple[int, ...]:
    """'2-7' -> (2, 3, 4, 5, 6, 7). Raises InputError for another form."""
    try:
        first, last = map(int, text.split("-"))
        levels = tuple(range(first, last + 1))
    except ValueError:
        levels = ()
    if not levels:
        raise InputError(
            f"--levels {text} is not understood: give the first and the last level, such as 2-7"
        )
    return levels


def cell_shapes(ratios: Sequence[float] = RATIOS) -> Tensor:
    """Width and height (9, 2) of a cell's anchors, ordered by scale and then by ratio, in units of
    the level's base size 2^(level + 2)."""
    shapes = []
    for scale in SCALES:
        for ratio in ratios:
            shapes.append((scale / math.sqrt(ratio), scale * math.sqrt(ratio)))
    return torch.tensor(shapes)


def count_anchors(image_size: int, level: int) -> int:
    """Anchors of one level of a square image."""
    return (image_size // 2**level) ** 2 * PER_CELL


def make_anchors(image_size: int, levels: Sequence[int], shapes: Tensor | None = None) -> Tensor:
    """All anchors (A, 4) of a square image; their centres are at (i + 0.5) * 2^level.

    shapes: those of a cell, in place of `cell_shapes`.
    """
    if shapes is None:
        shapes = cell_shapes()
    anchors_by_level = []
    for level in levels:
        cells = image_size // 2**level
        centre = (torch.arange(cells) + 0.5) * 2**level
        y, x = torch.meshgrid(centre, centre, indexing="ij")
        xy = torch.stack([x, y], -1)[:, :, None]
        half = shapes * 2 ** (level + 2) / 2
        anchors_by_level.append(torch.cat([xy - half, xy + half], -1).reshape(-1, 4))
    return torch.cat(anchors_by_level)


@lru_cache(16)
def flip_index(image_size: int, levels: tuple[int, ...], per_cell: int = PER_CELL) -> Tensor:
    """Index (A,) with which outputs (A, ...) of the image flipped left to right become those of the
    image itself: `outputs_of_flipped[index]`. per_cell: anchors of a cell."""
    index_by_level = []
    start = 0
    for level in levels:
        cells = image_size // 2**level
        index = torch.arange(cells * cells * per_cell).reshape(cells, cells, per_cell)
        index_by_level.append(start + index.flip(1).reshape(-1))
        start += index.numel()
    return torch.cat(index_by_level)


@lru_cache(16)
def scale_index(
    image_size: int, content: int, canvas: int, levels: tuple[int, ...], octave_thirds: int
) -> Tensor:
    """Index (A,) into the anchors of a canvas with the same image at its upper left, scaled to the
    side `content` = about image_size * 2^(octave_thirds / 3).

    Each anchor finds, in the scaled image, the anchor of the same ratio whose size changed by the
    same factor (one step of the three scales per third of an octave) and whose cell holds the
    scaled centre.
    """
    # Size and ratio of each anchor; a step of size is a third of an octave, three steps a level.
    anchors = make_anchors(image_size, levels)
    counts = torch.tensor([count_anchors(image_size, level) for level in levels])
    level_of_anchor = torch.tensor(levels).repeat_interleave(counts)
    shape = torch.arange(len(anchors)) % PER_CELL
    ratio = shape % len(RATIOS)
    step = level_of_anchor * len(SCALES) + shape // len(RATIOS)

    # Level and scale in the scaled image; beyond the ends of the pyramid its first or last.
    smallest_step = levels[0] * len(SCALES)
    largest_step = levels[-1] * len(SCALES) + len(SCALES) - 1
    step = (step + octave_thirds).clamp(smallest_step, largest_step)
    level_there = step // len(SCALES)
    scale_there = step % len(SCALES)

    # The cell there that holds the scaled centre.
    centre, _ = centre_size(anchors)
    cell = (centre * (content / image_size) / 2 ** level_there[:, None]).long().clamp(min=0)
    cells = canvas // 2**level_there
    column = torch.minimum(cell[:, 0], cells - 1)
    row = torch.minimum(cell[:, 1], cells - 1)

    # Where its level begins in the list of all anchors.
    counts = torch.tensor([count_anchors(canvas, level) for level in levels])
    level_starts = counts.cumsum(0) - counts
    start = level_starts[level_there - levels[0]]
    return start + (row * cells + column) * PER_CELL + scale_there * len(RATIOS) + ratio


def encode_boxes(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Deltas (..., 4) that move anchors (..., 4) onto boxes (..., 4), in units of STD."""
    box_centre, box_size = centre_size(boxes)
    anchor_centre, anchor_size = centre_size(anchors)
    shift = (box_centre - anchor_centre) / anchor_size
    growth = torch.log(box_size / anchor_size)
    deltas = torch.cat([shift, growth], -1)
    return deltas / deltas.new_tensor(STD)


def decode_boxes(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Boxes (..., 4) of deltas (..., 4): the inverse of `encode_boxes`. Growth is limited, so that
    no output can overflow."""
    anchor_centre, anchor_size = centre_size(anchors)
    deltas = deltas * deltas.new_tensor(STD)
    centre = anchor_centre + deltas[..., :2] * anchor_size
    half = anchor_size * deltas[..., 2:].clamp(max=LARGEST_GROWTH).exp() / 2
    return torch.cat([centre - half, centre + half], -1)
