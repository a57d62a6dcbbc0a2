"""Rules of the COVID-19 competition's places that let an image's classes and boxes help each other.

A classifier says how likely a study is negative, and perhaps of an image that it has no box; a
detector finds boxes. `none` of an image is a mean of these; confidences of boxes sink where an
image probably has none; and a study is the more negative, the less is found in it. The third
place's rule is that which another team quotes, the eleventh's that of its own program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from cxr.metrics.average_precision import average_precision_at, cumulate_hits
from cxr.metrics.pooled_boxes import rank_rows

PRODUCT = "product"  # of 1 - confidence over an image's boxes: that none of them is right
HIGHEST = "highest"  # 1 - the highest confidence
# What the search tries. Only the order of the boxes counts, which a power of their confidence alone
# does not change, so the exponent is enough.
SHARES_OF_NEGATIVE = (0.0, 0.25, 0.5, 0.75, 1.0)
SHARES_OF_LEARNED = (0.0, 0.5, 1.0)
EXPONENTS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
SHARES_OF_NONE = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)


@dataclass(frozen=True, eq=False)
class ImageEvidence:
    """What is known of n images.

    studies: (n,) ids. negative: (n,) probability that the study is. learned: (n,) probability that
    the image has no box, as the network learned it; nan where it did not. confidences: the scores
    (m,) of each image's boxes, None where nobody looked for boxes.
    """

    studies: np.ndarray
    negative: np.ndarray
    learned: np.ndarray
    confidences: Sequence[np.ndarray] | None

    def empty(self, kind: str) -> np.ndarray:
        """How likely no box is right, (n,), by PRODUCT or HIGHEST; nan where nobody looked."""
        if self.confidences is None:
            return np.full(len(self.negative), np.nan)
        if kind == PRODUCT:
            return np.array([np.prod(1 - scores) for scores in self.confidences])
        return np.array([1 - np.max(scores, initial=0.0) for scores in self.confidences])

    def take(self, rows: np.ndarray) -> ImageEvidence:
        """Of some images, (n,) bool."""
        confidences = None
        if self.confidences is not None:
            confidences = [self.confidences[row] for row in np.flatnonzero(rows).tolist()]
        return ImageEvidence(
            self.studies[rows], self.negative[rows], self.learned[rows], confidences
        )


@dataclass(frozen=True)
class ImageRule:
    """The rule `plain` by default.

    negative, learned, boxes: weights in `none` of the study's probability, the network's own output
    and the boxes, over those that are there. empty: how boxes speak, PRODUCT or HIGHEST. power,
    exponent: confidence^power (1 - none)^exponent. share: of what speaks in `none` beside
    `negative`, in the study's own probability.
    """

    negative: float = 0.5
    learned: float = 0.5
    boxes: float = 0.5
    empty: str = PRODUCT
    power: float = 1.0
    exponent: float = 0.0
    share: float = 0.0

    def none(self, images: ImageEvidence) -> np.ndarray:
        """How likely each image has no box, (n,)."""
        parts = [images.negative, images.learned, images.empty(self.empty)]
        weights = [self.negative, self.learned, self.boxes]
        return mean_of_known(parts, weights, images.negative)

    def box_confidences(self, images: ImageEvidence) -> list[np.ndarray]:
        """The new scores (m,) of each image's boxes, in the same order."""
        factors = (1 - self.none(images)) ** self.exponent
        scores = images.confidences or [np.zeros(0)] * len(factors)
        return [each**self.power * factor for each, factor in zip(scores, factors, strict=True)]

    def study_negatives(self, images: ImageEvidence) -> dict[str, float]:
        """{study: how likely it is negative}."""
        parts = [images.learned, images.empty(self.empty)]
        beside = mean_of_known(parts, [self.learned, self.boxes], images.negative)
        mixed = (1 - self.share) * images.negative + self.share * beside
        means = {}
        for study in np.unique(images.studies):
            means[str(study)] = float(mixed[images.studies == study].mean())
        return means

    def plain(self) -> dict[str, Any]:
        """As params.json holds it."""
        return asdict(self)


