"""The state of one fold's training: weights, their average, optimizer, schedule, place in it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from cxr.inference.checkpoint import load_state, save_state
from cxr.inference.run_archive import names_archive, unpack_run
from cxr.networks.depthwise import train_depthwise_in_fp32
from cxr.networks.excitation import train_excitation_in_one_pass
from cxr.networks.fused import fold_frozen_norms
from cxr.networks.grouped import train_in_merged_groups
from cxr.networks.network import Network
from cxr.run_folder import RunFolder
from cxr.settings import Settings, TrainingSettings
from cxr.steps.train.encoder_weights import EncoderRun, restore_scale
from cxr.steps.train.pretraining import learned_weights
from cxr.steps.train.schedules import count_epochs, kept_epochs, make_scheduler, may_end
from cxr.system.errors import InputError, first_line
from cxr.system.runtime import Runtime
from cxr.tasks import Task

MOMENTUM = 0.9  # of SGD, the usual value
# What the state remembers beside its parts; the second line may be missing in files of older
# versions.
PROGRESS = ("epoch", "step", "best", "best_epoch", "done", "totals")
FURTHER_PROGRESS = ("norm_total", "norm_count", "world", "metrics", "kept")


class TrainingState:
    """Everything that changes while a fold trains, as one state that can be saved and loaded.

    epoch, step: how many are complete. moment: epochs since the start, with the present one's
    part. totals: {term: sum over the steps of the present epoch}. metrics: of each complete epoch;
    nan where an older version did not write it down. kept: the epochs, counted from 1, whose
    checkpoints are kept.
    """

    def __init__(
        self,
        task: Task,
        settings: Settings,
        fold: int,
        runtime: Runtime,
        updates: int,
        resuming: bool,
    ) -> None:
        """updates: of the whole run, for the schedule. resuming: `load` will bring the weights."""
        training = settings.training
        self.task_name = task.name
        self.settings = settings
        self.fold = fold
        self.runtime = runtime
        self.teacher_decay = task.method.teacher_decay(settings)

        torch.manual_seed(settings.data.seed * 1000 + fold)
        starts_elsewhere = bool(training.start or training.pretrain)
        loads = not (resuming or starts_elsewhere)
        encoder_run = EncoderRun.of(settings) if loads else None
        first = settings
        if encoder_run is not None:
            first = settings.replace(weights=str(encoder_run.checkpoint(settings, fold)))
        self.model: Network = task.method.build_model(
            first, task.used_labels(settings), load_weights=loads
        )
        if encoder_run is not None:
            restore_scale(self.model, encoder_run.checkpoint(settings, fold))
        if starts_elsewhere and not resuming:
            load_first_weights(self.model, task, settings, fold)
        self.model.to(runtime.device, memory_format=runtime.training_format)  # type: ignore[call-overload]
        if training.frozen_stages and (self.model.pretrained or starts_elsewhere):
            self.model.freeze_stages(training.frozen_stages)
        if runtime.device.type == "cpu" and runtime.precision == "bf16":
            depthwise = train_depthwise_in_fp32(self.model)
            train_in_merged_groups(self.model)
            train_excitation_in_one_pass(self.model)
            # Beside depthwise convolutions folding brought nothing (0.99 times).
            if self.model.pretrained and not depthwise:
                fold_frozen_norms(self.model)

        self.average: AveragedModel | None = None
        if training.ema or self.teacher_decay:
            update = moving_average(self.decay, self.count_averaged)
            self.average = AveragedModel(self.model, multi_avg_fn=update, use_buffers=True)
        self.optimizer = make_optimizer(self.model, training, runtime.device)
        self.scheduler = make_scheduler(self.optimizer, training, updates)
        self.scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.precision == "fp16")

        self.epochs = count_epochs(training)
        self.epoch = 0
        self.step = 0
        self.metrics: list[float] = []
        self.kept: list[int] = []
        self.best = -math.inf
        self.best_epoch = -1
        self.done = False
        self.totals: dict[str, Tensor | float] = {}
        self.norm_total: Tensor | float = 0.0
        self.norm_count = 0
        self.world = runtime.world
        self.moment = 0.0

    def evaluated(self) -> Network:
        """The weights that are validated and kept: the moving average where one is asked for.

        (The 5th place of SIIM-ACR Pneumothorax kept the student of its mean teacher.)
        """
        if self.settings.training.ema and self.average is not None:
            return self.average.module  # type: ignore[return-value]
        return self.model

    def freeze_as_due(self) -> None:
        """Freeze a pretrained encoder for its first epochs, and let it learn afterwards."""
        if self.model.pretrained:
            self.model.freeze_encoder(self.epoch < self.settings.training.freeze_epochs)

    def decay(self, updates: int) -> float:
        """Decay of the average after some updates; a teacher has its own way to choose it.

        It grows with the number of updates, so that short runs are not all past.
        """
        if self.teacher_decay:
            return self.teacher_decay(self.moment, updates)
        training = self.settings.training
        if self.epoch + 1 < training.ema_from:
            return 0.0
        return min(training.ema, (1 + updates) / (10 + updates))

    def count_averaged(self) -> int:
        """Updates of the average so far."""
        assert self.average is not None
        return int(self.average.n_averaged)

    def add_step(self, terms: dict[str, Tensor]) -> None:
        """Count a step with its loss terms (means over the processes)."""
        for name, value in terms.items():
            self.totals[name] = self.totals.get(name, 0) + value
        self.step += 1

    def mean_terms(self) -> dict[str, float]:
        """Mean of each loss term over the steps of the present epoch so far."""
        return {name: float(value) / self.step for name, value in self.totals.items()}

    def mean_gradient_norm(self) -> float:
        """Mean over the updates of the present epoch so far, before clipping."""
        return float(self.norm_total) / max(1, self.norm_count)

    def next_epoch(self, metric: float) -> bool:
        """Move on to the next epoch; True if this one was the best by its metric."""
        training = self.settings.training
        self.epoch += 1
        self.step = 0
        self.totals = {}
        self.norm_total = 0.0
        self.norm_count = 0
        is_best = metric > self.best
        if is_best:
            self.best = metric
            self.best_epoch = self.epoch
        self.metrics.append(metric)
        self.kept = kept_epochs(training, self.metrics)
        waited = self.epoch - max(self.best_epoch, 0)
        is_stuck = training.patience > 0 and waited >= training.patience
        self.done = self.epoch >= self.epochs or (is_stuck and may_end(training, self.epoch))
        return is_best

    def checkpoint(self, network: Network) -> dict[str, Any]:
        """All that prediction needs of a network of this training."""
        return {
            "task": self.task_name,
            "config": self.settings.plain(),
            "fold": self.fold,
            "epoch": self.epoch,
            "input_scale": list(self.model.scale),
            "model": network.state_dict(),
        }

    def parts(self) -> dict[str, Any]:
        parts = {
            "model": self.model,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "scaler": self.scaler,
        }
        if self.average is not None:
            parts["average"] = self.average
        return parts

    def save(self, path: Path) -> None:
        state = {name: part.state_dict() for name, part in self.parts().items()}
        for name in (*PROGRESS, *FURTHER_PROGRESS):
            state[name] = getattr(self, name)
        state["input_scale"] = list(self.model.scale)
        save_state(path, state)

    def load(self, path: Path) -> None:
        """Go on from a saved state. Raises InputError where it is of another kind."""
        state = load_state(path, self.runtime.device)
        if not {*self.parts(), *PROGRESS} <= state.keys():
            raise InputError(
                f"{path} is not a training state of this run: delete {path.parent} and run step 03 "
                "again"
            )
        for name, part in self.parts().items():
            part.load_state_dict(state[name])
        networks = [self.model]
        if self.average is not None:
            networks.append(self.average.module)  # type: ignore[arg-type]
        for network in networks:
            network.restore_scale(state.get("input_scale"))
        for name in PROGRESS:
            setattr(self, name, state[name])
        for name in FURTHER_PROGRESS:
            setattr(self, name, state.get(name, getattr(self, name)))
        if len(self.metrics) < self.epoch:
            self.metrics = [math.nan] * self.epoch
        if self.world != self.runtime.world and not self.done:
            raise InputError(
                f"{path} was written by {self.world} processes, which share the images of an epoch "
                f"otherwise than {self.runtime.world} do: go on with --nproc-per-node {self.world}"
            )


def make_optimizer(model: Network, training: TrainingSettings, device: torch.device) -> Optimizer:
    """The optimizer of --optimizer; with --encoder-lr the encoder is a group of its own."""
    parameters: Any = model.parameters()
    if training.encoder_lr != 1:
        of_encoder = list(model.encoder.parameters())
        known = set(of_encoder)
        others = [parameter for parameter in model.parameters() if parameter not in known]
        encoder_group = {"params": of_encoder, "lr": training.lr * training.encoder_lr}
        parameters = [{"params": others}, encoder_group]
    options: dict[str, Any] = {
        "lr": training.lr,
        "weight_decay": training.weight_decay,
        "fused": device.type in ("cuda", "cpu"),
    }
    if training.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=MOMENTUM, **options)
    if training.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **options)
    return torch.optim.Adam(parameters, **options)


def moving_average(
    decay: Callable[[int], float], count: Callable[[], int]
) -> Callable[[Any, Any, Any], None]:
    """For AveragedModel: an exponential moving average with the decay `decay(updates)`.

    AveragedModel asks for tensors of one type at a time. count: the updates so far. (It gives
    their number, too, but on the device, which the host would have to wait for.)
    """

    def update(averaged: list[Tensor], current: list[Tensor], _: Any) -> None:
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1 - decay(count()))
        else:
            torch._foreach_copy_(averaged, current)

    return update


def load_first_weights(model: Network, task: Task, settings: Settings, fold: int) -> None:
    """The weights of --start, or of --pretrain.

    --start names a checkpoint, or a run, of which the last epoch of the same fold is taken; of a
    run in a file that of its first fold where it has not the same. Raises InputError where there is
    none or it does not fit.
    """
    path = first_weights_path(task, settings, fold)
    state = load_state(path)
    if "model" not in state:
        raise InputError(f"{path} is no checkpoint of step 03: choose an epoch*.pt or best.pt")
    task_folder = RunFolder.of(settings.place).task.path.resolve()
    if task_folder in path.resolve().parents and state.get("fold", fold) != fold:
        raise InputError(
            f"{path} has learned the validation images of fold {fold}: give --fold "
            f"{state['fold']}, or the name of its run instead of a file"
        )
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:  # torch names the first hundred tensors
        raise InputError(
            f"{path} fits another network ({first_line(error)}): start from a run with the same "
            "network"
        ) from error
    model.restore_scale(state.get("input_scale"))


def first_weights_path(task: Task, settings: Settings, fold: int) -> Path:
    """The checkpoint that `load_first_weights` reads."""
    start = settings.training.start
    if not start:
        return learned_weights(task, settings)
    if names_archive(start):
        run = unpack_run(start, settings.place.working, task.name)
        folds = run.trained_folds()
        return run.fold(fold if fold in folds else folds[0]).epochs()[-1]
    if Path(start).is_file():
        return Path(start)
    folder = RunFolder.of(settings.place).task.run(start).fold(fold)
    paths = folder.epochs()
    if not paths:
        raise InputError(
            f"--start {start} is neither a file nor a run with checkpoints in {folder.path}: train "
            "that run first"
        )
    return paths[-1]
