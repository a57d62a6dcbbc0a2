"""Pictures of a prepared data set: what the tables hold (overview.png) and what the X-rays look like (samples.png)."""

import json

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from cxr.data.dataset import read_png, read_table, scaled_boxes, true_mask
from cxr.geometry.masks import find_outlines, resize_mask
from cxr.plots.panels import BRIGHT, COLOURS, PNG_DPI, STYLE, Panel, colours_of, write_panels
from cxr.system.disk import atomic

OLDEST = 100  # years; higher ages are typing errors and are counted in the last bar
HEAT_CELLS = 64  # cells along each side of the map of box positions
SAMPLES_PER_CLASS = 6


def write_overview(task_dir, classes, samples_per_class=SAMPLES_PER_CLASS, box_classes=()):
    """Write overview.png and samples.png into task_dir from its train.csv, test.csv and images/.

    classes: names of the image classes, in the order of `label`; box_classes: of the boxes, in that of `box_labels`.
    The same tables give the same pictures. InputError where step 02 has not finished.
    """
    train, test = read_table(task_dir / "train.csv"), read_table(task_dir / "test.csv")
    panels = overview_panels(train, test, classes)
    if len(box_classes) > 1:
        panels.insert(
            1,
            Panel("Images with each finding", lambda axis: draw_findings(axis, train, box_classes)),
        )
    write_panels(task_dir / "overview.png", panels)
    write_samples(
        task_dir / "samples.png",
        pick_samples(train, classes, samples_per_class, box_classes),
        task_dir / "images",
        box_classes,
    )


def overview_panels(train, test, classes):
    """Six diagrams of the two tables; a diagram with nothing to show says so."""
    boxes = all_boxes(train)
    return [
        Panel(
            f"Classes in each fold ({len(train)} images)",
            lambda axis: draw_classes(axis, train, classes),
        ),
        Panel("Age and sex", lambda axis: draw_ages(axis, train)),
        Panel("View", lambda axis: draw_views(axis, train, test)),
        Panel("Boxes in an image with boxes", lambda axis: draw_box_counts(axis, train)),
        Panel(f"Sizes of the {len(boxes)} boxes", lambda axis: draw_box_sizes(axis, boxes)),
        Panel("Positions of the boxes", lambda axis: draw_box_positions(axis, boxes)),
    ]


def all_boxes(table):
    """Boxes of all rows (n, 4) as x1 y1 x2 y2 in fractions of their image's width and height."""
    found = [
        np.array(json.loads(row.boxes), float).reshape(-1, 4)
        / [row.width, row.height, row.width, row.height]
        for row in table.itertuples()
    ]
    return np.concatenate(found) if found else np.zeros((0, 4))


def draw_classes(axis, train, classes):
    if not len(train):
        return say_nothing(axis, "no training images")
    counts = pd.crosstab(train.fold, train.label).reindex(columns=range(len(classes)), fill_value=0)
    width = 0.8 / len(classes)
    for label, (name, colour) in enumerate(colours_of(classes).items()):
        places = np.arange(len(counts)) + (label - (len(classes) - 1) / 2) * width
        bars = axis.bar(places, counts[label], width * 0.92, color=colour, label=name)
        axis.bar_label(bars, fontsize=7 if len(counts) * len(classes) <= 12 else 5, color="#52606d")
    axis.set_xticks(range(len(counts)), [f"fold {fold}" for fold in counts.index])
    axis.set(ylabel="images", ylim=(0, counts.to_numpy().max() * 1.1 + 1))
    axis.grid(axis="x", visible=False)
    columns = 1 if max(map(len, classes)) > 20 else 3
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=columns, fontsize=7.5)


def has_box(train, label):
    """(n,) bool: which rows have a box of this class."""
    return train.box_labels.map(lambda labels: label in json.loads(labels)).astype(bool)


