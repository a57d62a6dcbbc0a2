"""What does the engine itself cost under torchrun, and what do tables of a million images cost?

    python benchmarks/scale.py                          1, 2 and 4 processes on this machine
    python benchmarks/scale.py --parameters 50000000    with the gradient of a SE-ResNeXt-101
    python benchmarks/scale.py --rows 100000            and the tables of so many images

The network of the first part has parameters and no arithmetic: forward and backward only wait, as
for a GPU that computes, and layer by layer a gradient of the real size appears. So what grows with
the number of processes is the engine's own: sharing images out, adding gradients up, means over
processes, the update. Its efficiency is the images a second of n processes over n times those of
one. To reach: 0.95 with four. Processes of one machine share its cores, which those of several do
not: what they compute themselves (the update, sums) is counted against them here.

The second part times what happens once to the table of all images, at --rows and a fourth of it:
the ratio says how it grows (4: evenly).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from reference import RSNA, random_batch
from timing import Row, arguments, at_least, duration, show
from training_step import FOLD, SameBatch

from cxr.data.batch import Batch
from cxr.data.folds import assign_folds
from cxr.data.loader import make_prediction_loader
from cxr.data.samplers import ResumableSampler
from cxr.data.tables import read_table, split_fold
from cxr.geometry.detections import Detections
from cxr.methods.detector.method import Detector
from cxr.methods.detector.records import QuickDetections
from cxr.networks.network import Network
from cxr.run_folder import RunFolder
from cxr.settings import Settings
from cxr.steps.train.epoch import train_one_epoch
from cxr.steps.train.joined import JoinedNetwork
from cxr.steps.train.state import TrainingState
from cxr.system import distributed
from cxr.system.runtime import open_runtime
from cxr.system.tables import write_csv
from cxr.tasks import Task

GOAL = 0.95
WORLDS = (1, 2, 4)
LAYERS = 20
BACKWARD_SHARE = 2 / 3  # of a step: two products for each of forward's
VALID_IMAGES = 6_671  # of a fold of 26,684


class WaitingLayer(torch.autograd.Function):
    """Hands its input on after a while, and a gradient of ones back after twice as long."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, seconds: float) -> Tensor:
        context.shape = weight.shape
        context.seconds = seconds
        time.sleep(seconds * (1 - BACKWARD_SHARE))
        return x + 0

    @staticmethod
    def backward(context: Any, *gradients: Any) -> Any:
        time.sleep(context.seconds * BACKWARD_SHARE)
        return gradients[0], torch.ones(context.shape), None


