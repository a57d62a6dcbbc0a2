"""run_all.sh, run_tests.sh and the environment they choose or build, with stand-ins for the steps;
what an installed package needs."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
STEPS = ("01_download", "02_preprocess", "03_train", "04_predict", "05_postprocess")
STUB_STEP = """import os, sys
print("{name}", sys.argv[1:])
sys.exit(int(os.environ.get("STATUS_{name}", 0)))
"""
IMPOSSIBLE = "no-such-package-anywhere>=3"
PROGRAMS = ("python", "python3", "python3.11", "python3.12", "python3.13")

needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


@pytest.fixture
def project(tmp_path):
    """A project whose steps only print their arguments, and that needs nothing but pytest."""
    folder = tmp_path / "a project"
    folder.mkdir()
    for name in ("run_all.sh", "run_tests.sh", "environment.sh"):
        shutil.copy(ROOT / name, folder)
    for name in STEPS:
        (folder / f"{name}.py").write_text(STUB_STEP.format(name=name[:2]))
    write_requirements(folder, "pytest>=7  # a comment\n\n# another\n")
    return folder


def write_requirements(project, text):
    (project / "requirements.txt").write_text(text)


def path_with(folder):
    """PATH with a folder in front."""
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def bash(script, *arguments, active=True, **variables):
    """(exit status, output).

    active: the Python of these tests is the first in PATH, as in an active environment.
    """
    environment = dict(os.environ)
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX", "KAGGLE_KERNEL_RUN_TYPE"):
        environment.pop(name, None)
    if active:
        environment["PATH"] = path_with(Path(sys.executable).parent)
    environment["PIP_NO_INDEX"] = "1"
    done = subprocess.run(
        ["bash", str(script), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd="/",
        env=environment | variables,
    )
    return done.returncode, done.stdout


# ------------------------------------------------------------------------------ run_all.sh


@needs_bash
def test_help_is_the_header():
    status, text = bash(ROOT / "run_all.sh", "--help")
    assert status == 0
    assert "bash run_all.sh --demo" in text
    assert "set -e" not in text
    assert "#" not in text


@needs_bash
def test_all_steps_get_all_flags(project):
    status, text = bash(project / "run_all.sh", "--demo", "--submit", "two words")
    assert status == 0
    printed = [line for line in text.splitlines() if "[" in line]
    assert printed == [f"{name[:2]} ['--demo', '--submit', 'two words']" for name in STEPS]


@needs_bash
def test_no_flags(project):
    status, text = bash(project / "run_all.sh")
    assert status == 0
    assert text.count("[]") == 5


@needs_bash
def test_a_step_that_fails_ends_the_run(project):
    status, text = bash(project / "run_all.sh", STATUS_02="2")
    assert status == 2
    assert "02 []" in text
    assert "03 []" not in text


@needs_bash
def test_training_stopped_in_time_is_no_failure(project):
    status, text = bash(project / "run_all.sh", STATUS_03="75")
    assert status == 0
    assert "run the same command again" in text
    assert "04 []" not in text


def test_status_of_the_time_limit_is_the_same_everywhere():
    from cxr.system.errors import STOPPED

    for name in ("run_all.sh", "kaggle_kernel/kernel.py"):
        assert str(STOPPED) in (ROOT / name).read_text(encoding="utf-8")


# ---------------------------------------------------------------------------- run_tests.sh


@needs_bash
def test_run_tests_passes_arguments_on(project):
    (project / "test_it.py").write_text(
        "import pytest\n\n"
        "def test_a():\n    pass\n\n"
        "def test_b():\n    assert False\n\n"
        "@pytest.mark.slow\ndef test_c():\n    pass\n"
    )
    (project / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    status, text = bash(project / "run_tests.sh", "-k", "test_a")
    assert status == 0
    assert "1 passed" in text
    status, text = bash(project / "run_tests.sh", "test_it.py", "-m", "not slow")
    assert status == 1
    assert "1 failed, 1 passed" in text


# -------------------------------------------------------------------------- environment.sh


@needs_bash
def test_kernel_never_builds(project):
    write_requirements(project, f"{IMPOSSIBLE}\n")
    status, text = bash(project / "run_all.sh", KAGGLE_KERNEL_RUN_TYPE="Batch")
    assert status == 0
    assert "05 []" in text
    assert f"this kernel lacks {IMPOSSIBLE}" in text
    assert not (project / ".venv").exists()


@needs_bash
def test_kernel_needs_what_steps_01_to_05_do(project):
    write_requirements(project, f"pytest>=7\n\n# Beyond steps 01 to 05\n{IMPOSSIBLE}\n")
    status, text = bash(project / "run_all.sh", KAGGLE_KERNEL_RUN_TYPE="Batch")
    assert status == 0
    assert "lacks" not in text
    needed, marker, others = (ROOT / "requirements.txt").read_text().partition("# Beyond steps 01")
    assert marker
    assert "albumentations" in needed
    assert "onnxruntime" in others
    assert "pytest" in others


@needs_bash
def test_real_requirements_are_met_here():
    """The check that run_all.sh does finds every package of these tests' environment."""
    # As in a kernel, so that nothing is built; the check itself is that of any other machine.
    script = (
        f'cd "{ROOT}"; export KAGGLE_KERNEL_RUN_TYPE=Batch; . ./environment.sh; '
        'unset KAGGLE_KERNEL_RUN_TYPE; lacking "$python"'
    )
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": path_with(Path(sys.executable).parent)},
    )
    assert done.stdout == ""
    assert done.returncode == 0


