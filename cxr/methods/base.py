"""What a method must say: how networks learn and answer one kind of target.

A method imports no data set and no step. The steps ask it in this order:

    training    check, select_rows, sample_content, make_target, train_sampler, build_model,
                network_inputs, loss, quick_predictions
    prediction  build_model, apply_view, raw_outputs, undo_view, merge, to_prediction
    blending    mix, quick_prediction
    judging     the scorer's part (below), on the predictions that step 04 kept
    export      its `export` part (cxr/methods/export.py)

A new kind of target is a folder with one such class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import pandas as pd
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from cxr.data.batch import Batch, SampleContent, TargetMaker
from cxr.data.samplers import ResumableSampler, make_share_sampler
from cxr.methods.evaluation import Evaluation, Rule
from cxr.methods.export import ExportPart
from cxr.metrics.doubt import Doubt
from cxr.networks.network import Network
from cxr.run_folder import JudgedFolder, RunFolder
from cxr.settings import Settings
from cxr.system.runtime import Runtime

# {image_id: {finding: POSITIVE, NEGATIVE or UNCERTAIN of cxr/data/weak_labels.py}}
KnownFindings = Mapping[str, Mapping[str, int]]
Outputs = dict[str, Any]  # of a network or a view: tensors by name


class View(NamedTuple):
    """How an image is shown to the networks: test-time augmentation that can be undone.

    thirds: thirds of an octave larger; scales in steps of the anchors' own three scales per octave
    keep the outputs of all views on one set of anchors.
    """

    thirds: int = 0
    mirrored: bool = False  # left-right
    upside_down: bool = False


PLAIN = View()
MIRRORED = View(mirrored=True)
VIEW_SETS: dict[str, tuple[View, ...]] = {
    "none": (PLAIN,),
    "flip": (PLAIN, MIRRORED),
    "flip+scale": (
        PLAIN,
        MIRRORED,
        View(thirds=1),
        View(thirds=1, mirrored=True),
        View(thirds=-1),
        View(thirds=-1, mirrored=True),
    ),
    "flips": (
        PLAIN,
        MIRRORED,
        View(upside_down=True),
        View(mirrored=True, upside_down=True),
    ),
}


class Prediction(Protocol):
    """The record that step 04 keeps of an image, in original pixels."""

    image_id: str
    width: int
    height: int

    @staticmethod
    def columns(predictions: Sequence[Any]) -> dict[str, np.ndarray]:
        """Arrays of some predictions, for one file."""

    @classmethod
    def rows(cls, part: Mapping[str, np.ndarray]) -> Iterator[Any]:
        """Yield the predictions of what `columns` gave."""


@dataclass(frozen=True)
class ImageFacts:
    """What a prediction needs to know of an image: its id, size, and crop in original pixels."""

    image_id: str
    width: int
    height: int
    crop: tuple[int, int, int, int] | None = None  # x1 y1 x2 y2 that the network saw

    @classmethod
    def of_row(cls, row: pd.Series) -> ImageFacts:
        """Of a row of step 02's tables, with the columns crop_x1 to crop_y2 where it was cut."""
        crop = None
        if "crop_x1" in row:
            crop = (
                int(row["crop_x1"]),
                int(row["crop_y1"]),
                int(row["crop_x2"]),
                int(row["crop_y2"]),
            )
        return cls(row["image_id"], int(row["width"]), int(row["height"]), crop)


@dataclass(frozen=True)
class Labels:
    """What a task's labels are called. classes: of boxes or masks, as far as they are used."""

    classes: tuple[str, ...]
    image_classes: tuple[str, ...]


class LearningState(Protocol):
    """What a teacher sees of a fold's training."""

    model: Network
    average: AveragedModel | None
    runtime: Runtime
    epoch: int
    step: int
    moment: float  # epochs since the start, with the part of the present one


class Teacher(Protocol):
    """Learning beside the labelled batches: further terms of the loss."""

    def start(self) -> None:
        """At the beginning of an epoch."""

    def terms(self) -> dict[str, Tensor]:
        """At each step."""