class WaitingNetwork(Network):
    """So many parameters in LAYERS layers, and a step of so many seconds."""

    def __init__(self, side: int, parameters: int, seconds: float) -> None:
        super().__init__(side, pretrained=False)
        self.encoder = nn.ParameterList()
        for _ in range(LAYERS):
            self.encoder.append(nn.Parameter(torch.zeros(parameters // LAYERS)))
        self.seconds = seconds

    def forward(self, images: Tensor, *_: Any) -> dict[str, Tensor]:
        x = torch.zeros(len(images), requires_grad=True)
        for weight in self.encoder.parameters():
            x = WaitingLayer.apply(x, weight, self.seconds / LAYERS)
        return {"waited": x}


class WaitingDetector(Detector):
    """Learns nothing, in a given time."""

    def __init__(self, parameters: int, seconds: float) -> None:
        self.parameters = parameters
        self.seconds = seconds

    def build_model(self, settings: Settings, labels: Any, load_weights: bool = True) -> Network:
        del labels, load_weights
        return WaitingNetwork(settings.training.image_size, self.parameters, self.seconds)

    def loss(
        self, outputs: Any, batch: Batch, model: Network, settings: Settings
    ) -> dict[str, Tensor]:
        del batch, model, settings
        return {"waited": outputs["waited"].mean()}


def waiting_task(args: Namespace) -> Task:
    """RSNA's with another method, which a task keeps once it was asked for."""
    task = replace(RSNA)
    vars(task)["method"] = WaitingDetector(args.parameters, args.seconds)
    return task


def work(args: Namespace) -> None:
    """One of torchrun's processes: the first prints seconds of a step and of a gathering."""
    task = waiting_task(args)
    values = {"image_size": 256, "batch_size": 4, "weights": "none", "save_minutes": 1e9}
    settings = RSNA.make_settings(values | {"workers": 0, "device": "cpu", "precision": "fp32"})
    torch.set_num_threads(1)
    batch = random_batch(settings)
    with open_runtime(settings.machine) as runtime:
        state = TrainingState(task, settings, FOLD, runtime, args.steps, resuming=False)
        network = JoinedNetwork(state.model, task.method, settings, runtime).now()
        images = args.steps * runtime.world
        sampler = ResumableSampler(images, 1, 0, True, runtime.rank, runtime.world)
        loader = torch.utils.data.DataLoader(SameBatch(batch), batch_size=None, sampler=sampler)
        folder = RunFolder.of(settings.place).fold(FOLD)  # in which nothing is saved so soon
        seconds = []
        for _ in range(1 + args.rounds):
            state.step = 0
            state.totals = {}
            distributed.barrier()
            start = time.perf_counter()
            train_one_epoch(task, state, network, loader, None, folder, runtime)
            distributed.barrier()
            seconds.append((time.perf_counter() - start) / args.steps)
        predictions = quick_predictions(VALID_IMAGES // runtime.world)
        start = time.perf_counter()
        distributed.gather(predictions)
        gathering = time.perf_counter() - start
        if runtime.is_main:
            print(json.dumps({"step": min(seconds[1:]), "gather": gathering}))


def quick_predictions(count: int) -> dict[int, QuickDetections]:
    """What the figures after an epoch know of so many images: ten boxes each."""
    predictions = {}
    for row in range(count):
        detections = Detections(np.ones((10, 4)), np.ones(10), np.zeros(10, np.int64))
        predictions[row] = QuickDetections(detections, 256)
    return predictions


def run_processes(world: int, args: Namespace) -> dict[str, float]:
    """What the first of so many processes prints."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(world), __file__, "--work"]
    for name in ("parameters", "seconds", "steps", "rounds"):
        command += [f"--{name}", str(getattr(args, name))]
    variables = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{world} processes ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def process_rows(args: Namespace) -> list[Row]:
    rows = []
    alone = 0.0
    for world in WORLDS:
        seconds = run_processes(world, args)
        if world == 1:
            alone = seconds["step"]
            rows.append(Row("1 process, a step", duration(alone), 1))
            continue
        efficiency = alone / seconds["step"]
        words = f"{duration(seconds['step'])}, {VALID_IMAGES} predictions gathered in "
        words += duration(seconds["gather"])
        if world == WORLDS[-1]:
            rows.append(at_least(f"{world} processes", words, efficiency, GOAL))
        else:
            rows.append(Row(f"{world} processes", words, efficiency))
    return rows


# ------------------------------------------------------------------------- tables


def draw_table(rows: int) -> pd.DataFrame:
    """As train.csv of step 02, a box in every fourth image, one patient of two images each."""
    numbers = np.arange(rows)
    boxes = np.where(numbers % 4 == 0, "[[100.0, 200.0, 300.0, 500.0]]", "[]")
    labels = np.where(numbers % 4 == 0, "[0]", "[]")
    return pd.DataFrame(
        {
            "image_id": [f"{number:036d}" for number in numbers],
            "path": [f"stage_2_train_images/{number:036d}.dcm" for number in numbers],
            "group": [f"p{number // 2}" for number in numbers],
            "stratum": np.where(numbers % 4 == 0, "opacity", "normal"),
            "fold": numbers % 4,
            "width": 1024,
            "height": 1024,
            "n_boxes": (numbers % 4 == 0).astype(int),
            "boxes": boxes,
            "box_labels": labels,
            "label": numbers % 3,
        }
    )


class TableWork:
    """What happens once to the table of all images, and what is kept of it."""

    def __init__(self, table: pd.DataFrame, folder: Path) -> None:
        self.table = table
        self.path = folder / "train.csv"

    def write(self) -> None:
        write_csv(self.path, self.table)

    def read(self) -> None:
        read_table(self.path)

    def split(self) -> None:
        split_fold(self.table, 0)

    def fold(self) -> None:
        assign_folds(self.table, 4, 42)

    def shuffle(self) -> None:
        for _ in ResumableSampler(len(self.table), 4, 42, True):
            pass

    def look_up(self) -> None:
        """The rows that a loader's process takes from the table, without the pictures."""
        for number in range(len(self.table)):
            _ = self.table.iloc[number]

    def predict_order(self) -> None:
        make_prediction_loader(self.table, range(len(self.table)), 4, 0)  # type: ignore[arg-type]


def table_rows(count: int) -> list[Row]:
    """Seconds of each part, and how many times as long it takes with four times the rows."""
    seconds: list[dict[str, float]] = []
    facts = []
    for rows in (count // 4, count):
        with tempfile.TemporaryDirectory() as folder:
            work_on = TableWork(draw_table(rows), Path(folder))
            parts: dict[str, Callable[[], None]] = {
                "writing train.csv": work_on.write,
                "reading it": work_on.read,
                "a fold's rows": work_on.split,
                "dealing patients to folds": work_on.fold,
                "an epoch's order": work_on.shuffle,
                "taking every row once": work_on.look_up,
                "the order of a prediction": work_on.predict_order,
            }
            times = {}
            for name, part in parts.items():
                start = time.perf_counter()
                part()
                times[name] = time.perf_counter() - start
            seconds.append(times)
            size = work_on.path.stat().st_size / rows
            memory = int(work_on.table.memory_usage(deep=True).sum()) / rows
            facts.append(f"{size:.0f} bytes of a file and {memory:.0f} of memory a row")
    few, many = seconds
    rows_of_table = [Row(f"a table of {count} images", facts[1])]
    for name, value in many.items():
        rows_of_table.append(Row(name, duration(value), value / max(few[name], 1e-9)))
    return rows_of_table


def main() -> None:
    args = arguments(
        __doc__, parameters=6_000_000, seconds=1.0, steps=8, rounds=1, rows=0, work=False
    )
    if args.work:
        work(args)
        return
    rows = process_rows(args)
    if args.rows:
        rows += table_rows(args.rows)
    show(
        f"The engine with a step that waits {args.seconds:g} s, {args.parameters} parameters",
        rows,
    )


if __name__ == "__main__":
    main()
