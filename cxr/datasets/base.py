"""What a data set must say: facts and files. It imports no network and no step.

A new one is a folder with one such class (docs/add_a_dataset.md shows it).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from cxr.data.image_table import Tables
from cxr.methods.base import Judging, Labels, Scorer
from cxr.methods.evaluation import Boxes, Evaluation
from cxr.metrics.doubt import Doubt
from cxr.settings import Settings
from cxr.system.errors import InputError


@dataclass
class AnswerRequest:
    """What step 05 hands over for the answer to be written.

    answers: {image_id: what the rule says of a test image}, or None without test predictions.
    cases: yields the out-of-fold cases. judging: settings, run folder, labels, judged rows.
    further_boxes: of --opacities for the test images. doubts: {image_id: how doubtful the answer
    is} of `unlabelled_rows`. warnings: sentences for the report, to be added to.
    """

    answers: Mapping[str, Any] | None
    cases: Callable[[], Iterator[Any]]
    evaluation: Evaluation
    judging: Judging
    further_boxes: Mapping[str, Any] = field(default_factory=dict)
    doubts: Mapping[str, Doubt] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    """What was written: path (None if nothing, with the reason), further entries of results.json.

    true, predicted: what is marked in the test images, where that is known, and what was answered,
    for the pictures of the report.
    """

    path: Path | None
    results: Mapping[str, Any] = field(default_factory=dict)
    reason: str = "test predictions are missing"
    true: Boxes = field(default_factory=Boxes)
    predicted: Boxes = field(default_factory=Boxes)


class Dataset(ABC):
    """Base of the data sets."""

    slug: ClassVar[str]  # Kaggle's, and the name of its folder in input/
    title: ClassVar[str]  # for the report
    terms: ClassVar[str]  # one sentence for the model card: source, and under which terms
    image_classes: ClassVar[tuple[str, ...]]
    classes: ClassVar[tuple[str, ...]]  # of boxes or masks
    expected_files: ClassVar[tuple[str, ...]]  # without which it is not there
    by_hand: ClassVar[str] = ""  # where it comes from if not from Kaggle; {folder} is filled in
    archives: ClassVar[tuple[str, ...]] = ()  # names of its zips, which step 01 unpacks
    zip_bytes: ClassVar[int] = 0
    extracted_bytes: ClassVar[int] = 0
    takes_submissions: ClassVar[bool] = False
    answer_name: ClassVar[str]  # what step 05 calls the answer: submission, results
    finding: ClassVar[tuple[str, str]] = ("box", "boxes")  # what the report calls a mark
    draws_its_classes: ClassVar[bool] = True  # whether the drawn X-rays show its own classes
    groups_by_picture: ClassVar[bool] = False  # whether `group_rows` needs the stored pictures
    box_task: ClassVar[str] = ""  # the task whose runs --opacities names
    gate_task: ClassVar[str] = ""  # the task whose runs --gate names

    @property
    @abstractmethod
    def scorer(self) -> Scorer:
        """How answers are judged."""

    def folder_name(self, demo: bool) -> str:
        """Name of its folder below --input; `demo`: of the drawn one."""
        del demo
        return self.slug

    @property
    def labels(self) -> Labels:
        return Labels(self.classes, self.image_classes)

    def labels_of(self, settings: Settings) -> Labels:
        """What its labels are called. Here always the same."""
        del settings
        return self.labels

    def overview_labels(self, settings: Settings) -> Labels:
        """The labels as the overview of step 02 counts images. Here: as they are."""
        return self.labels_of(settings)

    def only_checks(self, source: Path, settings: Settings) -> bool:
        """Before step 02: say what the labels are and return True, where that is all it is to do.
        Here: False."""
        del source, settings
        return False

    def plan(self, source: Path, settings: Settings) -> None:
        """Before step 02: choose settings from the data. Here: none are."""
        del source, settings

    @abstractmethod
    def read_tables(self, folder: Path, settings: Settings) -> Tables:
        """Labelled and test images. Raises InputError, with file and line."""

    def table_settings(self, settings: Settings) -> dict[str, Any]:
        """The settings by which `read_tables` chooses rows; a task folder holds one value each."""
        del settings
        return {}

    def group_rows(self, table: pd.DataFrame, folder: Path, notes: list[str]) -> pd.DataFrame:
        """The converted rows with groups that no fold may divide; `folder` is working/<task>.

        Asked only where `groups_by_picture`; else the column `group` of `read_tables` serves.
        """
        raise NotImplementedError(f"{self.slug} needs no pictures to group its rows")

    def public_names(self, folder: Path) -> dict[str, str]:
        """{image_id: name, without ending, in the public set that the image comes from}.

        `folder` is input/<slug>. So nothing is learned of an image under another name. Here: none
        is known.
        """
        del folder
        return {}

    def select_rows(self, table: pd.DataFrame, labels: Labels) -> pd.DataFrame:
        """The rows that are learned and judged, after the method's own choice. Here: all."""
        del labels
        return table

    def unlabelled_rows(self, test: pd.DataFrame) -> pd.DataFrame:
        """The rows of test.csv that somebody may label next: step 04 keeps what each fold alone
        says of them, and step 05 says how doubtful they are. Here: none."""
        return test.iloc[:0]

    @abstractmethod
    def write_answer(self, request: AnswerRequest) -> Answer:
        """Write the answer, read it back and check it before it counts as written."""

    def read_answers(self, path: Path, table: pd.DataFrame) -> Mapping[str, Any]:
        """{image_id: what a rule would say} of a file of other people's predictions.

        The form is that of the submission, or COCO's results (.json). table: image_id and further
        facts of the labelled and the test images. Raises InputError, with the file and the id.
        """
        del table
        raise InputError(
            f"--blend-csv {path}: the answers of {self.title} are not read from files; blend runs"
        )

    @abstractmethod
    def write_synthetic(self, folder: Path, n_train: int) -> bool:
        """The same layout with drawn X-rays; False if it is there already."""
