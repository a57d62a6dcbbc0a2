"""Training samples as steps 02 and 03 make them, and how many the loader delivers."""

from pathlib import Path

from timing import measure

from cxr.data.dataset import XrayDataset
from cxr.data.loader import count_workers, make_loader
from cxr.data.conversion import convert_all
from cxr.data.samplers import ResumableSampler
from cxr.data.tables import finish_table
from cxr.datasets.rsna.dataset import Rsna
from cxr.datasets.rsna.synthetic import write_rsna

LEVEL, SEED = "20", 0  # of the augmentation


def training_images(source, folder, count, config):
    """Dataset over `count` images of source/<slug>, or synthetic ones, with the PNGs that step 02 makes, in folder."""
    if not source:
        write_rsna(folder / Rsna.slug, n_train=count, n_test=1, side=256)
    table, _, notes = Rsna.read_tables(Path(source or folder) / Rsna.slug)
    table = table.head(count)
    workers = count_workers(config.workers)
    converted = convert_all(table, folder / "images", config.image_size, workers)
    return XrayDataset(
        finish_table(table, converted.headers, notes),
        folder / "images",
        config.image_size,
        augmentation=LEVEL,
        seed=SEED,
        make_target=Rsna().targets(config),
    )


def loader_rate(dataset, batch_size, rounds, pin=False):
    """Images a second that the loader of training delivers while nobody else uses the cores."""
    loader = make_loader(
        dataset, ResumableSampler(len(dataset), batch_size, SEED, True), count_workers(-1), pin
    )
    seconds = measure({"epoch": lambda: [None for _ in loader]}, rounds)["epoch"]
    return loader.sampler.batches() * batch_size / seconds
