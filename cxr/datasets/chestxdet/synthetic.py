"""A small synthetic copy of ChestX-Det10 in its true on-disk format, oddities included."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from cxr.datasets.phantom.chest import draw_chest
from cxr.datasets.phantom.dicom import NIH_SIDE, enlarge_to_nih
from cxr.datasets.phantom.findings import DRAW, draw_with_findings
from cxr.datasets.phantom.folder import building, is_made, write_csv_lines
from cxr.datasets.phantom.patients import draw_patients

# Boxes in the data set are from 2,537 (Consolidation) to 160 (Mass); the square root leaves some
# of each to a demo. In the order of DRAW.
WEIGHTS = np.sqrt([2537, 738, 2092, 955, 160, 298, 347, 340, 661, 211])
NORMAL_SHARE = 0.2
MODES = {0: "RGBA", 1: "RGB"}  # a few files of the original are not gray
FIRST_TRAIN = 36200  # numbers in the names of the first files
FIRST_TEST = 70000


class WrittenImages(NamedTuple):
    """Entries for the JSON file, and (file name, NIH patient) for the mapping."""

    entries: list[dict[str, Any]]
    patients: list[tuple[str, str]]


def draw_names(rng: np.random.Generator) -> list[str]:
    """Findings of one image: none, or one to three different ones."""
    if rng.random() < NORMAL_SHARE:
        return []
    count = rng.choice([1, 2, 3], p=[0.4, 0.4, 0.2])
    shares = WEIGHTS / WEIGHTS.sum()
    return list(rng.choice(list(DRAW), count, replace=False, p=shares))


def write_chestxdet_images(
    folder: Path, seed: Sequence[int], count: int, first: int, side: int
) -> WrittenImages:
    """Write PNGs, drawn at (side, side) and numbered from `first` on, into a new folder."""
    folder.mkdir(parents=True)
    patient_images = draw_patients(np.random.default_rng(seed), count)
    entries = []
    patients = []
    for number, patient in enumerate(patient_images):
        rng = np.random.default_rng([*seed, number])
        name = f"{first + 7 * number}.png"
        view = str(rng.choice(["PA", "AP"]))
        chest = draw_chest(rng, view, patient.sex, patient.age)
        image, findings = draw_with_findings(rng, chest, draw_names(rng), side)
        picture = Image.fromarray(enlarge_to_nih(image)).convert(MODES.get(number, "L"))
        picture.save(folder / name, compress_level=1)

        labels = [label for label, _ in findings]
        boxes = [np.round(box * NIH_SIDE).astype(int).tolist() for _, box in findings]
        entries.append({"file_name": name, "syms": labels, "boxes": boxes})
        patients.append((name, patient.nih_patient))
    return WrittenImages(entries, patients)


def write_chestxdet(
    folder: Path, n_train: int = 160, n_test: int = 24, seed: int = 0, side: int = 512
) -> bool:
    """Write a synthetic chestx-det10 into `folder`, drawn at `side`, of 1024 pixels.

    train.json also names an image that is not there and has a box without area, as the original's
    copies do. The folder appears whole or not at all. One that was made with the same settings is
    kept: returns False. Raises InputError if the folder holds anything else.
    """
    folder = Path(folder)
    settings = {"n_train": n_train, "n_test": n_test, "seed": seed, "side": side}
    if is_made(folder, settings):
        return False
    with building(folder, settings) as unfinished:
        train = write_chestxdet_images(
            unfinished / "train_data", [seed, 0], n_train, FIRST_TRAIN, side
        )
        test = write_chestxdet_images(unfinished / "test_data", [seed, 1], n_test, FIRST_TEST, side)
        if train.entries:
            train.entries[-1]["syms"].append("Nodule")
            train.entries[-1]["boxes"].append([500, 500, 500, 520])
        absent = {"file_name": "99999.png", "syms": ["Mass"], "boxes": [[300, 300, 400, 400]]}
        train.entries.append(absent)
        (unfinished / "train.json").write_text(json.dumps(train.entries), encoding="utf-8")
        (unfinished / "test.json").write_text(json.dumps(test.entries), encoding="utf-8")
        mapping = unfinished / "nih_mapping.csv"
        write_csv_lines(mapping, "file_name,nih_patient_id", train.patients)
    return True
