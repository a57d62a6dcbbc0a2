"""A page for judging which pictures are copies: pairs on both sides of the threshold, counted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from cxr.data.dataset import read_png
from cxr.data.duplicates import BITS, FLOOR, THRESHOLD, SimilarPairs
from cxr.plots.panels import COLOURS, PICTURE_STYLE, PNG_DPI
from cxr.system.disk import atomic

PER_LINE = 4  # pairs beside each other
LINES = 3  # lines below each other, on each side of the threshold
COPY_COLOUR = COLOURS[1]
OTHER_COLOUR = COLOURS[0]
WIDTH = 12.0  # inches
HISTOGRAM_HEIGHT = 2.4
LINE_HEIGHT = 2.2
LINE_COLOUR = "#1f2933"
RELATIONS = ("another patient", "same patient", "same study")


@dataclass(frozen=True)
class Line:
    """Numbers of the pairs beside each other; the first line of a side of the threshold has a
    title."""

    pairs: list[int]
    title: str = ""


def write_copies_sheet(path: Path, table: pd.DataFrame, pairs: SimilarPairs, folder: Path) -> None:
    """Write the page of the pairs of rows of a table; without pairs the page says so.

    table: image_id, study_id, patient, n_boxes. folder: of the pictures <image_id>.png.
    """
    lines = lay_out(pairs.similarity)
    heights = [HISTOGRAM_HEIGHT] + [LINE_HEIGHT] * len(lines)
    with matplotlib.rc_context(PICTURE_STYLE), atomic(path) as temporary:
        figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
        grid = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)
        parts = list(grid[:, 0])
        draw_histogram(parts[0].add_subplot(), pairs.similarity)
        for part, line in zip(parts[1:], lines, strict=True):
            if line.title:
                part.suptitle(line.title, fontsize=11, fontweight="bold", x=0.005, ha="left")
            draw_line(part, line.pairs, table, pairs, folder)
        figure.savefig(temporary, format="png", dpi=PNG_DPI)


def lay_out(similarity: np.ndarray) -> list[Line]:
    """The lines of the page, of the similarity (p,) of the pairs, descending."""
    lines = []
    for title, chosen in pick_pairs(similarity).items():
        for start in range(0, len(chosen), PER_LINE):
            is_first = start == 0
            line_pairs = chosen[start : start + PER_LINE]
            lines.append(Line(line_pairs, title if is_first else ""))
    return lines


def pick_pairs(similarity: np.ndarray) -> dict[str, list[int]]:
    """{title: numbers of the pairs nearest to the threshold}, nearest first, of both its sides.

    similarity: (p,), descending.
    """
    most = PER_LINE * LINES
    copies = int((similarity > THRESHOLD).sum())
    others = len(similarity) - copies
    least_similar_copies = list(range(copies))[::-1]
    most_similar_others = list(range(copies, len(similarity)))
    return {
        f"Counted as copies, the least similar of {copies} pairs": least_similar_copies[:most],
        f"Not counted, the most similar of {others} pairs": most_similar_others[:most],
    }


def draw_histogram(axis: Axes, similarity: np.ndarray) -> None:
    """How many pairs are how similar, (p,), with the threshold."""
    if not len(similarity):
        words = f"no two pictures share more than {FLOOR:.0%} of their bits"
        axis.text(0.5, 0.5, words, ha="center", va="center")
        axis.set_axis_off()
        return
    edges = (np.arange(int(FLOOR * BITS), BITS + 1) + 0.5) / BITS  # each number of bits has a bin
    copies = similarity[similarity > THRESHOLD]
    others = similarity[similarity <= THRESHOLD]
    axis.hist(copies, edges.tolist(), color=COPY_COLOUR, label=f"copies ({len(copies)})")
    axis.hist(others, edges.tolist(), color=OTHER_COLOUR, label=f"others ({len(others)})")
    axis.axvline(THRESHOLD, color=LINE_COLOUR, linewidth=0.8, linestyle="--")
    axis.set_xlabel(
        "share of equal bits of two pictures, or of one and the mirror image of the other"
    )
    axis.set_ylabel("pairs")
    axis.set_title("A gap at the dashed line makes the choice safe")
    axis.legend()


def draw_line(
    figure: SubFigure, numbers: list[int], table: pd.DataFrame, pairs: SimilarPairs, folder: Path
) -> None:
    """Draw pairs beside each other; the second of a mirrored pair is shown mirrored."""
    image_ids = table["image_id"].to_numpy()
    for position, number in enumerate(numbers):
        first = pairs.first[number]
        second = pairs.second[number]
        left = read_png(folder / f"{image_ids[first]}.png")
        right = read_png(folder / f"{image_ids[second]}.png")
        if pairs.mirrored[number]:
            right = right[:, ::-1]
        similarity = f"{pairs.similarity[number]:.1%}"
        if pairs.mirrored[number]:
            similarity += ", mirrored"
        left_axis = figure.add_subplot(1, 2 * PER_LINE, 2 * position + 1)
        right_axis = figure.add_subplot(1, 2 * PER_LINE, 2 * position + 2)
        draw_picture_of_pair(left_axis, left, f"{describe_row(table, first)}\n{similarity}")
        relation = describe_relation(table, first, second)
        draw_picture_of_pair(right_axis, right, f"{describe_row(table, second)}\n{relation}")


def draw_picture_of_pair(axis: Axes, picture: np.ndarray, title: str) -> None:
    """A picture (height, width) uint8 below two small lines of text."""
    axis.imshow(picture, cmap="gray", vmin=0, vmax=255)
    axis.set_title(title, fontsize=6.5, fontweight="normal")
    axis.set_axis_off()


def describe_row(table: pd.DataFrame, row: int) -> str:
    """Which image it is and how many boxes it has."""
    return f"{table['image_id'].iloc[row]}, boxes: {table['n_boxes'].iloc[row]}"


def describe_relation(table: pd.DataFrame, first: int, second: int) -> str:
    """What two rows have in common."""
    same = 0
    for name in ("study_id", "patient"):
        same += table[name].iloc[first] == table[name].iloc[second]
    return RELATIONS[same]
