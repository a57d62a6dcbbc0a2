"""All five steps inside a Kaggle kernel without internet; README.md beside this file tells how to get there.

Needs, attached and read-only below /kaggle/input: this project's code, its wheels, the competition's data and, to go on
where an earlier session stopped, the output of that session. Leaves in /kaggle/working: cxr_working/ and, once it is
there, submission.csv and report.html.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

FLAGS = ["--max-hours", "9"]  # a session ends after 12 hours; steps 02, 04 and 05 need some of them
INPUT = Path(os.environ.get("CXR_KAGGLE_INPUT", "/kaggle/input"))
OUTPUT = Path("cxr_working").absolute()  # a kernel starts in /kaggle/working
STEPS = ("01_download.py", "02_preprocess.py", "03_train.py", "04_predict.py", "05_postprocess.py")
STOPPED = 75  # exit status of step 03 after --max-hours


def attached(pattern):
    """Paths in the mounts that fit: <slug>/, datasets/<owner>/<slug>/ and notebooks/<owner>/<slug>/ are all in use."""
    return [
        path for depth in ("*/", "*/*/", "*/*/*/") for path in sorted(INPUT.glob(depth + pattern))
    ]


def find_code():
    found = attached(STEPS[0])
    if not found:
        sys.exit(
            f"error: no attached data set below {INPUT} holds {STEPS[0]}: attach the code as README.md tells"
        )
    return found[0].parent


def install_wheels(code):
    """Install what is missing from the attached wheels, as far as there are any."""
    folders = {wheel.parent for wheel in attached("*.whl")}
    if folders:
        links = [word for folder in sorted(folders) for word in ("--find-links", str(folder))]
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-index",
                "--no-deps",
                *links,
                "-r",
                str(code / "kaggle_kernel" / "wheels.txt"),
            ],
            check=True,
        )


def continue_session():
    """Copy what an earlier session trained and predicted; tables and images are made anew, as the mounts may differ."""
    found = attached(OUTPUT.name)
    if len(found) > 1:
        sys.exit(
            f"error: the outputs of {len(found)} sessions are attached: attach the last one only"
        )
    if not found or OUTPUT.exists():
        return
    print(f"continuing {found[0]}", flush=True)
    for path in sorted(found[0].glob("*/*/**/*")):
        target = OUTPUT / path.relative_to(found[0])
        if path.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)  # without the mode: the mount's files are read-only


def run_steps(code, flags):
    """Exit status of the first step that does not end well, else 0."""
    for step in STEPS:
        print(f"\n== {step}", flush=True)
        status = subprocess.run(
            [sys.executable, str(code / step), "--working", str(OUTPUT), *flags]
        ).returncode
        if status:
            return status
    return 0


def tidy():
    """Tens of thousands of pictures would only slow down the saving of the output; results go to its top."""
    for pattern in ("*/images", "pretraining-*/input", "pretraining-*/*/images"):
        for folder in OUTPUT.glob(pattern):
            shutil.rmtree(folder)
    for name in ("submission.csv", "report.html"):
        for path in OUTPUT.glob(f"*/*/{name}"):
            shutil.copyfile(path, name)


def main(flags):
    code = find_code()
    install_wheels(code)
    continue_session()
    status = run_steps(code, flags)
    tidy()
    if status == STOPPED:
        print(
            "stopped by --max-hours: save this version, attach its output to the kernel and run again"
        )
    elif status:
        sys.exit(status)


if __name__ == "__main__":
    main(FLAGS)
