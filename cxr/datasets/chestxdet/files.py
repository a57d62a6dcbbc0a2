"""ChestX-Det10 on disk: two JSON files of boxes beside two folders of pictures.

https://github.com/Deepwise-AILab/ChestX-Det10-Dataset
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from cxr.data.image_table import (
    NO_FINDING,
    ImageRow,
    Tables,
    findings_row,
    list_files,
    make_image_table,
    no_image_of,
    note_count,
)
from cxr.datasets.nih_patients import group_by_nih_patient
from cxr.geometry.detections import TrueBoxes
from cxr.system.errors import InputError
from cxr.system.tables import read_csv

# The order of the course report, whose nine classes end before the last one.
FINDINGS = (
    "Consolidation",
    "Fibrosis",
    "Effusion",
    "Nodule",
    "Mass",
    "Emphysema",
    "Calcification",
    "Atelectasis",
    "Fracture",
    "Pneumothorax",
)
CLASSES = (NO_FINDING, "Finding")
# file_name, nih_patient_id; not part of the data set, which has renamed the NIH's images.
MAPPING = "nih_mapping.csv"
REPAIR = "repair or remove it"
ENDING = ".png"  # of the pictures, in small letters here, though a file may be called .PNG
GRAY_MODES = ("1", "L", "I", "I;16", "F")  # of Pillow

# {file name: boxes and labels of the image, or None where nothing is known of it}
Entries = dict[str, TrueBoxes | None]


def read_chestxdet(input_dir: Path) -> Tables:
    """Tables of the folder input/<slug>, sorted by image_id.

    The stratum lists the findings with | between them; box_labels are indices into FINDINGS, label
    is one into CLASSES. Without test.json there are no test images, or unlabelled ones if the
    folder test_data is there. Raises InputError for labels that cannot be understood.
    """
    input_dir = Path(input_dir)
    notes: list[str] = []
    train_entries = read_entries(input_dir / "train.json", notes)
    test_entries: Entries = {}
    if (input_dir / "test.json").exists():
        test_entries = read_entries(input_dir / "test.json", notes)
    in_both = train_entries.keys() & test_entries.keys()
    note_count(
        notes,
        len(in_both),
        "images of train.json are in test.json, too, and were left out of the training set",
    )
    for name in in_both:
        del train_entries[name]

    train = read_pictures(train_entries, input_dir / "train_data", notes)
    if train.empty:
        image_folder = input_dir / "train_data"
        present = list_files(image_folder, ENDING)
        ids = [Path(name).stem for name in train_entries]
        remedy = "unpack train_data.zip there"
        raise no_image_of("train.json", ids, str(image_folder), present, remedy)
    if not (input_dir / "test.json").exists():
        for image_id in list_files(input_dir / "test_data", ENDING):
            test_entries[f"{image_id}{ENDING}"] = None
        count = len(test_entries)
        notes.append(f"no test.json in {input_dir}: {count} test images, without labels")
    test = read_pictures(test_entries, input_dir / "test_data", notes)
    train = group_patients(train, input_dir / MAPPING, notes)
    return Tables(train, test, notes)


def read_entries(path: Path, notes: list[str]) -> Entries:
    """Entries of train.json or test.json; boxes without area are left out, with a note."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path} is missing: run 01_download.py, which tells where it belongs"
        ) from None
    except ValueError as error:
        raise InputError(f"{path} is not readable JSON ({error}): download it again") from None
    if not is_entry_list(content):
        raise InputError(
            f"{path} is not a list of entries with file_name, syms and boxes: download it again"
        )
    entries: Entries = {}
    flat = 0
    for entry in content:
        truth = parse_entry(entry, path)
        has_area = (truth.boxes[:, 2:] > truth.boxes[:, :2]).all(axis=1)
        flat += int((~has_area).sum())
        kept = TrueBoxes(truth.boxes[has_area], truth.labels[has_area])
        image_id = Path(str(entry["file_name"])).stem
        entries.setdefault(f"{image_id}{ENDING}", kept)
    note_count(notes, flat, f"boxes of {path.name} have no area and were left out")
    repeated = len(content) - len(entries)
    note_count(notes, repeated, f"entries of {path.name} repeat an image and were left out")
    return entries


