"""A run's networks and views: which checkpoints, loaded how, merged over models and views."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cxr.inference.checkpoint import load_state
from cxr.inference.engines import Engine, TorchEngine
from cxr.methods.base import VIEW_SETS, Method, View
from cxr.networks.fused import fuse_norms, read_gray
from cxr.networks.network import Network
from cxr.run_folder import FoldFolder, RunFolder
from cxr.settings import PredictionSettings, Settings
from cxr.system.errors import InputError
from cxr.system.runtime import Runtime
from cxr.tasks import Task

# Settings of networks whose outputs can be merged.
SHARED = ("image_size", "levels", "classes", "lungs", "head", "clahe", "header_inputs")
SHARED_DEFAULTS = {"head": "retinanet"}  # of runs that are older than the setting


def views_of(method: Method, prediction: PredictionSettings) -> tuple[View, ...]:
    """The views of --tta. Raises InputError for a set that the method cannot undo."""
    if prediction.tta not in method.view_sets:
        raise InputError(
            f"--tta {prediction.tta} is not for a {method.name}: choose "
            f"{', '.join(method.view_sets)}"
        )
    return VIEW_SETS[prediction.tta]


def fold_checkpoints(task: Task, settings: Settings, fold: int) -> list[Path]:
    """Paths of the checkpoints of a fold, of the run and then of those of --merge.

    Raises InputError if one is of another task, not trained, not finished, or its input differs
    from the run's own.
    """
    run = RunFolder.of(settings.place)
    first = run.fold(fold)
    paths = run_checkpoints(task, settings, first)
    refuse_other_training(settings, first)
    for name in settings.prediction.merge:
        other = run.task.run(name).fold(fold)
        paths += run_checkpoints(task, settings, other)
        _refuse_other_input(first, other)
    return paths


def run_checkpoints(task: Task, settings: Settings, folder: FoldFolder) -> list[Path]:
    """Paths of the checkpoints of one fold of one run that answer, the newest last."""
    if not folder.config.exists():
        begun = ", ".join(folder.run.task.run_names()) or "none"
        raise InputError(
            f"{folder.path} does not exist: train the fold with 03_train.py first, with the same "
            f"flags, or choose a --run that was trained (here: {begun})"
        )
    stored_task = folder.read_config()["task"]
    if stored_task != task.name:
        raise InputError(
            f"{folder.path} belongs to task {stored_task}, not {task.name}: choose another --run"
        )
    if folder.run.blend.exists():
        raise InputError(
            f"{folder.run.path} is a blend and has no networks of its own: name one of its runs"
        )
    if not settings.prediction.partial and not folder.run.is_unpacked:
        refuse_unfinished(folder, folder.epochs())
    paths = folder.checkpoints()
    if not paths:
        raise InputError(
            f"{folder.path} has no checkpoint yet: run 03_train.py with the same flags first"
        )
    return paths[-settings.prediction.checkpoints :]


def refuse_unfinished(folder: FoldFolder, paths: Sequence[Path]) -> None:
    """Raises InputError where a fold's training has not ended, or kept checkpoints are gone."""
    if not is_finished(folder):
        raise InputError(
            f"{folder.path} is not finished: run 03_train.py with the same flags to go on, or "
            "predict with what is there by --partial"
        )
    kept = count_kept(folder)
    if len(paths) < kept:
        raise InputError(
            f"{folder.path} holds {len(paths)} of the {kept} checkpoints that its training kept: "
            "copy the missing epoch*.pt back, predict with what is there by --partial, or delete "
            "the folder and train the fold again"
        )


def count_kept(folder: FoldFolder) -> int:
    """How many epochs the training of a finished fold kept."""
    state = load_state(folder.last, mapped=True)
    if "kept" in state:
        return len(state["kept"])
    # Older runs kept the last ones.
    return min(int(folder.read_config().get("keep", 1)), state.get("epoch", 0))


def is_finished(folder: FoldFolder) -> bool:
    """Whether the fold's training has come to its end, with the mean of --swa."""
    if not folder.last.exists() or not load_state(folder.last, mapped=True).get("done", False):
        return False
    return folder.swa.exists() or not folder.read_config().get("swa", False)


