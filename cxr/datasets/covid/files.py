"""SIIM-FISABIO-RSNA COVID-19 Detection on disk: two csv files and a tree of studies, series and images.

https://www.kaggle.com/competitions/siim-covid19-detection/data
"""

import ast
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom

from cxr.data.duplicates import join_groups
from cxr.datasets.covid.submission import IMAGE, STUDY, parse_predictions, read_submission
from cxr.metrics.studies import OPACITY
from cxr.system.disk import InputError, read_csv

CLASSES = (
    "Negative for Pneumonia",
    "Typical Appearance",
    "Indeterminate Appearance",
    "Atypical Appearance",
)
STUDIES, IMAGES, SAMPLE = "train_study_level.csv", "train_image_level.csv", "sample_submission.csv"
# Some images were left unlabelled by accident; copies with repaired labels were added to the same study.
CLEANING = {
    "B": "unboxed images beside a boxed one of their study",  # they show the same; no study is lost
    "A": "unboxed images of studies that are not negative",  # loses 84 positive studies: easier than the leaderboard
    "C": "images of studies with more than one",
}


def read_tables(input_dir, cleaning="B"):
    """(train, test, notes) of the folder input/<slug>.

    train, test: one row per image file, sorted by image_id (test in the order of the sample submission): image_id,
    path, study_id, patient, group (patient; join it with the clusters of `duplicates` before the folds), stratum (class
    name, "" in test), label (index into CLASSES, -1 in test), boxes (JSON text, [[x1, y1, x2, y2], ...] in pixels, not
    yet clipped), box_labels (JSON text, 0 for each), n_boxes, mask_known (False where an image of a positive study has
    no box: its opacities are unknown, not absent; and in test). notes: sentences about the data. `cleaning`: a key of
    CLEANING. InputError where a file or column is missing or broken.
    """
    input_dir, notes = Path(input_dir), []
    images = clean(
        read_images(input_dir, read_studies(input_dir / STUDIES), notes), cleaning, notes
    )
    files = find_images(input_dir / "train", notes)
    there = images[images["image_id"].isin(files.keys())].sort_values("image_id")
    if there.empty:
        raise InputError(
            f"{input_dir / 'train'} holds none of the images of {IMAGES} as study/series/image.dcm: "
            "unpack the competition's data there"
        )
    _note(
        notes,
        len(images) - len(there),
        f"images of {IMAGES} have no file in train and were left out",
    )
    moved = sum(files[row.image_id].parts[-3] != row.study_id for row in there.itertuples())
    _note(
        notes,
        moved,
        f"images stand in the folder of another study than {IMAGES} says, which counts",
    )
    train = _table(there, files, read_patients(there, files, notes))
    return train, _test_table(input_dir, notes), notes


def _table(images, files, patients):
    """The columns of `read_tables`, of rows of image_id, study_id, boxes, label."""
    count = images["boxes"].map(len).to_numpy(int)
    label = images["label"].to_numpy(int)
    return pd.DataFrame(
        {
            "image_id": images["image_id"].to_numpy(str).astype(object),
            "path": [str(files[i]) for i in images["image_id"]],
            "study_id": images["study_id"].to_numpy(str).astype(object),
            "patient": patients,
            "group": join_groups(patients, images["study_id"]),
            "stratum": [CLASSES[k] if k >= 0 else "" for k in label],
            "label": label,
            "boxes": [json.dumps(boxes) for boxes in images["boxes"]],
            "box_labels": [json.dumps([0] * n) for n in count],
            "n_boxes": count,
            "mask_known": (count > 0) | (label == 0),
        }
    )


def read_studies(path):
    """Series study_id -> class. InputError where a study has not one class."""
    table = read_csv(path, ["id", *CLASSES])
    values = table[list(CLASSES)].apply(pd.to_numeric, errors="coerce").to_numpy()
    wrong = ~(
        np.isin(values, (0, 1)).all(axis=1)
        & (values.sum(axis=1) == 1)
        & table["id"].str.endswith(STUDY)
    )
    wrong |= table["id"].duplicated()
    if wrong.any():
        raise InputError(
            f"{path} has {wrong.sum()} rows that are not a study of one class, once each (the first: "
            f"{table['id'][wrong].iloc[0]}): download it again"
        )
    return pd.Series(values.argmax(axis=1), table["id"].str.removesuffix(STUDY))


def read_images(input_dir, classes, notes):
    """Table image_id, study_id, boxes (lists), n_boxes, label of the images whose study has a class."""
    path = input_dir / IMAGES
    table = read_csv(path, ["id", "boxes", "label", "StudyInstanceUID"])
    wrong = (
        ~table["id"].str.endswith(IMAGE)
        | table["id"].duplicated()
        | table["StudyInstanceUID"].isna()
    )
    if wrong.any():
        raise InputError(
            f"{path} has {wrong.sum()} rows without an image or study of their own (the first: "
            f"{table['id'][wrong].iloc[0]}): download it again"
        )
    boxes = [read_boxes(text, f"{path}: {row}") for row, text in zip(table["id"], table["boxes"])]
    differ = sum(not same_boxes(own, text) for own, text in zip(boxes, table["label"]))
    _note(
        notes,
        differ,
        f"images of {IMAGES} have other boxes in its column label than in its column boxes, which "
        "counts",
    )
    images = pd.DataFrame(
        {
            "image_id": table["id"].str.removesuffix(IMAGE),
            "study_id": table["StudyInstanceUID"],
            "boxes": boxes,
            "n_boxes": [len(own) for own in boxes],
        }
    )
    known = images["study_id"].isin(classes.index)
    _note(
        notes,
        (~known).sum(),
        f"images of {IMAGES} belong to a study that is not in {STUDIES}, and were left out",
    )
    images = images[known].assign(label=lambda rows: rows["study_id"].map(classes).astype(int))
    _note(
        notes,
        len(classes.index.difference(images["study_id"])),
        f"studies of {STUDIES} have no image in {IMAGES}",
    )
    contradicts = (images["n_boxes"] > 0) & (images["label"] == 0)
    _note(notes, contradicts.sum(), "images of negative studies have boxes")
    return images


