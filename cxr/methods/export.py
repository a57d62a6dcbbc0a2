"""What a method must say so that its networks become a file which edge_predict.py reads.

The file holds each network with its own outputs; edge_predict.py brings them back from the views,
merges and decides, as the method does. Step 06 asks in this order: check, network_outputs,
describe, compare, then for each judged image compared_scores and keep, and last score.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from torch import Tensor

from cxr.networks.network import Network
from cxr.settings import Settings
from cxr.system.errors import InputError

if TYPE_CHECKING:
    from cxr.methods.base import Labels, Scorer

FLOOR = 0.01  # what fp32 scores below it is no matter of int8
FEWEST_MATCHED = 20  # boxes or images above a threshold, by which another one can be found


@dataclass(frozen=True)
class Difference:
    """Differences of a file from PyTorch.

    score, mean_score: largest and mean one of all probabilities. pixels: largest one of box
    corners, None where there are no boxes.
    """

    score: float
    mean_score: float
    pixels: float | None = None

    @classmethod
    def of(cls, pairs: Sequence[tuple[np.ndarray, Tensor]]) -> Difference:
        """Of probabilities of any shape, of the file and of PyTorch."""
        distances = []
        for of_file, of_networks in pairs:
            distance = np.abs(of_file - of_networks.cpu().numpy())
            distances.append(distance.ravel())
        together = np.concatenate(distances)
        return cls(float(together.max()), float(together.mean()))


@dataclass(frozen=True)
class ScorePairs:
    """The same scores (n,) of an image by the fp32 file and the int8 file."""

    fp32: np.ndarray
    int8: np.ndarray


class ExportPart(ABC):
    """Base of BoxExport, MaskExport and ClassExport.

    kind: by which edge_predict.py knows how to read the outputs. outputs: what the file puts out
    for each network, in this order. needs_params: whether there is no answer without the
    parameters of step 05.
    """

    kind: ClassVar[str]
    outputs: ClassVar[tuple[str, ...]]
    needs_params: ClassVar[bool] = True

    def check(self, settings: Settings) -> None:
        """Raises InputError for a run that a file cannot hold. settings: as trained."""
        if settings.method.lungs:
            raise InputError(
                f"the run was trained on images cut to the lungs (--lungs {settings.method.lungs}),"
                " and a file holds no second network that finds them: export a run without --lungs"
            )

    @abstractmethod
    def network_outputs(self, network: Network, images: Tensor) -> tuple[Tensor, ...]:
        """What the file puts out of images (1, 1, S, S), in the order of `outputs`."""

    @abstractmethod
    def describe(
        self,
        network: Network,
        params: Mapping[str, Any],
        settings: Settings,
        labels: Labels,
        scorer: Scorer,
    ) -> dict[str, Any]:
        """What edge_predict.py must know beside what all files say, as JSON's own types.

        `rule` says how outputs become an answer with the parameters of step 05.
        """

    @abstractmethod
    def compare(
        self, of_file: Any, of_views: Sequence[Any], network: Network, settings: Settings
    ) -> Difference:
        """How far outputs of edge_predict.py are from what PyTorch's networks say of the same
        picture, a `Method.undo_view` of each view and network. Pixels are those of the network."""

    @abstractmethod
    def compared_scores(self, fp32: Any, int8: Any) -> ScorePairs:
        """The scores of an image above FLOOR in fp32, of the outputs of both files."""

    @abstractmethod
    def keep(self, row: pd.Series, answer: Mapping[str, Any]) -> Any:
        """What `score` needs of the answer of edge_predict.py to an image, a row of train.csv."""

    def thresholds_of(self, rule: Mapping[str, Any]) -> list[float]:
        """Those of a rule that `match_thresholds` looks at."""
        del rule
        return []

    def match_thresholds(
        self, fp32: Sequence[Any], int8: Sequence[Any], rule: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """The rule with thresholds by which int8 keeps as many as fp32 does with those it has.

        Of what `keep` gave of the same images by both files. None where there are none to match.
        """
        del fp32, int8, rule
        return None

    def keep_by(self, answer: Any, rule: Mapping[str, Any]) -> Any:
        """What `keep` gave, as it is by a rule of `match_thresholds`."""
        raise NotImplementedError

    @abstractmethod
    def score(
        self,
        kept: Sequence[Any],
        table: pd.DataFrame,
        settings: Settings,
        labels: Labels,
        scorer: Scorer,
    ) -> float | None:
        """The score of what was kept of each row of a table; None where it is not defined."""


def match_threshold(count: int, scores: np.ndarray, threshold: float) -> float:
    """The threshold that `count` of the scores (n,) are above; the old one where `count`, which is
    above that by other scores, is too small or all of them."""
    if not FEWEST_MATCHED <= count < len(scores):
        return threshold
    descending = np.sort(scores)[::-1]
    return round(float(descending[count - 1 : count + 1].mean()), 6)


def scores_above_floor(fp32: np.ndarray, int8: np.ndarray) -> ScorePairs:
    """Those of arrays of one shape that are above FLOOR in fp32."""
    above = fp32 > FLOOR
    return ScorePairs(fp32[above], int8[above])
