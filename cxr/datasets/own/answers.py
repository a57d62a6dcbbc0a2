"""What comes back for own labels: tables, COCO's json, masks, and what to label next."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from cxr.data.dataset import boxes_in_frame, true_mask
from cxr.data.tables import read_table
from cxr.datasets.base import Answer, AnswerRequest
from cxr.geometry.detections import Detections
from cxr.geometry.frames import Frame
from cxr.geometry.masks import decode_runs, dice
from cxr.methods.classifier.image_scorer import class_scores
from cxr.methods.detector.class_scorer import ClassAP
from cxr.methods.evaluation import Boxes, json_number
from cxr.metrics.doubt import Doubt
from cxr.system.disk import atomic, read_json, write_json
from cxr.system.tables import write_csv

PREDICTIONS = "predictions.csv"
COCO = "coco_results.json"
COCO_IMAGES = "coco_images.json"  # images and classes, to which the results belong
TO_LABEL = "to_label.csv"
PRE_ANNOTATIONS = "pre_annotations.json"
CORNERS = ("x1", "y1", "x2", "y2")


ONE_ANSWER = (
    f"{TO_LABEL} is in the order of the entropy of the merged answer, since there are no answers "
    "of several folds that could disagree: 04_predict.py keeps them without --fold, but of no blend"
)


def write_to_label(request: AnswerRequest) -> None:
    """Images without label, those first on which the folds disagree most.

    Where the answers of several folds are not known, the entropy of the merged one decides, and a
    warning says so.
    """
    rows = [[image_id, *doubt] for image_id, doubt in request.doubts.items()]
    table = pd.DataFrame(rows, columns=["image_id", *Doubt._fields])
    order = ["disagreement", "entropy"]
    if table["disagreement"].isna().any():
        order = ["entropy"]
        request.warnings.append(f"{ONE_ANSWER}.")
        print(f"note: {ONE_ANSWER}")
    table = table.sort_values(order, ascending=False, kind="stable")
    table = table[["image_id", "disagreement", "entropy"]].astype({"disagreement": float})
    write_csv(request.judging.folder.path / TO_LABEL, table.round(6))


def test_rows(request: AnswerRequest) -> pd.DataFrame:
    """The answered rows of test.csv."""
    table = read_table(request.judging.run.task.table("test"))
    assert request.answers is not None
    return table[table["image_id"].isin(request.answers.keys())]


# ---------------------------------------------------------------------------------- boxes


def write_box_answer(request: AnswerRequest) -> Answer:
    """predictions.csv and COCO results of the test images, and pre-annotations of those without
    labels."""
    if not request.answers:
        return Answer(None)
    folder = request.judging.folder.path
    labels = request.judging.labels
    table = test_rows(request)
    thresholds = np.array(list(request.evaluation.params["threshold"].values()))
    predicted = Boxes()
    rows: list[list[Any]] = []
    for image_id, detections in request.answers.items():
        predicted.put_detections(image_id, detections.above(thresholds))
        rows += box_rows(image_id, detections, labels.classes, thresholds)
    columns = ["image_id", "finding", "score", "above_threshold", *CORNERS]
    path = folder / PREDICTIONS
    write_csv(path, pd.DataFrame(rows, columns=columns))

    plan = read_json(request.judging.run.task.plan)
    write_coco(folder, table, request.answers, labels.classes, plan)
    unlabelled = table[table["label"] < 0]
    write_pre_annotations(folder, unlabelled, request.answers, labels.classes, thresholds)
    write_to_label(request)
    return score_boxes(request, table, path, predicted)


def box_rows(
    image_id: str, detections: Detections, names: Sequence[str], thresholds: np.ndarray
) -> list[list[Any]]:
    """A row for each box; one without a box where there is none, so that no image is missing."""
    rows: list[list[Any]] = []
    for box, score, label in zip(
        detections.boxes, detections.scores, detections.labels.astype(int), strict=True
    ):
        corners = np.round(box, 1).tolist()
        is_above = bool(score > thresholds[label])
        rows.append([image_id, names[label], round(float(score), 6), is_above, *corners])
    return rows or [[image_id, "", "", "", "", "", "", ""]]


def write_coco(
    folder: Path,
    table: pd.DataFrame,
    answers: Mapping[str, Detections],
    names: Sequence[str],
    plan: Mapping[str, Any],
) -> None:
    """COCO results with the ids of the input file; without one, with those of COCO_IMAGES beside
    it."""
    numbers = dict(plan["coco_images"])
    categories = plan["coco_classes"] or list(range(1, len(names) + 1))
    next_number = max([0, *(number for number in numbers.values() if isinstance(number, int))])
    results = []
    for image_id in table["image_id"]:
        if image_id not in numbers:
            next_number += 1
            numbers[image_id] = next_number
        detections = answers[image_id]
        for box, score, label in zip(
            detections.boxes, detections.scores, detections.labels.astype(int), strict=True
        ):
            results.append(
                {
                    "image_id": numbers[image_id],
                    "category_id": categories[label],
                    "bbox": coco_box(box),
                    "score": round(float(score), 6),
                }
            )
    images = [coco_image(row, numbers[row["image_id"]]) for _, row in table.iterrows()]
    write_plain_json(folder / COCO, results)
    frame = {"images": images, "annotations": [], "categories": coco_categories(names, categories)}
    write_json(folder / COCO_IMAGES, frame)


def write_pre_annotations(
    folder: Path,
    table: pd.DataFrame,
    answers: Mapping[str, Detections],
    names: Sequence[str],
    thresholds: np.ndarray,
) -> None:
    """Boxes above their thresholds of images without labels as a COCO file, to be corrected."""
    images = []
    annotations: list[dict[str, Any]] = []
    for number, (_, row) in enumerate(table.iterrows(), start=1):
        images.append(coco_image(row, number))
        detections = answers[row["image_id"]].above(thresholds)
        for box, label in zip(detections.boxes, detections.labels.astype(int), strict=True):
            x, y, width, height = coco_box(box)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(label) + 1,
                    "bbox": [x, y, width, height],
                    "area": round(width * height, 1),
                    "iscrowd": 0,
                }
            )
    categories = coco_categories(names, list(range(1, len(names) + 1)))
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_json(folder / PRE_ANNOTATIONS, content)


def coco_box(box: np.ndarray) -> list[float]:
    x1, y1, x2, y2 = np.round(box.astype(float), 1).tolist()
    return [x1, y1, round(x2 - x1, 1), round(y2 - y1, 1)]


def coco_image(row: pd.Series, number: int | str) -> dict[str, Any]:
    name = Path(row["path"]).name
    return {
        "id": number,
        "file_name": name,
        "width": int(row["width"]),
        "height": int(row["height"]),
    }


def coco_categories(names: Sequence[str], numbers: Sequence[int]) -> list[dict[str, Any]]:
    pairs = zip(names, numbers, strict=True)
    return [{"id": number, "name": name, "supercategory": ""} for name, number in pairs]


def write_plain_json(path: Path, content: list[dict[str, Any]]) -> None:
    """A list, which COCO's results are."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


