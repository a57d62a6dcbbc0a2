"""Labels of any known form to the tables of step 02."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd

from cxr.data.image_table import NO_FINDING, ImageRow, Tables, make_image_table, note_count
from cxr.datasets.nih_patients import patient_by_name
from cxr.datasets.own.coco import read_coco
from cxr.datasets.own.images import OwnImage, OwnImages
from cxr.datasets.own.labels import BOXES, CLASSES, MASKS, Annotation, OwnLabels, summarise
from cxr.datasets.own.masks import read_masks
from cxr.datasets.own.presets import OwnSettings
from cxr.datasets.own.sheet import read_sheet
from cxr.datasets.own.source import TASK_NAMES, LabelSource, find_source, kind_of
from cxr.datasets.own.voc import read_voc
from cxr.datasets.own.yolo import read_yolo
from cxr.geometry.masks import EMPTY, decode_runs, find_outlines
from cxr.system.errors import InputError

OUTSIDE = "DICOM segmentation objects lie outside a folder masks/ and were left out"
MOST_NOTES = 20  # of one kind of file on the console
WITHOUT_LABEL = "images have no label: step 04 predicts them, for labelling (--without-label)"
PATIENT_FOLDER = re.compile(r"(patient|sub)[-_ ]?\d+")
COMMON_PATIENT = 0.5  # share of the images from which on a PatientID is no patient's


class OwnData(NamedTuple):
    """All that a folder holds. unlabelled: images without an annotation."""

    source: LabelSource
    labels: OwnLabels
    images: OwnImages
    unlabelled: list[OwnImage]

    @property
    def train(self) -> list[Annotation]:
        return [each for each in self.labels.annotations.values() if not is_test(each)]

    @property
    def test(self) -> list[Annotation]:
        return [each for each in self.labels.annotations.values() if is_test(each)]


def is_test(annotation: Annotation) -> bool:
    return annotation.is_test or annotation.image.is_in_test_folder


def read_own(folder: Path, working: Path, settings: OwnSettings, kind: str) -> OwnData:
    """Images and labels below a folder, for the task of this kind.

    Raises InputError for what is wrong, with file and line.
    """
    source = find_source(folder, settings.labels)
    check_kind(source, kind)
    images = OwnImages(folder, working)
    labels = read_labels(source, folder, images, settings, kind)
    seen = labels.annotations.keys() | labels.left_out
    unlabelled = [image for image in images.images if image.image_id not in seen]
    if settings.without_label == "negative":
        if kind == CLASSES and not labels.several:
            raise InputError(
                "--without-label negative: images have one of several classes, and none is said "
                "to be the negative one: name it in the labels"
            )
        for image in unlabelled:
            annotation = labels.of_image(image, "no label")
            annotation.findings = [0] * len(labels.classes)
        unlabelled = []
    note_count(labels.notes, len(unlabelled), WITHOUT_LABEL)
    note_count(labels.notes, images.segmentations, OUTSIDE)
    find_patients(labels, folder)
    return OwnData(source, labels, images, unlabelled)


def check_kind(source: LabelSource, kind: str) -> None:
    """Raises InputError where labels cannot be of the task's kind."""
    found = kind_of(source)
    if found == kind or (source.form == "coco" and CLASSES not in (found, kind)):
        return
    raise InputError(
        f"{source.describe()} holds {found}: use --task {TASK_NAMES[found]} (or own), or name "
        "other labels with --labels"
    )


def read_labels(
    source: LabelSource, folder: Path, images: OwnImages, settings: OwnSettings, kind: str
) -> OwnLabels:
    names = settings.class_names
    if source.form == "sheet":
        return read_sheet(source.paths[0], images, settings, kind)
    if source.form == "coco":
        return read_coco(source.paths, images, kind)
    if source.form == "yolo":
        return read_yolo(source.paths, folder, images, names)
    if source.form == "voc":
        return read_voc(source.paths, images, names)
    return read_masks(source.paths, images, names)


