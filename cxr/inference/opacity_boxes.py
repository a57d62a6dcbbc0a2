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
from cxr.methods.detector.class_scorer import all_boxes
from cxr.methods.detector.records import FUSED_AT_MOST, Candidates, Params
from cxr.system.errors import InputError

# Score of the anchors that are kept; false boxes of low confidence cost next to no average
# precision.
FLOOR = 0.001
# The opacities of one lung seldom overlap, though more often than the RSNA's (0.05).
NMS_IOU = 0.4
# The 11th place's values.
WBF_IOU = 0.6
WBF_SKIP = 1e-4


@dataclass(frozen=True, eq=False)
class ScoredBoxes:
    """Boxes of one image and one run, best first: boxes (n, 4) x1 y1 x2 y2 in original pixels,
    scores (n,); width and height of the original."""

    boxes: np.ndarray
    scores: np.ndarray
    width: int
    height: int


def fused_boxes(
    folder: Path,
    runs: Sequence[str],
    which: Literal["valid", "test"],
    table: pd.DataFrame,
    predictions: str = "predictions",
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{image_id: (boxes (n, 4) in original pixels, scores (n,) falling)} of each row of a table.

    folder: the detectors' task folder, such as working/covid-boxes; runs: names in it.
    which: "valid", each image only by models of `runs` that never saw it, for which the table's
    column fold must be the detectors' own; or "test". predictions: what their --predictions was.
    Raises InputError where folds disagree or predictions are missing.
    """
    if which == "valid":
        check_folds(folder, table)
    boxes_of_runs = []
    for run in runs:
        if which == "valid":
            boxes_of_runs.append(read_out_of_fold(folder / run, f"valid_{predictions}", table))
        else:
            test_folder = folder / run / f"test_{predictions}"
            boxes_of_runs.append(read_boxes(test_folder, table["image_id"]))

    fused = {}
    for image_id in table["image_id"]:
        fused[image_id] = fuse_runs([boxes[image_id] for boxes in boxes_of_runs])
    return fused


def check_folds(folder: Path, table: pd.DataFrame) -> None:
    """InputError where an image is in another fold of the detectors, whose models may know it."""
    path = folder / "train.csv"
    detector_folds = read_table(path).set_index("image_id")["fold"]
    differs = table["image_id"].map(detector_folds).to_numpy() != table["fold"].to_numpy()
    wrong = table["image_id"][differs]
    if len(wrong):
        raise InputError(
            f"{len(wrong)} images, such as {wrong.iloc[0]}, are not in the same fold in {path}, so "
            "its models may have learned them: run 02_preprocess.py of both tasks with the same "
            "--input, --size, --folds, --seed and --cleaning, and train the detector again"
        )


def read_out_of_fold(run_folder: Path, name: str, table: pd.DataFrame) -> dict[str, ScoredBoxes]:
    """Boxes of the validation rows of a table, each by its own fold's models."""
    boxes = {}
    for fold in np.unique(table["fold"]):
        image_ids = table["image_id"][table["fold"] == fold]
        boxes.update(read_boxes(run_folder / f"fold{int(fold)}" / name, image_ids))
    return boxes


def read_boxes(folder: Path, image_ids: Iterable[str]) -> dict[str, ScoredBoxes]:
    """Boxes of these images in one folder of predictions. InputError where one is missing."""
    wanted = set(image_ids)
    boxes = {}
    for candidates in read_predictions(folder, Candidates):
        if candidates.image_id in wanted:
            boxes[candidates.image_id] = best_boxes(candidates)
    missing = sorted(wanted - boxes.keys())
    if missing:
        is_of_fold = folder.parent.name.startswith("fold")
        run_folder = folder.parent.parent if is_of_fold else folder.parent
        raise InputError(
            f"{folder} has no boxes of {missing[0]} ({len(missing)} images): run python "
            f"04_predict.py --task {run_folder.parent.name} --run {run_folder.name}"
        )
    return boxes


def best_boxes(candidates: Candidates) -> ScoredBoxes:
    """The best boxes of an image after suppression, whatever their score."""
    boxes, scores, _ = all_boxes(candidates, Params(nms_iou=NMS_IOU, score_floor=0.0))
    return ScoredBoxes(
        boxes[:FUSED_AT_MOST],
        scores[:FUSED_AT_MOST],
        candidates.width,
        candidates.height,
    )


def fuse_runs(runs: Sequence[ScoredBoxes]) -> tuple[np.ndarray, np.ndarray]:
    """(boxes (n, 4), scores (n,) falling) of what each run says of one image.

    Boxes of a single run stay as they are. Of several, a box's score is the mean over its cluster
    times the share of the runs that have it, so that one that most runs miss sinks.
    """
    if len(runs) == 1:
        return runs[0].boxes, runs[0].scores
    # The package fuses boxes in shares of the image's width and height.
    frame = np.array([runs[0].width, runs[0].height] * 2, float)
    boxes, scores, _ = weighted_boxes_fusion(
        [np.clip(run.boxes / frame, 0, 1) for run in runs],
        [run.scores for run in runs],
        [np.zeros(len(run.boxes)) for run in runs],
        iou_thr=WBF_IOU,
        skip_box_thr=WBF_SKIP,
        conf_type="box_and_model_avg",
    )
    descending = np.argsort(-scores, kind="stable")
    return boxes[descending].reshape(-1, 4) * frame, scores[descending]
