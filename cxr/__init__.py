"""Chest X-ray competition systems: detection, segmentation and classification.

    import cxr

    run = cxr.open_run("working/rsna/small")
    result = run.predict("scan.dcm")
    print(result.to_dict())
    result.draw("scan.png")

The numbered scripts train such a run. Importing the package loads nothing heavy: what it offers is
loaded when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cxr.images.read import read_image
    from cxr.inference.open_run import open_run
    from cxr.tasks import TASKS

__version__ = "0.2.0"
__all__ = ["TASKS", "__version__", "open_run", "read_image"]


def __getattr__(name: str) -> Any:
    """What needs PyTorch, OpenCV or the presets of all tasks."""
    if name == "open_run":
        from cxr.inference.open_run import open_run  # loads PyTorch

        return open_run
    if name == "read_image":
        from cxr.images.read import read_image  # loads OpenCV and pydicom

        return read_image
    if name == "TASKS":
        from cxr.tasks import TASKS  # loads the presets

        return TASKS
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
