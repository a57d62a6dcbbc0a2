"""Does edge_predict.py give on other processors what it gives here?

    python tests/emulated.py FOLDER                          both processors, half an hour
    python tests/emulated.py FOLDER --platforms arm64        one of them

Fetches Debian's packages of each into FOLDER by apt, unpacks them, and runs edge_predict.py there
by chroot and qemu's emulation of the processor, on three drawn X-rays (DICOM) with the files that
06_export.py makes of the starter run. Pictures, and what the network is given, resized by OpenCV
and by numpy, must be those of this machine bit for bit, and boxes those of onnxruntime here within
0.01 pixels in fp32. Prints a table and exits with status 1 where something is not so.

loong64 is a processor as the LA264 of a Loongson 2K1000LA: LSX, but no LASX. Its packages are those
of Debian sid. arm64 is a Cortex-A53, with Debian 12 and wheels of PyPI.

As root, with a network, 4 GB of disk, and ncnn and pnnx installed; not among the tests. What was
fetched once stays: delete FOLDER to start anew.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
DEBIAN = "http://deb.debian.org/debian"
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
PACKAGES = Path("usr/lib/python3/dist-packages")
IMAGES = 3
MOST_PIXELS = 0.01
# A network that has learned, EfficientNet-lite0 at 384 pixels.
STEPS = (
    ("01_download.py", "--demo", "--demo-images", "16"),
    ("02_preprocess.py", "--demo", "--demo-images", "16", "--folds", "2", "--size", "512"),
    ("06_export.py", "--run", "starter", "--tta", "none", "--ncnn"),
)
# In there python3 is no program that Linux starts, so that this stands in for it as
# sys.executable: Linux runs qemu, and qemu the true python3, with this file as its program.
PYTHON = """#!/qemu /usr/bin/python3
import sys
_, _, program, *arguments = sys.argv  # as of python3 -c PROGRAM ...
sys.executable = "/python"
sys.argv = ["-c", *arguments]
exec(compile(program, "-c", "exec"), {"__name__": "__main__"})
"""
# Runs the command and keeps what each picture and its answer were.
DRIVER = """
import hashlib, json, sys
folder, number_format, engine, out = sys.argv[1:]
sys.path.insert(0, folder)
import numpy
import edge_predict

answers = []
predict = edge_predict.ModelFile.__call__

def watch(self, picture):
    answer = predict(self, picture)
    stored = edge_predict.resize(picture, self.settings["stored_size"])
    shown = edge_predict.resize(stored, self.side)
    record = {name: values.tolist() for name, values in answer.items()}
    opencv, edge_predict.cv2 = edge_predict.cv2, None
    stored = edge_predict.resize(picture, self.settings["stored_size"])
    by_numpy = edge_predict.resize(stored, self.side)
    edge_predict.cv2 = opencv
    pictures = (picture, shown, by_numpy)
    record["pictures"] = [hashlib.sha256(each.tobytes()).hexdigest() for each in pictures]
    answers.append(record)
    return answer