def is_entry_list(content: Any) -> bool:
    """Whether the content of a JSON file has the form of train.json."""
    if not isinstance(content, list):
        return False
    keys = {"file_name", "syms", "boxes"}
    return all(isinstance(entry, dict) and keys <= entry.keys() for entry in content)


def parse_entry(entry: Mapping[str, Any], path: Path) -> TrueBoxes:
    """Boxes and labels of one entry. InputError naming the image where it makes no sense."""
    where = f"{path}: {entry['file_name']}"
    names = entry["syms"]
    try:
        boxes = np.array(entry["boxes"], np.float64).reshape(len(entry["boxes"]), 4)
    except (ValueError, TypeError):
        raise InputError(
            f"{where} has a box that is not four numbers: repair it or download it again"
        ) from None
    if len(names) != len(boxes):
        raise InputError(
            f"{where} has {len(names)} syms but {len(boxes)} boxes: repair it or download it again"
        )
    for name in names:
        if name not in FINDINGS:
            known = ", ".join(FINDINGS)
            raise InputError(f"{where} has the unknown finding {name!r}: known are {known}")
    return TrueBoxes(boxes, np.array([FINDINGS.index(name) for name in names], int))


def read_pictures(entries: Entries, folder: Path, notes: list[str]) -> pd.DataFrame:
    """Table of the entries whose picture is in the folder."""
    present = {}
    for image_id, path in list_files(folder, ENDING).items():
        present[f"{image_id}{ENDING}"] = path
    names = sorted(entries.keys() & present.keys())
    absent = sorted(entries.keys() - present.keys())
    example = absent[0] if absent else ""
    note_count(
        notes,
        len(absent),
        f"images have no file in {folder.name} and were left out, such as {example}",
    )
    unlisted = len(present) - len(names)
    note_count(notes, unlisted, f"files of {folder.name} are in no list and were left out")
    note_colours([present[name] for name in names], folder.name, notes)
    rows = []
    for name in names:
        path = present[name]
        truth = entries[name]
        if truth is None:
            rows.append(ImageRow(path.stem, path, stratum=NO_FINDING))
        else:
            rows.append(findings_row(path.stem, path, truth, FINDINGS))
    return make_image_table(rows)


def note_colours(paths: Sequence[Path], folder_name: str, notes: list[str]) -> None:
    """A note on pictures that are not gray. Step 02 makes them gray, and refuses broken ones."""
    coloured = []
    for path in paths:
        try:
            with Image.open(path) as picture:
                mode = picture.mode
        except (OSError, SyntaxError, ValueError):
            continue
        if mode not in GRAY_MODES:
            coloured.append(f"{path.name} ({mode})")
    example = coloured[0] if coloured else ""
    note_count(
        notes,
        len(coloured),
        f"images of {folder_name} have colours or transparency and were made gray, "
        f"such as {example}",
    )


def group_patients(table: pd.DataFrame, path: Path, notes: list[str]) -> pd.DataFrame:
    """The table with NIH patients as groups, as far as the mapping at `path` tells."""
    if not path.is_file():
        notes.append(
            f"the patients are not known (no {path.name} with file_name and nih_patient_id in "
            f"{path.parent}), so images of one patient may fall in different folds"
        )
        return table
    columns = ["file_name", "nih_patient_id"]
    mapping = read_csv(path, columns, may_be_empty=True, remedy=REPAIR).fillna("")
    patients = dict(zip(mapping["file_name"], mapping["nih_patient_id"], strict=True))
    names = [f"{image_id}{ENDING}" for image_id in table["image_id"]]
    groups = group_by_nih_patient(names, patients, path, notes)
    new_groups = []
    for name, image_id in zip(names, table["image_id"], strict=True):
        new_groups.append(groups.get(name, image_id))
    return table.assign(group=new_groups)
