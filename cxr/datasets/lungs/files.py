"""Lung masks on disk: pictures in one folder, masks of the same names in another."""

from __future__ import annotations

from pathlib import Path

import cv2
import pandas as pd

from cxr.data.dataset import read_png
from cxr.data.image_table import ImageRow, Tables, make_image_table
from cxr.geometry.masks import encode_runs, find_outlines
from cxr.system.errors import InputError

CLASSES = ("No lungs", "Lungs")
IMAGES = "cxr"
MASKS = "masks"
# How file names of the Montgomery County and Shenzhen collections end.
STRATA = {"_0": "normal", "_1": "tuberculosis"}


def read_lungs(input_dir: Path) -> Tables:
    """Tables of the folder input/<slug>, with the further column mask.

    Pictures, of any size, are in cxr/, masks of the same name or NAME_mask in masks/. Pictures
    without a mask are the test images. Each picture stands for a patient of its own. Raises
    InputError where there are no pictures, no masks, or a mask of another size.
    """
    input_dir = Path(input_dir)
    train_rows = []
    train_masks = []
    test_rows = []
    for path in sorted((input_dir / IMAGES).glob("*.png")):
        mask_path = find_mask(input_dir / MASKS, path.stem)
        if mask_path is None:
            test_rows.append(ImageRow(path.stem, path, stratum=lung_stratum(path)))
        else:
            row, runs = read_mask_row(path, mask_path)
            train_rows.append(row)
            train_masks.append(runs)
    if not train_rows:
        raise InputError(
            f"{input_dir} needs the folders {IMAGES} and {MASKS} with PNG files of the same names"
        )
    train = make_image_table(train_rows).assign(mask=pd.Series(train_masks, dtype=str))
    test = make_image_table(test_rows).assign(mask="")
    return Tables(train, test, [f"{len(test)} pictures have no mask and are the test images"])


def find_mask(folder: Path, name: str) -> Path | None:
    """The mask of the picture of this name."""
    for path in (folder / f"{name}.png", folder / f"{name}_mask.png"):
        if path.is_file():
            return path
    return None


def lung_stratum(path: Path) -> str:
    """What the name of a picture says about the patient."""
    return STRATA.get(path.stem[-2:], CLASSES[1])


def read_mask_row(path: Path, mask_path: Path) -> tuple[ImageRow, str]:
    """Table row of a picture, with a box around each part of its mask, and the mask's runs."""
    mask = (read_png(mask_path) > 127).astype("uint8")
    if mask.shape != read_png(path).shape:
        raise InputError(f"{mask_path} is not of the size of its picture: download both again")
    boxes = []
    for outline in find_outlines(mask):
        x, y, width, height = cv2.boundingRect(outline)
        boxes.append([x, y, x + width, y + height])
    row = ImageRow(path.stem, path, stratum=lung_stratum(path), boxes=boxes, label=int(mask.any()))
    return row, encode_runs(mask)
