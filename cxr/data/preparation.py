"""Step 02: X-ray files to small PNGs, tables and folds, in a way that a killed run continues."""

import json
import os
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from itertools import islice

import numpy as np
import pandas as pd
from tqdm import tqdm

from cxr.data.dataset import count_workers
from cxr.data.duplicates import leakage_report
from cxr.data.folds import assign_folds
from cxr.geometry.boxes import clip_boxes
from cxr.images.read import convert_image
from cxr.system.disk import InputError, read_json, write_csv, write_json

COLUMNS = [
    "image_id",
    "path",
    "study_id",
    "patient",
    "cluster",
    "group",
    "stratum",
    "fold",
    "width",
    "height",
    "age",
    "sex",
    "view",
    "n_boxes",
    "boxes",
    "box_labels",
    "mask_known",
    "label",
    "test_like",
    "mask",
]
GROUPED = {
    "patients": "patient",
    "studies": "study_id",
    "clusters of copies": "cluster",
}  # columns, where they exist
TOGETHER = (
    4  # images that a worker is handed at once; few, so that all workers end at about the same time
)
QUEUED_PER_WORKER = (
    3  # such handfuls; keeps workers busy, and the queue does not grow with the number of images
)


def prepare(task, config):
    """Read task.read_tables(config.input / task.slug), convert every image, write working/<task>/.

    Leaves images/<image_id>.png, failed.csv (image_id, path, reason), then test.csv, train.csv and preprocess.json
    (settings, counts, notes), which is returned. What is there already is kept; images that failed are tried again.
    InputError: input missing, another input or setting than the folder was made with, too many failures, disk full.
    """
    try:
        return _prepare(task, config)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise InputError(
            f"step 02 cannot go on ({where}{error.strerror or error}); the images finished so far are "
            "kept, so free some space or repair the place and run it again"
        ) from None


def _prepare(task, config):
    folder, source, settings = config.task_dir, config.input / task.slug, _settings(config, task)
    done = _earlier_run(folder, settings)
    if done and done["complete"] and not done["counts"]["failed"] and _all_there(folder):
        print(
            f"{folder} is complete: {done['counts']['train']} training and {done['counts']['test']} test images"
        )
        if source.is_dir() and done.get("contents", settings["contents"]) != settings["contents"]:
            print(
                f"NOTE: {source} has changed since. To make tables and folds anew, delete "
                f"{folder / 'preprocess.json'} and run step 02 again; converted images are kept. Runs trained before "
                "belong to the old folds: give new ones another --run"
            )
        return done
    if not source.is_dir():
        raise InputError(
            f"{source} is missing: run 01_download.py first, or point --input at the folder that holds "
            f"{task.slug}"
        )
    train, test, notes = task.read_tables(source, **_own_settings(task, config))
    _check_ids(train, test)
    # Folds are dealt before reading a file, so that images that fail, or are repaired later, do not move the others.
    # They can do that only in a task that has to see the pictures to know which belong together.
    late = hasattr(task, "group_rows")
    train = train if late else train.assign(fold=assign_folds(train, config.folds, config.seed))
    write_json(folder / "preprocess.json", settings | {"complete": False})
    headers, failed = convert_all(
        pd.concat([train, test])[["image_id", "path"]], folder / "images", config
    )
    train, test = (finish_table(table, headers, notes) for table in (train, test))
    if late:
        train = task.group_rows(train, folder, notes)
        train = in_order(train.assign(fold=assign_folds(train, config.folds, config.seed)))
    counts = {"train": len(train), "test": len(test), "failed": len(failed)}
    write_csv(folder / "failed.csv", failed)
    write_csv(folder / "test.csv", test)
    write_csv(folder / "train.csv", train)
    result = settings | {"complete": True, "counts": counts, "notes": notes}
    write_json(folder / "preprocess.json", result)
    print("\n".join([*notes, *fold_summary(train)]))
    _check_failures(failed, counts, config.max_failed_share, folder)
    return result