def score_boxes(
    request: AnswerRequest, table: pd.DataFrame, path: Path, predicted: Boxes
) -> Answer:
    """The answer with the score of the labelled test images, where there are some."""
    labelled = table[table["label"] >= 0]
    assert request.answers is not None
    if labelled.empty:
        return Answer(path, predicted=predicted)
    truth = {}
    true = Boxes()
    for _, row in labelled.iterrows():
        marked = boxes_in_frame(row, Frame("original", row["width"], row["height"]))
        truth[row["image_id"]] = marked
        true.put(row["image_id"], marked.boxes, marked.labels)
    answered = {image_id: request.answers[image_id] for image_id in truth}
    scores = ClassAP(iou=0.5).score_boxes(truth, answered, request.judging.labels)
    shown = Boxes()
    for image_id in truth:
        shown.corners[image_id] = predicted.corners[image_id]
        shown.labels[image_id] = predicted.labels[image_id]
        shown.scores[image_id] = predicted.scores[image_id]
    return Answer(path, {"test": scores}, true=true, predicted=shown)


# ---------------------------------------------------------------------------------- masks


def write_mask_answer(request: AnswerRequest) -> Answer:
    """predictions.csv (area of each mask), masks/<image_id>.png in original pixels, and
    to_label.csv."""
    if not request.answers:
        return Answer(None)
    folder = request.judging.folder.path
    (folder / "masks").mkdir(exist_ok=True)
    rows = []
    scores = []
    for _, row in test_rows(request).iterrows():
        image_id = row["image_id"]
        mask = decode_runs(request.answers[image_id], int(row["height"]), int(row["width"]))
        with atomic(folder / "masks" / f"{image_id}.png") as temporary:
            temporary.write_bytes(cv2.imencode(".png", 255 * mask)[1].tobytes())
        area = int(np.count_nonzero(mask))
        rows.append([image_id, area, round(area / mask.size, 6), f"masks/{image_id}.png"])
        if row["label"] >= 0:
            scores.append(dice(mask, true_mask(row)))
    path = folder / PREDICTIONS
    write_csv(path, pd.DataFrame(rows, columns=["image_id", "area", "share", "file"]))
    write_to_label(request)
    if not scores:
        return Answer(path)
    test = {"score": json_number(float(np.mean(scores))), "n_images": len(scores)}
    return Answer(path, {"test": test})


# -------------------------------------------------------------------------------- classes


def write_class_answer(request: AnswerRequest) -> Answer:
    """predictions.csv with the probability of each class, and to_label.csv."""
    if not request.answers:
        return Answer(None)
    folder = request.judging.folder.path
    names = request.judging.labels.image_classes
    table = test_rows(request)
    probabilities = np.array([request.answers[image_id] for image_id in table["image_id"]])
    columns = {"image_id": table["image_id"].to_numpy()}
    for number, name in enumerate(names):
        columns[name] = np.round(probabilities[:, number], 6)
    path = folder / PREDICTIONS
    write_csv(path, pd.DataFrame(columns))
    write_to_label(request)
    is_labelled = (table["label"] >= 0).to_numpy()
    labelled = table[is_labelled]
    if labelled.empty:
        return Answer(path)
    findings = np.array([json.loads(text) for text in labelled["findings"]], bool)
    scores = class_scores(names, findings, probabilities[is_labelled])
    test = {"score": json_number(scores["metric"]), "n_images": len(labelled)}
    test |= {name: json_number(value) for name, value in scores.items() if name != "metric"}
    return Answer(path, {"test": test})
