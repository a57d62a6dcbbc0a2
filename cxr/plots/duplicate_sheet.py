"""A page for judging which pictures are copies: pairs on both sides of the threshold, and how many there are."""

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from cxr.data.dataset import read_png
from cxr.data.duplicates import BITS, FLOOR, THRESHOLD
from cxr.plots.panels import COLOURS, PNG_DPI, STYLE
from cxr.system.disk import atomic

PER_LINE, LINES = 4, 3  # pairs beside and below each other, on each side of the threshold
HIT, MISS = COLOURS[1], COLOURS[0]


def write_sheet(path, table, pairs, folder):
    """Write the page of the pairs of `similar_pairs`, numbers of rows of the table, whose pictures are in a folder.

    table: image_id, study_id, patient, n_boxes. Without pairs the page says so.
    """
    chosen = pick_pairs(pairs[2])
    lines = {
        title: [rows[start : start + PER_LINE] for start in range(0, len(rows), PER_LINE)]
        for title, rows in chosen.items()
    }
    count = sum(map(len, lines.values()))
    with matplotlib.rc_context(STYLE | {"axes.grid": False}), atomic(path) as temporary:
        figure = Figure(figsize=(12, 2.4 + 2.2 * count), layout="constrained")
        parts = iter(
            figure.subfigures(1 + count, 1, height_ratios=[2.4] + [2.2] * count, squeeze=False)[
                :, 0
            ]
        )
        draw_histogram(next(parts).add_subplot(), pairs[2])
        for title, rows_of_lines in lines.items():
            for number, rows in enumerate(rows_of_lines):
                part = next(parts)
                if number == 0:
                    part.suptitle(title, fontsize=11, fontweight="bold", x=0.005, ha="left")
                draw_line(part, table, [[column[row] for column in pairs] for row in rows], folder)
        figure.savefig(temporary, format="png", dpi=PNG_DPI)


def pick_pairs(similarity):
    """{title: numbers of the pairs nearest to the threshold} of the two sides, by falling similarity (p,)."""
    copies, most = int((similarity > THRESHOLD).sum()), PER_LINE * LINES
    return {
        f"Counted as copies, the least similar of {copies} pairs": list(range(copies))[::-1][:most],
        f"Not counted, the most similar of {len(similarity) - copies} pairs": list(
            range(copies, len(similarity))
        )[:most],
    }


def draw_histogram(axis, similarity):
    if not len(similarity):
        axis.text(
            0.5,
            0.5,
            f"no two pictures share more than {FLOOR:.0%} of their bits",
            ha="center",
            va="center",
        )
        return axis.set_axis_off()
    edges = (np.arange(int(FLOOR * BITS), BITS + 1) + 0.5) / BITS
    for side, colour, words in (
        (similarity > THRESHOLD, HIT, "copies"),
        (similarity <= THRESHOLD, MISS, "others"),
    ):
        axis.hist(similarity[side], edges, color=colour, label=f"{words} ({side.sum()})")
    axis.axvline(THRESHOLD, color="#1f2933", linewidth=0.8, linestyle="--")
    axis.set(
        xlabel="share of equal bits of two pictures, or of one and the mirror image of the other",
        ylabel="pairs",
    )
    axis.set_title("A gap at the dashed line makes the choice safe")
    axis.legend()


def draw_line(figure, table, pairs, folder):
    for place, (first, second, similarity, mirrored) in enumerate(pairs):
        for side, row in enumerate((first, second)):
            axis = figure.add_subplot(1, 2 * PER_LINE, 2 * place + side + 1)
            picture = read_png(folder / f"{table['image_id'].iloc[row]}.png")
            axis.imshow(
                picture[:, ::-1] if mirrored and side else picture, cmap="gray", vmin=0, vmax=255
            )
            axis.set_title(
                caption(table, row, first, second, similarity, mirrored),
                fontsize=6.5,
                fontweight="normal",
            )
            axis.set_axis_off()


def caption(table, row, first, second, similarity, mirrored):
    """The left picture's says how alike the two are, the right one's where they come from."""
    own = f"{table['image_id'].iloc[row]}, boxes: {table['n_boxes'].iloc[row]}"
    if row == first:
        return f"{own}\n{similarity:.1%}{', mirrored' if mirrored else ''}"
    same = [
        name
        for name in ("study_id", "patient")
        if table[name].iloc[first] == table[name].iloc[second]
    ]
    return f"{own}\n{('another patient', 'same patient', 'same study')[len(same)]}"
