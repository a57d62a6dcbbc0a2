"""One image's boxes in every frame, from the labels to the answer: for a box that is 3 pixels off.

    python -m cxr.inspect IMAGE_ID                       the default run of the default task
    python -m cxr.inspect IMAGE_ID --task T --run R      another one; --demo for the demo's
    python -m cxr.inspect IMAGE_ID ... --out FOLDER      where the pictures go (default: inspected)

Prints, stage by stage, what is there: the labels in original pixels, the same in the stored PNG and
in the network's input, what the losses make of them, what step 04 kept, what the rule of step 05
makes of it, and the row of the submission. Draws the labels (green) and the answer (orange) into
the picture at each size.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch

from cxr.command_line import read_command_line
from cxr.data.dataset import boxes_in_frame, read_png
from cxr.data.predictions import read_predictions
from cxr.data.tables import read_table
from cxr.geometry.frames import Frame, convert_boxes
from cxr.images.resize import resize
from cxr.inference.gate import gate_of_test, named_gate, out_of_fold_gate
from cxr.inference.run import as_trained
from cxr.methods.evaluation import Rule
from cxr.plots.overlay import enlarge_small, rgb, write_overlay
from cxr.run_folder import JudgedFolder, RunFolder
from cxr.settings import Settings
from cxr.system.disk import read_json
from cxr.system.errors import InputError
from cxr.tasks import Task

LABEL_COLOUR = rgb("#00c853")
ANSWER_COLOUR = rgb("#ff9100")
MOST_PRINTED = 10  # boxes of a stage


@dataclass(frozen=True)
class Stage:
    """What is known of the image at one place of its path. boxes: (n, 4) in pixels of `frame`."""

    title: str
    frame: Frame
    boxes: np.ndarray
    remarks: Sequence[str] = ()


@dataclass(frozen=True)
class InspectedImage:
    """A row of step 02's tables, where it stands, and its stored picture."""

    row: pd.Series
    table: str  # train or test
    picture: np.ndarray  # (s, s) uint8

    @property
    def original(self) -> Frame:
        return Frame("original", int(self.row["width"]), int(self.row["height"]))

    @property
    def stored(self) -> Frame:
        return Frame("stored", len(self.picture), len(self.picture))


def find_image(run: RunFolder, image_id: str) -> InspectedImage:
    """Raises InputError for an id that is in neither table."""
    examples = []
    for name in ("train", "test"):
        table = read_table(run.task.table(name))
        rows = table[table["image_id"] == image_id]
        if len(rows):
            return InspectedImage(rows.iloc[0], name, read_png(run.task.image(image_id)))
        examples += table["image_id"].head(1).tolist()
    raise InputError(
        f"{image_id} is in neither train.csv nor test.csv of {run.task.path}: ids there look like "
        f"{', '.join(examples)}"
    )


def label_stages(task: Task, settings: Settings, image: InspectedImage) -> Iterator[Stage]:
    """The labels in original, stored and network pixels, and what the losses make of them."""
    side = settings.training.image_size
    network = Frame("network", side, side)
    labels = boxes_in_frame(image.row, image.original)
    known = task.dataset.labels_of(settings)
    names = [known.classes[label] for label in labels.labels]
    label = int(image.row.get("label", -1))
    class_name = known.image_classes[label] if label >= 0 else "unknown"
    remarks = [f"image class: {class_name}", f"fold: {image.row.get('fold', 'none (test)')}"]
    if names:
        remarks.append(f"classes: {', '.join(names)}")
    yield Stage("labels, as in the table of step 02", image.original, labels.boxes, remarks)
    stored = convert_boxes(labels.boxes, image.original, image.stored)
    yield Stage("labels in the stored picture", image.stored, stored)

    boxes = convert_boxes(labels.boxes, image.original, network)
    remarks = []
    make_target = task.method.make_target(settings)
    if make_target is not None:
        target = make_target(torch.from_numpy(boxes).float(), torch.from_numpy(labels.labels))
        remarks = [f"target {name}: {tuple(values.shape)}" for name, values in target.items()]
    yield Stage("labels in the network's input", network, boxes, remarks)


def find_prediction(task: Task, settings: Settings, image: InspectedImage) -> Any:
    """What step 04 kept of the image, None if it did not predict it yet."""
    run = RunFolder.of(settings.place)
    name = settings.prediction.predictions
    folder = run.test_predictions(name)
    if image.table == "train":
        folder = run.fold(int(image.row["fold"])).valid_predictions(name)
    for prediction in read_predictions(folder, task.method.prediction_class):
        if prediction.image_id == image.row["image_id"]:
            return prediction
    return None


