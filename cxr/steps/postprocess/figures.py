"""The numbers beside a score: which there are, and how they are said.

A number without a value, such as the specificity where every image has a finding, is left out of
sentences and is null in a JSON file.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from cxr.methods.evaluation import Evaluation
from cxr.metrics.bootstrap import Interval

TEST_LIKE = "score of the images that are labelled like the test set"
MEAN_RECALL = "mean recall at {rate} false boxes per image"
AVERAGE_RECALL = "mean of these recalls (avgrecall)"


def fingerprint(image_ids: Iterable[str]) -> str:
    """Sixteen letters that two sets of images share only if they are the same."""
    text = "\n".join(sorted(map(str, image_ids)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def headline_figures(evaluation: Evaluation) -> dict[str, float]:
    """{words: number} that console and report say beside the score; only those with a value."""
    test_like = evaluation.results.get("score_test_like")
    return with_value({**evaluation.figures, TEST_LIKE: test_like})


def recall_figures(results: Mapping[str, Any]) -> dict[str, float | None]:
    """{words: number} of mean recalls at a few rates of false boxes, and of their mean.

    results: of an Evaluation, or the entry `test` of results.json; empty where nothing is known.
    """
    recalls = results.get("mean_recall")
    if not recalls:
        return {}
    figures = {MEAN_RECALL.format(rate=rate): recall for rate, recall in recalls.items()}
    figures[AVERAGE_RECALL] = results.get("avgrecall")
    return figures


def with_value(figures: Mapping[str, float | None]) -> dict[str, float]:
    """Those that are numbers."""
    known = {}
    for name, value in figures.items():
        if value is not None and math.isfinite(value):
            known[name] = value
    return known


def has_value(number: float | None) -> bool:
    return number is not None and math.isfinite(number)


def value_or_null(number: float | None) -> float | None:
    """A number for a JSON file, which has no nan."""
    return number if has_value(number) else None


def format_score(score: float, interval: Interval) -> str:
    """ "score 0.2511 (95 % interval 0.2034 to 0.3012)"."""
    if not has_value(score):
        return "no score, since no judged image counts in it"
    low, high = interval
    if not has_value(low) or not has_value(high):
        return f"score {score:.4f}"
    return f"score {score:.4f} (95 % interval {low:.4f} to {high:.4f})"


def join_figures(score: str, figures: Mapping[str, float | None]) -> str:
    """What `format_score` says, and the figures beside it."""
    rest = format_figures(figures)
    return f"{score}, {rest}" if rest else score


def format_figures(figures: Mapping[str, float | None]) -> str:
    """ "sensitivity 0.8125, specificity 0.9000"; empty without any."""
    return ", ".join(f"{name} {value:.4f}" for name, value in with_value(figures).items())
