"""Pictures of single images with what is marked and what was predicted."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from cxr.plots.labels import LINE_HEIGHT, draw_labels, place_labels
from cxr.plots.panels import PICTURE_STYLE, PNG_DPI, draw_box
from cxr.system.disk import atomic

THUMBNAIL = 352  # pixels of the longer side: enough to see an opacity, some 15 kB as JPEG
ACROSS = 4  # pictures beside each other
LETTER_POINTS = (7.5, 6.0, 5.0)  # tried one after the other until all words have a place
SVG_LETTERS = (0.055, 0.045, 0.036)  # the same, as shares of a picture's width
SVG_TEXT_WIDTH = 0.6  # of a letter's height; the page stretches or squeezes words to it
JPEG_QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 80]


@dataclass(frozen=True)
class Mark:
    """Something marked or predicted in an image.

    box: x1 y1 x2 y2 in original pixels.
    colour: "#rrggbb".
    text: what is written at it; may be empty.
    outline: (n, 2) x, y in original pixels, drawn in place of the box, if there is one.
    """

    box: tuple[float, float, float, float]
    colour: str
    text: str
    outline: np.ndarray | None = None

    @property
    def points(self) -> str:
        """The outline as an SVG polygon has it."""
        if self.outline is None:
            return ""
        return " ".join(f"{x:g},{y:g}" for x, y in self.outline)


@dataclass(frozen=True)
class SvgLabel:
    """Words of a mark as an SVG text has them, in original pixels.

    x, y: where the base line begins. width: to which the words are stretched. letters: height.
    """

    text: str
    colour: str
    x: float
    y: float
    width: float
    letters: float


@dataclass(frozen=True)
class GalleryCase:
    """One image of a gallery.

    row: of the table of judged images, for captions of the page.
    caption: a line above the picture.
    pixels: (h, w) uint8 thumbnail, stretched over width x height when it is drawn.
    width, height: of the original, in whose pixels the marks are.
    true: what the readers marked.
    predicted: the most confident first.
    """

    row: Any
    caption: str
    pixels: np.ndarray
    width: float
    height: float
    true: list[Mark]
    predicted: list[Mark]

    @property
    def jpeg(self) -> str:
        """The thumbnail as a data URI."""
        return jpeg_uri(self.pixels)

    @property
    def marks(self) -> list[Mark]:
        """All marks in the order in which their words find a place."""
        return [*self.true, *self.predicted]

    @cached_property
    def svg_labels(self) -> list[SvgLabel | None]:
        """The words of each of `marks`, None where it has none or there is no room for them."""
        labels: list[SvgLabel | None] = []
        for share in SVG_LETTERS:
            labels = self.labels_of_height(share * self.width)
            missing = sum(label is None for label in labels)
            if missing == sum(not mark.text for mark in self.marks):
                break
        return labels

    def labels_of_height(self, letters: float) -> list[SvgLabel | None]:
        """The same with letters of one height."""
        marks = self.marks
        widths = [SVG_TEXT_WIDTH * letters * len(mark.text) for mark in marks]
        sizes = [(width, LINE_HEIGHT * letters) for width in widths]
        boxes = [mark.box for mark in marks]
        corners = place_labels(boxes, sizes, self.width, self.height)
        labels: list[SvgLabel | None] = []
        for mark, width, corner in zip(marks, widths, corners, strict=True):
            if corner is None or not mark.text:
                labels.append(None)
            else:
                base = corner.y + letters
                labels.append(SvgLabel(mark.text, mark.colour, corner.x, base, width, letters))
        return labels

    @property
    def true_labels(self) -> list[SvgLabel]:
        return [label for label in self.svg_labels[: len(self.true)] if label is not None]

    @property
    def predicted_labels(self) -> list[SvgLabel]:
        return [label for label in self.svg_labels[len(self.true) :] if label is not None]


@dataclass(frozen=True)
class CaseGroup:
    """Cases that stand beside each other.

    caption: a sentence on what to look for.
    total: how many such images there are, most of which are not in `cases`.
    """

    title: str
    caption: str
    total: int
    cases: list[GalleryCase]

    @property
    def has_numbers(self) -> bool:
        """Whether anything that was predicted has words."""
        marks = []
        for case in self.cases:
            marks += case.predicted
        return any(mark.text for mark in marks)


def jpeg_uri(pixels: np.ndarray) -> str:
    """A picture (h, w) or (h, w, 3) uint8 as JPEG in a data URI."""
    _, encoded = cv2.imencode(".jpg", pixels, JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()


def make_thumbnail(png: Any) -> np.ndarray | None:
    """(h, w) uint8 with the longer side at most THUMBNAIL, None without a readable picture.

    png: the path of a picture, or what else a table has where there is none.
    """
    if not isinstance(png, (str, Path)) or not Path(png).is_file():
        return None
    pixels = cv2.imread(str(png), cv2.IMREAD_GRAYSCALE)
    if pixels is None:
        return None
    scale = min(1.0, THUMBNAIL / max(pixels.shape))
    return cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def write_gallery(
    path: Path, groups: Sequence[CaseGroup], title: str, several_classes: bool = False
) -> None:
    """Write a PNG with a row of at most ACROSS cases for each group.

    several_classes: colours tell the classes, and not what is marked from what is predicted.
    Without groups no file is written, and one of an earlier run is removed.
    """
    if not groups:
        path.unlink(missing_ok=True)
        return

    marked, predicted = "green", "orange, dashed"
    if several_classes:
        marked, predicted = "solid", "dashed"
    if any(group.has_numbers for group in groups):
        predicted = f"{predicted}, with a number for its certainty"
    with matplotlib.rc_context(PICTURE_STYLE), atomic(path) as temporary:
        size = (2.3 * ACROSS, 2.75 * len(groups) + 0.5)
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(f"{title}\nmarked ({marked}), predicted ({predicted})", fontsize=11)
        lines = figure.subfigures(len(groups), 1, squeeze=False)[:, 0]
        drawn = []
        for line, group in zip(lines, groups, strict=True):
            words = f"{group.title} ({group.total} in all)"
            line.suptitle(
                words,
                fontsize=10,
                fontweight="bold",
                x=0.01,
                ha="left",
            )
            for place, case in enumerate(group.cases[:ACROSS], start=1):
                axis = line.add_subplot(1, ACROSS, place)
                draw_gallery_case(axis, case)
                drawn.append((axis, case))
        figure.draw_without_rendering()  # from now on the pictures keep their size
        for axis, case in drawn:
            write_words(axis, case)
        figure.savefig(temporary, format="png", dpi=PNG_DPI)


def draw_gallery_case(axis: Axes, case: GalleryCase) -> None:
    """The picture in the original's proportions, marks, caption."""
    frame = (0, case.width, case.height, 0)
    axis.imshow(
        case.pixels,
        cmap="gray",
        vmin=0,
        vmax=255,
        extent=frame,
    )
    axis.set_axis_off()
    axis.set_title(case.caption, fontsize=8.5, fontweight="normal", pad=3)
    for mark in case.true:
        draw_mark(axis, mark, linewidth=1.6)
    for mark in case.predicted:
        draw_mark(axis, mark, linewidth=1.4, linestyle="--")


def write_words(axis: Axes, case: GalleryCase) -> None:
    """The words of the marks, where there is room for them."""
    marks = case.marks
    draw_labels(
        axis,
        [mark.text for mark in marks],
        [mark.box for mark in marks],
        [mark.colour for mark in marks],
        (case.width, case.height),
        LETTER_POINTS,
    )


def draw_mark(axis: Axes, mark: Mark, **line_style: Any) -> None:
    """The outline or box of a mark."""
    if mark.outline is None:
        draw_box(axis, mark.box, mark.colour, **line_style)
    else:
        axis.add_patch(Polygon(mark.outline, fill=False, edgecolor=mark.colour, **line_style))
