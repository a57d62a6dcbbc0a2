"""A segmenter as a file: the probability of each pixel and of the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from cxr.data.dataset import true_mask
from cxr.geometry.masks import dice
from cxr.methods.evaluation import json_number
from cxr.methods.export import Difference, ExportPart, ScorePairs, scores_above_floor
from cxr.methods.segmenter.scorer import rule_of
from cxr.metrics.means import mean_known
from cxr.networks.network import Network
from cxr.settings import Settings

if TYPE_CHECKING:
    from cxr.methods.base import Labels, Scorer


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

    def keep(self, row: pd.Series, answer: Mapping[str, Any]) -> float:
        """Dice of the image."""
        return dice(true_mask(row), answer["mask"])

    def score(
        self,
        kept: Sequence[float],
        table: pd.DataFrame,
        settings: Settings,
        labels: Labels,
        scorer: Scorer,
    ) -> float | None:
        del table, settings, labels, scorer
        return json_number(mean_known(list(kept)))
