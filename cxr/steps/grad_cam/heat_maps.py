"""Where a classifier looked: Grad-CAM of out-of-fold images or any others, and how much of it lies on the lungs.

All places are compared on the stored square picture of an image; the map of a network that saw a crop is put back.
"""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from cxr.data.dataset import XrayDataset, count_workers, read_png, read_table, scaled_boxes
from cxr.geometry.crops import crop_at, fill_boxes
from cxr.geometry.lung_box import lung_box, paste
from cxr.images.folder import find_images
from cxr.images.isolated import read_all
from cxr.images.read import resize
from cxr.inference.lung_crops import CORNERS, load_networks, lung_maps, with_crops
from cxr.inference.predictions import read_predictions
from cxr.inference.predictor import trained_folds
from cxr.inference.run import load_model, run_checkpoints
from cxr.plots.heat_maps import Shown, write_sheet
from cxr.steps.grad_cam.grad_cam import energy_share, heat_maps
from cxr.system.device import choose_device
from cxr.system.disk import read_json, write_json
from cxr.system.errors import InputError

MOST_IN_SHEET = 64  # cases; each has its own picture, too
OF_EACH = 2  # studies shown of each pair of true and predicted class, as the 17th place of SIIM COVID-19 looked at them
SHARES = ("lung box", "lung mask", "area of lung mask", "opacities", "area of opacities")


def look(task, config):
    """Write <run>/heat_maps/: a PNG for each case, sheet.png, grad_cam.json; returns the path of the sheet. Lungs are
    those that --lungs-run finds, or else the run that cut the images.

    Shown are OF_EACH studies of each true and predicted class, out of fold; measured are `config.judge_images` images,
    the same for each run on the same table, so that runs can be compared.
    """
    config = replace(config, fold=None)
    device, images = choose_device(config.device), config.task_dir / "images"
    folds = trained_folds(config)
    train = read_table(config.task_dir / "train.csv")
    train = train[train["fold"].isin(folds)]
    found = {
        one.image_id: one.category
        for fold in folds
        for one in read_predictions(
            config.fold_dir(fold) / f"valid_{config.predictions}", task.kind
        )
    }
    if set(train["image_id"]) - found.keys():
        raise InputError(
            f"{config.run_dir} lacks out-of-fold predictions: run 04_predict.py with the same flags first"
        )
    table = choose(
        train, np.stack([found[image_id] for image_id in train["image_id"]]), config.judge_images
    )
    cut_by = cropped_by(config, folds[0])
    table = with_crops(table, config, cut_by, device) if cut_by else table
    lungs = lung_networks(config.lungs_run or cut_by, config, device)
    rows, cases = [], []
    for fold, part in table.groupby("fold"):
        model = classifier(task, config, fold, device)
        seen = XrayDataset(
            part.drop(columns=["mask", "mask_known"], errors="ignore"), images, model.image_size
        )
        for place, (_, row) in enumerate(part.iterrows()):
            picture = read_png(images / f"{row['image_id']}.png")
            record, case = look_at(
                task, model, seen[0, place]["image"], picture, row, row["predicted"], lungs, device
            )
            rows.append(
                record
                | {
                    "fold": int(fold),
                    "measured": bool(row["measured"]),
                    "shown": bool(row["shown"]),
                }
            )
            if row["shown"]:
                cases.append((row["label"], row["predicted"], row["image_id"], case))
    cases = sorted(cases, key=lambda case: case[:3])
    return write(
        config.run_dir / "heat_maps", config.run, rows, [(name, case) for *_, name, case in cases]
    )


def choose(train, probabilities, most):
    """Rows of the table to look at, with the columns predicted (class of the study), shown and measured.

    probabilities (n, C) of the images; a study's are their mean, an image without a study is one of its own.
    """
    studies = train["study_id"] if "study_id" in train else train["image_id"]
    means = pd.DataFrame(probabilities, index=train.index).groupby(studies).transform("mean")
    table = train.assign(predicted=means.to_numpy().argmax(1))
    firsts = (
        table[~studies.duplicated()]
        .sort_values("image_id")
        .groupby(["label", "predicted"])
        .head(OF_EACH)
    )
    measured = table.sort_values("image_id").iloc[
        np.unique(np.linspace(0, len(table) - 1, most).round().astype(int))
    ]
    table = table.assign(
        shown=table.index.isin(firsts.index), measured=table.index.isin(measured.index)
    )
    return table[table["shown"] | table["measured"]]


def cropped_by(config, fold):
    """Name of the run of lungs that cut the images in training, "" where nothing was cut."""
    return read_json(config.fold_dir(fold) / "config.json").get("lungs", "")


def lung_networks(run, config, device):
    """Networks of a run of the task that finds lungs; none without its name."""
    return load_networks(config.working / "lungs" / run, device) if run else []


def classifier(task, config, fold, device):
    """The last network of a fold. InputError where it does not tell what its class head reads."""
    model = load_model(task, run_checkpoints(task, config, fold)[-1], device)
    if model.cam_layer is None:
        raise InputError(
            f"{task.name} does not classify whole images by one map, which Grad-CAM needs: choose another "
            "--task"
        )
    return model


