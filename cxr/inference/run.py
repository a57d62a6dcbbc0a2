"""Prediction with fold models x kept epochs x views, merged before anything is thrown away, streamed to disk."""

import zlib
from dataclasses import replace

import torch
from tqdm import tqdm

from cxr.data.dataset import XrayDataset, collate, count_workers, one_thread, read_table
from cxr.inference.checkpoint import fingerprints, load_state, stored_config
from cxr.inference.lung_crops import with_crops
from cxr.inference.predictions import PART, part_count, part_path, read_predictions, write_part
from cxr.system import distributed
from cxr.system.device import autocast, choose_device, choose_precision, describe
from cxr.system.disk import read_json, write_json
from cxr.system.errors import InputError

# A view is (thirds of an octave larger, flipped). Scales in steps of the anchors' own three scales per octave keep the
# outputs of all views on one set of anchors. Where only the class counts, whether it is upside down may follow.
VIEWS = {
    "none": [(0, False)],
    "flip": [(0, False), (0, True)],
    "flip+scale": [(k, flipped) for k in (0, 1, -1) for flipped in (False, True)],
    "flips": [(0, flipped, turned) for turned in (False, True) for flipped in (False, True)],
}
SEEN = [
    "image_id",
    "fold",
    "width",
    "height",
]  # columns of step 02's tables; each loader process copies what it reads
SHARED = (
    "image_size",
    "levels",
    "classes",
    "lungs",
)  # settings of networks whose outputs can be merged


def views_of(task, config):
    """The views of --tta. Raises InputError for a set that the task cannot undo."""
    if config.tta not in task.tta:
        raise InputError(f"--tta {config.tta} is not for {task.name}: choose {', '.join(task.tta)}")
    return VIEWS[config.tta]


def predict_run(task, config):
    """Out-of-fold predictions of every wanted fold by that fold's models, then of the test images by all of them."""
    views_of(task, config)
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    train, test = (read_frames(config.task_dir / f"{name}.csv") for name in ("train", "test"))
    checkpoints = {fold: fold_checkpoints(task, config, fold) for fold in config.wanted_folds()}
    with distributed.process_group(device.type):
        if distributed.rank() == 0:
            print(f"run {config.run_dir}: {describe(device, precision)}")
        train, test = (
            cut_as_trained(config, config.wanted_folds()[0], table, device)
            for table in (train, test)
        )
        for fold, paths in checkpoints.items():
            predict_table(
                task,
                config,
                paths,
                train[train["fold"] == fold],
                config.fold_dir(fold) / f"valid_{config.predictions}",
                device,
                precision,
            )
        if config.fold is None:
            every = [path for paths in checkpoints.values() for path in paths]
            predict_table(
                task,
                config,
                every,
                test,
                config.run_dir / f"test_{config.predictions}",
                device,
                precision,
            )


def read_frames(path):
    """The table of step 02 without what only training and judging need, such as boxes and masks."""
    return read_table(path).filter(SEEN)


def cut_as_trained(config, fold, table, device):
    """The table with the boxes of the lungs where the run was trained with --lungs."""
    cut_by = read_json(config.fold_dir(fold) / "config.json").get("lungs", "")
    return with_crops(table, config, cut_by, device) if cut_by else table


def predict_test_by_fold(task, config, fold, device, precision):
    """Yield what the models of one fold alone say of the test images; kept beside that fold's other predictions."""
    checkpoints = fold_checkpoints(task, config, fold)
    test = cut_as_trained(config, fold, read_frames(config.task_dir / "test.csv"), device)
    folder = config.fold_dir(fold) / f"test_{config.predictions}"
    predict_table(task, config, checkpoints, test, folder, device, precision)
    return read_predictions(folder, task.kind)


def fold_checkpoints(task, config, fold):
    """Paths of the kept epochs of a fold, of the run and then of those of --merge.

    Raises InputError if one is of another task, not trained, not finished, or its input differs from the run's own.
    """
    runs = [config, *(replace(config, run=run, explicit=()) for run in config.merge)]
    paths = [path for run in runs for path in run_checkpoints(task, run, fold)]
    own, *others = (read_json(run.fold_dir(fold) / "config.json") for run in runs)
    for run, other in zip(config.merge, others):
        differ = [name for name in SHARED if (own.get(name) or "") != (other.get(name) or "")]
        if differ:
            raise InputError(
                f"--merge {run} is impossible: its {differ[0]} is {other.get(differ[0])} and that of "
                f"{config.run} {own.get(differ[0])}; merge runs that see the same input"
            )
    return paths


