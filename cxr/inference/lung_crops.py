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
from tqdm import tqdm

from cxr.data.batch import SampleContent
from cxr.data.dataset import XrayDataset
from cxr.data.loader import make_prediction_loader
from cxr.geometry.crops import Crop, crop_at, cut
from cxr.geometry.lung_box import lung_box
from cxr.images.resize import resize
from cxr.inference.checkpoint import fingerprints, load_state
from cxr.method_settings import SegmenterSettings
from cxr.methods.base import Labels
from cxr.methods.segmenter.method import Segmenter
from cxr.networks.network import Network
from cxr.run_folder import RunFolder, TaskFolder
from cxr.settings import make_settings
from cxr.system import distributed
from cxr.system.disk import alone, read_json, write_json
from cxr.system.errors import InputError
from cxr.system.runtime import Runtime
from cxr.system.tables import write_csv

LUNGS_TASK = "lungs"  # whose runs --lungs and --lungs-run name
CORNERS = ["crop_x1", "crop_y1", "crop_x2", "crop_y2"]
BATCH = 8
# From which on the run is useless: of the films of its own collections nearly all show lungs.
MOST_WITHOUT_LUNGS = 0.9  # share of the images
ONLY_PICTURES = SampleContent(annotated=False)


@dataclass(frozen=True, eq=False)
class FoundLungs:
    """Where the lungs are in a square picture (s, s): mask bool (s, s), and box in its pixels."""

    mask: np.ndarray
    box: Crop


class LungFinder:
    """The last network of each fold of a run of the task `lungs`; their mean probability counts."""

    def __init__(self, networks: Sequence[Any], device: torch.device) -> None:
        self.networks = networks
        self.device = device
        self.image_size = int(networks[0].image_size)

    @classmethod
    def of_run(cls, working: Path, run: str, device: torch.device) -> LungFinder:
        """Of a run below the folder `working`. Raises InputError where it has no network."""
        folder = TaskFolder(working / LUNGS_TASK).run(run)
        return cls(load_networks(folder, device), device)

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

    def find_box(self, picture: np.ndarray, width: int, height: int) -> Crop:
        """The box of the lungs in the width x height original of a stored picture (s, s) uint8."""
        return lung_box(self.probability_map(picture), width, height)


def with_crops(
    table: pd.DataFrame, folder: TaskFolder, run: str, runtime: Runtime, workers: int
) -> pd.DataFrame:
    """The table with the columns CORNERS and crop_fallback.

    CORNERS: the box of the lungs in each image, in original pixels. crop_fallback: True where no
    lungs were found and the box is the whole image. Boxes are kept in the task's folder, and only
    images that are not there are looked at, by the last weights of all folds of the run `run` of
    the task `lungs`. Raises InputError where it has none, where the boxes that are kept were found
    by other weights, and where nearly all images show no lungs.
    """
    path = folder.crops(run)
    if runtime.is_main:
        # Another fold, trained beside this one, would write the same file.
        with alone(folder.path):
            refuse_other_lungs(folder, run)
            known = read_boxes_file(path)
            missing = table[~table["image_id"].isin(known["image_id"])]
            if len(missing):
                finder = LungFinder.of_run(folder.path.parent, run, runtime.device)
                boxes = find_boxes(missing, folder, finder, workers)
                known = pd.concat([known, boxes], ignore_index=True)
                refuse_blind_run(known, run)
                # First, so that boxes without it are only those of releases that wrote none.
                record = {"checkpoints": lung_fingerprints(folder, run)}
                write_json(folder.crops_record(run), record)
                write_csv(path, known)
    distributed.barrier()
    boxes = read_boxes_file(path)
    return table.merge(boxes, on="image_id", how="left", validate="1:1")


def lung_fingerprints(folder: TaskFolder, run: str) -> dict[str, int]:
    """{checkpoint: fingerprint} of the networks of a lungs run; empty where they are not here."""
    lungs_folder = folder.sibling(LUNGS_TASK).run(run)
    return fingerprints(last_checkpoints(lungs_folder), lungs_folder.path)