def write_wheel(folder, version):
    """A package without any code, so that an environment can be built without a network."""
    path = folder / f"tiny_package-{version}-py3-none-any.whl"
    info = f"tiny_package-{version}.dist-info"
    files = {
        "tiny_package.py": "",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: tiny-package\nVersion: {version}\n",
        f"{info}/WHEEL": (
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
        f"{info}/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@needs_bash
def test_environment_is_built_once_and_anew_when_requirements_change(project, tmp_path):
    write_requirements(project, f"tiny-package @ {write_wheel(tmp_path, '1.0').as_uri()}\n")
    # Begun and interrupted: there is no pip in it.
    environment = project / ".venv"
    (environment / "bin").mkdir(parents=True)
    base = sys.executable if sys.prefix == sys.base_prefix else "/nowhere"
    (environment / "bin" / "python").symlink_to(base)
    (project / "01_download.py").write_text("import sys, tiny_package\nprint(sys.prefix)\n")
    status, text = bash(project / "run_all.sh")
    assert status == 0, text
    assert "building .venv" in text
    assert str(environment) in text
    assert bash(project / "run_all.sh")[1].count("building") == 0

    write_requirements(project, f"tiny-package @ {write_wheel(tmp_path, '2.0').as_uri()}\n")
    status, text = bash(project / "run_all.sh")
    assert status == 0
    assert "building .venv" in text
    assert list(environment.rglob("tiny_package-2.0.dist-info"))


@needs_bash
def test_packages_that_cannot_be_had(project):
    write_requirements(project, f"{IMPOSSIBLE}\n")
    status, text = bash(project / "run_all.sh", VIRTUAL_ENV="/somewhere")
    assert status == 1
    assert "01 []" not in text
    assert f"the active environment lacks {IMPOSSIBLE}" in text
    assert "could not be installed" in text
    assert not (project / ".venv" / "requirements.cksum").exists()


@needs_bash
def test_python_is_too_old(project, tmp_path):
    """Every name that Python goes by is a Python 3.9 that can only tell its age."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in PROGRAMS:
        (programs / name).write_text("#!/bin/sh\nexit 1\n")
        (programs / name).chmod(0o755)
    write_requirements(project, f"{IMPOSSIBLE}\n")
    status, text = bash(project / "run_all.sh", active=False, PATH=path_with(programs))
    assert status == 1
    assert "error: Python 3.11 or newer is needed" in text
    assert "https://www.python.org" in text


# ----------------------------------------------------------------------------- the package


def read_requirements():
    """{name: version specifier} of requirements.txt."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return versions_of(line.split("#")[0].strip() for line in lines)


def versions_of(lines):
    """{name: version specifier} of requirements, one a line; empty lines are passed over."""
    versions = {}
    for line in lines:
        if line:
            requirement = Requirement(line)
            versions[canonicalize_name(requirement.name)] = requirement.specifier
    return versions


def test_an_installed_package_needs_what_requirements_list(tmp_path):
    """`pip install .` reads the same list: the metadata that setuptools makes says so."""
    pytest.importorskip("setuptools", minversion="68")
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "cxr").mkdir()
    shutil.copy(ROOT / "cxr" / "__init__.py", tmp_path / "cxr")
    code = "from setuptools.build_meta import prepare_metadata_for_build_wheel as make; make('.')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    (info,) = tmp_path.glob("*.dist-info")
    package = metadata.PathDistribution(info)

    from cxr import __version__

    assert package.version == __version__
    always = []
    for line in package.requires:
        if "extra ==" not in line:
            always.append(line)
    assert versions_of(always) == read_requirements()


@pytest.mark.parametrize("extra", ["serve", "export", "dev", "docs"])
def test_extras_are_parts_of_the_requirements(extra):
    with open(ROOT / "pyproject.toml", "rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    assert extras[extra]
    requirements = read_requirements()
    for name, versions in versions_of(extras[extra]).items():
        assert versions == requirements[name], name


def test_dev_is_the_tools_of_the_tests():
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    tools = text.split("# Tools of the tests\n")[1].splitlines()
    with open(ROOT / "pyproject.toml", "rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    assert versions_of(extras["dev"]) == versions_of(line.split("#")[0].strip() for line in tools)
