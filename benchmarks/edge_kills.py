"""Does a kill, or a full card, cost edge_predict.py a row?

    python benchmarks/edge_kills.py                          200 kills, 10 full cards
    python benchmarks/edge_kills.py --kills 20 --seed 1      others

A batch of 50 drawn pictures with overlays, a tiny network with random weights, onnxruntime. The
program is killed (SIGKILL) at a random moment and the same command given again, until it ends; then
anew in another folder. After each kill the images whose rows were there before must still have
them, and what the program had said to be done must have one; at the end tables and overlays must be
those of a run that nobody disturbed.

As root, the batch is also written to a card (a tmpfs) that is full after some images: there must be
one sentence and no traceback, and with more room the same command must end with all rows, those of
before among them.

The program is forked from this process, which has imported it: a kill during the imports would find
nothing to damage. Exits with status 1 where something is not so.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

# Before torch: forked processes are to have no threads of their parent.
os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from collections.abc import Iterator  # noqa: E402

import numpy as np  # noqa: E402

import edge_predict  # noqa: E402

IMAGES = 50
SIDE = 192
WHEN = 0.8  # of the undisturbed seconds of a batch, at most, until it is killed
SETTINGS = {
    "encoder": "tu-test_resnet",
    "weights": "none",
    "levels": "3-5",
    "channels": 16,
    "head_convs": 1,
    "image_size": SIDE,
}
TABLES = ("predictions.csv", "failed.csv")


@dataclass(frozen=True)
class Place:
    """What a batch reads, and the folder that it writes."""

    model: Path
    images: Path
    out: Path

    @property
    def printed(self) -> Path:
        return self.out.with_name(f"{self.out.name}.txt")

    def another(self, out: Path) -> Place:
        """A new folder for the same batch, where the engine has been chosen, which takes longer
        than the batch."""
        out.mkdir()
        shutil.copy(self.out / "engine.json", out)
        return Place(self.model, self.images, out)

    @property
    def arguments(self) -> list[str]:
        options = ["--out", str(self.out), "--engine", "onnxruntime", "--threads", "1"]
        return [str(self.model), str(self.images), *options, "--overlay"]

    def rows(self) -> dict[str, str]:
        """{image: its row} of those that are written whole."""
        journal = self.out / "predictions.jsonl"
        rows = {}
        lines = journal.read_bytes().split(b"\n") if journal.exists() else []
        for line in lines:
            record = edge_predict.parse_line(line)
            if "entry" in record:
                rows[record["source"]["name"]] = json.dumps(record["entry"])
        return rows

    def said(self) -> set[str]:
        """Images that the program has said to be done."""
        lines = self.printed.read_text().splitlines() if self.printed.exists() else []
        return {line.split(":")[0] for line in lines if line.endswith(f" of {IMAGES})")}

    def tables(self) -> list[str]:
        return [(self.out / name).read_text() for name in TABLES]

    def overlays(self) -> dict[str, bytes]:
        folder = self.out / "overlays"
        return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


def prepare(folder: Path) -> tuple[Path, Path]:
    """(model file, folder of pictures)."""
    from edge import random_network, write_subject
    from reference import RSNA

    write_subject(folder, random_network(RSNA.make_settings(SETTINGS)))
    images = folder / "images"
    images.mkdir()
    picture = edge_predict.draw_test_picture(256)
    for number in range(IMAGES):
        edge_predict.write_picture(images / f"{number:02}.png", np.roll(picture, 5 * number, 1))
    return folder / "net.onnx", images


def run_program(place: Place) -> None:
    """In a process of its own: the command, whose lines are added to a file."""
    with open(place.printed, "a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        status: int | str = edge_predict.main(place.arguments)
    except edge_predict.Refused as error:
        status = f"error: {error}"
    sys.exit(status)


def start(place: Place) -> BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=run_program, args=(place,))
    process.start()
    return process


def kill_batches(
    undisturbed: Place, folder: Path, kills: int, seconds: float, rng: np.random.Generator
) -> list[str]:
    """What differs, in words. seconds: what a batch takes if nobody disturbs it."""
    differences: list[str] = []
    done = 0
    batch = 0
    while done < kills:
        batch += 1
        place = undisturbed.another(folder / f"batch{batch}")
        rows: dict[str, str] = {}
        while True:
            process = start(place)
            if done < kills:
                process.join(rng.uniform(0, WHEN * seconds))
            else:
                process.join()
            ended = process.exitcode is not None
            if not ended:
                process.kill()
                process.join()
                done += 1
            before = rows
            rows = place.rows()
            lost = {name for name, row in before.items() if rows.get(name) != row}
            lost |= place.said() - rows.keys()
            if lost:
                differences.append(f"batch {batch}: lost {', '.join(sorted(lost))}")
            if ended:
                break
        differences += [f"batch {batch}: {words}" for words in compare(undisturbed, place)]
        print(f"batch {batch}: {done} kills, {len(differences)} differences", flush=True)
        shutil.rmtree(place.out)
    return differences


def compare(undisturbed: Place, place: Place) -> list[str]:
    differences = []
    if place.rows() != undisturbed.rows() or place.tables() != undisturbed.tables():
        differences.append("other rows")
    if place.overlays() != undisturbed.overlays():
        differences.append("other overlays")
    if list(place.out.rglob(".*.tmp")):
        differences.append("temporary files are left")
    return differences


@contextmanager
def small_card(folder: Path, kibibytes: int) -> Iterator[Path]:
    """A file system in memory that holds so little."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "card", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def fill_cards(undisturbed: Place, folder: Path, cards: int, rng: np.random.Generator) -> list[str]:
    """What differs, in words, where the card is full after a random share of the batch."""
    needed = sum(path.stat().st_size for path in undisturbed.out.rglob("*") if path.is_file())
    differences = []
    for card in range(1, cards + 1):
        kibibytes = int(rng.uniform(0.05, 0.9) * needed / 1024)
        with small_card(folder / f"card{card}", kibibytes) as root:
            place = Place(undisturbed.model, undisturbed.images, root / "out")
            # What the program prints goes elsewhere.
            words, rows = fill_card(place, folder / f"card{card}.txt")
            differences += [f"card {card}: {word}" for word in words]
            differences += [f"card {card}: {word}" for word in compare(undisturbed, place)]
        print(f"card {card}: full at {kibibytes} KiB after {rows} images", flush=True)
    return differences


