"""Lung masks on disk: pictures in one folder, masks of the same names in another."""

from __future__ import annotations

from pathlib import Path

import cv2
import pandas as pd

from cxr.data.dataset import read_png
from cxr.data.image_table import ImageRow, Tables, list_files, make_image_table, no_image_of
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
    pictures = list_files(input_dir / IMAGES, ".png")
    masks = list_files(input_dir / MASKS, ".png")
    for name, path in pictures.items():
        mask_path = masks.get(name) or masks.get(f"{name}_mask")
        if mask_path is None:
            test_rows.append(ImageRow(path.stem, path, stratum=lung_stratum(path)))
        else:
            row, runs = read_mask_row(path, mask_path)
            train_rows.append(row)
            train_masks.append(runs)
    if pictures and masks and not train_rows:
        remedy = "give each picture a mask of its name, or of that and _mask"
        raise no_image_of(IMAGES, pictures, str(input_dir / MASKS), masks, remedy)
    if not train_rows:
        raise InputError(
            f"{input_dir} needs the folders {IMAGES} and {MASKS} with PNG files of the same names"
        )
    train = make_image_table(train_rows).assign(mask=pd.Series(train_masks, dtype=str))
    test = make_image_table(test_rows).assign(mask="")
    return Tables(train, test, [f"{len(test)} pictures have no mask and are the test images"])


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