class Method(ABC):
    """Base of Detector, Segmenter and Classifier."""

    name: ClassVar[str]
    prediction_class: ClassVar[type[Any]]
    view_sets: ClassVar[tuple[str, ...]]  # names in VIEW_SETS of those it can undo
    augmentations: ClassVar[tuple[str, ...]]  # values of --augmentation that it can use
    plateau_term: ClassVar[str]  # the validation loss that --schedule plateau watches
    export: ClassVar[ExportPart]  # how its networks become a file of step 06

    @abstractmethod
    def check(self, settings: Settings, labels: Labels) -> None:
        """Raises InputError for what cannot work, before anything is loaded or written."""

    def used_labels(self, settings: Settings, labels: Labels) -> Labels:
        """The labels as far as these settings use them. Here: all."""
        del settings
        return labels

    def select_rows(self, table: pd.DataFrame, settings: Settings, labels: Labels) -> pd.DataFrame:
        """The table of step 02 as far as these settings learn and judge it. Here: all of it."""
        del settings, labels
        return table

    @abstractmethod
    def sample_content(self, settings: Settings) -> SampleContent:
        """What samples carry in training."""

    def valid_content(self, settings: Settings) -> SampleContent:
        """What samples carry in validation, where there are no pseudo labels."""
        return replace(self.sample_content(settings), soft_label=False)

    def learns_image_classes(self, settings: Settings) -> bool:
        """Whether the class of the whole image means anything: a head needs a loss."""
        del settings
        return True

    def make_target(self, settings: Settings) -> TargetMaker | None:
        """A picklable callable for the loader's processes; None where the losses need no more."""
        del settings
        return None

    def train_sampler(
        self, table: pd.DataFrame, settings: Settings, runtime: Runtime
    ) -> ResumableSampler:
        """The order of the training images, by --sampling."""
        return make_share_sampler(
            table,
            self.shows_finding(table),
            settings.method,
            settings.training.batch_size,
            settings.training.epochs,
            settings.data.seed,
            runtime.rank,
            runtime.world,
        )

    def shows_finding(self, table: pd.DataFrame) -> np.ndarray:
        """(n,) bool: which rows are positives of --sampling. Here: of a class that is not 0."""
        return (table["label"] > 0).to_numpy()

    @abstractmethod
    def build_model(self, settings: Settings, labels: Labels, load_weights: bool = True) -> Network:
        """The network. load_weights=False leaves random weights for a checkpoint to replace."""

    def network_inputs(self, batch: Batch, settings: Settings) -> tuple[Any, ...]:
        """What the network is told in training beside the images. Here: nothing."""
        del batch, settings
        return ()

    def prepare_batch(self, batch: Batch, model: Network, settings: Settings) -> Batch:
        """A training batch on the device, as it is to be learned. Its random numbers are torch's,
        which are seeded for every step. Here: unchanged."""
        del model, settings
        return batch

    def add_headers(self, outputs: Outputs, headers: Tensor | None, model: Network) -> Outputs:
        """Outputs of images with what the headers (B, n) of their files add. Here: nothing."""
        del headers, model
        return outputs

    @abstractmethod
    def loss(
        self, outputs: Outputs, batch: Batch, model: Network, settings: Settings
    ) -> dict[str, Tensor]:
        """Weighted terms by name; their sum is what is minimised."""

    def teacher_decay(self, settings: Settings) -> Callable[[float, int], float] | None:
        """Decay of a teacher that averages the weights, by epochs passed and updates; or None."""
        del settings
        return None

    def make_teacher(
        self, state: LearningState, settings: Settings, sampler: ResumableSampler
    ) -> Teacher | None:
        """Learning from images without labels. Here: none."""
        del state, settings, sampler
        return None

    @abstractmethod
    def quick_predictions(
        self, outputs: Outputs, batch: Batch, model: Network, settings: Settings
    ) -> dict[int, Any]:
        """{row of the table: what the scorer's quick figures after an epoch need of it}."""

    def weak_findings(self, labels: Labels) -> tuple[str, ...]:
        """What labels of external images are asked for. Here: the classes of boxes or masks."""
        return labels.classes

    @abstractmethod
    def add_pseudo_labels(
        self,
        table: pd.DataFrame,
        predictions: Iterable[Any],
        weak: KnownFindings,
        settings: Settings,
        labels: Labels,
    ) -> pd.DataFrame:
        """The training table with what a run says of further images, marked by `pseudo`.

        weak: what a table of labels says of them. Raises InputError where nothing is left.
        """

    @abstractmethod
    def apply_view(self, images: Tensor, view: View, model: Network) -> Tensor:
        """Images (B, 1, S, S) uint8 as the view shows them, (B, 1, s, s)."""

    def idle_outputs(self, settings: Settings) -> tuple[str, ...]:
        """Names of a network's outputs that the loss does not read. Here: none."""
        del settings
        return ()

    def raw_outputs(self, model: Network, images: Tensor) -> Outputs:
        """What step 04 wants to know of images, before it knows which parts of it."""
        return model(images)

    @abstractmethod
    def undo_view(self, outputs: Outputs, view: View, model: Network) -> Any:
        """Outputs of one view -> what the unchanged images would have given."""

    @abstractmethod
    def merge(self, outputs: Iterable[Any], settings: Settings) -> list[Any]:
        """One merged answer per image, over models and views."""

    def kept_settings(self, settings: Settings) -> dict[str, Any]:
        """The settings, beside networks and views, that decide what step 04 keeps. Here: none."""
        del settings
        return {}

    def kept_boxes(self, prediction: Any) -> np.ndarray:
        """Boxes (n, 4) of what step 04 kept, in original pixels, before any rule. Here: none."""
        del prediction
        return np.zeros((0, 4))

    @abstractmethod
    def doubt(self, merged: Any, by_fold: Sequence[Any], detect: Callable[[Any], Any]) -> Doubt:
        """How doubtful what step 04 kept of an image is.

        by_fold: what the networks of each fold alone say of it, as `merged` is kept; [] where that
        is not known. detect: as `Rule.detect`.
        """

    @abstractmethod
    def describe_prediction(self, prediction: Any) -> str:
        """What step 04 kept of an image, in words for someone who looks for a mistake."""

    @abstractmethod
    def to_prediction(
        self, merged: Any, image: ImageFacts, model: Network, settings: Settings
    ) -> Any:
        """What step 04 keeps of an image: all that a scorer may search over."""

    @abstractmethod
    def mix(self, predictions: Sequence[Any], weights: np.ndarray, settings: Settings) -> Any:
        """What several runs say of one image, each by `to_prediction`, as one prediction.

        weights: (M,), above 0, which add up to 1.
        """

    @abstractmethod
    def from_answer(self, answer: Any, image: ImageFacts, labels: Labels) -> Any:
        """A prediction of what a file of answers says of an image, for `mix`."""

    @abstractmethod
    def quick_prediction(self, prediction: Any, row: pd.Series, settings: Settings) -> Any:
        """What `quick_predictions` has of an image, from what step 04 kept and its row."""


