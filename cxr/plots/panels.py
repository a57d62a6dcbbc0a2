"""Small diagrams that stand alone as SVG inside a page and together in one PNG to paste elsewhere.

Here is also the common style of all pictures: colours, fonts, resolution.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from cxr.system.disk import atomic

# Okabe and Ito's colours, which all common kinds of colour blindness can tell apart; yellow is left
# out, too pale on white. The last three lie as far from these and from each other as can be.
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#e69f00",
    "#4d4d4d",
    "#001166",
    "#cc00ff",
    "#6600aa",
)
# For boxes on an X-ray, where dark colours vanish: as far from each other as ten bright ones can
# be, for colour-blind eyes, too (tests/unit/test_labels.py measures it).
BRIGHT = (
    "#ffb000",
    "#00bbff",
    "#00ee88",
    "#ff00bb",
    "#eeff00",
    "#9977ff",
    "#ff5500",
    "#99ffff",
    "#ee99bb",
    "#77aa77",
)
TRUE_COLOUR = "#3ddc84"  # of what the readers marked, where there is one class
PREDICTED_COLOUR = "#ffa028"
CHOSEN_COLOUR = "#d55e00"  # of a chosen setting
SOFT_COLOUR = "#9aa5b1"  # of help lines and of words in place of a diagram
LABEL_COLOUR = "#52606d"
PANEL_INCHES = (3.6, 2.6)
PANELS_ACROSS = 3
PNG_DPI = 150
# Of matplotlib; the keys are its own.
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": SOFT_COLOUR,
    "axes.labelcolor": LABEL_COLOUR,
    "xtick.color": LABEL_COLOUR,
    "ytick.color": LABEL_COLOUR,
    "text.color": "#1f2933",
    "axes.titlecolor": "#1f2933",
    "axes.grid": True,
    "grid.color": "#e8ebef",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.hashsalt": "report",
}
PICTURE_STYLE = STYLE | {"axes.grid": False}  # of figures that show X-rays

Name = TypeVar("Name")


@dataclass(frozen=True)
class Panel:
    """One diagram.

    title: stands above it.
    draw: fills an empty axis.
    caption: says in a sentence what to look for.
    """

    title: str
    draw: Callable[[Axes], Any]
    caption: str = ""

    @property
    def svg(self) -> str:
        """The diagram as a data URI."""
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=PANEL_INCHES, layout="constrained")
            self.fill(figure.add_subplot())
            buffer = io.BytesIO()
            figure.savefig(buffer, format="svg", metadata={"Date": None})
        return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()

    def fill(self, axis: Axes) -> None:
        """Draw the diagram and its title into an axis."""
        self.draw(axis)
        axis.set_title(self.title, pad=8)


def write_panels(
    path: Path, panels: Sequence[Panel], colours: Mapping[str, str] | None = None
) -> None:
    """Write all panels into one PNG, at most three beside each other.

    colours: {name: "#rrggbb"}, drawn as a legend below.
    Without panels no file is written, and one of an earlier run is removed.
    """
    if not panels:
        path.unlink(missing_ok=True)
        return

    columns = min(PANELS_ACROSS, len(panels))
    rows = math.ceil(len(panels) / columns)
    width, height = PANEL_INCHES
    with matplotlib.rc_context(STYLE), atomic(path) as temporary:
        figure = Figure(figsize=(width * columns, height * rows + 0.4), layout="constrained")
        for number, panel in enumerate(panels, start=1):
            panel.fill(figure.add_subplot(rows, columns, number))
        if colours:
            handles = [Line2D([], [], color=colour, linewidth=2.5) for colour in colours.values()]
            figure.legend(
                handles,
                list(colours),
                loc="outside lower center",
                ncols=min(len(colours), 2 * columns),
            )
        figure.savefig(temporary, format="png", dpi=PNG_DPI)


def colours_of(names: Iterable[Name], colours: Sequence[str] = COLOURS) -> dict[Name, str]:
    """{name: colour} in the order of the names; after the last colour they begin again."""
    return {name: colours[number % len(colours)] for number, name in enumerate(names)}


def value_limits(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Vertical range that holds all values, which may be nan.

    Never narrower than a tenth of the largest value, or noise would look like a finding.
    """
    known = np.asarray(values, float)
    known = known[np.isfinite(known)]
    if not len(known):
        return 0.0, 1.0
    middle = (known.min() + known.max()) / 2
    span = max(np.ptp(known), 0.1 * np.abs(known).max(), 0.001)
    low = middle - 0.62 * span
    if known.min() >= 0:
        low = max(low, -0.05 * span)  # what is never negative needs no room below 0
    return low, middle + 0.58 * span


def draw_box(
    axis: Axes,
    box: Sequence[float] | np.ndarray,
    colour: str,
    linewidth: float = 1.0,
    linestyle: str = "-",
) -> None:
    """The frame of a box x1 y1 x2 y2 in pixels of the picture that the axis shows."""
    x1, y1, x2, y2 = box
    axis.add_patch(
        Rectangle(
            (x1, y1),
            x2 - x1,
            y2 - y1,
            fill=False,
            edgecolor=colour,
            linewidth=linewidth,
            linestyle=linestyle,
        )
    )


def say_nothing(axis: Axes, words: str) -> None:
    """Write in place of a diagram why there is none."""
    axis.text(
        0.5,
        0.5,
        words,
        transform=axis.transAxes,
        ha="center",
        va="center",
        color=SOFT_COLOUR,
        fontsize=11,
    )
    axis.set_axis_off()