def _settings(config, task):
    """What a task folder holds the result of one value of each."""
    source = (config.input / task.slug).resolve()
    return {
        "input": str(source),
        "contents": _contents(source),
        "size": config.size,
        "folds": config.folds,
        "seed": config.seed,
        **_own_settings(task, config),
    }


def _contents(source):
    """What tells a data set from another, or from itself when it was less complete: the number of its files, and the
    sizes of its tables and of those beside it, where a mapping of patients may lie."""
    tables = {
        str(path.relative_to(source.parent)): path.stat().st_size
        for folder in (source, source.parent)
        for path in sorted(folder.glob("*"))
        if path.suffix in (".csv", ".json")
    }
    return {"files": sum(len(files) for *_, files in os.walk(source)), "tables": tables}


def _own_settings(task, config):
    """Settings by which the task chooses the rows of its tables."""
    return task.table_settings(config) if hasattr(task, "table_settings") else {}


def _earlier_run(folder, settings):
    """What preprocess.json of an earlier run says, None without one. InputError where that run had other settings.

    The same data set in another place, such as on another machine, is no other setting.
    """
    path = folder / "preprocess.json"
    if not path.exists():
        return None
    done = read_json(path)
    if done["input"] != settings["input"] and done.get("contents") == settings["contents"]:
        done["input"] = settings["input"]
        write_json(path, done)
    other = [name for name in settings if name != "contents" and done.get(name) != settings[name]]
    if other:
        raise InputError(
            f"{folder} was made with {other[0]} {done.get(other[0])}, not {settings[other[0]]}: "
            "choose another --working, or delete that folder and with it the runs trained in it"
        )
    return done


def _all_there(folder):
    """Whether both tables exist and every image they name, going by names only."""
    if not all((folder / name).is_file() for name in ("train.csv", "test.csv", "failed.csv")):
        return False
    images = (
        {entry.name for entry in os.scandir(folder / "images")}
        if (folder / "images").is_dir()
        else set()
    )
    ids = pd.concat(
        [
            pd.read_csv(folder / name, usecols=["image_id"], dtype=str)
            for name in ("train.csv", "test.csv")
        ]
    )
    return set(ids.image_id + ".png") <= images


def _check_ids(train, test):
    ids = pd.concat([train.image_id, test.image_id]).astype(str)
    if ids.duplicated().any():
        raise InputError(f"image_id {ids[ids.duplicated()].iloc[0]} occurs twice in the tables")
    unsafe = ids[ids.str.contains(r"[/\\:\0]") | ids.str.startswith(".") | (ids == "")]
    if len(unsafe):
        raise InputError(f"image_id {unsafe.iloc[0]!r} cannot be a file name")


def convert_all(table, folder, config):
    """Convert each row's path to folder/<image_id>.png in parallel.

    Returns (dict image_id -> Header, DataFrame image_id, path, reason of what failed). OSError where writing fails.
    """
    jobs = [(row.image_id, row.path, folder / f"{row.image_id}.png") for row in table.itertuples()]
    for leftover in folder.glob(".*.tmp.png"):  # of processes that were killed while writing
        leftover.unlink(missing_ok=True)
    kept = {path.name for path in folder.glob("*.png")}
    print(
        f"{len(jobs)} images, {sum(target.name in kept for *_, target in jobs)} of them converted by an earlier run"
    )
    headers, failed = {}, []
    with tqdm(total=len(jobs), unit="image", desc="convert", mininterval=1) as bar:
        for image_id, path, (header, reason) in _converted(
            jobs, config.size, count_workers(config.workers)
        ):
            bar.update()
            if header is None:
                failed.append((image_id, path, reason))
            else:
                headers[image_id] = header
    return headers, pd.DataFrame(sorted(failed), columns=["image_id", "path", "reason"])


