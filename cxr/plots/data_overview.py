"""Pictures of a prepared data set: overview.png of its tables, samples.png of its X-rays."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cxr.data.dataset import boxes_in_frame, read_png, true_mask
from cxr.data.tables import read_table
from cxr.geometry.frames import Frame
from cxr.geometry.masks import find_outlines, resize_mask
from cxr.plots.labels import draw_labels
from cxr.plots.panels import (
    BRIGHT,
    COLOURS,
    LABEL_COLOUR,
    PICTURE_STYLE,
    PNG_DPI,
    SOFT_COLOUR,
    TRUE_COLOUR,
    Panel,
    colours_of,
    draw_box,
    say_nothing,
    write_panels,
)
from cxr.system.disk import atomic

OLDEST = 100  # years; higher ages are typing errors and are counted in the last bar
HEAT_CELLS = 64  # cells along each side of the map of box positions
SAMPLES_PER_CLASS = 6
FEWEST_COLUMNS = 3  # of samples.png, so that a lone picture is not drawn as large as a page
LETTER_POINTS = (6.0, 5.0, 4.5)  # of names at boxes, tried one after the other
LONGEST_NAME = 20  # letters of an image's id above its picture
SEX_COLOURS = {"F": COLOURS[3], "M": COLOURS[0], "": COLOURS[6]}
VIEW_COLOURS = {"AP": COLOURS[1], "PA": COLOURS[0], "unknown": COLOURS[6]}


class ClassSamples(NamedTuple):
    """Some rows of a class, and how many it has in all."""

    rows: pd.DataFrame
    total: int


def write_overview(
    task_dir: Path,
    classes: Sequence[str],
    samples_per_class: int = SAMPLES_PER_CLASS,
    box_classes: Sequence[str] = (),
) -> None:
    """Write overview.png and samples.png into task_dir from its train.csv, test.csv and images/.

    classes: names of the image classes, in the order of `label`.
    box_classes: names of the classes of boxes, in the order of `box_labels`.
    The same tables give the same pictures. Raises InputError where step 02 has not finished.
    """
    train = read_table(task_dir / "train.csv")
    test = read_table(task_dir / "test.csv")
    panels = overview_panels(train, test, classes)
    if len(box_classes) > 1:
        draw = partial(draw_finding_counts, train=train, names=box_classes)
        panels.insert(1, Panel("Images with each finding", draw))
    write_panels(task_dir / "overview.png", panels)
    samples = pick_samples(train, classes, samples_per_class, box_classes)
    write_samples(task_dir / "samples.png", samples, task_dir / "images", box_classes)


def overview_panels(train: pd.DataFrame, test: pd.DataFrame, classes: Sequence[str]) -> list[Panel]:
    """Six diagrams of the two tables; a diagram with nothing to show says so."""
    boxes = box_fractions(train)
    return [
        Panel(
            f"Classes in each fold ({len(train)} images)",
            partial(draw_class_counts, train=train, classes=classes),
        ),
        Panel("Age and sex", partial(draw_ages, train=train)),
        Panel("View", partial(draw_views, train=train, test=test)),
        Panel("Boxes in an image with boxes", partial(draw_box_counts, train=train)),
        Panel(f"Sizes of the {len(boxes)} boxes", partial(draw_box_sizes, boxes=boxes)),
        Panel("Positions of the boxes", partial(draw_box_positions, boxes=boxes)),
    ]


def box_fractions(table: pd.DataFrame) -> np.ndarray:
    """Boxes of all rows (n, 4) as x1 y1 x2 y2 in fractions of their image's width and height."""
    boxes = [np.zeros((0, 4))]
    for row in table.itertuples():
        size = [row.width, row.height, row.width, row.height]
        boxes.append(np.array(json.loads(row.boxes), float).reshape(-1, 4) / size)
    return np.concatenate(boxes)