def read_boxes(text, where):
    """[[x1, y1, x2, y2], ...] of a cell of the column boxes: a Python literal (not JSON), or nothing."""
    if pd.isna(text):
        return []
    try:
        corners = [
            [float(box[key]) for key in ("x", "y", "width", "height")]
            for box in ast.literal_eval(text)
        ]
    except (ValueError, SyntaxError, TypeError, KeyError) as error:
        raise InputError(
            f"{where} has boxes that cannot be understood ({error!r}): download the file again"
        ) from None
    if not np.isfinite(corners).all():
        raise InputError(
            f"{where} has a box that is not made of finite numbers: download the file again"
        )
    return [[x, y, x + width, y + height] for x, y, width, height in corners]


def same_boxes(boxes, text):
    """Whether the column label, written like a submission, says the same."""
    try:
        found, _, labels = parse_predictions(text)
    except ValueError:
        return False
    found = found[labels == OPACITY]
    return len(found) == len(boxes) and np.allclose(
        found, np.reshape(boxes, (-1, 4)), rtol=0, atol=0.01
    )


def clean(images, rule, notes):
    """The images that a rule of CLEANING keeps, with a count of what it left out and what stays unknown."""
    if rule not in CLEANING:
        raise InputError(f"unknown cleaning rule {rule}: choose from {', '.join(CLEANING)}")
    unboxed, studies = images["n_boxes"] == 0, images.groupby("study_id")["n_boxes"]
    dropped = {
        "A": unboxed & (images["label"] > 0),
        "B": unboxed & (studies.transform("max") > 0),
        "C": studies.transform("size") > 1,
    }[rule]
    kept = images[~dropped]
    unknown = ((kept["n_boxes"] == 0) & (kept["label"] > 0)).sum()
    notes.append(
        f"cleaning rule {rule} ({CLEANING[rule]}) left out {dropped.sum()} of {len(images)} images; "
        f"{len(kept)} images of {kept['study_id'].nunique()} of {images['study_id'].nunique()} studies stay"
    )
    _note(
        notes,
        unknown,
        "of them have no box though their study is positive: opacities unknown, not absent",
    )
    return kept


def find_images(folder, notes):
    """{image_id: path} of <folder>/<study>/<series>/<image>.dcm; the first of several files of a name counts."""
    found, paths = {}, sorted(folder.glob("*/*/*.dcm"))
    for path in paths:
        found.setdefault(path.stem, path)
    _note(
        notes,
        len(paths) - len(found),
        f"files of {folder.name} have the name of another one and were left out",
    )
    return found


def read_patients(images, files, notes):
    """[PatientID of the file of each row], its study where the file does not tell."""
    patients = [patient_of(files[image_id]) for image_id in images["image_id"]]
    _note(
        notes, patients.count(""), "files do not tell their patient and count as one for each study"
    )
    return [own or f"study_{study}" for own, study in zip(patients, images["study_id"])]


def patient_of(path):
    """PatientID of a DICOM file, "" where it has none or cannot be read; step 02 says why it cannot."""
    try:
        header = pydicom.dcmread(
            path, stop_before_pixels=True, specific_tags=["PatientID"], force=True
        )
        return str(header.get("PatientID") or "").strip()
    except Exception:  # pydicom raises anything at all on damaged bytes
        return ""


def read_sample(input_dir, notes=None):
    """The sample submission, whose ids and order a submission must have; made of the test tree where it is missing."""
    path, notes = Path(input_dir) / SAMPLE, [] if notes is None else notes
    if path.is_file():
        return read_submission(path)
    files = find_images(Path(input_dir) / "test", [])
    studies = sorted({path.parts[-3] for path in files.values()})
    notes.append(f"no {SAMPLE} in {input_dir}: the {len(files)} files of test are the test set")
    ids = [*(study + STUDY for study in studies), *(image_id + IMAGE for image_id in sorted(files))]
    rows = ["negative 1 0 0 1 1" if row.endswith(STUDY) else "none 1 0 0 1 1" for row in ids]
    return pd.DataFrame({"id": ids, "PredictionString": rows}, dtype=str)


def _test_table(input_dir, notes):
    ids = read_sample(input_dir, notes)["id"]
    wanted = [row.removesuffix(IMAGE) for row in ids if row.endswith(IMAGE)]
    files = find_images(input_dir / "test", notes)
    there = [image_id for image_id in wanted if image_id in files]
    _note(notes, len(wanted) - len(there), f"images of {SAMPLE} have no file, and get a guess")
    _note(notes, len(files) - len(there), f"files of test are not in {SAMPLE} and were left out")
    studies = [files[image_id].parts[-3] for image_id in there]
    images = pd.DataFrame(
        {"image_id": there, "study_id": studies, "boxes": [[] for _ in there], "label": -1}
    )
    return _table(images, files, studies)


def _note(notes, count, words):
    if count:
        notes.append(f"{count} {words}")
