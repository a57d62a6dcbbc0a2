"""Chest X-ray competition systems: detection, segmentation and classification.

    import cxr

    run = cxr.open_run("working/rsna/small")
    result = run.predict("scan.dcm")
    print(result.to_dict())
    result.draw("scan.png")

The numbered scripts train such a run. Importing the package loads nothing heavy; PyTorch comes with
the first call of `open_run`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from cxr.images.header import Header
    from cxr.inference.open_run import OpenRun
    from cxr.tasks import TASKS

__version__ = "0.2.0"
__all__ = ["TASKS", "__version__", "open_run", "read_image"]


def open_run(
    path: str | Path,
    *,
    fold: int | None = None,
    tta: str | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> OpenRun:
    """A trained run, ready to predict, such as that in working/rsna/small.

    The kept checkpoints of all its folds are merged, with the parameters of step 05 if it was run.
    fold: only this fold, a quarter of the time. tta: views that are merged, such as "none" for the
    plain one; by default those of the run's settings. device: auto, cpu, cuda, cuda:1 or mps.
    precision: auto, fp32, bf16 or fp16. Raises InputError for a folder that is no finished run.
    """
    from cxr.inference import open_run as opening  # PyTorch, for those who predict

    return opening.open_run(path, fold=fold, tta=tta, device=device, precision=precision)


def read_image(path: str | Path) -> tuple[np.ndarray, Header]:
    """Picture (height, width) uint8, bright = dense, of a DICOM, PNG or JPEG file, and its Header.

    Raises InputError, naming the file and the reason, for everything that is not one gray X-ray.
    """
    from cxr.images import read  # OpenCV and pydicom, for those who read files

    return read.read_image(path)


def __getattr__(name: str) -> Any:
    """TASKS, {name: Task}, is loaded when it is asked for."""
    if name == "TASKS":
        from cxr import tasks  # the presets of all tasks

        return tasks.TASKS
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
