"""All five steps inside a Kaggle kernel without internet; docs/kaggle.md tells how.

Needs, attached and read-only below /kaggle/input: this project's code, its wheels, the
competition's data and, to go on where an earlier session stopped, the output of that session.
Leaves in /kaggle/working: cxr_working/ and, once it is there, submission.csv and report.html.
With --images only step 04 runs, and leaves predicted/.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# A session ends after 12 hours; steps 02, 04 and 05 need some of them.
FLAGS = ["--max-hours", "9"]
DATA_SETS: list[str] = []  # OWNER/SLUG of code and wheels; make_kernel.py writes them here
INPUT = Path(os.environ.get("CXR_KAGGLE_INPUT", "/kaggle/input"))
OUTPUT = Path("cxr_working").absolute()  # a kernel starts in /kaggle/working
STEPS = ("01_download.py", "02_preprocess.py", "03_train.py", "04_predict.py", "05_postprocess.py")
STEP_OF_IMAGES = "04_predict.py"
ON_ALL_GPUS = ("03_train.py", "04_predict.py")
STOPPED = 75  # exit status of step 03 after --max-hours
# <slug>/, datasets/<owner>/<slug>/ and notebooks/<owner>/<slug>/ are all in use.
MOUNTS = ("*/", "*/*/", "*/*/*/")
# Tens of thousands of pictures, which would only slow down the saving of the output.
PICTURES = ("*/images", "pretraining-*/input", "pretraining-*/*/images")
RESULTS = ("submission.csv", "report.html")


def find_attached(pattern: str) -> list[Path]:
    """Paths in the mounted folders that fit a pattern."""
    paths = []
    for mount in MOUNTS:
        paths += sorted(INPUT.glob(mount + pattern))
    return paths


def attach_missing(data_sets: Sequence[str]) -> None:
    """Let kagglehub attach the data sets (OWNER/SLUG) that are no inputs yet, where it can.

    A kernel that make_kernel.py has made has them; a notebook into which this file was copied may
    not.
    """
    # Without this variable kagglehub would download, for which there is no internet.
    if "KAGGLE_DATA_PROXY_URL" not in os.environ or importlib.util.find_spec("kagglehub") is None:
        return
    import kagglehub

    for data_set in data_sets:
        slug = data_set.rpartition("/")[2]
        if (INPUT / slug).exists() or find_attached(slug):
            continue
        try:
            folder = kagglehub.dataset_download(data_set)
        except Exception as error:  # of a package that is not ours, and its server
            print(f"kagglehub cannot attach {data_set} ({error})", flush=True)
        else:
            print(f"kagglehub attached {data_set}: {folder}", flush=True)


def find_code() -> Path:
    """The mounted folder that holds the steps."""
    first_steps = find_attached(STEPS[0])
    if not first_steps:
        sys.exit(
            f"error: no attached data set below {INPUT} holds {STEPS[0]}: attach the code as "
            "docs/kaggle.md tells"
        )
    return first_steps[0].parent


def install_wheels(code: Path) -> None:
    """Install what is missing from the attached wheels, as far as there are any."""
    folders = sorted({wheel.parent for wheel in find_attached("*.whl")})
    if not folders:
        return
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    for folder in folders:
        command += ["--find-links", str(folder)]
    requirements = code / "kaggle_kernel" / "wheels.txt"
    if subprocess.run([*command, "-r", str(requirements)]).returncode:
        sys.exit(
            "error: the attached wheels are not those that this code needs on Python "
            f"{platform.python_version()} (see above): make them anew with make_kernel.py and "
            "upload them, as docs/kaggle.md tells"
        )


def continue_session() -> None:
    """Copy what an earlier session trained and predicted.

    Tables and images are made anew, as the mounts may differ.
    """
    sessions = find_attached(OUTPUT.name)
    if len(sessions) > 1:
        sys.exit(
            f"error: the outputs of {len(sessions)} sessions are attached: attach the last one only"
        )
    if not sessions or OUTPUT.exists():
        return
    session = sessions[0]
    print(f"continuing {session}", flush=True)
    for path in sorted(session.glob("*/*/**/*")):
        if path.is_file():
            target = OUTPUT / path.relative_to(session)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)  # without the mode: the mount's files are read-only


def run_steps(code: Path, flags: Sequence[str]) -> int:
    """Exit status of the first step that does not end well, else 0."""
    steps = (STEP_OF_IMAGES,) if "--images" in flags else STEPS
    for step in steps:
        print(f"\n== {step}", flush=True)
        words = [str(code / step), "--working", str(OUTPUT), *flags]
        gpus = count_gpus() if step in ON_ALL_GPUS else 0
        if gpus > 1:
            status = run_on_gpus(words, gpus)
        else:
            status = subprocess.run([sys.executable, *words]).returncode
        if status:
            return status
    return 0


def count_gpus() -> int:
    """NVIDIA's GPUs of this machine, by its own tool."""
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
    except OSError:
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def run_on_gpus(words: Sequence[str], gpus: int) -> int:
    """Exit status of a script with its flags under torchrun, with a process for each GPU.

    torchrun itself would end with 1 whatever the script says.
    """
    # Only now: PyTorch takes seconds to load.
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    try:
        torchrun(["--standalone", "--nproc-per-node", str(gpus), "--", *words])
    except ChildFailedError as error:
        return error.get_first_failure()[1].exitcode
    return 0


def tidy() -> None:
    """Delete the pictures and put the results at the top of the output."""
    for pattern in PICTURES:
        for folder in OUTPUT.glob(pattern):
            shutil.rmtree(folder)
    for name in RESULTS:
        for path in OUTPUT.glob(f"*/*/{name}"):
            shutil.copyfile(path, name)


def main(flags: Sequence[str]) -> None:
    attach_missing(DATA_SETS)
    code = find_code()
    install_wheels(code)
    continue_session()
    status = run_steps(code, flags)
    tidy()
    if status == STOPPED:
        print(
            "stopped by --max-hours: save this version, attach its output to the kernel and run "
            "again"
        )
    elif status:
        sys.exit(status)


if __name__ == "__main__":
    main(FLAGS)
