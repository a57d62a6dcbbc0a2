"""Training of one fold: epochs, checkpoints, exact resume. Knows tensors and the task it is handed.

All random numbers are functions of (seed, fold, epoch, step, process), and the state is written whole, so a run that
was killed anywhere ends with the weights of one that was not.
"""

import csv
import math
import time
from dataclasses import replace

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from cxr.config import STOPPED, flags
from cxr.data.dataset import (
    ResumableSampler,
    XrayDataset,
    count_workers,
    make_loader,
    read_table,
    split_fold,
)
from cxr.inference.checkpoint import plain_config, save_state
from cxr.inference.lung_crops import with_crops
from cxr.inference.run import predict_test_by_fold, views_of
from cxr.methods.segmenter.mean_teacher import MeanTeacher
from cxr.steps.train.manifest import manifest
from cxr.steps.train.pretraining import first_lessons, learned_weights, lesson_table
from cxr.steps.train.schedules import after_epoch, after_update
from cxr.steps.train.state import Training
from cxr.system import distributed
from cxr.system.device import autocast, choose_device, choose_precision, describe
from cxr.system.disk import InputError, atomic, read_json, write_json

LET_GO = 20  # seconds until the loader's processes of a training that was killed have noticed it


def train_folds(task, config):
    """Train the wanted folds one after the other. Returns 0, or STOPPED when --max-hours came first."""
    deadline = time.monotonic() + 3600 * config.max_hours if config.max_hours else None
    table = task.select(read_table(config.task_dir / "train.csv"), config)
    views_of(task, config)  # what step 04 would refuse is said now and not after the training
    folds = config.wanted_folds()
    for fold in folds:
        split_fold(table, fold)
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    with distributed.process_group(device.type):
        if distributed.rank() == 0:
            print(
                f"run {config.run_dir}: {config.encoder}, {describe(device, precision)}", flush=True
            )
        begun = all((config.fold_dir(fold) / "last.pt").exists() for fold in folds)
        if config.pretrain and not config.start and not begun:
            status = pretrain(task, config, device, precision, deadline)
            if status:
                return status
        for fold in folds:
            tables = training_tables(task, config, table, fold, device, precision)
            with distributed.alone(config.fold_dir(fold), LET_GO):
                status = fit(task, config, fold, tables, device, precision, deadline)
            if status:
                return status
    return 0


def pretrain(task, config, device, precision, deadline):
    """Train on synthetic X-rays what all folds start from. Returns 0, or STOPPED."""
    first = first_lessons(config)
    with distributed.alone(first.working):
        if distributed.any_of(learned_weights(config).exists()):
            return 0
        if distributed.rank() == 0:
            print(
                f"first lessons from {config.pretrain} synthetic X-rays, once for all folds, in {first.working}",
                flush=True,
            )
        tables = training_tables(
            task, first, lesson_table(task, first), first.fold, device, precision
        )
        return fit(task, first, first.fold, tables, device, precision, deadline)


def training_tables(task, config, table, fold, device, precision):
    """(training rows with what --pseudo adds, validation rows), both with the boxes of --lungs."""
    train, valid = split_fold(table, fold)
    if config.pseudo:
        teacher = replace(config, run=config.pseudo, merge=(), explicit=())
        train = task.add_pseudo(train, predict_test_by_fold(task, teacher, fold, device, precision))
    tables = train, valid
    return (
        tuple(with_crops(part, config, config.lungs, device) for part in tables)
        if config.lungs
        else tables
    )


def fit(task, config, fold, tables, device, precision, deadline):
    """Train one fold to its end or to the deadline (seconds of time.monotonic). Returns 0, or STOPPED."""
    folder, main = config.fold_dir(fold), distributed.rank() == 0
    resuming = prepare_folder(folder, task, config, main)
    loaders = make_loaders(task, config, tables, device)
    state = Training(
        task, config, fold, device, precision, updates_of_run(loaders[0].sampler, config), resuming
    )
    if resuming:
        state.load(folder / "last.pt")
    if state.done:
        print(f"fold {fold}: {folder} is finished, nothing to do") if main else None
        return 0
    if resuming and main:
        print(f"fold {fold}: goes on at epoch {state.epoch + 1}, step {state.step}")
    if main:
        write_json(folder / "manifest.json", manifest(device, precision))
    writer = (
        SummaryWriter(folder, purge_step=state.epoch + 1) if main else None
    )  # epochs count from 1 there
    network = torch.compile(state.model) if config.compile else state.model
    if distributed.world() > 1:
        network = DistributedDataParallel(network, find_unused_parameters=True)
    teacher = MeanTeacher(state, loaders[0].sampler) if config.unlabelled else None
    stopped = False
    while not (state.done or stopped):
        start, first_step = time.monotonic(), state.step
        if train_one_epoch(task, state, network, loaders[0], teacher, folder, deadline):
            speed = measure_speed(state.step - first_step, time.monotonic() - start, config)
            distributed.share_buffers(state.evaluated())
            results = evaluate(task, state.evaluated(), loaders[1], config, device, precision)
            finish_epoch(task, state, results, loaders[0].sampler.facts() | speed, folder, writer)
        stopped = passed(deadline)
    distributed.barrier()  # nobody goes on before the first process has written everything
    if main:
        writer.close()
    if main and not state.done:
        print(
            f"fold {fold}: stopped by --max-hours in epoch {state.epoch + 1}; everything is saved, the same command "
            "goes on from here"
        )
    return 0 if state.done else STOPPED


