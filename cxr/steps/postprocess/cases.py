"""Which images a report shows and why: what happened to each image, and a few examples of every outcome."""

import base64
import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from matplotlib.patheffects import withStroke

from cxr.plots.panels import BRIGHT, PNG_DPI, STYLE, colours_of
from cxr.system.disk import atomic

THUMBNAIL = 352  # pixels of the longer side: sharp enough to see an opacity, some 15 kB as JPEG
EXAMPLES = 4  # of a kind; twice as many of the worst, which teach the most; the whole gallery stays below 1 MB
TRIES = 60  # candidates looked at per kind before giving up on missing picture files
MOST_BOXES = 20  # boxes drawn per image, the most confident ones

TRUE_COLOUR, PREDICTED_COLOUR = "#3ddc84", "#ffa028"  # bright enough for the gray of an X-ray

OUTCOMES = ("found", "misplaced", "missed", "alarm", "empty")
# What is said of each outcome, and of each kind of image in the gallery; for classes a task says it otherwise.
WORDS = {
    "found": "Found: at least one predicted box lies on a marked finding",
    "misplaced": "Misplaced: boxes predicted, none of them where the finding is",
    "missed": "Missed: a finding is marked, nothing was predicted",
    "alarm": "False alarm: nothing is marked, a box was predicted",
    "empty": "Rightly empty: nothing marked, nothing predicted",
    "Best": "The highest image scores: dashed and solid boxes should nearly coincide.",
    "Typical": "The images with a marked finding whose score is nearest the median: this is what to expect of the "
    "system on an ordinary day.",
    "Worst: misplaced": "Boxes were predicted, but none overlaps a marked finding enough; the most confident mistakes "
    "come first.",
    "Worst: missed": "A finding is marked and nothing was predicted; the largest missed findings come first.",
    "Worst: false alarms": "Nothing is marked, yet a box was predicted; the most confident come first: look for what "
    "might have been mistaken.",
    "Rightly empty": "Nothing is marked and nothing was predicted; shown in the order of the ids.",
}


def outcomes(images):
    """Series of the keys of OUTCOMES, one per row of `images` (columns n_true, n_pred, score; score may be nan)."""
    marked, predicted, hit = images.n_true > 0, images.n_pred > 0, images.score > 0
    kinds = [marked & predicted & hit, marked & predicted, marked, predicted]
    return pd.Series(np.select(kinds, OUTCOMES[:4], "empty"), index=images.index)


def called(text, finding):
    """A text about boxes as one about what else is marked: finding is (singular, plural)."""
    return re.sub(r"\bbox\b", finding[0], re.sub(r"\bboxes\b", finding[1], text))


@dataclass(frozen=True)
class Mark:
    """A box x1 y1 x2 y2, its colour, what is written at it, and the outline (n, 2) to draw in its place, if any."""

    box: tuple
    colour: str
    text: str
    outline: np.ndarray | None = None

    @property
    def points(self):
        """The outline as an SVG polygon has it."""
        return " ".join(f"{x:g},{y:g}" for x, y in self.outline)


