"""An X-ray with its boxes as a picture that can be looked at anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cxr.system.disk import atomic

LONGER_SIDE = 640  # pixels; smaller pictures are enlarged to it, so that there is room for words
FONT = cv2.FONT_HERSHEY_SIMPLEX
MARGIN = 4  # pixels around words
NOTICE = "not for diagnosis"
NOTICE_COLOUR = (190, 190, 190)

Colour = tuple[int, int, int]  # red, green, blue


def draw_overlay(
    picture: np.ndarray,
    width: int,
    height: int,
    boxes: Sequence[Mapping[str, Any]],
    colours: Mapping[str, str],
) -> np.ndarray:
    """(h, w, 3) uint8 RGB of a gray picture (h, w) with boxes and their scores.

    width, height: of the original, in whose pixels the boxes are.
    boxes: dicts with finding, score, x1, y1, x2, y2, the best first.
    colours: {finding: "#rrggbb"}. Where there are several findings, their names are written, too.
    """
    canvas = cv2.cvtColor(enlarge_small(picture), cv2.COLOR_GRAY2RGB)
    scale = np.array([canvas.shape[1] / width, canvas.shape[0] / height] * 2)
    thickness = max(2, round(max(canvas.shape) / 340))
    for box in reversed(boxes):  # the best one is drawn last, above the others
        corners = np.array([box["x1"], box["y1"], box["x2"], box["y2"]]) * scale
        x1, y1, x2, y2 = np.rint(corners).astype(int).tolist()
        colour = rgb(colours[box["finding"]])
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, thickness, cv2.LINE_AA)
        words = f"{box['score']:.2f}"
        if len(colours) > 1:
            words = f"{box['finding']} {words}"
        write_label(canvas, words, x1, y1 - thickness, colour, thickness)
    write_label(canvas, NOTICE, 0, canvas.shape[0], NOTICE_COLOUR, thickness, 0.75)
    return canvas


def enlarge_small(picture: np.ndarray) -> np.ndarray:
    """The picture (h, w) with its longer side at least LONGER_SIDE; larger ones stay."""
    scale = LONGER_SIDE / max(picture.shape)
    if scale <= 1:
        return picture
    height, width = picture.shape
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST)


def write_label(
    canvas: np.ndarray,
    words: str,
    x: int,
    bottom: int,
    colour: Colour,
    thickness: int,
    relative_size: float = 1.0,
) -> None:
    """Words on black, their lower left corner at (x, bottom), moved into the picture if need be."""
    size = 0.32 * thickness * relative_size
    stroke = max(1, thickness // 2)
    (wide, high), below = cv2.getTextSize(words, FONT, size, stroke)
    x = int(np.clip(x, 0, max(0, canvas.shape[1] - wide - 2 * MARGIN)))
    bottom = int(np.clip(bottom, high + below + 6, canvas.shape[0]))
    top_left = (x, bottom - high - below - 6)
    cv2.rectangle(canvas, top_left, (x + wide + 2 * MARGIN, bottom), (0, 0, 0), -1)
    start = (x + MARGIN, bottom - below - 2)
    cv2.putText(canvas, words, start, FONT, size, colour, stroke, cv2.LINE_AA)


def rgb(colour: str) -> Colour:
    """Red, green and blue of "#rrggbb"."""
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue


def write_overlay(path: Path, canvas: np.ndarray) -> None:
    """Write an RGB picture (h, w, 3) uint8 as PNG."""
    with atomic(path) as temporary:
        bgr = canvas[..., ::-1]
        _, content = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 6])
        temporary.write_bytes(content.tobytes())
