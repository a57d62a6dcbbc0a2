"""How a score depends on each searched parameter."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from cxr.metrics.curves import SensitivityLine
from cxr.plots.panels import CHOSEN_COLOUR, COLOURS, Panel, value_limits

FOLD_COLOUR = "#7b8794"
MANY_NAMES = 4  # more names than these are written at a slant


def sensitivity_panels(
    lines: Mapping[str, SensitivityLine], fold_params: Sequence[Mapping[str, Any]]
) -> list[Panel]:
    """A panel for each parameter, all on one vertical scale so that they can be compared.

    fold_params: {parameter: value} that the nested search chose without each fold; the values
    stand as triangles at the bottom.
    """
    scores = [np.asarray(line.scores, float) for line in lines.values()]
    limits = value_limits(np.concatenate([np.empty(0), *scores]))
    panels = []
    for name, line in lines.items():
        if not len(line.values):
            continue
        fold_values = [params[name] for params in fold_params if name in params]
        draw = partial(draw_sensitivity, line=line, fold_values=fold_values, limits=limits)
        title = f"{name.replace('_', ' ')}: {short_text(line.chosen)}"
        panels.append(Panel(title, draw, sensitivity_sentence(line.scores)))
    return panels


def draw_sensitivity(
    axis: Axes, line: SensitivityLine, fold_values: Sequence[Any], limits: tuple[float, float]
) -> None:
    if all(is_number(value) for value in line.values):
        draw_number_line(axis, line, fold_values)
    else:
        draw_named_values(axis, line, fold_values)
    axis.set_ylim(limits)
    axis.set_ylabel("score")


def sensitivity_sentence(scores: Sequence[float]) -> str:
    """How much a parameter matters, with numbers; scores (n,) may hold nan."""
    known = np.asarray(scores, float)
    known = known[np.isfinite(known)]
    if not len(known):
        return "No score is known for these values."
    lowest, highest = known.min(), known.max()
    return f"From its worst to its best value the score goes from {lowest:.3f} to {highest:.3f}."


def draw_number_line(axis: Axes, line: SensitivityLine, fold_values: Sequence[Any]) -> None:
    """A parameter of numbers: a curve with the chosen value on it."""
    values = np.asarray(line.values, float)
    scores = np.asarray(line.scores, float)
    order = np.argsort(values)
    axis.plot(
        values[order],
        scores[order],
        color=COLOURS[0],
        linewidth=1.8,
        marker="o",
        markersize=3.5,
    )
    if is_number(line.chosen):
        nearest = np.abs(values - line.chosen).argmin()
        axis.axvline(line.chosen, color=CHOSEN_COLOUR, linewidth=1.2, linestyle=":")
        axis.plot(line.chosen, scores[nearest], "o", color=CHOSEN_COLOUR, markersize=7)
    mark_folds(axis, [value for value in fold_values if is_number(value)])


def draw_named_values(axis: Axes, line: SensitivityLine, fold_values: Sequence[Any]) -> None:
    """A parameter of words, or of yes and no: a dot for each value."""
    names = [short_text(value) for value in line.values]
    chosen = short_text(line.chosen)
    fold_names = [short_text(value) for value in fold_values]
    axis.plot(range(len(names)), line.scores, "o", color=COLOURS[0], markersize=6)
    for place, name in enumerate(names):
        if name == chosen:
            axis.axvline(place, color=CHOSEN_COLOUR, linewidth=1.2, linestyle=":")
            axis.plot(place, line.scores[place], "o", color=CHOSEN_COLOUR, markersize=8)
        if name in fold_names:
            mark_folds(axis, [place])

    slanted = len(names) > MANY_NAMES
    axis.set_xticks(
        range(len(names)),
        [textwrap.fill(name, 14) for name in names],
        rotation=30 if slanted else 0,
        ha="right" if slanted else "center",
    )
    axis.set_xlim(-0.6, len(names) - 0.4)


def mark_folds(axis: Axes, x: Sequence[float]) -> None:
    """Triangles at the bottom of the frame, wherever the vertical scale ends."""
    heights = [0.02] * len(x)
    bottom = axis.get_xaxis_transform()
    axis.plot(x, heights, "^", color=FOLD_COLOUR, transform=bottom, markersize=6)


def is_number(value: Any) -> bool:
    if isinstance(value, (bool, np.bool_)):
        return False
    return isinstance(value, (int, float, np.number))


def short_text(value: Any) -> str:
    """A value as it stands at a tick."""
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if is_number(value):
        return f"{value:.4g}"
    return str(value)
