"""Does a kill at any moment cost anything?

    python benchmarks/kills.py                          200 kills
    python benchmarks/kills.py --kills 20 --seed 1      others
    python benchmarks/kills.py --minutes 6              as many as fit
    python benchmarks/kills.py --parallel-folds 2       of folds trained side by side, each in a
                                                        process of its own

Runs the five steps on drawn X-rays again and again, with a network so small that the submission has
boxes after seconds. In each round the steps are killed (SIGKILL) up to ten times: half of the kills
hit step 03 after it has saved its state, with two loader workers; the others hit any step at any
moment. A third of the kills hit the step's process alone, so that its workers outlive it, the
others its workers, too. After each kill the same command is run again, and at last until it ends.
Then the weights (every tensor of epoch*.pt and best.pt), params.json, submission.csv and the losses
of log.csv must be those of a run that nobody disturbed.

Prints the kills of each step and what differs, and exits with status 1 where something does.

The steps are forked from this process, which has imported their modules: a kill during the imports
would find nothing to damage, and they take longer than all the rest.
"""

from __future__ import annotations

import argparse
import importlib
import io
import multiprocessing
import os
import runpy
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

# Before torch: forked processes need sums in the same order, and no threads of their parent.
os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from same_results import compare_folders  # noqa: E402

STEPS = ("01_download", "02_preprocess", "03_train", "04_predict", "05_postprocess")
TRAINING = "03_train"
MODULES = (
    "cxr.steps.download.download",
    "cxr.steps.preprocess.preprocess",
    "cxr.steps.train.engine",
    "cxr.steps.predict.predict_run",
    "cxr.steps.predict.predict_images",
    "cxr.steps.postprocess.postprocess",
)
# Two folds of 12 images, 24 updates each, with a state saved after every one of them.
FLAGS = (
    *("--demo", "--demo-images", "24", "--size", "192", "--run", "tiny", "--folds", "2"),
    *("--encoder", "tu-test_resnet", "--channels", "16", "--epochs", "4", "--batch-size", "2"),
    *("--lr", "2e-3", "--ema", "0.8", "--keep", "2", "--save-minutes", "0", "--workers", "2"),
    *("--device", "cpu", "--precision", "fp32"),
)
KILLS_PER_ROUND = 10
MOST_SAVES = 3  # of the state that a kill of step 03 waits for, at most
AFTER_SAVE = 0.3  # seconds until the kill, at most: one to three updates
WHEN = 0.6  # of a step's undisturbed seconds, at most, until it is killed
LONGEST_STEP = 300  # seconds; whoever takes longer hangs
ALONE = 1 / 3  # share of the kills that spare the loader's processes
LOOK = 0.002  # seconds between two looks at the saved state


@dataclass(frozen=True)
class Kill:
    """A kill of a step: at a moment of its time, or after it has saved its state."""

    step: str
    saved: bool

    @property
    def name(self) -> str:
        return f"{self.step}, saved" if self.saved else self.step


@dataclass
class Tally:
    """What was done: kills by name, and those that came after the step's end."""

    kills: Counter[str] = field(default_factory=Counter)
    late: int = 0


class StepFailure(Exception):
    """A step that did not end well, in words."""


@dataclass(frozen=True)
class Place:
    """A folder with the input, the results and the printed lines of one run."""

    folder: Path
    parallel_folds: int = 1

    @property
    def working(self) -> Path:
        return self.folder / "working"

    @property
    def printed(self) -> Path:
        return self.folder / "printed.txt"

    @property
    def flags(self) -> tuple[str, ...]:
        return (
            *FLAGS,
            *("--input", str(self.folder / "input"), "--working", str(self.working)),
            *("--parallel-folds", str(self.parallel_folds)),
        )

    def saved_states(self) -> dict[Path, int]:
        """{last.pt of a fold: number of its file on the disk}, which changes with every save."""
        states = {}
        for path in self.working.glob("*/tiny/fold*/last.pt"):
            with suppress(FileNotFoundError):
                states[path] = path.stat().st_ino
        return states


# ---------------------------------------------------------------------------------- processes


