"""Training of the folds: epochs, checkpoints, exact resume.

All random numbers are functions of (seed, fold, epoch, step, process), and the state is written
whole, so a run that was killed anywhere ends with the weights of one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pandas as pd
from torch.utils.data import DataLoader

from cxr.data.dataset import XrayDataset
from cxr.data.loader import check_shared_memory, count_workers, make_loader
from cxr.data.samplers import ResumableSampler
from cxr.data.tables import read_table, split_fold
from cxr.inference.checkpoint import save_state
from cxr.inference.lung_crops import with_crops
from cxr.run_folder import FoldFolder, RunFolder
from cxr.settings import Settings
from cxr.steps.train import schedules
from cxr.steps.train.averaging import average_epochs
from cxr.steps.train.encoder_weights import EncoderRun, check_patients
from cxr.steps.train.epoch import (
    Evaluated,
    check_finite,
    evaluate_fold,
    sampler_of,
    train_one_epoch,
)
from cxr.steps.train.further_images import FoldTables, with_pseudo_labels
from cxr.steps.train.joined import JoinedNetwork
from cxr.steps.train.pretraining import learned_weights, lesson_settings, lesson_table
from cxr.steps.train.side_by_side import folds_at_a_time, train_side_by_side
from cxr.steps.train.state import TrainingState
from cxr.system import distributed
from cxr.system.disk import read_json, write_json
from cxr.system.errors import STOPPED, InputError
from cxr.system.manifest import make_manifest
from cxr.system.metric_log import EpochFigures, MetricLog
from cxr.system.runtime import Runtime, open_runtime
from cxr.system.tracker import TrackedFold, choose_tracker, open_tracker
from cxr.tasks import Task

AfterEpoch = Callable[[int, float], None]  # of the epoch's number, from 1, and its metric
LET_GO = 20  # seconds until the loader's processes of a training that was killed have noticed it


def train_folds(task: Task, settings: Settings, after_epoch: AfterEpoch | None = None) -> int:
    """Train the wanted folds, one after the other or several at a time.

    after_epoch(number, metric) is called after each epoch of a fold, which is saved by then; what
    it raises ends the training, and the same settings go on with it later.
    Returns 0, or STOPPED when --max-hours came first.
    """
    if settings.prediction.blend:
        print("--blend: nothing is trained, step 04 mixes the predictions of finished runs")
        return 0
    # Whatever can be refused is refused before anything is written.
    task.check(settings)
    choose_tracker(settings.machine.tracker)
    run = RunFolder.of(settings.place)
    if run.blend.exists():
        raise InputError(f"{run.path} is a blend of other runs: train with another --run")
    table = task.select_rows(read_table(run.task.table("train")), settings)
    folds = settings.wanted_folds()
    for fold in folds:
        split_fold(table, fold)

    with open_runtime(settings.machine) as runtime:
        runtime.say(f"run {run.path}: {settings.training.encoder}, {runtime.describe()}")
        say_enlarged(settings, run, runtime)
        if settings.training.pretrain and EncoderRun.of(settings) is not None:
            raise InputError(
                f"--pretrain and --weights {settings.training.weights} both say where the weights "
                "begin: leave one out"
            )
        if needs_first_lessons(settings, run, folds):
            status = train_first_lessons(task, settings, runtime)
            if status:
                return status
        count = folds_at_a_time(settings, folds, runtime)
        if count > 1:
            return train_side_by_side(train_folds, task, settings, folds, count, runtime)
        for fold in folds:
            say_pretraining(task, settings, table, fold, runtime)
            tables = fold_tables(task, settings, table, fold, runtime)
            with distributed.alone_together(run.fold(fold).path, LET_GO):
                status = train_fold(task, settings, fold, tables, runtime, after_epoch)
            if status:
                return status
    return 0


def say_enlarged(settings: Settings, run: RunFolder, runtime: Runtime) -> None:
    """Say so where the network sees more pixels than step 02 has kept."""
    record = run.task.preprocess_record
    stored = read_json(record).get("size") if record.exists() else None
    image_size = settings.training.image_size
    if stored and image_size > stored:
        runtime.say(
            f"note: pictures are stored with {stored} pixels and enlarged to {image_size}, which "
            f"adds no detail: run step 02 with --size {image_size} into another --working for it"
        )


def say_pretraining(
    task: Task, settings: Settings, table: pd.DataFrame, fold: int, runtime: Runtime
) -> None:
    """Before a fold begins: say what the run of --weights has learned.

    Raises InputError where that is what the fold is judged on.
    """
    begun = RunFolder.of(settings.place).fold(fold).last.exists()
    if begun or settings.training.start:
        return
    sentence = check_patients(task, settings, table, fold)
    if sentence:
        runtime.say(f"fold {fold}: {sentence}")


def needs_first_lessons(settings: Settings, run: RunFolder, folds: list[int]) -> bool:
    """Whether a fold is still to begin, and would do so from synthetic X-rays."""
    if not settings.training.pretrain or settings.training.start:
        return False
    return not all(run.fold(fold).last.exists() for fold in folds)


def train_first_lessons(task: Task, settings: Settings, runtime: Runtime) -> int:
    """Train on synthetic X-rays what all folds start from. Returns 0, or STOPPED."""
    lessons = lesson_settings(task, settings)
    working = lessons.place.working
    with distributed.alone_together(working):
        if distributed.any_of(learned_weights(task, settings).exists()):
            return 0
        runtime.say(
            f"first lessons from {settings.training.pretrain} synthetic X-rays, once for all "
            f"folds, in {working}"
        )
        table = lesson_table(task, lessons, runtime)
        fold = lessons.wanted_folds()[0]
        tables = fold_tables(task, lessons, table, fold, runtime)
        return train_fold(task, lessons, fold, tables, runtime)


def fold_tables(
    task: Task, settings: Settings, table: pd.DataFrame, fold: int, runtime: Runtime
) -> FoldTables:
    """The fold's rows, with what --pseudo adds and the boxes of --lungs."""
    train, valid = split_fold(table, fold)
    if settings.method.pseudo:
        train = with_pseudo_labels(task, settings, FoldTables(train, valid), fold, runtime)
    lungs = settings.method.lungs
    if lungs:
        folder = RunFolder.of(settings.place).task
        workers = settings.machine.workers
        train = with_crops(train, folder, lungs, runtime, workers)
        valid = with_crops(valid, folder, lungs, runtime, workers)
    return FoldTables(train, valid)


