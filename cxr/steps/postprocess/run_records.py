"""What a run left on disk: training logs, settings and manifests of its folds, read forgivingly.

A report must appear even when one fold has no log yet, so problems come back as sentences instead of errors.
"""

import re

import pandas as pd

from cxr.system.disk import InputError, read_json


def fold_dirs(run_dir):
    """{fold number: folder} of the folders fold<k> in `run_dir`, by rising number."""
    matches = (
        (re.fullmatch(r"fold(\d+)", folder.name), folder)
        for folder in run_dir.glob("fold*")
        if folder.is_dir()
    )
    return dict(sorted((int(match[1]), folder) for match, folder in matches if match))


def read_logs(run_dir):
    """({fold: table of log.csv, numeric, by rising epoch}, problems). Folds without a usable row are left out."""
    logs, problems = {}, []
    for fold, folder in fold_dirs(run_dir).items():
        try:
            log = _clean(pd.read_csv(folder / "log.csv"))
        except FileNotFoundError:
            problems.append(f"Fold {fold} has no training log.")
        except (ValueError, UnicodeDecodeError) as error:  # pandas' parser errors are ValueErrors
            problems.append(f"The training log of fold {fold} could not be read ({error}).")
        else:
            if len(log):
                logs[fold] = log
            else:
                problems.append(f"The training log of fold {fold} is empty.")
    return logs, problems


def _clean(log):
    """Numbers only (anything else becomes nan); the last row of an epoch wins, as a resumed run may repeat one."""
    log = log.apply(pd.to_numeric, errors="coerce")
    if "epoch" not in log:
        log.insert(0, "epoch", range(1, len(log) + 1))
    return (
        log.dropna(subset="epoch")
        .drop_duplicates("epoch", keep="last")
        .sort_values("epoch", ignore_index=True)
    )


def read_fold_json(run_dir, name):
    """({fold: content of fold<k>/name}, problems); a missing file is no problem, a broken one is."""
    records, problems = {}, []
    for fold, folder in fold_dirs(run_dir).items():
        if (folder / name).exists():
            try:
                records[fold] = read_json(folder / name)
            except InputError as error:
                problems.append(f"{error}.")
    return records, problems


def flatten(record, prefix=""):
    """Nested dicts as one level: {"versions": {"torch": 2}} -> {"versions.torch": 2}."""
    flat = {}
    for key, value in record.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def across_folds(records):
    """{fold: record} -> {flat key: text}; one value where all folds agree, each fold's value on a line where not."""
    flat = {
        fold: {key: text(value) for key, value in flatten(record).items()}
        for fold, record in records.items()
    }
    keys = list(dict.fromkeys(key for record in flat.values() for key in record))
    return {
        key: _agreed({fold: record[key] for fold, record in flat.items() if key in record})
        for key in keys
    }


def _agreed(values):
    if len(set(values.values())) == 1:
        return next(iter(values.values()))
    return "\n".join(f"fold {fold}: {value}" for fold, value in values.items())


def text(value):
    """A setting as a person would write it."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(text(item) for item in value) or "–"
    return str(value)