def passed(deadline):
    """True on every process if the deadline (seconds of time.monotonic, or None) has passed on one."""
    return deadline is not None and distributed.any_of(time.monotonic() > deadline)


def measure_speed(steps, seconds, config):
    rate = steps * config.batch_size * distributed.world() / seconds
    return {"seconds": round(seconds, 2), "images_per_second": round(rate, 2)}


def prepare_folder(folder, task, config, main):
    """True if a run is to be continued. Raises InputError if the folder holds a run with other settings."""
    settings = plain_config(config)
    if (folder / "config.json").exists():
        old = read_json(folder / "config.json")
        before = {
            f.name: f.default for f in flags()
        } | old  # a setting that is younger than the run had its default
        changed = [k for k in config.training_settings() if before[k] != settings[k]]
        if old["task"] != task.name or changed:
            raise InputError(
                f"{folder} holds a run of task {old['task']} with other settings ({', '.join(changed)}): "
                "choose another name with --run, or delete the folder"
            )
    elif main:
        write_json(folder / "config.json", settings)
    distributed.barrier()
    return (folder / "last.pt").exists()


def make_loaders(task, config, tables, device):
    workers, seed, share = (
        count_workers(config.workers),
        config.seed,
        (distributed.rank(), distributed.world()),
    )
    targets, samplers = (
        task.targets(config),
        (
            task.sampler(tables[0], config, *share),
            ResumableSampler(len(tables[1]), config.batch_size, seed, False, *share),
        ),
    )
    loaders = []
    for table, sampler, augmentation, paste in zip(
        tables, samplers, (config.augmentation, "1"), (config.paste, 0.0)
    ):
        dataset = XrayDataset(
            table, config.task_dir / "images", config.image_size, augmentation, seed, targets, paste
        )
        processes = workers if table is tables[0] else min(workers, 2)
        loaders.append(make_loader(dataset, sampler, processes, device.type == "cuda"))
    return loaders


