"""Step 04 for any X-rays: files and folders in; tables, pictures and a page to look through out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from cxr.data.loader import count_workers
from cxr.images.folder import (
    ImageFiles,
    Item,
    Record,
    State,
    find_image_files,
    is_too_long,
    mark_of,
    read_record,
    record_path,
    write_prediction_tables,
    write_record,
)
from cxr.images.gray import Window
from cxr.images.isolated import Picture, read_all
from cxr.images.printable import UnreadableImage
from cxr.inference.engines import FEW_IMAGES
from cxr.inference.predictor import Predictor
from cxr.inference.results import ClassResult, Result
from cxr.plots.overlay import write_overlay
from cxr.settings import ImageSettings, Settings
from cxr.steps.predict.dicom_objects import Statement
from cxr.steps.predict.dicom_outputs import make_objects, unmade_objects, wanted_outputs
from cxr.steps.predict.image_index import write_index
from cxr.steps.predict.out_folder import alone_in, claim_out_folder
from cxr.steps.predict.studies import note_lone_images, studies_of_records, write_studies
from cxr.system import distributed
from cxr.system.errors import InputError
from cxr.system.runtime import Runtime, open_runtime
from cxr.tasks import Task

TOO_LONG = "has too long a name for the files that are made of it: give it a shorter one"
CHANGED = "changed while this ran: run the same command again"
LEFT_OUT = "frontal chest X-ray"  # what failed.csv says is missing in place of an image


class Failure(NamedTuple):
    """What could not be made of an image, and why."""

    image: str
    path: Path
    what: str
    reason: str


class SeenItem(NamedTuple):
    """An image file as it was before it was read; state None: it was gone."""

    item: Item
    state: State | None


class ReadItem(NamedTuple):
    """An image file and what reading it gave."""

    seen: SeenItem
    picture: Picture | UnreadableImage


class Written(NamedTuple):
    """What a person is told of the tables and the page.

    notes: sentences. failed: number of rows of failed.csv.
    """

    page: Path
    notes: list[str]
    failed: int


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
    settings = choose_for_few(settings, len(image_files.items))
    predictor = open_predictor(task, settings, runtime)
    with alone_in(images.out):
        claim_out_folder(images.out, predictor.record(), runtime)
        return predict_files(predictor, image_files, settings)


def predict_files(predictor: Predictor, image_files: ImageFiles, settings: Settings) -> Path:
    """Predict those that are not done yet, and write the tables and the page of all."""
    images = settings.images
    runtime = predictor.runtime
    items = image_files.items
    waiting = []
    for item in items:
        if not is_done(item, images):
            waiting.append(SeenItem(item, item.state()))
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
        say_results(write_results(predictor, items, failures, images), images.out)
    distributed.barrier()

    if len(failures) == len(items):
        raise InputError(
            f"none of {len(items)} images could be predicted, see {images.out / 'failed.csv'}; "
            f"the first: {failures[0].reason}"
        )
    return images.out / "index.html"


def choose_for_few(settings: Settings, count: int) -> Settings:
    """The settings; of --engine auto PyTorch, where few images do not pay for another engine."""
    if settings.machine.engine == "auto" and count < FEW_IMAGES:
        return settings.replace(engine="torch")
    return settings


def open_predictor(task: Task, settings: Settings, runtime: Runtime) -> Predictor:
    """The run that answers.

    Raises InputError for masks or heat maps that are wanted of a run that gives none.
    """
    predictor = Predictor(task, settings, runtime)
    result = predictor.result_maker.result_name
    if settings.images.dicom_seg and result != "mask":
        raise InputError(
            f"--dicom-seg writes masks, and the run {predictor.run.path} gives {result}: leave it "
            "out; --dicom-sr, --dicom-pr and --dicom-sc write what it gives"
        )
    if settings.images.heat_maps and result != "classes":
        raise InputError(
            f"--heat-maps shows where a classifier looked, and the run {predictor.run.path} gives "
            f"{result} and no classes alone: leave it out"
        )
    return predictor


def predict_items(
    predictor: Predictor, items: Sequence[SeenItem], settings: Settings
) -> list[Failure]:
    """Predict and write each image; returns those that could not be read."""
    predictor.runtime.say(predictor.describe())
    workers = max(1, count_workers(settings.machine.workers))
    paths = [seen.item.path for seen in items]
    # The deep values say which grays a presentation state shows.
    pictures = read_all(paths, predictor.sides, workers, deep=settings.images.dicom_pr)
    read_items = map(ReadItem, items, pictures)
    failures = []
    is_quiet = predictor.runtime.hides_bars
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
    for seen, picture in batch:
        item = seen.item
        if isinstance(picture, UnreadableImage):
            failures.append(Failure(item.name, item.path, "image", picture.reason))
        elif is_too_long(record_path(images.out, item)):
            failures.append(Failure(item.name, item.path, "image", TOO_LONG))
        elif images.only_chest and picture.not_frontal_chest:
            reason = f"left out with --only-chest, since {picture.not_frontal_chest}"
            failures.append(Failure(item.name, item.path, LEFT_OUT, reason))
        else:
            readable_items.append(seen)
            pictures.append(picture)
    results = predictor.predict(pictures)
    heats: Sequence[np.ndarray | None] = [None] * len(pictures)
    if images.heat_maps:
        heats = predictor.heat_maps(pictures, results)
    for seen, picture, result, heat in zip(readable_items, pictures, results, heats, strict=True):
        item = seen.item
        if seen.state is None or item.state() != seen.state:
            failures.append(Failure(item.name, item.path, "image", CHANGED))
            continue
        write_image(item, seen.state, picture, result, heat, predictor, images)
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
    item: Item,
    state: State,
    picture: Picture,
    result: Result,
    heat: np.ndarray | None,
    predictor: Predictor,
    images: ImageSettings,
) -> None:
    """Overlay, mask, heat map and DICOM objects if wanted, and, last, the record: the image is
    done."""
    out = images.out
    earlier = read_record(out, item)
    write_overlay(item.in_folder(out / "overlays", ".png"), result.overlay())
    content = result.to_dict()
    mask_picture = result.mask_picture()
    if mask_picture is not None:
        path = item.in_folder(out / "masks", ".png")
        write_overlay(path, mask_picture)
        content["mask"]["file"] = path.relative_to(out).as_posix()
    heat_map = write_heat_map(out, item, result, heat, earlier)
    if heat_map is not None:
        content["heat_map"] = heat_map
    full_range = None
    if picture.deep is not None:
        full_range = Window(picture.deep.centre, picture.deep.width)
    statement = Statement(result, predictor.run.name, full_range)
    objects = make_objects(images, item, picture.dicom, statement, earlier)
    write_record(out, item, state, picture, content, objects)


def write_heat_map(
    out: Path, item: Item, result: Result, heat: np.ndarray | None, earlier: Record | None
) -> dict[str, str] | None:
    """Write where a classifier looked; returns what the record says of it: class and file.

    heat: as of `Predictor.heat_maps`. Without it the map that an earlier record of the same file
    names stays, and any other goes.
    """
    path = item.in_folder(out / "heat_maps", ".png")
    if heat is None:
        known = earlier.get("heat_map") if earlier else None
        if known is None:
            path.unlink(missing_ok=True)
        return known
    # Imported with it are matplotlib, scikit-learn and two thousand further modules.
    from cxr.plots.heat_maps import draw_heat_map

    assert isinstance(result, ClassResult)
    words = f"{result.score:.2f} {result.best_class}"
    write_overlay(path, draw_heat_map(result.shown, heat, words))
    return {"class": result.best_class, "file": path.relative_to(out).as_posix()}


def write_results(
    predictor: Predictor,
    items: Sequence[Item],
    failures: Sequence[Failure],
    images: ImageSettings,
) -> Written:
    """Write tables and page of all images that are done."""
    out = images.out
    records = partial(read_done_records, items, images)
    left_out = sum(failure.what == LEFT_OUT for failure in failures)
    failures = sorted([*failures, *missing_objects(images, records())])
    notes = [*predictor.notes, *note_other_images(records(), left_out, len(items))]
    notes += note_lone_images(records())
    page = write_tables(predictor, records, failures, notes, out)
    return Written(page, notes, len(failures))


def say_results(written: Written, out: Path) -> None:
    """Print where what was written is, and what to know of it."""
    for note in written.notes:
        print(note)
    if written.failed:
        print(f"{written.failed} things failed, see {out / 'failed.csv'}")
    print(f"to look at: {written.page}, tables beside it", flush=True)


def write_tables(
    predictor: Predictor,
    records: Callable[[], Iterable[Record]],
    failures: Sequence[Failure],
    notes: Sequence[str],
    out: Path,
) -> Path:
    """Write the tables and the page of the images that `records` yields; returns the page's path.

    failures: the rows of failed.csv. notes: sentences for the page. Runs whose classes are of
    studies have a table of these, too.
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
    studies = {}
    if predictor.of_studies:
        studies = studies_of_records(records(), predictor.image_classes)
        write_studies(out / "studies.csv", studies, predictor.image_classes)
    return write_index(out, records(), failures, header, studies)


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
        record = read_done_record(item, images)
        if record is not None:
            yield record


def read_done_record(item: Item, images: ImageSettings) -> Record | None:
    """The record of an image that is predicted and wanted."""
    record = read_record(images.out, item)
    if record is None or (images.only_chest and mark_of(record)):
        return None
    return record


def is_done(item: Item, images: ImageSettings) -> bool:
    """Whether an image is predicted and has each DICOM object that is wanted, or a reason."""
    record = read_done_record(item, images)
    if record is None:
        return False
    if images.heat_maps and "heat_map" not in record:
        return False
    wanted = wanted_outputs(images)
    return not any(output.is_missing(images.out, item, record) for output in wanted)


def missing_objects(images: ImageSettings, records: Iterable[Record]) -> Iterator[Failure]:
    """Yield the objects that were wanted of an image and could not be made."""
    for record in records:
        for words, reason in unmade_objects(images, record):
            yield Failure(record["image"], record["source"], words, reason)
