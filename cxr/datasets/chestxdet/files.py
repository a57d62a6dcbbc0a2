"""ChestX-Det10 on disk: two JSON files of boxes beside two folders of pictures.

https://github.com/Deepwise-AILab/ChestX-Det10-Dataset
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from cxr.system.disk import InputError

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
CLASSES = ("No finding", "Finding")
MAPPING = "nih_mapping.csv"  # file_name, nih_patient_id; not part of the data set, which has renamed the NIH's images
GRAY = ("1", "L", "I", "I;16", "F")


def read_tables(input_dir):
    """(train, test, notes) of the folder input/<slug>.

    train, test: one row per image file, sorted by image_id: image_id, path, group (patient), stratum (findings with |
    between them), boxes (JSON text, [[x1, y1, x2, y2], ...] in pixels, not yet clipped), box_labels (JSON text, indices
    into FINDINGS), n_boxes, label (index into CLASSES, -1 unknown). notes: sentences about what is unusual. Without
    test.json there are no test images, or unlabelled ones if test_data is there. InputError for labels that cannot be
    understood.
    """
    input_dir, notes = Path(input_dir), []
    entries = read_entries(input_dir / "train.json", notes)
    tests = (
        read_entries(input_dir / "test.json", notes) if (input_dir / "test.json").exists() else {}
    )
    both = entries.keys() & tests.keys()
    note(
        notes,
        len(both),
        "images of train.json are in test.json, too, and were left out of the training set",
    )
    train = make_table(
        {k: v for k, v in entries.items() if k not in both}, input_dir / "train_data", notes
    )
    if train.empty:
        raise InputError(
            f"{input_dir / 'train_data'} holds no image of train.json: unpack train_data.zip there"
        )
    if not (input_dir / "test.json").exists():
        tests = {path.name: None for path in (input_dir / "test_data").glob("*.png")}
        notes.append(f"no test.json in {input_dir}: {len(tests)} test images, without labels")
    test = make_table(tests, input_dir / "test_data", notes)
    return train.assign(group=read_groups(input_dir, train, notes)), test, notes


def read_entries(path, notes):
    """{file name: (boxes, labels)} of train.json or test.json; boxes without area are left out, with a note."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path} is missing: run 01_download.py, which tells where it belongs"
        ) from None
    except ValueError as error:
        raise InputError(f"{path} is not readable JSON ({error}): download it again") from None
    keys = {"file_name", "syms", "boxes"}
    if not isinstance(content, list) or not all(
        isinstance(entry, dict) and keys <= entry.keys() for entry in content
    ):
        raise InputError(
            f"{path} is not a list of entries with file_name, syms and boxes: download it again"
        )
    found, flat = {}, 0
    for entry in content:
        boxes, labels = read_boxes(entry, path)
        area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        flat += int((~area).sum())
        found.setdefault(str(entry["file_name"]), (boxes[area], labels[area]))
    note(notes, flat, f"boxes of {path.name} have no area and were left out")
    note(
        notes,
        len(content) - len(found),
        f"entries of {path.name} repeat an image and were left out",
    )
    return found


def read_boxes(entry, path):
    """(boxes (n, 4), labels (n,)) of one entry. InputError naming the image where it cannot be understood."""
    where, syms = f"{path}: {entry['file_name']}", entry["syms"]
    try:
        boxes = np.array(entry["boxes"], np.float64).reshape(len(entry["boxes"]), 4)
    except (ValueError, TypeError):
        raise InputError(
            f"{where} has a box that is not four numbers: repair it or download it again"
        ) from None
    if len(syms) != len(boxes):
        raise InputError(
            f"{where} has {len(syms)} syms but {len(boxes)} boxes: repair it or download it again"
        )
    unknown = [sym for sym in syms if sym not in FINDINGS]
    if unknown:
        raise InputError(
            f"{where} has the unknown finding {unknown[0]!r}: known are {', '.join(FINDINGS)}"
        )
    return boxes, np.array([FINDINGS.index(sym) for sym in syms], int)


def make_table(entries, folder, notes):
    """One row for each entry {file name: (boxes, labels) or None} whose picture is there."""
    present = {path.name: path for path in folder.glob("*.png")}
    names = sorted(entries.keys() & present.keys())
    absent = sorted(entries.keys() - present.keys())
    note(
        notes,
        len(absent),
        f"images have no file in {folder.name} and were left out, such as {''.join(absent[:1])}",
    )
    note(
        notes, len(present) - len(names), f"files of {folder.name} are in no list and were left out"
    )
    note_colours(folder, names, notes)
    unknown = (np.zeros((0, 4)), np.zeros(0, int))
    boxes, labels = ([(entries[name] or unknown)[part] for name in names] for part in (0, 1))
    return pd.DataFrame(
        {
            "image_id": pd.Series([Path(name).stem for name in names], dtype=str),
            "path": [str(present[name]) for name in names],
            "group": [Path(name).stem for name in names],
            "stratum": [
                "|".join(FINDINGS[k] for k in np.unique(own)) or CLASSES[0] for own in labels
            ],
            "boxes": [json.dumps(own.tolist()) for own in boxes],
            "box_labels": [json.dumps(own.tolist()) for own in labels],
            "n_boxes": np.array([len(own) for own in boxes], int),
            "label": np.array(
                [
                    -1 if entries[name] is None else int(len(own) > 0)
                    for name, own in zip(names, boxes)
                ],
                int,
            ),
        }
    )


def note_colours(folder, names, notes):
    """A note on pictures that are not gray; step 02 makes them gray, and refuses those that cannot be read."""
    found = []
    for name in names:
        try:
            with Image.open(folder / name) as picture:
                found += [f"{name} ({picture.mode})"] if picture.mode not in GRAY else []
        except (OSError, SyntaxError, ValueError):
            continue
    note(
        notes,
        len(found),
        f"images of {folder.name} have colours or transparency and were made gray, such as "
        f"{''.join(found[:1])}",
    )


def read_groups(input_dir, table, notes):
    """(n,) patients of the rows of the table, the image itself where the patient is not known."""
    path = input_dir / MAPPING
    if not path.is_file():
        notes.append(
            f"the patients are not known (no {MAPPING} with file_name and nih_patient_id in {input_dir}), so "
            "images of one patient may fall in different folds"
        )
        return table["image_id"]
    mapping = pd.read_csv(path, dtype=str)
    if not {"file_name", "nih_patient_id"} <= set(mapping.columns):
        raise InputError(
            f"{path} lacks the column file_name or nih_patient_id: repair or remove it"
        )
    patients = (
        table["path"]
        .map(lambda name: Path(name).name)
        .map(dict(zip(mapping.file_name, mapping.nih_patient_id)))
    )
    notes.append(f"grouped by {patients.nunique()} NIH patients from {path.name}")
    note(
        notes,
        int(patients.isna().sum()),
        f"images are not in {path.name} and stand for a patient of their own",
    )
    return ("nih_" + patients).fillna(table["image_id"])


def note(notes, count, words):
    if count:
        notes.append(f"{count} {words}")
