"""Several runs side by side: compare.html and compare.png with scores, curves and settings."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cxr.plots.page import render_page, setting_text
from cxr.plots.panels import colours_of, write_panels
from cxr.plots.training_curves import comparison_panels
from cxr.run_folder import RunFolder, TaskFolder
from cxr.steps.postprocess.report_tables import Bar, bars_axis
from cxr.steps.postprocess.run_records import across_folds, read_configs, read_logs
from cxr.system.disk import atomic, read_json
from cxr.system.errors import InputError
from cxr.tasks import Task

TEMPLATE = Path(__file__).parent / "templates" / "compare.html.jinja"
# Settings that change what is learned beside those of training.
TABLE_SETTINGS = ("task", "input", "folds", "size", "cleaning")
ALL = ("all",)  # in place of names: every run


@dataclass(frozen=True)
class RunBar(Bar):
    """What results.json and the logs of a run say.

    images: how many were judged, None where the run is not scored yet.
    judged_images: which, as `fingerprint` has it; None where an older run does not say.
    judged_folds: as text.
    folds: that were trained; epochs: of each of them, as text.
    leaderboard: the score that Kaggle gave, as entered.
    class_precisions: {class: its average precision}.
    best_metric, lowest_loss, lowest_box_loss: of validation, each fold at its best epoch, the mean
        over folds; nan where the logs have no such column.
    hours: of training, over all folds.
    """

    images: int | None
    judged_images: str | None
    judged_folds: str
    folds: int
    epochs: str
    leaderboard: float | None
    class_precisions: Mapping[str, float | None]
    best_metric: float
    lowest_loss: float
    lowest_box_loss: float
    hours: float


@dataclass(frozen=True)
class SettingsTable:
    """columns: settings in which runs differ; rows: {run: {setting: text}}."""

    columns: list[str]
    rows: dict[str, dict[str, str]]


def compare_runs(task: Task, folders: Sequence[RunFolder], path: Path) -> Path:
    """Write the comparison of runs of a task at `path` (.html) and its diagrams beside it as .png.

    A run without results.json or logs is shown as far as it got. Returns `path`. Raises InputError
    for a folder that does not exist.
    """
    for folder in folders:
        if not folder.path.is_dir():
            raise InputError(
                f"{folder.path} does not exist: name runs that were trained, or train it with "
                "step 03"
            )
    names = distinct_names([folder.path for folder in folders])
    runs = dict(zip(names, folders, strict=True))
    logs = {}
    problems = []
    for name, run in runs.items():
        run_logs = read_logs(run)
        logs[name] = run_logs.by_fold
        problems += [f"{name}: {problem}" for problem in run_logs.problems]

    colours = colours_of(runs)
    panels = comparison_panels(logs)
    write_panels(path.with_suffix(".png"), panels, colours)
    bars = [make_run_bar(name, run, logs[name]) for name, run in runs.items()]
    classes: dict[str, None] = {}
    for bar in bars:
        classes |= dict.fromkeys(bar.class_precisions)
    difference = different_images(bars)
    page = render_page(
        TEMPLATE,
        difference=difference,
        box_losses=any(math.isfinite(bar.lowest_box_loss) for bar in bars),
        problems=problems,
        panels=panels,
        colours=colours,
        settings=differing_settings(task, runs),
        bars=bars,
        axis=bars_axis(bars),
        classes=list(classes),
    )
    with atomic(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def find_runs(task: TaskFolder, names: Sequence[str]) -> list[RunFolder]:
    """The named runs of a task; all that were trained for the one name `all`."""
    if tuple(names) == ALL:
        names = task.run_names()
        if not names:
            raise InputError(f"{task.path} holds no run: train one with step 03")
    return [task.run(name) for name in names]


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """Shortest ends of the paths that tell them apart, usually the folder's name.

    A repeated path has the same name twice.
    """
    parts = [path.resolve().parts for path in paths]
    different = len(set(parts))
    longest = max(map(len, parts), default=1)
    names = [os.sep.join(part) for part in parts]
    for length in range(1, longest):
        ends = [os.sep.join(part[-length:]) for part in parts]
        if len(set(ends)) == different:
            return ends
    return names


def make_run_bar(name: str, run: RunFolder, logs: Mapping[int, pd.DataFrame]) -> RunBar:
    """The bar of one run; its score is nan where it is not scored yet."""
    results: dict[str, Any] = {}
    if run.judged().results.exists():
        results = read_json(run.judged().results)
    score = results.get("score")
    low, high = results.get("interval") or (None, None)
    epochs = sorted({len(log) for log in logs.values()})
    metrics = [log["metric"].max() for log in logs.values() if "metric" in log]
    seconds = [float(log["seconds"].sum()) for log in logs.values() if "seconds" in log]
    return RunBar(
        name,
        math.nan if score is None else float(score),
        None if low is None or high is None else (low, high),
        images=results.get("n_images"),
        judged_images=results.get("judged_images"),
        judged_folds=setting_text(results.get("folds")),
        folds=len(logs),
        epochs=setting_text(epochs),
        leaderboard=results.get("leaderboard"),
        class_precisions=results.get("ap") or {},
        best_metric=mean_finite(metrics),
        lowest_loss=mean_lowest(logs, "valid_loss"),
        lowest_box_loss=mean_lowest(logs, "valid_box"),
        hours=sum(seconds) / 3600,
    )


def mean_lowest(logs: Mapping[int, pd.DataFrame], column: str) -> float:
    """The mean over the folds of a column's lowest value, nan where no fold has it."""
    return mean_finite(log[column].min() for log in logs.values() if column in log)


def different_images(bars: Sequence[RunBar]) -> str:
    """A sentence that names runs judged on different images; empty where all are the same."""
    scored = [bar for bar in bars if bar.images is not None]
    numbers = {bar.images for bar in scored}
    fingerprints = {bar.judged_images for bar in scored} - {None}
    if len(numbers) < 2 and len(fingerprints) < 2:
        return ""
    runs = [
        f"{bar.label} on {bar.images:,} images of the folds {bar.judged_folds}" for bar in scored
    ]
    return (
        "These runs were judged on different images, so that a difference of their scores may lie "
        f"in the images: {'; '.join(runs)}."
    )


def mean_finite(values: Iterable[float]) -> float:
    """The mean of the finite values, nan without any."""
    finite = [float(value) for value in values if math.isfinite(value)]
    if not finite:
        return math.nan
    return sum(finite) / len(finite)


def differing_settings(task: Task, runs: Mapping[str, RunFolder]) -> SettingsTable:
    """The settings of config.json that change what is learned and are not the same in all runs.

    A setting that is younger than a run had its default there.
    """
    rows = {name: across_folds(learning_settings(task, run)) for name, run in runs.items()}
    known = [row for row in rows.values() if row]
    names: dict[str, None] = {}
    for row in known:
        names |= dict.fromkeys(row)
    columns = []
    for name in names:
        values = {row.get(name) for row in known}
        if len(values) > 1:
            columns.append(name)
    return SettingsTable(columns, rows)


def learning_settings(task: Task, run: RunFolder) -> dict[int, dict[str, Any]]:
    """{fold: settings that change what is learned}."""
    settings = {}
    for fold, record in read_configs(run).by_fold.items():
        settings[fold] = task.make_settings(record).training_values()
        for name in TABLE_SETTINGS:
            if name in record:
                settings[fold][name] = record[name]
    return settings