def draw_findings(axis, train, names):
    """Images with a box of each class, the folds stacked."""
    folds, left = sorted(train.fold.unique()), np.zeros(len(names))
    for fold, colour in colours_of(folds).items():
        counts = np.array([has_box(train[train.fold == fold], k).sum() for k in range(len(names))])
        axis.barh(
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
    axis.bar_label(
        axis.containers[-1], [f" {total:.0f}" for total in left], fontsize=7, color="#52606d"
    )
    axis.set(xlabel="images", xlim=(0, 1.3 * max(1, left.max())))
    axis.tick_params(axis="y", labelsize=7)
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.legend(fontsize=7, loc="best")


def draw_ages(axis, train):
    known = train[train.age.notna()]
    if known.empty:
        return say_nothing(axis, "no ages in the files")
    edges = np.arange(0, OLDEST + 5, 5)
    for sex, colour in (("F", COLOURS[3]), ("M", COLOURS[0]), ("", COLOURS[6])):
        ages = known.age[known.sex.astype(object).fillna("") == sex].clip(upper=OLDEST)
        if len(ages):
            axis.hist(ages, edges, histtype="stepfilled", alpha=0.35, color=colour)
            axis.hist(
                ages,
                edges,
                histtype="step",
                color=colour,
                linewidth=1.5,
                label=f"{sex or '?'} ({len(ages)})",
            )
    unknown = len(train) - len(known)
    axis.set(
        xlabel=f"age in years, in steps of 5 ({unknown} unknown)", ylabel="images", xlim=(0, OLDEST)
    )
    axis.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
    axis.legend(loc="upper left")


def draw_views(axis, train, test):
    tables = {name: table for name, table in (("training", train), ("test", test)) if len(table)}
    if not tables:
        return say_nothing(axis, "no images")
    views = {
        name: table["view"].astype(object).fillna("unknown").value_counts()
        for name, table in tables.items()
    }
    left = np.zeros(len(tables))
    for view, colour in (("AP", COLOURS[1]), ("PA", COLOURS[0]), ("unknown", COLOURS[6])):
        counts = np.array([views[name].get(view, 0) for name in tables])
        shares = counts / [len(table) for table in tables.values()]
        if not counts.any():
            continue
        bars = axis.barh(list(tables), shares, left=left, height=0.5, color=colour, label=view)
        labels = [str(n) if share > 0.06 else "" for n, share in zip(counts, shares)]
        axis.bar_label(bars, labels, label_type="center", color="white", fontweight="bold")
        left += shares
    axis.set(xlim=(0, 1), xlabel="share of the images", ylim=(-0.6, len(tables) - 0.4))
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=3)


def draw_box_counts(axis, train):
    counts = train.n_boxes[train.n_boxes > 0].value_counts().sort_index()
    if counts.empty:
        return say_nothing(axis, "no boxes")
    bars = axis.bar(counts.index, counts, 0.6, color=COLOURS[0])
    axis.bar_label(bars, fontsize=8, color="#52606d")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.set(
        xlabel="boxes",
        ylabel="images",
        ylim=(0, counts.max() * 1.12),
        xlim=(counts.index.min() - 0.6, counts.index.max() + 0.6),
    )
    axis.grid(axis="x", visible=False)


