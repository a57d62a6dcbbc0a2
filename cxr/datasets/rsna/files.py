"""RSNA Pneumonia Detection on disk: tables in, submission out.

https://www.kaggle.com/competitions/rsna-pneumonia-detection-challenge/data
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from cxr.data.image_table import (
    ImageRow,
    Tables,
    find_listed_files,
    list_files,
    make_image_table,
    no_image_of,
    note_count,
)
from cxr.datasets.nih_patients import find_mapping, group_by_nih_patient, read_public_names
from cxr.datasets.prediction_strings import find_box_fault
from cxr.datasets.submission_ids import check_ids
from cxr.system.disk import read_json
from cxr.system.errors import InputError
from cxr.system.tables import read_csv, to_numbers

CLASSES = ("Normal", "No Lung Opacity / Not Normal", "Lung Opacity")
BOX_CLASSES = ("Lung Opacity",)
IMAGE_SIZE = 1024  # pixels, of every image of the competition
LABELS = "stage_2_train_labels.csv"
CLASS_INFO = "stage_2_detailed_class_info.csv"
SAMPLE = "stage_2_sample_submission.csv"
TRAIN_IMAGES = "stage_2_train_images"
TEST_IMAGES = "stage_2_test_images"
# Published by RSNA beside the images; the second is the same facts as a csv file.
MAPPING_JSON = "pneumonia-challenge-dataset-mappings_2018.json"
MAPPING_CSV = "nih_mapping.csv"
# The 1,000 training images that were the first stage's test images: stage-2 ids minus stage-1 ids.
# They are labelled like the final test (three readers, intersection), with smaller boxes, so sizes
# and thresholds are tuned on them.
TEST_LIKE_IDS = Path(__file__).with_name("testlike_ids.txt")


class Annotations(NamedTuple):
    """boxes: {image_id: [[x1, y1, x2, y2], ...]}; targets: Series image_id -> 0 or 1."""

    boxes: dict[str, list[list[float]]]
    targets: pd.Series


class ScoredBoxes(NamedTuple):
    """Boxes (n, 4) x1 y1 x2 y2 in original pixels and scores (n,) in 0 ... 1."""

    boxes: np.ndarray
    scores: np.ndarray


# ------------------------------------------------------------------------------- tables


def read_rsna(input_dir: Path) -> Tables:
    """Tables of the folder input/<slug>, with the further column test_like.

    A row for each image file, sorted by image_id (test in the order of the sample submission).
    Patients are groups where a mapping is there. Raises InputError where a file or column is
    missing.
    """
    input_dir = Path(input_dir)
    notes: list[str] = []
    annotations = read_annotations(input_dir / LABELS, notes)
    labels = read_classes(input_dir / CLASS_INFO, annotations.targets, notes)
    files = find_listed_files(input_dir / TRAIN_IMAGES, ".dcm", labels.index, notes)
    if not files:
        image_folder = input_dir / TRAIN_IMAGES
        present = list_files(image_folder, ".dcm")
        remedy = "run 01_download.py again"
        raise no_image_of(LABELS, labels.index, str(image_folder), present, remedy)
    patients = read_patients(input_dir, files, notes)
    sample = read_rsna_sample(input_dir, notes)
    test_files = find_listed_files(input_dir / TEST_IMAGES, ".dcm", sample["patientId"], notes)

    train_rows = []
    for image_id, path in files.items():
        label = int(labels[image_id])
        row = ImageRow(
            image_id,
            path,
            group=patients.get(image_id, ""),
            stratum=CLASSES[label],
            boxes=annotations.boxes.get(image_id, []),
            label=label,
        )
        train_rows.append(row)
    test_patients = read_patients(input_dir, test_files, [])
    test_rows = []
    for image_id, path in test_files.items():
        test_rows.append(ImageRow(image_id, path, group=test_patients.get(image_id, "")))
    train = mark_test_like(make_image_table(train_rows))
    test = mark_test_like(make_image_table(test_rows))
    return Tables(train, test, notes)


def mark_test_like(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the column test_like: whether an image is labelled like the test images."""
    test_like = TEST_LIKE_IDS.read_text(encoding="ascii").split()
    return table.assign(test_like=table["image_id"].isin(test_like))


