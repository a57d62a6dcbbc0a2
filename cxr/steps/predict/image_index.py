"""index.html: predicted images to look through, sorted and filtered in the browser alone."""

import os
from pathlib import Path
from urllib.parse import quote

from cxr.images.folder import printable
from cxr.plots.page import render_page
from cxr.plots.panels import BRIGHT, colours_of
from cxr.system.disk import atomic

TEMPLATE = Path(__file__).parent / "templates" / "images.html.jinja"


def write_index(out, records, failed, header):
    """Write the page at out/index.html and return its path. Arguments as of image_folder.write_prediction_tables."""
    cards = [card(record) for record in records()]
    cards.sort(key=lambda card: -card["score"])
    colours = colours_of(header["thresholds"], BRIGHT)
    page = render_page(
        TEMPLATE,
        cards=cards,
        header=header,
        colours=colours,
        failed=[[printable(text) for text in row] for row in failed],
    )
    with atomic(out / "index.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    return out / "index.html"


def card(record):
    """What the page shows of an image. `score` is the best of any box, 0 without one."""
    boxes = record["boxes"]
    return {
        "name": printable(record["image"]),
        "overlay": quote(os.fsencode(f"overlays/{record['image']}.png")),
        "score": max((box["score"] for box in boxes), default=0),
        "width": record["width"],
        "height": record["height"],
        "marked": [box for box in boxes if box["above_threshold"]],
        "probabilities": record["probabilities"],
    }
