"""A task of masks whose network has two layers and whose pictures are white rectangles."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from torch import nn

from cxr.geometry.masks import encode_runs
from cxr.methods.segmenter.method import Segmenter
from cxr.networks.network import Network
from cxr.tasks import TASKS, Task

SIDE = 64
LABELLED = 8  # images; further ones have no labels
UNLABELLED = 4
VALUES = {
    "task": "tinymasks",
    "folds": 2,
    "fold": 0,
    "workers": 0,
    "weights": "none",
    "image_size": SIDE,
    "epochs": 2,
    "lr": 1e-2,
    "clip": 1.0,
    "batch_size": 2,
    "device": "cpu",
    "engine": "torch",
    "precision": "fp32",
    "augmentation": "fifth",
    "schedule": "constant",
    "mask_loss": "bce=1,label=1",
    "label_head": "linear",
}


class TinyMaskNet(Network):
    def __init__(self):
        super().__init__(SIDE, pretrained=False)
        self.encoder = nn.Sequential(nn.Conv2d(1, 4, 5, padding=2), nn.BatchNorm2d(4), nn.ReLU())
        self.mask = nn.Conv2d(4, 1, 1)
        self.label = nn.Linear(4, 1)

    def forward(self, images):
        x = self.encoder(images / 128 - 1)
        return {"mask": self.mask(x), "label": self.label(x.mean((2, 3)))[:, 0]}


class TinySegmenter(Segmenter):
    def build_model(self, settings, labels, load_weights=True):
        return TinyMaskNet()


class TinyMaskTask(Task):
    """The facts of SIIM-ACR Pneumothorax, of which only the scorer is asked."""

    method = TinySegmenter()


TINY_MASKS = TinyMaskTask(
    "tinymasks", "white rectangles", TASKS["pneumothorax"].dataset_class, "segmenter", {}
)


def mask_settings(working, run, **changes):
    """Settings of a run of the tiny task, named as flags are."""
    return TINY_MASKS.make_settings(VALUES | {"working": Path(working), "run": run} | changes)


def write_tiny_masks(working):
    """Tables and pictures of eight labelled images, and the folder `plain` of four further ones.

    Every second one has a bright rectangle and its mask.
    """
    rng = np.random.default_rng(0)
    task = Path(working) / "tinymasks"
    (task / "images").mkdir(parents=True)
    (Path(working) / "plain").mkdir()
    rows = []
    for number in range(LABELLED + UNLABELLED):
        folder = task / "images" if number < LABELLED else Path(working) / "plain"
        rows.append(write_tiny_mask(number, folder, rng))
    train = pd.DataFrame(rows[:LABELLED])
    train.to_csv(task / "train.csv", index=False)
    train[:2].assign(mask="").to_csv(task / "test.csv", index=False)


def write_tiny_mask(number, folder, rng):
    """Write an image and return its row of the table."""
    image_id = f"x{number}"
    image = rng.integers(0, 60, (SIDE, SIDE), dtype=np.uint8)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    if number % 2:
        image[10:40, 20:50] = 250
        mask[10:40, 20:50] = 1
    cv2.imwrite(str(folder / f"{image_id}.png"), image)
    return {
        "image_id": image_id,
        "group": image_id,
        "fold": number // 2 % 2,
        "width": SIDE,
        "height": SIDE,
        "boxes": "[]",
        "box_labels": "[]",
        "mask": encode_runs(mask),
        "label": number % 2,
    }
