"""SIIM-ACR Pneumothorax Segmentation on disk: tables in, submission out.

https://www.kaggle.com/competitions/siim-acr-pneumothorax-segmentation/data
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import cv2
import pandas as pd

from cxr.data.image_table import (
    ImageRow,
    Tables,
    make_image_table,
    no_image_of,
    note_count,
    note_twins,
)
from cxr.datasets.nih_patients import find_mapping, group_by_nih_patient
from cxr.geometry.masks import EMPTY, decode_runs, encode_runs, merge_runs
from cxr.system.errors import InputError
from cxr.system.tables import read_csv
from cxr.system.walk import walk

CLASSES = ("No pneumothorax", "Pneumothorax")
FRAME = 1024  # pixels; all images are 1024 x 1024, and so are the masks
# The labels of the first stage are part of those of the second, which has the first stage's test
# images, too.
LABELS = ("stage_2_train.csv", "train-rle.csv")
# What label files are known: (rows, images, images with a pneumothorax).
KNOWN_LABELS = {
    (11582, 10675, 2379): "all labels of the first stage",
    (12954, 12047, 2669): "all labels of the second stage",
}
SAMPLE = "stage_2_sample_submission.csv"
STAGE_2 = "stage_2_images"
STAGE_1 = "dicom-images-test"
TRAIN_IMAGES = "dicom-images-train"
COLUMNS = ["ImageId", "EncodedPixels"]
# Where an image is there twice, the first of these counts.
SUFFIXES = (".dcm", ".png", ".jpg", ".jpeg")
# Kaggle_ID, NIH_ID; of earhian's 5th place and of the competition's discussion 100941.
MAPPING = "nih_id.csv"
MAPPING_COLUMNS = ("Kaggle_ID", "NIH_ID")


# ------------------------------------------------------------------------------- tables


def read_pneumothorax(input_dir: Path) -> Tables:
    """Tables of the folder input/<slug>, with the further columns mask (run lengths) and frame.

    A row for each image file, sorted by image_id (test in the order of the sample submission). The
    boxes are those around the annotated regions. Raises InputError where a file or column is
    missing or broken.
    """
    input_dir = Path(input_dir)
    notes: list[str] = []
    regions = read_regions(input_dir, notes)
    files = find_xrays(input_dir)
    train_files = {image_id: files[image_id] for image_id in sorted(regions) if image_id in files}
    if not train_files:
        remedy = f"put the folder {TRAIN_IMAGES} there"
        raise no_image_of("its labels", regions, str(input_dir), files, remedy)
    absent = len(regions) - len(train_files)
    note_count(notes, absent, "annotated images have no file and were left out")
    note_twins(notes, regions, files)
    test_files = find_test_files(input_dir, files, regions, notes)
    unused = len(files) - len(train_files) - len(test_files)
    note_count(notes, unused, "image files have no annotation and were left out")
    patients = read_nih_groups(input_dir, train_files, notes)

    train_rows = []
    masks = []
    for image_id, path in train_files.items():
        image_regions = regions[image_id]
        mask = merge_runs(image_regions, FRAME, FRAME)
        masks.append(mask)
        label = int(mask != EMPTY)
        row = ImageRow(
            image_id,
            path,
            group=patients.get(image_id, ""),
            stratum=CLASSES[label],
            boxes=[box_of_region(runs) for runs in image_regions if runs != EMPTY],
            label=label,
        )
        train_rows.append(row)
    test_rows = [ImageRow(image_id, path) for image_id, path in test_files.items()]
    train = make_image_table(train_rows).assign(mask=pd.Series(masks, dtype=str), frame=FRAME)
    test = make_image_table(test_rows).assign(mask="", frame=FRAME)
    return Tables(train, test, notes)


def box_of_region(runs: str) -> list[float]:
    """[x1, y1, x2, y2] in original pixels around a mask given as run lengths."""
    x, y, width, height = cv2.boundingRect(decode_runs(runs, FRAME, FRAME))
    return [float(x), float(y), float(x + width), float(y + height)]


def read_regions(input_dir: Path, notes: list[str]) -> dict[str, list[str]]:
    """{image_id: run lengths of its annotated regions, or [EMPTY]}, of either stage's labels."""
    paths = [input_dir / name for name in LABELS if (input_dir / name).is_file()]
    if not paths:
        raise InputError(
            f"{input_dir} has neither {' nor '.join(LABELS)}: put one there, or run 01_download.py"
        )
    path = paths[0]
    table = read_runs_csv(path)
    regions: dict[str, list[str]] = {}
    for image_id, runs in zip(table["ImageId"], table["EncodedPixels"], strict=True):
        of_image = regions.setdefault(image_id, [])
        if runs not in (EMPTY, ""):
            check_runs(path, image_id, runs)
            of_image.append(runs)
    positives = 0
    for image_id, of_image in regions.items():
        positives += bool(of_image)
        regions[image_id] = of_image or [EMPTY]
    counts = (len(table), len(regions), positives)
    stage = KNOWN_LABELS.get(counts, "a part of the competition's labels")
    notes.append(
        f"{path.name}: {len(table)} rows, {len(regions)} images, {positives} with a pneumothorax: "
        f"{stage}"
    )
    return regions


