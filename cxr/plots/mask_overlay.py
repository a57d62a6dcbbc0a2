"""An X-ray with a mask on it, or with the probabilities of its classes, as a picture to look at."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from cxr.plots.overlay import NOTICE, NOTICE_COLOUR, enlarge_small, rgb, write_label

TINT = 0.28  # share of the colour inside a mask: what lies below stays visible
WORDS_COLOUR = (255, 255, 255)


def draw_mask(picture: np.ndarray, mask: np.ndarray, words: str, colour: str) -> np.ndarray:
    """(h, w, 3) uint8 RGB of a gray picture (h, w), tinted and outlined where its mask is set.

    mask (height, width): of the original, any size of the same aspect. words: of the upper left
    corner. colour: "#rrggbb".
    """
    canvas = cv2.cvtColor(enlarge_small(picture), cv2.COLOR_GRAY2RGB)
    height, width = canvas.shape[:2]
    shown_mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
    inside = shown_mask > 0
    tinted = (1 - TINT) * canvas[inside] + TINT * np.array(rgb(colour))
    canvas[inside] = np.rint(tinted).astype(np.uint8)

    thickness = max(2, round(max(canvas.shape) / 340))
    outlines, _ = cv2.findContours(shown_mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(canvas, outlines, -1, rgb(colour), thickness, cv2.LINE_AA)
    write_label(canvas, words, 0, 0, rgb(colour), thickness)
    write_label(canvas, NOTICE, 0, height, NOTICE_COLOUR, thickness, 0.75)
    return canvas


def draw_classes(picture: np.ndarray, probabilities: Mapping[str, float]) -> np.ndarray:
    """(h, w, 3) uint8 RGB of a gray picture (h, w) with {class: probability} in its corner.

    The most probable class stands at the top.
    """
    canvas = cv2.cvtColor(enlarge_small(picture), cv2.COLOR_GRAY2RGB)
    thickness = max(2, round(max(canvas.shape) / 340))
    line_height = 14 * thickness
    descending = sorted(probabilities.items(), key=lambda item: -item[1])
    for number, (name, probability) in enumerate(descending, start=1):
        words = f"{probability:.2f} {name}"
        colour = WORDS_COLOUR if number == 1 else NOTICE_COLOUR
        write_label(canvas, words, 0, number * line_height, colour, thickness)
    write_label(canvas, NOTICE, 0, canvas.shape[0], NOTICE_COLOUR, thickness, 0.75)
    return canvas
