"""One epoch: the steps of training with saves at times, and the validation after it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from cxr.data.dataset import XrayDataset
from cxr.data.samplers import ResumableSampler
from cxr.methods.base import Teacher
from cxr.networks.network import Network
from cxr.run_folder import FoldFolder
from cxr.settings import Settings
from cxr.steps.train.schedules import after_update
from cxr.steps.train.state import TrainingState
from cxr.system import distributed
from cxr.system.errors import InputError
from cxr.system.runtime import Runtime
from cxr.tasks import Task

CHECK_STEPS = 20  # the loss is looked at, and processes agree on the deadline, every so many steps


@dataclass(frozen=True)
class Evaluated:
    """Means over the validation images: loss terms, and the scorer's figures."""

    terms: Mapping[str, float]
    metrics: Mapping[str, float]


def sampler_of(loader: DataLoader) -> ResumableSampler:
    """The sampler that `make_train_loader` gave the loader."""
    sampler = loader.sampler
    assert isinstance(sampler, ResumableSampler)
    return sampler


def train_one_epoch(
    task: Task,
    state: TrainingState,
    network: nn.Module,
    loader: DataLoader,
    teacher: Teacher | None,
    folder: FoldFolder,
    runtime: Runtime,
) -> bool:
    """Steps from state.step to the epoch's end, saving the state at times.

    False if the deadline came first.
    """
    settings = state.settings
    sampler = sampler_of(loader)
    sampler.epoch = state.epoch
    sampler.first_batch = state.step
    steps = sampler.batches()
    state.model.train()
    if teacher:
        teacher.start()

    saved = time.monotonic()
    bar = tqdm(
        loader,
        desc=f"fold {state.fold} epoch {state.epoch + 1}/{state.epochs}",
        initial=state.step,
        total=steps,
        disable=runtime.hides_bars,
        mininterval=5,
        leave=False,
    )
    for batch in bar:
        # Forward and backward; the random numbers are those of this very step.
        seed_step(state, runtime)
        state.moment = state.epoch + state.step / steps
        further_inputs = task.method.network_inputs(batch, settings)
        batch = task.method.prepare_batch(batch.to(runtime.device), state.model, settings)
        with runtime.autocast():
            outputs = network(batch.images, *further_inputs)
        terms = task.method.loss(outputs, batch, state.model, settings)
        if teacher:
            terms |= teacher.terms()
        loss = sum_terms(terms)
        state.scaler.scale(loss / settings.training.accumulate).backward()
        state.add_step(mean_over_processes({"loss": loss, **terms}))

        # An update, as soon as all its gradients are there.
        is_last = state.step == steps
        is_whole = state.step % settings.training.accumulate == 0
        if is_whole or is_last:
            update_weights(state)
        if state.step % CHECK_STEPS == 0 or is_last:
            check_finite(state, state.mean_terms())

        # Saved at times and at the deadline, between updates only.
        if is_last or not is_whole:
            continue
        may_stop = state.step % CHECK_STEPS == 0 or runtime.world == 1
        stops = may_stop and runtime.is_past_deadline()
        if stops or time.monotonic() - saved > 60 * settings.machine.save_minutes:
            check_finite(state, state.mean_terms())
            if runtime.is_main:
                state.save(folder.last)
            saved = time.monotonic()
        if stops:
            distributed.barrier()
            return False
    return True


def seed_step(state: TrainingState, runtime: Runtime) -> None:
    """Random numbers, such as those of dropout, are functions of where the training is."""
    key = (state.settings.data.seed, state.fold, state.epoch, state.step, runtime.rank)
    torch.manual_seed(hash(key) % 2**63)


def sum_terms(terms: Mapping[str, Tensor]) -> Tensor:
    """The loss that is minimised."""
    total = sum(terms.values())
    assert isinstance(total, Tensor)
    return total


def mean_over_processes(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Means, so that the first process's state holds all there is; nothing waits for the device."""
    means = distributed.mean(torch.stack(list(values.values())).detach())
    return dict(zip(values, means, strict=True))


def update_weights(state: TrainingState) -> None:
    """One update of the weights, of the schedule and of the average."""
    state.scaler.unscale_(state.optimizer)
    clip = state.settings.training.clip
    norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), clip)
    state.norm_total = state.norm_total + norm.detach()
    state.norm_count += 1
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    after_update(state.scheduler, state.settings.training)
    if state.average is not None:
        state.average.update_parameters(state.model)


def check_finite(state: TrainingState, values: Mapping[str, float]) -> None:
    """Raises InputError with every part of the loss if one is not a number any more."""
    if all(math.isfinite(value) for value in values.values()):
        return
    raise InputError(
        f"the loss is not finite any more in epoch {state.epoch + 1}, step {state.step}: "
        f"{dict(values)}; lower --lr or use --precision fp32 (the last saved state is untouched)"
    )


@torch.inference_mode()
def evaluate_fold(
    task: Task, model: Network, settings: Settings, loader: DataLoader, runtime: Runtime
) -> Evaluated:
    """The validation images under these weights, shared out over the processes."""
    model.eval()
    totals: dict[str, Any] = {}
    images = 0
    predictions: dict[int, Any] = {}
    for batch in loader:
        batch = batch.to(runtime.device)
        with runtime.autocast():
            outputs = model(batch.images)
            outputs = task.method.add_headers(outputs, batch.headers, model)
        terms = task.method.loss(outputs, batch, model, settings)
        for name, value in {"loss": sum_terms(terms), **terms}.items():
            totals[name] = totals.get(name, 0) + value * len(batch)
        images += len(batch)
        predictions |= task.method.quick_predictions(outputs, batch, model, settings)

    # Sums and predictions of all processes.
    sums = {name: float(value) for name, value in totals.items()}
    parts = distributed.gather((sums, images, predictions))
    all_images = sum(part_images for _, part_images, _ in parts)
    means = {}
    for name in parts[0][0]:
        means[name] = sum(part_sums.get(name, 0.0) for part_sums, _, _ in parts) / all_images
    merged: dict[int, Any] = {}
    for _, _, part_predictions in parts:
        merged |= part_predictions
    dataset = loader.dataset
    assert isinstance(dataset, XrayDataset)
    labels = task.used_labels(settings)
    metrics = task.dataset.scorer.quick_score(merged, dataset.table, settings, labels)
    return Evaluated(means, metrics)
