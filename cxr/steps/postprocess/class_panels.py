"""The diagrams of a report in which each class of boxes is a line."""

import numpy as np

from cxr.metrics.pooled_boxes import RATES
from cxr.plots.panels import Panel, colours_of


def class_panels(curves, boxes=True):
    """Panels of {class: (recall, precision, false boxes per image)}: each class a line; no class, no panel. Without
    `boxes` the whole images have the class, and there is no second panel."""
    if not curves:
        return []
    colours = colours_of(curves)
    precision = Panel(
        "Precision and recall of each class",
        lambda axis: _class_precision(axis, curves, colours),
        "The area under a line is the AP of its class.",
    )
    if not boxes:
        return [precision]
    return [
        precision,
        Panel(
            "Findings found per false box, each class",
            lambda axis: _class_froc(axis, curves, colours),
            "False boxes of the class in an image; the dotted lines are the rates of the recall table.",
        ),
    ]


def _class_precision(axis, curves, colours):
    for name, (recall, precision, _) in curves.items():
        axis.plot(recall, precision, color=colours[name], linewidth=1.3, label=name)
    axis.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axis.legend(fontsize=5.5, loc="upper right")


def _class_froc(axis, curves, colours):
    for name, (recall, _, rate) in curves.items():
        axis.plot(
            np.maximum(rate, 0.01),
            recall,
            color=colours[name],
            linewidth=1.3,
            drawstyle="steps-post",
        )
    for rate in RATES:
        axis.axvline(rate, color="#9aa5b1", linewidth=0.8, linestyle=":")
    axis.set(
        xscale="log",
        xlim=(0.01, 8),
        ylim=(0, 1.02),
        xlabel="false boxes per image",
        ylabel="recall",
    )
    axis.set_xticks([0.01, 0.05, 0.1, 0.2, 1, 8], ["0.01", "0.05", "0.1", "0.2", "1", "8"])
    axis.set_xticks([], minor=True)
