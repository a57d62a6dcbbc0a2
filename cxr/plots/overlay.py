"""An X-ray with its boxes as a picture that can be looked at anywhere."""

import cv2
import numpy as np

from cxr.system.disk import atomic

SHORT_SIDE_OF_LONGEST = (
    640  # pixels; smaller pictures are enlarged, so that there is room for words
)
FONT = cv2.FONT_HERSHEY_SIMPLEX
NOTICE = "not for diagnosis"


def draw_overlay(shown, width, height, boxes, colours):
    """(h, w, 3) uint8 RGB of a gray picture (h, w) of a width x height original, with its boxes and their scores.

    boxes: [{finding, score, x1, y1, x2, y2}]; colours {finding: "#rrggbb"}. Names are written where there are several.
    """
    canvas = cv2.cvtColor(enlarge(shown), cv2.COLOR_GRAY2RGB)
    scale = np.array([canvas.shape[1] / width, canvas.shape[0] / height] * 2)
    thick = max(2, round(max(canvas.shape) / 340))
    for box in reversed(boxes):  # the best one is drawn last, above the others
        corners = (
            np.rint([box[name] for name in ("x1", "y1", "x2", "y2")] * scale).astype(int).tolist()
        )
        colour = rgb(colours[box["finding"]])
        cv2.rectangle(canvas, corners[:2], corners[2:], colour, thick, cv2.LINE_AA)
        words = (
            f"{box['finding']} {box['score']:.2f}" if len(colours) > 1 else f"{box['score']:.2f}"
        )
        write_label(canvas, words, corners[0], corners[1] - thick, colour, thick)
    write_label(canvas, NOTICE, 0, canvas.shape[0], (190, 190, 190), thick, 0.75)
    return canvas


def enlarge(shown):
    scale = SHORT_SIDE_OF_LONGEST / max(shown.shape)
    if scale <= 1:
        return shown
    size = [max(1, round(side * scale)) for side in shown.shape[::-1]]
    return cv2.resize(shown, size, interpolation=cv2.INTER_NEAREST)


def write_label(canvas, words, x, bottom, colour, thick, relative=1.0):
    """Words on black above the line `bottom`, moved into the picture where they would leave it."""
    size = 0.32 * thick * relative
    (wide, high), below = cv2.getTextSize(words, FONT, size, max(1, thick // 2))
    x = int(np.clip(x, 0, max(0, canvas.shape[1] - wide - 8)))
    bottom = int(np.clip(bottom, high + below + 6, canvas.shape[0]))
    cv2.rectangle(canvas, (x, bottom - high - below - 6), (x + wide + 8, bottom), (0, 0, 0), -1)
    cv2.putText(
        canvas,
        words,
        (x + 4, bottom - below - 2),
        FONT,
        size,
        colour,
        max(1, thick // 2),
        cv2.LINE_AA,
    )


def rgb(colour):
    return tuple(bytes.fromhex(colour[1:]))


def write_overlay(path, canvas):
    with atomic(path) as temporary:
        done, content = cv2.imencode(".png", canvas[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 6])
        temporary.write_bytes(content.tobytes())
