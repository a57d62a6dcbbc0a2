"""Step 02: X-ray files to small PNGs, tables and folds, in a way that a killed run continues."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from cxr.data.conversion import Conversion, convert_all
from cxr.data.duplicates import leakage_report
from cxr.data.folds import assign_folds, follow_folds
from cxr.data.image_table import Tables, note_count
from cxr.data.loader import count_workers
from cxr.data.tables import finish_table, in_order, note_unusual_headers, read_table
from cxr.run_folder import TaskFolder
from cxr.settings import Settings
from cxr.system import distributed
from cxr.system.disk import read_json, remove_leftovers, sync_all, write_json
from cxr.system.errors import InputError
from cxr.system.tables import write_csv
from cxr.system.walk import walk

# What a fold must not divide, and the columns that say it, where they exist.
GROUPINGS = {"patients": "patient", "studies": "study_id", "clusters of copies": "cluster"}


class DatasetFiles(Protocol):
    """What step 02 asks of a data set (cxr/datasets/base.py)."""

    @property
    def groups_by_picture(self) -> bool: ...

    def read_tables(self, folder: Path, settings: Settings) -> Tables: ...

    def table_settings(self, settings: Settings) -> dict[str, Any]: ...

    def group_rows(self, table: pd.DataFrame, folder: Path, notes: list[str]) -> pd.DataFrame: ...


def prepare(
    dataset: DatasetFiles, source: Path, folder: TaskFolder, settings: Settings
) -> dict[str, Any]:
    """Read the tables of a data set in `source`, convert every image, fill working/<task>/.

    Leaves images/<image_id>.png, failed.csv (image_id, path, reason), then test.csv, train.csv and
    preprocess.json (settings, counts, notes), which is returned. What is there already is kept;
    images that failed are tried again. InputError: input missing, another input or setting than
    the folder was made with, too many failures, disk full.
    """
    if not folder.preprocess_record.exists():
        _refuse_missing(source)  # before the lock makes a folder
    try:
        with distributed.process_group("cpu"), distributed.alone_together(folder.path):
            return _prepare(dataset, source, folder, settings)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise InputError(
            f"step 02 cannot go on ({where}{error.strerror or error}); the images finished so far "
            "are kept, so free some space or repair the place and run it again"
        ) from None


def _prepare(
    dataset: DatasetFiles, source: Path, folder: TaskFolder, settings: Settings
) -> dict[str, Any]:
    origin = _describe_origin(dataset, source, settings)
    earlier = _read_earlier(folder, origin)
    if earlier is not None and _is_finished(earlier, folder):
        if distributed.rank() == 0:
            _say_finished(earlier, origin, source, folder)
        return earlier
    _refuse_missing(source)
    tables = dataset.read_tables(source, settings)
    train = tables.train
    notes = tables.notes
    _check_ids(train, tables.test)

    # Folds are dealt before any file is read, so that images that fail, or are repaired later, do
    # not move the others. That cannot be where one has to see which pictures belong together.
    if not dataset.groups_by_picture:
        train = _with_folds(train, settings, notes)
    distributed.barrier()  # all have seen what is finished
    if distributed.rank() == 0:
        write_json(folder.preprocess_record, origin | {"complete": False})
        remove_leftovers(folder.images)

    files = pd.concat([train, tables.test])[["image_id", "path"]]
    workers = count_workers(settings.machine.workers)
    converted = convert_all(files, folder.images, settings.data.size, workers)
    if distributed.rank() == 0:
        finished = Tables(train, tables.test, notes)
        _write_tables(dataset, folder, settings, origin, finished, converted)
    distributed.barrier()
    return read_json(folder.preprocess_record)


def _write_tables(
    dataset: DatasetFiles,
    folder: TaskFolder,
    settings: Settings,
    origin: Mapping[str, Any],
    tables: Tables,
    converted: Conversion,
) -> None:
    """train.csv, test.csv and failed.csv of what was converted, then the record."""
    train, _, notes = tables
    train = finish_table(train, converted.headers, notes)
    test = finish_table(tables.test, converted.headers, notes)
    note_unusual_headers(converted.headers, notes)
    if dataset.groups_by_picture:
        train = dataset.group_rows(train, folder.path, notes)
        train = in_order(_with_folds(train, settings, notes))

    sync_all()  # the pictures are on the disk before anything says that they are there
    counts = {"train": len(train), "test": len(test), "failed": len(converted.failed)}
    record = {**origin, "complete": True, "counts": counts, "notes": notes}
    write_csv(folder.table("failed"), converted.failed)
    write_csv(folder.table("test"), test)
    write_csv(folder.table("train"), train)
    write_json(folder.preprocess_record, record)
    print("\n".join([*notes, *fold_summary(train)]))
    _check_failures(converted.failed, counts, settings.data.max_failed_share, folder)


def _refuse_missing(source: Path) -> None:
    """Raises InputError where the data set's folder is not there."""
    if not source.is_dir():
        raise InputError(
            f"{source} is missing: run 01_download.py first, or point --input at the folder that "
            f"holds {source.name}"
        )


def _with_folds(train: pd.DataFrame, settings: Settings, notes: list[str]) -> pd.DataFrame:
    """The table with its folds; with --folds-of without the patients of that task's test images."""
    folds = settings.data.folds
    seed = settings.data.seed
    if not settings.data.folds_of:
        return train.assign(fold=assign_folds(train, folds, seed))
    other = TaskFolder.of(settings.place).sibling(settings.data.folds_of)
    of_test = train["group"].isin(read_table(other.table("test"))["group"])
    note_count(
        notes, int(of_test.sum()), f"images are of test patients of {other.name} and were left out"
    )
    train = train[~of_test].reset_index(drop=True)
    if train.empty:
        raise InputError(f"--folds-of {other.name}: all patients are test patients there")
    table = read_table(other.table("train"))
    shared = train["group"].isin(table["group"])
    notes.append(
        f"{shared.sum()} of {len(train)} images are of patients of {other.name} and have their "
        "folds there (--folds-of)"
    )
    return train.assign(fold=follow_folds(train, table, folds, seed))