def refuse_other_training(settings: Settings, folder: FoldFolder) -> None:
    """Raises InputError for flags that disagree with the training: prediction cannot follow."""
    stored = folder.read_config()
    disagree = []
    for name, value in settings.training_values().items():
        trained = stored.get(name, value)
        if isinstance(trained, list):  # of JSON, which has no tuples
            trained = tuple(trained)
        if name in settings.given and trained != value:
            disagree.append(name)
    if disagree:
        raise InputError(
            f"{folder.path} was trained with other values of {', '.join(disagree)}: leave these "
            "flags out, since prediction takes them from the checkpoint"
        )


def _refuse_other_input(first: FoldFolder, other: FoldFolder) -> None:
    """Raises InputError where the outputs of the networks of two runs cannot be merged."""
    own = SHARED_DEFAULTS | first.read_config()
    further = SHARED_DEFAULTS | other.read_config()
    for name in SHARED:
        if (own.get(name) or "") != (further.get(name) or ""):
            raise InputError(
                f"--merge {other.run.name} is impossible: its {name} is {further.get(name)} and "
                f"that of {first.run.name} {own.get(name)}; merge runs that see the same input"
            )


def as_trained(settings: Settings, task: Task, folder: FoldFolder) -> Settings:
    """The settings with the training values of a run, which no flag can change afterwards."""
    if not folder.config.exists():
        return settings
    refuse_other_training(settings, folder)
    stored = task.make_settings(folder.read_config())
    return settings.replace(**stored.training_values())


def load_model(task: Task, path: Path, device: torch.device) -> Network:
    """Network in evaluation mode from a checkpoint alone.

    Raises InputError for a checkpoint of another task.
    """
    state = load_state(path, device)
    if not {"task", "config", "model"} <= state.keys():
        raise InputError(f"{path} is no checkpoint of step 03: choose an epoch*.pt or best.pt")
    if state["task"] != task.name:
        raise InputError(
            f"{path} belongs to task {state['task']}, not {task.name}: choose another --run"
        )
    settings = task.make_settings(state["config"])
    labels = task.used_labels(settings)
    model = task.method.build_model(settings, labels, load_weights=False)
    model.load_state_dict(state["model"])
    model.fold = int(state.get("fold", 0))
    model.restore_scale(state.get("input_scale"))
    model.prepare_for_prediction()
    return model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]


def load_fused(task: Task, paths: Sequence[Path], device: torch.device) -> list[Network]:
    """Networks as `load_model` gives them, batch norms folded into the convolutions before them,
    the image read once instead of as three colours.

    They predict and do nothing else: their state is none that a checkpoint could hold.
    """
    networks = [load_model(task, path, device) for path in paths]
    for network in networks:
        read_gray(network)
        fuse_norms(network)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return networks


@torch.inference_mode()
def predict_batch(
    models: Sequence[Network],
    method: Method,
    views: Sequence[View],
    images: Tensor,
    settings: Settings,
    runtime: Runtime,
    engine: Engine | None = None,
    headers: Tensor | None = None,
) -> list[Any]:
    """What the method keeps of each image (B, 1, S, S), merged over models x views.

    engine: what computes the models; by default PyTorch. headers: (B, HEADER_NUMBERS), where the
    networks were trained with --header-inputs.
    """
    compute = engine or TorchEngine(method, runtime)
    outputs = _all_outputs(models, method, views, images, compute, headers)
    return method.merge(outputs, settings)


def _all_outputs(
    models: Sequence[Network],
    method: Method,
    views: Sequence[View],
    images: Tensor,
    compute: Engine,
    headers: Tensor | None,
) -> Iterator[Any]:
    """Yield what each model says of each view, brought back to the unchanged images."""
    for view in views:
        shown = method.apply_view(images, view, models[0])
        for model in models:
            raw = method.add_headers(compute(model, shown), headers, model)
            yield method.undo_view(raw, view, model)
