"""A small fake of ChestX-Det10 in its true on-disk format, oddities included."""

import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from cxr.datasets.phantom.chest import draw_chest
from cxr.datasets.phantom.findings import DRAW, draw_findings
from cxr.datasets.rsna.synthetic import FRAME, draw_patients, write_table, write_whole

# Boxes in the data set are from 2,537 (Consolidation) to 160 (Mass); the square root leaves some of each to a demo.
WEIGHTS = np.sqrt([2537, 738, 2092, 955, 160, 298, 347, 340, 661, 211])
NORMAL_SHARE = 0.2
MODES = {0: "RGBA", 1: "RGB"}  # a few files of the original are not gray


def draw_names(rng):
    """Findings of one image: none, or one to three different ones."""
    if rng.random() < NORMAL_SHARE:
        return []
    return list(
        rng.choice(
            list(DRAW), rng.choice([1, 2, 3], p=[0.4, 0.4, 0.2]), False, WEIGHTS / WEIGHTS.sum()
        )
    )


def write_images(folder, seed, count, first, side):
    """Write PNGs numbered from `first` on. Returns the entries of the JSON file and (file name, patient) pairs."""
    folder.mkdir(parents=True)
    entries, patients = [], []
    for number, (patient, _, sex, age) in enumerate(
        draw_patients(np.random.default_rng(seed), count)
    ):
        rng, name = np.random.default_rng([*seed, number]), f"{first + 7 * number}.png"
        chest = draw_chest(rng, str(rng.choice(["PA", "AP"])), sex, age)
        image, found = draw_findings(rng, chest, draw_names(rng), side)
        full = cv2.resize(image, (FRAME, FRAME), interpolation=cv2.INTER_LINEAR)
        Image.fromarray(full).convert(MODES.get(number, "L")).save(folder / name, compress_level=1)
        boxes = [np.round(box * FRAME).astype(int).tolist() for _, box in found]
        entries.append({"file_name": name, "syms": [kind for kind, _ in found], "boxes": boxes})
        patients.append((name, f"{patient:08d}"))
    return entries, patients


def write_chestxdet(folder, n_train=160, n_test=24, seed=0, side=512):
    """Write a fake of chestx-det10 into `folder`, drawn at `side` and stored at 1024 pixels.

    train.json also names an image that is not there and has a box without area, as the original's copies do.
    The folder appears whole or not at all. One that was made with the same settings is kept: returns False.
    Raises InputError if `folder` holds anything else.
    """

    def fill(building):
        train, patients = write_images(building / "train_data", [seed, 0], n_train, 36200, side)
        test, _ = write_images(building / "test_data", [seed, 1], n_test, 70000, side)
        if train:
            train[-1]["syms"].append("Nodule")
            train[-1]["boxes"].append([500, 500, 500, 520])
        train.append({"file_name": "99999.png", "syms": ["Mass"], "boxes": [[300, 300, 400, 400]]})
        for name, entries in (("train", train), ("test", test)):
            (building / f"{name}.json").write_text(json.dumps(entries), encoding="utf-8")
        write_table(building / "nih_mapping.csv", "file_name,nih_patient_id", patients)

    return write_whole(
        Path(folder), {"n_train": n_train, "n_test": n_test, "seed": seed, "side": side}, fill
    )
