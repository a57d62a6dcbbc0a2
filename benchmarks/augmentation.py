"""How long does one augmented training sample (level 20) take, beside one that is made from the
DICOM every time?

    python benchmarks/augmentation.py --input ../shared/data                real images
    python benchmarks/augmentation.py --images 8 --rounds 1 --step-seconds 1
                                                                            synthetic ones, seconds

Ours reads the PNG of step 02, the reference decodes and warps the DICOM every time. To reach: 4
times; a sample costs at most 1/50 of a training step on the CPU. --step-seconds: of one image, as
training_step.py prints it; 0 measures it. Whether the loader feeds the network says
training_step.py.
"""

from __future__ import annotations

import sys
import tempfile
from argparse import Namespace
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from reference import FRAME, network_settings, plain_sample, random_batch
from samples import LEVEL, SEED, training_images
from timing import Row, arguments, at_least, duration, measure, show
from training_step import CPU, NETWORK, OurTraining

from cxr.data.augmentation import LEVELS, Level, LevelAugmentation
from cxr.data.batch import Sample
from cxr.data.dataset import XrayDataset
from cxr.settings import Settings
from cxr.system.device import choose_precision
from cxr.system.runtime import Runtime

SAMPLES_A_STEP = 50  # one training step on the CPU takes at least as long as so many samples
EPOCH = 0


def our_samples(dataset: XrayDataset) -> list[Sample]:
    return [dataset[EPOCH, number] for number in range(len(dataset))]


def plain_samples(
    dataset: XrayDataset, level: Level, side: int, warp_side: int | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(image, boxes) of each row, with the random numbers that the dataset draws."""
    samples = []
    for number, (_, row) in enumerate(dataset.table.iterrows()):
        rng = np.random.default_rng((SEED, EPOCH, number))
        samples.append(plain_sample(row, level, side, rng, warp_side))
    return samples


def check(dataset: XrayDataset, side: int) -> None:
    """Without pixel noise both draw the same numbers: the same boxes, nearly the same pictures
    (ours shrinks first)."""
    assert isinstance(dataset.augment, LevelAugmentation)
    level = replace(LEVELS[LEVEL], noise=0.0, salt=0.0)
    dataset.augment.level = level
    plain = plain_samples(dataset, level, side, FRAME)
    for ours, (picture, boxes) in zip(our_samples(dataset), plain, strict=True):
        np.testing.assert_allclose(ours.boxes, boxes, atol=0.01)
        difference = np.abs(ours.image[0].numpy().astype(float) - picture).mean()
        assert difference < 2, f"the pictures differ by {difference:.1f} of 255 gray levels"
    dataset.augment.level = LEVELS[LEVEL]


def step_seconds(args: Namespace, settings: Settings) -> float:
    """Seconds of a training step for one image, as given or measured."""
    if args.step_seconds:
        return args.step_seconds
    runtime = Runtime(CPU, choose_precision("auto", CPU))
    train = OurTraining(settings, random_batch(settings), runtime)
    return measure({"step": train}, args.rounds)["step"] / args.batch_size


def main() -> None:
    args = arguments(__doc__, **NETWORK, input="", images=64, step_seconds=0.0, rounds=3)
    settings = network_settings(args)
    step = step_seconds(args, settings)
    side = args.image_size
    level = LEVELS[LEVEL]
    with tempfile.TemporaryDirectory() as folder:
        dataset = training_images(args.input, Path(folder), args.images, settings)
        check(dataset, side)
        seconds = measure(
            {
                "ours": partial(our_samples, dataset),
                "reference": partial(plain_samples, dataset, level, side),
                "full size": partial(plain_samples, dataset, level, side, FRAME),
            },
            args.rounds,
        )
    images = len(dataset)
    ours = seconds["ours"] / images
    plain = seconds["reference"] / images
    plain_full_size = seconds["full size"] / images
    show(
        f"One augmented training sample of {side} px, level {LEVEL}, mean of {images} images",
        [
            Row(
                "reference: DICOM, warped straight to the network's size, as published",
                duration(plain),
                1,
            ),
            Row(
                "reference that warps at 1024 px and then shrinks",
                duration(plain_full_size),
                plain / plain_full_size,
            ),
            at_least("ours, from the PNG of step 02", duration(ours), plain / ours, 4),
            Row(
                "one training step, per image",
                f"{duration(step)}, {step / ours:.0f} samples",
                None,
                f"at least {SAMPLES_A_STEP} samples",
                step / ours >= SAMPLES_A_STEP,
            ),
        ],
    )


if __name__ == "__main__":
    main()
