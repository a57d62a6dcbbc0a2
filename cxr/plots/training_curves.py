"""Curves over the epochs: those of one run's folds, and several runs compared.

A log is the table of a fold's log.csv, one row an epoch: epoch, lr, metric, train_<term> and
valid_<term> of each term of the loss, ap_<class> of each class, seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cxr.plots.panels import Panel, colours_of, value_limits

Logs = Mapping[int, pd.DataFrame]  # of each fold
LOSS_CAPTION = (
    "Lower is better; solid is validation, dashed is training. Look for a solid line that turns "
    "upward while the dashed one still falls: from there on the network memorises."
)
# Of the epochs; a comparison cuts them off above, since their steep fall would flatten the rest.
HIDDEN_SHARE = 0.25
RING_CAPTION = (
    "Higher is better; the ring is each fold's best epoch. Look for a rise that levels off, and "
    "for folds that agree."
)
BEST_CAPTION = (
    "The score of each epoch at the threshold that is best for it, on the validation images that "
    "it is measured on; higher is better."
)
THRESHOLD_CAPTION = (
    "The threshold at which each epoch scores best: where it still moves, scores of boxes still "
    "grow or shrink."
)
COMPARED_CAPTION = (
    "Lower is better; the steep fall of the first quarter is cut off where it lies above the frame."
)
SQUEEZED = 8  # times the median: a loss that was once so high gets a logarithmic axis


def loss_terms(logs: Iterable[pd.DataFrame]) -> list[str]:
    """Names of the terms of the loss, of train_<term> and valid_<term>, in order of appearance."""
    terms: dict[str, None] = {}
    for log in logs:
        for column in log.columns:
            if column.startswith(("train_", "valid_")):
                terms[column.split("_", 1)[1]] = None
    return list(terms)


def term_title(term: str) -> str:
    """How a term of the loss is called above its diagram."""
    if term == "loss":
        return "Total loss"
    return f"{term.capitalize().replace('_', ' ')} loss"


def metric_title(logs: Iterable[pd.DataFrame]) -> str:
    """How the metric is called: a detector's is the best over the thresholds of its boxes."""
    if has_numbers(logs, "threshold"):
        return "Best score over the threshold"
    return "Validation metric"


def training_panels(logs: Logs) -> list[Panel]:
    """Panels of one run: the metric, each class, every term of the loss, the learning rate.

    Columns without a number are left out.
    """
    colours = colours_of(logs)
    panels = []
    if has_numbers(logs.values(), "metric"):
        draw = partial(draw_metric, logs=logs, colours=colours)
        panels.append(Panel(metric_title(logs.values()), draw, RING_CAPTION))
    if has_numbers(logs.values(), "threshold"):
        draw = partial(draw_column, logs=logs, column="threshold", colours=colours)
        panels.append(Panel("Threshold of the best score", draw, THRESHOLD_CAPTION))
    panels += class_ap_panels(logs, colours)
    panels += loss_panels(logs, colours)
    if has_numbers(logs.values(), "lr"):
        panels.append(
            Panel(
                "Learning rate",
                partial(draw_learning_rate, logs=logs, colours=colours),
                "The size of the training steps; drops here often explain bends in the other "
                "curves.",
            )
        )
    return panels


def class_ap_panels(logs: Logs, colours: Mapping[int, str]) -> list[Panel]:
    """A panel for each column ap_<class>: its average precision over the epochs."""
    columns: dict[str, None] = {}
    for log in logs.values():
        columns |= dict.fromkeys(name for name in log.columns if name.startswith("ap_"))
    panels = []
    for column in columns:
        if has_numbers(logs.values(), column):
            draw = partial(draw_column, logs=logs, column=column, colours=colours)
            title = f"AP: {column.removeprefix('ap_')}"
            caption = "Average precision of this class on the validation images."
            panels.append(Panel(title, draw, caption))
    return panels


def loss_panels(logs: Logs, colours: Mapping[int, str]) -> list[Panel]:
    """A panel for each term of the loss that has a number in training or validation."""
    panels = []
    for term in loss_terms(logs.values()):
        in_training = has_numbers(logs.values(), f"train_{term}")
        in_validation = has_numbers(logs.values(), f"valid_{term}")
        if in_training or in_validation:
            draw = partial(draw_loss, logs=logs, term=term, colours=colours)
            panels.append(Panel(term_title(term), draw, LOSS_CAPTION))
    return panels


def has_numbers(logs: Iterable[pd.DataFrame], column: str) -> bool:
    """Whether any of the logs has a finite number in this column."""
    return any(column in log and np.isfinite(log[column]).any() for log in logs)


def draw_column(axis: Axes, logs: Logs, column: str, colours: Mapping[int, str]) -> None:
    """A column of numbers from 0 upwards, a line for each fold."""
    for fold, log in logs.items():
        if column in log:
            draw_epoch_line(axis, log["epoch"], log[column], color=colours[fold])
    axis.set_ylim(bottom=0)
    label_epochs(axis)


