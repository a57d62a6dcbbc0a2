"""Boxes of other runs for a task that has none of its own: read from step 04's records and fused.

Weighted boxes fusion with IoU 0.6 as the COVID-19 competition's 1st and 11th place merged their
detectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from ensemble_boxes import weighted_boxes_fusion

from cxr.data.predictions import read_predictions
from cxr.data.tables import read_table
from cxr.geometry.detections import Detections
from cxr.methods.detector.records import FUSED_AT_MOST, Candidates, Params, merged_detections
from cxr.run_folder import RunFolder, TaskFolder
from cxr.system.errors import InputError

# The opacities of one lung seldom overlap, though more often than the RSNA's (0.05).
NMS_IOU = 0.4
# The 11th place's values.
WBF_IOU = 0.6
WBF_SKIP = 1e-4
Which = Literal["valid", "test"]
BoxesAndScores = tuple[np.ndarray, np.ndarray]  # (n, 4) in original pixels and (n,), best first


@dataclass(frozen=True, eq=False)
class RunBoxes:
    """What one run detected in an image of this size, the best first, in original pixels."""

    detections: Detections
    width: int
    height: int


def fused_boxes(
    folder: TaskFolder,
    runs: Sequence[str],
    which: Which,
    table: pd.DataFrame,
    predictions: str = "predictions",
) -> dict[str, BoxesAndScores]:
    """{image_id: (boxes (n, 4), scores (n,))} of each row of a table, the best first.

    folder: of the detectors' task; runs: names in it. which: "valid", each image only by models of
    `runs` that never saw it, for which the table's column fold must be the detectors' own; or
    "test". predictions: what their --predictions was. Boxes are in original pixels. Raises
    InputError where folds disagree or predictions are missing.
    """
    if which == "valid":
        check_folds(folder, table)
    boxes_of_runs = []
    for name in runs:
        run = folder.run(name)
        if which == "valid":
            boxes_of_runs.append(read_out_of_fold(run, table, predictions))
        else:
            image_ids = table["image_id"]
            boxes_of_runs.append(read_boxes(run, run.test_predictions(predictions), image_ids))

    fused = {}
    for image_id in table["image_id"]:
        fused[image_id] = fuse_runs([boxes[image_id] for boxes in boxes_of_runs])
    return fused


def check_folds(folder: TaskFolder, table: pd.DataFrame) -> None:
    """InputError where an image is in another fold of the detectors, whose models may know it."""
    wrong = images_of_other_folds(folder, table)
    if wrong:
        path = folder.table("train")
        raise InputError(
            f"{len(wrong)} images, such as {wrong[0]}, are not in the same fold in {path}, so "
            "its models may have learned them: run 02_preprocess.py of both tasks with the same "
            "--input, --size, --folds, --seed and --cleaning, and train the detector again"
        )


def images_of_other_folds(folder: TaskFolder, table: pd.DataFrame) -> list[str]:
    """Ids of the rows of a table that are in another fold of the task in `folder`, or in none."""
    folds = read_table(folder.table("train")).set_index("image_id")["fold"]
    differs = table["image_id"].map(folds).to_numpy() != table["fold"].to_numpy()
    return table["image_id"][differs].tolist()


def read_out_of_fold(run: RunFolder, table: pd.DataFrame, predictions: str) -> dict[str, RunBoxes]:
    """Boxes of the validation rows of a table, each by its own fold's models."""
    boxes = {}
    for fold in np.unique(table["fold"]):
        folder = run.fold(int(fold)).valid_predictions(predictions)
        image_ids = table["image_id"][table["fold"] == fold]
        boxes.update(read_boxes(run, folder, image_ids))
    return boxes


def read_boxes(run: RunFolder, folder: Path, image_ids: Iterable[str]) -> dict[str, RunBoxes]:
    """Boxes of these images in one folder of predictions. InputError where one is missing."""
    wanted = set(image_ids)
    boxes = {}
    for candidates in read_predictions(folder, Candidates):
        if candidates.image_id in wanted:
            boxes[candidates.image_id] = best_boxes(candidates)
    missing = sorted(wanted - boxes.keys())
    if missing:
        raise InputError(
            f"{folder} has no boxes of {missing[0]} ({len(missing)} images): run python "
            f"04_predict.py --task {run.task.name} --run {run.name}"
        )
    return boxes


def best_boxes(candidates: Candidates) -> RunBoxes:
    """The best boxes of an image after suppression, whatever their score."""
    width = candidates.width
    height = candidates.height
    every = merged_detections(candidates, Params(nms_iou=NMS_IOU, score_floor=0.0))
    return RunBoxes(every.clipped(width, height).take(slice(FUSED_AT_MOST)), width, height)


def fuse_runs(runs: Sequence[RunBoxes]) -> BoxesAndScores:
    """What several runs say of one image as one list of boxes.

    Boxes of a single run stay as they are. Of several, a box's score is the mean over its cluster
    times the share of the runs that have it, so that one that most runs miss sinks.
    """
    detections = [run.detections for run in runs]
    if len(runs) == 1:
        return detections[0].boxes, detections[0].scores
    # The package fuses boxes in shares of the image's width and height.
    frame = np.array([runs[0].width, runs[0].height] * 2, float)
    boxes, scores, _ = weighted_boxes_fusion(
        [np.clip(each.boxes / frame, 0, 1) for each in detections],
        [each.scores for each in detections],
        [np.zeros(len(each)) for each in detections],
        iou_thr=WBF_IOU,
        skip_box_thr=WBF_SKIP,
        conf_type="box_and_model_avg",
    )
    descending = np.argsort(-scores, kind="stable")
    return boxes[descending].reshape(-1, 4) * frame, scores[descending]
