"""Classifier: classes of images, learned beside masks of what they rest on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cxr.data.batch import Batch, SampleContent
from cxr.data.mask_augmentation import AUGMENTATIONS
from cxr.data.samplers import ResumableSampler, make_share_sampler
from cxr.methods.base import ImageFacts, KnownFindings, Labels, Method, Outputs, View
from cxr.methods.classifier.export import ClassExport
from cxr.methods.classifier.losses import classifier_loss
from cxr.methods.classifier.records import ClassPrediction
from cxr.methods.pseudo_labels import add_classes
from cxr.methods.segmenter.losses import TERMS, parse_terms
from cxr.methods.views import show_view, view_frame
from cxr.networks.classifier import ImageClassifier
from cxr.networks.network import STRIDE, Network, check_side
from cxr.settings import Settings
from cxr.system.errors import InputError
from cxr.system.runtime import Runtime


class Classifier(Method):
    name = "classifier"
    prediction_class = ClassPrediction
    view_sets = ("none", "flip", "flips")
    augmentations = AUGMENTATIONS
    plateau_term = "class"
    export = ClassExport()

    def check(self, settings: Settings, labels: Labels) -> None:
        del labels
        check_side(settings.training.image_size)
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
        )

    def valid_content(self, settings: Settings) -> SampleContent:
        content = super().valid_content(settings)
        return replace(content, soft_label=settings.method.multilabel)

    def train_sampler(
        self, table: pd.DataFrame, settings: Settings, runtime: Runtime
    ) -> ResumableSampler:
        """Images of studies that are not negative are the positives of --sampling."""
        return make_share_sampler(
            table,
            settings.method,
            settings.training.batch_size,
            settings.training.epochs,
            settings.data.seed,
            runtime.rank,
            runtime.world,
        )

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
        )

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
        """Probabilities (B, C): there is nothing to turn back in a class."""
        del view
        return as_classifier(model).probabilities(outputs["label"].float())

    def merge(self, outputs: Iterable[Tensor], settings: Settings) -> list[Tensor]:
        """Probabilities (C,) of each image, the mean over models and views."""
        del settings
        return list(torch.stack(list(outputs)).mean(0))

    def describe_prediction(self, prediction: ClassPrediction) -> str:
        probabilities = ", ".join(f"{value:.4f}" for value in prediction.category)
        return f"probabilities of the image classes: {probabilities}"

    def to_prediction(
        self, merged: Tensor, image: ImageFacts, model: Network, settings: Settings
    ) -> ClassPrediction:
        del model, settings
        return ClassPrediction(image.image_id, image.width, image.height, merged.cpu().numpy())

    def mix(
        self, predictions: Sequence[ClassPrediction], weights: np.ndarray, settings: Settings
    ) -> ClassPrediction:
        """Weighted mean of the probabilities."""
        del settings
        category = weights @ np.array([prediction.category for prediction in predictions])
        return replace(predictions[0], category=category)

    def from_answer(self, answer: np.ndarray, image: ImageFacts, labels: Labels) -> ClassPrediction:
        """answer: probabilities (C,)."""
        del labels
        return ClassPrediction(image.image_id, image.width, image.height, answer)

    def quick_prediction(
        self, prediction: ClassPrediction, row: pd.Series, settings: Settings
    ) -> np.ndarray:
        del row, settings
        return prediction.category


def as_classifier(model: Network) -> ImageClassifier:
    """The network as the one that this method builds."""
    return cast(ImageClassifier, model)
