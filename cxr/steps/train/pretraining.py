"""First lessons from synthetic X-rays, whose every box is exact: some hundred real ones are too few for random weights.

The pictures are those of --demo. What a network learns of them (lungs are dark, findings bright, how a box is fitted)
serves every fold and every run whose training differs only in what RECIPE settles, so it is learned once, in
working/pretraining-<images>-<size>/.
"""

import zlib
from dataclasses import replace

from cxr.config import Config
from cxr.data.dataset import read_table
from cxr.data.preparation import prepare
from cxr.system import distributed

SMALLEST = 256  # pixels of the stored pictures
# Lighter than what the real images need, since there are more pictures than the network can learn by heart.
RECIPE = {
    "epochs": 7,
    "augmentation": "15",
    "dropout": 0.2,
    "weight_decay": 0.02,
    "keep": 1,
    "patience": 0,
    "fold": 0,
    "folds": 4,
    "seed": 42,
    "cleaning": "B",
}
NOT_THERE = {"pretrain": 0, "paste": 0.0, "start": "", "pseudo": "", "unlabelled": "", "lungs": ""}


def first_lessons(config):
    """The settings of the training on synthetic pictures that --pretrain asks for; its run is named by them."""
    size = max(SMALLEST, config.image_size)
    folder = config.working / f"pretraining-{config.pretrain}-{size}"
    first = replace(
        config,
        input=folder / "input",
        working=folder,
        demo=True,
        demo_images=config.pretrain,
        size=size,
        **RECIPE,
        **NOT_THERE,
    )
    usual = (
        Config().training_settings()
    )  # left out, so that a setting that is new some day changes no name
    chosen = [
        pair for pair in sorted(first.training_settings().items()) if pair[1] != usual[pair[0]]
    ]
    return replace(first, run=f"{first.encoder}-{zlib.crc32(repr(chosen).encode()):08x}")


def lesson_table(task, first):
    """The table of the synthetic pictures, which are made where they are not there yet."""
    if distributed.rank() == 0:
        task.write_synthetic(first.input / task.slug, n_train=first.demo_images)
        prepare(
            task, replace(first, workers=1)
        )  # its processes would hold the lock if this one is killed
    distributed.barrier()
    return task.select(read_table(first.task_dir / "train.csv"), first)


def learned_weights(config):
    """The checkpoint that the first lessons left."""
    return first_lessons(config).fold_dir(0) / f"epoch{RECIPE['epochs']:03d}.pt"
