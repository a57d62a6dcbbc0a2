"""A small fake of SIIM-FISABIO-RSNA COVID-19 Detection in its true on-disk format, oddities included."""

import io
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, RLELossless

from cxr.datasets.phantom.chest import (
    draw_chest,
    draw_consolidation,
    draw_lung,
    frame_grid,
    surround,
)
from cxr.datasets.phantom.findings import DRAW, expose, healthy
from cxr.datasets.rsna.synthetic import write_table, write_whole

NEGATIVE, TYPICAL, INDETERMINATE, ATYPICAL = range(4)
COLUMNS = (
    "id,Negative for Pneumonia,Typical Appearance,Indeterminate Appearance,Atypical Appearance"
)
SHARES = (
    0.28,
    0.34,
    0.2,
    0.18,
)  # a demo needs more of the last two than the 17 and 8 % of the original
UNBOXED_SHARE = 0.03  # images of positive studies that were not labelled, as 82 in the original
# The beginning of every training set, so that a small one has all oddities: (patient, study, class, copy of which
# image or None, boxed). Two studies of a patient, a copy without boxes in a study, a study of two different images, an
# unlabelled image, a copy in another patient's study.
FIRST = (
    (0, 0, TYPICAL, None, True),
    (0, 0, TYPICAL, 0, False),
    (0, 1, NEGATIVE, None, False),
    (1, 2, INDETERMINATE, None, True),
    (1, 2, INDETERMINATE, None, True),
    (2, 3, ATYPICAL, None, False),
    (3, 4, TYPICAL, 0, True),
)
BITS = (12, 14, 16)


@dataclass(frozen=True)
class Shot:
    """One image: its ids, the class of its study, the number of the image it is a copy of, if it is one."""

    patient: str
    study: str
    image_id: str
    kind: int
    source: int | None
    boxed: bool


def hexadecimal(rng):
    return rng.bytes(6).hex()


def plan(rng, count, oddities):
    """`count` Shots: patients with one to three studies of one to three images."""
    shots = []
    if oddities:
        patients, studies = (
            [hexadecimal(rng) for _ in range(4)],
            [hexadecimal(rng) for _ in range(5)],
        )
        shots = [
            Shot(patients[patient], studies[study], hexadecimal(rng), kind, source, boxed)
            for patient, study, kind, source, boxed in FIRST
        ]
    while len(shots) < count:
        patient = hexadecimal(rng)
        for _ in range(rng.choice([1, 2, 3], p=[0.75, 0.17, 0.08])):
            shots += plan_study(rng, patient, len(shots))
    return shots[:count]


def plan_study(rng, patient, first):
    """Shots of a study whose first image has this number; of several images those after the first may be its copies."""
    study, kind = hexadecimal(rng), int(rng.choice(4, p=SHARES))
    boxed = kind != NEGATIVE and rng.random() >= UNBOXED_SHARE
    shots = [Shot(patient, study, hexadecimal(rng), kind, None, boxed)]
    for _ in range(rng.choice([0, 1, 2], p=[0.9, 0.08, 0.02])):
        copy = rng.random() < 0.5
        shots.append(
            Shot(
                patient, study, hexadecimal(rng), kind, first if copy else None, boxed and not copy
            )
        )
    return shots


def add_opacity(rng, scene, lung, part):
    """Draw an opacity into a lung (0 or 1), its upper (part 0) or lower (1) half; its box."""
    patch, box = draw_consolidation(
        rng, scene.grid, scene.lungs[lung], 2 * lung - 1, scene.chest, part
    )
    scene.density = np.maximum(scene.density, patch * rng.uniform(0.7, 0.95))
    return box