def run_script(step: str, flags: Sequence[str], printed: Path) -> None:
    """In a process of its own: a step as from the command line, its lines added to a file."""
    with open(printed, "a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    script = f"{step}.py"
    sys.argv = [script, *flags]
    runpy.run_path(str(ROOT / script), run_name="__main__")


def start_step(step: str, place: Place) -> BaseProcess:
    """A step that has just begun, in a process group of its own."""
    place.folder.mkdir(parents=True, exist_ok=True)
    fork = multiprocessing.get_context("fork")
    process = fork.Process(target=run_script, args=(step, place.flags, place.printed))
    process.start()
    assert process.pid is not None
    with suppress(ProcessLookupError, PermissionError):
        os.setpgid(process.pid, process.pid)
    return process


def kill_step(process: BaseProcess, alone: bool) -> None:
    """SIGKILL to the process alone, or to its workers, too."""
    assert process.pid is not None
    if alone:
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.join()


def finish_step(step: str, place: Place) -> float:
    """Run a step to its end. Returns its seconds. Raises StepFailure with its last lines."""
    start = time.monotonic()
    process = start_step(step, place)
    process.join(LONGEST_STEP)
    if process.exitcode is None:
        kill_step(process, alone=False)
        raise StepFailure(f"{step} took more than {LONGEST_STEP} seconds{last_lines(place)}")
    if process.exitcode:
        raise StepFailure(f"{step} ended with {process.exitcode}{last_lines(place)}")
    return time.monotonic() - start


def last_lines(place: Place) -> str:
    return ":\n" + place.printed.read_text(encoding="utf-8", errors="replace")[-2000:]


# -------------------------------------------------------------------------------------- kills


def plan_round(kills: int, rng: np.random.Generator) -> list[Kill]:
    """Kills in the order of the steps: half of them in step 03 after a saved state.

    These come before its other kill, which may leave little to train.
    """
    saved = -(-kills // 2)
    planned = [Kill(TRAINING, saved=True)] * saved
    # Every step in turn, from a random one on.
    first = int(rng.integers(len(STEPS)))
    for number in range(kills - saved):
        planned.append(Kill(STEPS[(first + number) % len(STEPS)], saved=False))
    return sorted(planned, key=lambda kill: (kill.step, not kill.saved))


def disturb(kill: Kill, place: Place, seconds: float, rng: np.random.Generator) -> bool:
    """Start a step and kill it. False if it ended before its kill.

    seconds: what the step takes if nobody disturbs it.
    """
    saves = int(rng.integers(1, MOST_SAVES + 1))
    wait = rng.uniform(0, AFTER_SAVE if kill.saved else WHEN * seconds)
    alone = rng.random() < ALONE
    process = start_step(kill.step, place)
    if kill.saved:
        wait_for_saves(process, place, saves)
    process.join(wait)
    if process.exitcode is not None:
        return False
    kill_step(process, alone)
    return True


def wait_for_saves(process: BaseProcess, place: Place, saves: int) -> None:
    """Until the step has saved its state so many times, or has ended."""
    before = place.saved_states()
    start = time.monotonic()
    while saves and process.is_alive() and time.monotonic() - start < LONGEST_STEP:
        time.sleep(LOOK)
        states = place.saved_states()
        if states != before:
            saves -= 1
            before = states


def play_round(
    planned: Sequence[Kill],
    place: Place,
    seconds: dict[str, float],
    rng: np.random.Generator,
    tally: Tally,
) -> None:
    """The five steps with the planned kills. Raises StepFailure for one that does not end well."""
    for step in STEPS:
        for kill in planned:
            if kill.step != step:
                continue
            if disturb(kill, place, seconds[step], rng):
                tally.kills[kill.name] += 1
            else:
                tally.late += 1
        finish_step(step, place)


def differences_of(undisturbed: Place, place: Place) -> list[str]:
    """Of the results of two runs, in words."""
    with redirect_stdout(io.StringIO()):  # the counts of each kind of file
        return compare_folders(undisturbed.working, place.working)


def count_boxes(place: Place) -> int:
    """Rows of the submission that hold boxes."""
    (submission,) = place.working.glob("*/tiny/submission.csv")
    rows = submission.read_text(encoding="utf-8").splitlines()[1:]
    return sum(not row.endswith(",") for row in rows)


# --------------------------------------------------------------------------------------- main


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200, help="number of kills (200)")
    parser.add_argument("--seed", type=int, default=0, help="of the kills' moments (0)")
    parser.add_argument("--parallel-folds", type=int, default=1, help="folds at a time (1)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="no new round later")
    args = parser.parse_args()
    for name in MODULES:
        importlib.import_module(name)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        differs = measure(args, Path(scratch))
    sys.exit(int(differs))


def measure(args: argparse.Namespace, scratch: Path) -> bool:
    """Print what the kills did. True if something differs."""
    start = time.monotonic()
    rng = np.random.default_rng(args.seed)
    undisturbed = Place(scratch / "undisturbed", args.parallel_folds)
    seconds = {step: finish_step(step, undisturbed) for step in STEPS}
    print(
        f"undisturbed: {sum(seconds.values()):.0f} s, {count_boxes(undisturbed)} images with boxes",
        flush=True,
    )

    tally = Tally()
    rounds = 0
    differences: list[str] = []
    ended_well = True
    while ended_well and tally.kills.total() < args.kills:
        if time.monotonic() - start > 60 * args.minutes:
            break
        rounds += 1
        left = args.kills - tally.kills.total()
        place = Place(scratch / f"round{rounds}", args.parallel_folds)
        try:
            planned = plan_round(min(left, KILLS_PER_ROUND), rng)
            play_round(planned, place, seconds, rng, tally)
            differing = differences_of(undisturbed, place)
        except StepFailure as failure:
            # Another round would most likely meet it again.
            ended_well = False
            differing = [str(failure)]
        differences += [f"round {rounds}: {difference}" for difference in differing]
        print(
            f"round {rounds}: {tally.kills.total()} kills after "
            f"{time.monotonic() - start:.0f} s, {len(differing)} differences",
            flush=True,
        )
        shutil.rmtree(place.folder, ignore_errors=True)

    for name, kills in sorted(tally.kills.items()):
        print(f"{name:<17} {kills} kills")
    print(f"{tally.kills.total()} kills in {rounds} runs, {tally.late} more came too late")
    if not count_boxes(undisturbed):
        differences.append("the submission has no boxes, so that it shows little")
    if not differences:
        print("the same to the last bit")
    for difference in differences:
        print(difference)
    return bool(differences)


if __name__ == "__main__":
    main()
