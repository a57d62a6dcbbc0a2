"""First lessons from synthetic X-rays, whose every box is exact.

Some hundred real ones are too few for random weights. The pictures are those of --demo. What a
network learns of them (lungs are dark, findings bright, how a box is fitted) serves every fold and
every run whose training differs only in what RECIPE settles, so it is learned once, in
working/pretraining-<images>-<size>/.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import pandas as pd

from cxr.data.preparation import prepare
from cxr.data.tables import read_table
from cxr.run_folder import RunFolder, TaskFolder
from cxr.settings import Settings
from cxr.steps.train.schedules import count_epochs
from cxr.system import distributed
from cxr.system.runtime import Runtime
from cxr.tasks import Task

SMALLEST = 256  # pixels of the stored pictures
# Lighter than what the real images need, since there are more pictures than the network can learn
# by heart.
RECIPE: dict[str, Any] = {
    "epochs": 7,
    "augmentation": "15",
    "dropout": 0.2,
    "weight_decay": 0.02,
    "keep": 1,
    "keep_best": 0,
    "swa": False,
    "patience": 0,
    "fold": 0,
    "folds": 4,
    "seed": 42,
    "cleaning": "B",
}
NOT_THERE: dict[str, Any] = {
    "pretrain": 0,
    "paste": 0.0,
    "edge_noise": 0.0,
    "start": "",
    "pseudo": "",
    "external": (),
    "external_labels": (),
    "external_columns": (),
    "unlabelled": "",
    "lungs": "",
}


def lesson_settings(task: Task, settings: Settings) -> Settings:
    """The settings of the training on synthetic pictures; its run is named by them."""
    size = max(SMALLEST, settings.training.image_size)
    folder = settings.place.working / f"pretraining-{settings.training.pretrain}-{size}"
    changes = RECIPE | NOT_THERE
    changes |= {
        "input": folder / "input",
        "working": folder,
        "demo": True,
        "demo_images": settings.training.pretrain,
        "size": size,
    }
    known = settings.flat()
    lessons = settings.replace(**{name: changes[name] for name in changes if name in known})
    # What has its usual value is left out, so that a setting that is new some day changes no name.
    usual = task.make_settings({}).training_values()
    chosen = []
    for name, value in sorted(lessons.training_values().items()):
        if value != usual[name]:
            chosen.append((name, value))
    check_sum = zlib.crc32(repr(chosen).encode())
    return lessons.replace(run=f"{lessons.training.encoder}-{check_sum:08x}")


def lesson_table(task: Task, lessons: Settings, runtime: Runtime) -> pd.DataFrame:
    """The table of the synthetic pictures, which are made where they are not there yet."""
    folder = TaskFolder.of(lessons.place)
    source = lessons.place.input / task.dataset.folder_name(demo=True)
    if runtime.is_main:
        task.dataset.write_synthetic(source, n_train=lessons.data.demo_images)
    distributed.barrier()
    # Further processes would hold the lock if this one is killed.
    prepare(task.dataset, source, folder, lessons.replace(workers=1))
    return task.select_rows(read_table(folder.table("train")), lessons)


def learned_weights(task: Task, settings: Settings) -> Path:
    """The checkpoint that the first lessons left."""
    lessons = lesson_settings(task, settings)
    return RunFolder.of(lessons.place).fold(0).epoch(count_epochs(lessons.training))