def _converted(jobs, size, workers):
    """Yield (image_id, path, (Header or None, reason)) as they finish."""
    if workers <= 1 or len(jobs) < 2:
        yield from (
            (image_id, path, convert_image(path, target, size)) for image_id, path, target in jobs
        )
        return
    pool = ProcessPoolExecutor(workers)
    try:
        yield from _through_pool(pool, jobs, size, workers * QUEUED_PER_WORKER)
    except BrokenProcessPool:
        raise InputError(
            "a process that converts images was killed, perhaps for lack of memory: run step 02 again "
            "with fewer --workers, it continues where it stopped"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _through_pool(pool, jobs, size, queue_length):
    waiting, pending = iter(jobs), {}
    while True:
        while len(pending) < queue_length and (some := list(islice(waiting, TOGETHER))):
            pending[pool.submit(_convert_some, some, size)] = some
        if not pending:
            return
        for future in wait(pending, return_when=FIRST_COMPLETED).done:
            for (image_id, path, _), found in zip(pending.pop(future), future.result()):
                yield image_id, path, found


def _convert_some(jobs, size):
    return [convert_image(path, target, size) for _, path, target in jobs]


def finish_table(table, headers, notes):
    """The rows whose image was converted, with the header's facts and boxes clipped to the image; adds to notes."""
    table = table[table.image_id.isin(headers.keys())].reset_index(drop=True)
    facts = pd.DataFrame(
        [asdict(headers[i]) for i in table.image_id],
        columns=["width", "height", "age", "sex", "view"],
        index=table.index,
    )
    table = pd.concat([table, facts], axis=1)
    refuse_other_frames(table)
    clipped = [
        boxes_inside(json.loads(row.boxes), json.loads(row.box_labels), row.width, row.height)
        for row in table.itertuples()
    ]
    for position, words in (
        (2, "boxes reach outside their image and were clipped to it"),
        (3, "boxes lie wholly outside their image or have no size and were left out"),
    ):
        count = sum(result[position] for result in clipped)
        notes += [f"{count} {words}"] if count else []
    table = table.assign(
        boxes=[json.dumps(result[0]) for result in clipped],
        box_labels=[json.dumps(result[1]) for result in clipped],
        n_boxes=[len(result[0]) for result in clipped],
    )
    return in_order(table)


def in_order(table):
    return table[[name for name in COLUMNS if name in table.columns]]


def refuse_other_frames(table):
    """InputError for a picture whose mask was drawn on one of another size (column `frame`: the side of that)."""
    other = (
        table[(table["frame"] != table["width"]) | (table["frame"] != table["height"])]
        if "frame" in table
        else []
    )
    if len(other):
        row = other.iloc[0]
        raise InputError(
            f"{row['path']} and {len(other) - 1} more pictures are not {row['frame']} x {row['frame']} "
            "pixels as their masks are: use the original files"
        )


def boxes_inside(boxes, labels, width, height):
    """(boxes, labels, number clipped, number left out) of lists of [x1, y1, x2, y2] pixels and their classes."""
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    inside = clip_boxes(boxes, width, height)
    kept = (inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])
    moved = kept & (inside != boxes).any(axis=1)
    return (
        inside[kept].tolist(),
        [x for x, k in zip(labels, kept) if k],
        int(moved.sum()),
        int((~kept).sum()),
    )


def fold_summary(train):
    """Lines of text: images per fold and stratum, boxes, and the groups in more than one fold (there must be 0)."""
    if train.empty:
        return ["no training images"]
    table = (
        train.stratum.str.get_dummies("|").groupby(train.fold).sum()
    )  # an image may have several findings
    table["images"], table["boxes"] = (
        train.groupby("fold").size(),
        train.groupby("fold").n_boxes.sum(),
    )
    keys = {words: train[name] for words, name in GROUPED.items() if name in train} or {
        "patients": train["group"]
    }
    return [table.rename_axis(None, axis=1).to_string(), *leakage_report(train["fold"], keys)]


def _check_failures(failed, counts, allowed_share, folder):
    """Print what failed; InputError where it is more than the allowed share of all images."""
    images = counts["train"] + counts["test"] + counts["failed"]
    if failed.empty:
        return
    print(f"{len(failed)} of {images} images failed and are left out, see {folder / 'failed.csv'}")
    if len(failed) > allowed_share * images:
        raise InputError(
            f"{len(failed)} of {images} images failed, more than --max-failed-share {allowed_share}, see "
            f"{folder / 'failed.csv'}; the first: {failed.reason.iloc[0]}"
        )