def train_fold(
    task: Task,
    settings: Settings,
    fold: int,
    tables: FoldTables,
    runtime: Runtime,
    after_epoch: AfterEpoch | None = None,
) -> int:
    """Train one fold to its end or to the deadline, from scratch or from where it stopped.

    Returns 0, or STOPPED.
    """
    folder = RunFolder.of(settings.place).fold(fold)
    refuse_other_settings(folder, task, settings)
    resuming = folder.last.exists()
    check_shared_memory(batch_bytes(settings), count_workers(settings.machine.workers))
    train_loader = make_train_loader(task, settings, tables.train, runtime)
    valid_loader = make_valid_loader(task, settings, tables.valid, runtime)
    sampler = sampler_of(train_loader)
    updates = count_updates(sampler, settings)
    state = TrainingState(task, settings, fold, runtime, updates, resuming)
    if resuming:
        state.load(folder.last)
    averages = settings.training.swa and not distributed.any_of(folder.swa.exists())
    if state.done and not averages:
        runtime.say(f"fold {fold}: {folder.path} is finished, nothing to do")
        return 0
    if resuming:
        runtime.say(f"fold {fold}: goes on at epoch {state.epoch + 1}, step {state.step}")
    if runtime.is_main:
        if not folder.config.exists():  # from now on this is a run: its network could be built
            folder.write_config(settings.plain())
        write_json(folder.manifest, make_manifest(runtime.describe()))

    joined = JoinedNetwork(state.model, task.method, settings, runtime)
    teacher = task.method.make_teacher(state, settings, sampler)
    stopped = False
    with open_log(folder, state, runtime) as log:
        while not state.done and not stopped:
            # One pass over the fold's images; a stop in the middle is saved and ends here.
            start = time.monotonic()
            first_step = state.step
            state.freeze_as_due()
            network = joined.now()
            finished = train_one_epoch(task, state, network, train_loader, teacher, folder, runtime)
            if finished:
                # How well the evaluated weights do on images that the fold did not learn from.
                seconds = time.monotonic() - start
                images = (state.step - first_step) * settings.training.batch_size * runtime.world
                distributed.share_buffers(state.evaluated())
                evaluated = evaluate_fold(task, state.evaluated(), settings, valid_loader, runtime)
                figures = epoch_figures(state, evaluated, sampler, seconds, images)
                finish_epoch(task, state, figures, folder, log)
                if after_epoch is not None:
                    after_epoch(state.epoch, figures.metrics["metric"])
            stopped = not finished or runtime.is_past_deadline()
        distributed.barrier()  # nobody goes on before the first process has written everything
    if state.done:
        if averages:
            average_epochs(task, state, folder, train_loader, valid_loader, runtime)
        return 0
    runtime.say(
        f"fold {fold}: stopped by --max-hours in epoch {state.epoch + 1}; everything is saved, the "
        "same command goes on from here"
    )
    return STOPPED


def refuse_other_settings(folder: FoldFolder, task: Task, settings: Settings) -> None:
    """Raises InputError if the folder holds a run with other settings."""
    if not folder.config.exists():
        return
    old = folder.read_config()
    # A setting that is younger than the run had its usual value.
    usual = task.make_settings({}).plain()
    before = usual | old
    now = settings.plain()
    changed = [name for name in settings.training_values() if before[name] != now[name]]
    if old["task"] != task.name or changed:
        raise InputError(
            f"{folder.path} holds a run of task {old['task']} with other settings "
            f"({', '.join(changed)}): choose another name with --run, or delete the folder"
        )


