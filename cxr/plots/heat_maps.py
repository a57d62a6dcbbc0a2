"""Pictures of heat maps: the X-ray, the lungs cut out of it, and the map over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from pytorch_grad_cam.utils.image import show_cam_on_image

from cxr.plots.overlay import (
    NOTICE,
    NOTICE_COLOUR,
    NOTICE_SIZE,
    enlarge_small,
    line_thickness,
    write_label,
)
from cxr.plots.panels import LABEL_COLOUR, PICTURE_STYLE, TRUE_COLOUR, draw_box
from cxr.system.disk import atomic

ACROSS = 4  # cases beside each other in a sheet
DPI = 80  # a picture is 2 inches wide
LUNG_COLOUR = "#4cc9f0"
WORDS_COLOUR = (255, 255, 255)


@dataclass(frozen=True)
class HeatMapCase:
    """One X-ray with its map.

    picture: (s, s) uint8, the stored picture.
    heat: (s, s) in 0 ... 1.
    width, height: of the original, in whose proportions the picture is drawn.
    boxes: (n, 4) x1 y1 x2 y2 marked by the readers, in pixels of the picture.
    lungs: x1 y1 x2 y2 of the lungs in pixels of the picture, None where nobody looked for them.
    crop: also draw what the box of the lungs cuts out, where there is one.
    """

    picture: np.ndarray
    heat: np.ndarray
    width: int
    height: int
    title: str
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    lungs: tuple[int, int, int, int] | None = None
    crop: bool = False

    @property
    def pictures(self) -> int:
        """How many are drawn beside each other."""
        return 3 if self.crop and self.lungs is not None else 2


def blend_heat(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """(s, s, 3) uint8 RGB: warm colours where the map is high."""
    colour = np.repeat(picture[..., None], 3, axis=2).astype(np.float32) / 255
    return show_cam_on_image(colour, heat, use_rgb=True)


def draw_heat_map(picture: np.ndarray, heat: np.ndarray, words: str) -> np.ndarray:
    """(h, w, 3) uint8 RGB of a gray picture (h, w) under its map.

    heat (s, s) in 0 ... 1: of the picture squeezed to a square. words: of the upper left corner.
    """
    shown = enlarge_small(picture)
    height, width = shown.shape
    stretched = cv2.resize(heat, (width, height), interpolation=cv2.INTER_LINEAR)
    canvas = blend_heat(shown, stretched)
    thickness = line_thickness(canvas)
    write_label(canvas, words, 0, 0, WORDS_COLOUR, thickness)
    write_label(canvas, NOTICE, 0, height, NOTICE_COLOUR, thickness, NOTICE_SIZE)
    return canvas


def write_heat_map_sheet(path: Path, cases: Sequence[HeatMapCase]) -> None:
    """Write a PNG of the cases, each as its X-ray, the crop where it has one, and the map."""
    columns = min(ACROSS, len(cases))
    rows = -(-len(cases) // columns)
    pictures = max(case.pictures for case in cases)
    size = (2 * pictures * columns, 2.6 * rows + 0.3)
    with matplotlib.rc_context(PICTURE_STYLE), atomic(path) as temporary:
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(
            f"marked by readers: green, lungs: blue; {NOTICE}", fontsize=8, color=LABEL_COLOUR
        )
        cells = figure.subfigures(rows, columns, squeeze=False).ravel()
        for number, case in enumerate(cases):
            draw_heat_map_case(cells[number], case)
        figure.savefig(temporary, format="png", dpi=DPI)


def draw_heat_map_case(cell: SubFigure, case: HeatMapCase) -> None:
    """The X-ray, the crop if it is asked for, and the map, beside each other."""
    cell.suptitle(case.title, fontsize=7)
    axes = cell.subplots(1, case.pictures)
    blended = blend_heat(case.picture, case.heat)
    for axis, pixels in ((axes[0], case.picture), (axes[-1], blended)):
        draw_pixels(axis, pixels, case)
        for box in case.boxes:
            draw_box(axis, box, TRUE_COLOUR)
        if case.lungs is not None:
            draw_box(axis, case.lungs, LUNG_COLOUR)
    if case.crop and case.lungs is not None:
        x1, y1, x2, y2 = case.lungs
        draw_pixels(axes[1], case.picture[y1:y2, x1:x2], case)


def draw_pixels(axis: Axes, pixels: np.ndarray, case: HeatMapCase) -> None:
    axis.imshow(pixels, cmap="gray", vmin=0, vmax=255)
    axis.set_aspect(case.height / case.width)
    axis.set_axis_off()
