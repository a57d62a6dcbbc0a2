"""What a run was made with."""

import datetime
import importlib.metadata
import platform
import subprocess
from pathlib import Path

from cxr.system.device import describe

PACKAGES = (
    "torch",
    "torchvision",
    "segmentation-models-pytorch",
    "timm",
    "albumentations",
    "opencv-python-headless",
    "pydicom",
    "numpy",
    "pandas",
    "scikit-learn",
    "ensemble-boxes",
)


def manifest(device, precision):
    return {
        "date": datetime.datetime.now().isoformat(timespec="seconds"),
        "device": describe(device, precision),
        "python": platform.python_version(),
        "system": platform.platform(),
        "git commit": git_commit(),
        **{name: version(name) for name in PACKAGES},
    }


def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed under this name"


def git_commit():
    """Commit of the code, or 'unknown' outside a checkout."""
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return result.stdout.strip()
