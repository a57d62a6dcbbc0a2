"""Small diagrams that stand alone as SVG inside a page and together in one PNG for pasting elsewhere."""

import base64
import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cxr.system.disk import atomic

# Okabe and Ito's colours, told apart with every common colour blindness; yellow is left out, too pale on white.
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#e69f00",
    "#4d4d4d",
    "#7b4fb5",
    "#8c564b",
    "#6b8e23",
)
# For boxes on an X-ray, where dark colours vanish.
BRIGHT = (
    "#ffb000",
    "#3ddc84",
    "#4cc9f0",
    "#ff6b6b",
    "#c77dff",
    "#f9f871",
    "#ff8fab",
    "#80ffdb",
    "#ffa94d",
    "#a0c4ff",
)
PANEL_INCHES = (3.6, 2.6)
PNG_DPI = 150
STYLE = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa5b1",
    "axes.labelcolor": "#52606d",
    "xtick.color": "#52606d",
    "ytick.color": "#52606d",
    "text.color": "#1f2933",
    "axes.titlecolor": "#1f2933",
    "axes.grid": True,
    "grid.color": "#e8ebef",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.hashsalt": "report",
}


@dataclass(frozen=True)
class Panel:
    """One diagram: `draw` fills an empty axis; `caption` says in a sentence what to look for."""

    title: str
    draw: Callable
    caption: str = ""

    @property
    def svg(self):
        """The diagram as a data URI."""
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=PANEL_INCHES, layout="constrained")
            self.fill(figure.add_subplot())
            buffer = io.BytesIO()
            figure.savefig(buffer, format="svg", metadata={"Date": None})
        return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()

    def fill(self, axis):
        self.draw(axis)
        axis.set_title(self.title, pad=8)


def write_panels(path, panels, colours=None):
    """All panels in one PNG, at most three beside each other, with the legend {name: colour} below; none: no file."""
    if not panels:
        path.unlink(
            missing_ok=True
        )  # a picture of an earlier report would be taken for one of this
        return
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    with matplotlib.rc_context(STYLE), atomic(path) as temporary:
        figure = Figure(
            figsize=(PANEL_INCHES[0] * columns, PANEL_INCHES[1] * rows + 0.4), layout="constrained"
        )
        for place, panel in enumerate(panels, start=1):
            panel.fill(figure.add_subplot(rows, columns, place))
        if colours:
            handles = [Line2D([], [], color=colour, linewidth=2.5) for colour in colours.values()]
            figure.legend(
                handles,
                list(colours),
                loc="outside lower center",
                ncols=min(len(colours), 2 * columns),
            )
        figure.savefig(temporary, format="png", dpi=PNG_DPI)


def colours_of(names, colours=COLOURS):
    """{name: colour}; after the last colour they begin again."""
    return {name: colours[place % len(colours)] for place, name in enumerate(names)}
