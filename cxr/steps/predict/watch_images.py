"""Step 04 with --watch: predicts what arrives in the folders of --images, until Ctrl-C."""

from __future__ import annotations

import time
from pathlib import Path

from cxr.images.arrivals import LOOK_SECONDS, Arrivals, Sight
from cxr.images.folder import Item, search_image_files
from cxr.inference.predictor import Predictor
from cxr.settings import Settings
from cxr.steps.predict.out_folder import alone_in, claim_out_folder
from cxr.steps.predict.predict_images import (
    LEFT_OUT,
    Failure,
    SeenItem,
    Written,
    is_done,
    open_predictor,
    predict_items,
    say_results,
    write_results,
)
from cxr.system.errors import InputError
from cxr.system.runtime import open_runtime
from cxr.tasks import Task

MOST_AT_ONCE = 256  # files between two updates of the tables


def watch_images(task: Task, settings: Settings) -> Path:
    """Predict what is and what arrives in the folders of --images; Ctrl-C returns index.html.

    Raises InputError as `predict_images` does, but not where there is nothing yet.
    """
    images = settings.images
    with open_runtime(settings.machine) as runtime:
        if runtime.world > 1:
            raise InputError("--watch is the work of one process: start it without torchrun")
        search_image_files(images.images, images.out)  # of paths that exist
        predictor = open_predictor(task, settings, runtime)
        with alone_in(images.out):
            claim_out_folder(images.out, predictor.record(), runtime)
            predictor.load()
            watch_until_stopped(Watch(predictor, settings))
        return images.out / "index.html"


def watch_until_stopped(watch: Watch) -> None:
    """Look again and again until Ctrl-C, and write the tables and the page."""
    images = watch.settings.images
    say = watch.predictor.runtime.say
    say(f"watching {', '.join(images.images)}; Ctrl-C ends it, and what is done is kept")
    try:
        while True:
            watch.look(time.monotonic())
            time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        say("stopped by Ctrl-C: the same command goes on")
    if not watch.is_lost:  # else every row would be lost with the folder
        say_results(watch.write(), images.out)


class Watch:
    """The looks at the folders of one command.

    items: the files that the last look saw. failures: what could not be predicted, with the state
    of the file in which that was so. is_lost: whether a folder is away.
    """

    def __init__(self, predictor: Predictor, settings: Settings) -> None:
        self.predictor = predictor
        self.settings = settings
        self.arrivals = Arrivals()
        self.items: list[Item] = []
        self.failures: list[tuple[Sight, Failure]] = []
        self.is_lost = False

    def look(self, now: float) -> None:
        """Predict the whole files that are not done; tables and page follow what has changed."""
        images = self.settings.images
        try:
            self.items = search_image_files(images.images, images.out).items
        except InputError as error:  # such as a network drive that is away for a while
            if not self.is_lost:
                print(f"{error}; waiting for it", flush=True)
            self.is_lost = True
            return
        self.is_lost = False
        whole = self.arrivals.look(self.items, now)
        changed = self.forget_failures(whole)
        waiting = []
        for sight in whole:
            sight.done = is_done(sight.item, images)
            if not sight.done:
                waiting.append(sight)
        for start in range(0, len(waiting), MOST_AT_ONCE):
            batch = waiting[start : start + MOST_AT_ONCE]
            self.predict(batch, now)
            self.update(len(batch))
        if not waiting and (whole or changed):
            self.update(0)

    def update(self, looked_at: int) -> None:
        """Write tables and page after so many files and say so."""
        written = self.write()
        clock = time.strftime("%H:%M:%S")
        print(
            f"{clock}  {looked_at} new files of {len(self.items)}, {written.failed} things "
            f"failed: {written.page}",
            flush=True,
        )

    def forget_failures(self, whole: list[Sight]) -> bool:
        """Forget those of files that are gone, have changed or are due again; whether any were."""
        kept = []
        for sight, failure in self.failures:
            if self.arrivals.is_current(sight) and sight not in whole:
                kept.append((sight, failure))
        has_changed = len(kept) < len(self.failures)
        self.failures = kept
        return has_changed

    def predict(self, waiting: list[Sight], now: float) -> None:
        """Predict these files. Those that cannot be read are tried again later."""
        seen = [SeenItem(sight.item, sight.state) for sight in waiting]
        failed = predict_items(self.predictor, seen, self.settings)
        failures = {failure.image: failure for failure in failed}
        for sight in waiting:
            failure = failures.get(sight.item.name)
            sight.done = failure is None or failure.what == LEFT_OUT
            if failure is not None:
                self.failures.append((sight, failure))
            if not sight.done:
                sight.put_off(now)

    def write(self) -> Written:
        """Write tables and page of what is done by now."""
        failures = [failure for _, failure in self.failures]
        return write_results(self.predictor, self.items, failures, self.settings.images)