edge_predict.ModelFile.__call__ = watch
model = folder + "/" + number_format + ".onnx"
edge_predict.main(
    [model, folder + "/images", "--out", out, "--engine", engine, "--threads", "1"]
)
about = json.load(open(out + "/predictions.json"))
versions = "Python %d.%d, numpy %s" % (*sys.version_info[:2], numpy.__version__)
result = {"engine": about["engine"], "versions": versions, "answers": answers}
json.dump(result, open(out + "/result.json", "w"))
"""


class Platform(NamedTuple):
    """A processor, and where its programs come from.

    packages: of Debian; wheels: of PyPI, beside them. triplet: the folder of its libraries.
    engines: what is tried, as --engine takes it.
    """

    suite: str
    packages: tuple[str, ...]
    wheels: tuple[str, ...]
    triplet: str
    qemu: str
    processor: str
    engines: tuple[str, ...]


PLATFORMS = {
    "loong64": Platform(
        "sid",
        ("python3", "python3-numpy", "python3-opencv", "python3-pydicom", "python3-onnxruntime"),
        (),
        "loongarch64-linux-gnu",
        "qemu-loongarch64",
        "la464,lasx=off",
        ("auto",),
    ),
    "arm64": Platform(
        "bookworm",
        ("python3", "libgomp1", "libstdc++6"),
        ("numpy", "opencv-python-headless", "onnxruntime", "ncnn", "pydicom"),
        "aarch64-linux-gnu",
        "qemu-aarch64",
        "cortex-a53",
        ("auto", "ncnn", "opencv"),
    ),
}
# pip's names of systems whose wheels Debian 12 (glibc 2.36) can run.
WHEEL_PLATFORMS = tuple(
    f"manylinux_2_{minor}_aarch64" for minor in (17, 24, 26, 27, 28, 31, 34, 35)
)
QEMU = "qemu-user"  # of sid: that of Debian 12 knows no LSX


class Run(NamedTuple):
    """What edge_predict.py said of the images, or why it did not; and in which time."""

    result: dict[str, Any]
    refusal: str
    passed_over: str
    seconds: float


# --- programs of another processor


def run(command: Sequence[str | Path], **options: Any) -> None:
    subprocess.run([str(word) for word in command], check=True, **options)


def fetch_packages(folder: Path, architecture: str, suite: str, packages: Sequence[str]) -> Path:
    """The folder of Debian's packages with all that they need. SystemExit where there are none."""
    apt = folder / "apt"
    archives = apt / "cache" / "archives"
    for part in ("etc/none", "state/lists/partial", "cache/archives/partial"):
        (apt / part).mkdir(parents=True, exist_ok=True)
    (apt / "status").touch()
    (apt / "etc" / "sources.list").write_text(f"deb [signed-by={KEYS}] {DEBIAN} {suite} main\n")
    options = {
        "Dir::Etc": apt / "etc",
        "Dir::Etc::Parts": "none",
        "Dir::State": apt / "state",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Install-Recommends": "false",
        "APT::Keep-Downloaded-Packages": "true",
        "Acquire::Languages": "none",
        "Acquire::Check-Valid-Until": "false",  # of mirrors that stand still
    }
    lines = [f'{name} "{value}";' for name, value in options.items()]
    settings = apt / "apt.conf"
    settings.write_text("\n".join(lines) + "\n")
    environment = os.environ | {"APT_CONFIG": str(settings)}
    try:
        run(["apt-get", "update", "-q"], env=environment)
        run(["apt-get", "install", "-qy", "--download-only", *packages], env=environment)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: apt has no {architecture} of Debian {suite} here ({error})")
    return archives


def unpack(archives: Path, root: Path) -> None:
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")
    for package in sorted(archives.glob("*.deb")):
        content = subprocess.run(
            ["dpkg-deb", "--fsys-tarfile", package], check=True, capture_output=True
        )
        run(["tar", "-x", "--keep-directory-symlink", "-C", root], input=content.stdout)


def prepare_emulator(folder: Path) -> Path:
    """The folder with qemu's programs for this machine."""
    root = folder / "qemu"
    programs = root / "usr" / "bin"
    if not programs.exists():
        here = subprocess.run(["dpkg", "--print-architecture"], text=True, capture_output=True)
        unpack_whole(folder, root, here.stdout.strip(), "sid", (QEMU,))
    return programs


