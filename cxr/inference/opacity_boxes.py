"""Boxes of other runs for a task that has none of its own: read from what step 04 wrote, merged over the runs.

Weighted boxes fusion with IoU 0.6 as the COVID-19 competition's 1st and 11th place merged their detectors.
"""

import numpy as np
from ensemble_boxes import weighted_boxes_fusion

from cxr.data.dataset import read_table
from cxr.inference.predictions import read_predictions
from cxr.methods.detector.class_scorer import all_boxes
from cxr.methods.detector.records import FUSED_AT_MOST, Candidates, Params
from cxr.system.disk import InputError

FLOOR = 0.001  # score of the anchors that are kept; false boxes of low confidence cost next to no average precision
NMS_IOU = 0.4  # the opacities of one lung seldom overlap, though more often than the RSNA's (0.05)
WBF_IOU, WBF_SKIP = 0.6, 1e-4  # the 11th place's values


def fused_boxes(folder, runs, which, table, predictions="predictions"):
    """{image_id: (boxes (n, 4) in original pixels, scores (n,) falling)} of every row of a table.

    folder: the detectors' task folder, such as working/covid-boxes; runs: names in it. which: "valid", each image only
    by models of `runs` that never saw it, for which the table's column fold must be the detectors' own; or "test".
    predictions: what their --predictions was. InputError where folds disagree or predictions are missing.
    """
    if which == "valid":
        check_folds(folder, table)
        numbers = [int(fold) for fold in np.unique(table["fold"])]
    found = [
        read_run(folder / run, numbers, f"valid_{predictions}", table)
        if which == "valid"
        else read_folder(folder / run / f"test_{predictions}", table["image_id"])
        for run in runs
    ]
    return {image_id: fuse([boxes[image_id] for boxes in found]) for image_id in table["image_id"]}


def check_folds(folder, table):
    """InputError where an image is in another fold of the detectors, whose models may have learned it."""
    own = read_table(folder / "train.csv").set_index("image_id")["fold"]
    wrong = table["image_id"][table["image_id"].map(own).to_numpy() != table["fold"].to_numpy()]
    if len(wrong):
        raise InputError(
            f"{len(wrong)} images, such as {wrong.iloc[0]}, are not in the same fold in "
            f"{folder / 'train.csv'}, so its models may have learned them: run 02_preprocess.py of both "
            "tasks with the same --input, --size, --folds, --seed and --cleaning, and train the detector "
            "again"
        )


def read_run(root, folds, name, table):
    """{image_id: (boxes, scores, frame)} of the validation rows of a table, each by its own fold's models."""
    return {
        image_id: found
        for fold in folds
        for image_id, found in read_folder(
            root / f"fold{fold}" / name, table["image_id"][table["fold"] == fold]
        ).items()
    }


def read_folder(folder, ids):
    """The same of the images `ids` (n,) of one folder of predictions. InputError where one is missing."""
    wanted, found = set(ids), {}
    for candidates in read_predictions(folder, Candidates):
        if candidates.image_id in wanted:
            found[candidates.image_id] = plain_boxes(candidates)
    missing = sorted(wanted - found.keys())
    if missing:
        root = folder.parent.parent if folder.parent.name.startswith("fold") else folder.parent
        raise InputError(
            f"{folder} has no boxes of {missing[0]} ({len(missing)} images): run python 04_predict.py "
            f"--task {root.parent.name} --run {root.name}"
        )
    return found


def plain_boxes(candidates):
    """(boxes (n, 4) in original pixels, scores (n,) falling, frame (4,): width, height, width, height) of an image: the
    best boxes after suppression, whatever their score."""
    boxes, scores, _ = all_boxes(candidates, Params(nms_iou=NMS_IOU, score_floor=0.0))
    frame = np.array([candidates.width, candidates.height] * 2, float)
    return boxes[:FUSED_AT_MOST], scores[:FUSED_AT_MOST], frame


def fuse(found):
    """(boxes (n, 4), scores (n,) falling) of what `plain_boxes` gave for each run; of one run they stay as they are.

    A box's score is the mean over its cluster times the share of the runs that have it, so that one that most runs
    miss sinks.
    """
    if len(found) == 1:
        return found[0][:2]
    frame = found[0][2]
    boxes, scores, _ = weighted_boxes_fusion(
        [np.clip(part / frame, 0, 1) for part, _, _ in found],
        [part for _, part, _ in found],
        [np.zeros(len(part)) for part, _, _ in found],
        iou_thr=WBF_IOU,
        skip_box_thr=WBF_SKIP,
        conf_type="box_and_model_avg",
    )
    order = np.argsort(-scores, kind="stable")
    return boxes[order].reshape(-1, 4) * frame, scores[order]
