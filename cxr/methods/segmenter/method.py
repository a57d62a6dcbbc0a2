"""Segmenter: masks, by U-Nets with a label head where wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from cxr.data.batch import Batch, SampleContent
from cxr.data.mask_augmentation import AUGMENTATIONS
from cxr.data.samplers import ResumableSampler
from cxr.geometry.lung_box import paste
from cxr.geometry.masks import decode_runs
from cxr.images.resize import resize
from cxr.methods.base import (
    ImageFacts,
    KnownFindings,
    Labels,
    LearningState,
    Method,
    Outputs,
    Teacher,
    View,
)
from cxr.methods.pseudo_labels import add_masks
from cxr.methods.segmenter.export import MaskExport
from cxr.methods.segmenter.losses import mask_loss, parse_terms
from cxr.methods.segmenter.mean_teacher import MeanTeacher, teacher_decay
from cxr.methods.segmenter.records import MaskPrediction, pack_picture
from cxr.methods.segmenter.scorer import QuickMask, quick_counts
from cxr.methods.views import show_view, view_frame
from cxr.metrics.doubt import Doubt, disagreement, entropy, largest_doubt
from cxr.networks.network import STRIDE, Network, check_side
from cxr.networks.unet import UNet
from cxr.settings import Settings
from cxr.system.errors import InputError

LARGEST_ANSWER = 1024  # pixels of the side of a picture that comes from a file of answers


@dataclass(frozen=True, eq=False)
class MaskOutput:
    """Probabilities of a view or merged: pixels (B, S, S) of the plain view, images (B,)."""

    mask: Tensor
    label: Tensor


class Segmenter(Method):
    name = "segmenter"
    prediction_class = MaskPrediction
    view_sets = ("none", "flip", "flip+scale")
    augmentations = AUGMENTATIONS
    plateau_term = "loss"
    export = MaskExport()

    def check(self, settings: Settings, labels: Labels) -> None:
        del labels
        method = settings.method
        check_side(settings.training.image_size)
        terms = parse_terms(method.mask_loss)
        label_terms = [name for name in terms if name.startswith("label")]
        if label_terms and method.label_head == "none":
            raise InputError(
                f"--mask-loss {method.mask_loss} needs a network with a --label-head for its term "
                f"{label_terms[0]}"
            )
        if method.rule == "fourth" and method.label_head == "none":
            raise InputError("--rule fourth reads the label head: add --label-head linear")

    def sample_content(self, settings: Settings) -> SampleContent:
        return SampleContent(mask="runs", crop=bool(settings.method.lungs))

    def build_model(self, settings: Settings, labels: Labels, load_weights: bool = True) -> Network:
        del labels
        training = settings.training
        return UNet(
            encoder=training.encoder,
            weights=training.weights,
            decoder=settings.method.decoder,
            label_head=settings.method.label_head,
            frozen_norm=settings.method.encoder_norm == "frozen",
            image_size=training.image_size,
            load_weights=load_weights,
        )

    def loss(
        self, outputs: Outputs, batch: Batch, model: Network, settings: Settings
    ) -> dict[str, Tensor]:
        del model
        return mask_loss(outputs, batch.masks, batch.image_labels, settings.method.mask_loss)

    def idle_outputs(self, settings: Settings) -> tuple[str, ...]:
        """A head without a term in --mask-loss; a mean teacher asks both heads."""
        if settings.method.unlabelled:
            return ()
        terms = parse_terms(settings.method.mask_loss)
        of_label = [name for name in terms if name.startswith("label")]
        idle = []
        if not of_label:
            idle.append("label")
        if len(of_label) == len(terms):
            idle.append("mask")
        return tuple(idle)

    def teacher_decay(self, settings: Settings) -> Callable[[float, int], float] | None:
        return teacher_decay if settings.method.unlabelled else None

    def make_teacher(
        self, state: LearningState, settings: Settings, sampler: ResumableSampler
    ) -> Teacher | None:
        if not settings.method.unlabelled:
            return None
        return MeanTeacher(state, settings, sampler)

    def quick_predictions(
        self, outputs: Outputs, batch: Batch, model: Network, settings: Settings
    ) -> dict[int, QuickMask]:
        """{row: (counts of pixels, image score)}: all that the figures after an epoch need."""
        del model, settings
        assert batch.masks is not None
        probability = outputs["mask"].float().sigmoid()[:, 0]
        counts = quick_counts(probability, batch.masks[:, 0], image_scores(outputs))
        return dict(zip(batch.rows.tolist(), counts, strict=True))

    def add_pseudo_labels(
        self,
        table: pd.DataFrame,
        predictions: Iterable[MaskPrediction],
        weak: KnownFindings,
        settings: Settings,
        labels: Labels,
    ) -> pd.DataFrame:
        del settings, labels
        return add_masks(table, predictions, weak)

    def apply_view(self, images: Tensor, view: View, model: Network) -> Tensor:
        return show_view(images, view, view_frame(model.image_size, view, STRIDE))

    def undo_view(self, outputs: Outputs, view: View, model: Network) -> MaskOutput:
        content = view_frame(model.image_size, view, STRIDE).content
        logits = outputs["mask"].float()[..., :content, :content]
        masks = logits.sigmoid()
        if view.thirds:
            size = (model.image_size, model.image_size)
            masks = F.interpolate(masks, size=size, mode="bilinear", antialias=True)
        if view.mirrored:
            masks = masks.flip(-1)
        return MaskOutput(masks[:, 0], image_scores(outputs | {"mask": logits}))

    def merge(self, outputs: Iterable[MaskOutput], settings: Settings) -> list[MaskOutput]:
        """Mean probabilities of each image: of its pixels (S, S), of the image ().

        Only the sum is held, since the maps of many models would be gigabytes.
        """
        del settings
        masks: Tensor | float = 0
        labels: Tensor | float = 0
        count = 0
        for output in outputs:
            masks = masks + output.mask
            labels = labels + output.label
            count += 1
        means = zip(masks / count, labels / count, strict=True)  # type: ignore[arg-type]
        return [MaskOutput(mask, label) for mask, label in means]

    def kept_settings(self, settings: Settings) -> dict[str, Any]:
        return {"probability_size": settings.method.probability_size}

    def doubt(
        self,
        merged: MaskPrediction,
        by_fold: Sequence[MaskPrediction],
        detect: Callable[[MaskPrediction], str],
    ) -> Doubt:
        """Of the image score, or in the mean over the pixels that are marked, whichever is more.

        Marked are pixels above one half: in the merged picture, or in that of any fold.
        """
        del detect
        of_score = largest_doubt(np.array([merged.head]), [[each.head] for each in by_fold])
        picture = merged.stored_picture() / 255
        own = max(of_score.entropy, mean_where(entropy(picture), picture > 0.5))
        if of_score.disagreement is None:
            return Doubt(own, None)
        pictures = np.stack([each.stored_picture() for each in by_fold]) / 255
        of_pixels = mean_where(disagreement(pictures), np.any(pictures > 0.5, axis=0))
        return Doubt(own, max(of_score.disagreement, of_pixels))

    def describe_prediction(self, prediction: MaskPrediction) -> str:
        pixels = np.count_nonzero(prediction.picture() > 127)
        return f"image score {prediction.head:.4f}, {pixels} pixels above one half"

    def to_prediction(
        self, merged: MaskOutput, image: ImageFacts, model: Network, settings: Settings
    ) -> MaskPrediction:
        del model
        probability = merged.mask.cpu().numpy()
        if image.crop is not None:
            side = len(probability)
            scale = side / np.array([image.width, image.height] * 2)
            x1, y1, x2, y2 = np.round(np.array(image.crop, float) * scale).astype(int).tolist()
            probability = paste(probability, (x1, y1, x2, y2), side, side)
        png = pack_picture(probability, settings.method.probability_size)
        return MaskPrediction(image.image_id, image.width, image.height, float(merged.label), png)

    def mix(
        self, predictions: Sequence[MaskPrediction], weights: np.ndarray, settings: Settings
    ) -> MaskPrediction:
        """Weighted means of the image scores and of the pictures, in the frame of the largest one.

        A picture shows the whole image whatever its side, so they differ in resolution only.
        """
        del settings
        stored = [prediction.stored_picture() for prediction in predictions]
        side = max(len(picture) for picture in stored)
        probability = np.zeros((side, side), np.float32)
        for picture, weight in zip(stored, weights, strict=True):
            probability += np.float32(weight / 255) * resize(picture, side)
        heads = [prediction.head for prediction in predictions]
        return replace(
            predictions[0], head=float(weights @ heads), png=pack_picture(probability, side)
        )

    def from_answer(self, answer: str, image: ImageFacts, labels: Labels) -> MaskPrediction:
        """answer: run lengths in original pixels, of which nobody knows how sure they are."""
        del labels
        mask = decode_runs(answer, image.height, image.width).astype(np.float32)
        side = max(image.width, image.height)
        square = cv2.resize(mask, (side, side), interpolation=cv2.INTER_LINEAR)
        return MaskPrediction(
            image.image_id,
            image.width,
            image.height,
            float(mask.max()),
            pack_picture(square, min(side, LARGEST_ANSWER)),
        )

    def quick_prediction(
        self, prediction: MaskPrediction, row: pd.Series, settings: Settings
    ) -> QuickMask:
        side = settings.training.image_size
        picture = resize(prediction.stored_picture(), side)
        true_mask = resize(decode_runs(row["mask"], prediction.height, prediction.width), side)
        [counts] = quick_counts(
            torch.from_numpy(picture)[None] / 255,
            torch.from_numpy(true_mask)[None],
            torch.tensor([prediction.head]),
        )
        return counts


def mean_where(values: np.ndarray, chosen: np.ndarray) -> float:
    """Mean of the values (h, w) where `chosen` (h, w) is True; 0 where it is nowhere."""
    if not chosen.any():
        return 0.0
    return float(values[chosen].mean())


def image_scores(outputs: Outputs) -> Tensor:
    """Probability (B,) that an image has a finding.

    Of the label head, where there is one, else of the highest pixel.
    """
    if "label" in outputs:
        return outputs["label"].float().sigmoid()
    return outputs["mask"].float().amax((1, 2, 3)).sigmoid()