def batch_bytes(settings: Settings) -> int:
    """About what a batch takes: a picture and a mask for each image, a byte a pixel."""
    training = settings.training
    return 2 * training.batch_size * training.image_size**2


def make_train_loader(
    task: Task, settings: Settings, table: pd.DataFrame, runtime: Runtime
) -> DataLoader:
    """Augmented samples with what the losses want to know of them."""
    sampler = task.method.train_sampler(table, settings, runtime)
    dataset = XrayDataset(
        table,
        RunFolder.of(settings.place).task.images,
        settings.training.image_size,
        task.method.sample_content(settings),
        augmentation=settings.training.augmentation,
        seed=settings.data.seed,
        make_target=task.method.make_target(settings),
        paste=settings.method.paste,
        clahe=settings.method.clahe,
        edge_noise=settings.method.edge_noise,
    )
    workers = count_workers(settings.machine.workers)
    return make_loader(dataset, sampler, workers, runtime.pins_memory)


def make_valid_loader(
    task: Task, settings: Settings, table: pd.DataFrame, runtime: Runtime
) -> DataLoader:
    """The validation images as they are, in order."""
    sampler = ResumableSampler(
        len(table),
        settings.training.batch_size,
        settings.data.seed,
        shuffle=False,
        rank=runtime.rank,
        world=runtime.world,
    )
    content = task.method.valid_content(settings)
    dataset = XrayDataset(
        table,
        RunFolder.of(settings.place).task.images,
        settings.training.image_size,
        content,
        seed=settings.data.seed,
        make_target=task.method.make_target(settings),
        clahe=settings.method.clahe,
    )
    workers = min(count_workers(settings.machine.workers), 2)
    return make_loader(dataset, sampler, workers, runtime.pins_memory)


def count_updates(sampler: ResumableSampler, settings: Settings) -> int:
    """Updates of all epochs, which may differ in length (shares of positives, pseudo labels)."""
    total = 0
    for epoch in range(settings.training.epochs):
        sampler.epoch = epoch
        total += -(-sampler.batches() // settings.training.accumulate)
    sampler.epoch = 0
    return total


def open_log(
    folder: FoldFolder, state: TrainingState, runtime: Runtime
) -> AbstractContextManager[MetricLog | None]:
    """The log of the first process; the others write none."""
    if not runtime.is_main:
        return nullcontext()
    settings = state.settings
    tracked = TrackedFold(
        task=settings.place.task,
        run=settings.place.run,
        fold=state.fold,
        settings=settings.plain(),
        record=folder.tracked,
        store=settings.place.working,
    )
    tracker = open_tracker(choose_tracker(settings.machine.tracker), tracked)
    return MetricLog(folder.log, state.epoch + 1, tracker)


def epoch_figures(
    state: TrainingState,
    evaluated: Evaluated,
    sampler: ResumableSampler,
    seconds: float,
    images: int,
) -> EpochFigures:
    """All that is logged of the epoch that has just been trained and evaluated."""
    return EpochFigures(
        epoch=state.epoch + 1,
        lr=state.optimizer.param_groups[0]["lr"],
        gradient_norm=state.mean_gradient_norm(),
        train=state.mean_terms(),
        valid=evaluated.terms,
        metrics=evaluated.metrics,
        seconds=round(seconds, 2),
        images_per_second=round(images / seconds, 2),
        sampling=sampler.facts(),
    )


def finish_epoch(
    task: Task,
    state: TrainingState,
    figures: EpochFigures,
    folder: FoldFolder,
    log: MetricLog | None,
) -> None:
    """Schedule, early stopping, log and checkpoints; the state moves on to the next epoch."""
    check_finite(state, figures.valid)
    training = state.settings.training
    results = {f"valid_{name}": value for name, value in figures.valid.items()}
    results |= figures.metrics
    schedules.after_epoch(state.scheduler, training, results, task.method.plateau_term)
    is_best = state.next_epoch(figures.metrics["metric"])
    if log is None:
        return
    log.write(figures)
    keep_checkpoints(state, folder, is_best)
    line = figures.line(task.dataset.scorer.logged)
    print(f"fold {state.fold} epoch {state.epoch}/{state.epochs}: {line}", flush=True)


def keep_checkpoints(state: TrainingState, folder: FoldFolder, is_best: bool) -> None:
    """epoch<N>.pt of the epochs that are kept, best.pt, and last.pt at the very end.

    Where last.pt is, all that belongs to its epoch is there.
    """
    checkpoint = state.checkpoint(state.evaluated())
    save_state(folder.epoch(state.epoch), checkpoint)
    if is_best:
        save_state(folder.best, checkpoint)
    # An older version, whose state this may go on from, kept fewer.
    state.kept = [number for number in state.kept if folder.epoch(number).exists()]
    kept = [folder.epoch(number) for number in state.kept]
    for old in folder.epochs():
        if old not in kept:
            old.unlink()
    state.save(folder.last)
