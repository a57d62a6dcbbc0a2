"""Do the README's commands work? Runs each in a fresh clone of this repository, with time and disk.

    python tests/readme_commands.py FOLDER            all; FOLDER becomes the clone
    python tests/readme_commands.py FOLDER starter    only those that contain a word
    python tests/readme_commands.py                   prints what would be run, and what not

Not among the tests: it may build an environment from the network, and runs all tests and the demo.
Commands find the clone's .venv first, where there is one, and else the active Python.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = "http://127.0.0.1:8000/"
# What README says -> what is run here in its place, in this order. Placeholders get the demo's.
COMMANDS = {
    "bash run_all.sh --demo": "bash run_all.sh --demo",
    "bash run_tests.sh": "bash run_tests.sh",
    "python 04_predict.py --run starter --images scan.dcm": (
        "python 04_predict.py --run starter --images scan.dcm"
    ),
    "python serve.py": "python serve.py",
    "pip install -e .": "python -m pip install -e .",
    "import cxr": "python library.py",
    "bash run_all.sh --task NAME": "bash run_all.sh --task lungs --demo --epochs 1",
    "python 03_train.py --task NAME --help": "python 03_train.py --task lungs --help",
    "python -m cxr.inspect IMAGE_ID --task T --run R": (
        "python -m cxr.inspect IMAGE_ID --task rsna --run demo --demo"
    ),
    "python docs/make_picture.py": "python docs/make_picture.py",
}
NOT_RUN = {
    "python benchmarks/same_results.py OLD NEW": "needs a checkout of version 0.1 beside this one",
}


def readme_commands() -> list[str]:
    """Commands in README's blocks and sentences; of a block of Python its first line."""
    blocks = re.findall(r"```(?:python)?\n(.*?)```", README, re.DOTALL)
    commands = []
    for block in blocks:
        if block.startswith("import "):
            commands.append(block.splitlines()[0])
        commands += re.findall(r"^((?:bash|python|pip) .*?)(?:  .*)?$", block, re.MULTILINE)
    commands += re.findall(r"`((?:bash|python|pip) [^`]*)`", README)
    return commands


def prepare(clone: Path) -> None:
    """scan.dcm, and the library's example as a file."""
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert example is not None
    (clone / "library.py").write_text(example[1], encoding="utf-8")
    scan = clone / "scan.dcm"
    if not scan.exists():
        run("python 01_download.py --demo --demo-images 12 --input scans", clone)
        shutil.copyfile(next((clone / "scans").rglob("*.dcm")), scan)


def run(command: str, clone: Path) -> int:
    """Exit status of a command in the clone."""
    environment = dict(os.environ)
    environment["PATH"] = os.pathsep.join(
        [str(clone / ".venv" / "bin"), str(Path(sys.executable).parent), environment["PATH"]]
    )
    if "IMAGE_ID" in command:
        table = clone / "working" / "demo" / "rsna" / "train.csv"
        image_id = table.read_text(encoding="utf-8").splitlines()[1].split(",")[0]
        command = command.replace("IMAGE_ID", image_id)
    words = command.split()
    if words[-1] == "serve.py":
        return ask_page(words, clone, environment)
    return subprocess.run(words, cwd=clone, env=environment).returncode


def ask_page(words: list[str], clone: Path, environment: dict[str, str]) -> int:
    """0 if the page answers within two minutes; it is ended as by Ctrl-C."""
    server = subprocess.Popen(words, cwd=clone, env=environment)
    try:
        for _ in range(120):
            try:
                with urllib.request.urlopen(PAGE, timeout=2) as page:
                    return 0 if page.status == 200 else 1
            except OSError:
                time.sleep(1)
        return 1
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


def megabytes(folder: Path) -> int:
    """What a folder takes on the disk."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files) // 2**20


def main(words: list[str]) -> None:
    chosen = {
        said: done for said, done in COMMANDS.items() if all(word in done for word in words[1:])
    }
    for said, reason in NOT_RUN.items():
        print(f"not run: {said} ({reason})")
    if not words:
        print("\n".join(f"run: {done}" for done in chosen.values()))
        return
    clone = Path(words[0]).absolute()
    if not clone.exists():
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    prepare(clone)
    lines = []
    for done in chosen.values():
        print(f"\n== {done}", flush=True)
        start = time.monotonic()
        status = run(done, clone)
        seconds = time.monotonic() - start
        outcome = "well" if status == 0 else f"with {status}"
        lines.append(f"{done}: ended {outcome} after {seconds:.0f} s, {megabytes(clone)} MB in all")
    print("\n" + "\n".join(lines))
    sys.exit(any("ended with" in line for line in lines))


if __name__ == "__main__":
    main(sys.argv[1:])
