"""Makes the three folders that Kaggle wants: the code and the wheels as data sets, and the kernel.

    python kaggle_kernel/make_kernel.py USER                                  USER is your name in Kaggle's addresses
    python kaggle_kernel/make_kernel.py USER --no-wheels                      only the code or the flags have changed
    python kaggle_kernel/make_kernel.py USER --preset small --max-hours 2     with flags of the steps

Writes working/kaggle/: code/, wheels/, kernel/. README.md beside this file tells what to do with them.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from cxr.config import build_parser, resolve  # noqa: E402  (found through the line above)
from cxr.system.disk import InputError, write_json  # noqa: E402
from cxr.tasks import TASKS  # noqa: E402

CODE = ("0*.py", "cxr", "kaggle_kernel", "requirements.txt", "LICENSE")
CODE_NAME, WHEELS_NAME, KERNEL_NAME = "cxr-code", "cxr-wheels", "cxr-chest-x-rays"
# Kaggle's image: Python 3.12 on Linux. pip must be told, since this script may run elsewhere.
TARGET = [
    "--python-version",
    "3.12",
    "--implementation",
    "cp",
    "--abi",
    "cp312",
    "--abi",
    "abi3",
    "--abi",
    "none",
    "--platform",
    "manylinux_2_28_x86_64",
    "--platform",
    "manylinux_2_27_x86_64",
    "--platform",
    "manylinux2014_x86_64",
    "--platform",
    "any",
]
DOWNLOADED = ("imagenet", "pretrainedmodels")  # values of --weights
SOURCE_ONLY = (
    "pretrainedmodels"  # published without a wheel, which is built here; it is plain Python
)


def write_code(folder, user):
    """The code as a data set, without what Python left lying about."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in (path for pattern in CODE for path in sorted(ROOT.glob(pattern))):
        if path.is_dir():
            shutil.copytree(
                path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__", ".*")
            )
        else:
            shutil.copyfile(path, folder / path.name)
    write_data_set(folder, user, CODE_NAME)


def write_wheels(folder, user, run=subprocess.run):
    folder.mkdir(parents=True, exist_ok=True)
    for command in wheel_commands(folder):
        run([sys.executable, "-m", "pip", *command], check=True)
    write_data_set(folder, user, WHEELS_NAME)


def wheel_commands(folder):
    """Arguments of the pip calls that fill `folder` with everything in wheels.txt."""
    lines = [
        line.split("#")[0].strip()
        for line in (HERE / "wheels.txt").read_text(encoding="utf-8").splitlines()
    ]
    source = [line for line in lines if line.startswith(SOURCE_ONLY)]
    ready = [line for line in lines if line and line not in source]
    return [
        ["download", "--no-deps", "--only-binary=:all:", *TARGET, "--dest", str(folder), *ready],
        ["wheel", "--no-deps", "--wheel-dir", str(folder), *source],
    ]


def write_data_set(folder, user, name):
    metadata = {"title": name, "id": f"{user}/{name}", "licenses": [{"name": "other"}]}
    write_json(folder / "dataset-metadata.json", metadata)


def write_kernel(folder, user, task, flags):
    folder.mkdir(parents=True, exist_ok=True)
    code = (HERE / "kernel.py").read_text(encoding="utf-8")
    line = next(line for line in code.splitlines() if line.startswith("FLAGS = ["))
    code = code.replace(
        line, line.replace("]", "".join(f", {json.dumps(flag)}" for flag in flags) + "]")
    )
    (folder / "kernel.py").write_text(code, encoding="utf-8")
    write_json(folder / "kernel-metadata.json", kernel_metadata(user, task))


def kernel_metadata(user, task):
    """Every field written out: the client's defaults differ from its documentation (internet is on, for one).

    Data that is no competition's is looked for as a data set of the user's own, named by the task's slug.
    """
    own = [f"{user}/{task.slug}"] if task.by_hand else []
    return {
        "id": f"{user}/{KERNEL_NAME}",
        "title": KERNEL_NAME,
        "code_file": "kernel.py",
        "language": "python",
        "kernel_type": "script",
        "is_private": True,
        "enable_gpu": True,
        "enable_tpu": False,
        "enable_internet": False,
        "machine_shape": "NvidiaTeslaT4",
        "dataset_sources": [f"{user}/{CODE_NAME}", f"{user}/{WHEELS_NAME}", *own],
        "competition_sources": [] if own else [task.slug],
        "kernel_sources": [],
        "model_sources": [],
        "keywords": [],
        "docker_image_pinning_type": "latest",
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("user", help="your name in Kaggle's addresses")
    parser.add_argument(
        "--wheels", action=argparse.BooleanOptionalAction, default=True, help="download the wheels"
    )
    parser.add_argument(
        "--output", type=Path, default=ROOT / "working" / "kaggle", help="where to write"
    )
    args, flags = parser.parse_known_args()
    try:
        config = resolve(
            vars(build_parser("").parse_args(flags)),
            {name: task.presets for name, task in TASKS.items()},
        )
    except InputError as error:
        sys.exit(f"error: {error}")
    write_code(args.output / "code", args.user)
    if args.wheels:
        write_wheels(args.output / "wheels", args.user)
    write_kernel(args.output / "kernel", args.user, TASKS[config.task], flags)
    if config.weights in DOWNLOADED:
        print(
            f"NOTE: --weights {config.weights} are downloaded, and the kernel has no internet: name a file in an "
            f"attached data set, or train from random weights, see {HERE / 'README.md'}"
        )
    print(f"wrote {args.output}; {HERE / 'README.md'} tells how to send it to Kaggle")


if __name__ == "__main__":
    main()
