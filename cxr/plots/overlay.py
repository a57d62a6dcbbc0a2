"""An X-ray with its boxes as a picture that can be looked at anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cxr.plots.labels import place_labels
from cxr.system.disk import atomic

LONGER_SIDE = 640  # pixels; smaller pictures are enlarged to it, so that there is room for words
FONT = cv2.FONT_HERSHEY_SIMPLEX
LETTER_SIZE = 0.32  # of OpenCV's font, for each pixel of a box's frame
MARGIN = 4  # pixels around words
NOTICE = "not for diagnosis"
NOTICE_SIZE = 0.75  # of the other words
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
    Words for which there is no room are left out, those of the least sure boxes first.
    """
    canvas = cv2.cvtColor(enlarge_small(picture), cv2.COLOR_GRAY2RGB)
    canvas_height, canvas_width = canvas.shape[:2]
    scale = np.array([canvas_width / width, canvas_height / height] * 2)
    thickness = line_thickness(canvas)
    corners = []
    texts = []
    for box in boxes:
        original = [box["x1"], box["y1"], box["x2"], box["y2"]]
        corners.append(np.rint(original * scale).astype(int).tolist())
        score = f"{box['score']:.2f}"
        texts.append(f"{box['finding']} {score}" if len(colours) > 1 else score)

    # The best box is drawn last, above the others.
    for (x1, y1, x2, y2), box in zip(reversed(corners), reversed(boxes), strict=True):
        colour = rgb(colours[box["finding"]])
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, thickness, cv2.LINE_AA)

    notice_width, notice_height = label_size(NOTICE, thickness, NOTICE_SIZE)
    notice = (0, canvas_height - notice_height, notice_width, canvas_height)
    sizes = [label_size(text, thickness) for text in texts]
    frames = np.array(corners).reshape(-1, 4) + thickness * np.array([0, -1, 0, 1])
    places = place_labels(frames, sizes, canvas_width, canvas_height, [notice])
    for place, box, text, size in zip(places, boxes, texts, sizes, strict=True):
        if place is not None:
            bottom = int(place.y) + size[1]
            write_label(canvas, text, int(place.x), bottom, rgb(colours[box["finding"]]), thickness)
    write_label(canvas, NOTICE, 0, canvas_height, NOTICE_COLOUR, thickness, NOTICE_SIZE)
    return canvas


def line_thickness(canvas: np.ndarray) -> int:
    """Pixels of a box's frame, by which words grow, too."""
    return max(2, round(max(canvas.shape) / 340))


def enlarge_small(picture: np.ndarray) -> np.ndarray:
    """The picture (h, w) with its longer side at least LONGER_SIDE; larger ones stay."""
    scale = LONGER_SIDE / max(picture.shape)
    if scale <= 1:
        return picture
    height, width = picture.shape
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST)


def label_size(text: str, thickness: int, relative_size: float = 1.0) -> tuple[int, int]:
    """Width and height in pixels of words with their black ground."""
    size = LETTER_SIZE * thickness * relative_size
    (width, height), below = cv2.getTextSize(text, FONT, size, max(1, thickness // 2))
    return width + 2 * MARGIN, height + below + 6


def write_label(
    canvas: np.ndarray,
    text: str,
    x: int,
    bottom: int,
    colour: Colour,
    thickness: int,
    relative_size: float = 1.0,
) -> None:
    """Words on black, their lower left corner at (x, bottom), moved into the picture if need be."""
    size = LETTER_SIZE * thickness * relative_size
    stroke = max(1, thickness // 2)
    _, below = cv2.getTextSize(text, FONT, size, stroke)
    width, height = label_size(text, thickness, relative_size)
    x = int(np.clip(x, 0, max(0, canvas.shape[1] - width)))
    bottom = int(np.clip(bottom, height, canvas.shape[0]))
    cv2.rectangle(canvas, (x, bottom - height), (x + width, bottom), (0, 0, 0), -1)
    start = (x + MARGIN, bottom - below - 2)
    cv2.putText(canvas, text, start, FONT, size, colour, stroke, cv2.LINE_AA)


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
