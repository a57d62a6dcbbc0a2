"""RSNA Pneumonia Detection on disk: tables in, submission out.

https://www.kaggle.com/competitions/rsna-pneumonia-detection-challenge/data
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from cxr.datasets.submission_ids import check_ids
from cxr.system.disk import InputError, read_csv, read_json

CLASSES = ("Normal", "No Lung Opacity / Not Normal", "Lung Opacity")
BOX_CLASSES = ("Lung Opacity",)
IMAGE_SIZE = 1024  # pixels, of every image of the competition
LABELS, CLASS_INFO, SAMPLE = (
    "stage_2_train_labels.csv",
    "stage_2_detailed_class_info.csv",
    "stage_2_sample_submission.csv",
)
TRAIN_IMAGES, TEST_IMAGES = "stage_2_train_images", "stage_2_test_images"
# Published by RSNA beside the images; the second is the same facts as a csv file.
MAPPING_JSON, MAPPING_CSV = "pneumonia-challenge-dataset-mappings_2018.json", "nih_mapping.csv"
# The 1,000 training images that were the first stage's test images: stage-2 ids minus stage-1 ids. They are labelled
# like the final test (three readers, intersection), with smaller boxes, so sizes and thresholds are tuned on them.
TEST_LIKE_IDS = Path(__file__).with_name("testlike_ids.txt")


def read_tables(input_dir):
    """(train, test, notes) of the folder input/<slug>.

    train, test: one row per image file, sorted by image_id (test in the order of the sample submission): image_id,
    path, group (patient), stratum (class name, "" in test), boxes (JSON text, [[x1, y1, x2, y2], ...] in pixels, not
    yet clipped to the image), box_labels (JSON text, class 0 for each), n_boxes, label (index into CLASSES, -1 in
    test), test_like. notes: sentences about what is unusual. InputError where a file or column is missing.
    """
    input_dir, notes = Path(input_dir), []
    boxes, targets = read_boxes(input_dir, notes)
    labels = read_classes(input_dir, targets, notes)
    files = image_files(input_dir / TRAIN_IMAGES, labels.index, notes)
    if not files:
        raise InputError(
            f"{input_dir / TRAIN_IMAGES} holds none of the images of {LABELS}: run 01_download.py again"
        )
    train = _table(files, boxes, labels, read_groups(input_dir, files, notes))
    sample = read_sample(input_dir, notes)
    test_files = image_files(input_dir / TEST_IMAGES, sample.patientId, notes)
    return train, _table(test_files, {}, {}, {}), notes


def _table(files, boxes, labels, groups):
    """One row per entry of files (id -> path); an id that is absent from the other mappings has no boxes, label -1."""
    ids = list(files)
    label = np.array([labels.get(i, -1) for i in ids], int)
    found = [boxes.get(i, []) for i in ids]
    test_like = set(TEST_LIKE_IDS.read_text(encoding="ascii").split())
    return pd.DataFrame(
        {
            "image_id": pd.Series(ids, dtype=str),
            "path": [str(files[i]) for i in ids],
            "group": [groups.get(i, i) for i in ids],
            "stratum": [CLASSES[k] if k >= 0 else "" for k in label],
            "boxes": [json.dumps(b) for b in found],
            "box_labels": [json.dumps([0] * len(b)) for b in found],
            "n_boxes": np.array([len(b) for b in found], int),
            "label": label,
            "test_like": np.array([i in test_like for i in ids], bool),
        }
    )


def read_boxes(input_dir, notes):
    """(dict id -> [[x1, y1, x2, y2], ...], Series id -> Target). Boxes of no size are left out, with a note."""
    path = input_dir / LABELS
    table = read_csv(path, ["patientId", "x", "y", "width", "height", "Target"])
    numbers = table[["x", "y", "width", "height", "Target"]].apply(pd.to_numeric, errors="coerce")
    unreadable = (numbers.isna() & table[numbers.columns].notna()).any(
        axis=1
    ) | ~numbers.Target.isin([0, 1])
    if unreadable.any():
        raise InputError(
            f"{path} has {unreadable.sum()} rows with something else than numbers (the first is of "
            f"{table.patientId[unreadable].iloc[0]}): download it again"
        )
    positive = numbers.Target == 1
    sized = (
        np.isfinite(numbers[["x", "y"]]).all(axis=1) & (numbers.width > 0) & (numbers.height > 0)
    )
    _note(notes, (positive & ~sized).sum(), f"boxes of {LABELS} have no size and were left out")
    x, y, width, height = numbers[positive & sized][["x", "y", "width", "height"]].to_numpy().T
    corners = np.stack([x, y, x + width, y + height], axis=1).tolist()
    boxes = {}
    for image_id, box in zip(table.patientId[positive & sized], corners):
        boxes.setdefault(image_id, []).append(box)
    return boxes, numbers.Target.groupby(table.patientId).max()


def read_classes(input_dir, targets, notes):
    """Series id -> index into CLASSES, sorted by id, for the ids of `targets` (Series id -> 0 or 1).

    The labels say only opacity or not, so without the class table two of the three classes cannot be told apart.
    """
    path = input_dir / CLASS_INFO
    table = read_csv(path, ["patientId", "class"]).drop_duplicates("patientId")
    unknown = set(table["class"].dropna()) - set(CLASSES)
    if unknown:
        raise InputError(
            f"{path} has the unknown class {sorted(unknown)[0]!r}: known are {', '.join(CLASSES)}"
        )
    labels = table.dropna().set_index("patientId")["class"].map(CLASSES.index).sort_index()
    _note(
        notes,
        len(targets.index.difference(labels.index)),
        f"images have no class in {CLASS_INFO} and were left out",
    )
    _note(
        notes,
        len(labels.index.difference(targets.index)),
        f"images of {CLASS_INFO} are not in {LABELS}, left out",
    )
    labels = labels[labels.index.isin(targets.index)]
    contradicts = (labels == CLASSES.index("Lung Opacity")) != (targets[labels.index] == 1)
    _note(
        notes,
        contradicts.sum(),
        f"images have a class in {CLASS_INFO} that contradicts Target in {LABELS}",
    )
    return labels


def image_files(folder, ids, notes):
    """dict id -> path of <folder>/<id>.dcm in the order of ids, noting ids without file and files without id."""
    present = {path.stem: path for path in folder.glob("*.dcm")} if folder.is_dir() else {}
    found = {image_id: present[image_id] for image_id in ids if image_id in present}
    _note(
        notes,
        len(ids) - len(found),
        f"images of the tables have no file in {folder.name} and were left out",
    )
    _note(
        notes,
        len(present) - len(found),
        f"files of {folder.name} are in no table and were left out",
    )
    return found


def read_groups(input_dir, ids, notes):
    """dict id -> NIH patient, as far as a mapping in input/<slug>/ or input/ tells; adds what was done to notes.

    The images come from NIH ChestX-ray14, where one patient may own several of them; the NIH file name
    00019124_092.png starts with the patient's number.
    """
    folders = (input_dir, input_dir.parent)
    path = next(
        (f / name for f in folders for name in (MAPPING_JSON, MAPPING_CSV) if (f / name).is_file()),
        None,
    )
    if path is None:
        notes.append(
            f"no patient mapping ({MAPPING_JSON} or {MAPPING_CSV}) found in {input_dir}: folds are by "
            "patientId, so images of one patient may fall in different folds"
        )
        return {}
    groups = {i: f"nih_{patient}" for i, patient in _mapping(path).items() if i in ids and patient}
    patients = len(set(groups.values()))
    notes.append(f"grouped by {patients} NIH patients from {path.name}")
    _note(
        notes,
        len(ids) - len(groups),
        f"images are not in {path.name} and stand for a patient of their own",
    )
    return groups


def _mapping(path):
    """dict patientId -> NIH patient ("" where unknown) of either form of the mapping."""
    if path.suffix == ".csv":
        table = read_csv(path, ["patientId", "nih_patient_id"]).fillna("")
        return dict(zip(table.patientId, table.nih_patient_id))
    try:
        return {entry["subset_img_id"]: entry["img_id"].split("_")[0] for entry in read_json(path)}
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path} is not a list of entries with subset_img_id and img_id ({error!r}): "
            "download it again or remove it"
        ) from None


def read_sample(input_dir, notes=None):
    """The sample submission, whose ids and order a submission must have; made of the test files where it is missing."""
    notes = [] if notes is None else notes
    if (input_dir / SAMPLE).is_file():
        return read_submission(input_dir / SAMPLE)
    ids = sorted(path.stem for path in (input_dir / TEST_IMAGES).glob("*.dcm"))
    notes.append(
        f"no {SAMPLE} in {input_dir}: the {len(ids)} files of {TEST_IMAGES} are the test set"
    )
    return pd.DataFrame({"patientId": ids, "PredictionString": ""}, dtype=str)


def format_submission(ids, predictions):
    """Table patientId, PredictionString ("confidence x y width height" repeated, "" for nothing) in the order of ids.

    predictions: id -> (boxes (n, 4) x1 y1 x2 y2 pixels, scores (n,) in 0 ... 1); an id that is absent has no boxes.
    """
    nothing = (np.zeros((0, 4)), np.zeros(0))
    strings = [_prediction_string(*predictions.get(image_id, nothing)) for image_id in ids]
    return pd.DataFrame({"patientId": list(ids), "PredictionString": strings}, dtype=str)


def _prediction_string(boxes, scores):
    # Corners are rounded before subtracting: rounded x and width could add up to more than the image.
    corners = np.round(np.asarray(boxes, np.float64).reshape(-1, 4), 1)
    confidence = np.clip(scores, 1e-6, 1)
    rows = np.column_stack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
    return " ".join(
        f"{c:.6f} {x:.1f} {y:.1f} {w:.1f} {h:.1f}" for c, (x, y, w, h) in zip(confidence, rows)
    )


def parse_predictions(text):
    """(boxes (n, 4) x1 y1 x2 y2, scores (n,)) of one PredictionString. ValueError where it is not fives of numbers."""
    numbers = np.array(str(text).split(), np.float64)
    if numbers.size % 5:
        raise ValueError(f"{numbers.size} numbers, not a multiple of 5")
    scores, boxes = numbers.reshape(-1, 5)[:, 0], numbers.reshape(-1, 5)[:, 1:].copy()
    boxes[:, 2:] += boxes[:, :2]
    return boxes, scores


def read_submission(path):
    """The submission file as a table of text, blank predictions as ""."""
    return read_csv(Path(path), ["patientId", "PredictionString"], may_be_empty=True).fillna("")


def check_submission(table, sample, size=IMAGE_SIZE):
    """InputError naming the first id that is wrong: ids and order must be the sample's, confidence in (0, 1], boxes
    inside the size x size image and of positive size."""
    for name in ("patientId", "PredictionString"):
        if name not in table.columns:
            raise InputError(f"the submission lacks the column {name}")
    check_ids(list(table.patientId), list(sample.patientId))
    for image_id, text in zip(table.patientId, table.PredictionString):
        reason = _fault("" if pd.isna(text) else text, size)
        if reason:
            raise InputError(f"the submission is wrong for {image_id}: {reason}")


def _fault(text, size):
    try:
        boxes, scores = parse_predictions(text)
    except ValueError as error:
        return f"its PredictionString is malformed ({error})"
    if not ((scores > 0) & (scores <= 1)).all():
        return "a confidence is not in (0, 1]"
    if not (boxes[:, 2:] > boxes[:, :2]).all():
        return "a box has no size"
    if not ((boxes >= -1e-6) & (boxes <= size + 1e-6)).all():
        return f"a box reaches outside the {size} x {size} image"
    return ""


def _note(notes, count, words):
    if count:
        notes.append(f"{count} {words}")