# ------------------------------------------------------- what the folder was made of


def _describe_origin(dataset: DatasetFiles, source: Path, settings: Settings) -> dict[str, Any]:
    """What a task folder holds the result of one value of each."""
    source = source.resolve()
    return {
        "input": str(source),
        "contents": _contents(source),
        "size": settings.data.size,
        "folds": settings.data.folds,
        "seed": settings.data.seed,
        "folds_of": settings.data.folds_of or None,  # None: also of folders of earlier versions
        **dataset.table_settings(settings),
    }


def _contents(source: Path) -> dict[str, Any]:
    """What tells a data set from another, or from itself when it was less complete.

    The number of its files, and the sizes of its tables and of those beside it, where a mapping of
    patients may lie.
    """
    tables = {}
    for folder in (source, source.parent):
        for path in sorted(folder.glob("*")):
            if path.suffix in (".csv", ".json"):
                tables[str(path.relative_to(source.parent))] = path.stat().st_size
    files = sum(len(visited.files) for visited in walk(source))
    return {"files": files, "tables": tables}


def _read_earlier(folder: TaskFolder, origin: Mapping[str, Any]) -> dict[str, Any] | None:
    """What preprocess.json of an earlier run says, None without one.

    The same data set in another place, such as on another machine, is no other setting.
    InputError where that run had other settings.
    """
    if not folder.preprocess_record.exists():
        return None
    earlier = read_json(folder.preprocess_record)
    has_moved = earlier["input"] != origin["input"]
    if has_moved and earlier.get("contents") == origin["contents"]:
        earlier["input"] = origin["input"]
        write_json(folder.preprocess_record, earlier)
    for name, value in origin.items():
        if name != "contents" and earlier.get(name) != value:
            raise InputError(
                f"{folder.path} was made with {name} {earlier.get(name)}, not {value}: choose "
                "another --working, or delete that folder and with it the runs trained in it"
            )
    return earlier


def _is_finished(earlier: Mapping[str, Any], folder: TaskFolder) -> bool:
    """Whether nothing is left to do, going by names only."""
    if not earlier["complete"] or earlier["counts"]["failed"]:
        return False
    if not all(folder.table(name).is_file() for name in ("train", "test", "failed")):
        return False
    present = set()
    if folder.images.is_dir():
        present = {entry.name for entry in os.scandir(folder.images)}
    for name in ("train", "test"):
        table = pd.read_csv(folder.table(name), usecols=["image_id"], dtype=str)
        if not set(table["image_id"] + ".png") <= present:
            return False
    return True


def _say_finished(
    earlier: Mapping[str, Any], origin: Mapping[str, Any], source: Path, folder: TaskFolder
) -> None:
    """Print that nothing is left to do, and whether the input has changed since."""
    counts = earlier["counts"]
    print(f"{folder.path} is complete: {counts['train']} training and {counts['test']} test images")
    contents = origin["contents"]
    if source.is_dir() and earlier.get("contents", contents) != contents:
        print(
            f"NOTE: {source} has changed since. To make tables and folds anew, delete "
            f"{folder.preprocess_record} and run step 02 again; converted images are kept. Runs "
            "trained before belong to the old folds: give new ones another --run"
        )


# ------------------------------------------------------------------------------ checks


def _check_ids(train: pd.DataFrame, test: pd.DataFrame) -> None:
    """InputError for ids that occur twice or cannot name a file."""
    ids = pd.concat([train["image_id"], test["image_id"]]).astype(str)
    twice = ids[ids.duplicated()]
    if len(twice):
        raise InputError(f"image_id {twice.iloc[0]} occurs twice in the tables")
    unsafe = ids[ids.str.contains(r"[/\\:\0]") | ids.str.startswith(".") | (ids == "")]
    if len(unsafe):
        raise InputError(f"image_id {unsafe.iloc[0]!r} cannot be a file name")


def fold_summary(train: pd.DataFrame) -> list[str]:
    """Lines of text: a table of the folds, and the groups in more than one (there must be 0).

    The table counts the images of each stratum, all images and all boxes.
    """
    if train.empty:
        return ["no training images"]
    strata = train["stratum"].str.get_dummies("|")  # an image may have several findings
    table = strata.groupby(train["fold"]).sum()
    folds = train.groupby("fold")
    table["images"] = folds.size()
    table["boxes"] = folds["n_boxes"].sum()

    groups = {words: train[name] for words, name in GROUPINGS.items() if name in train}
    if not groups:
        groups = {"patients": train["group"]}
    return [table.rename_axis(None, axis=1).to_string(), *leakage_report(train["fold"], groups)]


def _check_failures(
    failed: pd.DataFrame, counts: Mapping[str, int], allowed_share: float, folder: TaskFolder
) -> None:
    """Print what failed; InputError where it is more than the allowed share of all images."""
    if failed.empty:
        return
    images = sum(counts.values())
    listed = folder.table("failed")
    print(f"{len(failed)} of {images} images failed and are left out, see {listed}")
    if len(failed) > allowed_share * images:
        raise InputError(
            f"{len(failed)} of {images} images failed, more than --max-failed-share "
            f"{allowed_share}, see {listed}; the first: {failed['reason'].iloc[0]}"
        )
