"""What a run left on disk: training logs, settings and manifests of its folds, read forgivingly.

A report must appear even when one fold has no log yet, so problems come back as sentences instead
of errors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from cxr.plots.page import flatten_record, setting_text
from cxr.run_folder import FoldFolder, RunFolder
from cxr.system.disk import read_json
from cxr.system.errors import InputError

LOG_FAULTS = (ValueError, UnicodeDecodeError)  # pandas' parser errors are ValueErrors


class RunLogs(NamedTuple):
    """{fold: its log, numeric, by rising epoch} and sentences about folds without a usable one."""

    by_fold: dict[int, pd.DataFrame]
    problems: list[str]


class FoldRecords(NamedTuple):
    """{fold: content of a JSON file} and sentences about files that could not be read."""

    by_fold: dict[int, dict[str, Any]]
    problems: list[str]


def fold_folders(run: RunFolder) -> list[FoldFolder]:
    """The folders fold<k> of a run, whatever is in them, by rising number."""
    folders = []
    for path in run.path.glob("fold*"):
        if path.is_dir() and re.fullmatch(r"fold\d+", path.name):
            folders.append(FoldFolder(path))
    return sorted(folders, key=lambda folder: folder.number)


def read_logs(run: RunFolder) -> RunLogs:
    """The training logs of all folds; a blend has none."""
    logs: dict[int, pd.DataFrame] = {}
    problems: list[str] = []
    if run.blend.exists():
        return RunLogs(logs, problems)
    for folder in fold_folders(run):
        number = folder.number
        try:
            log = clean_log(pd.read_csv(folder.log))
        except FileNotFoundError:
            problems.append(f"Fold {number} has no training log.")
        except LOG_FAULTS as error:
            problems.append(f"The training log of fold {number} could not be read ({error}).")
        else:
            if len(log):
                logs[number] = log
            else:
                problems.append(f"The training log of fold {number} is empty.")
    return RunLogs(logs, problems)


def clean_log(log: pd.DataFrame) -> pd.DataFrame:
    """Numbers only, anything else becomes nan; an epoch that a resumed run repeats counts once."""
    log = log.apply(pd.to_numeric, errors="coerce")
    if "epoch" not in log:
        log.insert(0, "epoch", range(1, len(log) + 1))
    log = log.dropna(subset="epoch").drop_duplicates("epoch", keep="last")
    return log.sort_values("epoch", ignore_index=True)


def read_configs(run: RunFolder) -> FoldRecords:
    """The settings of each fold."""
    return read_fold_records({folder.number: folder.config for folder in fold_folders(run)})


def read_manifests(run: RunFolder) -> FoldRecords:
    """Machine, versions and dates of each fold."""
    return read_fold_records({folder.number: folder.manifest for folder in fold_folders(run)})


def read_fold_records(paths: Mapping[int, Path]) -> FoldRecords:
    """The JSON files {fold: path} that are there; a missing one is no problem, a broken one is."""
    records = {}
    problems = []
    for fold, path in paths.items():
        if not path.exists():
            continue
        try:
            records[fold] = read_json(path)
        except InputError as error:
            problems.append(f"{error}.")
    return FoldRecords(records, problems)


def across_folds(records: Mapping[int, Mapping[str, Any]]) -> dict[str, str]:
    """{flat key: text} of {fold: record}: one value where all folds agree, else a line for each."""
    texts: dict[str, dict[int, str]] = {}
    for fold, record in records.items():
        for key, value in flatten_record(record).items():
            texts.setdefault(key, {})[fold] = setting_text(value)
    return {key: agreed_text(by_fold) for key, by_fold in texts.items()}


def agreed_text(by_fold: Mapping[int, str]) -> str:
    """The text that all folds have, or each fold's on a line."""
    different = set(by_fold.values())
    if len(different) == 1:
        return different.pop()
    lines = [f"fold {fold}: {text}" for fold, text in by_fold.items()]
    return "\n".join(lines)
