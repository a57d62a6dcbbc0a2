"""Where a classifier looked: Grad-CAM of out-of-fold images or any others, and shares on the lungs.

All places are compared on the stored square picture of an image; the map of a network that saw a
crop is put back into it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cxr.data.batch import SampleContent
from cxr.data.dataset import XrayDataset, boxes_in_frame, read_png
from cxr.data.loader import count_workers
from cxr.data.predictions import read_predictions
from cxr.data.tables import read_table
from cxr.geometry.frames import Frame
from cxr.images.folder import find_image_files, is_too_long
from cxr.images.isolated import Picture, read_all
from cxr.images.printable import UnreadableImage
from cxr.images.resize import resize
from cxr.inference.heat_maps import compute_heat_maps, put_back
from cxr.inference.lung_crops import CORNERS, LungFinder, cut_to_box, with_crops
from cxr.inference.predictor import choose_folds
from cxr.inference.run import as_trained, load_model, run_checkpoints
from cxr.methods.base import ImageFacts
from cxr.networks.network import Network
from cxr.plots.heat_maps import HeatMapCase, write_heat_map_sheet
from cxr.run_folder import RunFolder, TaskFolder
from cxr.settings import Settings
from cxr.steps.grad_cam.shares import format_shares, mean_shares, measure_shares
from cxr.system.disk import read_json, write_json
from cxr.system.errors import InputError
from cxr.system.runtime import Runtime, single_runtime
from cxr.tasks import Task

MOST_IN_SHEET = 64  # cases; each has its own picture, too
# Studies shown of each pair of true and predicted class, as the 17th place of SIIM COVID-19 looked
# at them.
OF_EACH = 2


@dataclass(frozen=True, eq=False)
class Explanation:
    """The heat map of one image: what grad_cam.json holds of it, and how it is drawn."""

    record: dict[str, Any]
    case: HeatMapCase

    @property
    def name(self) -> str:
        return self.record["image_id"]


class Explainer:
    """A classifier whose heat maps are compared with the lungs that `lung_finder` finds, if any."""

    def __init__(
        self,
        model: Any,
        class_names: Sequence[str],
        lung_finder: LungFinder | None,
        device: torch.device,
    ) -> None:
        self.model = model
        self.class_names = class_names
        self.lung_finder = lung_finder
        self.device = device

    def explain(
        self,
        image: Tensor,
        picture: np.ndarray,
        row: Mapping[str, Any] | pd.Series,
        label: int | None = None,
    ) -> Explanation:
        """Why an image is of the class `label`, None: of the one that the network says.

        image (1, S, S): as the network sees it. picture (s, s) uint8: the whole stored picture.
        row: width and height of the original, and where known crop, boxes and true label.
        """
        classes = None if label is None else [label]
        result = compute_heat_maps(self.model, image[None].to(self.device), classes)
        facts = ImageFacts.of_row(pd.Series(row))
        heat = put_back(result.maps[0], facts.crop, facts.width, facts.height, len(picture))
        probabilities = result.probabilities[0]
        predicted = int(probabilities.argmax()) if label is None else int(label)

        opacities = np.zeros((0, 4))
        if "boxes" in row:
            stored = Frame("stored", len(picture), len(picture))
            opacities = boxes_in_frame(row, stored).boxes
        lungs = None
        if self.lung_finder is not None:
            lungs = self.lung_finder.find(picture)
        true_label = int(row.get("label", -1))
        record = {
            "image_id": str(row["image_id"]),
            "label": self.class_names[true_label] if true_label >= 0 else None,
            "predicted": self.class_names[predicted],
            "probabilities": dict(
                zip(self.class_names, probabilities.round(6).tolist(), strict=True)
            ),
            "shares": measure_shares(heat, lungs, opacities),
        }
        case = HeatMapCase(
            picture,
            heat,
            int(row["width"]),
            int(row["height"]),
            caption_of(record),
            opacities,
            None if lungs is None else lungs.box,
        )
        return Explanation(record, case)


def caption_of(record: Mapping[str, Any]) -> str:
    """Truth, prediction and probabilities of a record, and the name of the image."""
    chances = []
    for name, probability in record["probabilities"].items():
        chances.append(f"{name.split()[0]} {probability:.2f}")
    truth = f"{record['label']}, called " if record["label"] else ""
    return f"{truth}{record['predicted']}\n{', '.join(chances)}\n{record['image_id']}"


def look(task: Task, settings: Settings) -> Path:
    """Heat maps of out-of-fold images in <run>/heat_maps/; returns the path of the sheet.

    Written are a PNG for each case, sheet.png and grad_cam.json. Shown are OF_EACH studies of each
    true and predicted class; measured are --judge-images images, the same for each run on the same
    table, so that runs can be compared. Lungs are those that --lungs-run finds, or else the run
    that cut the images.
    """
    settings = settings.replace(fold=None)
    runtime = single_runtime(settings.machine)
    run = RunFolder.of(settings.place)
    folds = choose_folds(settings)
    lungs = trained_lungs(task, settings, folds[0])

    train = read_table(run.task.table("train"))
    train = train[train["fold"].isin(folds)]
    probabilities = out_of_fold_probabilities(task, settings, train)
    table = choose_rows(train, probabilities, settings.extra.judge_images)
    if lungs:
        table = with_crops(table, run.task, lungs, runtime, settings.machine.workers)
    lung_finder = open_lung_finder(settings.extra.lungs_run or lungs, settings, runtime)

    rows = []
    cases = []
    for fold, part in table.groupby("fold"):
        model = load_classifier(task, settings, int(fold), runtime.device)
        class_names = task.dataset.labels_of(settings).image_classes
        explainer = Explainer(model, class_names, lung_finder, runtime.device)
        for row, explanation in explain_rows(explainer, part, run.task):
            facts = {
                "fold": int(fold),
                "measured": bool(row["measured"]),
                "shown": bool(row["shown"]),
            }
            rows.append(explanation.record | facts)
            if row["shown"]:
                cases.append((row["label"], row["predicted"], explanation.name, explanation.case))
    cases.sort(key=lambda case: case[:3])
    named_cases = [(name, case) for _, _, name, case in cases]
    return write_heat_maps(run.heat_maps, run.name, rows, named_cases)


def trained_lungs(task: Task, settings: Settings, fold: int) -> str:
    """Name of the run of lungs that cut the images in training, "" where nothing was cut."""
    folder = RunFolder.of(settings.place).fold(fold)
    return as_trained(settings, task, folder).method.lungs


def out_of_fold_probabilities(task: Task, settings: Settings, train: pd.DataFrame) -> np.ndarray:
    """Probabilities (n, C) of the table's images. Raises InputError where step 04 was not run."""
    run = RunFolder.of(settings.place)
    probabilities = {}
    for fold in train["fold"].unique():
        folder = run.fold(int(fold)).valid_predictions(settings.prediction.predictions)
        for prediction in read_predictions(folder, task.method.prediction_class):
            probabilities[prediction.image_id] = prediction.category
    if set(train["image_id"]) - probabilities.keys():
        raise InputError(
            f"{run.path} lacks out-of-fold predictions: run 04_predict.py with the same flags first"
        )
    return np.stack([probabilities[image_id] for image_id in train["image_id"]])