def fill_card(place: Place, printed: Path) -> tuple[list[str], int]:
    """(what is wrong, images that had a row when the card was full); then all of the batch."""
    command = [sys.executable, str(ROOT / "edge_predict.py"), *place.arguments]
    done = subprocess.run(command, text=True, capture_output=True)
    printed.write_text(done.stdout + done.stderr)
    differences = []
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    if done.returncode != 1 or len(lines) != 1 or "Traceback" in done.stderr:
        differences.append(f"no single sentence: {done.stderr[-300:]}")
    rows = place.rows()
    card = place.out.parent
    subprocess.run(["mount", "-o", "remount,size=64m", card], check=True)
    again = subprocess.run(command, text=True, capture_output=True)
    if again.returncode:
        differences.append(f"with more room: {again.stderr[-300:]}")
    after = place.rows()
    if any(after.get(name) != row for name, row in rows.items()):
        differences.append("rows are lost")
    if rows and f"{len(rows)} of the {IMAGES} files were done before" not in again.stdout:
        differences.append("rows that were there were computed again")
    return differences, len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200, help="number of kills (200)")
    parser.add_argument("--cards", type=int, default=10, help="number of full cards (10)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and sizes (0)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        differences = measure(args, Path(scratch))
    for difference in differences:
        print(difference)
    if differences:
        sys.exit(1)
    print("no row lost, and all as in a run that nobody disturbed")


def measure(args: argparse.Namespace, scratch: Path) -> list[str]:
    """What differs, in words."""
    rng = np.random.default_rng(args.seed)
    model, images = prepare(scratch)
    undisturbed = Place(model, images, scratch / "undisturbed")
    process = start(undisturbed)
    process.join()
    if process.exitcode or len(undisturbed.rows()) != IMAGES:
        return [f"the undisturbed run failed: {undisturbed.printed.read_text()[-500:]}"]
    begun = time.monotonic()
    start(undisturbed.another(scratch / "timed")).join()
    seconds = time.monotonic() - begun
    print(f"undisturbed: {seconds:.1f} s", flush=True)
    differences = kill_batches(undisturbed, scratch, args.kills, seconds, rng)
    if args.cards and os.getuid() != 0:
        print("full cards are not tried: only root can mount one")
        return differences
    return differences + fill_cards(undisturbed, scratch, args.cards, rng)


if __name__ == "__main__":
    main()
