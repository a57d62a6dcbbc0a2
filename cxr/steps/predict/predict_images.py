"""Step 04 for any X-rays: files and folders in; tables, pictures and a page to look through out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from cxr.data.loader import count_workers
from cxr.images.folder import (
    Item,
    Record,
    find_image_files,
    is_too_long,
    mark_of,
    read_record,
    record_path,
    write_prediction_tables,
    write_record,
)
from cxr.images.isolated import Picture, read_all
from cxr.images.printable import UnreadableImage
from cxr.inference.predictor import Predictor
from cxr.inference.results import Result
from cxr.plots.overlay import write_overlay
from cxr.settings import ImageSettings, Settings
from cxr.steps.predict.image_index import write_index
from cxr.steps.predict.structured_report import write_structured_report
from cxr.system import distributed
from cxr.system.disk import read_json, write_json
from cxr.system.errors import InputError
from cxr.system.runtime import Runtime, open_runtime
from cxr.tasks import Task

TOO_LONG = "has too long a name for the files that are made of it: give it a shorter one"
LEFT_OUT = "frontal chest X-ray"  # what failed.csv says is missing in place of an image


class Failure(NamedTuple):
    """What could not be made of an image, and why."""

    image: str
    path: Path
    what: str
    reason: str


class ReadItem(NamedTuple):
    """An image file and what reading it gave."""

    item: Item
    picture: Picture | UnreadableImage


def predict_images(task: Task, settings: Settings) -> Path:
    """Predict the files of --images into --out and return the path of index.html.

    Images that are done are kept. Raises InputError for a run or images that are not there, a
    folder `out` of another run, or if nothing can be read.
    """
    with open_runtime(settings.machine) as runtime:
        return predict_with(task, settings, runtime)


def predict_with(task: Task, settings: Settings, runtime: Runtime) -> Path:
    """The same by the processes of a runtime, which share the images out."""
    images = settings.images
    image_files = find_image_files(images.images, images.out)
    items = image_files.items
    predictor = Predictor(task, settings, runtime)
    claim_out_folder(images.out, predictor.record(), runtime)
    waiting = []
    for item in items:
        if read_done_record(item, images, images.dicom_sr) is None:
            waiting.append(item)
    done_before = len(items) - len(waiting)
    left_alone = image_files.describe_passed_over()
    runtime.say(f"{len(items)} images, {done_before} of them done before{left_alone}")

    # All processes have seen what is done before one of them does more.
    distributed.barrier()
    failures = []
    if waiting:
        failures = predict_items(predictor, runtime.share(waiting), settings)
    failures = [failure for part in distributed.gather(failures) for failure in part]
    if runtime.is_main:
        write_results(predictor, items, failures, images)
    distributed.barrier()

    if len(failures) == len(items):
        raise InputError(
            f"none of {len(items)} images could be predicted, see {images.out / 'failed.csv'}; "
            f"the first: {failures[0].reason}"
        )
    return images.out / "index.html"


def claim_out_folder(out: Path, record: dict[str, Any], runtime: Runtime) -> None:
    """Note what decides the predictions. InputError if the folder holds those of other settings."""
    path = out / "settings.json"
    record = json.loads(json.dumps(record))  # as it will be read again
    if path.exists():
        old = read_json(path)
        changed = [name for name, value in record.items() if value != old.get(name)]
        if changed:
            raise InputError(
                f"{out} holds predictions made with other {', '.join(changed)}: choose another "
                "--out, or delete that folder"
            )
    distributed.barrier()
    if runtime.is_main:
        write_json(path, record)


def predict_items(predictor: Predictor, items: Sequence[Item], settings: Settings) -> list[Failure]:
    """Predict and write each image; returns those that could not be read."""
    predictor.runtime.say(predictor.describe())
    workers = max(1, count_workers(settings.machine.workers))
    pictures = read_all([item.path for item in items], predictor.sides, workers)
    read_items = map(ReadItem, items, pictures)
    failures = []
    is_quiet = not predictor.runtime.is_main
    with tqdm(
        total=len(items), unit="image", desc="predict", mininterval=1, disable=is_quiet
    ) as bar:
        for batch in batches_of(read_items, settings.training.batch_size):
            failures += predict_read_items(predictor, batch, settings.images)
            bar.update(len(batch))
    return failures


def predict_read_items(
    predictor: Predictor, batch: Sequence[ReadItem], images: ImageSettings
) -> list[Failure]:
    """Predict and write what could be read of a batch, and is wanted; returns the rest."""
    failures = []
    readable_items = []
    pictures = []
    for item, picture in batch:
        if isinstance(picture, UnreadableImage):
            failures.append(Failure(item.name, item.path, "image", picture.reason))
        elif is_too_long(record_path(images.out, item)):
            failures.append(Failure(item.name, item.path, "image", TOO_LONG))
        elif images.only_chest and picture.not_frontal_chest:
            reason = f"left out with --only-chest, since {picture.not_frontal_chest}"
            failures.append(Failure(item.name, item.path, LEFT_OUT, reason))
        else:
            readable_items.append(item)
            pictures.append(picture)
    results = predictor.predict(pictures)
    for item, picture, result in zip(readable_items, pictures, results, strict=True):
        write_image(item, picture, result, predictor.run.name, images)
    return failures


def batches_of(read_items: Iterable[ReadItem], size: int) -> Iterator[list[ReadItem]]:
    """Lists of at most `size`, as they come."""
    batch = []
    for read_item in read_items:
        batch.append(read_item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def write_image(
    item: Item, picture: Picture, result: Result, run: str, images: ImageSettings
) -> None:
    """Overlay, mask, structured report if wanted, and, last, the record: the image is done."""
    out = images.out
    write_overlay(item.in_folder(out / "overlays", ".png"), result.overlay())
    content = result.to_dict()
    mask_picture = result.mask_picture()
    if mask_picture is not None:
        path = item.in_folder(out / "masks", ".png")
        write_overlay(path, mask_picture)
        content["mask"]["file"] = path.relative_to(out).as_posix()
    report = None
    if images.dicom_sr:
        report = try_report(item, picture, content, run, out)
    write_record(out, item, picture, content, report)


def try_report(item: Item, picture: Picture, content: Record, run: str, out: Path) -> str:
    """Path of the report relative to `out`, or why there is none."""
    if not picture.dicom:
        return "not a DICOM"
    path = item.in_folder(out / "structured_reports", ".dcm")
    try:
        write_structured_report(path, item.path, content, run)
    except InputError as error:
        # Without the path that it begins with, for which the tables have a column.
        return str(error).removeprefix(f"{item.path}: ")
    return path.relative_to(out).as_posix()


def write_results(
    predictor: Predictor,
    items: Sequence[Item],
    failures: Sequence[Failure],
    images: ImageSettings,
) -> None:
    """Tables and page of all images that are done."""
    out = images.out
    records = partial(read_done_records, items, images)
    left_out = sum(failure.what == LEFT_OUT for failure in failures)
    failures = sorted([*failures, *missing_reports(out, records())])
    notes = [*predictor.notes, *note_other_images(records(), left_out, len(items))]
    page = write_tables(predictor, records, failures, notes, out)
    for note in notes:
        print(note)
    if failures:
        print(f"{len(failures)} things failed, see {out / 'failed.csv'}")
    print(f"to look at: {page}, tables beside it")


def write_tables(
    predictor: Predictor,
    records: Callable[[], Iterable[Record]],
    failures: Sequence[Failure],
    notes: Sequence[str],
    out: Path,
) -> Path:
    """Write the tables and the page of the images that `records` yields; returns the page's path.

    failures: the rows of failed.csv. notes: sentences for the page.
    """
    header = {
        "run": str(predictor.run.path),
        "task": predictor.task.name,
        "result": predictor.result_maker.result_name,
        "notes": list(notes),
        "findings": list(predictor.result_maker.findings),
        "thresholds": predictor.rule.thresholds,
        "image_classes": list(predictor.image_classes),
    }
    write_prediction_tables(out, records, failures, header)
    return write_index(out, records(), failures, header)


def note_other_images(records: Iterable[Record], left_out: int, total: int) -> list[str]:
    """Sentences on images that are no frontal chest X-rays, predicted or left out."""
    notes = []
    marked = sum(bool(mark_of(record)) for record in records)
    if marked:
        notes.append(
            f"{marked} of {total} images are no frontal chest X-rays by their headers, and the run "
            "has learned nothing else: they are predicted and marked; --only-chest leaves them out"
        )
    if left_out:
        notes.append(
            f"{left_out} of {total} images are no frontal chest X-rays by their headers and were "
            "left out"
        )
    return notes


def read_done_records(items: Iterable[Item], images: ImageSettings) -> Iterator[Record]:
    """Yield the record of each image that is done."""
    for item in items:
        record = read_done_record(item, images, dicom_sr=False)
        if record is not None:
            yield record


def read_done_record(item: Item, images: ImageSettings, dicom_sr: bool) -> Record | None:
    """The record of an image that is done and wanted. dicom_sr: done only with its report."""
    record = read_record(images.out, item, dicom_sr)
    if record is None or (images.only_chest and mark_of(record)):
        return None
    return record


def missing_reports(out: Path, records: Iterable[Record]) -> Iterator[Failure]:
    """Yield the DICOMs of which a report was wanted and could not be made."""
    for record in records:
        report = record["structured_report"]
        if report is None or not record["dicom"] or (out / report).exists():
            continue
        yield Failure(record["image"], record["source"], "structured report", report)