def find_patients(labels: OwnLabels, folder: Path) -> None:
    """The patient of each image: of the sheet, else the DICOM's PatientID, else a folder below
    `folder` such as patient00001, with a warning. Images that are called as the NIH calls them have
    its patients, whatever the sheet calls these, so that they are known in other data sets, too.

    An anonymous PatientID that most images share is none.
    """
    annotations = labels.annotations.values()
    stated = Counter(each.image.identity.patient for each in annotations)
    anonymous = {""}
    for patient, count in stated.items():
        if patient and count > max(2, COMMON_PATIENT * len(labels.annotations)):
            anonymous.add(patient)
            labels.notes.append(f"{count} images have the PatientID {patient}, which is no patient")
    for each in annotations:
        if not each.patient and each.image.identity.patient not in anonymous:
            each.patient = each.image.identity.patient
        if not each.patient:
            each.patient = patient_of_folder(each.image.path.relative_to(folder))
        each.patient = patient_by_name(each.image.image_id) or each.patient
    unknown = sum(not each.patient for each in annotations)
    if unknown:
        labels.notes.append(
            f"WARNING: of {unknown} images the patient is not known (--patient-column, or the "
            "DICOM's PatientID), so images of one patient may fall in different folds, and the "
            "score is flattered"
        )


def patient_of_folder(path: Path) -> str:
    """The lowest folder of a path that is called like a patient, as in CheXpert; "" without one.

    path: below the data set's folder.
    """
    for part in reversed(path.parts[:-1]):
        if PATIENT_FOLDER.fullmatch(part.lower()):
            return part
    return ""


# ------------------------------------------------------------------------------- tables


def make_tables(data: OwnData) -> Tables:
    """Tables of step 02; images without labels are among the test images."""
    labels = data.labels
    if not data.train:
        raise InputError(
            f"{data.source.describe()}: all labelled images are of the test set, and none is left "
            "to learn from"
        )
    train = table_of(data.train, labels)
    test = table_of(data.test, labels)
    unlabelled = [ImageRow(image.image_id, image.path) for image in data.unlabelled]
    if unlabelled:
        rows = make_image_table(unlabelled).assign(mask="", findings="[]", mask_known=False)
        test = pd.concat([test, rows[test.columns]], ignore_index=True)
    return Tables(train, test, summarise(labels.notes, MOST_NOTES))


def table_of(annotations: list[Annotation], labels: OwnLabels) -> pd.DataFrame:
    annotations = sorted(annotations, key=lambda each: each.image.image_id)
    rows = [ROWS[labels.kind](each, labels) for each in annotations]
    table = make_image_table(rows)
    if labels.kind == MASKS:
        masks = [each.mask or EMPTY for each in annotations]
        table = table.assign(mask=pd.Series(masks, dtype=str))
    if labels.kind == CLASSES:
        texts = [json.dumps(list(each.findings)) for each in annotations]
        table = table.assign(findings=pd.Series(texts, dtype=str), mask_known=True)
    return table


def row_of_boxes(each: Annotation, labels: OwnLabels) -> ImageRow:
    names = sorted({labels.classes[label] for label in each.labels})
    return ImageRow(
        each.image.image_id,
        each.image.path,
        group=each.patient,
        stratum="|".join(names) or NO_FINDING,
        boxes=each.boxes,
        box_labels=each.labels,
        label=int(bool(each.boxes)),
    )


def row_of_mask(each: Annotation, labels: OwnLabels) -> ImageRow:
    """With a box about each part of the mask, for the pictures."""
    boxes: list[list[float]] = []
    has_mask = each.mask not in ("", EMPTY)
    if has_mask:
        identity = each.image.identity
        for outline in find_outlines(decode_runs(each.mask, identity.height, identity.width)):
            x, y, width, height = cv2.boundingRect(outline)
            boxes.append([x, y, x + width, y + height])
    return ImageRow(
        each.image.image_id,
        each.image.path,
        group=each.patient,
        stratum=labels.classes[0] if has_mask else NO_FINDING,
        boxes=boxes,
        label=int(has_mask),
    )


def row_of_classes(each: Annotation, labels: OwnLabels) -> ImageRow:
    names = [name for name, found in zip(labels.classes, each.findings, strict=True) if found]
    label = int(np.argmax(each.findings))
    if labels.several:
        label = int(any(each.findings))
    return ImageRow(
        each.image.image_id,
        each.image.path,
        group=each.patient,
        stratum="|".join(names) or NO_FINDING,
        label=label,
    )


ROWS = {BOXES: row_of_boxes, MASKS: row_of_mask, CLASSES: row_of_classes}
