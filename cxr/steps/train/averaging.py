"""Stochastic weight averaging at the end of a fold's training (--swa).

Izmailov et al. 2018, arXiv 1803.05407; the 2nd place of SIIM-ACR Pneumothorax averaged the troughs
of its restarts. The mean of the kept epochs is a function of their files and of the order of the
training images, so a run that was killed in the middle of it ends with the same network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from cxr.inference.checkpoint import load_state, save_state
from cxr.networks.network import batch_norms
from cxr.run_folder import FoldFolder
from cxr.steps.train.epoch import evaluate_fold, sampler_of
from cxr.steps.train.state import TrainingState
from cxr.system import distributed
from cxr.system.runtime import Runtime
from cxr.tasks import Task


def average_epochs(
    task: Task,
    state: TrainingState,
    folder: FoldFolder,
    train_loader: DataLoader,
    valid_loader: DataLoader,
    runtime: Runtime,
) -> None:
    """Write swa.pt: the mean of the kept epochs, and print its metric."""
    paths = folder.epochs()
    model = state.model
    model.load_state_dict(mean_state(paths))
    sampler = sampler_of(train_loader)
    sampler.epoch = state.epoch - 1
    sampler.first_batch = 0
    measure_statistics(model, train_loader, runtime)
    evaluated = evaluate_fold(task, model, state.settings, valid_loader, runtime)
    if runtime.is_main:
        save_state(folder.swa, state.checkpoint(model))
        epochs = ", ".join(str(number) for number in state.kept)
        metric = evaluated.metrics["metric"]
        print(f"fold {state.fold}: mean of epochs {epochs}: metric {metric:.4f}", flush=True)
    distributed.barrier()


def mean_state(paths: Sequence[Path]) -> dict[str, Any]:
    """The mean of the weights in some checkpoints; counts are those of the last one."""
    totals: dict[str, Tensor] = {}
    last: dict[str, Tensor] = {}
    for path in paths:
        last = load_state(path)["model"]
        for name, value in last.items():
            if value.is_floating_point():
                totals[name] = totals.get(name, 0) + value.double()
    means = dict(last)
    for name, total in totals.items():
        means[name] = (total / len(paths)).to(last[name].dtype)
    return means


@torch.no_grad()
def measure_statistics(model: nn.Module, loader: DataLoader, runtime: Runtime) -> None:
    """Means over an epoch of training images for the batch norms that learn.

    torch's own update_bn would also forget the statistics of a pretrained encoder, which are
    frozen. All else is as in prediction: no dropout.
    """
    model.train()
    norms = [norm for norm in batch_norms(model) if norm.training]
    model.eval()
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
        norm.momentum = None  # the mean over all batches
    bar = tqdm(loader, desc="statistics", disable=runtime.hides_bars, mininterval=5, leave=False)
    for batch in bar:
        with runtime.autocast():
            model(batch.to(runtime.device).images)
    for norm in norms:
        for statistics in (norm.running_mean, norm.running_var):
            if statistics is not None:
                distributed.mean(statistics)