def answer_stage(task: Task, settings: Settings, image: InspectedImage, prediction: Any) -> Stage:
    """The answer by the rule of params.json, or by the plainest one without that file."""
    run = RunFolder.of(settings.place)
    judged = run.judged(settings.prediction.predictions)
    params = read_json(judged.params) if judged.params.exists() else None
    rule: Rule = task.dataset.scorer.make_rule(params, settings, task.used_labels(settings))
    gate_name = named_gate(params)
    if gate_name:
        gate = gate_of_test(task, run.task, gate_name, None)
        if image.table == "train":
            gate = out_of_fold_gate(task, run.task, gate_name, pd.DataFrame([image.row]))
        prediction = gate.join(prediction)
    answer = rule.detect(prediction)
    source = "params.json" if params else "plain thresholds, since step 05 was not run"
    title = f"answer by {source}"
    if not rule.thresholds:  # a mask, or classes of the image
        return Stage(title, image.original, np.zeros((0, 4)), [str(answer)[:200]])
    kept = answer.above(np.array(list(rule.thresholds.values())))
    remarks = [f"scores: {', '.join(f'{score:.3f}' for score in kept.scores)}"]
    remarks.append(f"{len(answer) - len(kept)} more below their threshold")
    return Stage(title, image.original, kept.boxes, remarks)


def kept_stage(task: Task, image: InspectedImage, prediction: Any) -> Stage:
    """What step 04 kept, before any rule; of masks and classes in words."""
    boxes = task.method.kept_boxes(prediction)
    remarks = [task.method.describe_prediction(prediction)]
    return Stage("kept by step 04", image.original, boxes, remarks)


def submission_remark(judged: JudgedFolder, image_id: str) -> str:
    """The image's row of submission.csv, in words."""
    if not judged.submission.exists():
        return "submission.csv: not written yet"
    table = pd.read_csv(judged.submission, dtype=str, keep_default_na=False)
    rows = table[table.iloc[:, 0].str.startswith(image_id)]
    if rows.empty:
        return "submission.csv: no row, this is no test image"
    return "submission.csv: " + " | ".join(rows.iloc[0].tolist())


def print_stage(number: int, stage: Stage) -> None:
    frame = stage.frame
    print(f"\n{number}. {stage.title} [{frame.name}, {frame.width} x {frame.height}]")
    for box in stage.boxes[:MOST_PRINTED]:
        x1, y1, x2, y2 = box
        print(f"   x1 {x1:8.2f}  y1 {y1:8.2f}  x2 {x2:8.2f}  y2 {y2:8.2f}", end="")
        print(f"   width {x2 - x1:7.2f}  height {y2 - y1:7.2f}")
    if len(stage.boxes) == 0:
        print("   no boxes")
    for remark in stage.remarks:
        print(f"   {remark}")


def draw_stage(
    picture: np.ndarray, frame: Frame, labels: np.ndarray, answer: np.ndarray
) -> np.ndarray:
    """RGB picture in the pixels of a frame with labels and answer (n, 4) in the same."""
    sized = cv2.resize(picture, (frame.width, frame.height), interpolation=cv2.INTER_AREA)
    shown = enlarge_small(sized)
    scale = shown.shape[1] / frame.width
    canvas = cv2.cvtColor(shown, cv2.COLOR_GRAY2RGB)
    for boxes, colour in ((labels, LABEL_COLOUR), (answer, ANSWER_COLOUR)):
        for x1, y1, x2, y2 in np.round(boxes * scale).astype(int).tolist():
            cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, 2)
    return canvas


def inspect_image(task: Task, settings: Settings, image_id: str, out: Path) -> list[Stage]:
    """Print all stages of an image and write its pictures into `out`."""
    run = RunFolder.of(settings.place)
    image = find_image(run, image_id)
    folds = run.trained_folds()
    if not folds:
        begun = ", ".join(run.task.run_names()) or "none"
        raise InputError(f"{run.path} has no trained fold: choose --run (here: {begun})")
    settings = as_trained(settings, task, run.fold(folds[0]))
    stages = list(label_stages(task, settings, image))
    label_count = len(stages)
    prediction = find_prediction(task, settings, image)
    answer = np.zeros((0, 4))
    if prediction is not None:
        stages.append(kept_stage(task, image, prediction))
        stages.append(answer_stage(task, settings, image, prediction))
        answer = stages[-1].boxes
    for number, stage in enumerate(stages, 1):
        print_stage(number, stage)
    if prediction is None:
        print("\nstep 04 has not predicted this image yet")
    print(f"\n{submission_remark(run.judged(settings.prediction.predictions), image_id)}")

    for stage in stages[:label_count]:
        in_frame = convert_boxes(answer, image.original, stage.frame)
        picture = resize(image.picture, settings.training.image_size)
        if stage.frame.name != "network":
            picture = image.picture
        path = out / f"{image_id}-{stage.frame.name}.png"
        write_overlay(path, draw_stage(picture, stage.frame, stage.boxes, in_frame))
        print("drawn:", path)
    return stages


def run_command(arguments: Sequence[str]) -> None:
    """The command line: an image id, then flags of the task; --out without --images."""
    words = list(arguments)
    out = Path("inspected")
    if "--out" in words:
        place = words.index("--out")
        out = Path("".join(words[place + 1 : place + 2]) or "inspected")
        del words[place : place + 2]
    if not words or words[0].startswith("-"):
        sys.exit(__doc__)
    try:
        task, settings = read_command_line("inspect", __doc__ or "", words[1:])
        inspect_image(task, settings, words[0], out)
    except InputError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    run_command(sys.argv[1:])
