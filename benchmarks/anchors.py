"""Would anchors that fit the data set's boxes lie closer to them than the standard ones?

    python benchmarks/anchors.py working/rsna                384 px, levels 3-6, as the preset small
    python benchmarks/anchors.py working/rsna --image-size 512 --levels 2-7

Each fold's boxes are met by the anchors that its detector would have: three ratios found by k-means
of log(height / width) in the other folds. Sizes are those of all levels, which leave no gap. The
boxes' images are resized to a square, as step 03 does.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torchvision.ops import box_iou

sys.path.insert(0, str(Path(__file__).parents[1]))

from cxr.data.tables import read_table
from cxr.geometry.anchors import RATIOS, cell_shapes, make_anchors, parse_levels

POSITIVE = 0.5  # IoU from which an anchor learns a box
AT_A_TIME = 64


def read_boxes(table: pd.DataFrame, side: int) -> Tensor:
    """(n, 4) corners in images of this side."""
    boxes = []
    for row in table.itertuples():
        scale = side / max(row.width, row.height)
        for box in json.loads(row.boxes):
            boxes.append([scale * edge for edge in box])
    return torch.tensor(boxes).reshape(-1, 4)


def fit_ratios(boxes: Tensor) -> tuple[float, ...]:
    """Three ratios height / width, by k-means of their logarithms, which starts at quantiles."""
    logs = ((boxes[:, 3] - boxes[:, 1]) / (boxes[:, 2] - boxes[:, 0])).log().numpy()
    centres = np.quantile(logs, (1 / 6, 1 / 2, 5 / 6))
    while True:
        nearest = np.abs(logs[:, None] - centres).argmin(1)
        moved = np.array([logs[nearest == k].mean() for k in range(len(centres))])
        if np.allclose(moved, centres):
            return tuple(np.exp(moved).tolist())
        centres = moved


def overlaps(boxes: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) the best IoU of each box with an anchor, and how many anchors would learn it."""
    best = []
    counts = []
    for some in boxes.split(AT_A_TIME):
        iou = box_iou(some, anchors)
        best.append(iou.amax(1))
        counts.append((iou > POSITIVE).sum(1))
    return torch.cat(best), torch.cat(counts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of the task, which step 02 has written")
    parser.add_argument("--image-size", type=int, default=384, help="[384]")
    parser.add_argument("--levels", default="3-6", help="[3-6]")
    arguments = parser.parse_args()
    side = arguments.image_size
    levels = parse_levels(arguments.levels)
    table = read_table(arguments.folder / "train.csv")
    found: dict[str, list[tuple[Tensor, Tensor]]] = {"standard": [], "fitted": []}
    for fold, rows in table.groupby("fold"):
        ratios = fit_ratios(read_boxes(table[table["fold"] != fold], side))
        print(f"fold {fold}: ratios {' '.join(f'{ratio:.2f}' for ratio in ratios)}")
        boxes = read_boxes(rows, side)
        for name, wanted in (("standard", RATIOS), ("fitted", ratios)):
            anchors = make_anchors(side, levels, cell_shapes(wanted))
            found[name].append(overlaps(boxes, anchors))
    for name, of_folds in found.items():
        best = torch.cat([each[0] for each in of_folds])
        count = torch.cat([each[1] for each in of_folds]).float().mean()
        print(
            f"{name:<8} best IoU of {len(best)} boxes: mean {best.mean():.3f}, lowest "
            f"{best.min():.3f}; {count:.1f} anchors above {POSITIVE} a box"
        )


if __name__ == "__main__":
    main()
