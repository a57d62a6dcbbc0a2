"""Settings of the three tasks of own labels: how they are read, and what was learned from them.

What the data decides (image size, levels, epochs) is no preset: see plan.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cxr.presets import DETECTOR_FROM_SCRATCH, LITE, Preset
from cxr.settings import DatasetSettings, setting


@dataclass(frozen=True)
class OwnSettings(DatasetSettings):
    """Which file holds the labels, what its columns mean, and the names found in it."""

    labels: str = setting(
        "",
        "file or folder of the labels, where --input holds several: a csv, xlsx or COCO json file, "
        "a folder of YOLO's txt or VOC's xml files, or of masks",
    )
    id_column: str = setting("", "column of a sheet that names the images; default: what fits best")
    label_columns: tuple[str, ...] = setting(
        (), "columns of a sheet that hold the labels: one of classes, or several of 0 and 1"
    )
    patient_column: str = setting(
        "", "column of a sheet that names the patients; default: patient, or the DICOM's PatientID"
    )
    without_label: str = setting(
        "unlabelled",
        "what images without any label are: unlabelled (predicted for labelling), or negative "
        "(looked at, and nothing found)",
        choices=("unlabelled", "negative"),
    )
    uncertain: str = setting(
        "negative",
        "what -1 is in columns of 0 and 1, the report's own doubt in CheXpert: negative, positive, "
        "or leave-out (the image)",
        choices=("negative", "positive", "leave-out"),
    )
    only_rows: tuple[str, ...] = setting(
        (), "only rows of a sheet with COLUMN=VALUE, such as Frontal/Lateral=Frontal"
    )
    check: bool = setting(False, "step 02 only says and draws what it understood")
    class_names: tuple[str, ...] = setting(
        (), "names of the classes in their order; step 02 takes them from the labels", training=True
    )


LEARNING: dict[str, Any] = {
    "optimizer": "adamw",
    "weight_decay": 0.05,
    "schedule": "cosine",
    "clip": 1.0,
    "lr": 4e-4,
    "ema": 0.995,
    "batch_size": 8,
    "augmentation": "20",
}
BOXES = DETECTOR_FROM_SCRATCH | LEARNING | LITE | {"dropout": 0.5, "frozen_stages": 2}
MASKS = LEARNING | LITE | {"augmentation": "15", "lr": 1e-3, "tta": "flip"}
CLASSES = (
    LEARNING
    | LITE
    | {
        "decoder": "blocks",
        "aux_weight": 0.0,
        "dropout": 0.3,
        "label_smoothing": 0.02,
        "augmentation": "15",
        "tta": "flip",
    }
)
# A demo has no time for what a true data set needs.
SHORT: dict[str, Any] = {"size": 256}

AUTO = "settings chosen from the data by step 02"
SHORTLY = "synthetic X-rays, some minutes on two CPU cores"


def presets_of(values: dict[str, Any]) -> dict[str, Preset]:
    """The presets of one of the tasks."""
    return {"auto": Preset(AUTO, values), "demo": Preset(SHORTLY, values | SHORT)}


BOX_PRESETS = presets_of(BOXES)
MASK_PRESETS = presets_of(MASKS)
CLASS_PRESETS = presets_of(CLASSES)
