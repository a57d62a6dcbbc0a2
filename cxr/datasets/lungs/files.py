"""Lung masks on disk: pictures in one folder, masks of the same names in another."""

import json
from pathlib import Path

import cv2
import pandas as pd

from cxr.data.dataset import read_png
from cxr.geometry.masks import encode_runs, find_outlines
from cxr.system.disk import InputError

CLASSES = ("No lungs", "Lungs")
IMAGES, MASKS = "cxr", "masks"
KINDS = {"_0": "normal", "_1": "tuberculosis"}  # how file names of both collections end


def read_tables(input_dir):
    """(train, test, notes) of the folder input/<slug>: pictures in cxr/, masks of the same name or NAME_mask in masks/.

    Pictures without a mask are the test images. Columns as `MaskTask` wants them, the pictures being of any size; each
    stands for a patient of its own. InputError where there are no pictures, no masks, or a mask of another size.
    """
    paths = sorted(Path(input_dir, IMAGES).glob("*.png"))
    masks = {path: find_mask(Path(input_dir, MASKS), path.stem) for path in paths}
    labelled = [path for path in paths if masks[path]]
    if not labelled:
        raise InputError(
            f"{input_dir} needs the folders {IMAGES} and {MASKS} with PNG files of the same names"
        )
    train = pd.DataFrame([row_of(path, masks[path]) for path in labelled])
    test = pd.DataFrame(
        [row_of(path, None) for path in paths if not masks[path]], columns=train.columns
    )
    return train, test, [f"{len(test)} pictures have no mask and are the test images"]


def find_mask(folder, stem):
    return next(
        (path for path in (folder / f"{stem}.png", folder / f"{stem}_mask.png") if path.is_file()),
        None,
    )


def row_of(path, mask_path):
    """Table row of a picture, of which nothing is known without a mask."""
    image_id, kind = path.stem, KINDS.get(path.stem[-2:], CLASSES[1])
    common = {"image_id": image_id, "path": str(path), "group": image_id, "stratum": kind}
    if mask_path is None:
        return common | {"mask": "", "boxes": "[]", "box_labels": "[]", "n_boxes": 0, "label": -1}
    mask = (read_png(mask_path) > 127).astype("uint8")
    if mask.shape != read_png(path).shape:
        raise InputError(f"{mask_path} is not of the size of its picture: download both again")
    corners = [cv2.boundingRect(line) for line in find_outlines(mask)]
    boxes = [[x, y, x + width, y + height] for x, y, width, height in corners]
    return common | {
        "mask": encode_runs(mask),
        "boxes": json.dumps(boxes),
        "box_labels": json.dumps([0] * len(boxes)),
        "n_boxes": len(boxes),
        "label": int(mask.any()),
    }
