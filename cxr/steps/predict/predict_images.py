"""Step 04 for any X-rays: files and folders in; tables, pictures with boxes and a page to look through them out."""

import json
import os
from functools import partial

from tqdm import tqdm

from cxr.data.dataset import count_workers
from cxr.images.folder import find_image_files, read_record, write_record, write_prediction_tables
from cxr.images.isolated import read_all
from cxr.inference.predictor import Predictor
from cxr.plots.overlay import draw_overlay, write_overlay
from cxr.plots.panels import BRIGHT, colours_of
from cxr.steps.predict.image_index import write_index
from cxr.steps.predict.structured_report import write_structured_report
from cxr.system.disk import read_json, write_json
from cxr.system.errors import InputError


def predict_images(task, config):
    """Predict config.images into config.out and return the path of index.html. Images that are done are kept.

    Raises InputError for a run or images that are not there, a folder `out` of another run, or if nothing can be read.
    """
    if "RANK" in os.environ:
        raise InputError("--images runs in one process: start it without torchrun")
    items, others = find_image_files(config.images, config.out)
    predictor = Predictor(task, config)
    check_settings(config.out, predictor.settings())
    waiting = [item for item in items if read_record(config.out, item, config.dicom_sr) is None]
    print(
        f"{len(items)} images, {len(items) - len(waiting)} of them done before"
        + (f"; {others} other files were left alone" if others else "")
    )
    failed = predict_items(predictor, waiting) if waiting else []
    page = write_results(predictor, items, failed)
    if len(failed) == len(items):
        raise InputError(
            f"none of {len(items)} images could be read, see {config.out / 'failed.csv'}; the first: "
            f"{failed[0][-1]}"
        )
    return page


def check_settings(out, settings):
    """Raises InputError if the folder holds predictions of other checkpoints, views or parameters."""
    path = out / "settings.json"
    if path.exists():
        old, new = read_json(path), json.loads(json.dumps(settings))
        changed = [name for name in new if new[name] != old.get(name)]
        if changed:
            raise InputError(
                f"{out} holds predictions made with other {', '.join(changed)}: choose another --out, or "
                "delete that folder"
            )
    else:
        write_json(path, settings)


def predict_items(predictor, items):
    """Predict and write each image; returns [(image, path, what, reason)] of those that could not be read."""
    config, failed = predictor.config, []
    print(predictor.describe())
    pictures = read_all(
        [item.path for item in items], predictor.sides, max(1, count_workers(config.workers))
    )
    with tqdm(total=len(items), unit="image", desc="predict", mininterval=1) as bar:
        for batch in batches_of(zip(items, pictures), config.batch_size):
            failed += [
                (item.name, item.path, "image", reason_of(picture, item.path))
                for item, picture in batch
                if isinstance(picture, InputError)
            ]
            good = [pair for pair in batch if not isinstance(pair[1], InputError)]
            if good:
                for (item, picture), found in zip(
                    good, predictor.predict([picture for _, picture in good])
                ):
                    write_image(predictor, item, picture, found.plain())
            bar.update(len(batch))
    return failed


def reason_of(error, path):
    """What an InputError says, without the path that it begins with: the tables have a column for it."""
    return str(error).removeprefix(f"{path}: ")


def batches_of(pairs, size):
    """Lists of at most `size`, as they come."""
    batch = []
    for pair in pairs:
        batch.append(pair)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def write_image(predictor, item, picture, found):
    """Overlay, structured report if wanted, and, last, the record that says that the image is done."""
    config = predictor.config
    marked = [box for box in found["boxes"] if box["above_threshold"]]
    canvas = draw_overlay(
        picture.shown,
        picture.width,
        picture.height,
        marked,
        colours_of(predictor.rule.thresholds, BRIGHT),
    )
    write_overlay(item.in_folder(config.out / "overlays", ".png"), canvas)
    report = None
    if config.dicom_sr:
        report = "not a DICOM" if not picture.dicom else try_report(config, item, found)
    write_record(config.out, item, picture, found, report)


def try_report(config, item, found):
    """Path of the report relative to `out`, or why there is none."""
    path = item.in_folder(config.out / "structured_reports", ".dcm")
    try:
        write_structured_report(path, item.path, found, config.run)
    except InputError as error:
        return reason_of(error, item.path)
    return path.relative_to(config.out).as_posix()


def write_results(predictor, items, failed):
    """Tables and page of all images that are done; returns the path of the page."""
    out = predictor.config.out
    records = partial(done_records, predictor.config, items)
    failed = sorted(
        failed
        + [
            (record["image"], record["source"], "structured report", record["structured_report"])
            for record in records()
            if lacks_report(out, record)
        ]
    )
    header = {
        "run": str(predictor.config.run_dir),
        "task": predictor.task.name,
        "notes": predictor.notes,
        "thresholds": predictor.rule.thresholds,
        "image_classes": predictor.image_classes,
    }
    write_prediction_tables(out, records, failed, header)
    page = write_index(out, records, failed, header)
    print(
        "\n".join(
            [
                *predictor.notes,
                *([f"{len(failed)} things failed, see {out / 'failed.csv'}"] if failed else []),
                f"to look at: {page}, tables beside it",
            ]
        )
    )
    return page


def done_records(config, items):
    records = (read_record(config.out, item, dicom_sr=False) for item in items)
    return (record for record in records if record is not None)


def lacks_report(out, record):
    """Whether a report was wanted of this DICOM and could not be made."""
    report = record["structured_report"]
    return report is not None and record["dicom"] and not (out / report).exists()