@dataclass(frozen=True)
class Case:
    """One image of the gallery. Boxes are in original pixels of a width x height image."""

    row: object  # the image's row of the table, for its caption
    pixels: np.ndarray  # (h, w) uint8 thumbnail, stretched over width x height when shown
    width: float
    height: float
    true: list  # Marks
    predicted: list  # Marks, the most confident first

    @property
    def jpeg(self):
        """The thumbnail as a data URI."""
        encoded = cv2.imencode(".jpg", self.pixels, [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
        return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()


def gallery(report):
    """List of (title, what to look for, number of such images, [Case]); kinds without an image are left out."""
    kinds = _kinds(report.images.assign(outcome=outcomes(report.images)), report.true.corners)
    words = WORDS | report.words
    shown = [
        (
            title,
            called(words[title], report.finding),
            len(rows),
            list(_cases(rows, report, EXAMPLES * (2 if title.startswith("Worst") else 1))),
        )
        for title, rows in kinds.items()
    ]
    return [kind for kind in shown if kind[3]]


def _kinds(images, true_boxes):
    """{title: table with the images to show first on top} of each kind; ties broken by id to be repeatable."""
    images = images.sort_values("image_id")
    found = images[images.outcome == "found"]
    marked = images[(images.n_true > 0) & images.score.notna()]
    missed = images[images.outcome == "missed"]
    area = missed.image_id.map(lambda image_id: box_area(true_boxes.get(image_id)))
    middle = (marked.score - marked.score.median()).abs()
    best = found.sort_values(["score", "best_score"], ascending=False, kind="stable")
    return {
        "Best": best,
        "Typical": marked.loc[middle.sort_values(kind="stable").index],
        "Worst: misplaced": _most_confident(images[images.outcome == "misplaced"]),
        "Worst: missed": missed.loc[area.sort_values(ascending=False, kind="stable").index],
        "Worst: false alarms": _most_confident(images[images.outcome == "alarm"]),
        "Rightly empty": images[images.outcome == "empty"],
    }


def _most_confident(images):
    return images.sort_values("best_score", ascending=False, kind="stable")


def box_area(boxes):
    """Total area of (n, 4) boxes, overlaps counted twice; 0 for None or none."""
    boxes = as_boxes(boxes)
    return float(((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sum())


def as_boxes(boxes):
    """(n, 4) float array of a list or array of boxes, or of None."""
    return np.asarray([] if boxes is None else boxes, dtype=float).reshape(-1, 4)


def _cases(rows, report, most):
    shown = 0
    for row in rows.head(TRIES).itertuples():
        pixels = thumbnail(row.png)
        if pixels is None:
            continue
        yield _case(row, pixels, report)
        shown += 1
        if shown == most:
            return


def _case(row, pixels, report):
    # Without the original size the boxes can only be in pixels of the picture itself.
    width, height = (
        (row.width, row.height) if row.width > 0 and row.height > 0 else _png_size(row.png)
    )
    true = _marks(report.true, row.image_id, report.box_classes, TRUE_COLOUR)
    predicted = _marks(report.predicted, row.image_id, report.box_classes, PREDICTED_COLOUR)
    return Case(row, pixels, float(width), float(height), true, predicted[:MOST_BOXES])


def _marks(boxes, image_id, names, colour):
    """Marks of an image, by falling confidence where there is one; several classes have colours and names each."""
    corners = as_boxes(boxes.corners.get(image_id))
    labels, scores = boxes.labels.get(image_id), boxes.scores.get(image_id)
    labels = (
        np.zeros(len(corners), int) if labels is None or len(names) < 2 else np.asarray(labels, int)
    )
    scores = np.full(len(corners), np.nan) if scores is None else np.asarray(scores, float)
    colours = list(colours_of(names, BRIGHT).values()) if len(names) > 1 else [colour]
    words = [names[k] if len(names) > 1 else "" for k in labels]
    texts = [
        f"{word} {score:.2f}" if np.isfinite(score) else word for word, score in zip(words, scores)
    ]
    outlines = boxes.outlines.get(image_id, [None] * len(corners))
    return [
        Mark(tuple(corners[i].tolist()), colours[labels[i]], texts[i].strip(), outlines[i])
        for i in np.argsort(-scores, kind="stable")
    ]


def _png_size(png):
    height, width = cv2.imread(str(png), cv2.IMREAD_GRAYSCALE).shape
    return width, height


def thumbnail(png):
    """(h, w) uint8 with the longer side at most THUMBNAIL, or None where there is no readable picture."""
    if not isinstance(png, (str, Path)) or not Path(png).is_file():
        return None
    pixels = cv2.imread(str(png), cv2.IMREAD_GRAYSCALE)
    if pixels is None:
        return None
    scale = min(1.0, THUMBNAIL / max(pixels.shape))
    return cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def write_gallery(path, kinds, title, image_score, several_classes=False):
    """PNG of `kinds` = [(title, caption, number, [Case])], a row of EXAMPLES each; without cases no file."""
    if not kinds:
        path.unlink(missing_ok=True)
        return
    with matplotlib.rc_context(STYLE | {"axes.grid": False}), atomic(path) as temporary:
        figure = Figure(figsize=(2.3 * EXAMPLES, 2.75 * len(kinds) + 0.5), layout="constrained")
        colours = ("solid", "dashed") if several_classes else ("green", "orange, dashed")
        figure.suptitle(
            f"{title}\nmarked ({colours[0]}), predicted ({colours[1]}, with its confidence)",
            fontsize=11,
        )
        rows = figure.subfigures(len(kinds), 1, squeeze=False)[:, 0]
        for row, (kind, _, number, cases) in zip(rows, kinds):
            row.suptitle(
                f"{kind} ({number} in all)", fontsize=10, fontweight="bold", x=0.01, ha="left"
            )
            for place, case in enumerate(cases[:EXAMPLES], start=1):
                _draw_case(row.add_subplot(1, EXAMPLES, place), case, image_score)
        figure.savefig(temporary, format="png", dpi=PNG_DPI)


def _draw_case(axis, case, image_score):
    axis.imshow(case.pixels, cmap="gray", vmin=0, vmax=255, extent=(0, case.width, case.height, 0))
    axis.set_axis_off()
    said = (
        case.row.caption
        if isinstance(case.row.caption, str)
        else f"{image_score} {case.row.score:.2f}"
    )
    axis.set_title(
        "left out" if np.isnan(case.row.score) else said, fontsize=8.5, fontweight="normal", pad=3
    )
    for mark in case.true:
        _draw_mark(axis, mark, mark.box[3], "top", linewidth=1.6)
    for mark in case.predicted:
        above = max(mark.box[1], 0.08 * case.height) - 0.01 * case.height
        _draw_mark(axis, mark, above, "bottom", linewidth=1.4, linestyle="--")


def _draw_mark(axis, mark, y, side, **line):
    x1, y1, x2, y2 = mark.box
    patch = Rectangle((x1, y1), x2 - x1, y2 - y1) if mark.outline is None else Polygon(mark.outline)
    patch.set(fill=False, edgecolor=mark.colour, **line)
    axis.add_patch(patch)
    axis.text(
        x1,
        y,
        mark.text,
        color=mark.colour,
        fontsize=7.5,
        fontweight="bold",
        va=side,
        clip_on=True,
        path_effects=[withStroke(linewidth=1.8, foreground="black")],
    )
