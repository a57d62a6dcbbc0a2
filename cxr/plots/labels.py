"""Words at boxes in a picture, so that none is cut off at the edge or written over another."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.patheffects import withStroke
from matplotlib.textpath import TextPath

LINE_HEIGHT = 1.25  # of the letters
HINTING = 1.04  # a font fitted to pixels may be so much wider than its outlines
INCH = 72  # points
BOLD = FontProperties(weight="bold")

Rectangle = tuple[float, float, float, float]  # x1 y1 x2 y2


class Corner(NamedTuple):
    """Upper left corner of words, in pixels of the picture."""

    x: float
    y: float


def place_labels(
    boxes: Sequence[Sequence[float]] | np.ndarray,
    sizes: Sequence[tuple[float, float]],
    width: float,
    height: float,
    taken: Sequence[Rectangle] = (),
) -> list[Corner | None]:
    """Where to write the words of each box; None where no place at the box is free.

    boxes: (n, 4) x1 y1 x2 y2, the most important first.
    sizes: (width, height) of the words of each box; all in pixels of a width x height picture.
    taken: what else no words may cover.
    """
    occupied = list(taken)
    corners: list[Corner | None] = []
    for box, size in zip(boxes, sizes, strict=True):
        corner = first_free_corner(box, size, width, height, occupied)
        corners.append(corner)
        if corner is not None:
            occupied.append((corner.x, corner.y, corner.x + size[0], corner.y + size[1]))
    return corners


def first_free_corner(
    box: Sequence[float] | np.ndarray,
    size: tuple[float, float],
    width: float,
    height: float,
    occupied: Sequence[Rectangle],
) -> Corner | None:
    """The first of `corners_at` at which words of this size cover nothing that is occupied."""
    words_width, words_height = size
    if words_width > width or words_height > height:
        return None
    rectangles = np.asarray(occupied, float).reshape(-1, 4)
    for x, y in corners_at(box, size):
        x = min(max(x, 0), width - words_width)
        y = min(max(y, 0), height - words_height)
        beside = (x + words_width <= rectangles[:, 0]) | (rectangles[:, 2] <= x)
        above_or_below = (y + words_height <= rectangles[:, 1]) | (rectangles[:, 3] <= y)
        if (beside | above_or_below).all():
            return Corner(float(x), float(y))
    return None


def corners_at(
    box: Sequence[float] | np.ndarray, size: tuple[float, float]
) -> list[tuple[float, float]]:
    """Places for words at a box, the best first: above, below, inside, beside, a line away."""
    x1, y1, x2, y2 = box
    words_width, words_height = size
    columns = (x1, x2 - words_width, (x1 + x2 - words_width) / 2)
    rows = [y1 - words_height, y2, y1, y2 - words_height]
    # Inside a large box, line by line.
    rows += list(np.arange(y1 + words_height, y2 - 2 * words_height, words_height))
    corners = []
    for y in rows:
        for x in columns:
            corners.append((x, y))
    for y in (y1, y2 - words_height):
        corners.append((x2, y))
        corners.append((x1 - words_width, y))
    for y in (y1 - 2 * words_height, y2 + words_height):
        for x in columns:
            corners.append((x, y))
    return corners


@cache
def text_width(text: str) -> float:
    """Width of bold words in heights of their letters, as matplotlib draws them."""
    if not text:
        return 0.0
    return float(TextPath((0, 0), text, size=1, prop=BOLD).get_extents().x1)


def draw_labels(
    axis: Axes,
    texts: Sequence[str],
    boxes: Sequence[Sequence[float]] | np.ndarray,
    colours: Sequence[str],
    frame: tuple[float, float],
    letter_points: Sequence[float],
) -> None:
    """Write words at boxes (n, 4) of the picture that an axis shows, the most important first.

    The figure must have its final layout (`figure.draw_without_rendering()`).
    frame: width and height of the picture, in whose pixels the boxes are.
    letter_points: heights of the letters to try, in points; the last is taken where words are left
    over with all of them.
    """
    width, height = frame
    figure: Any = axis.get_figure()
    inches = axis.get_window_extent().width / figure.dpi
    pixels = width / (inches * INCH)  # of the picture, in a point
    numbers = [number for number, text in enumerate(texts) if text]
    corners: list[Corner | None] = []
    points = letter_points[0]
    for points in letter_points:
        letters = points * pixels
        sizes = []
        for number in numbers:
            room = HINTING * text_width(texts[number]) + 0.2
            sizes.append((letters * room, letters * LINE_HEIGHT))
        corners = place_labels([boxes[number] for number in numbers], sizes, width, height)
        if None not in corners:
            break
    for number, corner in zip(numbers, corners, strict=True):
        if corner is None:
            continue
        words = axis.text(
            corner.x + 0.1 * points * pixels,
            corner.y + points * pixels,
            texts[number],
            color=colours[number],
            fontsize=points,
            fontweight="bold",
            va="baseline",
            path_effects=[withStroke(linewidth=1.8, foreground="black")],
        )
        words.set_in_layout(False)