def check_runs(path: Path, image_id: str, runs: str) -> None:
    """InputError for run lengths that make no mask."""
    try:
        decode_runs(runs, FRAME, FRAME)
    except ValueError as error:
        raise InputError(
            f"{path} has a broken mask of {image_id} ({error}): download it again"
        ) from None


def read_runs_csv(path: Path, may_be_empty: bool = False) -> pd.DataFrame:
    """COLUMNS of a file of either stage as text, "" where a cell is empty."""
    return read_csv(path, COLUMNS, may_be_empty).fillna("")


def find_xrays(folder: Path) -> dict[str, Path]:
    """{image_id: path} of all pictures below a folder, in any tree; masks' folders are left out."""
    files: dict[str, Path] = {}
    for parent, folders, names in walk(folder):
        folders[:] = [name for name in folders if "mask" not in name.lower()]
        for name in names:
            path = parent / name
            if name.startswith(".") or path.suffix.lower() not in SUFFIXES:
                continue
            if path.stem not in files or suffix_rank(path) < suffix_rank(files[path.stem]):
                files[path.stem] = path
    return files


def suffix_rank(path: Path) -> int:
    """Place of a file's suffix in SUFFIXES."""
    return SUFFIXES.index(path.suffix.lower())


def find_test_files(
    input_dir: Path, files: Mapping[str, Path], annotated: Collection[str], notes: list[str]
) -> dict[str, Path]:
    """{image_id: path} of the test images.

    Those of the sample submission; without one, the second stage's, else the first stage's that
    have no annotation.
    """
    ids = read_sample_ids(input_dir)
    if ids is None:
        folder = STAGE_2 if (input_dir / STAGE_2).is_dir() else STAGE_1
        ids = []
        for image_id in sorted(files.keys() - set(annotated)):
            if folder in files[image_id].relative_to(input_dir).parts:
                ids.append(image_id)
        notes.append(
            f"no {SAMPLE} in {input_dir}: the {len(ids)} images of {folder} are the test set"
        )
    test_files = {image_id: files[image_id] for image_id in ids if image_id in files}
    absent = len(ids) - len(test_files)
    note_count(notes, absent, f"images of {SAMPLE} have no file, and get no mask")
    note_twins(notes, ids, files)
    return test_files


def read_nih_groups(
    input_dir: Path, image_ids: Collection[str], notes: list[str]
) -> dict[str, str]:
    """{image_id: NIH patient as group}, as far as MAPPING in input/<slug>/ or input/ tells.

    Of the 6,171 patients 1,952 own several images; the PatientID of the files is another one for
    each image.
    """
    path = find_mapping(input_dir, (MAPPING,))
    if path is None:
        notes.append(
            f"WARNING: the patients are not known (no {MAPPING} with Kaggle_ID and NIH_ID in "
            f"{input_dir}), so images of one patient may fall in different folds, and the score is "
            "flattered"
        )
        return {}
    columns = ["Kaggle_ID", "NIH_ID"]
    table = read_csv(path, columns, may_be_empty=True, remedy="repair or remove it").fillna("")
    patients = table["NIH_ID"].str.split("_").str[0]
    return group_by_nih_patient(
        image_ids, dict(zip(table["Kaggle_ID"], patients, strict=True)), path, notes
    )


# ------------------------------------------------------------------------------- submission


def read_sample_ids(input_dir: Path) -> list[str] | None:
    """Ids of the sample submission, each once (the first stage's repeated some).

    None where there is no sample submission.
    """
    path = Path(input_dir) / SAMPLE
    if not path.is_file():
        return None
    return list(dict.fromkeys(read_runs_csv(path, may_be_empty=True)["ImageId"]))


def format_mask_submission(ids: Sequence[str], masks: Mapping[str, str]) -> pd.DataFrame:
    """Table of COLUMNS in the order of the ids; masks: {image_id: run lengths}, else none."""
    runs = [masks.get(image_id, EMPTY) for image_id in ids]
    return pd.DataFrame({"ImageId": list(ids), "EncodedPixels": runs}, dtype=str)


def check_mask_submission(table: pd.DataFrame, ids: Sequence[str]) -> None:
    """Raises InputError naming the first id that is wrong.

    There must be one row for each id, in their order, whose run lengths decode to a mask that
    encodes to the same again.
    """
    if list(table.columns) != COLUMNS or list(table["ImageId"]) != list(ids):
        raise InputError(
            f"the submission must have the columns {', '.join(COLUMNS)} and one row for each of "
            f"the {len(ids)} test images in their order"
        )
    for image_id, runs in zip(table["ImageId"], table["EncodedPixels"], strict=True):
        try:
            written_again = encode_runs(decode_runs(runs, FRAME, FRAME))
        except ValueError as error:
            raise InputError(f"the submission is wrong for {image_id}: {error}") from None
        if written_again != runs:
            raise InputError(
                f"the submission is wrong for {image_id}: its runs touch, or have no length"
            )
