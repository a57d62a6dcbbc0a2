"""SIIM-ACR Pneumothorax Segmentation on disk: tables in, submission out.

https://www.kaggle.com/competitions/siim-acr-pneumothorax-segmentation/data
"""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from cxr.geometry.masks import EMPTY, decode_runs, encode_runs, merge_runs
from cxr.system.errors import InputError

CLASSES = ("No pneumothorax", "Pneumothorax")
FRAME = 1024  # pixels; all images are 1024 x 1024, and so are the masks
# The labels of the first stage are part of those of the second, which has the first stage's test images, too.
LABELS = ("stage_2_train.csv", "train-rle.csv")
KNOWN = {
    (11582, 10675, 2379): "all labels of the first stage",
    (12954, 12047, 2669): "all labels of the second stage",
}
SAMPLE, STAGE_2 = "stage_2_sample_submission.csv", "stage_2_images"
TRAIN_IMAGES = "dicom-images-train"
COLUMNS = ["ImageId", "EncodedPixels"]
SUFFIXES = (
    ".dcm",
    ".png",
    ".jpg",
    ".jpeg",
)  # where an image is there twice, the first of these counts
MAPPING = "nih_id.csv"  # Kaggle_ID, NIH_ID; of earhian's 5th place and of the competition's discussion 100941


def read_tables(input_dir):
    """(train, test, notes) of the folder input/<slug>.

    train, test: one row per image file, sorted by image_id (test in the order of the sample submission): image_id,
    path, group (patient), stratum (class name, "" in test), mask (run lengths, "" in test), frame (side of the masks),
    boxes (JSON text, the box around each annotated region) with box_labels and n_boxes, label (index into CLASSES, -1
    in test). notes: sentences about what is unusual. InputError where a file or column is missing or broken.
    """
    input_dir, notes = Path(input_dir), []
    regions = read_labels(input_dir, notes)
    files = find_images(input_dir)
    train_files = {key: files[key] for key in sorted(regions) if key in files}
    if not train_files:
        raise InputError(
            f"{input_dir} holds none of the images of its labels: put the folder {TRAIN_IMAGES} there"
        )
    _note(notes, len(regions) - len(train_files), "annotated images have no file and were left out")
    test_files = find_test(input_dir, files, regions, notes)
    unused = len(files) - len(train_files) - sum(key in files for key in test_files)
    _note(notes, unused, "image files have no annotation and were left out")
    groups = read_groups(input_dir, train_files, notes)
    return _table(train_files, regions, groups), _table(test_files, None, {}), notes


def _table(files, regions, groups):
    """One row per entry of files (id -> path); regions None: nothing is known of the images."""
    ids, unknown = list(files), regions is None
    masks = ["" if unknown else merge_runs(regions[i], FRAME, FRAME) for i in ids]
    boxes = [
        [] if unknown else [box_around(text) for text in regions[i] if text != EMPTY] for i in ids
    ]
    label = np.array([-1 if unknown else int(mask != EMPTY) for mask in masks], int)
    return pd.DataFrame(
        {
            "image_id": pd.Series(ids, dtype=str),
            "path": [str(files[i]) for i in ids],
            "group": [groups.get(i, i) for i in ids],
            "stratum": [CLASSES[k] if k >= 0 else "" for k in label],
            "mask": pd.Series(masks, dtype=str),
            "frame": np.full(len(ids), FRAME),
            "boxes": [json.dumps(b) for b in boxes],
            "box_labels": [json.dumps([0] * len(b)) for b in boxes],
            "n_boxes": np.array([len(b) for b in boxes], int),
            "label": label,
        }
    )


def box_around(text):
    """[x1, y1, x2, y2] around a mask given as run lengths."""
    x, y, width, height = cv2.boundingRect(decode_runs(text, FRAME, FRAME))
    return [float(x), float(y), float(x + width), float(y + height)]


def read_labels(input_dir, notes):
    """dict id -> run lengths of its annotated regions, [EMPTY] where there is none, of the labels of either stage."""
    path = next((input_dir / name for name in LABELS if (input_dir / name).is_file()), None)
    if path is None:
        raise InputError(
            f"{input_dir} has neither {' nor '.join(LABELS)}: put one there, or run 01_download.py"
        )
    table = read_csv(path)
    regions = {}
    for image_id, text in zip(table.ImageId, table.EncodedPixels):
        regions.setdefault(image_id, []).append(text)
    for image_id, texts in regions.items():
        regions[image_id] = [text for text in texts if text not in (EMPTY, "")] or [EMPTY]
        _check_runs(path, image_id, regions[image_id])
    positives = sum(texts != [EMPTY] for texts in regions.values())
    stage = KNOWN.get((len(table), len(regions), positives), "a part of the competition's labels")
    notes.append(
        f"{path.name}: {len(table)} rows, {len(regions)} images, {positives} with a pneumothorax: {stage}"
    )
    return regions


