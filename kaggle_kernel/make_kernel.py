"""Makes the three folders that Kaggle wants: the code and the wheels as data sets, and the kernel.

    python kaggle_kernel/make_kernel.py USER              USER is your name in Kaggle's addresses
    python kaggle_kernel/make_kernel.py USER --no-wheels  only the code or the flags have changed
    python kaggle_kernel/make_kernel.py USER --preset small --max-hours 2   with flags of the steps

Writes working/kaggle/: code/, wheels/, kernel/. docs/kaggle.md tells what to do with them.
"""

from __future__ import annotations

import argparse
import json
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
from cxr.system.disk import write_json  # noqa: E402
from cxr.system.errors import InputError  # noqa: E402

CODE = ("0*.py", "cxr", "kaggle_kernel", "requirements.txt", "LICENSE")
CODE_NAME = "cxr-code"
WHEELS_NAME = "cxr-wheels"
KERNEL_NAME = "cxr-chest-x-rays"
# Of Kaggle's image and of Colab's, its base, both Linux. pip must be told, since this script may
# run elsewhere; in the kernel it picks the wheels that fit.
PYTHON_VERSIONS = ("3.12", "3.13")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux2014_x86_64", "any")
DOWNLOADED = ("imagenet", "pretrainedmodels")  # values of --weights


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
    script = (HERE / "kernel.py").read_text(encoding="utf-8")
    old_line = next(line for line in script.splitlines() if line.startswith("FLAGS = ["))
    further_flags = "".join(f", {json.dumps(flag)}" for flag in flags)
    new_line = old_line.replace("]", f"{further_flags}]")
    script = script.replace(old_line, new_line)
    (folder / "kernel.py").write_text(script, encoding="utf-8")
    metadata = kernel_metadata(user, slug, on_kaggle)
    write_json(folder / "kernel-metadata.json", metadata)


def kernel_metadata(user: str, slug: str, on_kaggle: bool) -> dict[str, Any]:
    """Every field, written out.

    The client's defaults differ from its documentation (internet is on, for one). Data that is no
    competition's (`on_kaggle` False) is looked for as a data set of the user's own, named by its
    slug.
    """
    data_sets = [f"{user}/{CODE_NAME}", f"{user}/{WHEELS_NAME}"]
    competitions = []
    if on_kaggle:
        competitions.append(slug)
    else:
        data_sets.append(f"{user}/{slug}")
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
        task, settings = read_command_line("train", "", flags)
    except InputError as error:
        sys.exit(f"error: {error}")

    write_code(arguments.output / "code", arguments.user)
    if arguments.wheels:
        write_wheels(arguments.output / "wheels", arguments.user)
    dataset = task.dataset
    kernel_folder = arguments.output / "kernel"
    write_kernel(kernel_folder, arguments.user, dataset.slug, flags, not dataset.by_hand)

    weights = settings.training.weights
    if weights in DOWNLOADED:
        print(
            f"NOTE: --weights {weights} are downloaded, and the kernel has no internet: take those "
            "that come with the wheels, name a file in an attached data set, or train from random "
            f"weights, see {GUIDE}"
        )
    print(f"wrote {arguments.output}; {GUIDE} tells how to send it to Kaggle")


if __name__ == "__main__":
    main()
