"""The boxes of the lungs in a task's images, found by a run of the task `lungs` and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from cxr.data.dataset import XrayDataset, collate, count_workers, one_thread
from cxr.geometry.lung_box import lung_box
from cxr.images.read import resize
from cxr.inference.checkpoint import load_state, stored_config
from cxr.networks.unet import build_segmenter
from cxr.system import distributed
from cxr.system.disk import alone
from cxr.system.errors import InputError
from cxr.system.tables import write_csv

CORNERS = ["crop_x1", "crop_y1", "crop_x2", "crop_y2"]
BATCH = 8
Box = tuple[int, int, int, int]  # x1 y1 x2 y2 of whole pixels, the last ones outside


@dataclass(frozen=True, eq=False)
class FoundLungs:
    """Where the lungs are in a square picture (s, s): mask bool (s, s), and box in its pixels."""

    mask: np.ndarray
    box: Box


class LungFinder:
    """The last network of each fold of a run of the task `lungs`; their mean probability counts."""

    def __init__(self, networks: Sequence[Any], device: torch.device) -> None:
        self.networks = networks
        self.device = device
        self.image_size = int(networks[0].image_size)

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        """Probability of lung (B, S, S) of images (B, 1, S, S) of the networks' size."""
        images = images.to(self.device)
        maps = [network(images)["mask"].float().sigmoid() for network in self.networks]
        return torch.stack(maps).mean(0)[:, 0]

    def probability_map(self, picture: np.ndarray) -> np.ndarray:
        """Probability of lung (s, s) of a stored picture (s, s) uint8."""
        image = torch.from_numpy(resize(picture, self.image_size))[None, None]
        maps = self.probabilities(image)[None]
        full_size = F.interpolate(maps, size=picture.shape, mode="bilinear")
        return full_size[0, 0].cpu().numpy()

    def find(self, picture: np.ndarray) -> FoundLungs:
        """The lungs in a stored picture (s, s) uint8, in its own pixels."""
        probability = self.probability_map(picture)
        height, width = picture.shape
        return FoundLungs(probability > 0.5, lung_box(probability, width, height))

    def find_box(self, picture: np.ndarray, width: int, height: int) -> Box:
        """The box of the lungs in the width x height original of a stored picture (s, s) uint8."""
        return lung_box(self.probability_map(picture), width, height)


def with_crops(table: pd.DataFrame, config, run: str, device: torch.device) -> pd.DataFrame:
    """The table with the columns CORNERS and crop_fallback.

    CORNERS: the box of the lungs in each image, in original pixels. crop_fallback: True where no
    lungs were found and the box is the whole image. Boxes are kept in working/<task>/, and only
    images that are not there are looked at, by the last weights of all folds of the run. Raises
    InputError where it has none.
    """
    path = config.task_dir / f"crops-{run}.csv"
    if distributed.rank() == 0:
        # Another fold, trained beside this one, would write the same file.
        with alone(config.task_dir):
            add_missing_boxes(path, table, config, run, device)
    distributed.barrier()
    boxes = read_boxes_file(path)
    return table.merge(boxes, on="image_id", how="left", validate="1:1")


def read_boxes_file(path: Path) -> pd.DataFrame:
    """The table of `find_boxes` as it was kept, without rows where there is no file yet."""
    if not path.exists():
        return pd.DataFrame(columns=["image_id"])
    return pd.read_csv(path, dtype={"image_id": str})


def add_missing_boxes(
    path: Path, table: pd.DataFrame, config, run: str, device: torch.device
) -> None:
    """Add the boxes of the table's images that are not in the file yet."""
    known = read_boxes_file(path)
    missing = table[~table["image_id"].isin(known["image_id"])]
    if missing.empty:
        return
    finder = LungFinder(load_networks(config.working / "lungs" / run, device), device)
    boxes = find_boxes(missing, config, finder)
    print(f"lungs: {boxes['crop_fallback'].sum()} of {len(boxes)} images show none and stay whole")
    write_csv(path, pd.concat([known, boxes], ignore_index=True))


def load_networks(folder: Path, device: torch.device) -> list[Any]:
    """The last network of each fold of a run. Raises InputError where there is none."""
    networks = []
    for fold_folder in sorted(folder.glob("fold*")):
        checkpoints = sorted(fold_folder.glob("epoch*.pt"))
        if checkpoints:
            networks.append(load_network(checkpoints[-1], device))
    if not networks:
        raise InputError(
            f"{folder} holds no trained network: train it first with 03_train.py --task lungs "
            f"--run {folder.name}, or leave out --lungs"
        )
    return networks


def load_network(path: Path, device: torch.device) -> Any:
    state = load_state(path, device)
    network = build_segmenter(stored_config(state["config"]), load_weights=False)
    network.load_state_dict(state["model"])
    return network.to(device).eval()


def find_boxes(table: pd.DataFrame, config, finder: LungFinder) -> pd.DataFrame:
    """Table of image_id, CORNERS and crop_fallback for the images of a table."""
    dataset = XrayDataset(table[["image_id"]], config.task_dir / "images", finder.image_size)
    loader = DataLoader(
        dataset,
        BATCH,
        sampler=[(0, row) for row in range(len(table))],
        collate_fn=collate,
        num_workers=min(count_workers(config.workers), len(table)),
        worker_init_fn=one_thread,
    )
    rows = []
    for batch in tqdm(loader, desc="lungs", mininterval=5):
        probabilities = finder.probabilities(batch["image"]).cpu().numpy()
        for index, probability in zip(batch["index"].tolist(), probabilities, strict=True):
            image = table.iloc[index]
            width = int(image["width"])
            height = int(image["height"])
            box = lung_box(probability, width, height)
            is_whole = box == (0, 0, width, height)
            rows.append((image["image_id"], *box, is_whole))
    return pd.DataFrame(rows, columns=["image_id", *CORNERS, "crop_fallback"])