def run_checkpoints(task, config, fold):
    folder = config.fold_dir(fold)
    if not (folder / "config.json").exists():
        raise InputError(
            f"{folder} does not exist: train the fold with 03_train.py first, with the same flags"
        )
    stored = read_json(folder / "config.json")
    if stored["task"] != task.name:
        raise InputError(
            f"{folder} belongs to task {stored['task']}, not {task.name}: choose another --run"
        )
    disagree = [
        name
        for name in config.explicit
        if name in config.training_settings()
        and str(stored.get(name)) != str(getattr(config, name))
    ]
    if disagree:
        raise InputError(
            f"{folder} was trained with other values of {', '.join(disagree)}: leave these flags out, "
            "since prediction takes them from the checkpoint"
        )
    paths = sorted(folder.glob("epoch*.pt"))[-config.checkpoints :]
    done = (folder / "last.pt").exists() and load_state(folder / "last.pt", mapped=True).get(
        "done", False
    )
    if not paths or not (done or config.partial):
        raise InputError(
            f"{folder} is not finished: run 03_train.py with the same flags to go on, or predict with "
            "what is there by --partial"
        )
    return paths


def load_model(task, path, device):
    """Network in evaluation mode from a checkpoint alone. Raises InputError for a checkpoint of another task."""
    state = load_state(path, device)
    if not {"task", "config", "model"} <= state.keys():
        raise InputError(f"{path} is no checkpoint of step 03: choose an epoch*.pt or best.pt")
    if state["task"] != task.name:
        raise InputError(
            f"{path} belongs to task {state['task']}, not {task.name}: choose another --run"
        )
    model = task.build_model(stored_config(state["config"]), load_weights=False)
    model.load_state_dict(state["model"])
    model.prepare_for_prediction()
    return model.to(device, memory_format=torch.channels_last).eval()


def predict_table(task, config, paths, table, folder, device, precision):
    """Predict the rows of a table into `folder`; parts that are there already are kept."""
    main = distributed.rank() == 0
    check_settings(folder, config, paths, table, main)
    missing = [n for n in range(part_count(len(table))) if not part_path(folder, n).exists()]
    distributed.barrier()
    if not missing:
        print(f"{folder}: {len(table)} images are there, nothing to do") if main else None
        return
    mine = missing[distributed.rank() :: distributed.world()]
    rows = [row for n in mine for row in range(n * PART, min((n + 1) * PART, len(table)))]
    models = [load_model(task, path, device) for path in paths]
    collected = {}
    bar = tqdm(
        total=len(rows), desc=f"{folder.parent.name}/{folder.name}", disable=not main, mininterval=5
    )
    for batch in batches(config, table, rows, models[0], device):
        indices = batch.pop("index").tolist()
        merged = predict_batch(
            task, models, views_of(task, config), batch["image"].to(device), precision
        )
        for row, outputs in zip(indices, merged):
            number = row // PART
            part = collected.setdefault(number, [])
            part.append(task.candidates(outputs, table.iloc[row], models[0], config))
            if len(part) == min(PART, len(table) - number * PART):
                write_part(folder, number, collected.pop(number))
        bar.update(len(indices))
    bar.close()
    distributed.barrier()


def check_settings(folder, config, paths, table, main):
    """Raises InputError if the folder holds predictions made with other checkpoints, views or images."""
    settings = {
        "checkpoints": fingerprints(paths, config.run_dir),
        "tta": config.tta,
        "images": len(table),
        "ids": zlib.crc32("\n".join(table["image_id"]).encode()),
    }
    path = folder / "settings.json"
    if path.exists():
        old = read_json(path)
        changed = [key for key in settings if settings[key] != old.get(key)]
        if changed:
            raise InputError(
                f"{folder} holds predictions made with other {', '.join(changed)}: delete that folder, or "
                "choose another name with --predictions"
            )
    elif main:
        write_json(path, settings)


def batches(config, table, rows, model, device):
    """Batches of the given rows in their order, at the size that the network was trained with."""
    dataset = XrayDataset(table, config.task_dir / "images", model.image_size)
    workers = min(count_workers(config.workers), len(rows))
    return torch.utils.data.DataLoader(
        dataset,
        config.batch_size,
        sampler=[(0, row) for row in rows],
        collate_fn=collate,
        num_workers=workers,
        worker_init_fn=one_thread,
        pin_memory=device.type == "cuda",
    )


@torch.inference_mode()
def predict_batch(task, models, views, images, precision):
    """What the task keeps of each image, merged over models x views."""
    return task.merge(all_outputs(task, models, views, images, precision))


def all_outputs(task, models, views, images, precision):
    """Yield what each model says of each view, brought back to the unchanged images."""
    for view in views:
        seen = task.apply_view(images, view, models[0])
        for model in models:
            with autocast(images.device, precision):
                raw = task.outputs(model, seen)
            yield task.undo_view(raw, view, model)
