"""How tests run the five steps: as processes, or inside this one.

Inside this one where only words and exit status matter.
"""

import hashlib
import io
import os
import runpy
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
STEPS = ("01_download", "02_preprocess", "03_train", "04_predict", "05_postprocess")
SLUG = "rsna-pneumonia-detection-challenge"
# As little as still goes through everything: two folds of 12 images, two epochs of six updates, a
# thin network with an encoder that timm made for tests. On the CPU, where results repeat to the
# last bit.
TINY = (
    *("--run", "tiny", "--folds", "2", "--epochs", "2", "--batch-size", "2", "--keep", "2"),
    *("--encoder", "tu-test_resnet", "--channels", "16", "--workers", "0", "--device", "cpu"),
    *("--engine", "torch"),
)
DEMO = ("--demo", "--demo-images", "24", *TINY)


def command(step, *flags):
    return [sys.executable, str(ROOT / f"{step}.py"), *map(str, flags)]


def run(step, *flags, **options):
    """CompletedProcess of a step, output and errors together as text."""
    return subprocess.run(
        command(step, *flags),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        stdin=subprocess.DEVNULL,
        **options,
    )


def run_here(step, *flags):
    """(exit status, what was printed) of a step inside this process.

    It has imported everything already.
    """
    output = io.StringIO()
    arguments = [f"{step}.py", *map(str, flags)]
    with (
        mock.patch.object(sys, "argv", arguments),
        redirect_stdout(output),
        redirect_stderr(output),
    ):
        try:
            runpy.run_path(str(ROOT / f"{step}.py"), run_name="__main__")
            code = 0
        except SystemExit as stop:
            code = stop.code
    if isinstance(code, str):  # the interpreter prints a text and ends with 1
        return 1, output.getvalue() + code
    return code or 0, output.getvalue()


def digest(folder):
    """{relative path: checksum} of every file."""
    checksums = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = str(path.relative_to(folder))
            checksums[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return checksums


def link_tree(source, target, *left_out):
    """A copy that shares the files.

    The steps replace files and never write into them, so the source stays as it is.
    """
    shutil.copytree(
        source,
        target,
        copy_function=os.link,
        ignore=shutil.ignore_patterns(*left_out),
        dirs_exist_ok=True,
    )
    return target


def copy_of_run(finished, tmp_path, flags):
    """A copy of a task folder whose run `tiny` may be damaged, and the flags that continue it."""
    working = tmp_path / "working"
    task = link_tree(finished.task, working / finished.task.name)
    return SimpleNamespace(
        task=task,
        run=task / "tiny",
        flags=(*flags, "--input", finished.root / "input", "--working", working),
    )


def rewrite(path, content):
    """Replace a file that may be shared with another folder."""
    path.unlink()
    path.write_bytes(content)


def protect(folder):
    """Take away the right to write. Root ignores this, so tests also compare digests."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o222)


def unprotect(folder):
    """Give back the right to change the folders, which is all that replacing and deleting takes."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            path.chmod(path.stat().st_mode | 0o700)
