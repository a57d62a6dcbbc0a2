"""A run of two folds with random but lively networks, as steps 02 to 05 would have left it, for what comes after."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from cxr.config import Config
from cxr.datasets.rsna.dataset import Rsna
from cxr.datasets.rsna.synthetic import write_rsna_images
from cxr.images.png import write_png
from cxr.images.read import read_image
from cxr.images.resize import resize
from cxr.inference.checkpoint import plain_config, save_state
from cxr.methods.detector.records import Params
from cxr.system.disk import write_json

STORED, SIDE = (
    224,
    192,
)  # of the PNGs and of the network's input: two steps of shrinking, as in training
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
    "precision": "fp32",
    "workers": 0,
}
PARAMS = Params(percentile_shrink=0.8, scale=0.9, gate=True, threshold=1.0)
FLAGS = ("--preset", "small", "--run", "tiny", "--folds", "2")


@torch.no_grad()
def lively(config, pictures, per_image=60):
    """Network with random weights whose scores spread and whose boxes differ; about `per_image` are above 0.3."""
    model = Rsna().build_model(config).eval()
    score, box = model.score_head[-1], model.box_head[-1]
    for layer in (score, box):
        nn.init.normal_(layer.weight, std=0.01)
    images = torch.from_numpy(
        np.stack([resize(picture, config.image_size) for picture in pictures])
    )[:, None]
    outputs = model(images)
    logits = outputs["scores"] - score.bias[0]
    score.weight /= logits.std()
    box.weight *= 0.7 / outputs["deltas"].std()
    best = (logits / logits.std()).flatten().topk(per_image * len(images)).values[-1]
    score.bias.fill_(math.log(0.3 / 0.7) - best)
    return model


def write_run(working, images=10):
    """Config of a run below `working`: tables and PNGs of drawn X-rays, a checkpoint for each fold, params.json."""
    config = Config(**SETTINGS, working=Path(working))
    drawn = write_rsna_images(config.working / "dicoms", [0], images, 256)
    rows = []
    for number, image in enumerate(drawn):
        image_id = image.image_id
        boxes = image.boxes
        picture, header = read_image(config.working / "dicoms" / f"{image_id}.dcm")
        write_png(config.task_dir / "images" / f"{image_id}.png", resize(picture, STORED), header)
        rows.append(
            {
                "image_id": image_id,
                "group": image_id,
                "fold": number % 2,
                "width": header.width,
                "height": header.height,
                "boxes": json.dumps(boxes.tolist()),
                "label": 2 if len(boxes) else 0,
                "box_labels": json.dumps([0] * len(boxes)),
                "n_boxes": len(boxes),
            }
        )
    pd.DataFrame(rows).to_csv(config.task_dir / "train.csv", index=False)
    write_json(config.task_dir / "preprocess.json", {"size": STORED})
    for fold in range(2):
        write_fold(config, fold)
    write_json(config.run_dir / "params.json", asdict(PARAMS))
    return config


def write_fold(config, fold):
    torch.manual_seed(fold)
    pictures = [
        resize(read_image(path)[0], STORED)
        for path in sorted(config.working.glob("dicoms/*.dcm"))[:3]
    ]
    state = {
        "task": "rsna",
        "config": plain_config(config),
        "model": lively(config, pictures).state_dict(),
    }
    for epoch in (1, 2):
        save_state(config.fold_dir(fold) / f"epoch{epoch:03}.pt", state)
    save_state(config.fold_dir(fold) / "last.pt", {"done": True})
    write_json(config.fold_dir(fold) / "config.json", plain_config(replace(config, fold=fold)))