Cases = Callable[[], Iterator[Any]]  # yields each out-of-fold case, as often as it is called


@dataclass
class Judging:
    """What a scorer is told beside the cases.

    folder: where the results belong. table: the judged rows of train.csv. further_boxes:
    {image_id: (boxes, scores)} of --opacities for these rows; empty without.
    """

    settings: Settings
    run: RunFolder
    folder: JudgedFolder
    labels: Labels
    table: pd.DataFrame
    further_boxes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folds(self) -> list[int]:
        """The judged folds, in order."""
        return sorted(int(fold) for fold in self.table["fold"].unique())


class Scorer(ABC):
    """How answers are judged, what is searched, and the rule that params.json holds."""

    score_name: str
    score_meaning: str  # for someone who has never heard of it
    fit_choices: ClassVar[tuple[str, ...]] = ("folds",)  # values of --fit-on that make sense
    fit_refusal: ClassVar[str] = ""  # why the others make none
    # Settings of the method that only some scorers read.
    searched: ClassVar[tuple[str, ...]] = ()
    logged: tuple[str, ...] = ("metric",)  # what step 03 prints of `quick_score`
    of_studies: ClassVar[bool] = False  # what is judged is the mean over a study's images

    @abstractmethod
    def make_case(self, prediction: Any, row: pd.Series, fold: int) -> Any:
        """An out-of-fold image with its truth, from its row of train.csv."""

    @abstractmethod
    def evaluate(self, cases: Cases, judging: Judging) -> Evaluation:
        """The honest estimate, and the parameters for new images."""

    @abstractmethod
    def quick_score(
        self,
        predictions: Mapping[int, Any],
        table: pd.DataFrame,
        settings: Settings,
        labels: Labels,
    ) -> dict[str, float]:
        """{"metric": ..., ...} after an epoch, of quick predictions: for curves, not for claims."""

    @abstractmethod
    def make_rule(
        self, params: Mapping[str, Any] | None, settings: Settings, labels: Labels
    ) -> Rule:
        """The rule of params.json for new images, or the plainest one for None.

        Raises TypeError, LookupError or ValueError where params is something else.
        """
