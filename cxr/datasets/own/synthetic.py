"""Drawn X-rays with labels as a person may keep them: a tree of DICOMs, a sheet or masks."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from cxr.datasets.lungs.synthetic import draw_picture
from cxr.datasets.own.labels import BOXES, MASKS
from cxr.datasets.phantom.chest import draw_chest
from cxr.datasets.phantom.dicom import NIH_SIDE, ids_from_uuid, write_jpeg_dicom
from cxr.datasets.phantom.findings import draw_with_findings
from cxr.datasets.phantom.folder import building, is_made, write_csv_lines

FINDINGS = ("Consolidation", "Effusion", "Mass")
NORMAL_SHARE = 0.35
IMAGES_OF_A_PATIENT = 2
SITES = ("north", "south")


class DrawnImage(NamedTuple):
    """name: path below the folder. found: (finding, box x1 y1 x2 y2 in pixels)."""

    name: str
    patient: str
    found: list[tuple[str, list[float]]]


def write_own(
    folder: Path,
    kind: str,
    n_train: int = 160,
    n_test: int = 24,
    seed: int = 0,
    side: int = 512,
) -> bool:
    """Write a folder of images with labels of a kind, and n_test images without labels.

    The folder appears whole or not at all. One that was made with the same settings is kept:
    returns False. Raises InputError if the folder holds anything else.
    """
    folder = Path(folder)
    settings = {"n_train": n_train, "n_test": n_test, "seed": seed, "side": side}
    if is_made(folder, settings):
        return False
    with building(folder, settings) as unfinished:
        if kind == MASKS:
            write_masks(unfinished, n_train, n_test, seed, side // 2)
            return True
        drawn = [write_drawn_image(unfinished, [seed, n], side) for n in range(n_train + n_test)]
        write_sheet(unfinished / "labels.csv", kind, drawn[:n_train])
    return True


def write_drawn_image(folder: Path, seed: Sequence[int], side: int) -> DrawnImage:
    """Draw a DICOM of 1024 pixels into the folder of its site."""
    rng = np.random.default_rng(seed)
    number = seed[-1]
    image_id = str(uuid.UUID(bytes=rng.bytes(16), version=4))
    chest = draw_chest(rng, "PA", str(rng.choice(["F", "M"])), int(rng.integers(18, 90)))
    count = 0 if rng.random() < NORMAL_SHARE else int(rng.integers(1, 3))
    names = rng.choice(FINDINGS, count, replace=False)
    image, drawn = draw_with_findings(rng, chest, names, side)
    name = f"{SITES[number % len(SITES)]}/{image_id}.dcm"
    (folder / name).parent.mkdir(exist_ok=True)
    write_jpeg_dicom(folder / name, image, image_id, chest, ids_from_uuid(image_id))
    found = [(finding, np.round(box * NIH_SIDE, 1).tolist()) for finding, box in drawn]
    return DrawnImage(name, f"P{number // IMAGES_OF_A_PATIENT:04d}", found)


def write_sheet(path: Path, kind: str, drawn: Sequence[DrawnImage]) -> None:
    """A row for each box, or for each image with a column of 0 and 1 for each finding."""
    rows: list[list[object]] = []
    for image in drawn:
        facts = [image.name, image.patient]
        names = [finding for finding, _ in image.found]
        if kind != BOXES:
            rows.append([*facts, *(int(finding in names) for finding in FINDINGS)])
            continue
        for finding, box in image.found:
            rows.append([*facts, finding, *box])
        if not image.found:
            rows.append([*facts, "", "", "", "", ""])
    header = "file,patient,finding,x1,y1,x2,y2"
    if kind != BOXES:
        header = ",".join(["file", "patient", *FINDINGS])
    write_csv_lines(path, header, rows)


def write_masks(folder: Path, n_train: int, n_test: int, seed: int, side: int) -> None:
    """PNGs with masks of the lungs beside them, of the same names."""
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    for number in range(n_train + n_test):
        rng = np.random.default_rng([seed, number])
        picture = draw_picture(rng, bool(number % 2), side)
        name = f"image{number:04d}.png"
        cv2.imwrite(str(folder / "images" / name), picture.image)
        if number < n_train:
            cv2.imwrite(str(folder / "masks" / name), 255 * picture.mask)
