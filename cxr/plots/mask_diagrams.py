"""Diagrams about masks: how far an image's score can be believed, which findings are drawn well."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from cxr.metrics.curves import Reliability, SizedScores
from cxr.metrics.means import mean_known
from cxr.plots.panels import COLOURS, SOFT_COLOUR, Panel

BINS = 10
# Pixels of 1024 x 1024; about fifths of SIIM-ACR's pneumothoraces.
AREAS = (0, 2000, 5000, 10000, 20000, np.inf)


class CalibrationBin(NamedTuple):
    """The images whose scores lie in one range."""

    mean_score: float
    positive_share: float
    images: int


def mask_panels(reliability: Reliability | None, sized: SizedScores | None) -> list[Panel]:
    """Panels of the two tables; one that is not there, or empty, has no panel."""
    panels = []
    if reliability is not None and len(reliability.scores):
        panels += reliability_panels(reliability)
    if sized is not None and len(sized.scores):
        panels.append(
            Panel(
                "Dice by size of the finding",
                partial(draw_by_area, sized=sized),
                "Each dot is an image with a marked finding, lines are the means of each range of "
                "sizes. Dots at 0 are missed.",
            )
        )
    return panels


def reliability_panels(reliability: Reliability) -> list[Panel]:
    """Calibration and histogram of the image scores."""
    scores = np.asarray(reliability.scores)
    positive = np.asarray(reliability.positive)
    bins = calibration_bins(scores, positive)
    return [
        Panel(
            "Calibration of the image score",
            partial(draw_calibration, bins=bins),
            calibration_sentence(bins),
        ),
        Panel(
            "Image scores",
            partial(draw_score_histogram, scores=scores, positive=positive),
            "The further the two lie apart, the easier the choice which images get a mask.",
        ),
    ]


def calibration_bins(scores: np.ndarray, positive: np.ndarray) -> list[CalibrationBin]:
    """The images in each of BINS equal ranges of the scores (n,); empty ranges are left out."""
    numbers = np.minimum((scores * BINS).astype(int), BINS - 1)
    bins = []
    for number in np.unique(numbers):
        here = numbers == number
        mean_score = float(scores[here].mean())
        positive_share = float(positive[here].mean())
        bins.append(CalibrationBin(mean_score, positive_share, int(here.sum())))
    return bins


def calibration_sentence(bins: list[CalibrationBin]) -> str:
    """What to look for, with the expected calibration error: the mean distance over the images."""
    images = sum(one.images for one in bins)
    distances = [abs(one.mean_score - one.positive_share) * one.images for one in bins]
    return (
        "On the diagonal a score is the true share of images with a finding; below it the network "
        f"says too much. On average the two differ by {sum(distances) / images:.3f}. Larger dots "
        "are more images."
    )


def draw_calibration(axis: Axes, bins: list[CalibrationBin]) -> None:
    scores = np.array([one.mean_score for one in bins])
    shares = np.array([one.positive_share for one in bins])
    images = np.array([one.images for one in bins], float)
    axis.plot([0, 1], [0, 1], color=SOFT_COLOUR, linewidth=0.8, linestyle="--")
    axis.plot(scores, shares, color=COLOURS[0], linewidth=1.5)
    axis.scatter(scores, shares, 15 + 120 * images / images.max(), color=COLOURS[0], zorder=3)
    axis.set(
        xlim=(-0.02, 1.02),
        ylim=(-0.04, 1.04),
        xlabel="mean score of the images",
        ylabel="share with a finding",
    )


def draw_score_histogram(axis: Axes, scores: np.ndarray, positive: np.ndarray) -> None:
    edges = np.linspace(0, 1, 21)
    style: dict[str, Any] = {"bins": edges, "histtype": "stepfilled", "alpha": 0.45}
    negative = ~positive
    without = f"without ({negative.sum()})"
    axis.hist(scores[negative], color=COLOURS[4], label=without, **style)
    with_finding = f"with a finding ({positive.sum()})"
    axis.hist(scores[positive], color=COLOURS[1], label=with_finding, **style)
    axis.set(xlim=(0, 1), xlabel="score of the image", ylabel="images")
    axis.legend(loc="upper center")


def draw_by_area(axis: Axes, sized: SizedScores) -> None:
    areas = np.asarray(sized.areas)
    scores = np.asarray(sized.scores)
    axis.scatter(areas, scores, 12, color=COLOURS[0], alpha=0.5, linewidths=0)
    for low, high in pairwise(AREAS):
        here = (areas > low) & (areas <= high)
        if here.any():
            ends = (areas[here].min() / 1.05, areas[here].max() * 1.05)
            mean = mean_known(scores[here])
            axis.plot(ends, [mean, mean], color=COLOURS[1], linewidth=2.2)
    axis.set(
        xscale="log",
        ylim=(-0.03, 1.03),
        xlabel="marked area in pixels of the original",
        ylabel="Dice",
    )
