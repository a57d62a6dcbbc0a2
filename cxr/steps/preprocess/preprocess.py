"""Step 02: find the data set, store its pictures small, deal folds, draw an overview."""

from __future__ import annotations

from cxr.data.preparation import prepare
from cxr.plots.data_overview import write_overview
from cxr.run_folder import TaskFolder
from cxr.settings import Settings
from cxr.system.kaggle import find_input
from cxr.tasks import Task


def preprocess(task: Task, settings: Settings) -> None:
    """Fill working/<task>/ from input/<slug>/, or from where a Kaggle kernel mounts the data."""
    dataset = task.dataset
    folder = TaskFolder.of(settings.place)
    name = dataset.folder_name(settings.place.demo)
    source = find_input(settings.place.input, name, dataset.expected_files)
    if source is None:  # said by `prepare`, unless all is there already
        source = settings.place.input / name
    if dataset.only_checks(source, settings):
        return
    dataset.plan(source, settings)
    settings = task.with_plan(settings)
    prepare(dataset, source, folder, settings)
    labels = dataset.overview_labels(settings)
    write_overview(folder.path, labels.image_classes, box_classes=labels.classes)
    print(f"to look at the data: {folder.path / 'overview.png'} and samples.png beside it")