def _check_runs(path, image_id, texts):
    for text in texts:
        try:
            decode_runs(text, FRAME, FRAME)
        except ValueError as error:
            raise InputError(
                f"{path} has a broken mask of {image_id} ({error}): download it again"
            ) from None


def read_csv(path):
    """COLUMNS of a csv file of either stage as text; the first stage's has blanks in its header and values."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is not a readable csv file ({error}): download it again"
        ) from None
    table = table.rename(columns=str.strip)
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise InputError(f"{path} lacks the column {', '.join(missing)}: download it again")
    if table.empty:
        raise InputError(f"{path} has no rows: download it again")
    return table[COLUMNS].apply(lambda column: column.str.strip())


def find_images(folder):
    """dict id -> path of all pictures below a folder, whatever tree they stand in; folders of masks are left out."""
    found = {}
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if "mask" not in name.lower())
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in SUFFIXES and not name.startswith("."):
                found.setdefault(stem, []).append(Path(place, name))
    return {
        key: min(paths, key=lambda path: SUFFIXES.index(path.suffix.lower()))
        for key, paths in found.items()
    }


def find_test(input_dir, files, regions, notes):
    """dict id -> path of the test images: the second stage's, else the first stage's that have no annotation."""
    ids = read_sample(input_dir)
    if ids is None:
        folder = STAGE_2 if (input_dir / STAGE_2).is_dir() else "dicom-images-test"
        ids = sorted(
            key
            for key, path in files.items()
            if key not in regions and folder in path.relative_to(input_dir).parts
        )
        notes.append(
            f"no {SAMPLE} in {input_dir}: the {len(ids)} images of {folder} are the test set"
        )
    found = {key: files[key] for key in ids if key in files}
    _note(notes, len(ids) - len(found), f"images of {SAMPLE} have no file, and get no mask")
    return found


def read_sample(input_dir):
    """Ids of the sample submission, each once (the first stage's repeated some), None without one."""
    path = Path(input_dir) / SAMPLE
    return list(dict.fromkeys(read_csv(path).ImageId)) if path.is_file() else None


def read_groups(input_dir, ids, notes):
    """dict id -> NIH patient, as far as MAPPING in input/<slug>/ or input/ tells.

    The images come from NIH ChestX-ray14, where 1,952 of the 6,171 patients own several of them; the PatientID of the
    files is another one for each image. The NIH file name 00019124_092.png starts with the patient's number.
    """
    path = next(
        (f / MAPPING for f in (input_dir, input_dir.parent) if (f / MAPPING).is_file()), None
    )
    if path is None:
        notes.append(
            f"WARNING: the patients are not known (no {MAPPING} with Kaggle_ID and NIH_ID in {input_dir}), so "
            "images of one patient may fall in different folds, and the score is flattered"
        )
        return {}
    table = pd.read_csv(path, dtype=str)
    if not {"Kaggle_ID", "NIH_ID"} <= set(table.columns):
        raise InputError(f"{path} lacks the column Kaggle_ID or NIH_ID: repair or remove it")
    patients = dict(zip(table.Kaggle_ID, "nih_" + table.NIH_ID.str.split("_").str[0]))
    groups = {i: patients[i] for i in ids if i in patients}
    notes.append(f"grouped by {len(set(groups.values()))} NIH patients from {path.name}")
    _note(
        notes,
        len(ids) - len(groups),
        f"images are not in {path.name} and stand for a patient of their own",
    )
    return groups


def format_submission(ids, masks):
    """Table ImageId, EncodedPixels in the order of ids; masks: id -> run lengths, an absent id has none."""
    return pd.DataFrame(
        {"ImageId": list(ids), "EncodedPixels": [masks.get(i, EMPTY) for i in ids]}, dtype=str
    )


def check_submission(table, ids):
    """InputError naming the first id that is wrong: one row for each id, in their order, whose run lengths decode to a
    mask that encodes to the same again."""
    if list(table.columns) != COLUMNS or list(table.ImageId) != list(ids):
        raise InputError(
            f"the submission must have the columns {', '.join(COLUMNS)} and one row for each of the "
            f"{len(ids)} test images in their order"
        )
    for image_id, text in zip(table.ImageId, table.EncodedPixels):
        try:
            same = encode_runs(decode_runs(text, FRAME, FRAME)) == text
        except ValueError as error:
            raise InputError(f"the submission is wrong for {image_id}: {error}") from None
        if not same:
            raise InputError(
                f"the submission is wrong for {image_id}: its runs touch, or have no length"
            )


def _note(notes, count, words):
    if count:
        notes.append(f"{count} {words}")