def unpack_whole(
    folder: Path, root: Path, architecture: str, suite: str, packages: Sequence[str]
) -> None:
    """Packages unpacked into `root`, which is there only when all of them are."""
    archives = fetch_packages(folder / f"packages-{root.name}", architecture, suite, packages)
    unfinished = root.with_name(f"{root.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unpack(archives, unfinished)
    unfinished.rename(root)


def prepare_root(folder: Path, name: str, emulators: Path) -> Path:
    """The folder that becomes the root of a processor's programs."""
    root = folder / name
    wanted = PLATFORMS[name]
    if not root.exists():
        unpack_whole(folder, root, name, wanted.suite, wanted.packages)
    installed = root / "wheels.txt"
    if wanted.wheels and not (installed.exists() and installed.read_text() == str(wanted.wheels)):
        options = ["--only-binary=:all:", "--python-version", "3.11", "--no-compile", "-q"]
        for system in WHEEL_PLATFORMS:
            options += ["--platform", system]
        pip = [sys.executable, "-m", "pip", "install", "--upgrade", "--target", root / PACKAGES]
        run([*pip, *options, *wanted.wheels], stderr=subprocess.DEVNULL)
        installed.write_text(str(wanted.wheels))
    for empty in ("proc", "dev", "tmp", "work"):
        (root / empty).mkdir(exist_ok=True)
    shutil.copy(emulators / wanted.qemu, root / "qemu")
    python = root / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    return root


# --- what is run


def prepare_work(folder: Path) -> Path:
    """The folder with edge_predict.py, three images, fp32.onnx with ncnn's files, int8.onnx.

    Made anew each time, since the code that exports may have changed.
    """
    work, working = folder / "work", folder / "working"
    for made_before in (work, working):
        shutil.rmtree(made_before, ignore_errors=True)
    (work / "images").mkdir(parents=True)
    places = ["--input", folder / "input", "--working", working]
    for script, *flags in STEPS:
        run([sys.executable, ROOT / script, *flags, *places])
    for image in sorted((folder / "input").glob("*/stage_2_train_images/*.dcm"))[:IMAGES]:
        shutil.copy(image, work / "images")
    [report] = (working / "unpacked").glob("*/rsna/*/merged.json")
    for ending in ("onnx", "ncnn.param", "ncnn.bin"):
        shutil.copy(report.with_suffix(f".{ending}"), work / f"fp32.{ending}")
    shutil.copy(report.with_suffix(".int8.onnx"), work / "int8.onnx")
    shutil.copy(ROOT / "edge_predict.py", work)
    return work


def predict(command: Sequence[str | Path], out: Path, environment: dict[str, str]) -> Run:
    """Run DRIVER by a command that wants its program; out: where it is seen from here."""
    shutil.rmtree(out, ignore_errors=True)
    start = time.monotonic()
    done = subprocess.run(
        [str(word) for word in command], text=True, capture_output=True, env=environment
    )
    seconds = time.monotonic() - start
    passed_over = "; ".join(line for line in done.stderr.splitlines() if "passed over" in line)
    written = out / "result.json"
    if not written.exists():
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return Run({}, lines[-1] if lines else f"status {done.returncode}", passed_over, seconds)
    return Run(json.loads(written.read_text()), "", passed_over, seconds)


def predict_here(work: Path, number_format: str) -> Run:
    out = work / f"found-here-{number_format}"
    arguments = [work, number_format, "onnxruntime", out]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return predict([sys.executable, "-c", DRIVER, *arguments], out, environment)


def predict_there(work: Path, root: Path, name: str, number_format: str, engine: str) -> Run:
    wanted = PLATFORMS[name]
    libraries = f"/usr/lib/{wanted.triplet}"
    environment = {
        "PATH": "/usr/sbin:/usr/bin",
        "QEMU_CPU": wanted.processor,
        # Debian's alternatives, which nobody has chosen among here.
        "LD_LIBRARY_PATH": f"{libraries}/blas:{libraries}/lapack",
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    out = f"found-{name}-{number_format}-{engine}"
    mounts = (
        f"mount --bind /proc {root}/proc; mount --rbind /dev {root}/dev; "
        f'mount --bind {work} {root}/work; exec chroot {root} "$@"'
    )
    inside = ["/python", "-c", DRIVER, "/work", number_format, engine, f"/work/{out}"]
    command = ["unshare", "--mount", "sh", "-ec", mounts, "sh", *inside]
    return predict(command, work / out, environment)


# --- comparing


class Comparison(NamedTuple):
    """pictures: how many are the same, of all. pixels: of box corners, the largest difference; nan
    where boxes are missing. scores: their largest difference. boxes: how many were compared."""

    pictures: tuple[int, int]
    boxes: int
    pixels: float
    scores: float
    kept_are_same: bool


def compare(here: Run, there: Run) -> Comparison:
    """All boxes before the thresholds, each with the nearest one of its label."""
    same = 0
    count = 0
    pixels = 0.0
    scores = 0.0
    kept_are_same = True
    for right, found in zip(here.result["answers"], there.result["answers"], strict=True):
        same += right["pictures"] == found["pictures"]
        count += len(right["boxes"])
        kept_are_same &= sum(right["kept"]) == sum(found["kept"])
        boxes = np.array(found["boxes"]).reshape(-1, 4)
        labels = np.array(found["labels"])
        for box, label, score in zip(right["boxes"], right["labels"], right["scores"], strict=True):
            candidates = np.flatnonzero(labels == label)
            if not len(candidates):
                pixels = np.nan
                continue
            distances = np.abs(boxes[candidates] - box).max(1)
            nearest = distances.argmin()
            pixels = max(pixels, float(distances[nearest]))
            scores = max(scores, abs(found["scores"][candidates[nearest]] - score))
    return Comparison((same, len(here.result["answers"])), count, pixels, scores, kept_are_same)


def print_row(*cells: object) -> None:
    print(f"| {' | '.join(str(cell) for cell in cells)} |", flush=True)


def compare_platform(folder: Path, name: str, emulators: Path, here: dict[str, Run]) -> bool:
    """Print the rows of a processor. Returns whether all is as it should be."""
    root = prepare_root(folder, name, emulators)
    work = folder / "work"
    all_right = True
    for number_format, right in here.items():
        for engine in PLATFORMS[name].engines:
            if engine == "ncnn" and number_format == "int8":  # it has none
                continue
            there = predict_there(work, root, name, number_format, engine)
            title = f"{name}, {PLATFORMS[name].processor}"
            if there.passed_over:
                print(there.passed_over)
            if there.refusal:
                print_row(title, number_format, engine, there.refusal, "", "", "", "")
                all_right = False
                continue
            found = compare(right, there)
            same, count = found.pictures
            is_right = same == count
            if number_format == "fp32":
                is_right &= found.pixels <= MOST_PIXELS and found.kept_are_same
            all_right &= is_right
            print_row(
                f"{title}; {there.result['versions']}",
                number_format,
                there.result["engine"],
                f"{same} of {count}",
                f"{found.pixels:.2g} px of {found.boxes} boxes",
                f"{found.scores:.2g}",
                "the same" if found.kept_are_same else "others",
                f"{there.seconds:.0f} s",
            )
    return all_right


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--platforms", nargs="+", choices=PLATFORMS, default=list(PLATFORMS))
    args = parser.parse_args()
    if os.getuid() != 0:
        sys.exit("error: tests/emulated.py calls chroot and mount: run it as root")
    folder = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    emulators = prepare_emulator(folder)
    work = prepare_work(folder)
    here = {}
    for number_format in ("fp32", "int8"):
        here[number_format] = predict_here(work, number_format)
        if here[number_format].refusal:
            sys.exit(f"error: {here[number_format].refusal}")
    print(f"compared with {here['fp32'].result['engine']} on {platform.machine()}, {time.ctime()}")
    print_row(
        *("processor", "file", "engine", "pictures equal", "boxes", "scores", "kept", "seconds")
    )
    print_row(*["---"] * 8)
    all_right = True
    for name in args.platforms:
        all_right &= compare_platform(folder, name, emulators, here)
    if not all_right:
        sys.exit("not all is as on this machine")


if __name__ == "__main__":
    main()
