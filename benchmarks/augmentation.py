"""How long does one augmented training sample take (level 20), and does the loader keep up with the network?

    python benchmarks/augmentation.py --input ../shared/data                  real images
    python benchmarks/augmentation.py --images 8 --rounds 1 --step-seconds 1      synthetic ones, seconds

Ours reads the PNG of step 02, the reference decodes and warps the DICOM every time. To reach: 4 times; a sample costs
at most 1/50 of a training step on the CPU. --step-seconds: of one image, as training_step.py prints it; 0 measures it.
"""

import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from reference import FRAME, network_config, plain_sample, random_batch  # noqa: E402
from timing import arguments, duration, measure, show  # noqa: E402
from training_step import NETWORK, our_training  # noqa: E402

from cxr.augmentation import LEVELS  # noqa: E402
from cxr.data import ResumableSampler, XrayDataset, count_workers, make_loader  # noqa: E402
from cxr.preprocess import convert_all, finish_table  # noqa: E402
from cxr.synthetic import write_rsna  # noqa: E402
from cxr.tasks.rsna import Rsna  # noqa: E402

LEVEL, SEED = "20", 0


def training_images(source, folder, count, config):
    """Dataset over `count` images of source/<slug>, or synthetic ones, with the PNGs that step 02 makes, in folder."""
    if not source:
        write_rsna(folder / Rsna.slug, n_train=count, n_test=1, side=256)
    table, _, notes = Rsna.read_tables(Path(source or folder) / Rsna.slug)
    table = table.head(count)
    headers, _ = convert_all(table, folder / "images", replace(config, size=config.image_size))
    return XrayDataset(finish_table(table, headers, notes), folder / "images", config.image_size, LEVEL, SEED,
                       Rsna().targets(config))


def plain_samples(dataset, level, warp_side=None):
    return [plain_sample(row, level, dataset.image_size, np.random.default_rng((SEED, 0, number)), warp_side)
            for number, row in dataset.table.iterrows()]


def our_samples(dataset):
    return [dataset[0, number] for number in range(len(dataset))]


def check(dataset):
    """Without pixel noise both draw the same numbers: the same boxes, nearly the same pictures (ours shrinks first)."""
    level = replace(LEVELS[LEVEL], noise=0.0, salt=0.0)
    dataset.augment.level = level
    for ours, (picture, boxes) in zip(our_samples(dataset), plain_samples(dataset, level, FRAME)):
        np.testing.assert_allclose(ours["boxes"], boxes, atol=0.01)
        difference = np.abs(ours["image"][0].numpy().astype(float) - picture)
        assert difference.mean() < 2, f"the pictures differ by {difference.mean():.1f} of 255 gray levels"
    dataset.augment.level = LEVELS[LEVEL]


def loader_rate(dataset, batch_size, rounds, pin=False):
    """Images a second that the loader of training delivers while nobody else uses the cores."""
    loader = make_loader(dataset, ResumableSampler(len(dataset), batch_size, SEED, True), count_workers(-1), pin)
    seconds = measure({"epoch": lambda: [None for _ in loader]}, rounds)["epoch"]
    return loader.sampler.batches() * batch_size / seconds


def main():
    args = arguments(__doc__, **NETWORK, input="", images=64, step_seconds=0.0, rounds=3)
    step, config = args.step_seconds, network_config(args)
    if not step:
        train = our_training(config, random_batch(config))
        step = measure({"step": train}, args.rounds)["step"] / args.batch_size
    with tempfile.TemporaryDirectory() as folder:
        dataset = training_images(args.input, Path(folder), args.images, config)
        check(dataset)
        found = {name: seconds / len(dataset) for name, seconds in measure({
            "ours": partial(our_samples, dataset), "reference": partial(plain_samples, dataset, LEVELS[LEVEL]),
            "full": partial(plain_samples, dataset, LEVELS[LEVEL], FRAME)}, args.rounds).items()}
        rate = loader_rate(dataset, args.batch_size, args.rounds)
    plain, ours = found["reference"], found["ours"]
    show(f"One augmented training sample of {args.image_size} px, level {LEVEL}, mean of {len(dataset)} images",
         [("reference: DICOM, warped straight to the network's size, as published", duration(plain), 1),
          ("reference that warps at 1024 px and then shrinks", duration(found["full"]), plain / found["full"]),
          ("ours, from the PNG of step 02 (to reach: 4)", duration(ours), plain / ours),
          ("one training step, per image (to reach: 50 samples)", f"{duration(step)}, {step / ours:.0f} samples", None),
          (f"loader alone, {count_workers(-1)} processes", f"{rate:.1f} images/s", None),
          ("loader beside the training it feeds (never below 1)", f"{rate * step:.1f} times as fast", None)])


if __name__ == "__main__":
    main()