def draw_metric(axis: Axes, logs: Logs, colours: Mapping[int, str]) -> None:
    """A line for each fold, with a ring at its best epoch."""
    for fold, log in logs.items():
        if "metric" not in log or log["metric"].isna().all():
            continue
        draw_epoch_line(axis, log["epoch"], log["metric"], color=colours[fold])
        best = log["metric"].idxmax()
        axis.plot(
            log["epoch"][best],
            log["metric"][best],
            "o",
            color=colours[fold],
            mfc="white",
            mew=1.8,
            markersize=7,
        )
    axis.set_ylim(bottom=0)
    label_epochs(axis)


def draw_loss(axis: Axes, logs: Logs, term: str, colours: Mapping[int, str]) -> None:
    """Two lines for each fold: a thin dashed one for training, a solid one for validation."""
    for fold, log in logs.items():
        colour = colours[fold]
        if f"train_{term}" in log:
            values = log[f"train_{term}"]
            draw_epoch_line(axis, log["epoch"], values, color=colour, linestyle="--", linewidth=1.0)
        if f"valid_{term}" in log:
            values = log[f"valid_{term}"]
            draw_epoch_line(axis, log["epoch"], values, color=colour, linestyle="-", linewidth=1.8)
    scale_losses(axis)
    label_epochs(axis, "epoch (solid: validation, dashed: training)")


def draw_learning_rate(axis: Axes, logs: Logs, colours: Mapping[int, str]) -> None:
    every_rate_positive = True
    for fold, log in logs.items():
        if "lr" in log:
            draw_epoch_line(axis, log["epoch"], log["lr"], color=colours[fold])
            every_rate_positive &= bool((log["lr"].dropna() > 0).all())
    if every_rate_positive:
        axis.set_yscale("log")
    label_epochs(axis)


def draw_epoch_line(axis: Axes, x: pd.Series, y: pd.Series, **style: Any) -> None:
    """A line; a single point gets a marker, else it could not be seen."""
    marker = "o" if y.notna().sum() == 1 else None
    usual: dict[str, Any] = {"linewidth": 1.8, "marker": marker, "markersize": 5}
    axis.plot(x, y, **(usual | style))


def label_epochs(axis: Axes, label: str = "epoch") -> None:
    axis.set_xlabel(label)
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))


def scale_losses(axis: Axes) -> None:
    """Logarithmic where the first epochs would squeeze all the others against the floor."""
    drawn = [np.asarray(line.get_ydata(), float) for line in axis.lines]
    values = np.concatenate([np.empty(0), *drawn])
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() > SQUEEZED * np.median(values):
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(FuncFormatter(format_plainly))
        axis.yaxis.set_minor_formatter(FuncFormatter(format_nothing))


def format_plainly(value: float, position: int | None) -> str:  # noqa: ARG001
    """A tick without powers of ten; matplotlib calls it with the tick's number, too."""
    return f"{value:g}"


def format_nothing(value: float, position: int | None) -> str:  # noqa: ARG001
    return ""


def comparison_panels(runs: Mapping[str, Logs]) -> list[Panel]:
    """Panels of several runs: the metric, its threshold, every term of the loss in validation.

    A run is one colour; thin lines are its folds, the thick line is their mean.
    """
    logs = []
    for folds in runs.values():
        logs += list(folds.values())
    panels = []
    if has_numbers(logs, "metric"):
        draw = partial(draw_compared, runs=runs, column="metric")
        caption = BEST_CAPTION if has_numbers(logs, "threshold") else "Higher is better."
        panels.append(Panel(metric_title(logs), draw, caption))
    if has_numbers(logs, "threshold"):
        draw = partial(draw_compared, runs=runs, column="threshold")
        panels.append(Panel("Threshold of the best score", draw, THRESHOLD_CAPTION))
    for term in loss_terms(logs):
        if has_numbers(logs, f"valid_{term}"):
            draw = partial(draw_compared, runs=runs, column=f"valid_{term}")
            title = f"Validation: {term_title(term).lower()}"
            panels.append(Panel(title, draw, COMPARED_CAPTION))
    return panels


def draw_compared(axis: Axes, runs: Mapping[str, Logs], column: str) -> None:
    """One column of all runs over the epochs."""
    colours = colours_of(runs)
    late_values = []
    for name, logs in runs.items():
        folds = column_of_folds(logs, column)
        if not folds:
            continue
        for fold in folds:
            late_values.append(fold[fold.index > fold.index.max() * HIDDEN_SHARE])
        if len(folds) > 1:
            for fold in folds:
                draw_epoch_line(
                    axis, fold.index, fold, color=colours[name], linewidth=0.7, alpha=0.45
                )
        mean = fold_mean(folds)
        draw_epoch_line(axis, mean.index, mean, color=colours[name], linewidth=2.2)

    if column in ("metric", "threshold"):
        axis.set_ylim(bottom=0)
    else:
        axis.set_ylim(value_limits(pd.concat(late_values)))
    label_epochs(axis)


def column_of_folds(logs: Logs, column: str) -> list[pd.Series]:
    """The known values of a column over the epochs, of each fold that has any."""
    folds = []
    for log in logs.values():
        if column in log and log[column].notna().any():
            folds.append(log.set_index("epoch")[column].dropna())
    return folds


def fold_mean(folds: Sequence[pd.Series]) -> pd.Series:
    """Mean of the folds' series over the epochs that every fold has reached.

    Elsewhere the mean would jump where one of the folds ends.
    """
    return pd.concat(folds, axis=1, join="inner").mean(axis=1)
