"""How much of a heat map lies on the lungs and on the marked opacities, and tables of that."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cxr.geometry.crops import fill_boxes
from cxr.inference.lung_crops import FoundLungs

SHARES = ("lung box", "lung mask", "area of lung mask", "opacities", "area of opacities")
Shares = dict[str, float | None]  # a value for each of SHARES, None where it is not known


def measure_shares(heat: np.ndarray, lungs: FoundLungs | None, opacities: np.ndarray) -> Shares:
    """Shares of a heat map (s, s) on the lungs and on the boxes of opacities (n, 4).

    All are in pixels of the stored picture. Shares are None without lungs or boxes, or where the
    map is empty.
    """
    shares: Shares = dict.fromkeys(SHARES)
    if lungs is not None:
        shares["lung box"] = energy_share_of_box(heat, lungs.box)
        shares["lung mask"] = energy_share_of_mask(heat, lungs.mask)
        shares["area of lung mask"] = float(lungs.mask.mean())
    if len(opacities):
        height, width = heat.shape
        mask = fill_boxes(opacities, width, height)
        shares["opacities"] = energy_share_of_mask(heat, mask)
        shares["area of opacities"] = float(mask.mean())
    for name, share in shares.items():
        if share is not None and math.isnan(share):
            shares[name] = None
    return shares


def mean_shares(shares_of_images: Sequence[Shares]) -> Shares:
    """The mean over the images of which a share is known, None where it is known of none."""
    means: Shares = {}
    for name in SHARES:
        shares = [each[name] for each in shares_of_images]
        known = [share for share in shares if share is not None]
        means[name] = float(np.mean(known)) if known else None
    return means


def format_shares(means_of_runs: Mapping[str, Shares]) -> str:
    """Text of a table: a row for each run {name: means}, a column for each of SHARES."""
    table = pd.DataFrame(means_of_runs, index=list(SHARES)).T
    return table.astype(float).round(3).to_string(na_rep="-")


def energy_share_of_box(heat: np.ndarray, box: tuple[int, int, int, int]) -> float:
    """Share of the sum of a map (h, w) inside a box x1 y1 x2 y2 of whole pixels of the map.

    nan for an empty map. A map that does not depend on the place has there the share of the area.
    """
    x1, y1, x2, y2 = box
    return share_of_total(heat[y1:y2, x1:x2], heat)


def energy_share_of_mask(heat: np.ndarray, mask: np.ndarray) -> float:
    """The same inside a mask (h, w)."""
    return share_of_total(heat[mask.astype(bool)], heat)


def share_of_total(inside: np.ndarray, heat: np.ndarray) -> float:
    """Sum of the values inside over that of the whole map; nan where that is 0."""
    total = heat.sum(dtype=float)
    if total <= 0:
        return float("nan")
    return float(inside.sum(dtype=float) / total)
