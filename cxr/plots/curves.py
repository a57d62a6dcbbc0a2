"""The diagrams of a report: training curves, sensitivity to parameters, detection curves, several runs."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cxr.plots.panels import COLOURS, Panel, colours_of

CHOSEN_COLOUR = "#d55e00"
MOST_POINTS = 800  # of a drawn curve; more cannot be seen
LOSS_CAPTION = (
    "Lower is better; solid is validation, dashed is training. Look for a solid line that turns upward "
    "while the dashed one still falls: from there on the network memorises."
)
HIDDEN_PART = 0.25  # of the epochs, which a comparison may cut off above: their steep fall would flatten the rest
COMPARED_CAPTION = (
    "Lower is better; the steep fall of the first quarter is cut off where it lies above the frame."
)


def terms(logs):
    """Names of the loss terms found as train_<term> or valid_<term> in any of the tables, in order of appearance."""
    columns = dict.fromkeys(column for log in logs for column in log.columns)
    names = (
        column.split("_", 1)[1] for column in columns if column.startswith(("train_", "valid_"))
    )
    return list(dict.fromkeys(names))


def term_title(term):
    return "Total loss" if term == "loss" else f"{term.capitalize().replace('_', ' ')} loss"


def curve_panels(logs):
    """Panels of {fold: log}: the metric, every loss term, the learning rate; columns without numbers are left out."""
    colours = colours_of(logs)
    panels = []
    if _has(logs, "metric"):
        panels.append(
            Panel(
                "Validation metric",
                lambda axis: _metric(axis, logs, colours),
                "Higher is better; the ring is each fold's best epoch. Look for a rise that levels off, "
                "and for folds that agree.",
            )
        )
    panels += _class_curves(logs, colours)
    for term in terms(logs.values()):
        if _has(logs, f"train_{term}") or _has(logs, f"valid_{term}"):
            panels.append(
                Panel(
                    term_title(term),
                    lambda axis, term=term: _loss(axis, logs, term, colours),
                    LOSS_CAPTION,
                )
            )
    if _has(logs, "lr"):
        panels.append(
            Panel(
                "Learning rate",
                lambda axis: _rate(axis, logs, colours),
                "The size of the training steps; drops here often explain bends in the other curves.",
            )
        )
    return panels


def _class_curves(logs, colours):
    """A panel for each column ap_<class>: its average precision over the epochs."""
    columns = dict.fromkeys(
        name for log in logs.values() for name in log.columns if name.startswith("ap_")
    )
    return [
        Panel(
            f"AP: {name.removeprefix('ap_')}",
            lambda axis, name=name: _plain(axis, logs, name, colours),
            "Average precision of this class on the validation images.",
        )
        for name in columns
        if _has(logs, name)
    ]


def _plain(axis, logs, column, colours):
    for fold, log in logs.items():
        if column in log:
            _line(axis, log.epoch, log[column], color=colours[fold])
    axis.set_ylim(bottom=0)
    _epochs(axis)


def _has(logs, column):
    return any(column in log and np.isfinite(log[column]).any() for log in logs.values())


def _metric(axis, logs, colours):
    for fold, log in logs.items():
        if "metric" in log and log.metric.notna().any():
            _line(axis, log.epoch, log.metric, color=colours[fold])
            best = log.metric.idxmax()
            axis.plot(
                log.epoch[best],
                log.metric[best],
                "o",
                color=colours[fold],
                mfc="white",
                mew=1.8,
                markersize=7,
            )
    axis.set_ylim(bottom=0)
    _epochs(axis)


def _loss(axis, logs, term, colours):
    for fold, log in logs.items():
        for part, style in (("train", "--"), ("valid", "-")):
            if f"{part}_{term}" in log:
                width = 1.0 if part == "train" else 1.8
                _line(
                    axis,
                    log.epoch,
                    log[f"{part}_{term}"],
                    color=colours[fold],
                    linestyle=style,
                    linewidth=width,
                )
    _loss_axis(axis)
    _epochs(axis, "epoch (solid: validation, dashed: training)")


def _rate(axis, logs, colours):
    for fold, log in logs.items():
        if "lr" in log:
            _line(axis, log.epoch, log.lr, color=colours[fold])
    if all((log.lr.dropna() > 0).all() for log in logs.values() if "lr" in log):
        axis.set_yscale("log")
    _epochs(axis)


def _line(axis, x, y, **style):
    """A line; a single point gets a marker, else it could not be seen."""
    marker = "o" if y.notna().sum() == 1 else None
    axis.plot(x, y, **({"linewidth": 1.8, "marker": marker, "markersize": 5} | style))


def _epochs(axis, label="epoch"):
    axis.set_xlabel(label)
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))


def _loss_axis(axis):
    """Logarithmic where the first epochs would squeeze all the others against the floor."""
    values = np.concatenate(
        [np.asarray(line.get_ydata(), float) for line in axis.lines] or [np.empty(0)]
    )
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() > 8 * np.median(values):
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))


def sensitivity_panels(sensitivity, folds):
    """Panels of {parameter: (values, scores, chosen value)}, all on one vertical scale so that they can be compared.

    `folds`: (fold, score, parameters) of the nested search; the values it chose stand as triangles at the bottom.
    """
    limits = _limits([score for _, scores, _ in sensitivity.values() for score in scores])
    return [
        _sensitivity_panel(
            name, *entry, [params[name] for _, _, params in folds if name in params], limits
        )
        for name, entry in sensitivity.items()
        if len(entry[0])
    ]


def _sensitivity_panel(name, values, scores, chosen, fold_values, limits):
    scores = np.asarray(scores, dtype=float)
    draw = _numeric if all(_is_number(value) for value in values) else _categorical

    def fill(axis):
        draw(axis, values, scores, chosen, fold_values)
        axis.set_ylim(limits)
        axis.set_ylabel("score")

    return Panel(f"{name.replace('_', ' ')}: {_short(chosen)}", fill, sensitivity_sentence(scores))


def sensitivity_sentence(scores):
    """How much this parameter matters, with numbers; `scores` (n,) may hold nan."""
    scores = scores[np.isfinite(scores)]
    if not len(scores):
        return "No score is known for these values."
    return f"From its worst to its best value the score goes from {scores.min():.3f} to {scores.max():.3f}."


def _numeric(axis, values, scores, chosen, fold_values):
    values = np.asarray(values, dtype=float)
    order = np.argsort(values)
    axis.plot(
        values[order], scores[order], color=COLOURS[0], linewidth=1.8, marker="o", markersize=3.5
    )
    if _is_number(chosen):
        axis.axvline(chosen, color=CHOSEN_COLOUR, linewidth=1.2, linestyle=":")
        axis.plot(
            chosen, scores[np.abs(values - chosen).argmin()], "o", color=CHOSEN_COLOUR, markersize=7
        )
    numbers = [value for value in fold_values if _is_number(value)]
    _fold_marks(axis, numbers)


def _categorical(axis, values, scores, chosen, fold_values):
    names = [_short(value) for value in values]
    axis.plot(range(len(names)), scores, "o", color=COLOURS[0], markersize=6)
    for place, name in enumerate(names):
        if name == _short(chosen):
            axis.axvline(place, color=CHOSEN_COLOUR, linewidth=1.2, linestyle=":")
            axis.plot(place, scores[place], "o", color=CHOSEN_COLOUR, markersize=8)
        if name in map(_short, fold_values):
            _fold_marks(axis, [place])
    axis.set_xticks(
        range(len(names)),
        [textwrap.fill(name, 14) for name in names],
        rotation=30 if len(names) > 4 else 0,
        ha="right" if len(names) > 4 else "center",
    )
    axis.set_xlim(-0.6, len(names) - 0.4)


def _fold_marks(axis, x):
    """Triangles at the bottom of the frame, wherever the vertical scale ends."""
    axis.plot(
        x, [0.02] * len(x), "^", color="#7b8794", transform=axis.get_xaxis_transform(), markersize=6
    )


def _is_number(value):
    return isinstance(value, (int, float, np.number)) and not isinstance(value, (bool, np.bool_))


def _short(value):
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    return "none" if value is None else f"{value:.4g}" if _is_number(value) else str(value)


def _limits(scores):
    """Vertical range; never narrower than a tenth of the score, or noise would look like a finding."""
    scores = np.asarray(scores, dtype=float)
    scores = scores[np.isfinite(scores)]
    if not len(scores):
        return 0.0, 1.0
    middle, span = (
        (scores.min() + scores.max()) / 2,
        max(np.ptp(scores), 0.1 * np.abs(scores).max(), 0.001),
    )
    return middle - 0.62 * span, middle + 0.58 * span


def detection_panels(pr, froc, operating=None):
    """Precision over recall, and recall over false boxes per image (FROC); fewer than two finite points: no panel.

    `pr` = (recall, precision), `froc` = (false boxes per image, recall), `operating` = (recall, precision,
    false boxes per image) at the chosen settings or None.
    """
    precision, found = _points(pr), _points(froc)
    panels = []
    if precision is not None:
        panels.append(
            Panel(
                "Precision and recall",
                lambda axis: _precision(axis, precision, operating),
                "Follow the line to the right: finding more of the marked findings (recall) costs "
                "precision, the share of predicted boxes that are right.",
            )
        )
    if found is not None:
        panels.append(
            Panel(
                "Findings found per false box (FROC)",
                lambda axis: _froc(axis, found, operating),
                froc_sentence(found),
            )
        )
    return panels


def froc_sentence(curve):
    """What to look for, with numbers; `curve` = (false boxes per image, recall)."""
    parts = [
        f"{recall_at(curve, rate):.0%} of the marked findings at {word}"
        for rate, word in ((0.25, "one false box in four images"), (1, "one false box per image"))
    ]
    return f"Higher and further left is better: the system finds {' and '.join(parts)}."


def recall_at(curve, rate):
    """Highest recall reached with at most `rate` false boxes per image; `curve` = (rates, recalls)."""
    rates, recalls = np.asarray(curve, dtype=float)
    return float(recalls[rates <= rate].max(initial=0.0))


def _points(curve):
    """(2, n) finite points, thinned to MOST_POINTS, or None where there is no curve."""
    points = np.asarray(curve if curve is not None else [[], []], dtype=float).reshape(2, -1)
    points = points[:, np.isfinite(points).all(0)]
    if points.shape[1] < 2:
        return None
    return points[
        :, np.unique(np.linspace(0, points.shape[1] - 1, MOST_POINTS).round().astype(int))
    ]


def _precision(axis, curve, operating):
    axis.plot(*curve, color=COLOURS[0], linewidth=2)
    if operating:
        _chosen(axis, operating[0], operating[1])
    axis.set(
        xlim=(0, 1),
        ylim=(0, 1.02),
        xlabel="recall: share of the marked findings found",
        ylabel="precision: share of boxes right",
    )


def _froc(axis, curve, operating):
    rates = np.maximum(curve[0], 0.01)  # a logarithmic axis has no zero
    axis.plot(rates, curve[1], color=COLOURS[0], linewidth=2, drawstyle="steps-post")
    if operating:
        _chosen(axis, max(operating[2], 0.01), operating[0])
    axis.set(
        xscale="log",
        xlim=(0.01, 8),
        ylim=(0, 1.02),
        xlabel="false boxes per image",
        ylabel="recall",
    )
    axis.set_xticks([0.01, 0.03, 0.125, 0.5, 2, 8], ["0.01", "0.03", "1/8", "1/2", "2", "8"])
    axis.set_xticks([], minor=True)


def _chosen(axis, x, y):
    axis.plot(
        x,
        y,
        "o",
        color=CHOSEN_COLOUR,
        markersize=8,
        clip_on=False,
        zorder=5,
        label="chosen setting",
    )
    axis.legend(loc="upper right" if y < 0.7 else "lower left")


def comparison_panels(runs):
    """Panels of {run: {fold: log}}: a run is one colour, thin lines its folds, the thick line their mean."""
    logs = [log for folds in runs.values() for log in folds.values()]
    columns = ["metric", *(f"valid_{term}" for term in terms(logs))]
    return [
        Panel(
            _column_title(column),
            lambda axis, column=column: _compared(axis, runs, column),
            "Higher is better." if column == "metric" else COMPARED_CAPTION,
        )
        for column in columns
        if _has(dict(enumerate(logs)), column)
    ]


def _column_title(column):
    if column == "metric":
        return "Validation metric"
    return f"Validation: {term_title(column.removeprefix('valid_')).lower()}"


def _compared(axis, runs, column):
    late = []
    for logs, colour in zip(runs.values(), colours_of(runs).values()):
        folds = [log.set_index("epoch")[column].dropna() for log in logs.values() if column in log]
        folds = [fold for fold in folds if len(fold)]
        late += [fold[fold.index > fold.index.max() * HIDDEN_PART] for fold in folds]
        for fold in folds if len(folds) > 1 else []:
            _line(axis, fold.index, fold, color=colour, linewidth=0.7, alpha=0.45)
        if folds:
            mean = fold_mean(folds)
            _line(axis, mean.index, mean, color=colour, linewidth=2.2)
    if column == "metric":
        axis.set_ylim(bottom=0)
    else:
        axis.set_ylim(_limits(pd.concat(late)))
    _epochs(axis)


def fold_mean(folds):
    """Mean of the folds' series over epochs, only where every fold got to: the mean must not jump where one ends."""
    return pd.concat(folds, axis=1, join="inner").mean(axis=1)
