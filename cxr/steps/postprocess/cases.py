"""Which images a report shows and why: what happened to each, and examples of every outcome."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr.data.dataset import read_png
from cxr.methods.evaluation import Boxes
from cxr.plots.gallery import CaseGroup, GalleryCase, Mark, make_thumbnail
from cxr.plots.panels import BRIGHT, PREDICTED_COLOUR, TRUE_COLOUR, colours_of

EXAMPLES = 4  # of a group; twice as many of the worst, which teach the most
TRIES = 60  # candidates of a group before giving up on missing picture files
MOST_BOXES = 20  # boxes drawn per image, the most confident ones

OUTCOMES = ("found", "misplaced", "missed", "alarm", "empty")
# What is said of each outcome, of each group of the gallery, and of numbers in tables; a scorer may
# say it otherwise.
WORDS = {
    "found": "Found: at least one predicted box lies on a marked finding",
    "misplaced": "Misplaced: boxes predicted, none of them where the finding is",
    "missed": "Missed: a finding is marked, nothing was predicted",
    "alarm": "False alarm: nothing is marked, a box was predicted",
    "empty": "Rightly empty: nothing marked, nothing predicted",
    "Best": "The highest image scores: dashed and solid boxes should nearly coincide.",
    "Typical": "The images with a marked finding whose score is nearest the median: this is what "
    "to expect of the system on an ordinary day.",
    "Worst: misplaced": "Boxes were predicted, but none overlaps a marked finding enough; the most "
    "confident mistakes come first.",
    "Worst: missed": "A finding is marked and nothing was predicted; the largest missed findings "
    "come first.",
    "Worst: false alarms": "Nothing is marked, yet a box was predicted; the most confident come "
    "first: look for what might have been mistaken.",
    "Rightly empty": "Nothing is marked and nothing was predicted; shown in the order of the ids.",
    "failures": "Look at which kind of failure is the most frequent: missed and misplaced findings "
    "call for a better detector, false alarms for a stricter threshold.",
    "numbers": "The number at a predicted box is its confidence.",
    "marked": "with a marked finding",
    "not found": "not found, of those with a finding",
    "false alarms": "false alarms, of those without",
    "unit": "images",
    "class thresholds": "",
}


@dataclass(frozen=True)
class GalleryInput:
    """What a gallery is made of.

    images: a row for each judged image, with all columns of `ReportInput.images` and its outcome,
        a key of OUTCOMES.
    true, predicted: what is drawn, in original pixels.
    image_score: what `images.score` is, for captions.
    finding: what a mark is called, (singular, plural).
    words: sentences in place of those of WORDS.
    """

    images: pd.DataFrame
    true: Boxes
    predicted: Boxes
    box_classes: Sequence[str] = ()
    image_score: str = "score"
    finding: tuple[str, str] = ("box", "boxes")
    words: Mapping[str, str] = field(default_factory=dict)


def with_columns(table: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
    """A copy with these columns, nan where the table lacks them."""
    absent = [name for name in columns if name not in table]
    return table.reset_index(drop=True).assign(**dict.fromkeys(absent, np.nan))


def image_outcomes(images: pd.DataFrame, hit_score: float = 0.0) -> pd.Series:
    """The key of OUTCOMES of each row; columns n_true, n_pred and score, which may be nan.

    hit_score: above it what is marked counts as found.
    """
    marked = images["n_true"] > 0
    predicted = images["n_pred"] > 0
    hit = images["score"] > hit_score
    conditions = [marked & predicted & hit, marked & predicted, marked, predicted]
    return pd.Series(np.select(conditions, OUTCOMES[:4], "empty"), index=images.index)


def name_finding(text: str, finding: tuple[str, str]) -> str:
    """A text about boxes as one about what else is marked; finding is (singular, plural)."""
    singular, plural = finding
    text = re.sub(r"\bboxes\b", plural, text)
    return re.sub(r"\bbox\b", singular, text)


def pick_cases(source: GalleryInput) -> list[CaseGroup]:
    """The groups of the gallery; one without a readable picture is left out."""
    words = WORDS | dict(source.words)
    groups = []
    for title, rows in sort_into_groups(source.images, source.true.corners).items():
        most = 2 * EXAMPLES if title.startswith("Worst") else EXAMPLES
        cases = list(readable_cases(rows, source, most))
        if cases:
            caption = name_finding(words[title], source.finding)
            groups.append(CaseGroup(title, caption, len(rows), cases))
    return groups


def sort_into_groups(
    images: pd.DataFrame, true_boxes: Mapping[str, np.ndarray]
) -> dict[str, pd.DataFrame]:
    """{title of a group: its images, those to show first on top}; ties are broken by id."""
    images = images.sort_values("image_id")
    of_outcome = {outcome: images[images["outcome"] == outcome] for outcome in OUTCOMES}

    best = of_outcome["found"].sort_values(["score", "best_score"], ascending=False, kind="stable")
    scored = images[(images["n_true"] > 0) & images["score"].notna()]
    distance = (scored["score"] - scored["score"].median()).abs()
    typical = scored.loc[distance.sort_values(kind="stable").index]
    missed = of_outcome["missed"]
    area = missed["image_id"].map(lambda image_id: total_area(true_boxes.get(image_id)))
    largest_missed = missed.loc[area.sort_values(ascending=False, kind="stable").index]
    return {
        "Best": best,
        "Typical": typical,
        "Worst: misplaced": most_confident_first(of_outcome["misplaced"]),
        "Worst: missed": largest_missed,
        "Worst: false alarms": most_confident_first(of_outcome["alarm"]),
        "Rightly empty": of_outcome["empty"],
    }


def most_confident_first(images: pd.DataFrame) -> pd.DataFrame:
    return images.sort_values("best_score", ascending=False, kind="stable")


def total_area(boxes: Any) -> float:
    """Area of boxes (n, 4), overlaps counted twice; 0 for None or none."""
    corners = as_boxes(boxes)
    widths = corners[:, 2] - corners[:, 0]
    heights = corners[:, 3] - corners[:, 1]
    return float((widths * heights).sum())


def as_boxes(boxes: Any) -> np.ndarray:
    """(n, 4) float array of a list or array of boxes, or of None."""
    if boxes is None:
        boxes = []
    return np.asarray(boxes, float).reshape(-1, 4)


def readable_cases(rows: pd.DataFrame, source: GalleryInput, most: int) -> Iterator[GalleryCase]:
    """At most so many cases of the first rows, those without a picture passed over."""
    made = 0
    for row in rows.head(TRIES).itertuples():
        pixels = make_thumbnail(row.png)
        if pixels is None:
            continue
        yield make_case(row, pixels, source)
        made += 1
        if made == most:
            return


def make_case(row: Any, pixels: np.ndarray, source: GalleryInput) -> GalleryCase:
    """The case of one row with its thumbnail."""
    width, height = row.width, row.height
    if not (width > 0 and height > 0):
        # Without the original size the boxes can only be in pixels of the picture itself.
        height, width = read_png(Path(row.png)).shape
    true = make_marks(source.true, row.image_id, source.box_classes, TRUE_COLOUR)
    predicted = make_marks(source.predicted, row.image_id, source.box_classes, PREDICTED_COLOUR)
    return GalleryCase(
        row,
        case_caption(row, source.image_score),
        pixels,
        float(width),
        float(height),
        true,
        predicted[:MOST_BOXES],
    )


def case_caption(row: Any, image_score: str) -> str:
    """What stands above a picture: the row's own caption, or its score."""
    if isinstance(row.caption, str):
        return row.caption
    if np.isnan(row.score):
        return "not counted" if image_score == "score" else f"no {image_score}"
    return f"{image_score} {row.score:.2f}"


def make_marks(boxes: Boxes, image_id: str, class_names: Sequence[str], colour: str) -> list[Mark]:
    """Marks of an image, by falling confidence where there is one.

    Where there are several classes, each has its own colour, and the mark says its name.
    """
    corners = as_boxes(boxes.corners.get(image_id))
    count = len(corners)
    scores = boxes.scores.get(image_id)
    confidences = np.full(count, np.nan) if scores is None else np.asarray(scores, float)
    labels = boxes.labels.get(image_id)
    outlines = boxes.outlines.get(image_id, [None] * count)
    several = len(class_names) > 1
    class_colours = list(colours_of(class_names, BRIGHT).values())

    marks = []
    for number in np.argsort(-confidences, kind="stable"):
        words = []
        mark_colour = colour
        if several:
            label = 0 if labels is None else int(labels[number])
            words.append(class_names[label])
            mark_colour = class_colours[label]
        if np.isfinite(confidences[number]):
            words.append(f"{confidences[number]:.2f}")
        x1, y1, x2, y2 = corners[number].tolist()
        marks.append(Mark((x1, y1, x2, y2), mark_colour, " ".join(words), outlines[number]))
    return marks
