"""The diagrams of a report on masks: how far an image's score can be believed, and which findings are drawn well."""

import numpy as np

from cxr.metrics.boxes import mean_known
from cxr.plots.panels import COLOURS, Panel

BINS = 10
AREAS = (
    0,
    2000,
    5000,
    10000,
    20000,
    np.inf,
)  # pixels of 1024 x 1024; about fifths of SIIM-ACR's pneumothoraces


def mask_panels(reliability, sized):
    """Panels of (image scores (n,), whether the image has a finding (n,)) and (true areas (m,), Dice (m,)) or None."""
    panels = []
    if reliability is not None and len(reliability[0]):
        scores, positive = (np.asarray(part) for part in reliability)
        rows = bins(scores, positive)
        panels += [
            Panel(
                "Calibration of the image score",
                lambda axis: _calibration(axis, rows),
                calibration_sentence(rows),
            ),
            Panel(
                "Image scores",
                lambda axis: _histogram(axis, scores, positive),
                "The further the two lie apart, the easier the choice which images get a mask.",
            ),
        ]
    if sized is not None and len(sized[0]):
        panels.append(
            Panel(
                "Dice by size of the finding",
                lambda axis: _by_area(axis, *map(np.asarray, sized)),
                "Each dot is an image with a marked finding, lines are the means of each range of sizes. "
                "Dots at 0 are missed.",
            )
        )
    return panels


def bins(scores, positive):
    """[(mean score, share with a finding, images)] of the images in each of BINS equal ranges; empty ones left out."""
    place = np.minimum((scores * BINS).astype(int), BINS - 1)
    return [
        (
            float(scores[place == k].mean()),
            float(positive[place == k].mean()),
            int((place == k).sum()),
        )
        for k in np.unique(place)
    ]


def calibration_sentence(rows):
    error = sum(abs(said - true) * images for said, true, images in rows) / sum(
        images for *_, images in rows
    )
    return (
        "On the diagonal a score is the true share of images with a finding; below it the network says too much. "
        f"On average the two differ by {error:.3f}. Larger dots are more images."
    )


def _calibration(axis, rows):
    said, true, images = (np.array(column, float) for column in zip(*rows))
    axis.plot([0, 1], [0, 1], color="#9aa5b1", linewidth=0.8, linestyle="--")
    axis.plot(said, true, color=COLOURS[0], linewidth=1.5)
    axis.scatter(said, true, 15 + 120 * images / images.max(), color=COLOURS[0], zorder=3)
    axis.set(
        xlim=(-0.02, 1.02),
        ylim=(-0.04, 1.04),
        xlabel="mean score of the images",
        ylabel="share with a finding",
    )


def _histogram(axis, scores, positive):
    edges = np.linspace(0, 1, 21)
    for kind, name, colour in (
        (~positive, "without", COLOURS[4]),
        (positive, "with a finding", COLOURS[1]),
    ):
        axis.hist(
            scores[kind],
            edges,
            histtype="stepfilled",
            alpha=0.45,
            color=colour,
            label=f"{name} ({kind.sum()})",
        )
    axis.set(xlim=(0, 1), xlabel="score of the image", ylabel="images")
    axis.legend(loc="upper center")


def _by_area(axis, areas, dice):
    axis.scatter(areas, dice, 12, color=COLOURS[0], alpha=0.5, linewidths=0)
    for low, high in zip(AREAS, AREAS[1:]):
        own = (areas > low) & (areas <= high)
        if own.any():
            ends = areas[own].min() / 1.05, areas[own].max() * 1.05
            axis.plot(ends, [mean_known(dice[own])] * 2, color=COLOURS[1], linewidth=2.2)
    axis.set(
        xscale="log",
        ylim=(-0.03, 1.03),
        xlabel="marked area in pixels of the original",
        ylabel="Dice",
    )
