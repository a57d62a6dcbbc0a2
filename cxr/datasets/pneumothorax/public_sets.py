"""Small drawn copies of NIH ChestX-ray14 and CheXpert in their true form: trees, tables, names.

Of their many findings only the pneumothorax is drawn and told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from cxr.datasets.phantom.chest import draw_chest
from cxr.datasets.phantom.folder import building, is_made, write_csv_lines
from cxr.datasets.phantom.patients import draw_patients
from cxr.datasets.pneumothorax.synthetic import POSITIVE_SHARE, draw_pneumothorax_xray

COUNT = 32  # images of each
SIDE = 256  # pixels
NIH_TABLE = "Data_Entry_2017.csv"
NIH_COLUMNS = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
)
CHEXPERT_TABLE = "train.csv"
CHEXPERT_ROOT = "CheXpert-v1.0-small"  # as its table calls the folder
CHEXPERT_COLUMNS = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Pneumothorax"
UNCERTAIN_EVERY = 8  # of CheXpert's images, counted from the first
LATERAL_EVERY = 7


@dataclass(frozen=True)
class DrawnImage:
    """picture (SIDE, SIDE) uint8, and what a table says of it."""

    picture: np.ndarray
    positive: bool
    nih_file: str  # as the NIH would call it
    sex: str
    age: int
    view: str


def draw_images(seed: int, count: int) -> Iterator[DrawnImage]:
    """Yield drawn X-rays, the first POSITIVE_SHARE of them with a pneumothorax."""
    rng = np.random.default_rng(seed)
    for number, patient in enumerate(draw_patients(rng, count)):
        image_rng = np.random.default_rng([seed, number])
        view = str(image_rng.choice(["PA", "AP"]))
        chest = draw_chest(image_rng, view, patient.sex, patient.age)
        positive = number < POSITIVE_SHARE * count
        picture, _ = draw_pneumothorax_xray(image_rng, chest, positive, SIDE)
        yield DrawnImage(picture, positive, patient.nih_file, patient.sex, patient.age, view)


def write_nih(folder: Path, seed: int = 1, count: int = COUNT) -> bool:
    """images_001/images/<patient>_<number>.png and Data_Entry_2017.csv; False if it is there."""

    def fill(unfinished: Path) -> None:
        lines = []
        for number, image in enumerate(draw_images(seed, count)):
            name = image.nih_file
            part = f"images_{1 + number % 2:03}"
            write_picture(unfinished / part / "images" / name, image.picture)
            finding = "Effusion|Pneumothorax" if image.positive else "No Finding"
            patient, _, follow_up = Path(name).stem.partition("_")
            facts = (int(follow_up), int(patient), image.age, image.sex, image.view)
            lines.append((name, finding, *facts))
        write_csv_lines(unfinished / NIH_TABLE, NIH_COLUMNS, lines)

    return write_folder(folder, {"nih": seed, "count": count}, fill)


def write_chexpert(folder: Path, seed: int = 2, count: int = COUNT) -> bool:
    """train/<patient>/<study>/view1_frontal.jpg and train.csv; False if it is there.

    Some labels are uncertain, some pictures lateral by the table.
    """

    def fill(unfinished: Path) -> None:
        lines = []
        for number, image in enumerate(draw_images(seed, count)):
            lateral = number % LATERAL_EVERY == LATERAL_EVERY - 1
            projection = "Lateral" if lateral else "Frontal"
            name = f"train/patient{number:05}/study1/view1_{projection.lower()}.jpg"
            write_picture(unfinished / name, image.picture)
            label = "1.0" if image.positive else ""
            if number % UNCERTAIN_EVERY == 0:
                label = "-1.0"
            no_finding = "" if image.positive else "1.0"
            view = "" if lateral else image.view
            path = f"{CHEXPERT_ROOT}/{name}"
            lines.append((path, image.sex, image.age, projection, view, no_finding, label))
        write_csv_lines(unfinished / CHEXPERT_TABLE, CHEXPERT_COLUMNS, lines)

    return write_folder(folder, {"chexpert": seed, "count": count}, fill)


def write_folder(folder: Path, settings: dict[str, int], fill: Callable[[Path], None]) -> bool:
    """Make a folder, whole or not at all; False if it is there already."""
    if is_made(folder, settings):
        return False
    with building(folder, settings) as unfinished:
        fill(unfinished)
    return True


def write_picture(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture)
