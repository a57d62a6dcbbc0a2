"""Step 03 with --search: values of settings are tried on one fold, and the best learn all folds.

Optuna proposes the values (TPE) and gives up what falls behind the median of the trials before it
at the same epoch. A trial is a run like any other, named after what differs, so it can be looked
at, compared and continued by its flags.

Nothing random has to be kept: what is proposed is a function of the seed and of the finished
trials. A search that was killed proposes the same once more and goes on in the same run.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from cxr.run_folder import FoldFolder, RunFolder, SearchFolder, TaskFolder
from cxr.settings import LONGEST_NAME, Settings
from cxr.steps.train.engine import train_folds
from cxr.steps.train.search_space import Choices, Range, read_space
from cxr.system.disk import alone, write_json
from cxr.system.errors import STOPPED, InputError
from cxr.system.tables import write_csv
from cxr.tasks import Task

if TYPE_CHECKING:
    import optuna

FIRST_RANDOM = 6  # trials before what was learned of them is used; before these nothing is given up
SPARED = 2  # epochs after which nothing is given up yet: the first say little


def search_settings(task: Task, settings: Settings) -> int:
    """Try values until --trials are done, then train the best on all folds.

    Returns 0, or STOPPED when --max-hours came first. With --fold the other folds are left out.
    """
    optuna = import_optuna()
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError("--search is for one process: start the step without torchrun")
    start = time.monotonic()
    path = Path(settings.training.search)
    space = read_space(path, task, settings)
    base = settings.replace(search="")
    fold = settings.wanted_folds()[0]
    folder = TaskFolder.of(settings.place).search(path)
    with alone(folder.path):
        study = optuna.create_study(
            study_name="search",
            storage=f"sqlite:///{folder.study.absolute()}",
            direction="maximize",
            pruner=make_pruner(),
            load_if_exists=True,
        )
        refuse_other_search(study, folder, base, space, fold)
        forget_interrupted(study)
        while len(finished_trials(study)) < settings.training.trials:
            limited = with_hours_left(base, start)
            if limited is None or not try_next(task, limited, study, space, fold):
                return STOPPED
            write_trials(folder, study)
        best = study.best_trial
        write_json(folder.best, {"run": best.user_attrs["run"], "fold": fold, "metric": best.value})

    say_best(study, base, fold)
    if settings.place.fold is not None:
        return 0
    limited = with_hours_left(base, start)
    if limited is None:
        return STOPPED
    winner = with_values(limited, best.user_attrs["values"])
    status = train_folds(task, winner)
    if status == 0:
        say_other_folds(winner, fold)
    return status


def import_optuna() -> Any:
    """The package, without its messages. Raises InputError where it is missing."""
    try:
        import optuna
    except ImportError:
        raise InputError(
            "--search needs a package that is not installed: pip install optuna"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def make_pruner() -> optuna.pruners.BasePruner:
    """Gives up a trial whose best metric is below the median of the others at the same epoch."""
    import optuna

    return optuna.pruners.MedianPruner(n_startup_trials=FIRST_RANDOM, n_warmup_steps=SPARED + 1)


def refuse_other_search(
    study: optuna.Study,
    folder: SearchFolder,
    base: Settings,
    space: Sequence[Range | Choices],
    fold: int,
) -> None:
    """Raises InputError if the folder holds a search of other values, settings or fold."""
    searched = {
        "space": [repr(each) for each in space],
        "settings": {name: str(value) for name, value in base.training_values().items()},
        "run": base.place.run,
        "fold": fold,
    }
    before = study.user_attrs.get("searched")
    if before is None:
        study.set_user_attr("searched", searched)
    elif before != searched:
        raise InputError(
            f"{folder.path} holds a search of other values, settings or folds: give the file of "
            "--search another name, or delete the folder"
        )


def forget_interrupted(study: optuna.Study) -> None:
    """Trials of a process that was killed count as none: they are proposed once more."""
    import optuna

    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)


def finished_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that ended or were given up, in their order."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def with_hours_left(settings: Settings, start: float) -> Settings | None:
    """The settings with what is left of --max-hours since `start`; None where nothing is."""
    limit = settings.machine.max_hours
    if not limit:
        return settings
    left = limit - (time.monotonic() - start) / 3600
    if left <= 0:
        print("stopped by --max-hours: the same command goes on with the search", flush=True)
        return None
    return settings.replace(max_hours=left)


def with_values(base: Settings, values: Mapping[str, Any]) -> Settings:
    """The settings of a trial. Its run is named after what differs from those of the search."""
    usual = base.flat()
    changed = [f"{name}={value}" for name, value in values.items() if value != usual[name]]
    name = "-".join([base.place.run, *changed])
    if len(name) > LONGEST_NAME:
        raise InputError("the searched settings make too long a name for a run: give a short --run")
    return base.replace(**values, run=name)


def try_next(
    task: Task,
    base: Settings,
    study: optuna.Study,
    space: Sequence[Range | Choices],
    fold: int,
) -> bool:
    """Propose values and train them on one fold. False when --max-hours came first."""
    import optuna

    done = len(finished_trials(study))
    seed = base.data.seed + done
    study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=FIRST_RANDOM)
    if done == 0:
        propose_base(study, base, space)
    trial = study.ask()
    values = {each.name: each.propose(trial) for each in space}
    settings = with_values(base, values).replace(fold=fold)
    trial.set_user_attr("values", values)
    trial.set_user_attr("run", settings.place.run)
    words = ", ".join(f"{name} {value}" for name, value in values.items())
    print(f"\ntrial {done + 1}: {words}", flush=True)

    def after_epoch(epoch: int, metric: float) -> None:
        trial.report(finite(metric), epoch)
        if trial.should_prune():
            raise optuna.TrialPruned(epoch)

    folder = RunFolder.of(settings.place).fold(fold)
    try:
        for epoch, metric in enumerate(logged_metrics(folder), start=1):
            after_epoch(epoch, metric)  # of a run that was interrupted, or made before the search
        if train_folds(task, settings, after_epoch):
            return False
    except optuna.TrialPruned as stop:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        print(f"trial {done + 1}: given up after epoch {stop}", flush=True)
        return True
    metric = final_metric(folder, settings)
    study.tell(trial, metric)
    print(f"trial {done + 1}: metric {metric:.3f}, the best {study.best_value:.3f}", flush=True)
    return True


def propose_base(study: optuna.Study, base: Settings, space: Sequence[Range | Choices]) -> None:
    """The settings as they are without a search come first, if they are among the values."""
    import optuna

    usual = base.flat()
    waiting = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,))
    if not waiting and all(each.contains(usual[each.name]) for each in space):
        study.enqueue_trial({each.name: usual[each.name] for each in space})


def logged_metrics(folder: FoldFolder) -> list[float]:
    """The metric of each epoch that a fold has finished."""
    if not folder.log.exists():
        return []
    return pd.read_csv(folder.log)["metric"].tolist()


def final_metric(folder: FoldFolder, settings: Settings) -> float:
    """The mean metric of the last epochs that are kept, since it is these that answer."""
    last = logged_metrics(folder)[-settings.training.keep :]
    return sum(finite(metric) for metric in last) / len(last)


def finite(metric: float) -> float:
    """The metric; 0 where it is none."""
    return metric if math.isfinite(metric) else 0.0


def write_trials(folder: SearchFolder, study: optuna.Study) -> None:
    """trials.csv: a row for each finished trial."""
    rows = []
    for number, trial in enumerate(finished_trials(study), start=1):
        row = {"trial": number, "run": trial.user_attrs["run"]}
        row |= trial.user_attrs["values"]
        row |= {"epochs": len(trial.intermediate_values), "metric": trial.value}
        row["given_up"] = trial.state.name == "PRUNED"
        if row["given_up"]:
            row["metric"] = None
        rows.append(row)
    write_csv(folder.trials, pd.DataFrame(rows))


def say_best(study: optuna.Study, base: Settings, fold: int) -> None:
    """Print what the search found."""
    best = study.best_trial
    run = best.user_attrs["run"]
    trials = len(finished_trials(study))
    print(f"\nbest of {trials} trials on fold {fold}: {run}, metric {best.value:.3f}")
    if run == base.place.run:
        print("nothing was better than the settings without a search")
        return
    print(
        "it was chosen by this fold, which therefore flatters it. Beside the settings without a "
        "search, once step 05 has judged both:\n"
        f"  05_postprocess.py --task {base.place.task} --compare {base.place.run} {run}",
        flush=True,
    )


def say_other_folds(winner: Settings, fold: int) -> None:
    """Print how the best values do on the folds that did not choose them."""
    run = RunFolder.of(winner.place)
    others = [number for number in range(winner.data.folds) if number != fold]
    metrics = [final_metric(run.fold(number), winner) for number in others]
    mean = sum(metrics) / len(metrics)
    print(f"{run.name}: metric {mean:.3f} on the folds that did not choose it", flush=True)
