"""The project inside an imitated Kaggle kernel.

Its mounts are only read, there is no internet, and sessions end too early.
"""

import ast
import io
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from types import ModuleType, SimpleNamespace
from unittest import mock

import pandas as pd
import pytest
import torch
from steps import ROOT, SLUG, TINY, digest, link_tree, protect, run_here, unprotect

from cxr.system.kaggle import attach_competition, find_input
from cxr.tasks import TASKS

MAKE = ROOT / "kaggle_kernel" / "make_kernel.py"
# Smaller than the demo: two sessions are eight processes.
FLAGS = ("--preset", "demo", *TINY, "--size", "192")
IMAGES = 12


def make_kernel_names():
    """Functions and constants of make_kernel.py."""
    return runpy.run_path(str(MAKE), run_name="make_kernel")


def make(folder, *flags):
    """(exit status, what was printed) of make_kernel.py inside this process."""
    output = io.StringIO()
    words = [str(MAKE), "someone", "--no-wheels", "--output", str(folder), *flags]
    with mock.patch.object(sys, "argv", words), redirect_stdout(output), redirect_stderr(output):
        try:
            make_kernel_names()["main"]()
        except SystemExit as stop:
            if isinstance(stop.code, str):
                return 1, output.getvalue() + stop.code
            return stop.code, output.getvalue()
    return 0, output.getvalue()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    status, printed = make(folder, *FLAGS)
    assert status == 0, printed
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A small data set in the competition's format."""
    folder = tmp_path_factory.mktemp("source") / "input"
    flags = ("--demo", "--demo-images", IMAGES, "--input", folder)
    status, printed = run_here("01_download", *flags)
    assert status == 0, printed
    return folder / SLUG


@pytest.fixture(scope="module")
def uninterrupted(source, tmp_path_factory):
    """The folder of a run of the same settings that was trained in one go, outside a kernel."""
    working = tmp_path_factory.mktemp("uninterrupted")
    torch.set_num_threads(1)
    for step in ("02_preprocess", "03_train"):
        status, printed = run_here(step, *FLAGS, "--input", source.parent, "--working", working)
        assert status == 0, printed
    return working / "rsna" / "tiny"


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
    paths += ROOT.glob("pretrained/*.zip")
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
    assert ast.literal_eval(assignments[0].value) == ["--max-hours", "9", *FLAGS]


@pytest.mark.parametrize(
    "flags, words",
    [
        ([], "the kernel has no internet"),
        (["--preset", "small"], ""),
        (["--weights", "w.pth"], ""),
        (["--start", "starter"], ""),
        (["--preset", "small", "--encoder", "tu-tf_efficientnet_lite1"], "not among the wheels"),
    ],
)
def test_weights_that_a_kernel_will_lack(tmp_path, flags, words):
    status, printed = make(tmp_path / "out", *flags)
    assert status == 0, printed
    assert words in printed
    assert ("NOTE" in printed) == bool(words)


def test_data_sets_that_flags_name_are_attached(tmp_path):
    """Images of one's own need no competition, whose rules one would have to accept."""
    images = "/kaggle/input/datasets/somebody-else/scans/png"
    flags = ("--run", "starter", "--images", images, "--working", str(tmp_path / "working"))
    status, printed = make(tmp_path / "out", *flags)
    assert status == 0, printed
    metadata = json.loads((tmp_path / "out/kernel/kernel-metadata.json").read_text())
    assert metadata["competition_sources"] == []
    names = ["someone/cxr-code", "someone/cxr-wheels", "somebody-else/scans"]
    assert metadata["dataset_sources"] == names
    script = (tmp_path / "out/kernel/kernel.py").read_text()
    assert f"DATA_SETS: list[str] = {json.dumps(names)}  #" in script

    status, printed = make(tmp_path / "out", "--weights", "/kaggle/input/datasets/me/w/net.pth")
    assert status == 0, printed
    metadata = json.loads((tmp_path / "out/kernel/kernel-metadata.json").read_text())
    assert metadata["competition_sources"] == [SLUG]
    assert metadata["dataset_sources"][2:] == ["me/w"]