def mean_of_known(
    parts: Sequence[np.ndarray], weights: Sequence[float], otherwise: np.ndarray
) -> np.ndarray:
    """Weighted mean (n,) of the parts (n,) that are not nan; without any `otherwise` (n,)."""
    values = np.array(parts, float)
    known = ~np.isnan(values) * np.array(weights, float)[:, None]
    total = known.sum(axis=0)
    mean = (np.nan_to_num(values) * known).sum(axis=0) / np.where(total > 0, total, 1)
    return np.where(total > 0, mean, otherwise)


PLAIN = ImageRule()
THIRD = ImageRule(negative=0.0, learned=0.7, boxes=0.3, empty=HIGHEST, exponent=0.4)
ELEVENTH = ImageRule(learned=0.0, power=0.84, exponent=0.16, share=0.3)


def rule_of_place(name: str, images: ImageEvidence) -> ImageRule:
    """plain, third or eleventh. Where no `none` was learned, `negative` stands for it (the 5th
    place found them alike)."""
    rules = {"plain": PLAIN, "third": THIRD, "eleventh": ELEVENTH}
    rule = rules[name]
    if name == "third" and np.isnan(images.learned).all():
        return replace(rule, negative=rule.learned, learned=0.0)
    return rule


# ------------------------------------------------------------------------------- search


@dataclass(frozen=True, eq=False)
class ImageTruth:
    """The truth of n images.

    is_negative: (n,) bool, of the study. true_counts: (n,) numbers of true boxes. hits: for each
    image (m,) bool, which boxes found one, by descending confidence; no rule changes that order
    within an image.
    """

    is_negative: np.ndarray
    true_counts: np.ndarray
    hits: Sequence[np.ndarray]

    def take(self, rows: np.ndarray) -> ImageTruth:
        """Of some images, (n,) bool."""
        hits = [self.hits[row] for row in np.flatnonzero(rows).tolist()]
        return ImageTruth(self.is_negative[rows], self.true_counts[rows], hits)


def fit_rule(images: ImageEvidence, truth: ImageTruth) -> ImageRule:
    """The best rule on these images: `none`, the boxes and `negative` by their own average
    precision each, one after the other. What wins nothing stays as it is in the plain rule."""
    rule = PLAIN
    best = none_precision(rule, images, truth)
    for candidate in none_candidates(images):
        precision = none_precision(candidate, images, truth)
        if precision > best:
            rule, best = candidate, precision
    with_exponents = [replace(rule, exponent=exponent) for exponent in EXPONENTS]
    precisions = [box_precision(each, images, truth) for each in with_exponents]
    rule = with_exponents[first_highest(precisions)]
    with_shares = [replace(rule, share=share) for share in SHARES_OF_NONE]
    precisions = [negative_precision(each, images, truth) for each in with_shares]
    return with_shares[first_highest(precisions)]


def first_highest(values: Sequence[float]) -> int:
    """The first where all are nan."""
    return int(np.argmax(np.nan_to_num(values, nan=-1.0)))


def none_candidates(images: ImageEvidence) -> list[ImageRule]:
    has_learned = not np.isnan(images.learned).all()
    has_boxes = images.confidences is not None
    of_learned = SHARES_OF_LEARNED if has_learned and has_boxes else (float(has_learned),)
    rules = []
    for empty in (PRODUCT, HIGHEST) if has_boxes else (PRODUCT,):
        for negative in SHARES_OF_NEGATIVE:
            for share in of_learned:
                learned = (1 - negative) * share
                rules.append(ImageRule(negative, learned, 1 - negative - learned, empty))
    return rules


def none_precision(rule: ImageRule, images: ImageEvidence, truth: ImageTruth) -> float:
    return rank_rows(truth.true_counts == 0, rule.none(images)).average_precision()


def box_precision(rule: ImageRule, images: ImageEvidence, truth: ImageTruth) -> float:
    hits = np.concatenate([np.zeros(0), *truth.hits])
    scores = np.concatenate([np.zeros(0), *rule.box_confidences(images)])
    return average_precision_at(cumulate_hits(hits, scores), truth.true_counts.sum())


def negative_precision(rule: ImageRule, images: ImageEvidence, truth: ImageTruth) -> float:
    negatives = rule.study_negatives(images)
    is_negative = dict(zip(images.studies, truth.is_negative, strict=True))
    labels = np.array([is_negative[study] for study in negatives], bool)
    return rank_rows(labels, np.array(list(negatives.values()))).average_precision()