def draw_class_counts(axis: Axes, train: pd.DataFrame, classes: Sequence[str]) -> None:
    """A group of bars for each fold, in it a bar for each class."""
    if not len(train):
        say_nothing(axis, "no training images")
        return
    counts = pd.crosstab(train["fold"], train["label"])
    counts = counts.reindex(columns=range(len(classes)), fill_value=0)
    width = 0.8 / len(classes)
    number_size = 7 if len(counts) * len(classes) <= 12 else 5
    for label, (name, colour) in enumerate(colours_of(classes).items()):
        centres = np.arange(len(counts)) + (label - (len(classes) - 1) / 2) * width
        bars = axis.bar(centres, counts[label], width * 0.92, color=colour, label=name)
        axis.bar_label(bars, fontsize=number_size, color=LABEL_COLOUR)
    axis.set_xticks(range(len(counts)), [f"fold {fold}" for fold in counts.index])
    axis.set(ylabel="images", ylim=(0, counts.to_numpy().max() * 1.1 + 1))
    axis.grid(axis="x", visible=False)
    columns = 1 if max(map(len, classes)) > 20 else 3
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=columns, fontsize=7.5)


def has_box(table: pd.DataFrame, label: int) -> pd.Series:
    """(n,) bool: which rows have a box of this class."""
    lists = table["box_labels"].map(json.loads)
    return lists.map(lambda labels: label in labels).astype(bool)


def draw_finding_counts(axis: Axes, train: pd.DataFrame, names: Sequence[str]) -> None:
    """Images with a box of each class, the folds stacked."""
    left = np.zeros(len(names))
    bars = None
    for fold, colour in colours_of(sorted(train["fold"].unique())).items():
        rows = train[train["fold"] == fold]
        counts = np.array([has_box(rows, label).sum() for label in range(len(names))])
        bars = axis.barh(
            names,
            counts,
            0.75,
            left=left,
            color=colour,
            label=f"fold {fold}",
            edgecolor="white",
            linewidth=0.8,
        )
        left = left + counts
    if bars is None:
        say_nothing(axis, "no training images")
        return
    totals = [f" {total:.0f}" for total in left]
    axis.bar_label(bars, totals, fontsize=7, color=LABEL_COLOUR)
    axis.set(xlabel="images", xlim=(0, 1.3 * max(1, left.max())))
    axis.tick_params(axis="y", labelsize=7)
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.legend(fontsize=7, loc="best")


def draw_ages(axis: Axes, train: pd.DataFrame) -> None:
    """A histogram of each sex."""
    known = train[train["age"].notna()]
    if known.empty:
        say_nothing(axis, "no ages in the files")
        return
    edges = list(range(0, OLDEST + 5, 5))
    sexes = known["sex"].astype(object).fillna("")
    for sex, colour in SEX_COLOURS.items():
        ages = known["age"][sexes == sex].clip(upper=OLDEST)
        if not len(ages):
            continue
        label = f"{sex or '?'} ({len(ages)})"
        axis.hist(ages, edges, histtype="stepfilled", alpha=0.35, color=colour)
        axis.hist(
            ages,
            edges,
            histtype="step",
            color=colour,
            linewidth=1.5,
            label=label,
        )
    unknown = len(train) - len(known)
    axis.set(
        xlabel=f"age in years, in steps of 5 ({unknown} unknown)", ylabel="images", xlim=(0, OLDEST)
    )
    axis.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
    axis.legend(loc="upper left")


def draw_views(axis: Axes, train: pd.DataFrame, test: pd.DataFrame) -> None:
    """The shares of the views in a bar for each table that has images."""
    views = {}
    for name, table in (("training", train), ("test", test)):
        if len(table):
            views[name] = table["view"].astype(object).fillna("unknown").value_counts()
    if not views:
        say_nothing(axis, "no images")
        return

    totals = [counts.sum() for counts in views.values()]
    left = np.zeros(len(views))
    for view, colour in VIEW_COLOURS.items():
        counts = np.array([counts.get(view, 0) for counts in views.values()])
        if not counts.any():
            continue
        shares = counts / totals
        bars = axis.barh(
            list(views),
            shares,
            left=left,
            height=0.5,
            color=colour,
            label=view,
        )
        labels = np.where(shares > 0.06, counts.astype(str), "")  # a narrow part has no room
        axis.bar_label(bars, labels, label_type="center", color="white", fontweight="bold")
        left += shares
    axis.set(xlim=(0, 1), xlabel="share of the images", ylim=(-0.6, len(views) - 0.4))
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=3)


