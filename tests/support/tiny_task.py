"""A task whose network has one layer and whose pictures are white rectangles.

Everything but the network is real. As a script, for torchrun, it trains and predicts:

    python tests/support/tiny_task.py WORKING '[{"run": ..., "batch_size": ...}, ...]'
"""

import itertools
import json
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from cxr.data import predictions
from cxr.datasets.base import Answer, Dataset
from cxr.datasets.rsna.files import read_rsna
from cxr.datasets.rsna.synthetic import write_rsna
from cxr.geometry.anchors import make_anchors
from cxr.inference import predict_table
from cxr.methods.detector.image_scorer import RsnaMap
from cxr.methods.detector.method import Detector
from cxr.networks.heads import flatten_maps
from cxr.networks.network import Network
from cxr.presets import Preset
from cxr.steps.predict.predict_run import predict_run
from cxr.steps.train import epoch
from cxr.steps.train.engine import train_folds
from cxr.system import distributed
from cxr.tasks import Task

SIDE = 192
LEVELS = (5, 6)
VALUES = {
    "preset": "tiny",
    "run": "run",
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
    "engine": "torch",
    "precision": "fp32",
}


class TinyNet(Network):
    """405 anchors from one convolution of 32 x 32 pixels.

    Batch norm and dropout are there so that their state matters, too.
    """

    head_name = "retinanet"

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
        fine = self.head(x)
        coarse = self.head(nn.functional.avg_pool2d(x, 2))
        outputs = flatten_maps([fine, coarse], 5)
        return {
            "scores": outputs[..., :1] - 2,
            "deltas": outputs[..., 1:],
            "category": self.category(x.mean((2, 3))),
        }

    def train(self, mode=True):
        super().train(mode)
        if self.pretrained:
            self.encoder[1].eval()
        return self


class TinyDetector(Detector):
    """The detector with TinyNet in place of RetinaNet."""

    def build_model(self, settings, labels, load_weights=True):
        del labels, load_weights
        return TinyNet(settings.training.weights != "none", settings.method.dropout)

    def network_inputs(self, batch, settings):
        del batch, settings
        return ()

    def raw_outputs(self, model, images):
        return model(images)


class TinyDataset(Dataset):
    """RSNA's files with small pictures, which only the first lessons read."""

    slug = "drawn"
    title = "White rectangles"
    terms = "White rectangles, drawn by the tests: free to use."
    image_classes = ("none", "other", "box")
    classes = ("box",)
    expected_files = ()
    answer_name = "answer"
    scorer = RsnaMap(gate_weights=(0.0, 0.1, 1.0), constant=())

    def read_tables(self, folder, settings):
        del settings
        return read_rsna(folder)

    def write_synthetic(self, folder, n_train):
        return write_rsna(folder, n_train, 2, side=64)

    def write_answer(self, request):
        del request
        return Answer(None)


@dataclass(frozen=True)
class TinyTask(Task):
    """The data set and the method of this file, or others in their place."""

    name: str = "tiny"
    gloss: str = "white rectangles"
    dataset_class: str = "tiny_task:TinyDataset"
    method_name: str = "detector"
    presets: dict = field(default_factory=lambda: {"tiny": Preset("of tests", VALUES)})
    dataset: Dataset = field(default_factory=TinyDataset)
    method: Detector = field(default_factory=TinyDetector)


TINY_TASK = TinyTask()


def tiny_settings(working, **changes):
    """Settings of a run of the tiny task, named as flags are."""
    values = {"task": "tiny", "working": Path(working)} | VALUES | changes
    return TINY_TASK.make_settings(values)


# {name: module from which the steps call it} of the functions before which a process may die.
KILL_POINTS = {"update_weights": epoch, "write_part": predict_table}


def kill_before(function, number, process):
    """A process kills itself before its call of a function, as for lack of memory.

    function: of KILL_POINTS. number: of the call, counted from 1. process: its rank.
    """
    module = KILL_POINTS[function]
    original = getattr(module, function)
    calls = itertools.count(1)

    def call(*arguments):
        if distributed.rank() == process and next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        original(*arguments)

    setattr(module, function, call)


def log_writes(path):
    """Add a line "process file" to a file for each file that a process puts in its place."""
    original = os.replace

    def replace(source, target):
        original(source, target)
        with open(path, "a", encoding="utf-8") as log:
            log.write(f"{distributed.rank()} {target}\n")

    os.replace = replace


def main(working, runs):
    """Train and predict runs, given as changes of the settings, one after the other."""
    torch.set_num_threads(1)
    # Joined once: a second time may meet what the first left behind.
    with distributed.process_group("cpu"):
        for changes in runs:
            settings = tiny_settings(working, **changes)
            train_folds(TINY_TASK, settings)
            predict_run(TINY_TASK, settings)


if __name__ == "__main__":
    if "KILL_BEFORE" in os.environ:
        function, number, process = os.environ["KILL_BEFORE"].split()
        kill_before(function, int(number), int(process))
    if "LOG_WRITES" in os.environ:
        log_writes(os.environ["LOG_WRITES"])
    # Several files for each process.
    predictions.PART = 2
    predict_table.PART = 2
    main(sys.argv[1], json.loads(sys.argv[2]))
