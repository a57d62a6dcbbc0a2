"""The boxes of detector runs for the images of another task: out of fold, and several runs fused.

Boxes are (n, 4) x1 y1 x2 y2 in original pixels.
"""

import numpy as np
from ensemble_boxes import weighted_boxes_fusion

from cxr.boxes import clip_boxes
from cxr.data import read_table
from cxr.detection import Candidates, Params, merged_boxes
from cxr.disk import InputError
from cxr.predictions import read_predictions

PARAMS = Params(nms_iou=0.5, score_floor=0.001)  # low scores cost nothing in an average precision
MOST = 100  # boxes of an image and run
FUSION_IOU, FUSION_FLOOR = 0.6, 1e-4  # of the 1st and 11th place of SIIM COVID-19 2021


def find_boxes(config, detector, table):
    """{image_id: (boxes, scores (n,) falling)} of the rows of a table by the runs `config.opacities` of a task.

    Rows with a fold (a train.csv) get the boxes of the detector's models that never saw that fold, others those of all
    models. Raises InputError where a run, an image or predictions are missing, or the folds are others.
    """
    folder = config.working / detector
    if "fold" in table:
        check_folds(table, folder, detector)
    found = [run_boxes(folder / run, config.predictions, table, detector) for run in config.opacities]
    sizes = zip(table["image_id"], table["width"], table["height"])
    return {image_id: fuse([boxes[image_id] for boxes in found], width, height) for image_id, width, height in sizes}


def check_folds(table, folder, detector):
    """InputError where an image is in another fold of the detector's table than here, or is not there."""
    theirs = read_table(folder / "train.csv").set_index("image_id")["fold"].reindex(table["image_id"]).to_numpy()
    other = theirs != table["fold"].to_numpy()
    if other.any():
        raise InputError(f"{other.sum()} of {len(table)} images are in another fold of {folder / 'train.csv'} or "
                         f"not in it, the first: {table['image_id'].iloc[other.argmax()]}; their boxes might come from "
                         "models that saw them: run step 02 of both tasks with the same --input, --folds, --seed and "
                         f"--size, then steps 03 and 04 of {detector}")


def run_boxes(run, predictions, table, detector):
    """{image_id: (boxes, scores)} of a run for the rows of the table."""
    parts = [(run / f"test_{predictions}", table)]
    if "fold" in table:
        parts = [(run / f"fold{fold}" / f"valid_{predictions}", rows) for fold, rows in table.groupby("fold")]
    return {key: found for folder, rows in parts for key, found in part_boxes(folder, rows, run, detector).items()}


def part_boxes(folder, rows, run, detector):
    wanted = set(rows["image_id"])
    found = {candidates.image_id: plain_boxes(candidates) for candidates in read_predictions(folder, Candidates)
             if candidates.image_id in wanted}
    if wanted - found.keys():
        raise InputError(f"{folder} lacks boxes of {len(wanted - found.keys())} of {len(wanted)} images: run "
                         f"03_train.py and 04_predict.py with --task {detector} --run {run.name}, or name another run "
                         "with --opacities")
    return found


def plain_boxes(candidates):
    """(boxes, scores) of an image after suppression, the MOST best ones."""
    boxes, scores, _ = merged_boxes(candidates, PARAMS)
    return clip_boxes(boxes[:MOST], candidates.width, candidates.height), scores[:MOST]


def fuse(found, width, height):
    """(boxes, scores) of [(boxes, scores)], one for each run, by weighted boxes fusion; a single run stays as it is.

    A fused box is the mean of its members, weighted by their scores. Its score is their mean times the share of the
    runs that found it, so it stays within 0 ... 1, which ensemble_boxes' plain mean does not.
    """
    if len(found) == 1:
        return found[0]
    size = np.array([width, height] * 2, float)
    boxes, scores, labels = zip(*((np.clip(own / size, 0, 1), score, np.zeros(len(own))) for own, score in found))
    boxes, scores, _ = weighted_boxes_fusion(boxes, scores, labels, iou_thr=FUSION_IOU, skip_box_thr=FUSION_FLOOR,
                                             conf_type="box_and_model_avg")
    order = np.argsort(-scores, kind="stable")
    return boxes.reshape(-1, 4)[order] * size, scores[order]