def draw_kind(rng, scene, kind):
    """Draw what a class looks like; boxes (n, 4) in 0..1.

    Typical: opacities low in both lungs. Indeterminate: one opacity, high in one lung. Atypical: an effusion, with a
    mass beside it or not. (The grading of RSNA's consensus statement of 2020, simplified.)
    """
    first = int(rng.integers(2))
    if kind == TYPICAL:
        parts = [(0, 1), (1, 1), *([(first, 0)] if rng.random() < 0.3 else [])]
        return np.array([add_opacity(rng, scene, *part) for part in parts])
    if kind == INDETERMINATE:
        return np.array([add_opacity(rng, scene, first, 0)])
    if kind == ATYPICAL:
        boxes = [add_effusion(rng, scene, first)]
        return np.array(
            [*boxes, DRAW["Mass"](rng, scene, 1 - first)] if rng.random() < 0.5 else boxes
        )
    return np.zeros((0, 4))


def add_effusion(rng, scene, lung):
    """Fill the bottom of a lung; its box. Larger than that of `phantom_findings`, since it is all there is to see."""
    before = scene.lungs[lung]
    scene.lungs[lung] = np.minimum(
        before, draw_lung(scene.grid, scene.chest, 2 * lung - 1, rng.uniform(0.22, 0.34))
    )
    return surround(before - scene.lungs[lung] > 0.4)


def frame(rng, image, boxes):
    """The same taken from another distance and place, with uneven exposure; boxes (n, 4) in 0..1.

    Without it all drawn chests fill the frame alike, and their hashes are as close as those of copies.
    """
    side = len(image)
    zoom, shift, tilt = (
        rng.uniform(0.75, 1.2, 2),
        rng.uniform(-0.1, 0.1, 2),
        rng.uniform(-0.5, 0.5, 2),
    )
    move = 0.5 - 0.5 * zoom + shift
    warped = cv2.warpAffine(
        image,
        np.array([[zoom[0], 0, move[0] * side], [0, zoom[1], move[1] * side]]),
        (side, side),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    x, y = frame_grid(side)
    light = 1 + tilt[0] * (x - 0.5) + tilt[1] * (y - 0.5)
    boxes = boxes * np.tile(zoom, 2) + np.tile(move, 2)
    return np.clip(warped * light, 0, 255).astype(np.float32), boxes


def draw_source(seed, number, kind, side):
    """(float32 image (side, side), boxes (n, 4) in 0..1, Chest) of an image that is no copy."""
    rng = np.random.default_rng([*seed, number])
    chest = draw_chest(
        rng, str(rng.choice(["PA", "AP"])), str(rng.choice(["M", "F"])), int(rng.integers(20, 90))
    )
    scene = healthy(rng, chest, side)
    boxes = draw_kind(rng, scene, kind)
    image, boxes = frame(rng, expose(rng, scene), boxes)
    return image, np.clip(boxes, 0, 1), chest


def draw_shot(seed, number, shots, side):
    """(float32 image (height, width), boxes (n, 4) in its pixels, Chest). A copy has another size or is mirrored."""
    shot, rng = shots[number], np.random.default_rng([*seed, number, 1])
    source = number if shot.source is None else shot.source
    image, boxes, chest = draw_source(seed, source, shots[source].kind, side)
    if shot.source is not None and (number == 1 or rng.random() < 0.4):
        image, boxes = image[:, ::-1], mirror(boxes)
    width, height = (
        np.random.default_rng([*seed, source, 2]).uniform([0.95, 0.85], [1.2, 1.1]) * side
    ).astype(int)
    scale = 1 if shot.source is None else rng.uniform(0.75, 1.25)
    size = (round(width * scale), round(height * scale))
    picture = cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_LINEAR)
    return picture, boxes * np.tile(size, 2), chest


def mirror(boxes):
    """Boxes (n, 4) in 0..1 of the mirrored picture."""
    return np.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], axis=1)


def store(rng, picture):
    """(picture of 0 to 255 as uint16 of 12 to 16 used bits, these bits, whether it is inverted): every third is."""
    bits, inverted = int(rng.choice(BITS)), rng.random() < 1 / 3
    top = 2**bits - 1
    low, high = rng.uniform(0, 0.1) * top, rng.uniform(0.8, 1) * top
    stored = np.round(low + (high - low) * np.clip(picture, 0, 255) / 255)
    return (top - stored if inverted else stored).astype(np.uint16), bits, inverted


