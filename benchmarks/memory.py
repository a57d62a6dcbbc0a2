"""Does the memory of steps 02, 04 and 05 stay the same when there are a hundred times as many
images?

    python benchmarks/memory.py                         300 images against 30,000: ten minutes,
                                                        1 GB of disk
    python benchmarks/memory.py --small 30 --large 300  a try of some minutes
    python benchmarks/memory.py --folder /mnt/large     where the data goes for the time being; it
                                                        is removed again

To reach: at most 1.2 times, in all processes of a step together. The steps run as a user runs them,
on a data set of hard links to a few DICOMs. Step 04 predicts all images with a small network; for
step 05 its predictions are replaced by drawn ones, since those of a network that has learned
nothing would be cut off by any threshold. Linux only: sizes come from /proc.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from search import draw_case
from timing import Row, arguments, duration, show

from cxr.data.predictions import PART, write_part
from cxr.data.tables import read_table
from cxr.datasets.phantom.chest import NORMAL, NOT_NORMAL, OPACITY
from cxr.datasets.rsna.dataset import Rsna
from cxr.datasets.rsna.files import TEST_IMAGES, TRAIN_IMAGES
from cxr.datasets.rsna.synthetic import RsnaImage, write_rsna_images, write_rsna_tables
from cxr.methods.detector.records import BoxCase
from cxr.run_folder import TaskFolder

PROJECT = Path(__file__).parents[1]
MOST = 1.2  # times the memory of the few images
INTERVAL = 0.2  # seconds between two looks at the sizes
TEST_SHARE = 10  # one image in ten is a test image, as in the competition
TASK = "rsna"
RUN = "memory"
FOLDS = 2
SMALLEST = (
    "--preset small --encoder tu-mobilenetv3_small_050 --size 64 --image-size 192 --levels 5-6 "
    "--channels 8 --head-convs 1 --epochs 1 --pretrain 0 --tta none --workers 2 "
    f"--run {RUN} --folds {FOLDS}"
)


def link_images(
    folder: Path, drawn: Sequence[RsnaImage], cases: Sequence[BoxCase], count: int
) -> None:
    """A data set of `count` images: links to the DICOMs of `drawn`, boxes and classes that fit
    `cases`."""
    rows: dict[str, list[RsnaImage]] = {TRAIN_IMAGES: [], TEST_IMAGES: []}
    for name in rows:
        (folder / name).mkdir(parents=True)
    for number in range(count):
        source = drawn[number % len(drawn)]
        image_id = f"{number:08x}"
        name = TRAIN_IMAGES if number % TEST_SHARE else TEST_IMAGES
        dicom = folder.parents[2] / "dicoms" / f"{source.image_id}.dcm"
        os.link(dicom, folder / name / f"{image_id}.dcm")

        boxes = case_of(image_id, cases).true.boxes.round()
        image_class = (NORMAL, NOT_NORMAL)[number % 2]
        if len(boxes):
            image_class = OPACITY
        patient = replace(source.patient, patient=number // 2)
        rows[name].append(RsnaImage(image_id, image_class, boxes, patient, source.chest))
    write_rsna_tables(folder, rows[TRAIN_IMAGES], rows[TEST_IMAGES])


def case_of(image_id: str, cases: Sequence[BoxCase]) -> BoxCase:
    return cases[int(image_id, 16) % len(cases)]


# ------------------------------------------------------------------- processes and sizes


@dataclass(frozen=True)
class ProcessSizes:
    """KiB of a process.

    together: PSS, in which a page that several processes share counts once. private: the part of
    it without files, which are mostly libraries. highest: the highest resident set.
    """

    together: int = 0
    private: int = 0
    highest: int = 0


@dataclass(frozen=True)
class StepPeak:
    """Highest MiB of a step: of all its processes together, of these without files, and of the
    largest one; and the step's seconds."""

    together: float
    private: float
    largest: float
    seconds: float


def run_step(step: str, root: Path) -> StepPeak:
    """Run a step, a script of this project, to its end and look at its processes meanwhile.

    The largest process is by VmHWM, since ru_maxrss of a child begins with the memory of the
    process that started it.
    """
    start = time.perf_counter()
    peaks = np.zeros(3)
    log_path = root / f"{step}.log"
    process = start_step(step, root, log_path)
    try:
        while process.poll() is None:
            peaks = np.maximum(peaks, session_sizes(process.pid))
            time.sleep(INTERVAL)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
    if process.returncode:
        log = log_path.read_text(encoding="utf-8")
        sys.exit(f"error: {step} failed:\n{log[-2000:]}")
    together, private, largest = (peaks / 1024).tolist()
    return StepPeak(together, private, largest, time.perf_counter() - start)


