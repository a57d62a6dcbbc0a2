"""How far an int8 file is from the fp32 file it was made of, and its own thresholds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cxr.methods.evaluation import json_number
from cxr.methods.export import ExportPart, ScorePairs
from cxr.steps.export.onnx_files import replace_settings, stored_settings

# How far int8's scores may be from those of fp32, in the mean, before it is said.
MOST_INT8_ERROR = 0.01


class Thresholds(NamedTuple):
    """Of both files: one for each class of boxes, or head, top and bottom of masks; and int8's
    answers by its own."""

    fp32: list[float]
    int8: list[float]
    int8_answers: list[Any]


def fit_thresholds(
    path: Path, part: ExportPart, kept: Mapping[str, Sequence[Any]]
) -> Thresholds | None:
    """Give the int8 file `path` the thresholds by which it keeps as much as the fp32 file.

    kept: {number format: what part.keep gave of each judged image}. No label is looked at, so the
    same images may judge the file. None where the method knows no such thresholds.
    """
    settings = stored_settings(path)
    old_rule = settings["rule"]
    rule = part.match_thresholds(kept["fp32"], kept["int8"], old_rule)
    if rule is None:
        return None
    before = part.thresholds_of(old_rule)
    after = part.thresholds_of(rule)
    if after != before:
        replace_settings(path, {**settings, "rule": rule})
    answers = [part.keep_by(answer, rule) for answer in kept["int8"]]
    return Thresholds(before, after, answers)


class ScoreDistance:
    """Mean distance and correlation of two files' scores over any number of images."""

    def __init__(self) -> None:
        self.count = 0
        self.distance = 0.0
        self.sums = np.zeros(2)
        self.products = np.zeros((2, 2))

    def add(self, pairs: ScorePairs) -> None:
        both = np.stack([pairs.fp32, pairs.int8]).astype(np.float64)
        self.count += both.shape[1]
        self.distance += float(np.abs(both[0] - both[1]).sum())
        self.sums += both.sum(1)
        self.products += both @ both.T

    def describe(self) -> dict[str, float | None]:
        """{"mean_score_error", "correlation"}; None where they are not defined."""
        if not self.count:
            return {"mean_score_error": None, "correlation": None}
        means = self.sums / self.count
        covariance = self.products / self.count - np.outer(means, means)
        spread = math.sqrt(max(0.0, covariance[0, 0] * covariance[1, 1]))
        correlation = covariance[0, 1] / spread if spread else math.nan
        return {
            "mean_score_error": self.distance / self.count,
            "correlation": json_number(correlation),
        }


def print_int8(worth: Mapping[str, Any], fp32: Mapping[str, Any]) -> None:
    """How far int8 is from fp32, with a warning where that is much, and its thresholds."""
    error = worth["mean_score_error"]
    if error is None:
        print("int8 is not compared with fp32, which has no score above 0.01 on these images")
        return
    words = f"int8's scores differ from those of fp32 by {error:.4f} in the mean"
    if worth["correlation"] is not None:
        words = f"{words}, their correlation is {worth['correlation']:.4f}"
    print(words)
    if worth.get("thresholds") != fp32.get("thresholds"):
        numbers = " ".join(f"{threshold:.3f}" for threshold in worth["thresholds"])
        print(f"int8 has thresholds of its own, by which it keeps as much: {numbers}")
    if error > MOST_INT8_ERROR:
        print(
            f"warning: that is more than {MOST_INT8_ERROR}: look at both scores before the int8 "
            "file is used, or use the fp32 file"
        )
