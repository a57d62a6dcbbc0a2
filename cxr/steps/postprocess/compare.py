"""Several runs side by side: compare.html and compare.png with curves, scores and the settings in which they differ."""

import math
import os
from pathlib import Path

from cxr.config import Config
from cxr.plots.curves import comparison_panels
from cxr.plots.panels import colours_of, write_panels
from cxr.steps.postprocess.report import bar, render
from cxr.steps.postprocess.run_records import across_folds, read_fold_json, read_logs, text
from cxr.system.disk import InputError, atomic, read_json

TABLE = (
    "task",
    "input",
    "folds",
    "size",
    "cleaning",
)  # settings that change what is learned beside those of training


def compare(run_dirs, path):
    """Write the comparison of the run folders at `path` (.html) and its diagrams beside it as .png; returns `path`.

    A run without results.json or logs is shown as far as it got. Raises InputError for a folder that does not exist.
    """
    path, folders = Path(path), [Path(folder) for folder in run_dirs]
    for folder in folders:
        if not folder.is_dir():
            raise InputError(
                f"{folder} does not exist: name runs that were trained, or train it with step 03"
            )
    runs = dict(zip(distinct_names(folders), folders))
    logs, problems = {}, []
    for name, folder in runs.items():
        logs[name], found = read_logs(folder)
        problems += [f"{name}: {problem}" for problem in found]
    colours, panels = colours_of(runs), comparison_panels(logs)
    write_panels(path.with_suffix(".png"), panels, colours)
    columns, settings = differing_settings(runs)
    rows = [result_row(name, folder, logs[name]) for name, folder in runs.items()]
    classes = list(dict.fromkeys(name for row in rows for name in row["aps"]))
    page = render(
        "compare.html.jinja",
        problems=problems,
        panels=panels,
        colours=colours,
        columns=columns,
        settings=settings,
        rows=rows,
        classes=classes,
    )
    with atomic(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def run_folders(task_dir, names):
    """Folders of the named runs; of all that were trained for the one name `all`."""
    if tuple(names) != ("all",):
        return [task_dir / name for name in names]
    found = sorted({path.parents[1] for path in task_dir.glob("*/fold*/config.json")})
    if not found:
        raise InputError(f"{task_dir} holds no run: train one with step 03")
    return found


def distinct_names(folders):
    """Shortest ends of the paths that tell the folders apart, usually the folder's name; a repeated folder once."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts), default=1) + 1):
        names = [os.sep.join(part[-length:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names


def result_row(name, folder, logs):
    """The run's bar of results.json (nan where not scored yet) and what its logs say, each the mean over folds."""
    results = read_json(folder / "results.json") if (folder / "results.json").exists() else {}
    interval = results.get("interval")
    return bar(
        name,
        results.get("score"),
        interval if interval and None not in interval else None,
        images=results.get("n_images"),
        folds=len(logs),
        leaderboard=results.get("leaderboard"),
        aps=results.get("ap") or {},
        epochs=text(sorted({len(log) for log in logs.values()})),
        best=_mean(log.metric.max() for log in logs.values() if "metric" in log),
        loss=_mean(log.valid_loss.min() for log in logs.values() if "valid_loss" in log),
        hours=sum(float(log.seconds.sum()) for log in logs.values() if "seconds" in log) / 3600,
    )


def _mean(values):
    values = [float(value) for value in values if math.isfinite(value)]
    return sum(values) / len(values) if values else math.nan


def differing_settings(runs):
    """(names, {run: {name: text}}) of the settings in config.json that change what is learned and are not the same in
    all runs. One that is younger than a run had its default there."""
    settings = {name: across_folds(_settings(folder)) for name, folder in runs.items()}
    known = [record for record in settings.values() if record]
    names = dict.fromkeys(key for record in known for key in record)
    columns = [key for key in names if len({record.get(key) for record in known}) > 1]
    return columns, settings


def _settings(folder):
    records, _ = read_fold_json(folder, "config.json")
    usual = Config().training_settings()
    return {
        fold: usual | {key: value for key, value in record.items() if key in usual or key in TABLE}
        for fold, record in records.items()
    }