def choose_rows(train: pd.DataFrame, probabilities: np.ndarray, most: int) -> pd.DataFrame:
    """Rows of the table to look at, with the columns predicted, shown and measured.

    probabilities (n, C) of the images; the class of a study is that of their mean, and an image
    without a study is one of its own.
    """
    studies = train["study_id"] if "study_id" in train else train["image_id"]
    means = pd.DataFrame(probabilities, index=train.index).groupby(studies).transform("mean")
    table = train.assign(predicted=means.to_numpy().argmax(1))

    # Of each pair of true and predicted class the first studies.
    firsts = table[~studies.duplicated()].sort_values("image_id")
    shown = firsts.groupby(["label", "predicted"]).head(OF_EACH)
    # Evenly spread over the sorted names, so that every run has the same images.
    places = np.linspace(0, len(table) - 1, most).round().astype(int)
    measured = table.sort_values("image_id").iloc[np.unique(places)]

    table["shown"] = table.index.isin(shown.index)
    table["measured"] = table.index.isin(measured.index)
    return table[table["shown"] | table["measured"]]


def explain_rows(
    explainer: Explainer, table: pd.DataFrame, folder: TaskFolder
) -> Iterator[tuple[pd.Series, Explanation]]:
    """Yield (row, Explanation of its predicted class) of the rows of a table."""
    content = SampleContent(annotated=False, crop=CORNERS[0] in table)
    image_size = explainer.model.image_size
    dataset = XrayDataset(table, folder.images, image_size, content)
    for number, (_, row) in enumerate(table.iterrows()):
        picture = read_png(folder.image(row["image_id"]))
        yield row, explainer.explain(dataset[0, number].image, picture, row, row["predicted"])


