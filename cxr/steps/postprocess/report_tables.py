"""The tables of a report: scores with their intervals, outcomes, classes, groups of patients."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from cxr.metrics.bootstrap import Interval, bootstrap_interval
from cxr.metrics.means import mean_score
from cxr.plots.page import is_finite
from cxr.steps.postprocess.cases import OUTCOMES

FEW = 10  # counted images below which a group's score is mostly chance; such rows are grayed
AGES = {
    "under 18": (0, 18),
    "18 to 39": (18, 40),
    "40 to 59": (40, 60),
    "60 to 79": (60, 80),
    "80 and over": (80, 121),
}
SEXES = {"F": "Female", "M": "Male"}
NOT_STATED = "not stated"


@dataclass(frozen=True)
class Bar:
    """One row of a diagram of bars: a score, nan where it is not known, and its interval."""

    label: str
    score: float
    interval: Interval | None

    @property
    def low(self) -> float:
        return math.nan if self.interval is None else self.interval[0]

    @property
    def high(self) -> float:
        return math.nan if self.interval is None else self.interval[1]


@dataclass(frozen=True)
class ScoreBar(Bar):
    """main: it is the system, not one of the baselines."""

    main: bool


@dataclass(frozen=True)
class FoldBar(Bar):
    """params: what was fitted without this fold."""

    images: int
    params: Mapping[str, Any]


@dataclass(frozen=True)
class GroupBar(Bar):
    """A group of patients.

    counted: images that count in the score.
    marked: images with a marked finding; missed: those of them in which it was not found.
    unmarked: images without one; alarms: those of them in which something was predicted.
    few: so few images count that the score is mostly chance.
    """

    images: int
    counted: int
    marked: int
    missed: int
    unmarked: int
    alarms: int
    few: bool


@dataclass(frozen=True)
class ClassBar(Bar):
    """One class; its score is the average precision.

    images: that have it (or studies); boxes: true ones, None where whole images have the class.
    recalls: at the rates of false boxes RATES; mean_recall: their mean.
    threshold: of its boxes; f1: at that threshold. auroc: of whole images, with its interval.
    """

    images: int
    boxes: int | None
    recalls: Sequence[float]
    mean_recall: float
    threshold: float
    f1: float
    auroc: float | None = None
    auroc_interval: Interval | None = None


class Axis(NamedTuple):
    """A horizontal axis from 0 to `top`."""

    top: float
    ticks: list[float]


class OutcomeRow(NamedTuple):
    """One of OUTCOMES, a sentence about it, and how many images have it."""

    key: str
    sentence: str
    images: int


class ConfusionCell(NamedTuple):
    """Images of a true class that were given one class, and their share of the true class."""

    images: int
    share: float


class ConfusionRow(NamedTuple):
    """A true class, how many images or studies have it, a cell for each class they were given."""

    name: str
    total: int
    cells: list[ConfusionCell]


class Division(NamedTuple):
    """What divides the images, and a bar for each group."""

    title: str
    rows: list[GroupBar]


def bars_axis(bars: Iterable[Bar]) -> Axis:
    """An axis that holds every score and interval."""
    highest = 0.0
    for bar in bars:
        for value in (bar.score, bar.low, bar.high):
            if is_finite(value):
                highest = max(highest, value)
    ticks = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(0, highest or 1)
    rounded = [round(float(tick), 6) for tick in ticks if tick >= 0]
    return Axis(rounded[-1], rounded)


def class_bars(rows: Iterable[Mapping[str, Any]]) -> list[ClassBar]:
    """A bar for each row: name, images, boxes, ap, interval, recalls, avgrecall, threshold, f1.

    A row lacks `boxes` where whole images, or studies, have the class, and has auroc with
    auroc_interval where the scorer measures it.
    """
    bars = []
    for row in rows:
        bars.append(
            ClassBar(
                row["name"],
                float(row["ap"]),
                row["interval"],
                images=row["images"],
                boxes=row.get("boxes"),
                recalls=row["recalls"],
                mean_recall=row["avgrecall"],
                threshold=row["threshold"],
                f1=row["f1"],
                auroc=row.get("auroc"),
                auroc_interval=row.get("auroc_interval"),
            )
        )
    return bars


def outcome_rows(images: pd.DataFrame, words: Mapping[str, str]) -> list[OutcomeRow]:
    """A row for each outcome; words: {outcome: a sentence about it}."""
    counts = images["outcome"].value_counts()
    rows = []
    for key in OUTCOMES:
        rows.append(OutcomeRow(key, words[key], int(counts.get(key, 0))))
    return rows


def confusion_rows(images: pd.DataFrame, class_names: Sequence[str]) -> list[ConfusionRow]:
    """True class against the class that was given, empty where classes are not known.

    Where studies have the class (column study), they are counted instead of images.
    """
    count = len(class_names)
    if "study" in images:
        images = images.drop_duplicates("study")
    label_known = images["label"].between(0, count - 1)
    predicted_known = images["predicted"].between(0, count - 1)
    known = images[label_known & predicted_known]
    if not len(known):
        return []

    counts = np.zeros((count, count), int)
    np.add.at(counts, (known["label"].astype(int), known["predicted"].astype(int)), 1)
    rows = []
    for name, row in zip(class_names, counts, strict=True):
        total = int(row.sum())
        cells = [ConfusionCell(int(number), number / max(1, total)) for number in row]
        rows.append(ConfusionRow(name, total, cells))
    return rows


def divisions_of_patients(images: pd.DataFrame) -> list[Division]:
    """Sex, age and view; a division that is not recorded is left out."""
    sexes = stated_values(images["sex"])
    ages = pd.Series(NOT_STATED, index=images.index)
    for name, (low, high) in AGES.items():
        ages[images["age"].between(low, high, inclusive="left")] = name
    divisions = [
        Division("Sex", group_bars(images, sexes.map(SEXES).fillna(sexes), list(SEXES.values()))),
        Division("Age", group_bars(images, ages, list(AGES))),
        Division("View", group_bars(images, stated_values(images["view"]), [])),
    ]
    recorded = []
    for division in divisions:
        if any(row.label != NOT_STATED for row in division.rows):
            recorded.append(division)
    return recorded


def stated_values(column: pd.Series) -> pd.Series:
    """A column as text, with NOT_STATED where it is empty."""
    return column.astype(object).fillna("").astype(str).str.strip().replace("", NOT_STATED)


def group_bars(images: pd.DataFrame, values: pd.Series, order: Sequence[str]) -> list[GroupBar]:
    """A bar for each value (n,): first those of `order`, then others, last those not stated."""
    present = set(values)
    others = sorted(present - {*order, NOT_STATED})
    names = [name for name in [*order, *others, NOT_STATED] if name in present]
    return [group_bar(name, images[values == name]) for name in names]


def group_bar(name: str, images: pd.DataFrame) -> GroupBar:
    """The bar of one group's images."""
    counted = int(images["score"].notna().sum())
    score = math.nan
    interval = None
    if counted:
        score = mean_score(images["score"])
    if counted > 1:
        # One image has no spread to draw from: an interval of width 0 would look like certainty.
        interval = bootstrap_interval(images["score"], patients_of(images))
    marked = images["n_true"] > 0
    outcomes = images["outcome"]
    return GroupBar(
        name,
        score,
        interval,
        images=len(images),
        counted=counted,
        marked=int(marked.sum()),
        missed=int(outcomes.isin(["missed", "misplaced"]).sum()),
        unmarked=int((~marked).sum()),
        alarms=int((outcomes == "alarm").sum()),
        few=counted < FEW,
    )


def patients_of(images: pd.DataFrame) -> pd.Series:
    """The patient of each image, the image itself where the patient is not known."""
    groups = images["group"]
    known = groups.notna() & (groups != "")
    return groups.where(known, images["image_id"]).astype(str)
