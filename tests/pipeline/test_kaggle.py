"""The project inside an imitated Kaggle kernel.

Its mounts are only read, there is no internet, and sessions end too early.
"""

import ast
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import zipfile

import pandas as pd
import pytest
import torch
from steps import ROOT, SLUG, TINY, digest, link_tree, protect, unprotect

from cxr.tasks import TASKS

MAKE = ROOT / "kaggle_kernel" / "make_kernel.py"


def make(folder, *flags):
    return subprocess.run(
        [sys.executable, str(MAKE), "someone", "--no-wheels", "--output", str(folder), *flags],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def make_kernel_names():
    """Functions and constants of make_kernel.py."""
    return runpy.run_path(str(MAKE), run_name="make_kernel")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    done = make(folder, "--preset", "demo", *TINY)
    assert done.returncode == 0, done.stderr
    return folder


def test_kernel_metadata_is_written_out(built):
    metadata = json.loads((built / "kernel" / "kernel-metadata.json").read_text())
    assert metadata["enable_internet"] is False
    assert metadata["enable_gpu"] is True
    assert metadata["is_private"] is True
    assert metadata["competition_sources"] == [SLUG]
    assert metadata["id"] == f"someone/{metadata['title']}"
    assert len(metadata["title"]) >= 5
    assert (built / "kernel" / metadata["code_file"]).is_file()
    uploaded = json.loads((built / "code" / "dataset-metadata.json").read_text())
    assert uploaded["id"] in metadata["dataset_sources"]
    documented = {
        "id",
        "title",
        "code_file",
        "language",
        "kernel_type",
        "is_private",
        "enable_gpu",
        "enable_tpu",
        "enable_internet",
        "machine_shape",
        "dataset_sources",
        "competition_sources",
        "kernel_sources",
        "model_sources",
        "keywords",
        "docker_image_pinning_type",
    }
    assert metadata.keys() == documented


def test_kaggle_client_accepts_the_kernel(built, monkeypatch):
    """The client's own checks, up to the request that it would send."""
    extended = pytest.importorskip("kaggle.api.kaggle_api_extended")
    sent = []

    class Stop(Exception):
        pass

    def stop(_):
        sent.append(True)
        raise Stop

    monkeypatch.setattr(extended.KaggleApi, "build_kaggle_client", stop)
    with pytest.raises(Stop):
        extended.KaggleApi().kernels_push(str(built / "kernel"))
    assert sent


def test_code_data_set_is_whole_and_clean(built):
    code = built / "code"
    paths = [*ROOT.glob("0*.py"), ROOT / "kaggle_kernel" / "wheels.txt"]
    for ending in ("py", "jinja", "txt"):
        paths += (ROOT / "cxr").rglob(f"*.{ending}")
    for path in paths:
        assert (code / path.relative_to(ROOT)).read_bytes() == path.read_bytes()
    assert not list(code.rglob("__pycache__"))
    assert not list(code.rglob("*.pyc"))


def test_flags_are_added_to_the_kernel(built):
    code = (built / "kernel" / "kernel.py").read_text()
    assignments = [node for node in ast.parse(code).body if isinstance(node, ast.Assign)]
    assert assignments[0].targets[0].id == "FLAGS"
    assert ast.literal_eval(assignments[0].value) == ["--max-hours", "9", "--preset", "demo", *TINY]


@pytest.mark.parametrize(
    "flags, warned", [([], True), (["--preset", "small"], False), (["--weights", "w.pth"], False)]
)
def test_weights_that_a_kernel_cannot_download(tmp_path, flags, warned):
    done = make(tmp_path / "out", *flags)
    assert done.returncode == 0, done.stderr
    assert ("the kernel has no internet" in done.stdout) == warned


@pytest.mark.parametrize(
    "flags, status, words",
    [
        (["--no-such-flag"], 1, "--no-such-flag"),
        (["--epochs", "many"], 2, "--epochs"),
        (["--preset", "big"], 1, "unknown --preset big"),
    ],
)
def test_wrong_flags_are_refused_before_the_upload(tmp_path, flags, status, words):
    done = make(tmp_path / "out", *flags)
    assert done.returncode == status
    assert words in done.stderr
    assert not (tmp_path / "out").exists()


def read_requirements(path):
    """{name: the whole line, without its comment}."""
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    return {re.split("[<>=]", line)[0]: line for line in lines if line}


WHEELS = read_requirements(ROOT / "kaggle_kernel" / "wheels.txt")


def test_wheels_agree_with_the_requirements():
    requirements = read_requirements(ROOT / "requirements.txt")
    shared = WHEELS.keys() & requirements.keys()
    assert len(shared) >= 8
    for name in shared:
        assert WHEELS[name] == requirements[name]


def test_wheels_are_what_steps_01_to_05_need():
    needed = (ROOT / "requirements.txt").read_text().partition("# Beyond steps 01 to 05")[0]
    others = read_requirements(ROOT / "requirements.txt").keys() - WHEELS.keys()
    assert not {name for name in WHEELS if name in others}
    for name in ("torch", "numpy", "pandas", "scikit-learn", "opencv-python-headless"):
        assert name in others
        assert name in needed, "the image has it"


def test_wheels_are_downloaded_for_the_images_and_not_for_this_machine(tmp_path):
    commands = []

    def run(command, check):
        assert check
        commands.append(command)

    make_kernel_names()["write_wheels"](tmp_path / "wheels", "someone", run=run)
    assert len(commands) == 2
    for command, version in zip(commands, ("3.12", "3.13"), strict=True):
        assert command[1:4] == ["-m", "pip", "download"]
        assert "--only-binary=:all:" in command
        assert command[command.index("--python-version") + 1] == version
        assert f"cp{version.replace('.', '')}" in command
        assert "manylinux2014_x86_64" in command
        assert command[-2:] == ["-r", str(ROOT / "kaggle_kernel" / "wheels.txt")]


@pytest.fixture
def kernel():
    """Functions and constants of kernel.py."""
    return runpy.run_path(str(ROOT / "kaggle_kernel" / "kernel.py"), run_name="kernel")


def test_an_installation_that_fails_is_a_sentence(kernel, tmp_path):
    """Here the wheels are those of another Python, and the code wants more."""
    wheels = tmp_path / "cxr-wheels"
    wheels.mkdir()
    (wheels / "gdcm-3.0-cp26-cp26-any.whl").touch()
    code = tmp_path / "cxr-code"
    (code / "kaggle_kernel").mkdir(parents=True)
    (code / "kaggle_kernel" / "wheels.txt").write_text("no-such-package-anywhere>=3\n")
    install_wheels = kernel["install_wheels"]
    install_wheels.__globals__["INPUT"] = tmp_path
    with pytest.raises(SystemExit, match=r"error: the attached wheels are not .* docs/kaggle.md"):
        install_wheels(code)


def test_gpus_are_counted_by_nvidias_tool(kernel, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert kernel["count_gpus"]() == 0
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\necho 'GPU 0: Tesla T4 (UUID: a)'\necho 'GPU 1: Tesla T4 (UUID: b)'\n"
    )
    tool.chmod(0o755)
    assert kernel["count_gpus"]() == 2


def test_two_gpus_share_a_step_whose_status_is_kept(kernel, tmp_path, monkeypatch):
    """--run is a flag of the step, and 75 says that it was stopped by --max-hours."""
    script = tmp_path / "03_train.py"
    script.write_text(
        "import os, pathlib, sys\n"
        "name = '-'.join([os.environ['RANK'], os.environ['WORLD_SIZE'], *sys.argv[1:]])\n"
        f"pathlib.Path({str(tmp_path)!r}, name).touch()\n"
        "sys.exit(75)\n"
    )
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert kernel["run_on_gpus"]([str(script), "--run", "a"], 2) == kernel["STOPPED"]
    assert {path.name for path in tmp_path.glob("*-2-*")} <= {"0-2---run-a", "1-2---run-a"}


class Kernel:
    """A kernel's folders: mounts that are only read, and /kaggle/working."""

    def __init__(self, root, pipeline, code, layout):
        self.root = root
        self.input = root / "input"
        if layout == "new":
            owner = self.input / "datasets" / "someone"
            data = self.input / "competitions" / SLUG
        else:
            owner = self.input
            data = self.input / SLUG
        link_tree(pipeline.source, data)
        shutil.copytree(code, owner / "cxr-code")
        (owner / "cxr-wheels").mkdir()
        # What is in wheels.txt is installed already, so pip only looks at the folder.
        with zipfile.ZipFile(owner / "cxr-wheels" / "nothing-1.0-py3-none-any.whl", "w"):
            pass
        protect(self.input)

    def attach_output(self, session):
        unprotect(self.input)
        notebook = self.input / "notebooks" / "someone" / "kernel"
        shutil.copytree(session / "cxr_working", notebook / "cxr_working")
        protect(self.input)

    def run(self, script, session, *flags):
        """CompletedProcess of the kernel's script in /kaggle/working of a new session."""
        session.mkdir()
        code = script.read_text()
        if flags:
            line = next(line for line in code.splitlines() if line.startswith("FLAGS = "))
            further_flags = "".join(f', "{flag}"' for flag in flags)
            code = code.replace(line, line.replace("]", f"{further_flags}]"))
        (self.root / "script.py").write_text(code)
        environment = os.environ | {
            "CXR_KAGGLE_INPUT": str(self.input),
            "KAGGLE_KERNEL_RUN_TYPE": "Batch",
            "PIP_DRY_RUN": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "http_proxy": "http://127.0.0.1:9",
            "https_proxy": "http://127.0.0.1:9",
        }
        return subprocess.run(
            [sys.executable, str(self.root / "script.py")],
            cwd=session,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )


def test_pictures_are_no_output(kernel, tmp_path):
    """Nor those of first lessons, whose weights the next session needs."""
    lessons = tmp_path / "pretraining-40-256"
    kept = [tmp_path / "rsna/train.csv", lessons / "rsna/net/fold0/epoch007.pt"]
    gone = [
        tmp_path / "rsna/images/a.png",
        lessons / "rsna/images/b.png",
        lessons / "input/slug/c.dcm",
    ]
    for path in (*kept, *gone):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    kernel["tidy"].__globals__["OUTPUT"] = tmp_path
    kernel["tidy"]()
    assert all(path.exists() for path in kept)
    assert not any(path.exists() for path in gone)


def test_two_sessions_make_what_one_run_makes(pipeline, built, tmp_path):
    """Stopped by --max-hours in the first session, continued in the second.

    The mounts stay as they are.
    """
    kernel = Kernel(tmp_path, pipeline, built / "code", "new")
    script = built / "kernel" / "kernel.py"
    first = tmp_path / "first"
    second = tmp_path / "second"
    mounts = digest(kernel.input)
    done = kernel.run(script, first, "--max-hours", "0.00001")
    assert done.returncode == 0, done.stdout
    assert "stopped by --max-hours: save this version" in done.stdout
    assert "nothing to download" in done.stdout
    task = first / "cxr_working" / "rsna"
    assert (task / "tiny" / "fold0" / "last.pt").exists()
    assert not (first / "submission.csv").exists()
    assert not (task / "images").exists()
    assert digest(kernel.input) == mounts

    kernel.attach_output(first)
    mounts = digest(kernel.input)
    done = kernel.run(script, second)
    assert done.returncode == 0, done.stdout
    assert "fold 0: goes on at epoch 1" in done.stdout
    assert digest(kernel.input) == mounts
    assert "score 0." in done.stdout
    submission = pd.read_csv(second / "submission.csv")
    expected = pd.read_csv(pipeline.run / "submission.csv")
    assert submission.patientId.tolist() == expected.patientId.tolist()
    assert "<html" in (second / "report.html").read_text(encoding="utf-8")
    for fold in (0, 1):
        interrupted = read_weights(second / "cxr_working" / "rsna" / "tiny", fold)
        uninterrupted = read_weights(pipeline.run, fold)
        for name, weights in uninterrupted.items():
            assert torch.equal(interrupted[name], weights), name


def read_weights(run, fold):
    return torch.load(run / f"fold{fold}" / "epoch002.pt", weights_only=True)["model"]


def test_old_layout_of_the_mounts(pipeline, built, tmp_path):
    """Steps 01 and 02; what comes after them reads no mounts."""
    kernel = Kernel(tmp_path, pipeline, built / "code", "old")
    mounts = digest(kernel.input)
    done = kernel.run(built / "kernel" / "kernel.py", tmp_path / "session", "--device", "abacus")
    assert "to look at the data" in done.stdout, done.stdout
    assert "--device abacus is unknown" in done.stdout
    assert done.returncode == 1  # of step 03: a step that fails makes the session fail
    task = tmp_path / "session" / "cxr_working" / "rsna"
    assert len(pd.read_csv(task / "train.csv")) == 24
    assert digest(kernel.input) == mounts


def test_kernel_without_its_inputs(pipeline, built, tmp_path):
    kernel = Kernel(tmp_path, pipeline, built / "code", "new")
    unprotect(kernel.input)
    shutil.rmtree(kernel.input / "competitions")
    done = kernel.run(built / "kernel" / "kernel.py", tmp_path / "without data")
    assert done.returncode == 1
    assert f"{SLUG} is not among the inputs of this kernel" in done.stdout
    shutil.rmtree(kernel.input / "datasets")
    done = kernel.run(built / "kernel" / "kernel.py", tmp_path / "without code")
    assert done.returncode == 1
    assert "holds 01_download.py" in done.stdout


def test_two_outputs_are_refused(pipeline, built, tmp_path):
    kernel = Kernel(tmp_path, pipeline, built / "code", "new")
    unprotect(kernel.input)
    for name in ("one", "two"):
        (kernel.input / name / "cxr_working").mkdir(parents=True)
    done = kernel.run(built / "kernel" / "kernel.py", tmp_path / "session")
    assert done.returncode == 1
    assert "attach the last one only" in done.stdout


def test_the_documentation_names_what_there_is():
    text = (ROOT / "docs" / "kaggle.md").read_text(encoding="utf-8")
    constants = make_kernel_names()
    names = ["cxr_working", "CXR_KAGGLE_INPUT", "--no-wheels"]
    for name in [*names, constants["CODE_NAME"], constants["KERNEL_NAME"]]:
        assert name in text
    for path in re.findall(r"`((?:tests|kaggle_kernel)/[\w./]+)`", text):
        assert (ROOT / path).exists(), path
    assert "docs/kaggle.md" in (ROOT / "kaggle_kernel" / "README.md").read_text(encoding="utf-8")
    assert TASKS["rsna"].dataset.slug == SLUG
