"""Prediction of the rows of a table, streamed to disk part by part, shared out over processes."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from torch.utils.data import DataLoader
from tqdm import tqdm

from cxr.data.batch import SampleContent
from cxr.data.dataset import XrayDataset
from cxr.data.loader import make_prediction_loader
from cxr.data.predictions import (
    PART,
    part_count,
    part_path,
    read_predictions,
    record_path,
    write_part,
)
from cxr.data.tables import read_table
from cxr.inference.checkpoint import fingerprints
from cxr.inference.engines import TorchEngine
from cxr.inference.lung_crops import with_crops
from cxr.inference.run import (
    as_trained,
    fold_checkpoints,
    load_fused,
    predict_batch,
    views_of,
)
from cxr.methods.base import ImageFacts
from cxr.networks.network import Network
from cxr.run_folder import FoldFolder, RunFolder, TaskFolder
from cxr.settings import Settings
from cxr.system import distributed
from cxr.system.disk import read_json, remove_leftovers, write_json
from cxr.system.errors import InputError
from cxr.system.runtime import Runtime
from cxr.tasks import Task

# Columns of step 02's tables that prediction reads; each loader process copies what it is given.
COLUMNS = ["image_id", "fold", "width", "height", "age", "sex", "view"]


def read_images(path: Path) -> pd.DataFrame:
    """The table of step 02 without what only training and judging need, such as boxes and masks."""
    return read_table(path).filter(COLUMNS)


def cut_as_trained(
    table: pd.DataFrame, settings: Settings, fold: int, runtime: Runtime
) -> pd.DataFrame:
    """The table with the boxes of the lungs where the run was trained with --lungs."""
    run = RunFolder.of(settings.place)
    lungs = run.fold(fold).read_config().get("lungs", "")
    if not lungs:
        return table
    return with_crops(table, run.task, lungs, runtime, settings.machine.workers)


def predict_test_by_fold(
    task: Task, settings: Settings, fold: int, runtime: Runtime
) -> Iterator[Any]:
    """Yield what the models of one fold alone say of the test images.

    It is kept beside that fold's other predictions.
    """
    run = RunFolder.of(settings.place)
    checkpoints = fold_checkpoints(task, settings, fold)
    test = read_images(run.task.table("test"))
    test = cut_as_trained(test, settings, fold, runtime)
    folder = run.fold(fold).test_predictions(settings.prediction.predictions)
    predict_table(task, settings, checkpoints, test, folder, runtime)
    return read_predictions(folder, task.method.prediction_class)


def predict_external_by_fold(
    task: Task, settings: Settings, fold: int, name: str, table: pd.DataFrame, runtime: Runtime
) -> Iterator[Any]:
    """Yield what the models of one fold alone say of the images of an external set.

    name: of the set. table: rows with the columns COLUMNS but for fold. It is kept as that of the
    test images is.
    """
    run = RunFolder.of(settings.place)
    checkpoints = fold_checkpoints(task, settings, fold)
    table = cut_as_trained(table.filter(COLUMNS), settings, fold, runtime)
    folder = run.fold(fold).external_predictions(name, settings.prediction.predictions)
    predict_table(task, settings, checkpoints, table, folder, runtime)
    return read_predictions(folder, task.method.prediction_class)


def predict_table(
    task: Task,
    settings: Settings,
    checkpoints: Sequence[Path],
    table: pd.DataFrame,
    folder: Path,
    runtime: Runtime,
) -> None:
    """Predict the rows of a table into `folder`; parts that are there already are kept."""
    run = RunFolder.of(settings.place)
    refuse_other_predictions(task, folder, settings, checkpoints, table, run, runtime)
    numbers = range(part_count(len(table)))
    missing = [number for number in numbers if not part_path(folder, number).exists()]
    distributed.barrier()
    if not missing:
        runtime.say(f"{folder}: {len(table)} images are there, nothing to do")
        return

    # Whole parts are shared out over the processes, in order.
    rows: list[int] = []
    for number in runtime.share(missing):
        rows += range(number * PART, min((number + 1) * PART, len(table)))
    models = load_fused(task, checkpoints, runtime.device)
    engine = TorchEngine(task.method, runtime, models)
    trained = as_trained(settings, task, FoldFolder(checkpoints[0].parent))
    loader = make_table_loader(table, run.task, models[0], rows, trained, runtime)
    views = views_of(task.method, settings.prediction)

    collected: dict[int, list[Any]] = {}
    name = f"{folder.parent.name}/{folder.name}"
    with tqdm(total=len(rows), desc=name, disable=runtime.hides_bars, mininterval=5) as bar:
        for batch in loader:
            images = batch.images.to(runtime.device)
            merged = predict_batch(
                models,
                task.method,
                views,
                images,
                trained,
                runtime,
                engine,
                headers=batch.headers,
            )
            for row, outputs in zip(batch.rows.tolist(), merged, strict=True):
                image = ImageFacts.of_row(table.iloc[row])
                prediction = task.method.to_prediction(outputs, image, models[0], trained)
                number = row // PART
                part = collected.setdefault(number, [])
                part.append(prediction)
                if len(part) == min(PART, len(table) - number * PART):
                    write_part(folder, number, collected.pop(number))
            bar.update(len(batch))
    distributed.barrier()


def refuse_other_predictions(
    task: Task,
    folder: Path,
    settings: Settings,
    checkpoints: Sequence[Path],
    table: pd.DataFrame,
    run: RunFolder,
    runtime: Runtime,
) -> None:
    """Raises InputError if the folder holds predictions of other checkpoints, views or images."""
    record: dict[str, Any] = {
        "checkpoints": fingerprints(checkpoints, run.path),
        "tta": settings.prediction.tta,
        "images": len(table),
        "ids": zlib.crc32("\n".join(table["image_id"]).encode()),
        **task.method.kept_settings(settings),
    }
    path = record_path(folder)
    if path.exists():
        old = read_json(path)
        # A record that is older than a setting says nothing of it.
        changed = [key for key, value in record.items() if old.get(key, value) != value]
        if changed:
            raise InputError(
                f"{folder} holds predictions made with other {', '.join(changed)}: delete that "
                "folder, or choose another name with --predictions"
            )
    elif runtime.is_main:
        write_json(path, record)
    if runtime.is_main:
        remove_leftovers(folder)


def make_table_loader(
    table: pd.DataFrame,
    folder: TaskFolder,
    model: Network,
    rows: Sequence[int],
    settings: Settings,
    runtime: Runtime,
) -> DataLoader:
    """Batches of the given rows in their order, at the size that the network was trained with."""
    content = SampleContent(
        annotated=False, crop="crop_x1" in table, header=settings.method.header_inputs
    )
    clahe = settings.method.clahe
    dataset = XrayDataset(table, folder.images, model.image_size, content, clahe=clahe)
    return make_prediction_loader(
        dataset,
        rows,
        settings.training.batch_size,
        settings.machine.workers,
        runtime.pins_memory,
    )
