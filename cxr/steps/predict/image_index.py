"""index.html: predicted images to look through, sorted and filtered in the browser alone."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cxr.images.folder import Record, mark_of
from cxr.images.printable import printable
from cxr.inference.studies import Study
from cxr.plots.page import render_page
from cxr.plots.panels import BRIGHT, colours_of
from cxr.system.disk import atomic

TEMPLATE = Path(__file__).parent / "templates" / "images.html.jinja"


def write_index(
    out: Path,
    records: Iterable[Record],
    failures: Iterable[Sequence[object]],
    header: Mapping[str, Any],
    studies: Mapping[str, Study],
) -> Path:
    """Write the page at out/index.html and return its path.

    records, failures, header: as of `write_prediction_tables`. studies: by StudyInstanceUID, where
    the classes are of studies.
    """
    cards = [make_card(record, header["result"], studies) for record in records]
    cards.sort(key=lambda card: -card["score"])
    failed = []
    for failure in failures:
        failed.append([printable(text) for text in failure])
    page = render_page(
        TEMPLATE,
        cards=cards,
        header=header,
        colours=colours_of(header["findings"], BRIGHT),
        failed=failed,
        has_studies=bool(studies),
    )
    path = out / "index.html"
    with atomic(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def make_card(record: Record, result: str, studies: Mapping[str, Study]) -> dict[str, Any]:
    """What the page shows of an image. result: what an image gets: boxes, mask or classes.

    score: the best of any box, that of the mask, or the highest class probability; 0 without any.
    marked: boxes above their thresholds, or the mask if it is not empty. mark: why the image is no
    frontal chest X-ray, else "". study: that of the image, None where there is none. heat_map: its
    class and the address of its picture, None without one.
    """
    scores = [box["score"] for box in record["boxes"]]
    marked = [box for box in record["boxes"] if box["above_threshold"]]
    if result == "mask":
        scores = [record["mask"]["score"]]
        marked = [record["mask"]] if record["mask"]["area"] else []
    if result == "classes":
        scores = list(record["probabilities"].values())
    overlay = f"overlays/{record['image']}.png"
    heat_map = None
    if "heat_map" in record:
        address = quote(os.fsencode(record["heat_map"]["file"]))
        heat_map = {"class": record["heat_map"]["class"], "address": address}
    return {
        "name": printable(record["image"]),
        "overlay": quote(os.fsencode(overlay)),
        "score": max(scores, default=0),
        "width": record["width"],
        "height": record["height"],
        "marked": marked,
        "probabilities": record["probabilities"],
        "mark": mark_of(record),
        "study": studies.get(record.get("study", "")),
        "heat_map": heat_map,
    }
