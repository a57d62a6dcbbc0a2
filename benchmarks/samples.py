"""Training samples as steps 02 and 03 make them, and how many the loader delivers."""

from __future__ import annotations

from pathlib import Path

from reference import RSNA
from timing import measure
from torch.utils.data import DataLoader

from cxr.data.conversion import convert_all
from cxr.data.dataset import XrayDataset
from cxr.data.loader import count_workers, make_loader
from cxr.data.samplers import ResumableSampler
from cxr.data.tables import finish_table
from cxr.datasets.rsna.synthetic import write_rsna
from cxr.settings import Settings

LEVEL = "20"  # of the augmentation
SEED = 0


def training_images(source: str, folder: Path, count: int, settings: Settings) -> XrayDataset:
    """Dataset over `count` images of source/<slug>, with the PNGs that step 02 makes, in folder.

    Without a source the images are synthetic.
    """
    data_folder = Path(source or folder) / RSNA.dataset.slug
    if not source:
        write_rsna(data_folder, n_train=count, n_test=1, side=256)
    tables = RSNA.dataset.read_tables(data_folder, settings)
    table = tables.train.head(count)
    images = folder / "images"
    image_size = settings.training.image_size
    workers = count_workers(settings.machine.workers)
    converted = convert_all(table, images, image_size, workers)
    return XrayDataset(
        finish_table(table, converted.headers, tables.notes),
        images,
        image_size,
        RSNA.method.sample_content(settings),
        augmentation=LEVEL,
        seed=SEED,
        make_target=RSNA.method.make_target(settings),
    )


def loader_rate(dataset: XrayDataset, batch_size: int, rounds: int, pin: bool = False) -> float:
    """Images a second that the loader of training delivers while nobody else uses the cores."""
    sampler = ResumableSampler(len(dataset), batch_size, SEED, shuffle=True)
    loader = make_loader(dataset, sampler, count_workers(-1), pin)
    seconds = measure({"epoch": lambda: run_through(loader)}, rounds)["epoch"]
    return sampler.batches() * batch_size / seconds


def run_through(loader: DataLoader) -> None:
    for _ in loader:
        pass
