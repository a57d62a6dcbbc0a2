"""A small fake of SIIM-ACR Pneumothorax Segmentation in its true on-disk format, oddities included."""

import uuid
from pathlib import Path

import cv2
import numpy as np

from cxr.datasets.phantom.chest import draw_chest
from cxr.datasets.phantom.findings import DRAW, collapse, expose, healthy
from cxr.datasets.rsna.synthetic import FRAME, draw_patients, write_dicom, write_table, write_whole
from cxr.geometry.masks import EMPTY, encode_runs

PREFIX = "1.2.276.0.7230010.3.1.{}.8323329.{}.1517875{}.{}"  # 2 study, 3 series, 4 image
POSITIVE_SHARE, BOTH_SHARE = 0.4, 0.1  # a demo needs more positives than the 22 % of the original
OTHERS = (
    "Effusion",
    "Nodule",
    "Emphysema",
    "Fibrosis",
)  # that a network must not take for a pneumothorax


def draw_image(rng, chest, positive, side):
    """uint8 image (side, side) and the masks (FRAME, FRAME) of its regions, none unless positive."""
    scene, masks = healthy(rng, chest, side), []
    first = int(rng.integers(2))
    if not positive and rng.random() < 0.5:
        DRAW[str(rng.choice(OTHERS))](rng, scene, first)
    for lung in ([first, 1 - first] if rng.random() < BOTH_SHARE else [first]) if positive else []:
        masks.append(
            cv2.resize(collapse(rng, scene, lung), (FRAME, FRAME), interpolation=cv2.INTER_NEAREST)
        )
    return expose(rng, scene), masks


def write_images(folder, seed, count, side, flat):
    """Write `count` DICOMs, in the study/series/image tree or flat.

    Returns for each (id, run lengths of the regions, file name in the NIH set, which begins with the patient).
    """
    rng, rows = np.random.default_rng(seed), []
    positive = rng.permutation(np.arange(count) < round(POSITIVE_SHARE * count))
    for number, (patient, image_number, sex, age) in enumerate(draw_patients(rng, count)):
        own = np.random.default_rng([*seed, number])
        chest = draw_chest(own, str(own.choice(["PA", "AP"])), sex, age)
        image, masks = draw_image(own, chest, positive[number], side)
        own_number = 300 + 7 * number + 9000 * seed[-1]
        uids = [
            PREFIX.format(level, own_number, f"{number % 900:03}", 200000 + number)
            for level in (2, 3, 4)
        ]
        uids = ["", "", f"ID_{int(own.integers(16**9)):09x}"] if flat else uids
        path = folder / f"{uids[2]}.dcm" if flat else folder / uids[0] / uids[1] / f"{uids[2]}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_dicom(
            path, image, "" if flat else str(uuid.UUID(bytes=own.bytes(16), version=4)), chest, uids
        )
        rows.append(
            (
                uids[2],
                [encode_runs(mask) for mask in masks] or [EMPTY],
                f"{patient:08d}_{image_number:03d}.png",
            )
        )
    return rows


def write_labels(folder, rows, generation):
    """The csv file of the first or second stage: a line for each region, blanks in that of the first."""
    name, blank = (("train-rle.csv", " "), ("stage_2_train.csv", ""))[generation - 1]
    lines = [(image_id, f"{blank}{text}") for image_id, texts, _ in rows for text in texts]
    write_table(folder / name, f"ImageId,{blank}EncodedPixels", lines)


def write_pneumothorax(folder, n_train=160, n_test=24, seed=0, side=512, generation=2):
    """Write a fake of siim-acr-pneumothorax-segmentation into `folder`, drawn at `side` and stored at 1024 pixels.

    The labels name an image that is not there, and one image has no annotation, as in the original. The folder appears
    whole or not at all. One that was made with the same settings is kept: returns False. Raises InputError if `folder`
    holds anything else.
    """

    def fill(building):
        rows = write_images(building / "dicom-images-train", [seed, 0], n_train + 1, side, False)
        flat = generation == 2
        test = building / ("stage_2_images" if flat else "dicom-images-test")
        test = write_images(test, [seed, 1], n_test, side, flat)
        absent = (PREFIX.format(4, 9, "000", 100000), [EMPTY], "00000001_000.png")
        write_labels(building, [*rows[:-1], absent], generation)
        write_table(building / "nih_id.csv", "Kaggle_ID,NIH_ID", [(row[0], row[2]) for row in rows])
        if flat:
            write_table(
                building / "stage_2_sample_submission.csv",
                "ImageId,EncodedPixels",
                [(row[0], EMPTY) for row in test],
            )

    return write_whole(
        Path(folder),
        {
            "n_train": n_train,
            "n_test": n_test,
            "seed": seed,
            "side": side,
            "generation": generation,
        },
        fill,
    )
