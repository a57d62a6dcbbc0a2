"""How fast does OpenVINO answer on a CPU beside PyTorch, and are its boxes the same?

    python benchmarks/engines.py                            the starter, 16 drawn X-rays
    python benchmarks/engines.py --run working/rsna/small   another run
    python benchmarks/engines.py --input FOLDER             the PNGs and DICOMs of a folder

One run, opened twice by cxr.open_run with --engine torch and openvino, predicts the same pictures
with its usual views, from decoded pixels to boxes, in turn. To reach: 4 times, with the same boxes:
each box that one of them marks has one of the other that covers it (IoU 0.9), and scores are at
most 0.05 apart.
"""

from __future__ import annotations

import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torchvision.ops import box_iou

sys.path.insert(0, str(Path(__file__).parents[1]))

from reference import RSNA
from timing import Row, arguments, at_least, duration, measure, show

from cxr import open_run
from cxr.datasets.rsna.synthetic import write_rsna
from cxr.images.folder import find_image_files
from cxr.inference.open_run import OpenRun, to_picture
from cxr.inference.results import BoxResult
from cxr.system.device import choose_precision

GOAL = 4
SAME_BOX = 0.9  # IoU
MOST_SCORE = 0.05
ENGINES = ("torch", "openvino")


class Opened(NamedTuple):
    """A run with its engine chosen, and the seconds that took after the networks were loaded."""

    run: OpenRun
    seconds: float


def open_with(engine: str, args: Namespace, working: Path) -> Opened:
    run = open_run(args.run, engine=engine, device="cpu", working=working)
    run.predictor.load()
    start = time.perf_counter()
    _ = run.predictor.describe()
    return Opened(run, time.perf_counter() - start)


def image_paths(args: Namespace, folder: Path) -> list[Path]:
    """The first --images files of --input, or drawn ones."""
    source = Path(args.input or folder)
    if not args.input:
        write_rsna(source / RSNA.dataset.slug, n_train=args.images, n_test=1, side=512)
    items = find_image_files([str(source)], folder / "none").items
    return [item.path for item in items][: args.images]


class Agreement(NamedTuple):
    """Marked boxes of one side, how many of them the other has, and the largest distance of scores
    of such pairs."""

    boxes: int
    shared: int
    distance: float


def compare(ones: Sequence[BoxResult], others: Sequence[BoxResult]) -> Agreement:
    """Each marked box of the first results against all boxes of the second."""
    boxes = 0
    shared = 0
    distance = 0.0
    for one, other in zip(ones, others, strict=True):
        marked = one.marked
        boxes += len(marked)
        if not len(marked) or not len(other.detections):
            continue
        mine = torch.from_numpy(np.asarray(marked.boxes, float))
        theirs = torch.from_numpy(np.asarray(other.detections.boxes, float))
        overlap, index = box_iou(mine, theirs).max(1)
        near = (overlap >= SAME_BOX).numpy()
        shared += int(near.sum())
        gaps = np.abs(marked.scores - other.detections.scores[index.numpy()])[near]
        distance = max(distance, float(gaps.max(initial=0.0)))
    return Agreement(boxes, shared, distance)


def main() -> None:
    args = arguments(__doc__, run="starter", input="", images=16, rounds=2)
    with tempfile.TemporaryDirectory() as folder:
        working = Path(folder) / "working"
        paths = image_paths(args, Path(folder))
        opened = {engine: open_with(engine, args, working) for engine in ENGINES}
        sides = opened["torch"].run.predictor.sides
        pictures = [to_picture(path, sides) for path in paths]
        predict = {name: each.run.predictor.predict for name, each in opened.items()}
        functions = {name: lambda name=name: predict[name](pictures) for name in ENGINES}
        seconds = measure(functions, args.rounds)
        results: dict[str, list[Any]] = {name: predicted() for name, predicted in functions.items()}

    count = len(pictures)
    there = compare(results["torch"], results["openvino"])
    back = compare(results["openvino"], results["torch"])
    boxes = there.boxes + back.boxes
    shared = there.shared + back.shared
    distance = max(there.distance, back.distance)
    ratio = seconds["torch"] / seconds["openvino"]
    rows = [
        Row("PyTorch", duration(seconds["torch"] / count), 1),
        at_least("OpenVINO", duration(seconds["openvino"] / count), ratio, GOAL),
        Row("graphs, compiling and self-test, once", duration(opened["openvino"].seconds)),
        Row(
            "marked boxes that the other one has",
            f"{shared} of {boxes}",
            None,
            "all",
            shared == boxes,
        ),
        Row(
            "largest distance of their scores",
            f"{distance:.3g}",
            None,
            f"at most {MOST_SCORE}",
            distance <= MOST_SCORE,
        ),
    ]
    predictor = opened["openvino"].run.predictor
    show(
        f"One image of {count} through {args.run}, {sides[-1]} px: {predictor.networks.describe()}",
        rows,
        choose_precision("auto", torch.device("cpu")),
    )


if __name__ == "__main__":
    main()
