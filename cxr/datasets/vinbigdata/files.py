"""VinBigData Chest X-ray Abnormalities on disk: what three readers marked in, submission out.

https://www.kaggle.com/competitions/vinbigdata-chest-xray-abnormalities-detection/data
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from ensemble_boxes import weighted_boxes_fusion

from cxr.data import image_table
from cxr.data.image_table import ImageRow, Tables, make_image_table
from cxr.datasets import prediction_strings as strings
from cxr.datasets.mirrors import image_ending, read_originals, with_original_sizes
from cxr.datasets.submission_ids import check_ids
from cxr.geometry.detections import Detections, TrueBoxes
from cxr.system.errors import InputError
from cxr.system.tables import read_csv, to_numbers

FINDINGS = (
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Consolidation",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Nodule/Mass",
    "Other lesion",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
)
LABEL_WORDS = tuple(str(label) for label in range(len(FINDINGS)))  # of a submission
NO_FINDING = len(FINDINGS)  # as class_id
NOTHING_FOUND = f"{NO_FINDING} 1 0 0 1 1"
CLASSES = (image_table.NO_FINDING, "Finding")
ENDING = ".dicom"  # of the competition's images; a mirror's are PNG or JPEG
CORNERS = ["x_min", "y_min", "x_max", "y_max"]
SAME_FINDING_IOU = 0.4  # from which on the competition takes two boxes for the same finding


def read_vinbigdata(input_dir: Path, fuse: bool) -> Tables:
    """Tables of the folder input/<slug>; each image is its own group, as no patients are known.

    fuse: whether the boxes of the readers are fused, or all of them kept. Raises InputError where
    a file is missing or a label makes no sense.
    """
    input_dir = Path(input_dir)
    notes: list[str] = []
    marks = read_marks(input_dir / "train.csv")
    by_image = dict(list(marks.groupby("image_id")))
    image_folder = input_dir / "train"
    ending = image_ending(image_folder, ENDING)
    files = image_table.find_listed_files(image_folder, ending, by_image, notes)
    if not files:
        present = image_table.list_files(image_folder, ending)
        remedy = "unpack the data there"
        raise image_table.no_image_of("train.csv", by_image, str(image_folder), present, remedy)
    rows = []
    for image_id, path in files.items():
        readings = [boxes_of(rows) for _, rows in by_image[image_id].groupby("rad_id")]
        truth = fuse_readings(readings) if fuse else boxes_of(by_image[image_id])
        rows.append(image_table.findings_row(image_id, path, truth, FINDINGS))
    ids = read_sample_order(input_dir)
    ending = image_ending(input_dir / "test", ENDING)
    test_files = image_table.find_listed_files(input_dir / "test", ending, ids, notes)
    test_rows = [ImageRow(image_id, path) for image_id, path in test_files.items()]
    facts = read_originals(input_dir)
    train = with_original_sizes(make_image_table(rows), facts, input_dir, notes)
    test = with_original_sizes(make_image_table(test_rows), facts, input_dir, notes)
    return Tables(train, test, notes)


def read_marks(path: Path) -> pd.DataFrame:
    """Rows of train.csv: image_id, rad_id, class_id (int) and CORNERS in original pixels."""
    table = read_csv(path, ["image_id", "rad_id", "class_id", *CORNERS])
    numbers = to_numbers(table[["class_id", *CORNERS]])
    is_finding = numbers["class_id"].isin(range(NO_FINDING))
    is_box = numbers[CORNERS].notna().all(axis=1)
    wrong = (numbers["class_id"] != NO_FINDING) & ~(is_finding & is_box)
    if wrong.any():
        raise InputError(
            f"{path} has {wrong.sum()} rows without a known class_id or without a box (the first "
            f"is of {table['image_id'][wrong].iloc[0]}): download it again"
        )
    return table.assign(**numbers.astype({"class_id": int}))


def boxes_of(marks: pd.DataFrame) -> TrueBoxes:
    """Boxes and labels of some rows of `read_marks`."""
    findings = marks[marks["class_id"] != NO_FINDING]
    return TrueBoxes(findings[CORNERS].to_numpy(float), findings["class_id"].to_numpy(int))


def fuse_readings(readings: list[TrueBoxes]) -> TrueBoxes:
    """Boxes of one image; those of a class that overlap are averaged over the readers."""
    # The fusion wants corners in 0 ... 1. The size of the image is not known, and does not matter.
    scale = max(reading.boxes.max(initial=1.0) for reading in readings)
    boxes, _, labels = weighted_boxes_fusion(
        [reading.boxes / scale for reading in readings],
        [np.ones(len(reading.boxes)) for reading in readings],
        [reading.labels for reading in readings],
        iou_thr=SAME_FINDING_IOU,
    )
    return TrueBoxes(np.reshape(boxes, (-1, 4)) * scale, np.asarray(labels, int))


def read_sample_order(input_dir: Path) -> list[str]:
    """Ids of the sample submission, in its order."""
    return list(read_csv(input_dir / "sample_submission.csv", ["image_id"])["image_id"])


def format_vinbigdata_submission(ids: list[str], answers: Mapping[str, Detections]) -> pd.DataFrame:
    """Table image_id, PredictionString in the order of the ids, boxes in original pixels.

    An image without boxes, or without an answer, is said to show no finding.
    """
    rows = []
    for image_id in ids:
        detections = answers.get(image_id, Detections.empty())
        text = strings.format_predictions(detections, LABEL_WORDS)
        rows.append((image_id, text or NOTHING_FOUND))
    return pd.DataFrame(rows, columns=["image_id", "PredictionString"], dtype=str)


def read_vinbigdata_submission(path: Path) -> pd.DataFrame:
    """image_id and PredictionString of a submission file, as text."""
    columns = ["image_id", "PredictionString"]
    return read_csv(path, columns, may_be_empty=True, remedy="repair it").fillna("")


def parse_findings(text: str) -> Detections:
    """The boxes of a PredictionString without "no finding". ValueError where it is malformed."""
    answer = strings.parse_predictions(text, [*LABEL_WORDS, NOTHING_FOUND.split()[0]])
    return answer.take(answer.labels < len(LABEL_WORDS))


def check_vinbigdata_submission(table: pd.DataFrame, ids: list[str]) -> None:
    """Raises InputError naming the first image whose row is missing, misplaced or malformed."""
    check_ids(list(table["image_id"]), ids)
    for image_id, text in zip(table["image_id"], table["PredictionString"], strict=True):
        if text == NOTHING_FOUND:
            continue
        try:
            answer = strings.parse_predictions(text, LABEL_WORDS)
        except ValueError as error:
            raise InputError(f"the submission is wrong for {image_id}: {error}") from None
        fault = strings.find_box_fault(answer.boxes, answer.scores, np.inf, np.inf)
        if fault or not len(answer):
            raise InputError(f"the submission is wrong for {image_id}: {fault or 'it is empty'}")