def open_lung_finder(run: str, settings: Settings, runtime: Runtime) -> LungFinder | None:
    """The networks of a run of the task that finds lungs; None without a name."""
    if not run:
        return None
    return LungFinder.of_run(settings.place.working, run, runtime.device)


def load_classifier(task: Task, settings: Settings, fold: int, device: torch.device) -> Network:
    """The last network of a fold. InputError where it does not tell what its class head reads."""
    folder = RunFolder.of(settings.place).fold(fold)
    model = load_model(task, run_checkpoints(task, settings, folder)[-1], device)
    if model.cam_layer is None:
        raise InputError(
            f"{task.name} does not classify whole images by one map, which Grad-CAM needs: choose "
            "another --task"
        )
    return model


def write_heat_maps(
    folder: Path,
    run: str,
    rows: Sequence[dict[str, Any]],
    cases: Sequence[tuple[str, HeatMapCase]],
) -> Path:
    """A picture of each case (name, case), sheet.png and grad_cam.json; prints the mean shares.

    Returns the path of the sheet.
    """
    for name, case in cases:
        write_heat_map_sheet(folder / f"{name}.png", [case])
    sheet = folder / "sheet.png"
    write_heat_map_sheet(sheet, [case for _, case in cases[:MOST_IN_SHEET]])
    measured = [row["shares"] for row in rows if row.get("measured", True)]
    means = mean_shares(measured)
    content = {"images_measured": len(measured), "means": means, "images": rows}
    write_json(folder / "grad_cam.json", content)
    print(format_shares({run: means}))
    return sheet


def compare_shares(settings: Settings) -> str:
    """Text of a table: the shares of the runs --compare. InputError where step 07 is missing."""
    folder = TaskFolder.of(settings.place)
    means = {}
    for run in settings.judging.compare:
        path = folder.run(run).heat_maps / "grad_cam.json"
        if not path.exists():
            raise InputError(f"{path} is missing: run 07_grad_cam.py --run {run} first")
        means[run] = read_json(path)["means"]
    return format_shares(means)


def look_at_files(task: Task, settings: Settings) -> Path:
    """Heat maps of any X-rays (--images) in --out, beside the lungs cut out of them.

    Returns the path of the sheet.
    """
    images = settings.images
    items = find_image_files(images.images, images.out).items
    runtime = single_runtime(settings.machine)
    run = RunFolder.of(settings.place)
    fold = choose_folds(settings)[0]
    lungs = trained_lungs(task, settings, fold)
    cutter = open_lung_finder(lungs, settings, runtime)
    lung_finder = open_lung_finder(settings.extra.lungs_run or lungs, settings, runtime)
    model = load_classifier(task, settings, fold, runtime.device)
    class_names = task.dataset.labels_of(settings).image_classes
    explainer = Explainer(model, class_names, lung_finder, runtime.device)

    side = int(run.fold(fold).read_config()["size"])
    paths = [item.path for item in items]
    pictures = read_all(paths, [side], max(1, count_workers(settings.machine.workers)))
    rows = []
    cases = []
    for item, picture in zip(items, pictures, strict=True):
        if isinstance(picture, UnreadableImage):
            print(f"left out: {picture}")
            continue
        if is_too_long(item.in_folder(images.out, ".png")):
            print(f"left out: {item.name} has too long a name for its heat map")
            continue
        if picture.not_frontal_chest:
            print(f"{item.name} is no frontal chest X-ray: {picture.not_frontal_chest}")
            if images.only_chest:
                continue
        explanation = explain_picture(explainer, item.name, picture, cutter)
        rows.append(explanation.record)
        cases.append((item.name, replace(explanation.case, crop=lung_finder is not None)))
    if not rows:
        raise InputError(
            f"none of {len(items)} images could be explained: name other files with --images"
        )
    return write_heat_maps(images.out, run.name, rows, cases)


def explain_picture(
    explainer: Explainer, name: str, picture: Picture, cutter: LungFinder | None
) -> Explanation:
    """Why a picture is what the network says. cutter: finds the lungs it is cut to, if any."""
    row = {"image_id": name, "width": picture.width, "height": picture.height}
    image = picture.network
    if cutter is not None:
        box = cutter.find_box(image, picture.width, picture.height)
        row |= dict(zip(CORNERS, box, strict=True))
        image = cut_to_box(image, box, picture.width, picture.height)
    # A copy, since what was read may not be written.
    image = resize(image, explainer.model.image_size).copy()
    return explainer.explain(torch.from_numpy(image)[None], picture.network, row)
