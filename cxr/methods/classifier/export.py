"""A classifier as a file: the probability of each class of the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cxr.methods.evaluation import json_number
from cxr.methods.export import Difference, ExportPart, ScorePairs, scores_above_floor
from cxr.networks.classifier import ImageClassifier
from cxr.networks.network import Network
from cxr.settings import Settings

if TYPE_CHECKING:
    from cxr.methods.base import Labels, Scorer


class ClassExport(ExportPart):
    kind = "classes"
    outputs = ("category",)
    needs_params = False

    def network_outputs(self, network: Network, images: Tensor) -> tuple[Tensor, ...]:
        logits = network(images)["label"].float()
        return (cast(ImageClassifier, network).probabilities(logits),)

    def describe(
        self,
        network: Network,
        params: Mapping[str, Any],
        settings: Settings,
        labels: Labels,
        scorer: Scorer,
    ) -> dict[str, Any]:
        """There is nothing to decide: the answer is the probabilities."""
        del network, params, settings, scorer
        return {"classes": [], "image_classes": list(labels.image_classes), "rule": {}}

    def compare(
        self, of_file: Any, of_views: Sequence[Tensor], network: Network, settings: Settings
    ) -> Difference:
        del network, settings
        category = torch.stack([view[0] for view in of_views]).mean(0)
        return Difference.of([(of_file, category)])

    def compared_scores(self, fp32: np.ndarray, int8: np.ndarray) -> ScorePairs:
        return scores_above_floor(fp32, int8)

    def keep(self, row: pd.Series, answer: Mapping[str, Any]) -> np.ndarray:
        """Probabilities (C,)."""
        del row
        return answer["category"]

    def score(
        self,
        kept: Sequence[np.ndarray],
        table: pd.DataFrame,
        settings: Settings,
        labels: Labels,
        scorer: Scorer,
    ) -> float | None:
        """As after an epoch, where nothing is fitted either."""
        predictions = dict(enumerate(kept))
        return json_number(scorer.quick_score(predictions, table, settings, labels)["metric"])