def write_deep_dicom(path, picture, shot, sex, rng):
    """A DICOM of the values of `store`, every second one compressed. The ids are no DICOM UIDs, as in the original."""
    stored, bits, inverted = store(rng, picture)
    meta, data = FileMetaDataset(), Dataset()
    meta.MediaStorageSOPClassUID = data.SOPClassUID = DigitalXRayImageStorageForPresentation
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.PatientID, data.PatientName, data.PatientSex = shot.patient, shot.patient, sex
    data.Modality, data.BodyPartExamined, data.SamplesPerPixel, data.PixelRepresentation = (
        "DX",
        "CHEST",
        1,
        0,
    )
    data.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    data.Rows, data.Columns = stored.shape
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, bits, bits - 1
    data.PixelData, data.file_meta = stored.tobytes(), meta
    data["PixelData"].VR = "OW"
    content = io.BytesIO()  # pydicom would hide the reason if writing to the disk failed
    with pydicom.config.disable_value_validation():
        meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = shot.image_id
        data.StudyInstanceUID, data.SeriesInstanceUID = shot.study, path.parent.name
        if rng.random() < 0.5:
            data.compress(RLELossless, stored, generate_instance_uid=False)
        data.save_as(content, enforce_file_format=True)
    path.write_bytes(content.getvalue())


def write_images(folder, seed, shots, side):
    """Write the DICOMs of the shots into the tree. Returns the boxes (n, 4) of each in its pixels, if it is boxed."""
    found = []
    for number, shot in enumerate(shots):
        rng = np.random.default_rng([*seed, number, 3])
        picture, boxes, chest = draw_shot(seed, number, shots, side)
        path = folder / shot.study / hexadecimal(rng) / f"{shot.image_id}.dcm"
        path.parent.mkdir(parents=True)
        write_deep_dicom(path, picture, shot, chest.sex, rng)
        found.append(np.round(boxes, 2) if shot.boxed else np.zeros((0, 4)))
    return found


def write_tables(folder, shots, boxes, tests):
    """Both csv files of the training set and the sample submission."""
    kinds = {shot.study: shot.kind for shot in shots}
    write_table(
        folder / "train_study_level.csv",
        COLUMNS,
        [
            (f"{study}_study", *(int(kind == k) for k in range(4)))
            for study, kind in sorted(kinds.items())
        ],
    )
    rows = [
        (f"{shot.image_id}_image", *image_cells(own), shot.study) for shot, own in zip(shots, boxes)
    ]
    write_table(folder / "train_image_level.csv", "id,boxes,label,StudyInstanceUID", sorted(rows))
    ids = [
        (f"{study}_study", "negative 1 0 0 1 1") for study in sorted({shot.study for shot in tests})
    ]
    ids += [(f"{shot.image_id}_image", "none 1 0 0 1 1") for shot in tests]
    write_table(folder / "sample_submission.csv", "id,PredictionString", ids)


def image_cells(boxes):
    """The cells boxes and label of an image."""
    if not len(boxes):
        return "", "none 1 0 0 1 1"
    entries = [
        {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1} for x1, y1, x2, y2 in boxes.tolist()
    ]
    corners = [(e["x"], e["y"], e["x"] + e["width"], e["y"] + e["height"]) for e in entries]
    return str(entries), " ".join(f"opacity 1 {' '.join(map(str, corner))}" for corner in corners)


def write_covid(folder, n_train=160, n_test=24, seed=0, side=512):
    """Write a fake of siim-covid19-detection into `folder`, its images about `side` pixels on each side.

    The folder appears whole or not at all. One that was made with the same settings is kept: returns False.
    Raises InputError if `folder` holds anything else.
    """

    def fill(building):
        train = plan(np.random.default_rng([seed, 0]), n_train, True)
        tests = plan(np.random.default_rng([seed, 1]), n_test, False)
        boxes = write_images(building / "train", [seed, 0], train, side)
        write_images(building / "test", [seed, 1], tests, side)
        write_tables(building, train, boxes, tests)

    return write_whole(
        Path(folder), {"n_train": n_train, "n_test": n_test, "seed": seed, "side": side}, fill
    )
