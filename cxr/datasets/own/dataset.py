"""Images and labels of one's own: boxes, masks or classes, in the forms that people keep them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from cxr.data.image_table import NO_FINDING, Tables
from cxr.datasets.base import Answer, AnswerRequest, Dataset
from cxr.datasets.own import answers
from cxr.datasets.own.check import say_what_is_there
from cxr.datasets.own.files import OwnData, make_tables, read_own
from cxr.datasets.own.labels import BOXES, CLASSES, MASKS
from cxr.datasets.own.plan import describe_plan, make_plan
from cxr.datasets.own.source import TASK_NAMES
from cxr.datasets.own.synthetic import write_own
from cxr.methods.base import Labels, Scorer
from cxr.methods.classifier.image_scorer import ImageAP
from cxr.methods.detector.class_scorer import ClassAP
from cxr.methods.segmenter.scorer import Dice
from cxr.run_folder import TaskFolder
from cxr.settings import Settings
from cxr.system.disk import read_json, write_json

FINDING = "Finding"


class OwnDataset(Dataset):
    """What the three have in common. kind: what the labels are of."""

    kind: ClassVar[str]
    draws_its_classes = False
    slug = ""  # --input is the folder itself
    image_classes = (NO_FINDING, FINDING)
    classes = ()
    expected_files = ()
    answer_name = "results"
    terms = "Images and labels of one's own: their terms are known to whoever trained the run."

    def labels_of(self, settings: Settings) -> Labels:
        """As --class-names, the run's record or the plan of step 02 has them; before that one
        class stands for all."""
        return self.name_labels(settings.dataset.class_names or (FINDING,))

    def name_labels(self, names: tuple[str, ...]) -> Labels:
        """Of these names, as the method calls them."""
        return Labels(names, self.image_classes)

    def folder_name(self, demo: bool) -> str:
        return TASK_NAMES[self.kind] if demo else ""

    def read(self, folder: Path, settings: Settings) -> OwnData:
        return read_own(folder, settings.place.working, settings.dataset, self.kind)

    def read_tables(self, folder: Path, settings: Settings) -> Tables:
        return make_tables(self.read(folder, settings))

    def table_settings(self, settings: Settings) -> dict[str, Any]:
        names = ("labels", "id_column", "label_columns", "patient_column", "without_label")
        values = {name: getattr(settings.dataset, name) for name in names}
        return values | {"label_columns": list(settings.dataset.label_columns)}

    def only_checks(self, source: Path, settings: Settings) -> bool:
        if not settings.dataset.check:
            return False
        say_what_is_there(self.read(source, settings), TaskFolder.of(settings.place).path)
        return True

    def plan(self, source: Path, settings: Settings) -> None:
        """Choose settings, unless that was done for these tables, and say them with reasons."""
        folder = TaskFolder.of(settings.place)
        if folder.preprocess_record.exists() and folder.plan.exists():
            plan = read_json(folder.plan)
        else:
            data = self.read(source, settings)
            patients = [each.patient for each in data.train]
            plan = make_plan(data.labels, patients, settings)
            folder.path.mkdir(parents=True, exist_ok=True)
            write_json(folder.plan, plan)
        print("\n".join(describe_plan(plan, settings.given)))

    def unlabelled_rows(self, test: pd.DataFrame) -> pd.DataFrame:
        return test[test["label"] < 0]

    def write_synthetic(self, folder: Path, n_train: int) -> bool:
        return write_own(folder, self.kind, n_train=n_train)


class OwnBoxes(OwnDataset):
    kind = BOXES
    title = "Own boxes"

    @cached_property
    def scorer(self) -> Scorer:
        return ClassAP(iou=0.5)

    def write_answer(self, request: AnswerRequest) -> Answer:
        return answers.write_box_answer(request)


class OwnMasks(OwnDataset):
    kind = MASKS
    title = "Own masks"
    finding = ("region", "regions")

    @cached_property
    def scorer(self) -> Scorer:
        return Dice(
            "For each image twice the pixels that the predicted and the marked area share, divided "
            "by the sum of both areas; 1 where nothing is marked and nothing predicted, 0 where "
            "only one is empty. 1 is perfect.",
            logged=("metric", "all_empty", "dice_positive"),
        )

    def name_labels(self, names: tuple[str, ...]) -> Labels:
        return Labels(names, (f"No {names[0]}", names[0]))

    def write_answer(self, request: AnswerRequest) -> Answer:
        return answers.write_mask_answer(request)


class OwnClasses(OwnDataset):
    kind = CLASSES
    title = "Own classes"
    finding = ("class", "classes")

    @cached_property
    def scorer(self) -> Scorer:
        return ImageAP()

    def name_labels(self, names: tuple[str, ...]) -> Labels:
        return Labels((), names)

    def overview_labels(self, settings: Settings) -> Labels:
        """Several classes may hold together, and a diagram of images shows one each."""
        if settings.method.multilabel:
            return Labels((), (NO_FINDING, FINDING))
        return self.labels_of(settings)

    def select_rows(self, table: pd.DataFrame, labels: Labels) -> pd.DataFrame:
        """With the findings as what is to be learned of each class."""
        del labels
        return table.assign(soft=table["findings"])

    def write_answer(self, request: AnswerRequest) -> Answer:
        return answers.write_class_answer(request)