def refuse_other_lungs(folder: TaskFolder, run: str) -> None:
    """InputError where the boxes that are kept were found by other networks of the run.

    Where its networks are no longer there, or the boxes do not say whose they are, they count.
    """
    record = folder.crops_record(run)
    if not record.exists() or not folder.crops(run).exists():
        return
    checkpoints = lung_fingerprints(folder, run)
    if checkpoints and checkpoints != read_json(record)["checkpoints"]:
        raise InputError(
            f"{folder.crops(run)} was made by other networks than those of the run {run} of the "
            f"task {LUNGS_TASK} now: bring those back, or delete that file and train the runs with "
            f"--lungs {run} again under another --run"
        )


def refuse_blind_run(boxes: pd.DataFrame, run: str) -> None:
    """InputError where a run finds no lungs in nearly all images. boxes: as of `find_boxes`."""
    count = int(boxes["crop_fallback"].sum())
    if count > MOST_WITHOUT_LUNGS * len(boxes):
        raise InputError(
            f"the run {run} of the task {LUNGS_TASK} finds no lungs in {count} of {len(boxes)} "
            "images, so nothing would be cut: train it longer or on other masks, or leave out "
            "--lungs"
        )


def read_boxes_file(path: Path) -> pd.DataFrame:
    """The table of `find_boxes` as it was kept, without rows where there is no file yet."""
    if not path.exists():
        return pd.DataFrame(columns=["image_id"])
    return pd.read_csv(path, dtype={"image_id": str})


def find_boxes(
    table: pd.DataFrame, folder: TaskFolder, finder: LungFinder, workers: int
) -> pd.DataFrame:
    """Table of image_id, CORNERS and crop_fallback for the images of a table."""
    dataset = XrayDataset(table, folder.images, finder.image_size, ONLY_PICTURES)
    loader = make_prediction_loader(dataset, range(len(table)), BATCH, workers)
    rows = []
    for batch in tqdm(loader, desc="lungs", mininterval=5):
        probabilities = finder.probabilities(batch.images).cpu().numpy()
        for index, probability in zip(batch.rows.tolist(), probabilities, strict=True):
            image = table.iloc[index]
            width = int(image["width"])
            height = int(image["height"])
            box = lung_box(probability, width, height)
            is_whole = box == (0, 0, width, height)
            rows.append((image["image_id"], *box, is_whole))
    boxes = pd.DataFrame(rows, columns=["image_id", *CORNERS, "crop_fallback"])
    print(f"lungs: {boxes['crop_fallback'].sum()} of {len(boxes)} images show none and stay whole")
    return boxes


def cut_to_box(picture: np.ndarray, box: Crop, width: int, height: int) -> np.ndarray:
    """A stored picture (s, s) cut to a box and stretched to its side again, as in training.

    box: in pixels of the width x height original.
    """
    side = len(picture)
    return resize(cut(picture, crop_at(box, width, height, side)), side)


def last_checkpoints(folder: RunFolder) -> list[Path]:
    """The last one of each fold of a run."""
    last = []
    for number in folder.trained_folds():
        checkpoints = folder.fold(number).checkpoints()
        if checkpoints:
            last.append(checkpoints[-1])
    return last


def load_networks(folder: RunFolder, device: torch.device) -> list[Network]:
    """The last network of each fold of a run. Raises InputError where there is none."""
    networks = []
    for checkpoint in last_checkpoints(folder):
        networks.append(load_network(checkpoint, device))
    if not networks:
        raise InputError(
            f"{folder.path} holds no trained network: train it first with 03_train.py --task "
            f"{LUNGS_TASK} --run {folder.name}, or leave out --lungs"
        )
    return networks


def load_network(path: Path, device: torch.device) -> Network:
    """The network of a checkpoint, in evaluation mode."""
    state = load_state(path, device)
    settings = make_settings(state["config"], SegmenterSettings)
    network = Segmenter().build_model(settings, Labels((), ()), load_weights=False)
    network.load_state_dict(state["model"])
    network.restore_scale(state.get("input_scale"))
    return network.to(device).eval()
