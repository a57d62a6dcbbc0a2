"""Classifier: classes of images, learned beside masks of what they rest on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cxr.data.batch import Batch, SampleContent
from cxr.data.mask_augmentation import AUGMENTATIONS
from cxr.methods.base import ImageFacts, KnownFindings, Labels, Method, Outputs, View
from cxr.methods.classifier.export import ClassExport
from cxr.methods.classifier.losses import classifier_loss
from cxr.methods.classifier.mixup import check_mixup, draw_mixture
from cxr.methods.classifier.records import ClassPrediction
from cxr.methods.pseudo_labels import add_classes
from cxr.methods.segmenter.losses import TERMS, parse_terms
from cxr.methods.views import show_view, view_frame
from cxr.metrics.doubt import Doubt, largest_doubt
from cxr.metrics.image_rules import mean_of_known
from cxr.networks.classifier import ImageClassifier
from cxr.networks.network import STRIDE, Network, check_side
from cxr.settings import Settings
from cxr.system.errors import InputError


class Classifier(Method):
    name = "classifier"
    prediction_class = ClassPrediction
    view_sets = ("none", "flip", "flips")
    augmentations = AUGMENTATIONS
    plateau_term = "class"
    export = ClassExport()

    def check(self, settings: Settings, labels: Labels) -> None:
        check_side(settings.training.image_size)
        check_marks(settings, labels)
        check_mixup(settings)
        if settings.method.multilabel and settings.method.pseudo:
            raise InputError("--pseudo is for images of one class each: leave out --multilabel")
        for name in parse_terms(settings.method.mask_loss):
            if TERMS[name].output == "label":
                raise InputError(
                    f"--mask-loss {settings.method.mask_loss} has the term {name} of a label head, "
                    "which a classifier does not have: leave it out"
                )

    def sample_content(self, settings: Settings) -> SampleContent:
        return SampleContent(
            mask="boxes",
            soft_label=bool(settings.method.pseudo) or settings.method.multilabel,
            crop=bool(settings.method.lungs),
            unmarked=settings.method.none_output,
        )

    def valid_content(self, settings: Settings) -> SampleContent:
        content = super().valid_content(settings)
        return replace(content, soft_label=settings.method.multilabel)

    def build_model(self, settings: Settings, labels: Labels, load_weights: bool = True) -> Network:
        training = settings.training
        return ImageClassifier(
            encoder=training.encoder,
            weights=training.weights,
            decoder=settings.method.decoder,
            auxiliary=settings.method.aux_weight > 0,
            classes=len(labels.image_classes),
            dropout=settings.method.dropout,
            image_size=training.image_size,
            load_weights=load_weights,
            multilabel=settings.method.multilabel,
            none_output=settings.method.none_output,
        )

    def prepare_batch(self, batch: Batch, model: Network, settings: Settings) -> Batch:
        """With --mixup, pairs of its images mixed."""
        if not settings.method.mixup:
            return batch
        return draw_mixture(batch, settings.method.mixup, as_classifier(model).classes)

    def loss(
        self, outputs: Outputs, batch: Batch, model: Network, settings: Settings
    ) -> dict[str, Tensor]:
        del model
        return classifier_loss(outputs, batch, settings.method)

    def quick_predictions(
        self, outputs: Outputs, batch: Batch, model: Network, settings: Settings
    ) -> dict[int, np.ndarray]:
        """{row: probabilities (C,)}; by row and not by study, whose images may share a batch."""
        del settings
        probabilities = as_classifier(model).probabilities(outputs["label"].float()).cpu().numpy()
        return dict(zip(batch.rows.tolist(), probabilities, strict=True))

    def weak_findings(self, labels: Labels) -> tuple[str, ...]:
        return labels.image_classes

    def add_pseudo_labels(
        self,
        table: pd.DataFrame,
        predictions: Iterable[ClassPrediction],
        weak: KnownFindings,
        settings: Settings,
        labels: Labels,
    ) -> pd.DataFrame:
        del settings
        return add_classes(table, predictions, weak, labels.image_classes)

    def apply_view(self, images: Tensor, view: View, model: Network) -> Tensor:
        return show_view(images, view, view_frame(model.image_size, view, STRIDE))

    def undo_view(self, outputs: Outputs, view: View, model: Network) -> Tensor:
        """Probabilities (B, C), and of `none` behind them where it is learned (B, C + 1): there is
        nothing to turn back in a class."""
        del view
        probabilities = as_classifier(model).probabilities(outputs["label"].float())
        if "none" not in outputs:
            return probabilities
        return torch.cat([probabilities, outputs["none"].float().sigmoid()[:, None]], 1)

    def merge(self, outputs: Iterable[Tensor], settings: Settings) -> list[Tensor]:
        """Probabilities of each image as `undo_view` has them, the mean over models and views.

        Raises InputError where some networks have learned `none` and others have not.
        """
        del settings
        of_views = list(outputs)
        if len({each.shape for each in of_views}) > 1:
            raise InputError(
                "--merge has runs with --none-output and such without: merge those of one kind"
            )
        return list(torch.stack(of_views).mean(0))

    def doubt(
        self,
        merged: ClassPrediction,
        by_fold: Sequence[ClassPrediction],
        detect: Callable[[ClassPrediction], np.ndarray],
    ) -> Doubt:
        """Of the most doubtful class, each a question of its own."""
        del detect
        return largest_doubt(merged.category, [each.category for each in by_fold])

    def describe_prediction(self, prediction: ClassPrediction) -> str:
        probabilities = ", ".join(f"{value:.4f}" for value in prediction.category)
        sentence = f"probabilities of the image classes: {probabilities}"
        if math.isnan(prediction.none):
            return sentence
        return f"{sentence}; that nothing is marked: {prediction.none:.4f}"

    def to_prediction(
        self, merged: Tensor, image: ImageFacts, model: Network, settings: Settings
    ) -> ClassPrediction:
        del model
        category = merged.cpu().numpy()
        none = math.nan
        if settings.method.none_output:
            none = float(category[-1])
            category = category[:-1]
        return ClassPrediction(image.image_id, image.width, image.height, category, none)

    def mix(
        self, predictions: Sequence[ClassPrediction], weights: np.ndarray, settings: Settings
    ) -> ClassPrediction:
        """Weighted mean of the probabilities; of `none` over the runs that have learned it."""
        del settings
        category = weights @ np.array([prediction.category for prediction in predictions])
        nones = [np.array([prediction.none]) for prediction in predictions]
        none = mean_of_known(nones, weights.tolist(), np.array([math.nan]))
        return replace(predictions[0], category=category, none=float(none[0]))

    def from_answer(self, answer: np.ndarray, image: ImageFacts, labels: Labels) -> ClassPrediction:
        """answer: probabilities (C,)."""
        del labels
        return ClassPrediction(image.image_id, image.width, image.height, answer)

    def quick_prediction(
        self, prediction: ClassPrediction, row: pd.Series, settings: Settings
    ) -> np.ndarray:
        del row, settings
        return prediction.category


def check_marks(settings: Settings, labels: Labels) -> None:
    """Raises InputError for settings of marked boxes where a data set has none."""
    if labels.classes:
        return
    if settings.method.none_output or settings.method.image_rule != "plain":
        raise InputError(
            "--none-output and --image-rule are for images with boxes: leave them out of --task "
            f"{settings.place.task}"
        )


def as_classifier(model: Network) -> ImageClassifier:
    """The network as the one that this method builds."""
    return cast(ImageClassifier, model)
