r"""Train one of the five winning systems of SIIM-ACR Pneumothorax to its last submission.

    python pneumothorax_places.py first
    python pneumothorax_places.py third --external ../CheXpert ../nih \
        --external-labels ../CheXpert/train.csv                     images for pseudo labels
    python pneumothorax_places.py fifth --unlabelled ../nih         X-rays for the mean teacher
    python pneumothorax_places.py second --demo                     drawn X-rays, small networks
    python pneumothorax_places.py fourth --list                     only print the steps

Each place works in a folder of its own, working/<place>/, since a folder has one number of folds.
Further flags go to every step and win, such as --input ../my/data, --fold 0, --max-hours 8. What is
finished is kept, so the same command goes on after a stop of any kind.
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cxr.datasets.pneumothorax.places import DEVIATIONS, PLACES, Call, Wishes, calls_of
from cxr.datasets.pneumothorax.public_sets import CHEXPERT_TABLE, write_chexpert, write_nih
from cxr.system.errors import STOPPED

HERE = Path(__file__).resolve().parent


def main(words: Sequence[str] | None = None) -> int:
    """Run the steps of a place; returns the exit status of the first that fails, or 0."""
    chosen, further = read_words(words)
    working = chosen.working or Path("working/demo" if chosen.demo else "working")
    external = tuple(chosen.external)
    labels = tuple(chosen.external_labels)
    if chosen.demo and chosen.place == "third" and not external:
        external, labels = public_sets(HERE / "input" / "demo" / "public", chosen.list)
    wishes = Wishes(working, chosen.demo, chosen.unlabelled, external, labels)
    for call in calls_of(chosen.place, wishes):
        print(f"== {call.step} {shlex.join([*call.words(), *further])}", flush=True)
        if chosen.list:
            continue
        status = run_step(call, further)
        if status == STOPPED:
            print("stopped by --max-hours: run the same command again to go on")
            return 0
        if status:
            return status
    return 0


def public_sets(folder: Path, only_named: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Drawn folders of external images, and files of labels; only_named: they are not drawn."""
    folders = (folder / "chexpert", folder / "nih")
    if not only_named:
        write_chexpert(folders[0])
        write_nih(folders[1])
    return tuple(map(str, folders)), (str(folders[0] / CHEXPERT_TABLE),)


def read_words(words: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """What this script reads, and the words that go to every step."""
    lines = ["what each place did, and what is done in another way here:"]
    for name, place in PLACES.items():
        lines.append(f"\n{name}: {place.gloss}")
        lines += [f"  * {sentence}" for sentence in DEVIATIONS[name]]
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("place", choices=PLACES)
    parser.add_argument("--demo", action="store_true", help="drawn X-rays, small networks")
    parser.add_argument("--list", action="store_true", help="only print the steps")
    parser.add_argument("--working", type=Path, help="folder of the place's own [working]")
    parser.add_argument("--unlabelled", default="", help="5th place: folder of its mean teacher")
    parser.add_argument(
        "--external",
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="3rd place: folders of further X-rays, the author's CheXpert and NIH; drawn by --demo",
    )
    parser.add_argument(
        "--external-labels",
        nargs="+",
        default=[],
        metavar="FILE",
        help="3rd place: csv files of labels of these; the author used CheXpert's alone",
    )
    return parser.parse_known_args(words)


def run_step(call: Call, further: Sequence[str]) -> int:
    """Run a step as a process of its own, seen from this folder. Returns its exit status."""
    script = HERE / f"{call.step}.py"
    return subprocess.run([sys.executable, script, *call.words(), *further], cwd=HERE).returncode


if __name__ == "__main__":
    sys.exit(main())
