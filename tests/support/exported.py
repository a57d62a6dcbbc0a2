"""A run of two folds with random but lively networks, as steps 02 to 05 would have left it."""

import json
import math
from dataclasses import asdict

import numpy as np
import pandas as pd
import torch
from torch import nn

from cxr.datasets.rsna.synthetic import write_rsna_images
from cxr.images.png import write_png
from cxr.images.read import read_image
from cxr.images.resize import resize
from cxr.inference.checkpoint import save_state
from cxr.methods.detector.records import Params
from cxr.run_folder import RunFolder
from cxr.system.disk import write_json
from cxr.tasks import TASKS

# Of the PNGs and of the network's input: two steps of shrinking, as in training.
STORED = 224
SIDE = 192
TASK = TASKS["rsna"]
SETTINGS = {
    "task": "rsna",
    "preset": "small",
    "run": "tiny",
    "folds": 2,
    "encoder": "tu-test_resnet",
    "weights": "none",
    "levels": "3-5",
    "channels": 16,
    "head_convs": 1,
    "head_norm": "group",
    "image_size": SIDE,
    "size": STORED,
    "device": "cpu",
    "engine": "torch",
    "precision": "fp32",
    "workers": 0,
}
PARAMS = Params(percentile_shrink=0.8, scale=0.9, gate=True, threshold=1.0)
FLAGS = ("--preset", "small", "--run", "tiny", "--folds", "2")


@torch.no_grad()
def lively_network(settings, pictures, per_image=60):
    """Network with random weights whose scores spread and whose boxes differ.

    About `per_image` scores are above 0.3.
    """
    model = TASK.method.build_model(settings, TASK.dataset.labels).eval()
    score_layer = model.score_head[-1]
    box_layer = model.box_head[-1]
    for layer in (score_layer, box_layer):
        nn.init.normal_(layer.weight, std=0.01)
    side = settings.training.image_size
    images = torch.from_numpy(np.stack([resize(picture, side) for picture in pictures]))
    outputs = model(images[:, None])
    logits = outputs["scores"] - score_layer.bias[0]
    spread = logits.std()
    score_layer.weight /= spread
    box_layer.weight *= 0.7 / outputs["deltas"].std()
    best = (logits / spread).flatten().topk(per_image * len(images)).values[-1]
    score_layer.bias.fill_(math.log(0.3 / 0.7) - best)
    return model


def write_run(working, images=10):
    """Settings of a run below `working`.

    It has tables and PNGs of drawn X-rays, checkpoints and params.json.
    """
    settings = TASK.make_settings(SETTINGS | {"working": working})
    run = RunFolder.of(settings.place)
    pictures = []
    rows = []
    for number, drawn in enumerate(write_rsna_images(working / "dicoms", [0], images, 256)):
        picture, header = read_image(working / "dicoms" / f"{drawn.image_id}.dcm")
        stored = resize(picture, STORED)
        pictures.append(stored)
        write_png(run.task.image(drawn.image_id), stored, header)
        rows.append(table_row(drawn, header, fold=number % 2))
    pd.DataFrame(rows).to_csv(run.task.table("train"), index=False)
    write_json(run.task.preprocess_record, {"size": STORED})
    for number in range(2):
        write_fold(run.fold(number), settings, pictures[:3])
    write_json(run.judged().params, asdict(PARAMS))
    return settings


def table_row(drawn, header, fold):
    """A row of train.csv of a drawn X-ray."""
    boxes = drawn.boxes
    return {
        "image_id": drawn.image_id,
        "group": drawn.image_id,
        "fold": fold,
        "width": header.width,
        "height": header.height,
        "boxes": json.dumps(boxes.tolist()),
        "label": 2 if len(boxes) else 0,
        "box_labels": json.dumps([0] * len(boxes)),
        "n_boxes": len(boxes),
    }


def write_fold(fold, settings, pictures):
    """Two checkpoints, which are the same, of a fold whose training is done."""
    torch.manual_seed(fold.number)
    state = {
        "task": "rsna",
        "config": settings.plain(),
        "fold": fold.number,
        "model": lively_network(settings, pictures).state_dict(),
    }
    for epoch in (1, 2):
        save_state(fold.epoch(epoch), state)
    save_state(fold.last, {"done": True})
    fold.write_config(settings.replace(fold=fold.number).plain())
