"""Where a classifier looked: Grad-CAM of out-of-fold images or any others, and shares on the lungs.

All places are compared on the stored square picture of an image; the map of a network that saw a
crop is put back into it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cxr.data.dataset import XrayDataset, count_workers, read_png, read_table, scaled_boxes
from cxr.geometry.crops import crop_at
from cxr.geometry.lung_box import paste
from cxr.images.folder import find_images
from cxr.images.isolated import read_all
from cxr.images.read import resize
from cxr.inference.lung_crops import CORNERS, LungFinder, load_networks, with_crops
from cxr.data.predictions import read_predictions
from cxr.inference.predictor import trained_folds
from cxr.inference.run import load_model, run_checkpoints
from cxr.plots.heat_maps import Shown, write_sheet
from cxr.steps.grad_cam.grad_cam import compute_heat_maps
from cxr.steps.grad_cam.shares import format_shares, mean_shares, measure_shares
from cxr.system.device import choose_device
from cxr.system.disk import read_json, write_json
from cxr.system.errors import InputError

MOST_IN_SHEET = 64  # cases; each has its own picture, too
# Studies shown of each pair of true and predicted class, as the 17th place of SIIM COVID-19 looked
# at them.
OF_EACH = 2


@dataclass(frozen=True, eq=False)
class Explanation:
    """The heat map of one image: what grad_cam.json holds of it, and how it is drawn."""

    record: dict[str, Any]
    case: Shown

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
        heat = put_back(result.maps[0], row, len(picture))
        probabilities = result.probabilities[0]
        predicted = int(probabilities.argmax()) if label is None else int(label)

        side = len(picture)
        opacities, _ = scaled_boxes(row, side, side)
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
        case = Shown(
            picture,
            heat,
            int(row["width"]),
            int(row["height"]),
            caption_of(record),
            opacities,
            None if lungs is None else lungs.box,
        )
        return Explanation(record, case)


def put_back(heat: np.ndarray, row: Mapping[str, Any] | pd.Series, side: int) -> np.ndarray:
    """A map of a network's input on the whole stored picture (side, side); 0 outside of a crop."""
    crop = (0, 0, side, side)
    if CORNERS[0] in row:
        box = [int(row[name]) for name in CORNERS]
        crop = crop_at(box, int(row["width"]), int(row["height"]), side)
    return paste(heat, crop, side, side)


def caption_of(record: Mapping[str, Any]) -> str:
    """Truth, prediction and probabilities of a record, and the name of the image."""
    chances = []
    for name, probability in record["probabilities"].items():
        chances.append(f"{name.split()[0]} {probability:.2f}")
    truth = f"{record['label']}, called " if record["label"] else ""
    return f"{truth}{record['predicted']}\n{', '.join(chances)}\n{record['image_id']}"


def look(task, config) -> Path:
    """Heat maps of out-of-fold images in <run>/heat_maps/; returns the path of the sheet.

    Written are a PNG for each case, sheet.png and grad_cam.json. Shown are OF_EACH studies of each
    true and predicted class; measured are `config.judge_images` images, the same for each run on
    the same table, so that runs can be compared. Lungs are those that --lungs-run finds, or else
    the run that cut the images.
    """
    config = replace(config, fold=None)
    device = choose_device(config.device)
    folds = trained_folds(config)
    train = read_table(config.task_dir / "train.csv")
    train = train[train["fold"].isin(folds)]
    table = choose_rows(train, out_of_fold_probabilities(task, config, train), config.judge_images)
    cut_by = cropped_by(config, folds[0])
    if cut_by:
        table = with_crops(table, config, cut_by, device)
    lung_finder = open_lung_finder(config.lungs_run or cut_by, config, device)

    rows = []
    cases = []
    for fold, part in table.groupby("fold"):
        model = load_classifier(task, config, fold, device)
        explainer = Explainer(model, task.class_names, lung_finder, device)
        for row, explanation in explain_rows(explainer, part, config.task_dir / "images"):
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
    return write_heat_maps(config.run_dir / "heat_maps", config.run, rows, named_cases)


