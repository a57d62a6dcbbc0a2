"""Tables and pictures of white rectangles, as step 02 leaves them."""

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd


def write_tiny_data(working, train=16, test=5):
    """Tables and 64 px PNGs of originals of 128 x 96 pixels in working/tiny.

    A white rectangle is in every second image.
    """
    rng = np.random.default_rng(0)
    folder = Path(working) / "tiny" / "images"
    folder.mkdir(parents=True)
    for name, count in (("train", train), ("test", test)):
        rows = [write_tiny_image(f"{name}{i:03}", i, folder, rng) for i in range(count)]
        table = pd.DataFrame(rows)
        if name == "test":
            table = table.drop(columns="fold")
        table.to_csv(folder.parent / f"{name}.csv", index=False)


def write_tiny_image(image_id, number, folder, rng):
    """Write an image and return its row of the table."""
    image = rng.integers(0, 60, (64, 64), dtype=np.uint8)
    boxes = []
    if number % 2:
        x, y = rng.integers(4, 30, 2)
        image[y : y + 24, x : x + 20] = 250
        boxes = [[2.0 * x, 1.5 * y, 2.0 * (x + 20), 1.5 * (y + 24)]]
    cv2.imwrite(str(folder / f"{image_id}.png"), image)
    return {
        "image_id": image_id,
        "group": image_id,
        "fold": number // 2 % 2,
        "width": 128,
        "height": 96,
        "boxes": json.dumps(boxes),
        "box_labels": json.dumps([0] * len(boxes)),
        "n_boxes": len(boxes),
        "label": 2 * (number % 2),
    }
