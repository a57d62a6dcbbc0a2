"""The boxes of the lungs in a task's images, found by a run of the task `lungs` and kept beside the images."""

import pandas as pd
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from cxr.data.dataset import XrayDataset, collate, count_workers, one_thread
from cxr.geometry.lung_box import lung_box
from cxr.inference.checkpoint import load_state, stored_config
from cxr.networks.unet import build_segmenter
from cxr.system import distributed
from cxr.system.disk import InputError, alone, write_csv

CORNERS = ["crop_x1", "crop_y1", "crop_x2", "crop_y2"]


def with_crops(table, config, run, device):
    """The table with the columns CORNERS: the box of the lungs in each image, in original pixels; and crop_fallback,
    True where no lungs were found and the box is the whole image.

    Boxes are kept in working/<task>/crops-<run>.csv, and only images that are not there are looked at, by the last
    weights of all folds of the run. Raises InputError where it has none.
    """
    path = config.task_dir / f"crops-{run}.csv"
    if distributed.rank() == 0:
        with alone(
            config.task_dir
        ):  # another fold, trained beside this one, would write the same file
            complete(path, table, config, run, device)
    distributed.barrier()
    return table.merge(
        pd.read_csv(path, dtype={"image_id": str}), on="image_id", how="left", validate="1:1"
    )


def complete(path, table, config, run, device):
    """Add the boxes of the table's images that are not in the file yet."""
    known = (
        pd.read_csv(path, dtype={"image_id": str})
        if path.exists()
        else pd.DataFrame(columns=["image_id"])
    )
    missing = table[~table["image_id"].isin(known["image_id"])]
    if len(missing):
        found = find_boxes(
            missing, config, load_networks(config.working / "lungs" / run, device), device
        )
        print(
            f"lungs: {found['crop_fallback'].sum()} of {len(found)} images show none and stay whole"
        )
        write_csv(path, pd.concat([known, found], ignore_index=True))


def load_networks(folder, device):
    paths = [
        sorted(fold.glob("epoch*.pt"))[-1]
        for fold in sorted(folder.glob("fold*"))
        if any(fold.glob("epoch*.pt"))
    ]
    if not paths:
        raise InputError(
            f"{folder} holds no trained network: train it first with 03_train.py --task lungs "
            f"--run {folder.name}, or leave out --lungs"
        )
    networks = []
    for path in paths:
        state = load_state(path, device)
        network = build_segmenter(stored_config(state["config"]), load_weights=False)
        network.load_state_dict(state["model"])
        networks.append(network.to(device).eval())
    return networks


@torch.inference_mode()
def lung_maps(images, networks):
    """Probability of lung (B, S, S) of images (B, 1, S, S), the mean over the networks."""
    return torch.stack([network(images)["mask"].float().sigmoid() for network in networks]).mean(0)[
        :, 0
    ]


def find_boxes(table, config, networks, device):
    """Table image_id, CORNERS and crop_fallback, by the mean of the networks' probabilities."""
    dataset = XrayDataset(table[["image_id"]], config.task_dir / "images", networks[0].image_size)
    loader = DataLoader(
        dataset,
        8,
        sampler=[(0, row) for row in range(len(table))],
        collate_fn=collate,
        num_workers=min(count_workers(config.workers), len(table)),
        worker_init_fn=one_thread,
    )
    rows = []
    for batch in tqdm(loader, desc="lungs", mininterval=5):
        images = batch["image"].to(device)
        for index, probability in zip(
            batch["index"].tolist(), lung_maps(images, networks).cpu().numpy()
        ):
            row = table.iloc[index]
            size = int(row["width"]), int(row["height"])
            box = lung_box(probability, *size)
            rows.append((row["image_id"], *box, box == (0, 0, *size)))
    return pd.DataFrame(rows, columns=["image_id", *CORNERS, "crop_fallback"])