def out_of_fold_probabilities(task, config, train: pd.DataFrame) -> np.ndarray:
    """Probabilities (n, C) of the table's images. Raises InputError where step 04 was not run."""
    probabilities = {}
    for fold in train["fold"].unique():
        folder = config.fold_dir(fold) / f"valid_{config.predictions}"
        for prediction in read_predictions(folder, task.kind):
            probabilities[prediction.image_id] = prediction.category
    if set(train["image_id"]) - probabilities.keys():
        raise InputError(
            f"{config.run_dir} lacks out-of-fold predictions: run 04_predict.py with the same "
            "flags first"
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


def explain_rows(explainer: Explainer, table: pd.DataFrame, images: Path):
    """Yield (row, Explanation of its predicted class) of the rows of a table; PNGs are in `images`."""
    # Masks are not needed, and the loader would make them of the boxes.
    inputs = table.drop(columns=["mask", "mask_known"], errors="ignore")
    dataset = XrayDataset(inputs, images, explainer.model.image_size)
    for number, (_, row) in enumerate(table.iterrows()):
        picture = read_png(images / f"{row['image_id']}.png")
        yield row, explainer.explain(dataset[0, number]["image"], picture, row, row["predicted"])


def cropped_by(config, fold: int) -> str:
    """Name of the run of lungs that cut the images in training, "" where nothing was cut."""
    return read_json(config.fold_dir(fold) / "config.json").get("lungs", "")


def open_lung_finder(run: str, config, device: torch.device) -> LungFinder | None:
    """The networks of a run of the task that finds lungs; None without a name."""
    if not run:
        return None
    return LungFinder(load_networks(config.working / "lungs" / run, device), device)


def load_classifier(task, config, fold: int, device: torch.device):
    """The last network of a fold. InputError where it does not tell what its class head reads."""
    model = load_model(task, run_checkpoints(task, config, fold)[-1], device)
    if not hasattr(model, "cam_layer"):
        raise InputError(
            f"{task.name} does not classify whole images by one map, which Grad-CAM needs: choose "
            "another --task"
        )
    return model


def write_heat_maps(
    folder: Path,
    run: str,
    rows: Sequence[dict[str, Any]],
    cases: Sequence[tuple[str, Shown]],
) -> Path:
    """A picture of each case (name, Shown), sheet.png and grad_cam.json; prints the mean shares.

    Returns the path of the sheet.
    """
    for name, case in cases:
        write_sheet(folder / f"{name}.png", [case])
    sheet = folder / "sheet.png"
    write_sheet(sheet, [case for _, case in cases[:MOST_IN_SHEET]])
    measured = [row["shares"] for row in rows if row.get("measured", True)]
    means = mean_shares(measured)
    content = {"images_measured": len(measured), "means": means, "images": rows}
    write_json(folder / "grad_cam.json", content)
    print(format_shares({run: means}))
    return sheet


def compare_shares(config) -> str:
    """Text of a table: the shares of the runs --compare. InputError where step 07 is missing."""
    means = {}
    for run in config.compare:
        path = config.task_dir / run / "heat_maps" / "grad_cam.json"
        if not path.exists():
            raise InputError(f"{path} is missing: run 07_grad_cam.py --run {run} first")
        means[run] = read_json(path)["means"]
    return format_shares(means)


def look_at_files(task, config) -> Path:
    """Heat maps of any X-rays (--images) in --out, beside the lungs cut out of them.

    Returns the path of the sheet.
    """
    items, _ = find_images(config.images, config.out)
    device = choose_device(config.device)
    fold = trained_folds(config)[0]
    cut_by = cropped_by(config, fold)
    model = load_classifier(task, config, fold, device)
    lung_finder = open_lung_finder(config.lungs_run or cut_by, config, device)
    cutter = open_lung_finder(cut_by, config, device)
    explainer = Explainer(model, task.class_names, lung_finder, device)

    side = int(read_json(config.fold_dir(fold) / "config.json")["size"])
    paths = [item.path for item in items]
    pictures = read_all(paths, [side], max(1, count_workers(config.workers)))
    rows = []
    cases = []
    for item, picture in zip(items, pictures, strict=True):
        if isinstance(picture, InputError):
            print(f"left out: {picture}")
            continue
        row = {"image_id": item.name, "width": picture.width, "height": picture.height}
        image = picture.network
        if cutter is not None:
            box = cutter.find_box(image, picture.width, picture.height)
            row |= dict(zip(CORNERS, box, strict=True))
            x1, y1, x2, y2 = crop_at(box, picture.width, picture.height, side)
            image = resize(image[y1:y2, x1:x2], side)
        # A copy, since what was read may not be written.
        image = torch.from_numpy(resize(image, model.image_size).copy())[None]
        explanation = explainer.explain(image, picture.network, row)
        rows.append(explanation.record)
        cases.append((item.name, replace(explanation.case, crop=lung_finder is not None)))
    if not rows:
        raise InputError(
            f"none of {len(items)} images could be read: name other files with --images"
        )
    return write_heat_maps(config.out, config.run, rows, cases)