def updates_of_run(sampler, config):
    """Updates of all epochs, which may differ in length (shares of positives, pseudo labels)."""
    total = 0
    for sampler.epoch in range(config.epochs):
        total += -(-sampler.batches() // config.accumulate)
    sampler.epoch = 0
    return total


def to_device(batch, device):
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


def train_one_epoch(task, state, network, loader, teacher, folder, deadline):
    """Steps from state.step to the epoch's end, saving the state at times; False if the deadline came first."""
    config, device, main = state.config, state.device, distributed.rank() == 0
    loader.sampler.epoch, loader.sampler.first_batch = state.epoch, state.step
    steps = loader.sampler.batches()
    state.model.train()
    if state.model.pretrained:
        state.model.freeze_encoder(state.epoch < config.freeze_epochs)
    if teacher:
        teacher.start()
    saved = time.monotonic()
    bar = tqdm(
        loader,
        desc=f"fold {state.fold} epoch {state.epoch + 1}/{config.epochs}",
        initial=state.step,
        total=steps,
        disable=not main,
        mininterval=5,
        leave=False,
    )
    for batch in bar:
        torch.manual_seed(
            hash((config.seed, state.fold, state.epoch, state.step, distributed.rank())) % 2**63
        )
        state.moment = state.epoch + state.step / steps
        more = task.network_inputs(batch, config)
        batch = to_device(batch, device)
        with autocast(device, state.precision):
            outputs = network(batch["image"], *more)
        terms = task.loss(outputs, batch, state.model, config) | (
            teacher.terms() if teacher else {}
        )
        loss = sum(terms.values())
        state.scaler.scale(loss / config.accumulate).backward()
        add_to_totals(state, {"loss": loss, **terms})
        state.step += 1
        last = state.step == steps
        if state.step % config.accumulate == 0 or last:
            update(state)
        if state.step % 20 == 0 or last:
            check_finite(state, mean_terms(state))
        whole = state.step % config.accumulate == 0
        asked = (
            state.step % 20 == 0 or distributed.world() == 1
        )  # several processes wait for each other to agree
        stop = whole and not last and asked and passed(deadline)
        if stop or (whole and not last and time.monotonic() - saved > 60 * config.save_minutes):
            check_finite(state, mean_terms(state))
            state.save(folder / "last.pt") if main else None
            saved = time.monotonic()
        if stop:
            distributed.barrier()
            return False
    return True


def add_to_totals(state, values):
    """Means over the processes, so that the first one's state holds all there is; nothing waits for the device."""
    means = distributed.mean(torch.stack(list(values.values())).detach())
    for name, value in zip(values, means):
        state.totals[name] = state.totals.get(name, 0) + value


def update(state):
    state.scaler.unscale_(state.optimizer)
    torch.nn.utils.clip_grad_norm_(state.model.parameters(), state.config.clip)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    after_update(state.scheduler, state.config)
    if state.average:
        state.average.update_parameters(state.model)


def mean_terms(state):
    return {name: float(value) / state.step for name, value in state.totals.items()}


def check_finite(state, values):
    """Raises InputError with every part of the loss if one is not a number any more."""
    if not all(math.isfinite(value) for value in values.values()):
        raise InputError(
            f"the loss is not finite any more in epoch {state.epoch + 1}, step {state.step}: {values}; "
            "lower --lr or use --precision fp32 (the last saved state is untouched)"
        )


@torch.inference_mode()
def evaluate(task, model, loader, config, device, precision):
    """{'valid_<term>': mean over the images, 'metric': ..., ...} of the validation table."""
    model.eval()
    totals, count, predictions = {}, 0, {}
    for batch in loader:
        batch = to_device(batch, device)
        with autocast(device, precision):
            outputs = model(batch["image"])
        terms = task.loss(outputs, batch, model, config)
        for name, value in {"loss": sum(terms.values()), **terms}.items():
            totals[name] = totals.get(name, 0) + value * len(batch["image"])
        count += len(batch["image"])
        predictions |= task.quick_predictions(outputs, batch, model)
    parts = distributed.gather(({k: float(v) for k, v in totals.items()}, count, predictions))
    images = sum(part[1] for part in parts)
    results = {
        f"valid_{k}": sum(part[0].get(k, 0.0) for part in parts) / images for k in parts[0][0]
    }
    merged = {index: found for part in parts for index, found in part[2].items()}
    return results | task.quick_score(merged, loader.dataset.table, config)


def finish_epoch(task, state, results, facts, folder, writer):
    """Schedule, log, checkpoints, early stopping; the state moves on to the next epoch. `facts`: more for the log."""
    check_finite(
        state, {name: value for name, value in results.items() if name.startswith("valid_")}
    )
    config, main = state.config, distributed.rank() == 0
    lr = state.optimizer.param_groups[0]["lr"]
    means = {f"train_{name}": value for name, value in mean_terms(state).items()}
    after_epoch(state.scheduler, config, results, task.plateau_term)
    state.epoch, state.step, state.totals = state.epoch + 1, 0, {}
    better = results["metric"] > state.best
    if better:
        state.best, state.best_epoch = results["metric"], state.epoch
    waited = state.epoch - max(state.best_epoch, 0)
    state.done = state.epoch >= config.epochs or (config.patience > 0 and waited >= config.patience)
    if not main:
        return
    row = {"epoch": state.epoch, "lr": lr, **means, **results, **facts}
    write_log(folder / "log.csv", row)
    for name, value in row.items():
        writer.add_scalar(name.replace("_", "/", 1), value, state.epoch)
    writer.flush()
    keep_checkpoints(task, state, folder, better)
    judged = ", ".join(f"{name.replace('_', ' ')} {results[name]:.4f}" for name in task.logged)
    print(
        f"fold {state.fold} epoch {state.epoch}/{config.epochs}: train {means['train_loss']:.4f}, valid "
        f"{results['valid_loss']:.4f}, {judged}, {facts['images_per_second']:.1f} images/s",
        flush=True,
    )


def keep_checkpoints(task, state, folder, better):
    """epoch<N>.pt of the last `keep` epochs, best.pt, and last.pt at the very end: where it is, all of it is there."""
    weights = {
        "task": task.name,
        "config": plain_config(state.config),
        "fold": state.fold,
        "epoch": state.epoch,
        "model": state.evaluated().state_dict(),
    }
    save_state(folder / f"epoch{state.epoch:03d}.pt", weights)
    if better:
        save_state(folder / "best.pt", weights)
    for old in sorted(folder.glob("epoch*.pt"))[: -state.config.keep]:
        old.unlink()
    state.save(folder / "last.pt")


def write_log(path, row):
    """Add a row to a csv file; rows of this and later epochs are replaced, since a resumed run trains them again."""
    rows = []
    if path.exists():
        with open(path, newline="", encoding="utf-8") as file:
            rows = [old for old in csv.DictReader(file) if int(old["epoch"]) < row["epoch"]]
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        names = dict.fromkeys(
            [*(rows[0] if rows else ()), *row]
        )  # another version may have logged other things
        writer = csv.DictWriter(file, fieldnames=list(names), restval="")
        writer.writeheader()
        writer.writerows([*rows, row])