def look_at(task, model, image, picture, row, wanted, lungs, device):
    """(record for grad_cam.json, Shown) of one image (1, S, S) as the network sees it; `wanted`: the class that is
    explained, None for what the network says. picture (s, s): the whole one; row: width, height and what is known."""
    [heat], [probabilities] = heat_maps(
        model, image[None].to(device), None if wanted is None else [wanted]
    )
    side, size = len(picture), (int(row["width"]), int(row["height"]))
    crop = (
        crop_at([int(row[name]) for name in CORNERS], *size, side)
        if CORNERS[0] in row
        else (0, 0, side, side)
    )
    heat = paste(heat, crop, side, side)
    called = int(probabilities.argmax()) if wanted is None else int(wanted)
    boxes = scaled_boxes(row, side, side)[0]
    shares, box = measure(heat, picture, boxes, lungs, device)
    label = int(row.get("label", -1))
    record = {
        "image_id": str(row["image_id"]),
        "label": task.class_names[label] if label >= 0 else None,
        "predicted": task.class_names[called],
        "probabilities": dict(zip(task.class_names, probabilities.round(6).tolist())),
        "shares": shares,
    }
    return record, Shown(picture, heat, *size, caption(record), boxes, box)


def measure(heat, picture, boxes, lungs, device):
    """({name of SHARES: share or None}, box of the lungs or None), all in pixels of the picture."""
    shares, box = dict.fromkeys(SHARES), None
    if lungs:
        probability = lung_map(lungs, picture, device)
        mask, box = probability > 0.5, lung_box(probability, *picture.shape[::-1])
        shares |= {
            "lung box": energy_share(heat, box),
            "lung mask": energy_share(heat, mask),
            "area of lung mask": float(mask.mean()),
        }
    if len(boxes):
        mask = fill_boxes(boxes, *picture.shape[::-1])
        shares |= {"opacities": energy_share(heat, mask), "area of opacities": float(mask.mean())}
    return {
        name: None if value is None or math.isnan(value) else value
        for name, value in shares.items()
    }, box


def lung_map(networks, picture, device):
    """Mean probability of lung (s, s) of a square picture of this side."""
    image = torch.from_numpy(resize(picture, networks[0].image_size))[None, None].to(device)
    found = lung_maps(image, networks)[None]
    return (
        torch.nn.functional.interpolate(found, size=picture.shape, mode="bilinear")[0, 0]
        .cpu()
        .numpy()
    )


def caption(record):
    chances = ", ".join(
        f"{name.split()[0]} {value:.2f}" for name, value in record["probabilities"].items()
    )
    truth = f"{record['label']}, called " if record["label"] else ""
    return f"{truth}{record['predicted']}\n{chances}\n{record['image_id']}"


def write(folder, run, rows, cases):
    """The picture of each case (name, Shown), the sheet and the records of a run; returns the path of the sheet."""
    for name, case in cases:
        write_sheet(folder / f"{name}.png", [case])
    write_sheet(folder / "sheet.png", [case for _, case in cases[:MOST_IN_SHEET]])
    measured = [row["shares"] for row in rows if row.get("measured", True)]
    write_json(
        folder / "grad_cam.json",
        {"images_measured": len(measured), "means": means_of(measured), "images": rows},
    )
    print(side_by_side({run: means_of(measured)}))
    return folder / "sheet.png"


def means_of(shares):
    """{name of SHARES: mean of what is known, None where nothing is}."""
    known = {name: [one[name] for one in shares if one[name] is not None] for name in SHARES}
    return {name: float(np.mean(values)) if values else None for name, values in known.items()}


def side_by_side(means):
    """Text of a table: a row for each run {name: means}, a column for each of SHARES."""
    return pd.DataFrame(means, index=list(SHARES)).T.astype(float).round(3).to_string(na_rep="-")


def compare_shares(config):
    """The same from grad_cam.json of the runs --compare."""
    paths = {run: config.task_dir / run / "heat_maps" / "grad_cam.json" for run in config.compare}
    missing = [run for run, path in paths.items() if not path.exists()]
    if missing:
        raise InputError(
            f"{paths[missing[0]]} is missing: run 07_grad_cam.py --run {missing[0]} first"
        )
    return side_by_side({run: read_json(path)["means"] for run, path in paths.items()})


def look_at_files(task, config):
    """Heat maps of any X-rays (--images) beside the lungs cut out of them, in --out; returns the path of the sheet."""
    items, _ = find_images(config.images, config.out)
    device, fold = choose_device(config.device), trained_folds(config)[0]
    cut_by, model = cropped_by(config, fold), classifier(task, config, fold, device)
    lungs, cutters = (
        lung_networks(run, config, device) for run in (config.lungs_run or cut_by, cut_by)
    )
    side = int(read_json(config.fold_dir(fold) / "config.json")["size"])
    pictures = read_all(
        [item.path for item in items], [side], max(1, count_workers(config.workers))
    )
    rows, cases = [], []
    for item, read in zip(items, pictures):
        if isinstance(read, InputError):
            print(f"left out: {read}")
            continue
        row = {"image_id": item.name, "width": read.width, "height": read.height}
        seen = read.network
        if cut_by:
            row |= dict(
                zip(CORNERS, lung_box(lung_map(cutters, seen, device), read.width, read.height))
            )
            x1, y1, x2, y2 = crop_at([row[name] for name in CORNERS], read.width, read.height, side)
            seen = resize(seen[y1:y2, x1:x2], side)
        image = torch.from_numpy(resize(seen, model.image_size).copy())[
            None
        ]  # what was read may not be written
        record, case = look_at(task, model, image, read.network, row, None, lungs, device)
        rows.append(record)
        cases.append((item.name, replace(case, crop=bool(lungs))))
    if not rows:
        raise InputError(
            f"none of {len(items)} images could be read: name other files with --images"
        )
    return write(config.out, config.run, rows, cases)
