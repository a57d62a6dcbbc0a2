"""A segmenter as a file: the probability of each pixel and of the image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import compress
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from cxr.data.dataset import true_mask
from cxr.geometry.masks import dice
from cxr.methods.evaluation import json_number
from cxr.methods.export import (
    Difference,
    ExportPart,
    ScorePairs,
    match_threshold,
    scores_above_floor,
)
from cxr.methods.segmenter.rules import MaskRule, apply_rule, uint8_level
from cxr.methods.segmenter.scorer import rule_of
from cxr.metrics.means import mean_known
from cxr.networks.network import Network
from cxr.settings import Settings

if TYPE_CHECKING:
    from cxr.methods.base import Labels, Scorer


FEWEST_PIXELS = 1000  # above a threshold, by which another one can be found
LEVELS = 256


class KeptMask(NamedTuple):
    """An image's Dice, the row of its true mask, and of what it was made: the levels (H, W) uint8
    of probability as a PNG, since all images are held, and the image's own score."""

    dice: float
    row: pd.Series
    levels_png: bytes
    score: float

    def levels(self) -> np.ndarray:
        encoded = np.frombuffer(self.levels_png, np.uint8)
        return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE))


class MaskExport(ExportPart):
    kind = "masks"
    outputs = ("mask", "label")

    def network_outputs(self, network: Network, images: Tensor) -> tuple[Tensor, ...]:
        """Probabilities of the pixels (1, 1, S, S) and of the image (1, 1): see `image_scores`."""
        outputs = network(images)
        mask = outputs["mask"].float().sigmoid()
        if "label" in outputs:
            label = outputs["label"].float().sigmoid()[:, None]
        else:
            label = F.adaptive_max_pool2d(mask, 1).flatten(1)
        return mask, label

    def describe(
        self,
        network: Network,
        params: Mapping[str, Any],
        settings: Settings,
        labels: Labels,
        scorer: Scorer,
    ) -> dict[str, Any]:
        del network, scorer
        return {
            "classes": [", ".join(labels.classes)],  # a mask shows them together
            "image_classes": [],
            "probability_size": settings.method.probability_size,
            "rule": asdict(rule_of(params, settings)),
        }

    def compare(
        self, of_file: Any, of_views: Sequence[Any], network: Network, settings: Settings
    ) -> Difference:
        """Of all pixels, and of the image's own score."""
        del network, settings
        mask = torch.stack([view.mask[0] for view in of_views]).mean(0)
        label = torch.stack([view.label[0] for view in of_views]).mean(0)
        return Difference.of([(of_file.mask, mask), (of_file.label, label)])

    def compared_scores(self, fp32: Any, int8: Any) -> ScorePairs:
        """Of all pixels."""
        return scores_above_floor(fp32.mask, int8.mask)

    def keep(self, row: pd.Series, answer: Mapping[str, Any]) -> KeptMask:
        levels_png = cv2.imencode(".png", answer["levels"])[1].tobytes()
        return KeptMask(
            dice(true_mask(row), answer["mask"]), row, levels_png, float(answer["score"])
        )

    def thresholds_of(self, rule: Mapping[str, Any]) -> list[float]:
        """head, top and bottom of a MaskRule."""
        return [rule["head"], rule["top"], rule["bottom"]]

    def match_thresholds(
        self, fp32: Sequence[KeptMask], int8: Sequence[KeptMask], rule: Mapping[str, Any]
    ) -> dict[str, Any]:
        """As many images above `head`, pixels of all above `top`, and above `bottom` in those that
        have a mask by fp32. What few decide stays as it is, and so does what decides nothing."""
        matched = dict(rule)
        if rule["head"] > 0:
            count = int((image_scores(fp32) >= rule["head"]).sum())
            matched["head"] = match_threshold(count, image_scores(int8), rule["head"])
        if rule["area"] > 0:
            matched["top"] = match_level(all_levels(fp32), all_levels(int8), rule["top"])
        masked = [has_mask(kept, rule) for kept in fp32]
        matched["bottom"] = match_level(
            all_levels(compress(fp32, masked)), all_levels(compress(int8, masked)), rule["bottom"]
        )
        return matched

    def keep_by(self, answer: KeptMask, rule: Mapping[str, Any]) -> KeptMask:
        mask = apply_rule(MaskRule(**rule), answer.levels(), answer.score)
        return answer._replace(dice=dice(true_mask(answer.row), mask))

    def score(
        self,
        kept: Sequence[KeptMask],
        table: pd.DataFrame,
        settings: Settings,
        labels: Labels,
        scorer: Scorer,
    ) -> float | None:
        del table, settings, labels, scorer
        return json_number(mean_known([each.dice for each in kept]))


def has_mask(kept: KeptMask, rule: Mapping[str, Any]) -> bool:
    return bool(apply_rule(MaskRule(**rule), kept.levels(), kept.score).any())


def image_scores(answers: Sequence[KeptMask]) -> np.ndarray:
    """(n,)"""
    return np.array([kept.score for kept in answers])


def all_levels(answers: Iterable[KeptMask]) -> np.ndarray:
    """(256,) pixels of each level, over all images."""
    counts = np.zeros(LEVELS, np.int64)
    for kept in answers:
        counts += np.bincount(kept.levels().ravel(), minlength=LEVELS)
    return counts


def match_level(fp32: np.ndarray, int8: np.ndarray, threshold: float) -> float:
    """Of counts (256,) of levels: the threshold above which int8 has the nearest count of pixels.

    The nearest one to the threshold that is there, where several are alike.
    """
    level = int(uint8_level(threshold))
    wanted = fp32[level + 1 :].sum()
    if wanted < FEWEST_PIXELS:
        return threshold
    above = int8.sum() - np.cumsum(int8)  # of each level
    distance = np.abs(above - wanted)
    alike = np.flatnonzero(distance == distance.min())
    nearest = int(alike[np.abs(alike - level).argmin()])
    return threshold if nearest == level else nearest / (LEVELS - 1)