def draw_box_sizes(axis, boxes):
    if not len(boxes):
        return say_nothing(axis, "no boxes")
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    limit = min(1.0, 1.05 * max(width.max(), height.max()))
    axis.scatter(
        width,
        height,
        s=9,
        alpha=max(0.08, min(0.5, 300 / len(boxes))),
        color=COLOURS[0],
        linewidths=0,
    )
    axis.plot([0, limit], [0, limit], color="#9aa5b1", linewidth=0.8, linestyle="--")
    axis.plot(
        np.median(width),
        np.median(height),
        marker="+",
        markersize=13,
        markeredgewidth=2.5,
        color=COLOURS[1],
    )
    axis.text(
        0.98,
        0.03,
        f"median {np.median(width):.2f} x {np.median(height):.2f}",
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


def draw_box_positions(axis, boxes):
    if not len(boxes):
        return say_nothing(axis, "no boxes")
    heat = box_heat(boxes, HEAT_CELLS)
    picture = axis.imshow(
        heat, cmap="magma", extent=(0, 1, 1, 0), vmin=0, vmax=heat.max(), interpolation="bilinear"
    )
    bar = axis.figure.colorbar(picture, ax=axis, shrink=0.9, label="share of the boxes here")
    bar.outline.set_visible(False)
    axis.set(xlabel="left of the picture = right lung", xticks=[], yticks=[])
    axis.grid(visible=False)


def box_heat(boxes, cells):
    """Share of the boxes (n, 4 in fractions of the image) over the centre of each cell of a cells x cells grid."""
    centre = (np.arange(cells) + 0.5) / cells
    across = (boxes[:, :1] <= centre) & (centre < boxes[:, 2:3])
    down = (boxes[:, 1:2] <= centre) & (centre < boxes[:, 3:])
    return down.T.astype(float) @ across.astype(float) / len(boxes)


def say_nothing(axis, words):
    axis.text(
        0.5,
        0.5,
        words,
        transform=axis.transAxes,
        ha="center",
        va="center",
        color="#9aa5b1",
        fontsize=11,
    )
    axis.set_axis_off()


def pick_samples(train, classes, number, box_classes=()):
    """dict class name -> (at most `number` rows, spread evenly over those of the class, how many there are).

    The classes are those of the image, or, where boxes have several, those of the boxes; one without a row is absent.
    """
    if len(box_classes) > 1:
        kinds = {"No finding": train.n_boxes == 0} | {
            name: has_box(train, k) for k, name in enumerate(box_classes)
        }
    else:
        kinds = {name: train.label == label for label, name in enumerate(classes)}
    picked = {}
    for name, belongs in kinds.items():
        rows = train[belongs]
        if len(rows):
            places = np.linspace(0, len(rows) - 1, min(number, len(rows))).round().astype(int)
            picked[name] = rows.iloc[places], len(rows)
    return picked


def write_samples(path, picked, folder, box_classes):
    """One line of X-rays for each class of `pick_samples`, boxes drawn, over each its id, sex, age and view.

    Without images no file.
    """
    if not picked:
        path.unlink(missing_ok=True)  # of an earlier run
        return
    columns = max(3, max(len(rows) for rows, _ in picked.values()))
    with matplotlib.rc_context(STYLE | {"axes.grid": False}), atomic(path) as temporary:
        figure = Figure(figsize=(2.2 * columns, 2.75 * len(picked)), layout="constrained")
        lines = figure.subfigures(len(picked), 1, squeeze=False)[:, 0]
        for line, (name, (rows, total)) in zip(lines, picked.items()):
            line.suptitle(
                f"{name} ({total} images)", fontsize=11, fontweight="bold", x=0.005, ha="left"
            )
            for place, (_, row) in enumerate(rows.iterrows(), start=1):
                draw_sample(line.add_subplot(1, columns, place), row, folder, box_classes)
        figure.savefig(temporary, format="png", dpi=PNG_DPI)


def draw_sample(axis, row, folder, box_classes=()):
    image = read_png(folder / f"{row['image_id']}.png")
    # The stored picture is square whatever the original was: stretched back, so that a chest looks like one.
    aspect = row["height"] / row["width"] * image.shape[1] / image.shape[0]
    axis.imshow(image, cmap="gray", vmin=0, vmax=255, aspect=aspect)
    boxes, labels = scaled_boxes(row, image.shape[1], image.shape[0])
    for (x1, y1, x2, y2), label in zip(boxes, labels):
        colour = BRIGHT[label % len(BRIGHT)]
        axis.add_patch(
            Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.6)
        )
        if len(box_classes) > 1:
            axis.text(
                x1, y1, box_classes[label], color=colour, fontsize=5.5, va="bottom", clip_on=True
            )
    if "mask" in row:
        for line in find_outlines(resize_mask(true_mask(row), len(image))):
            axis.fill(*line[:, 0].T, facecolor="none", edgecolor=BRIGHT[1], linewidth=1.2)
    axis.set_title(caption(row), fontsize=7.5, fontweight="normal", pad=3)
    axis.set_axis_off()


def caption(row):
    """The id, shortened in its middle, and what is known of the patient, in two lines."""
    name = str(row["image_id"])
    name = name if len(name) <= 20 else f"{name[:9]}…{name[-9:]}"
    known = [row["sex"], row["age"] if pd.isna(row["age"]) else f"{row['age']:.0f} y", row["view"]]
    return f"{name}\n{', '.join(str(fact) for fact in known if pd.notna(fact)) or 'no header'}, fold {row['fold']}"