def start_step(step: str, root: Path, log_path: Path) -> subprocess.Popen:
    """The step as a session of its own, which prints into a file."""
    command = [sys.executable, step, "--input", str(root / "input")]
    command += ["--working", str(root / "working"), *SMALLEST.split()]
    with open(log_path, "w", encoding="utf-8") as log:
        return subprocess.Popen(
            command, cwd=PROJECT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )


def session_sizes(session: int) -> np.ndarray:
    """KiB (3,) of the processes of a session: the sums of `together` and `private`, the largest
    `highest`."""
    sums = np.zeros(3)
    for folder in Path("/proc").glob("[0-9]*"):
        if session_of(folder) == session:
            sizes = sizes_of(folder)
            sums[0] += sizes.together
            sums[1] += sizes.private
            sums[2] = max(sums[2], sizes.highest)
    return sums


def sizes_of(folder: Path) -> ProcessSizes:
    """Sizes of a process by its folder in /proc; zeros where it has just ended."""
    try:
        memory = (folder / "smaps_rollup").read_text().splitlines()[1:]
        status = (folder / "status").read_text().splitlines()
    except OSError:
        return ProcessSizes()
    sizes = {}
    for line in memory + status:
        name, value = line.split(":", 1)
        if "kB" in value:
            sizes[name] = int(value.split()[0])
    together = sizes.get("Pss", 0)
    private = together - sizes.get("Pss_File", 0)
    return ProcessSizes(together, private, sizes.get("VmHWM", 0))


def session_of(folder: Path) -> int | None:
    """Number of the session of a process; None where it has just ended."""
    try:
        return os.getsid(int(folder.name))
    except ProcessLookupError:
        return None


# -------------------------------------------------------------------------- measurement


def write_predictions(task: TaskFolder, cases: Sequence[BoxCase]) -> None:
    """Predictions for all images of step 02's tables, over those of step 04."""
    run = task.run(RUN)
    train = read_table(task.table("train"))
    test = read_table(task.table("test"))
    for fold in range(FOLDS):
        ids = train["image_id"][train["fold"] == fold]
        write_parts(run.fold(fold).valid_predictions("predictions"), ids.tolist(), cases)
    write_parts(run.test_predictions("predictions"), test["image_id"].tolist(), cases)


def write_parts(folder: Path, ids: Sequence[str], cases: Sequence[BoxCase]) -> None:
    for number, first in enumerate(range(0, len(ids), PART)):
        predictions = []
        for image_id in ids[first : first + PART]:
            candidates = case_of(image_id, cases).candidates
            predictions.append(replace(candidates, image_id=image_id))
        write_part(folder, number, predictions)


def few_row(step: str, count: int, peak: StepPeak) -> Row:
    return Row(f"step {step}, {count:,} images", describe_peak(peak), 1)


def many_row(step: str, count: int, peak: StepPeak, few: StepPeak) -> Row:
    return Row(
        f"step {step}, {count:,} images",
        describe_peak(peak),
        peak.together / few.together,
        f"at most {MOST} times",
        peak.together <= MOST * few.together,
    )


def describe_peak(peak: StepPeak) -> str:
    return (
        f"{peak.together:.0f} MiB (without files {peak.private:.0f}; the largest process "
        f"{peak.largest:.0f}), {duration(peak.seconds)}"
    )


def stop(number: int, frame: object) -> None:
    """End as by an error, so that the folder and the steps go, too."""
    del number, frame
    sys.exit("stopped")


def main() -> None:
    args = arguments(__doc__, small=300, large=30000, folder="")
    signal.signal(signal.SIGTERM, stop)
    rng = np.random.default_rng(0)
    cases = [draw_case(rng, number) for number in range(4 * PART)]
    counts = (args.small, args.large)
    peaks: dict[tuple[str, int], StepPeak] = {}
    with tempfile.TemporaryDirectory(dir=args.folder or None) as folder:
        drawn = write_rsna_images(Path(folder) / "dicoms", [0], 8, 256)
        roots = {count: Path(folder) / str(count) for count in counts}
        tasks = {count: TaskFolder(roots[count] / "working" / TASK) for count in counts}
        for count, root in roots.items():
            link_images(root / "input" / Rsna.slug, drawn, cases, count)
            peaks["02", count] = run_step("02_preprocess.py", root)

        # One training serves both.
        run_step("03_train.py", roots[args.small])
        shutil.copytree(tasks[args.small].run(RUN).path, tasks[args.large].run(RUN).path)
        for count, root in roots.items():
            peaks["04", count] = run_step("04_predict.py", root)
            write_predictions(tasks[count], cases)
            peaks["05", count] = run_step("05_postprocess.py", root)

    rows = []
    for step in ("02", "04", "05"):
        few = peaks[step, args.small]
        rows.append(few_row(step, args.small, few))
        rows.append(many_row(step, args.large, peaks[step, args.large], few))
    show(
        "Peak memory of a step and all its processes (ratio: many images against few)",
        rows,
        "sizes from /proc",
    )


if __name__ == "__main__":
    main()
