"""SIIM-FISABIO-RSNA COVID-19 Detection on disk: two csv files and a tree of DICOM files.

The files are <study>/<series>/<image>.dcm in the folders train and test. In their place may stand
PNG or JPEG files of a mirror (cxr/datasets/mirrors.py), in the same tree or all in one folder.
https://www.kaggle.com/competitions/siim-covid19-detection/data
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from cxr.data.duplicates import join_groups
from cxr.data.image_table import (
    ImageRow,
    Tables,
    list_files,
    make_image_table,
    no_image_of,
    note_count,
    note_twins,
)
from cxr.datasets.covid.submission import IMAGE, STUDY, read_covid_submission
from cxr.datasets.mirrors import image_ending, read_originals, with_original_sizes
from cxr.datasets.prediction_strings import parse_predictions
from cxr.images.identity import read_identity
from cxr.metrics.studies import ALL_CLASSES, OPACITY
from cxr.system.errors import InputError
from cxr.system.tables import read_csv, to_numbers

CLASSES = (
    "Negative for Pneumonia",
    "Typical Appearance",
    "Indeterminate Appearance",
    "Atypical Appearance",
)
STUDIES = "train_study_level.csv"
IMAGES = "train_image_level.csv"
SAMPLE = "sample_submission.csv"
# Some images were left unlabelled by accident; copies with repaired labels were added to the same
# study. B: they show the same, so no study is lost. A loses 84 positive studies, and is easier than
# the leaderboard.
CLEANING = {
    "B": "unboxed images beside a boxed one of their study",
    "A": "unboxed images of studies that are not negative",
    "C": "images of studies with more than one",
}
LABEL_TOLERANCE = 0.01  # pixels by which the boxes of both columns may differ
DEPTHS = ("*/*/*", "*/*", "*")  # of the images below train and test; a mirror's may be less deep


def read_covid(input_dir: Path, cleaning: str = "B") -> Tables:
    """Tables of the folder input/<slug>, with the further columns study_id, patient, mask_known.

    A row for each image file, sorted by image_id (test in the order of the sample submission). The
    group joins patients and studies; join it with clusters of copies before the folds are dealt.
    mask_known is False where an image of a positive study has no box: its opacities are unknown,
    not absent; and in test. cleaning: a key of CLEANING. Raises InputError where a file or column
    is missing or broken.
    """
    input_dir = Path(input_dir)
    notes: list[str] = []
    classes = read_study_classes(input_dir / STUDIES)
    images = read_image_level(input_dir / IMAGES, classes, notes)
    images = clean(images, cleaning, notes)
    facts = read_originals(input_dir, IMAGE)
    files = find_study_files(input_dir / "train", notes)
    present = images[images["image_id"].isin(files.keys())].sort_values("image_id")
    if present.empty:
        remedy = "unpack the competition's data there, as study/series/image.dcm"
        raise no_image_of(IMAGES, images["image_id"], str(input_dir / "train"), files, remedy)
    absent = len(images) - len(present)
    note_count(notes, absent, f"images of {IMAGES} have no file in train and were left out")
    note_twins(notes, images["image_id"].to_list(), files)
    moved = 0
    for row in present.itertuples():
        study = study_of(files[str(row.image_id)], input_dir / "train")
        moved += study not in ("", row.study_id)
    note_count(
        notes,
        moved,
        f"images stand in the folder of another study than {IMAGES} says, which counts",
    )
    patients = read_patients(present, files, facts, notes)
    train = make_study_table(present.assign(patient=patients), files)
    test = read_test_table(input_dir, facts, notes)
    train = with_original_sizes(train, facts, input_dir, notes)
    return Tables(train, with_original_sizes(test, facts, input_dir, notes), notes)


def make_study_table(images: pd.DataFrame, files: Mapping[str, Path]) -> pd.DataFrame:
    """The columns of `read_covid`, of rows of image_id, study_id, patient, boxes (lists), label."""
    groups = join_groups(images["patient"], images["study_id"])
    rows = []
    for image, group in zip(images.itertuples(), groups, strict=True):
        row = ImageRow(
            str(image.image_id),
            files[str(image.image_id)],
            group=group,
            stratum=CLASSES[image.label] if image.label >= 0 else "",
            boxes=image.boxes,
            label=int(image.label),
        )
        rows.append(row)
    table = make_image_table(rows)
    return table.assign(
        study_id=images["study_id"].to_list(),
        patient=images["patient"].to_list(),
        mask_known=(table["n_boxes"] > 0) | (table["label"] == 0),
    )


def read_study_classes(path: Path) -> pd.Series:
    """Series study_id -> class. InputError where a study has not exactly one class."""
    table = read_csv(path, ["id", *CLASSES])
    values = to_numbers(table[list(CLASSES)]).to_numpy()
    has_one_class = np.isin(values, (0, 1)).all(axis=1) & (values.sum(axis=1) == 1)
    wrong = ~has_one_class | ~table["id"].str.endswith(STUDY) | table["id"].duplicated()
    if wrong.any():
        raise InputError(
            f"{path} has {wrong.sum()} rows that are not a study of one class, once each "
            f"(the first: {table['id'][wrong].iloc[0]}): download it again"
        )
    return pd.Series(values.argmax(axis=1), table["id"].str.removesuffix(STUDY))


def read_image_level(path: Path, classes: pd.Series, notes: list[str]) -> pd.DataFrame:
    """Table image_id, study_id, boxes (lists), n_boxes, label of the images of known studies.

    classes: Series study_id -> class.
    """
    table = read_csv(path, ["id", "boxes", "label", "StudyInstanceUID"])
    ids = table["id"]
    wrong = ~ids.str.endswith(IMAGE) | ids.duplicated() | table["StudyInstanceUID"].isna()
    if wrong.any():
        raise InputError(
            f"{path} has {wrong.sum()} rows without an image or study of their own "
            f"(the first: {ids[wrong].iloc[0]}): download it again"
        )
    boxes = [
        parse_boxes(text, f"{path}: {row_id}")
        for row_id, text in zip(ids, table["boxes"], strict=True)
    ]
    differing = 0
    for image_boxes, text in zip(boxes, table["label"], strict=True):
        differing += not is_same_answer(image_boxes, text)
    note_count(
        notes,
        differing,
        f"images of {IMAGES} have other boxes in its column label than in its column boxes, which "
        "counts",
    )

    images = pd.DataFrame(
        {
            "image_id": ids.str.removesuffix(IMAGE),
            "study_id": table["StudyInstanceUID"],
            "boxes": boxes,
            "n_boxes": [len(image_boxes) for image_boxes in boxes],
        }
    )
    known = images["study_id"].isin(classes.index)
    if not known.any():
        remedy = "download both again"
        raise no_image_of(IMAGES, images["study_id"], STUDIES, classes.index, remedy)
    unknown = int((~known).sum())
    note_count(
        notes,
        unknown,
        f"images of {IMAGES} belong to a study that is not in {STUDIES}, and were left out",
    )
    images = images[known]
    images = images.assign(label=images["study_id"].map(classes).astype(int))
    imageless = len(classes.index.difference(images["study_id"]))
    note_count(notes, imageless, f"studies of {STUDIES} have no image in {IMAGES}")
    contradictions = int(((images["n_boxes"] > 0) & (images["label"] == 0)).sum())
    note_count(notes, contradictions, "images of negative studies have boxes")
    return images


def parse_boxes(text: str, where: str) -> list[list[float]]:
    """[[x1, y1, x2, y2], ...] of a cell of the column boxes, in original pixels.

    The cell is a Python literal (not JSON), or missing where there is no box. InputError beginning
    with `where` if it makes no sense.
    """
    if pd.isna(text):
        return []
    boxes = []
    try:
        for box in ast.literal_eval(text):
            x = float(box["x"])
            y = float(box["y"])
            boxes.append([x, y, x + float(box["width"]), y + float(box["height"])])
    except (ValueError, SyntaxError, TypeError, KeyError) as error:
        raise InputError(
            f"{where} has boxes that cannot be understood ({error!r}): download the file again"
        ) from None
    if not np.isfinite(boxes).all():
        raise InputError(
            f"{where} has a box that is not made of finite numbers: download the file again"
        )
    return boxes


def is_same_answer(boxes: list[list[float]], text: str) -> bool:
    """Whether the column label, written like a submission, says the same as these boxes."""
    try:
        answer = parse_predictions(text, ALL_CLASSES)
    except ValueError:
        return False
    opacities = answer.of_class(OPACITY).boxes
    if len(opacities) != len(boxes):
        return False
    return np.allclose(opacities, np.reshape(boxes, (-1, 4)), rtol=0, atol=LABEL_TOLERANCE)


def clean(images: pd.DataFrame, rule: str, notes: list[str]) -> pd.DataFrame:
    """The images that a rule of CLEANING keeps.

    Notes what was left out, and how many images without box stay whose opacities are unknown.
    """
    if rule not in CLEANING:
        raise InputError(f"unknown cleaning rule {rule}: choose from {', '.join(CLEANING)}")
    unboxed = images["n_boxes"] == 0
    box_counts = images.groupby("study_id")["n_boxes"]
    if rule == "A":
        dropped = unboxed & (images["label"] > 0)
    elif rule == "B":
        dropped = unboxed & (box_counts.transform("max") > 0)
    else:
        dropped = box_counts.transform("size") > 1
    kept = images[~dropped]
    notes.append(
        f"cleaning rule {rule} ({CLEANING[rule]}) left out {dropped.sum()} of {len(images)} "
        f"images; {len(kept)} images of {kept['study_id'].nunique()} of "
        f"{images['study_id'].nunique()} studies stay"
    )
    unknown = int(((kept["n_boxes"] == 0) & (kept["label"] > 0)).sum())
    note_count(
        notes,
        unknown,
        "of them have no box though their study is positive: opacities unknown, not absent",
    )
    return kept


def find_study_files(folder: Path, notes: list[str]) -> dict[str, Path]:
    """{image_id: path} of <folder>/<study>/<series>/<image>.dcm.

    Without any the pictures of a mirror, <image>.png or .jpg, in the same tree, below their study
    or in the folder itself. The first of several files of a name counts; the others are noted.
    """
    for depth in DEPTHS:
        ending = image_ending(folder, ".dcm", depth)
        files = list_files(folder, ending, depth)
        if not files or (ending == ".dcm" and depth != DEPTHS[0]):
            continue
        every_file = [path for path in folder.glob(depth) if path.suffix.lower() == ending]
        repeated = len(every_file) - len(files)
        note_count(
            notes,
            repeated,
            f"files of {folder.name} have the name of another one and were left out",
        )
        return files
    return {}


def study_of(path: Path, folder: Path) -> str:
    """Study of the file <folder>/<study>/<series>/<image>.dcm; "" of <folder>/<image>.png."""
    inside = path.relative_to(folder).parts
    return inside[0] if len(inside) > 1 else ""


def read_patients(
    images: pd.DataFrame, files: Mapping[str, Path], facts: pd.DataFrame, notes: list[str]
) -> list[str]:
    """PatientID of the file of each row, or what a mirror's table says; its study where neither
    does.

    facts: of `read_originals`.
    """
    known = facts["patient"].to_dict()
    patients = []
    unknown = 0
    for row in images.itertuples():
        image_id = str(row.image_id)
        path = files[image_id]
        patient = known.get(image_id, "")
        if path.suffix.lower() == ".dcm":
            patient = read_identity(path).patient
        if not patient:
            unknown += 1
            patient = f"study_{row.study_id}"
        patients.append(patient)
    note_count(notes, unknown, "files do not tell their patient and count as one for each study")
    return patients


def read_covid_sample(input_dir: Path, notes: list[str] | None = None) -> pd.DataFrame:
    """The sample submission, whose ids and order a submission must have.

    Made of the files in test where it is missing, which is noted.
    """
    path = Path(input_dir) / SAMPLE
    if path.is_file():
        return read_covid_submission(path)
    folder = Path(input_dir) / "test"
    files = find_study_files(folder, [])
    if notes is not None:
        notes.append(f"no {SAMPLE} in {input_dir}: the {len(files)} files of test are the test set")
    studies = sorted({study_of(path, folder) for path in files.values()} - {""})
    rows = [(f"{study}{STUDY}", "negative 1 0 0 1 1") for study in studies]
    rows += [(f"{image_id}{IMAGE}", "none 1 0 0 1 1") for image_id in sorted(files)]
    return pd.DataFrame(rows, columns=["id", "PredictionString"], dtype=str)


def read_test_table(input_dir: Path, facts: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Table of the test images that the sample submission names, in its order.

    A study counts as a patient. facts: of `read_originals`, which may name the studies of a mirror
    without a tree; an image whose study nobody names is one of its own.
    """
    sample = read_covid_sample(input_dir, notes)
    wanted = [row_id.removesuffix(IMAGE) for row_id in sample["id"] if row_id.endswith(IMAGE)]
    files = find_study_files(input_dir / "test", notes)
    present = [image_id for image_id in wanted if image_id in files]
    absent = len(wanted) - len(present)
    note_count(notes, absent, f"images of {SAMPLE} have no file, and get a guess")
    note_twins(notes, wanted, files)
    unlisted = len(files) - len(present)
    note_count(notes, unlisted, f"files of test are not in {SAMPLE} and were left out")
    named = facts["study"].to_dict()
    studies = []
    strays = 0
    for image_id in present:
        study = study_of(files[image_id], input_dir / "test") or named.get(image_id, "")
        strays += not study
        studies.append(study.removesuffix(STUDY) or f"image_{image_id}")
    note_count(
        notes,
        strays,
        "test images lie in no folder of their study, nor does a csv file name it in a column "
        "study_id: the studies get a guess, the images their own answer",
    )
    images = pd.DataFrame({"image_id": present, "study_id": studies, "patient": studies})
    no_boxes: list[list[list[float]]] = [[] for _ in present]
    return make_study_table(images.assign(boxes=no_boxes, label=-1), files)
