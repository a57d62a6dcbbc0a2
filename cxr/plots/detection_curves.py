"""Curves of a detector, whole or by class: precision over recall, recall over false ones."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
from matplotlib.axes import Axes

from cxr.metrics.curves import OperatingPoint, PrecisionRecallCurve
from cxr.metrics.froc import FrocCurve
from cxr.metrics.pooled_boxes import RATES, ClassCurve
from cxr.plots.panels import CHOSEN_COLOUR, COLOURS, SOFT_COLOUR, Panel, colours_of

MOST_POINTS = 800  # of a drawn curve; more cannot be seen
LOWEST_RATE = 0.01  # false boxes per image where the axis begins: a logarithmic one has no zero
HIGHEST_RATE = 8
WHOLE_TICKS = {0.01: "0.01", 0.03: "0.03", 0.125: "1/8", 0.5: "1/2", 2: "2", 8: "8"}
CLASS_TICKS = {0.01: "0.01", 0.05: "0.05", 0.1: "0.1", 0.2: "0.2", 1: "1", 8: "8"}


def detection_panels(
    precision_recall: PrecisionRecallCurve | None,
    froc: FrocCurve | None,
    operating: OperatingPoint | None = None,
) -> list[Panel]:
    """A panel for each of the two curves that has at least two finite points."""
    panels = []
    precision_points = curve_points(precision_recall)
    if precision_points is not None:
        panels.append(
            Panel(
                "Precision and recall",
                partial(draw_precision, points=precision_points, operating=operating),
                "Follow the line to the right: finding more of the marked findings (recall) costs "
                "precision, the share of predicted boxes that are right.",
            )
        )
    froc_points = curve_points(froc)
    if froc_points is not None:
        panels.append(
            Panel(
                "Findings found per false box (FROC)",
                partial(draw_froc, points=froc_points, operating=operating),
                froc_sentence(froc_points),
            )
        )
    return panels


def froc_sentence(points: np.ndarray) -> str:
    """What to look for, with numbers; points (2, n): false boxes per image, recall."""
    quarter = recall_within(points, 0.25)
    whole = recall_within(points, 1)
    return (
        "Higher and further left is better: the system finds "
        f"{quarter:.0%} of the marked findings at one false box in four images and "
        f"{whole:.0%} of the marked findings at one false box per image."
    )


def recall_within(points: np.ndarray, rate: float) -> float:
    """Highest recall with at most `rate` false boxes in an image.

    points (2, n): false boxes per image, recall.
    """
    false_boxes, recalls = np.asarray(points, float)
    return float(recalls[false_boxes <= rate].max(initial=0.0))


def curve_points(curve: tuple | None) -> np.ndarray | None:
    """(2, n) finite points of a curve (x, y), thinned to MOST_POINTS; None where there is none."""
    if curve is None:
        return None
    points = np.asarray(curve, float).reshape(2, -1)
    points = points[:, np.isfinite(points).all(axis=0)]
    count = points.shape[1]
    if count < 2:
        return None
    kept = np.unique(np.linspace(0, count - 1, MOST_POINTS).round().astype(int))
    return points[:, kept]


def draw_precision(axis: Axes, points: np.ndarray, operating: OperatingPoint | None) -> None:
    """points (2, n): recall, precision."""
    axis.plot(points[0], points[1], color=COLOURS[0], linewidth=2)
    if operating is not None:
        mark_chosen(axis, operating.recall, operating.precision)
    axis.set(
        xlim=(0, 1),
        ylim=(0, 1.02),
        xlabel="recall: share of the marked findings found",
        ylabel="precision: share of boxes right",
    )


def draw_froc(axis: Axes, points: np.ndarray, operating: OperatingPoint | None) -> None:
    """points (2, n): false boxes per image, recall."""
    rates = np.maximum(points[0], LOWEST_RATE)
    axis.plot(rates, points[1], color=COLOURS[0], linewidth=2, drawstyle="steps-post")
    if operating is not None:
        mark_chosen(axis, max(operating.false_positives_per_image, LOWEST_RATE), operating.recall)
    scale_false_boxes(axis, WHOLE_TICKS)


def scale_false_boxes(axis: Axes, ticks: Mapping[float, str]) -> None:
    """The axes of a FROC; ticks {false boxes per image: what is written there}."""
    axis.set(
        xscale="log",
        xlim=(LOWEST_RATE, HIGHEST_RATE),
        ylim=(0, 1.02),
        xlabel="false boxes per image",
        ylabel="recall",
    )
    axis.set_xticks(list(ticks), list(ticks.values()))
    axis.set_xticks([], minor=True)


def mark_chosen(axis: Axes, x: float, y: float) -> None:
    """A dot where the chosen settings lie, with a legend out of its way."""
    axis.plot(
        x,
        y,
        "o",
        color=CHOSEN_COLOUR,
        markersize=8,
        clip_on=False,
        zorder=5,
        label="chosen setting",
    )
    axis.legend(loc="upper right" if y < 0.7 else "lower left")


def class_panels(curves: Mapping[str, ClassCurve], boxes: bool = True) -> list[Panel]:
    """Panels in which each class is a line; without a class no panel.

    boxes: False where whole images or studies have the class, so that there are no false boxes.
    """
    if not curves:
        return []
    colours = colours_of(curves)
    panels = [
        Panel(
            "Precision and recall of each class",
            partial(draw_class_precision, curves=curves, colours=colours),
            "The area under a line is the AP of its class.",
        )
    ]
    if boxes:
        panels.append(
            Panel(
                "FROC of each class",
                partial(draw_class_froc, curves=curves, colours=colours),
                "Recall over the false boxes of the class in an image; the dotted lines are the "
                "rates of the table of findings.",
            )
        )
    return panels


def draw_class_precision(
    axis: Axes, curves: Mapping[str, ClassCurve], colours: Mapping[str, str]
) -> None:
    for name, curve in curves.items():
        axis.plot(curve.recall, curve.precision, color=colours[name], linewidth=1.3, label=name)
    axis.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axis.legend(fontsize=5.5, loc="upper left", bbox_to_anchor=(1.0, 1.02), borderpad=0)


def draw_class_froc(
    axis: Axes, curves: Mapping[str, ClassCurve], colours: Mapping[str, str]
) -> None:
    for name, curve in curves.items():
        rates = np.maximum(curve.false_positives_per_image, LOWEST_RATE)
        axis.plot(rates, curve.recall, color=colours[name], linewidth=1.3, drawstyle="steps-post")
    for rate in RATES:
        axis.axvline(rate, color=SOFT_COLOUR, linewidth=0.8, linestyle=":")
    scale_false_boxes(axis, CLASS_TICKS)