def read_annotations(path: Path, notes: list[str]) -> Annotations:
    """Boxes and targets of the label file. Boxes of no size are left out, with a note."""
    columns = ["x", "y", "width", "height", "Target"]
    table = read_csv(path, ["patientId", *columns])
    numbers = to_numbers(table[columns])
    is_text = (numbers.isna() & table[columns].notna()).any(axis=1)
    unreadable = is_text | ~numbers["Target"].isin([0, 1])
    if unreadable.any():
        raise InputError(
            f"{path} has {unreadable.sum()} rows with something else than numbers (the first is of "
            f"{table['patientId'][unreadable].iloc[0]}): download it again"
        )
    positive = numbers["Target"] == 1
    placed = np.isfinite(numbers[["x", "y"]]).all(axis=1)
    sized = placed & (numbers["width"] > 0) & (numbers["height"] > 0)
    sizeless = int((positive & ~sized).sum())
    note_count(notes, sizeless, f"boxes of {LABELS} have no size and were left out")

    kept = positive & sized
    x, y, width, height = numbers.loc[kept, ["x", "y", "width", "height"]].to_numpy().T
    corners = np.stack([x, y, x + width, y + height], axis=1).tolist()
    boxes: dict[str, list[list[float]]] = {}
    for image_id, box in zip(table["patientId"][kept], corners, strict=True):
        boxes.setdefault(image_id, []).append(box)
    return Annotations(boxes, numbers["Target"].groupby(table["patientId"]).max())


def read_classes(path: Path, targets: pd.Series, notes: list[str]) -> pd.Series:
    """Series image_id -> index into CLASSES, sorted by id, for the ids of `targets`.

    targets: Series image_id -> 0 or 1. They say only opacity or not, so without this table two of
    the three classes could not be told apart.
    """
    table = read_csv(path, ["patientId", "class"]).drop_duplicates("patientId")
    unknown = set(table["class"].dropna()) - set(CLASSES)
    if unknown:
        raise InputError(
            f"{path} has the unknown class {sorted(unknown)[0]!r}: known are {', '.join(CLASSES)}"
        )
    names = table.dropna().set_index("patientId")["class"]
    labels = names.map(CLASSES.index).sort_index()
    classless = len(targets.index.difference(labels.index))
    note_count(notes, classless, f"images have no class in {CLASS_INFO} and were left out")
    targetless = len(labels.index.difference(targets.index))
    note_count(notes, targetless, f"images of {CLASS_INFO} are not in {LABELS}, left out")

    is_known = labels.index.isin(targets.index)
    if not is_known.any():
        raise no_image_of(LABELS, targets.index, str(path), labels.index, "download both again")
    labels = labels[is_known]
    is_opacity = labels == CLASSES.index("Lung Opacity")
    contradictions = int((is_opacity != (targets[labels.index] == 1)).sum())
    note_count(
        notes,
        contradictions,
        f"images have a class in {CLASS_INFO} that contradicts Target in {LABELS}",
    )
    return labels


def read_patients(input_dir: Path, image_ids: Collection[str], notes: list[str]) -> dict[str, str]:
    """{image_id: NIH patient as group}, as far as a mapping in input/<slug>/ or input/ tells."""
    path = find_mapping(input_dir, (MAPPING_JSON, MAPPING_CSV))
    if path is None:
        notes.append(
            f"no patient mapping ({MAPPING_JSON} or {MAPPING_CSV}) found in {input_dir}: folds are "
            "by patientId, so images of one patient may fall in different folds"
        )
        return {}
    return group_by_nih_patient(image_ids, read_rsna_mapping(path), path, notes)


def read_rsna_names(input_dir: Path) -> dict[str, str]:
    """{image_id: the NIH's name without ending}, as far as a mapping tells."""
    path = find_mapping(input_dir, (MAPPING_JSON, MAPPING_CSV))
    if path is None or path.suffix == ".csv":
        return read_public_names(path, ("patientId", "nih_image"))
    return {
        entry["subset_img_id"]: Path(entry["img_id"]).stem for entry in read_mapping_entries(path)
    }


def read_rsna_mapping(path: Path) -> dict[str, str]:
    """{image_id: NIH patient, "" where it is unknown} of either form of the mapping."""
    if path.suffix == ".csv":
        table = read_csv(path, ["patientId", "nih_patient_id"]).fillna("")
        return dict(zip(table["patientId"], table["nih_patient_id"], strict=True))
    patients = {}
    for entry in read_mapping_entries(path):
        patients[entry["subset_img_id"]] = entry["img_id"].split("_")[0]
    return patients


