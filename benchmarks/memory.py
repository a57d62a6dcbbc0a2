"""Does the memory of steps 02, 04 and 05 stay the same when there are a hundred times as many images?

    python benchmarks/memory.py                             300 images against 30,000: ten minutes, 1 GB of disk
    python benchmarks/memory.py --small 30 --large 300      a try of some minutes
    python benchmarks/memory.py --folder /mnt/large         where the data goes for the time being; it is removed again

To reach: at most 1.2 times, in all processes of a step together. The steps run as a user runs them, on a data set of
hard links to a few DICOMs. Step 04 predicts all images with a small network; for step 05 its predictions are replaced
by drawn ones, since those of a network that has learned nothing would be cut off by any threshold. Linux only: sizes
come from /proc.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from search import draw_case  # noqa: E402
from timing import Row, arguments, duration, show  # noqa: E402

from cxr.data.dataset import read_table  # noqa: E402
from cxr.datasets.phantom.chest import NORMAL, NOT_NORMAL, OPACITY  # noqa: E402
from cxr.datasets.rsna.dataset import Rsna  # noqa: E402
from cxr.datasets.rsna.files import TEST_IMAGES, TRAIN_IMAGES  # noqa: E402
from cxr.datasets.rsna.synthetic import (  # noqa: E402
    RsnaImage,
    write_rsna_images,
    write_rsna_tables,
)
from cxr.inference.predictions import PART, write_part  # noqa: E402

MOST = 1.2  # times the memory of the few images
INTERVAL = 0.2  # seconds between two looks at the sizes
TEST_SHARE = 10  # one image in ten is a test image, as in the competition
RUN, FOLDS = "memory", 2
SMALLEST = [
    "--preset",
    "small",
    "--encoder",
    "tu-mobilenetv3_small_050",
    "--run",
    RUN,
    "--folds",
    FOLDS,
    "--size",
    64,
    "--image-size",
    192,
    "--levels",
    "5-6",
    "--channels",
    8,
    "--head-convs",
    1,
    "--epochs",
    1,
    "--pretrain",
    0,
    "--tta",
    "none",
    "--workers",
    2,
]


def link_images(folder, drawn, cases, count):
    """A data set of `count` images: links to the DICOMs of `drawn`, boxes and classes that fit `cases`."""
    rows = {TRAIN_IMAGES: [], TEST_IMAGES: []}
    for name in rows:
        (folder / name).mkdir(parents=True)
    for number in range(count):
        source, image_id = drawn[number % len(drawn)], f"{number:08x}"
        name = TRAIN_IMAGES if number % TEST_SHARE else TEST_IMAGES
        dicom = folder.parents[2] / "dicoms" / f"{source.image_id}.dcm"
        os.link(dicom, folder / name / f"{image_id}.dcm")
        boxes = case_of(image_id, cases).boxes.round()
        kind = OPACITY if len(boxes) else (NORMAL, NOT_NORMAL)[number % 2]
        patient = replace(source.patient, patient=number // 2)
        rows[name].append(RsnaImage(image_id, kind, boxes, patient, source.chest))
    write_rsna_tables(folder, rows[TRAIN_IMAGES], rows[TEST_IMAGES])


def case_of(image_id, cases):
    return cases[int(image_id, 16) % len(cases)]


def run(step, root):
    """Highest MiB of all its processes, without files, and of the largest one; seconds. The step runs to its end.

    All together is the sum of their PSS, in which a page that several share counts once; files are mostly libraries.
    The largest is by VmHWM, since ru_maxrss of a child begins with the memory of the process that started it.
    """
    start, peaks = time.perf_counter(), np.zeros(3)
    command = [
        sys.executable,
        step,
        "--input",
        root / "input",
        "--working",
        root / "working",
        *SMALLEST,
    ]
    with open(root / f"{step}.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=Path(__file__).parents[1],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while process.poll() is None:
            folders = [
                folder for folder in Path("/proc").glob("[0-9]*") if session(folder) == process.pid
            ]
            sizes = np.array([sizes_of(folder) for folder in folders]).reshape(-1, 3)
            peaks = np.maximum(peaks, [*sizes[:, :2].sum(axis=0), sizes[:, 2].max(initial=0)])
            time.sleep(INTERVAL)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
    if process.returncode:
        sys.exit(
            f"error: {step} failed:\n" + (root / f"{step}.log").read_text(encoding="utf-8")[-2000:]
        )
    return *peaks / 1024, time.perf_counter() - start


def sizes_of(folder):
    """KiB of a process: PSS, the part of it without files, highest resident set; zeros where it has just ended."""
    try:
        lines = (folder / "smaps_rollup").read_text().splitlines()[1:] + (
            folder / "status"
        ).read_text().splitlines()
    except OSError:
        return 0, 0, 0
    found = {
        name: int(rest.split()[0])
        for name, rest in (line.split(":", 1) for line in lines)
        if "kB" in rest
    }
    return (
        found.get("Pss", 0),
        found.get("Pss", 0) - found.get("Pss_File", 0),
        found.get("VmHWM", 0),
    )


def session(folder):
    try:
        return os.getsid(int(folder.name))
    except ProcessLookupError:  # it has just ended
        return None


def write_predictions(task_dir, cases):
    """Predictions for all images of step 02's tables, over those of step 04."""
    train, test = (read_table(task_dir / f"{name}.csv")["image_id"] for name in ("train", "test"))
    folds = read_table(task_dir / "train.csv")["fold"]
    tables = {f"fold{fold}/valid_predictions": train[folds == fold] for fold in range(FOLDS)}
    for name, ids in (tables | {"test_predictions": test}).items():
        for number, first in enumerate(range(0, len(ids), PART)):
            write_part(
                task_dir / RUN / name,
                number,
                [
                    replace(case_of(i, cases).candidates, image_id=i)
                    for i in ids[first : first + PART]
                ],
            )


def memory_row(step, count, sizes, few, judged):
    together, private, single, seconds = sizes
    value = f"{together:.0f} MiB (without files {private:.0f}; the largest process {single:.0f}), {duration(seconds)}"
    target = (f"at most {MOST} times", bool(together <= MOST * few)) if judged else ()
    return Row(f"step {step}, {count:,} images", value, together / few, *target)


def main():
    args = arguments(__doc__, small=300, large=30000, folder="")
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit("stopped")
    )  # so that the folder and the steps go, too
    rng, found = np.random.default_rng(0), {}
    cases = [draw_case(rng, number) for number in range(4 * PART)]
    with tempfile.TemporaryDirectory(dir=args.folder or None) as folder:
        drawn = write_rsna_images(Path(folder) / "dicoms", [0], 8, 256)
        roots = {count: Path(folder) / str(count) for count in (args.small, args.large)}
        for count, root in roots.items():
            link_images(root / "input" / Rsna.slug, drawn, cases, count)
            found["02", count] = run("02_preprocess.py", root)
        few, many = (root / "working" / Rsna.name for root in roots.values())
        run("03_train.py", roots[args.small])
        shutil.copytree(few / RUN, many / RUN)
        for count, root in roots.items():
            found["04", count] = run("04_predict.py", root)
            write_predictions(root / "working" / Rsna.name, cases)
            found["05", count] = run("05_postprocess.py", root)
    show(
        "Peak memory of a step and all its processes (ratio: many images against few)",
        [
            memory_row(step, count, sizes, found[step, args.small][0], count > args.small)
            for (step, count), sizes in sorted(found.items())
        ],
        "sizes from /proc",
    )


if __name__ == "__main__":
    main()
