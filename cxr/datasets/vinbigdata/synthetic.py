"""A small synthetic copy of VinBigData Chest X-ray Abnormalities: drawn DICOMs, three readers."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cxr.datasets.phantom.chest import draw_chest
from cxr.datasets.phantom.dicom import NIH_SIDE, ids_from_uuid, write_jpeg_dicom
from cxr.datasets.phantom.findings import draw_with_findings
from cxr.datasets.phantom.folder import building, is_made, write_csv_lines
from cxr.datasets.vinbigdata.files import FINDINGS, NO_FINDING, NOTHING_FOUND

# What can be drawn, and the class that it belongs to.
DRAWN = {
    "Atelectasis": "Atelectasis",
    "Calcification": "Calcification",
    "Consolidation": "Consolidation",
    "Nodule": "Nodule/Mass",
    "Mass": "Nodule/Mass",
    "Effusion": "Pleural effusion",
    "Pneumothorax": "Pneumothorax",
    "Fibrosis": "Pulmonary fibrosis",
}
NORMAL_SHARE = 0.3  # a demo needs more findings than the 29 % of the original
READERS = ("R8", "R9", "R10")
SEEN_SHARE = 0.85  # of the findings that a reader marks
JITTER = 0.04  # by how much of a box's size a reader's corners differ
HEADER = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"


def write_vinbigdata_images(
    folder: Path, seed: Sequence[int], count: int, side: int
) -> list[list[object]]:
    """Write `count` DICOMs; returns rows of train.csv, what three readers mark in each."""
    folder.mkdir()
    rows: list[list[object]] = []
    for number in range(count):
        rng = np.random.default_rng([*seed, number])
        image_id = rng.bytes(16).hex()
        chest = draw_chest(rng, "PA", str(rng.choice(["M", "F"])), int(rng.integers(18, 90)))
        findings = 0 if rng.random() < NORMAL_SHARE else rng.integers(1, 4)
        names = rng.choice(list(DRAWN), findings, replace=False)
        image, drawn = draw_with_findings(rng, chest, names, side)
        ids = ids_from_uuid(str(uuid.UUID(image_id)))
        write_jpeg_dicom(folder / f"{image_id}.dicom", image, image_id, chest, ids)
        for reader in READERS:
            rows.extend(read_as(reader, rng, image_id, drawn))
    return rows


def read_as(
    reader: str,
    rng: np.random.Generator,
    image_id: str,
    drawn: Sequence[tuple[str, np.ndarray]],
) -> list[list[object]]:
    """Rows of a reader, who overlooks some of the findings (name, box in 0..1) drawn."""
    rows: list[list[object]] = []
    for drawn_name, box in drawn:
        if rng.random() < SEEN_SHARE:
            size = np.tile(box[2:] - box[:2], 2)
            corners = np.clip(box + JITTER * size * rng.standard_normal(4), 0, 1)
            name = DRAWN[drawn_name]
            pixels = np.round(NIH_SIDE * corners).tolist()
            rows.append([image_id, name, FINDINGS.index(name), reader, *pixels])
    return rows or [[image_id, "No finding", NO_FINDING, reader, "", "", "", ""]]


def write_vinbigdata(
    folder: Path, n_train: int = 160, n_test: int = 24, seed: int = 0, side: int = 512
) -> bool:
    """Write a synthetic vinbigdata-chest-xray-abnormalities-detection, drawn at `side`.

    The folder appears whole or not at all. One that was made with the same settings is kept:
    returns False. Raises InputError if the folder holds anything else.
    """
    folder = Path(folder)
    settings = {"n_train": n_train, "n_test": n_test, "seed": seed, "side": side}
    if is_made(folder, settings):
        return False
    with building(folder, settings) as unfinished:
        labels = write_vinbigdata_images(unfinished / "train", [seed, 0], n_train, side)
        write_vinbigdata_images(unfinished / "test", [seed, 1], n_test, side)
        test_ids = sorted(path.stem for path in (unfinished / "test").iterdir())
        sample = [(image_id, NOTHING_FOUND) for image_id in test_ids]
        write_csv_lines(unfinished / "train.csv", HEADER, labels)
        write_csv_lines(unfinished / "sample_submission.csv", "image_id,PredictionString", sample)
    return True
