"""A detection task with a network of one layer and pictures of white rectangles: everything but the network is real.

As a script, for torchrun: python tests/tiny_task.py WORKING '{"run": ..., "batch_size": ...}' trains and predicts.
"""

import itertools
import json
import os
import signal
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from torch import nn

from cxr.config import Config
from cxr.datasets.rsna.files import read_rsna
from cxr.datasets.rsna.synthetic import write_rsna
from cxr.geometry.anchors import make_anchors
from cxr.data import predictions
from cxr.inference import run as inference
from cxr.methods.detector.image_scorer import make_rule, quick_score
from cxr.methods.detector.method import DetectionTask
from cxr.networks.heads import flatten_maps
from cxr.networks.network import Network
from cxr.steps.train import engine
from cxr.steps.train.engine import train_folds
from cxr.system import distributed

SIDE, LEVELS = 192, (5, 6)


class TinyNet(Network):
    """405 anchors from one convolution of 32x32 pixels; batch norm and dropout, so that their state matters, too."""

    def __init__(self, pretrained, dropout):
        super().__init__(SIDE, pretrained)
        self.levels = LEVELS
        self.encoder = nn.Sequential(nn.Conv2d(1, 8, 32, stride=32), nn.BatchNorm2d(8), nn.ReLU())
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Conv2d(8, 9 * 5, 1)
        self.category = nn.Linear(8, 3)
        self.register_buffer("anchors", make_anchors(SIDE, LEVELS), persistent=False)

    def forward(self, images):
        x = self.dropout(self.encoder(images / 128 - 1))
        raw = flatten_maps([self.head(x), self.head(nn.functional.avg_pool2d(x, 2))], 5)
        return {
            "scores": raw[..., :1] - 2,
            "deltas": raw[..., 1:],
            "category": self.category(x.mean((2, 3))),
        }

    def train(self, mode=True):
        super().train(mode)
        if self.pretrained:
            self.encoder[1].eval()
        return self


class TinyTask(DetectionTask):
    name, title = "tiny", "White rectangles"
    class_names, box_classes = ("none", "other", "box"), ("box",)
    slug, read_tables = "drawn", staticmethod(read_rsna)

    @staticmethod
    def write_synthetic(folder, n_train):
        return write_rsna(folder, n_train, 2, side=64)

    def quick_score(self, predictions, table, config):
        return quick_score(predictions, table)

    def rule(self, params, config):
        return make_rule(params, self.box_classes, (0.0, 0.1, 1.0))

    def network_inputs(self, batch, config):
        return ()

    def outputs(self, model, images):
        return model(images)

    def build_model(self, config, load_weights=True):
        return TinyNet(config.weights != "none", config.dropout)


def tiny_config(working, **changes):
    settings = {
        "task": "tiny",
        "preset": "tiny",
        "run": "run",
        "working": Path(working),
        "folds": 2,
        "fold": 0,
        "workers": 0,
        "weights": "none",
        "levels": "5-6",
        "image_size": SIDE,
        "epochs": 3,
        "lr": 1e-2,
        "clip": 1.0,
        "dropout": 0.3,
        "device": "cpu",
        "precision": "fp32",
    }
    return Config(**(settings | changes))


def write_tiny_data(working, train=16, test=5):
    """Tables and 64 px PNGs of originals of 128 x 96 pixels; a white rectangle in every second image."""
    rng = np.random.default_rng(0)
    folder = Path(working) / "tiny" / "images"
    folder.mkdir(parents=True)
    for name, count in (("train", train), ("test", test)):
        rows = [tiny_row(f"{name}{i:03}", i, folder, rng) for i in range(count)]
        table = pd.DataFrame(rows)
        table.drop(columns="fold" if name == "test" else []).to_csv(
            folder.parent / f"{name}.csv", index=False
        )


def tiny_row(image_id, i, folder, rng):
    image, boxes = rng.integers(0, 60, (64, 64), dtype=np.uint8), []
    if i % 2:
        x, y = rng.integers(4, 30, 2)
        image[y : y + 24, x : x + 20] = 250
        boxes = [[2.0 * x, 1.5 * y, 2.0 * (x + 20), 1.5 * (y + 24)]]
    cv2.imwrite(str(folder / f"{image_id}.png"), image)
    return {
        "image_id": image_id,
        "group": image_id,
        "fold": i // 2 % 2,
        "width": 128,
        "height": 96,
        "boxes": json.dumps(boxes),
        "box_labels": json.dumps([0] * len(boxes)),
        "label": 2 * (i % 2),
    }


def kill_second_before_update(number):
    """Process 1 kills itself before its update of that number, as an out-of-memory killer would."""
    original, calls = engine.update, itertools.count(1)

    def update(state):
        if next(calls) == number and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        original(state)

    engine.update = update


def log_writes(path):
    """Add a line "process file" to a file for each file that a process puts in its place."""
    original = os.replace

    def replace(source, target):
        original(source, target)
        with open(path, "a", encoding="utf-8") as log:
            log.write(f"{distributed.rank()} {target}\n")

    os.replace = replace


def main(working, changes):
    torch.set_num_threads(1)
    with distributed.process_group(
        "cpu"
    ):  # joined once: a second time may meet what the first left behind
        for settings in changes:
            config = tiny_config(working, **settings)
            train_folds(TinyTask(), config)
            inference.predict_run(TinyTask(), config)


if __name__ == "__main__":
    if "KILL_SECOND_BEFORE_UPDATE" in os.environ:
        kill_second_before_update(int(os.environ["KILL_SECOND_BEFORE_UPDATE"]))
    if "LOG_WRITES" in os.environ:
        log_writes(os.environ["LOG_WRITES"])
    inference.PART = predictions.PART = 2  # several files for each process
    main(sys.argv[1], json.loads(sys.argv[2]))
