"""Pictures of single images with what is marked and what was predicted."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from matplotlib.patheffects import withStroke

from cxr.plots.panels import PICTURE_STYLE, PNG_DPI, draw_box
from cxr.system.disk import atomic

THUMBNAIL = 352  # pixels of the longer side: enough to see an opacity, some 15 kB as JPEG
ACROSS = 4  # pictures beside each other
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

    key = "marked (green), predicted (orange, dashed, with its confidence)"
    if several_classes:
        key = "marked (solid), predicted (dashed, with its confidence)"
    with matplotlib.rc_context(PICTURE_STYLE), atomic(path) as temporary:
        size = (2.3 * ACROSS, 2.75 * len(groups) + 0.5)
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(f"{title}\n{key}", fontsize=11)
        lines = figure.subfigures(len(groups), 1, squeeze=False)[:, 0]
        for line, group in zip(lines, groups, strict=True):
            words = f"{group.title} ({group.total} in all)"
            line.suptitle(words, fontsize=10, fontweight="bold", x=0.01, ha="left")
            for place, case in enumerate(group.cases[:ACROSS], start=1):
                draw_gallery_case(line.add_subplot(1, ACROSS, place), case)
        figure.savefig(temporary, format="png", dpi=PNG_DPI)


def draw_gallery_case(axis: Axes, case: GalleryCase) -> None:
    """The picture in the original's proportions, marks, caption."""
    frame = (0, case.width, case.height, 0)
    axis.imshow(case.pixels, cmap="gray", vmin=0, vmax=255, extent=frame)
    axis.set_axis_off()
    axis.set_title(case.caption, fontsize=8.5, fontweight="normal", pad=3)
    for mark in case.true:
        draw_mark(axis, mark, mark.box[3], "top", linewidth=1.6)
    for mark in case.predicted:
        above = max(mark.box[1], 0.08 * case.height) - 0.01 * case.height
        draw_mark(axis, mark, above, "bottom", linewidth=1.4, linestyle="--")


def draw_mark(axis: Axes, mark: Mark, y: float, side: str, **line_style: Any) -> None:
    """The outline or box of a mark, and its words at the height y."""
    if mark.outline is None:
        draw_box(axis, mark.box, mark.colour, **line_style)
    else:
        axis.add_patch(Polygon(mark.outline, fill=False, edgecolor=mark.colour, **line_style))
    axis.text(
        mark.box[0],
        y,
        mark.text,
        color=mark.colour,
        fontsize=7.5,
        fontweight="bold",
        va=side,
        clip_on=True,
        path_effects=[withStroke(linewidth=1.8, foreground="black")],
    )
