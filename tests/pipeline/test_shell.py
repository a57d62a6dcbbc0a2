"""run_all.sh, run_tests.sh and the environment they choose or build, with stand-ins for the steps."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STEPS = ("01_download", "02_preprocess", "03_train", "04_predict", "05_postprocess")
STEP = 'import os, sys\nprint("{name}", sys.argv[1:])\nsys.exit(int(os.environ.get("STATUS_{name}", 0)))\n'

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


@pytest.fixture
def project(tmp_path):
    """A project whose steps only print their arguments, and that needs nothing but pytest."""
    folder = tmp_path / "a project"
    folder.mkdir()
    for name in ("run_all.sh", "run_tests.sh", "environment.sh"):
        shutil.copy(ROOT / name, folder)
    for name in STEPS:
        (folder / f"{name}.py").write_text(STEP.format(name=name[:2]))
    (folder / "requirements.txt").write_text("pytest>=7  # a comment\n\n# another\n")
    return folder


def bash(script, *arguments, active=True, **variables):
    """(exit status, output). active: the Python of these tests is the first in PATH, as in an active environment."""
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("VIRTUAL_ENV", "CONDA_PREFIX", "KAGGLE_KERNEL_RUN_TYPE")
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", str(script), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd="/",
        env=environment | ({"PATH": path} if active else {}) | {"PIP_NO_INDEX": "1"} | variables,
    )
    return done.returncode, done.stdout


def test_help_is_the_header():
    status, text = bash(ROOT / "run_all.sh", "--help")
    assert status == 0 and "bash run_all.sh --demo" in text
    assert "set -e" not in text and "#" not in text


def test_all_steps_get_all_flags(project):
    status, text = bash(project / "run_all.sh", "--demo", "--submit", "two words")
    assert status == 0
    assert [line for line in text.splitlines() if "[" in line] == [
        f"{name[:2]} ['--demo', '--submit', 'two words']" for name in STEPS
    ]


def test_no_flags(project):
    status, text = bash(project / "run_all.sh")
    assert status == 0 and text.count("[]") == 5


def test_a_step_that_fails_ends_the_run(project):
    status, text = bash(project / "run_all.sh", STATUS_02="2")
    assert status == 2 and "02 []" in text and "03 []" not in text


def test_training_stopped_in_time_is_no_failure(project):
    status, text = bash(project / "run_all.sh", STATUS_03="75")
    assert status == 0 and "run the same command again" in text and "04 []" not in text


def test_status_of_the_time_limit_is_the_one_in_config():
    from_config = (ROOT / "cxr" / "config.py").read_text(encoding="utf-8")
    assert "\nSTOPPED = 75 " in from_config
    for name in ("run_all.sh", "kaggle_kernel/kernel.py"):
        assert "75" in (ROOT / name).read_text(encoding="utf-8")


def test_run_tests_passes_arguments_on(project):
    (project / "test_it.py").write_text(
        "def test_a():\n    pass\n\ndef test_b():\n    assert False\n"
    )
    status, text = bash(project / "run_tests.sh", "-k", "test_a")
    assert status == 0 and "1 passed" in text
    status, text = bash(project / "run_tests.sh", "test_it.py")
    assert status == 1 and "1 failed, 1 passed" in text


def test_kernel_never_builds(project):
    (project / "requirements.txt").write_text("no-such-package-anywhere>=3\n")
    status, text = bash(project / "run_all.sh", KAGGLE_KERNEL_RUN_TYPE="Batch")
    assert (
        status == 0 and "05 []" in text and "this kernel lacks no-such-package-anywhere>=3" in text
    )
    assert not (project / ".venv").exists()


def test_real_requirements_are_met_here():
    """The check that run_all.sh does finds every package of these tests' environment."""
    script = f'cd "{ROOT}"; KAGGLE_KERNEL_RUN_TYPE=Batch; . ./environment.sh; lacking "$python"'
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
    )
    assert done.stdout == "" and done.returncode == 0


def wheel(folder, version):
    """A package without any code, so that an environment can be built without a network."""
    path = folder / f"tiny_package-{version}-py3-none-any.whl"
    info = f"tiny_package-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_package.py", "")
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny-package\nVersion: {version}\n"
        )
        archive.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


def test_environment_is_built_once_and_anew_when_requirements_change(project, tmp_path):
    requirements = project / "requirements.txt"
    requirements.write_text(f"tiny-package @ {wheel(tmp_path, '1.0').as_uri()}\n")
    (project / ".venv" / "bin").mkdir(parents=True)  # begun and interrupted: there is no pip in it
    (project / ".venv" / "bin" / "python").symlink_to(
        sys.executable if sys.prefix == sys.base_prefix else "/nowhere"
    )
    (project / "01_download.py").write_text("import sys, tiny_package\nprint(sys.prefix)\n")
    status, text = bash(project / "run_all.sh")
    assert status == 0 and "building .venv" in text and str(project / ".venv") in text, text
    assert bash(project / "run_all.sh")[1].count("building") == 0
    requirements.write_text(f"tiny-package @ {wheel(tmp_path, '2.0').as_uri()}\n")
    status, text = bash(project / "run_all.sh")
    assert status == 0 and "building .venv" in text
    assert list((project / ".venv").rglob("tiny_package-2.0.dist-info"))


def test_packages_that_cannot_be_had(project):
    (project / "requirements.txt").write_text("no-such-package-anywhere>=3\n")
    status, text = bash(project / "run_all.sh", VIRTUAL_ENV="/somewhere")
    assert status == 1 and "01 []" not in text
    assert "the active environment lacks no-such-package-anywhere>=3" in text
    assert "could not be installed" in text
    assert not (project / ".venv" / "requirements.cksum").exists()


def test_python_is_too_old(project, tmp_path):
    """Every name that Python goes by is a Python 3.9 that can only tell its age."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("python", "python3", "python3.11", "python3.12", "python3.13"):
        (programs / name).write_text("#!/bin/sh\nexit 1\n")
        (programs / name).chmod(0o755)
    (project / "requirements.txt").write_text("no-such-package-anywhere>=3\n")
    status, text = bash(
        project / "run_all.sh", active=False, PATH=f"{programs}{os.pathsep}{os.environ['PATH']}"
    )
    assert (
        status == 1
        and "error: Python 3.11 or newer is needed" in text
        and "https://www.python.org" in text
    )
