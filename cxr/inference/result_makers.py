"""From the records that step 04 keeps to results for people: one maker for each method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from cxr.geometry.masks import decode_runs
from cxr.images.isolated import Picture
from cxr.inference.results import BoxResult, ClassResult, MaskResult, Result
from cxr.methods.base import Labels
from cxr.methods.classifier.records import ClassPrediction
from cxr.methods.detector.records import Candidates
from cxr.methods.evaluation import Rule
from cxr.methods.segmenter.records import MaskPrediction

MOST_LISTED = 50  # boxes of an image; those above their threshold are never left out


class ResultMaker(ABC):
    """Makes results of one run by its rule.

    result_name: what an image gets: boxes, mask or classes. has_thresholds: whether results depend
    on parameters that step 05 fits. labels: those that the run has learned. of_studies: whether the
    classes are of studies, whose images are averaged.
    """

    result_name: ClassVar[str]
    has_thresholds: ClassVar[bool] = True

    def __init__(self, rule: Rule, labels: Labels, of_studies: bool = False) -> None:
        self.rule = rule
        self.labels = labels
        self.of_studies = of_studies

    @property
    def image_classes(self) -> tuple[str, ...]:
        """Names of the classes of a whole image, of which results say how likely they are."""
        return self.labels.image_classes

    @property
    @abstractmethod
    def findings(self) -> tuple[str, ...]:
        """Names of what may be marked on an image."""

    @abstractmethod
    def make(self, prediction: object, picture: Picture) -> Result:
        """The result of an image from what the method keeps of it."""

    def name_probabilities(self, probabilities: np.ndarray) -> dict[str, float]:
        """{image class: probability} of probabilities (C,)."""
        if not self.image_classes:
            return {}
        return dict(zip(self.image_classes, probabilities.tolist(), strict=True))


class BoxResultMaker(ResultMaker):
    """Of a detector."""

    result_name = "boxes"

    @property
    def findings(self) -> tuple[str, ...]:
        return tuple(self.rule.thresholds)

    def make(self, prediction: object, picture: Picture) -> BoxResult:
        assert isinstance(prediction, Candidates)
        detections = self.rule.detect(prediction)
        thresholds = np.array(list(self.rule.thresholds.values()))
        is_above = detections.scores > thresholds[detections.labels.astype(int)]
        is_among_best = np.arange(len(detections)) < MOST_LISTED
        return BoxResult(
            picture.width,
            picture.height,
            picture.shown,
            self.name_probabilities(prediction.category),
            detections.take(is_above | is_among_best),
            self.rule.thresholds,
            not_frontal_chest=picture.not_frontal_chest,
        )


class MaskResultMaker(ResultMaker):
    """Of a segmenter, which says nothing of image classes."""

    result_name = "mask"

    @property
    def image_classes(self) -> tuple[str, ...]:
        return ()

    @property
    def findings(self) -> tuple[str, ...]:
        return (", ".join(self.labels.classes),)

    def make(self, prediction: object, picture: Picture) -> MaskResult:
        assert isinstance(prediction, MaskPrediction)
        runs = self.rule.detect(prediction)
        return MaskResult(
            picture.width,
            picture.height,
            picture.shown,
            {},
            finding=self.findings[0],
            levels=prediction.picture(),
            mask=decode_runs(runs, picture.height, picture.width),
            image_score=prediction.head,
            not_frontal_chest=picture.not_frontal_chest,
        )


class ClassResultMaker(ResultMaker):
    """Of a classifier."""

    result_name = "classes"
    has_thresholds = False

    @property
    def findings(self) -> tuple[str, ...]:
        return ()

    def make(self, prediction: object, picture: Picture) -> ClassResult:
        assert isinstance(prediction, ClassPrediction)
        probabilities = self.name_probabilities(self.rule.detect(prediction))
        return ClassResult(
            picture.width,
            picture.height,
            picture.shown,
            probabilities,
            not_frontal_chest=picture.not_frontal_chest,
            study=picture.study if self.of_studies else None,
        )


RESULT_MAKERS: dict[str, type[ResultMaker]] = {
    "detector": BoxResultMaker,
    "segmenter": MaskResultMaker,
    "classifier": ClassResultMaker,
}
