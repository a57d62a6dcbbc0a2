"""What a run was made with: versions of the software, the machine, the code's commit."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import subprocess
from pathlib import Path

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


def make_manifest(device: str) -> dict[str, str]:
    """{what: version or words} of this process; `device` as Runtime.describe gives it."""
    manifest = {
        "date": datetime.datetime.now().isoformat(timespec="seconds"),
        "device": device,
        "python": platform.python_version(),
        "system": platform.platform(),
        "git commit": git_commit(),
    }
    for package in PACKAGES:
        manifest[package] = package_version(package)
    return manifest


def package_version(package: str) -> str:
    """Version of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed under this name"


def git_commit() -> str:
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