@pytest.mark.parametrize(
    "flags, status, words",
    [
        (["--no-such-flag"], 1, "--no-such-flag"),
        (["--epochs", "many"], 2, "--epochs"),
        (["--preset", "big"], 1, "unknown --preset big"),
    ],
)
def test_wrong_flags_are_refused_before_the_upload(tmp_path, flags, status, words):
    refused, printed = make(tmp_path / "out", *flags)
    assert refused == status
    assert words in printed
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


@pytest.fixture
def hub(kernel, tmp_path, monkeypatch):
    """Kaggle's image with kagglehub: asked (data sets, competitions), `refuses`, `mounts`."""
    hub = SimpleNamespace(asked=[], refuses=False, mounts=tmp_path / "mounts")

    def attach(kind, name):
        hub.asked.append(name)
        if hub.refuses:
            raise RuntimeError("403: no such thing\nin many words")
        folder = hub.mounts / kind / name
        folder.mkdir(parents=True)
        return str(folder)

    module = ModuleType("kagglehub")
    module.__spec__ = mock.Mock()  # find_spec wants one
    module.dataset_download = lambda handle: attach("datasets", handle)
    module.competition_download = lambda handle: attach("competitions", handle)
    monkeypatch.setitem(sys.modules, "kagglehub", module)
    monkeypatch.setenv("KAGGLE_DATA_PROXY_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    kernel["attach_missing"].__globals__["INPUT"] = hub.mounts
    return hub


def test_kagglehub_attaches_data_sets_that_are_missing(kernel, hub, monkeypatch, capsys):
    names = ["someone/cxr-code", "someone/cxr-wheels", "else/scans"]
    (hub.mounts / "cxr-wheels").mkdir(parents=True)
    (hub.mounts / "datasets/else/scans").mkdir(parents=True)
    kernel["attach_missing"](names)
    assert hub.asked == ["someone/cxr-code"]
    assert "attached someone/cxr-code" in capsys.readouterr().out
    kernel["attach_missing"](names)
    assert len(hub.asked) == 1

    hub.refuses = True
    kernel["attach_missing"](["someone/other"])
    assert "cannot attach someone/other (403: no such thing" in capsys.readouterr().out
    monkeypatch.delenv("KAGGLE_DATA_PROXY_URL")
    kernel["attach_missing"](["someone/third"])
    assert "someone/third" not in hub.asked, "it would be downloaded"


def test_kagglehub_attaches_the_competition(hub, monkeypatch, capsys):
    monkeypatch.setenv("CXR_KAGGLE_INPUT", str(hub.mounts))
    attach_competition("a-slug")
    assert find_input(hub.mounts / "none", "a-slug", ()) == hub.mounts / "competitions/a-slug"
    hub.refuses = True
    attach_competition("a-slug")
    assert "cannot attach a-slug (403: no such thing)" in capsys.readouterr().out
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE")
    attach_competition("a-slug")
    assert hub.asked == ["a-slug", "a-slug"], "elsewhere the kaggle package downloads"


def test_with_images_only_step_04_runs(kernel, monkeypatch, tmp_path):
    started = []

    def run(command):
        started.append(command[1:])
        return SimpleNamespace(returncode=0)

    scope = kernel["run_steps"].__globals__
    monkeypatch.setitem(scope, "count_gpus", lambda: 0)
    monkeypatch.setitem(scope, "subprocess", SimpleNamespace(run=run))
    assert kernel["run_steps"](tmp_path, ["--run", "starter", "--images", "a"]) == 0
    output = str(kernel["OUTPUT"])
    script = str(tmp_path / "04_predict.py")
    assert started == [[script, "--working", output, "--run", "starter", "--images", "a"]]
    kernel["run_steps"](tmp_path, [])
    assert len(started) == 6


def test_gpus_are_counted_by_nvidias_tool(kernel, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert kernel["count_gpus"]() == 0
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\necho 'GPU 0: Tesla T4 (UUID: a)'\necho 'GPU 1: Tesla T4 (UUID: b)'\n"
    )
    tool.chmod(0o755)
    assert kernel["count_gpus"]() == 2


@pytest.fixture
def own_signals():
    """torchrun puts handlers of its own in place of this process's, and leaves them there."""
    kinds = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    handlers = {kind: signal.getsignal(kind) for kind in kinds}
    yield
    for kind, handler in handlers.items():
        signal.signal(kind, handler)


@pytest.mark.usefixtures("own_signals")
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

    def __init__(self, root, source, code, layout):
        self.root = root
        self.input = root / "input"
        if layout == "new":
            owner = self.input / "datasets" / "someone"
            data = self.input / "competitions" / SLUG
        else:
            owner = self.input
            data = self.input / SLUG
        link_tree(source, data)
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


def test_two_sessions_make_what_one_run_makes(source, uninterrupted, built, tmp_path):
    """Stopped by --max-hours in the first session, continued in the second.

    The second has the old layout of the mounts. They stay as they are.
    """
    kernel = Kernel(tmp_path / "new", source, built / "code", "new")
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

    kernel = Kernel(tmp_path / "old", source, built / "code", "old")
    kernel.attach_output(first)
    mounts = digest(kernel.input)
    done = kernel.run(script, second)
    assert done.returncode == 0, done.stdout
    assert "fold 0: goes on at epoch 1" in done.stdout
    assert digest(kernel.input) == mounts
    assert "score 0." in done.stdout
    assert len(pd.read_csv(second / "cxr_working" / "rsna" / "train.csv")) == IMAGES
    submission = pd.read_csv(second / "submission.csv")
    expected = pd.read_csv(source / "stage_2_sample_submission.csv")
    assert submission.patientId.tolist() == expected.patientId.tolist()
    assert "<html" in (second / "report.html").read_text(encoding="utf-8")
    for fold in (0, 1):
        interrupted = read_weights(second / "cxr_working" / "rsna" / "tiny", fold)
        for name, weights in read_weights(uninterrupted, fold).items():
            assert torch.equal(interrupted[name], weights), name


def read_weights(run, fold):
    return torch.load(run / f"fold{fold}" / "epoch002.pt", weights_only=True)["model"]


def test_kernel_without_its_inputs(source, built, tmp_path):
    kernel = Kernel(tmp_path, source, built / "code", "new")
    unprotect(kernel.input)
    shutil.rmtree(kernel.input / "competitions")
    done = kernel.run(built / "kernel" / "kernel.py", tmp_path / "without data")
    assert done.returncode == 1
    assert f"{SLUG} is not among the inputs of this kernel" in done.stdout
    shutil.rmtree(kernel.input / "datasets")
    done = kernel.run(built / "kernel" / "kernel.py", tmp_path / "without code")
    assert done.returncode == 1
    assert "holds 01_download.py" in done.stdout


def test_the_starter_answers_without_internet(source, built, tmp_path):
    """What step 04 of the data set's code brings along is all that it needs."""
    kernel = Kernel(tmp_path, source, built / "code", "new")
    scan = next((source / "stage_2_test_images").glob("*.dcm"))
    flags = ("--run", "starter", "--images", str(scan), "--device", "cpu", "--workers", "0")
    script = ROOT / "kaggle_kernel" / "kernel.py"
    done = kernel.run(script, tmp_path / "session", *flags)
    assert done.returncode == 0, done.stdout
    assert len(pd.read_csv(tmp_path / "session" / "predicted" / "predictions.csv")) == 1


def test_two_outputs_are_refused(source, built, tmp_path):
    kernel = Kernel(tmp_path, source, built / "code", "new")
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
