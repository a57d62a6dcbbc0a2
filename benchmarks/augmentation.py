"""How long does one augmented training sample (level 20) take, beside one that is made from the DICOM every time?

    python benchmarks/augmentation.py --input ../shared/data                  real images
    python benchmarks/augmentation.py --images 8 --rounds 1 --step-seconds 1      synthetic ones, seconds

Ours reads the PNG of step 02, the reference decodes and warps the DICOM every time. To reach: 4 times; a sample costs
at most 1/50 of a training step on the CPU. --step-seconds: of one image, as training_step.py prints it; 0 measures it.
Whether the loader feeds the network says training_step.py.
"""

import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from reference import FRAME, network_config, plain_sample, random_batch  # noqa: E402
from samples import LEVEL, SEED, training_images  # noqa: E402
from timing import Row, arguments, at_least, duration, measure, show  # noqa: E402
from training_step import NETWORK, our_training  # noqa: E402

from cxr.data.augmentation import LEVELS  # noqa: E402

SAMPLES_A_STEP = 50  # one training step on the CPU takes at least as long as so many samples


def plain_samples(dataset, level, warp_side=None):
    return [
        plain_sample(
            row, level, dataset.image_size, np.random.default_rng((SEED, 0, number)), warp_side
        )
        for number, row in dataset.table.iterrows()
    ]


def our_samples(dataset):
    return [dataset[0, number] for number in range(len(dataset))]


def check(dataset):
    """Without pixel noise both draw the same numbers: the same boxes, nearly the same pictures (ours shrinks first)."""
    level = replace(LEVELS[LEVEL], noise=0.0, salt=0.0)
    dataset.augment.level = level
    for ours, (picture, boxes) in zip(our_samples(dataset), plain_samples(dataset, level, FRAME)):
        np.testing.assert_allclose(ours.boxes, boxes, atol=0.01)
        difference = np.abs(ours.image[0].numpy().astype(float) - picture)
        assert difference.mean() < 2, (
            f"the pictures differ by {difference.mean():.1f} of 255 gray levels"
        )
    dataset.augment.level = LEVELS[LEVEL]


def main():
    args = arguments(__doc__, **NETWORK, input="", images=64, step_seconds=0.0, rounds=3)
    step, config = args.step_seconds, network_config(args)
    if not step:
        train = our_training(config, random_batch(config))
        step = measure({"step": train}, args.rounds)["step"] / args.batch_size
    with tempfile.TemporaryDirectory() as folder:
        dataset = training_images(args.input, Path(folder), args.images, config)
        check(dataset)
        found = {
            name: seconds / len(dataset)
            for name, seconds in measure(
                {
                    "ours": partial(our_samples, dataset),
                    "reference": partial(plain_samples, dataset, LEVELS[LEVEL]),
                    "full": partial(plain_samples, dataset, LEVELS[LEVEL], FRAME),
                },
                args.rounds,
            ).items()
        }
    plain, ours = found["reference"], found["ours"]
    show(
        f"One augmented training sample of {args.image_size} px, level {LEVEL}, mean of {len(dataset)} images",
        [
            Row(
                "reference: DICOM, warped straight to the network's size, as published",
                duration(plain),
                1,
            ),
            Row(
                "reference that warps at 1024 px and then shrinks",
                duration(found["full"]),
                plain / found["full"],
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