def draw_box_counts(axis: Axes, train: pd.DataFrame) -> None:
    counts = train["n_boxes"][train["n_boxes"] > 0].value_counts().sort_index()
    if counts.empty:
        say_nothing(axis, "no boxes")
        return
    bars = axis.bar(counts.index, counts, 0.6, color=COLOURS[0])
    axis.bar_label(bars, fontsize=8, color=LABEL_COLOUR)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.set(
        xlabel="boxes",
        ylabel="images",
        ylim=(0, counts.max() * 1.12),
        xlim=(counts.index.min() - 0.6, counts.index.max() + 0.6),
    )
    axis.grid(axis="x", visible=False)


def draw_box_sizes(axis: Axes, boxes: np.ndarray) -> None:
    """A dot for each box (n, 4, in fractions of its image), and a cross at the medians."""
    if not len(boxes):
        say_nothing(axis, "no boxes")
        return
    widths = boxes[:, 2] - boxes[:, 0]
    heights = boxes[:, 3] - boxes[:, 1]
    limit = min(1.0, 1.05 * max(widths.max(), heights.max()))
    opacity = max(0.08, min(0.5, 300 / len(boxes)))
    axis.scatter(
        widths,
        heights,
        s=9,
        alpha=opacity,
        color=COLOURS[0],
        linewidths=0,
    )
    axis.plot([0, limit], [0, limit], color=SOFT_COLOUR, linewidth=0.8, linestyle="--")

    middle_width = np.median(widths)
    middle_height = np.median(heights)
    axis.plot(
        middle_width,
        middle_height,
        marker="+",
        markersize=13,
        markeredgewidth=2.5,
        color=COLOURS[1],
    )
    axis.text(
        0.98,
        0.03,
        f"median {middle_width:.2f} x {middle_height:.2f}",
        transform=axis.transAxes,
        ha="right",
        color=COLOURS[1],
        fontweight="bold",
    )
    axis.set(
        xlabel="width / image width",
        ylabel="height / image height",
        xlim=(0, limit),
        ylim=(0, limit),
    )


def draw_box_positions(axis: Axes, boxes: np.ndarray) -> None:
    """Where in the picture the boxes (n, 4, in fractions of their image) lie."""
    if not len(boxes):
        say_nothing(axis, "no boxes")
        return
    heat = box_heat(boxes, HEAT_CELLS)
    picture = axis.imshow(
        heat,
        cmap="magma",
        extent=(0, 1, 1, 0),
        vmin=0,
        vmax=heat.max(),
        interpolation="bilinear",
    )
    bar = axis.figure.colorbar(picture, ax=axis, shrink=0.9, label="share of the boxes here")
    bar.outline.set_visible(False)
    axis.set(xlabel="left of the picture = right lung", xticks=[], yticks=[])
    axis.grid(visible=False)


def box_heat(boxes: np.ndarray, cells: int) -> np.ndarray:
    """Share of the boxes over the centre of each cell of a grid; (cells, cells).

    boxes (n, 4): x1 y1 x2 y2 in fractions of their image.
    """
    centre = (np.arange(cells) + 0.5) / cells
    across = (boxes[:, :1] <= centre) & (centre < boxes[:, 2:3])
    down = (boxes[:, 1:2] <= centre) & (centre < boxes[:, 3:])
    return down.T.astype(float) @ across.astype(float) / len(boxes)


def pick_samples(
    train: pd.DataFrame, classes: Sequence[str], number: int, box_classes: Sequence[str] = ()
) -> dict[str, ClassSamples]:
    """{class name: at most `number` of its rows, spread evenly}; classes without a row are absent.

    The classes are those of the image, or, where boxes have several, those of the boxes.
    """
    members = {}
    if len(box_classes) > 1:
        members["No finding"] = train["n_boxes"] == 0
        for label, name in enumerate(box_classes):
            members[name] = has_box(train, label)
    else:
        for label, name in enumerate(classes):
            members[name] = train["label"] == label

    picked = {}
    for name, belongs in members.items():
        rows = train[belongs]
        if len(rows):
            places = np.linspace(0, len(rows) - 1, min(number, len(rows))).round().astype(int)
            picked[name] = ClassSamples(rows.iloc[places], len(rows))
    return picked


