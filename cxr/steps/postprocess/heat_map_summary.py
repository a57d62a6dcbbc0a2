"""The report's section on heat maps: what step 07 left in the run's folder, if it was run."""

from __future__ import annotations

from dataclasses import dataclass

import cv2

from cxr.plots.gallery import jpeg_uri
from cxr.run_folder import RunFolder
from cxr.system.disk import read_json

WIDEST = 2000  # pixels


@dataclass(frozen=True)
class HeatMapSummary:
    """What the report shows.

    means: {place: mean share of the maps there, None where it was not measured}.
    images: number of measured images.
    jpeg: the sheet of heat maps as a data URI.
    """

    means: dict[str, float | None]
    images: int
    jpeg: str


def read_heat_map_summary(run: RunFolder | None) -> HeatMapSummary | None:
    """The summary of a run, None without heat maps."""
    if run is None:
        return None
    record = run.heat_maps / "grad_cam.json"
    if not record.exists():
        return None
    sheet = cv2.imread(str(run.heat_maps / "sheet.png"))
    if sheet is None:
        return None
    scale = min(1, WIDEST / sheet.shape[1])
    small = cv2.resize(sheet, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    content = read_json(record)
    return HeatMapSummary(content["means"], content["images_measured"], jpeg_uri(small))
