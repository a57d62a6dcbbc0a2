"""Pictures of heat maps: the X-ray, the lungs cut out of it, and the map over it, one case or a sheet of many."""

from dataclasses import dataclass, field

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from pytorch_grad_cam.utils.image import show_cam_on_image

from cxr.plots.panels import STYLE
from cxr.system.disk import atomic

ACROSS, DPI = 4, 80  # cases beside each other in a sheet; dots per inch of 2 inches for a picture
TRUE_COLOUR, LUNG_COLOUR = "#3ddc84", "#4cc9f0"
NOTICE = "not for diagnosis"


@dataclass(frozen=True)
class Shown:
    """A square picture (s, s) uint8 with its map (s, s) in 0 ... 1; boxes in its pixels; drawn as width x height."""

    picture: np.ndarray
    heat: np.ndarray
    width: int
    height: int
    title: str
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))  # marked by the readers
    lungs: tuple | None = None
    crop: bool = False  # also show what the box of the lungs cuts out


def blend(picture, heat):
    """RGB uint8 (s, s, 3): warm colours where the map is high."""
    return show_cam_on_image(
        np.repeat(picture[..., None], 3, 2).astype(np.float32) / 255, heat, use_rgb=True
    )


def write_sheet(path, cases):
    """PNG of [Shown], ACROSS beside each other, each its X-ray, the crop where it has one, and the map."""
    across = min(ACROSS, len(cases))
    down = -(-len(cases) // across)
    wide = 2 * (2 + any(case.crop for case in cases))
    with matplotlib.rc_context(STYLE | {"axes.grid": False}), atomic(path) as temporary:
        figure = Figure(figsize=(wide * across, 2.6 * down + 0.3), layout="constrained")
        figure.suptitle(
            f"marked by readers: green, lungs: blue; {NOTICE}", fontsize=8, color="#52606d"
        )
        parts = figure.subfigures(down, across, squeeze=False).ravel()
        for part, case in zip(parts, cases):
            draw(part, case)
        figure.savefig(temporary, format="png", dpi=DPI)


def draw(part, case):
    part.suptitle(case.title, fontsize=7)
    first, *middle, last = part.subplots(1, 2 + case.crop)
    show(first, case.picture, case)
    show(last, blend(case.picture, case.heat), case)
    lungs = [(case.lungs, LUNG_COLOUR)] if case.lungs else []
    for (x1, y1, x2, y2), colour in [*((box, TRUE_COLOUR) for box in case.boxes), *lungs]:
        for axis in (first, last):
            axis.add_patch(
                Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1)
            )
    for axis in middle:
        x1, y1, x2, y2 = case.lungs
        show(axis, case.picture[y1:y2, x1:x2], case)


def show(axis, pixels, case):
    axis.imshow(pixels, cmap="gray", vmin=0, vmax=255)
    axis.set_aspect(case.height / case.width)
    axis.set_axis_off()