def write_samples(
    path: Path,
    samples: Mapping[str, ClassSamples],
    folder: Path,
    box_classes: Sequence[str],
) -> None:
    """Write one line of X-rays for each class, with boxes, id, sex, age and view.

    folder: holds the stored pictures <image_id>.png.
    Without images no file is written, and one of an earlier run is removed.
    """
    if not samples:
        path.unlink(missing_ok=True)
        return
    most = max(len(of_class.rows) for of_class in samples.values())
    columns = max(FEWEST_COLUMNS, most)
    with matplotlib.rc_context(PICTURE_STYLE), atomic(path) as temporary:
        figure = Figure(figsize=(2.2 * columns, 2.75 * len(samples)), layout="constrained")
        lines = figure.subfigures(len(samples), 1, squeeze=False)[:, 0]
        drawn = []
        for line, (name, of_class) in zip(lines, samples.items(), strict=True):
            title = f"{name} ({of_class.total} images)"
            line.suptitle(
                title,
                fontsize=11,
                fontweight="bold",
                x=0.005,
                ha="left",
            )
            for place, (_, row) in enumerate(of_class.rows.iterrows(), start=1):
                axis = line.add_subplot(1, columns, place)
                draw_sample(axis, row, folder)
                drawn.append((axis, row))
        if len(box_classes) > 1:
            figure.draw_without_rendering()  # from now on the pictures keep their size
            for axis, row in drawn:
                name_boxes(axis, row, box_classes)
        figure.savefig(temporary, format="png", dpi=PNG_DPI)


def draw_sample(axis: Axes, row: Mapping[str, Any], folder: Path) -> None:
    """One stored picture with its boxes, or the outline of its mask, and a caption.

    The axis has original pixels: stored pictures are square whatever the original was.
    """
    image = read_png(folder / f"{row['image_id']}.png")
    width, height = row["width"], row["height"]
    axis.imshow(
        image,
        cmap="gray",
        vmin=0,
        vmax=255,
        extent=(0, width, height, 0),
    )
    for box, label in zip(*boxes_in_frame(row, original_frame(row)), strict=True):
        draw_box(axis, box, BRIGHT[label % len(BRIGHT)], linewidth=1.6)
    if "mask" in row:
        mask = resize_mask(true_mask(row), len(image))
        scale = np.array([width, height]) / len(image)
        for outline in find_outlines(mask):
            x, y = (outline[:, 0] * scale).T
            axis.fill(x, y, facecolor="none", edgecolor=TRUE_COLOUR, linewidth=1.2)
    axis.set_title(patient_caption(row), fontsize=7.5, fontweight="normal", pad=3)
    axis.set_axis_off()


def name_boxes(axis: Axes, row: Mapping[str, Any], box_classes: Sequence[str]) -> None:
    """The classes of an image's boxes, the smallest boxes first, where there is room for words."""
    boxes, labels = boxes_in_frame(row, original_frame(row))
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = np.argsort(areas, kind="stable")
    draw_labels(
        axis,
        [box_classes[label] for label in labels[order]],
        boxes[order],
        [BRIGHT[label % len(BRIGHT)] for label in labels[order]],
        (row["width"], row["height"]),
        LETTER_POINTS,
    )


def original_frame(row: Mapping[str, Any]) -> Frame:
    return Frame("original", int(row["width"]), int(row["height"]))


def patient_caption(row: Mapping[str, Any]) -> str:
    """The id, shortened in its middle, and what is known of the patient, in two lines."""
    name = str(row["image_id"])
    if len(name) > LONGEST_NAME:
        name = f"{name[:9]}…{name[-9:]}"
    facts = []
    if pd.notna(row["sex"]):
        facts.append(str(row["sex"]))
    if pd.notna(row["age"]):
        facts.append(f"{row['age']:.0f} y")
    if pd.notna(row["view"]):
        facts.append(str(row["view"]))
    if "fold" in row:
        facts = [*(facts or ["no header"]), f"fold {row['fold']}"]
    return f"{name}\n{', '.join(facts)}"