def read_mapping_entries(path: Path) -> list[dict[str, str]]:
    """The entries of MAPPING_JSON, with subset_img_id and img_id. Raises InputError."""
    entries = []
    try:
        for entry in read_json(path):
            names = {"subset_img_id": entry["subset_img_id"], "img_id": entry["img_id"]}
            names["img_id"].split("_")
            entries.append(names)
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path} is not a list of entries with subset_img_id and img_id ({error!r}): "
            "download it again or remove it"
        ) from None
    return entries


# ------------------------------------------------------------------------------- submission


def read_rsna_sample(input_dir: Path, notes: list[str] | None = None) -> pd.DataFrame:
    """The sample submission, whose ids and order a submission must have.

    Made of the test files where it is missing, which is noted.
    """
    if (input_dir / SAMPLE).is_file():
        return read_rsna_submission(input_dir / SAMPLE)
    ids = sorted(list_files(input_dir / TEST_IMAGES, ".dcm"))
    if notes is not None:
        notes.append(
            f"no {SAMPLE} in {input_dir}: the {len(ids)} files of {TEST_IMAGES} are the test set"
        )
    return pd.DataFrame({"patientId": ids, "PredictionString": ""}, dtype=str)


def read_rsna_submission(path: Path) -> pd.DataFrame:
    """The submission file as a table of text, blank predictions as ""."""
    columns = ["patientId", "PredictionString"]
    return read_csv(Path(path), columns, may_be_empty=True).fillna("")


def format_rsna_submission(
    ids: Sequence[str], predictions: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> pd.DataFrame:
    """Table patientId, PredictionString in the order of the ids.

    predictions: {image_id: (boxes (n, 4) x1 y1 x2 y2 in original pixels, scores (n,) in 0 ... 1)};
    an id that is absent has no boxes.
    """
    nothing = (np.zeros((0, 4)), np.zeros(0))
    strings = []
    for image_id in ids:
        boxes, scores = predictions.get(image_id, nothing)
        strings.append(format_rsna_boxes(boxes, scores))
    return pd.DataFrame({"patientId": list(ids), "PredictionString": strings}, dtype=str)


def format_rsna_boxes(boxes: np.ndarray, scores: np.ndarray) -> str:
    """ "confidence x y width height", repeated, of boxes (n, 4) x1 y1 x2 y2 and scores (n,)."""
    # Corners are rounded before subtracting: rounded x and width could add up to more than the
    # image.
    corners = np.round(np.asarray(boxes, np.float64).reshape(-1, 4), 1)
    words = []
    for score, (x1, y1, x2, y2) in zip(np.clip(scores, 1e-6, 1), corners, strict=True):
        words.append(f"{score:.6f} {x1:.1f} {y1:.1f} {x2 - x1:.1f} {y2 - y1:.1f}")
    return " ".join(words)


def parse_rsna_boxes(text: str) -> ScoredBoxes:
    """Boxes and scores of one PredictionString. ValueError where it is not fives of numbers."""
    numbers = np.array(str(text).split(), np.float64)
    if numbers.size % 5:
        raise ValueError(f"{numbers.size} numbers, not a multiple of 5")
    rows = numbers.reshape(-1, 5)
    boxes = rows[:, 1:].copy()
    boxes[:, 2:] += boxes[:, :2]
    return ScoredBoxes(boxes, rows[:, 0])


def check_rsna_submission(
    table: pd.DataFrame, sample: pd.DataFrame, size: int = IMAGE_SIZE
) -> None:
    """Raises InputError naming the first id that is wrong.

    Ids and order must be the sample's, confidences in (0, 1], boxes of positive size and inside
    the image of size x size pixels.
    """
    for name in ("patientId", "PredictionString"):
        if name not in table.columns:
            raise InputError(f"the submission lacks the column {name}")
    check_ids(list(table["patientId"]), list(sample["patientId"]))
    texts = table["PredictionString"].fillna("")
    for image_id, text in zip(table["patientId"], texts, strict=True):
        fault = find_rsna_fault(text, size)
        if fault:
            raise InputError(f"the submission is wrong for {image_id}: {fault}")


def find_rsna_fault(text: str, size: int) -> str:
    """What is wrong with a PredictionString, "" if nothing is."""
    try:
        boxes, scores = parse_rsna_boxes(text)
    except ValueError as error:
        return f"its PredictionString is malformed ({error})"
    return find_box_fault(boxes, scores, size, size)
