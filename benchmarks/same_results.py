"""Are the results of two states of this project the same to the last bit?

    python benchmarks/same_results.py ../before .               runs the demo in two checkouts
    python benchmarks/same_results.py ../before . --epochs 2    with further flags of the steps
    python benchmarks/same_results.py old/rsna/demo new/rsna/demo
                                                                looks at two finished runs

A checkout is a folder with run_all.sh; its demo is run from nothing, by the Python of this script
where that has what the checkout needs, in a folder that is removed afterwards. Anything else is a
finished working folder, or a folder in it; the runs in both are compared by their place in them.

Compared are the weights (every tensor of epoch*.pt and best.pt), params.json, submission.csv and
the columns of log.csv that hold losses. Prints what is the same, or the first difference of each
file, and exits with status 1 where there is one. The same bits need the same machine, number of
threads and versions of the packages: OMP_NUM_THREADS=1 where one of the checkouts is older than
--parallel-folds, which gives each fold its share of the cores.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LOSSES = ("train_", "valid_")  # how such columns of log.csv begin
START = "run_all.sh"  # what makes a folder a checkout

# The first difference of two files in words, "" where there is none.
Compare = Callable[[Path, Path], str]


# ------------------------------------------------------------------------- kinds of files


def compare_weights(old: Path, new: Path) -> str:
    """Of two checkpoints, whose settings may be written down in other ways."""
    old_tensors = read_weights(old)
    new_tensors = read_weights(new)
    missing = first_missing(old_tensors, new_tensors)
    if missing:
        return missing
    for name, old_tensor in old_tensors.items():
        difference = compare_tensors(old_tensor, new_tensors[name])
        if difference:
            return f"{name} {difference}"
    return ""


def read_weights(path: Path) -> dict[str, Tensor]:
    return torch.load(path, map_location="cpu", weights_only=True)["model"]


def compare_tensors(old: Tensor, new: Tensor) -> str:
    """By their bits, so that nan equals itself and 0 is not -0."""
    if old.dtype != new.dtype:
        return f"is {old.dtype} and {new.dtype}"
    if old.shape != new.shape:
        return f"has the shapes {tuple(old.shape)} and {tuple(new.shape)}"
    differs = (bytes_of(old) != bytes_of(new)).any(1)
    if not differs.any():
        return ""
    first = int(differs.nonzero()[0])
    old_value = old.flatten()[first].item()
    new_value = new.flatten()[first].item()
    return (
        f"differs in {int(differs.sum())} of {old.numel()} numbers, the first is number {first}: "
        f"{old_value} and {new_value}"
    )


def bytes_of(tensor: Tensor) -> Tensor:
    """(numbers, bytes of one) uint8."""
    flat = tensor.contiguous().flatten()
    return flat.view(torch.uint8).reshape(len(flat), tensor.element_size())


def compare_params(old: Path, new: Path) -> str:
    """Of two JSON files that hold a dictionary."""
    old_values = read_params(old)
    new_values = read_params(new)
    return first_missing(old_values, new_values) or first_change(old_values, new_values)


def read_params(path: Path) -> dict[str, str]:
    """{name: value in JSON's words}, so that nan equals itself and 0 is not -0."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return {name: json.dumps(value) for name, value in content.items()}


def compare_lines(old: Path, new: Path) -> str:
    """Of two text files."""
    old_lines = old.read_bytes().splitlines(keepends=True)
    new_lines = new.read_bytes().splitlines(keepends=True)
    if len(old_lines) != len(new_lines):
        return f"has {len(old_lines)} and {len(new_lines)} lines"
    for number, (old_line, new_line) in enumerate(zip(old_lines, new_lines, strict=True), 1):
        if old_line != new_line:
            return f"line {number} is {old_line!r} and {new_line!r}"
    return ""


def compare_losses(old: Path, new: Path) -> str:
    """Of two log.csv: the columns of losses in every epoch, as they are written."""
    old_rows = read_losses(old)
    new_rows = read_losses(new)
    if len(old_rows) != len(new_rows):
        return f"has {len(old_rows)} and {len(new_rows)} epochs"
    for epoch, (old_row, new_row) in enumerate(zip(old_rows, new_rows, strict=True), 1):
        difference = first_missing(old_row, new_row) or first_change(old_row, new_row)
        if difference:
            return f"epoch {epoch}: {difference}"
    return ""


def read_losses(path: Path) -> list[dict[str, str]]:
    """{column: text} of each epoch."""
    rows = []
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows.append({name: text for name, text in row.items() if name.startswith(LOSSES)})
    return rows


def first_missing(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The first name that one of both lacks."""
    for name in old:
        if name not in new:
            return f"{name} is in the old one only"
    for name in new:
        if name not in old:
            return f"{name} is in the new one only"
    return ""


def first_change(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """The first name whose texts differ."""
    for name, value in old.items():
        if new[name] != value:
            return f"{name} is {value} and {new[name]}"
    return ""


# {pattern of files in a working folder: how they are compared}
COMPARISONS: dict[str, Compare] = {
    "epoch*.pt": compare_weights,
    "best.pt": compare_weights,
    "params.json": compare_params,
    "submission.csv": compare_lines,
    "log.csv": compare_losses,
}


# ------------------------------------------------------------------------------- folders


def compare_folders(old: Path, new: Path) -> list[str]:
    """Differences of two folders in words; prints the number of files of a kind that are the
    same."""
    differences = []
    for pattern, compare in COMPARISONS.items():
        old_names = find_names(old, pattern)
        new_names = find_names(new, pattern)
        differences += [f"{name} is in {old} only" for name in sorted(old_names - new_names)]
        differences += [f"{name} is in {new} only" for name in sorted(new_names - old_names)]
        same = 0
        for name in sorted(old_names & new_names):
            difference = compare(old / name, new / name)
            if difference:
                differences.append(f"{name}: {difference}")
            else:
                same += 1
        print(f"{pattern:<15} {same} the same of {len(old_names | new_names)}")
    return differences


def find_names(folder: Path, pattern: str) -> set[str]:
    """Paths of such files as seen from the folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob(pattern)}


def results_of(folder: Path, flags: Sequence[str], scratch: Path) -> Path:
    """The finished working folder: of the checkout's demo, or the folder itself."""
    if not (folder / START).is_file():
        return folder
    working = scratch / "working"
    command = ["bash", START, "--demo", "--input", str(scratch / "input")]
    command += ["--working", str(working), *flags]
    this_python = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{this_python}{os.pathsep}{os.environ['PATH']}"}
    print(f"running the demo of {folder}", flush=True)
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        sys.exit(f"error: the demo of {folder} failed:\n{done.stdout[-2000:]}")
    return working


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s OLD NEW [flags]",
        allow_abbrev=False,
    )
    parser.add_argument("old", type=Path, metavar="OLD", help="a checkout or a finished folder")
    parser.add_argument("new", type=Path, metavar="NEW", help="another one")
    args, flags = parser.parse_known_args()
    for folder in (args.old, args.new):
        if not folder.is_dir():
            sys.exit(f"error: {folder} is no folder: name a checkout or a finished working folder")

    with tempfile.TemporaryDirectory() as scratch:
        old = results_of(args.old, flags, Path(scratch) / "old")
        new = results_of(args.new, flags, Path(scratch) / "new")
        differences = compare_folders(old, new)
        if not find_names(old, "epoch*.pt"):
            differences.append(f"{old} has no checkpoints: there is nothing to compare")
    if differences:
        print("\n".join(differences))
        sys.exit(1)
    print("the same to the last bit")


if __name__ == "__main__":
    main()
