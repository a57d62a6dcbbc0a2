"""The images that a fold learns beside its labelled ones: --pseudo, of test or external images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pandas as pd

from cxr.data.external_images import prepare_external, set_name, usable_rows
from cxr.data.loader import count_workers
from cxr.data.tables import read_table
from cxr.data.weak_labels import WeakLabels, parse_columns, read_weak_labels
from cxr.inference.predict_table import predict_external_by_fold, predict_test_by_fold
from cxr.methods.pseudo_labels import describe_rows
from cxr.run_folder import RunFolder, TaskFolder
from cxr.settings import Settings
from cxr.system.disk import read_json
from cxr.system.runtime import Runtime
from cxr.tasks import Task


@dataclass(frozen=True)
class FoldTables:
    """The rows that a fold learns, pseudo labels among them, and those that it is judged on."""

    train: pd.DataFrame
    valid: pd.DataFrame


@dataclass(frozen=True, eq=False)
class ExternalSet:
    """Images of a folder that may be learned.

    table: image_id, path, width, height, group. weak: {image_id: {finding: value}} of those that a
    table of labels knows.
    """

    name: str
    table: pd.DataFrame
    weak: dict[str, dict[str, int]]


def with_pseudo_labels(
    task: Task, settings: Settings, tables: FoldTables, fold: int, runtime: Runtime
) -> pd.DataFrame:
    """The rows that a fold learns, and what the run of --pseudo says of further images.

    It is asked for its models of the same fold alone. External images of patients of the
    validation images are left out, too.
    """
    teacher = settings.replace(run=settings.method.pseudo, merge=()).without_given()
    labels = task.used_labels(settings)
    method = task.method
    if not settings.method.external:
        predictions = predict_test_by_fold(task, teacher, fold, runtime)
        return method.add_pseudo_labels(tables.train, predictions, {}, settings, labels)

    sets = open_external(task, settings, runtime)
    held_out = set(tables.valid["group"])
    weak: dict[str, dict[str, int]] = {}
    allowed: dict[str, str] = {}  # {image_id: source}
    for each in sets:
        weak |= each.weak
        free = each.table[~each.table["group"].isin(held_out)]
        left_out = len(each.table) - len(free)
        if left_out:
            runtime.say(
                f"fold {fold}: {left_out} images of {each.name} are of patients of its validation "
                "images and are left out"
            )
        allowed |= dict.fromkeys(free["image_id"], each.name)
    predictions = predictions_of(task, teacher, sets, fold, allowed, runtime)
    train = method.add_pseudo_labels(tables.train, predictions, weak, settings, labels)
    sources = train["image_id"].map(allowed)
    train["source"] = sources.where(train["pseudo"], train["source"])
    runtime.say(f"fold {fold}: --external adds {describe_rows(train)}")
    return train


def predictions_of(
    task: Task,
    teacher: Settings,
    sets: Sequence[ExternalSet],
    fold: int,
    allowed: dict[str, str],
    runtime: Runtime,
) -> Iterator[Any]:
    """Yield what the teacher's models of a fold say of the allowed images of all sets."""
    for each in sets:
        predictions = predict_external_by_fold(task, teacher, fold, each.name, each.table, runtime)
        for prediction in predictions:
            if prediction.image_id in allowed:
                yield prediction


def open_external(task: Task, settings: Settings, runtime: Runtime) -> list[ExternalSet]:
    """The sets of --external: stored where they are not yet, without the task's own images."""
    folder = RunFolder.of(settings.place).task
    own_ids = task_image_ids(folder)
    own_names = public_names(task, folder, own_ids)
    findings = task.method.weak_findings(task.used_labels(settings))
    files = read_label_files(settings, findings)
    workers = count_workers(settings.machine.workers)
    sets = []
    for word in settings.method.external:
        name = set_name(Path(word))
        table = prepare_external(
            Path(word), folder, own_ids, stored_size(folder, settings), workers
        )
        matched = match_labels(table, files)
        lateral = np.array([row is not None and row.is_lateral for row in matched], bool)
        kept, reasons = usable_rows(table, own_names, lateral)
        weak = {}
        for image_id, row in zip(table["image_id"], matched, strict=True):
            if row is not None:
                weak[image_id] = row.findings()
        sets.append(ExternalSet(name, kept, weak))
        runtime.say(describe_set(word, table, kept, weak, reasons))
    return sets


@dataclass(frozen=True)
class LabelRow:
    """A row of a table of labels."""

    labels: WeakLabels
    row: int

    @property
    def is_lateral(self) -> bool:
        return bool(self.labels.lateral[self.row])

    def findings(self) -> dict[str, int]:
        """{finding: POSITIVE, NEGATIVE or UNCERTAIN}."""
        return {name: int(values[self.row]) for name, values in self.labels.findings.items()}


def match_labels(table: pd.DataFrame, files: Sequence[WeakLabels]) -> list[LabelRow | None]:
    """For each row of a table the first file's row that knows its image, or None."""
    matched: list[LabelRow | None] = []
    for path in table["path"]:
        matched.append(find_label_row(PurePath(path), files))
    return matched


def find_label_row(path: PurePath, files: Sequence[WeakLabels]) -> LabelRow | None:
    for labels in files:
        row = labels.row_of(path)
        if row is not None:
            return LabelRow(labels, row)
    return None


def read_label_files(settings: Settings, findings: Sequence[str]) -> list[WeakLabels]:
    """What the files of --external-labels say."""
    columns = parse_columns(settings.method.external_columns)
    files = []
    for word in settings.method.external_labels:
        files.append(read_weak_labels(Path(word), columns, findings))
    return files


def describe_set(
    word: str, table: pd.DataFrame, kept: pd.DataFrame, weak: dict, reasons: Counter[str]
) -> str:
    """A sentence about an external folder."""
    sentence = f"--external {word}: {len(table)} images, {len(kept)} of them to learn from"
    for reason, count in reasons.items():
        sentence += f"; {count} {reason}"
    if weak:
        sentence += f"; {len(weak)} have labels"
    return sentence


def task_image_ids(folder: TaskFolder) -> list[str]:
    """Ids of the task's own images, labelled and test."""
    ids: list[str] = []
    for name in ("train", "test"):
        ids += read_table(folder.table(name))["image_id"].tolist()
    return ids


def public_names(task: Task, folder: TaskFolder, own_ids: Sequence[str]) -> frozenset[str]:
    """What the task's images are called in the public set that they come from, where known."""
    if not folder.preprocess_record.exists():
        return frozenset()
    source = Path(read_json(folder.preprocess_record)["input"])
    names = task.dataset.public_names(source)
    return frozenset(names[image_id] for image_id in own_ids if image_id in names)


def stored_size(folder: TaskFolder, settings: Settings) -> int:
    """Side in pixels of the task's stored pictures."""
    if folder.preprocess_record.exists():
        return int(read_json(folder.preprocess_record)["size"])
    return settings.data.size
