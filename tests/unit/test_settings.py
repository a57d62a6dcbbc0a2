"""Settings: every one is read, has a reason, fits its presets; runs get names of their own."""

import ast
import dataclasses
from pathlib import Path

import pytest

from cxr.method_settings import DetectorSettings
from cxr.settings import (
    AREAS,
    PlaceSettings,
    TrainingSettings,
    make_settings,
    setting_fields,
    setting_types,
)
from cxr.system.errors import InputError
from cxr.tasks import METHODS, TASKS

ROOT = Path(__file__).resolve().parents[2]
CLASSES = [
    *AREAS.values(),
    *(settings_class for _, settings_class in METHODS.values()),
    *{task.dataset_settings for task in TASKS.values()},
]
SETTINGS = {name: field for each in CLASSES for name, field in setting_fields(each).items()}
RSNA = TASKS["rsna"]
RSNA_TRAINING = list(RSNA.settings_of({}).training_values())
TASKS_AND_PRESETS = [(name, preset) for name, task in TASKS.items() for preset in task.presets]


def attributes_read():
    """Names that are read as an attribute anywhere in the package or the scripts."""
    names = set()
    for path in [*(ROOT / "cxr").rglob("*.py"), *ROOT.glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                names.add(node.attr)
    return names


def test_every_setting_is_read_somewhere():
    assert set(SETTINGS) <= attributes_read()


def test_every_setting_has_a_reason_of_its_own():
    for name, field in SETTINGS.items():
        assert len(field.metadata["reason"]) > 10, name
    for each in CLASSES:
        reasons = [field.metadata["reason"] for field in setting_fields(each).values()]
        assert len(set(reasons)) == len(reasons)


def test_every_default_is_a_choice():
    for name, field in SETTINGS.items():
        if field.metadata["choices"]:
            assert field.default in field.metadata["choices"], name


def test_no_setting_stands_in_two_areas():
    names = [name for area in AREAS.values() for name in setting_fields(area)]
    for _, method in METHODS.values():
        assert not set(names) & set(setting_fields(method))
    assert len(set(names)) == len(names)


def test_what_a_setting_needs_is_a_setting_with_such_values():
    for name, field in SETTINGS.items():
        other, _, values = field.metadata["needs"].partition("=")
        if other:
            assert set(other.split(" or ")) <= set(SETTINGS), name
        if values:
            assert set(values.split(",")) <= set(SETTINGS[other].metadata["choices"]), name


@pytest.mark.parametrize("task_name, preset", TASKS_AND_PRESETS)
def test_presets_hold_settings_of_their_task_of_the_right_type(task_name, preset):
    task = TASKS[task_name]
    settings = task.settings_of({"preset": preset})
    assert settings.place.run == preset
    assert settings.given == ("preset",)
    types = {}
    for area in settings.areas().values():
        types |= setting_types(type(area))
    for name, value in task.presets[preset].values.items():
        assert type(value) is types[name], name
        choices = SETTINGS[name].metadata["choices"]
        assert not choices or value in choices
    assert task.presets[preset].gloss


def test_every_task_has_the_usual_presets():
    for name, task in TASKS.items():
        usual = {"paper", "small", "demo"}
        if name.startswith("own-"):  # whose settings come from the data
            usual = {"auto", "demo"}
        assert usual <= set(task.presets)


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_presets_pass_the_checks_of_method_and_data_set(task):
    for preset in task.presets:
        task.check(task.settings_of({"preset": preset}))


def test_flags_override_the_preset_which_overrides_the_default():
    assert TrainingSettings().image_size == 512
    small = RSNA.settings_of({"preset": "small"})
    assert small.training.image_size == RSNA.presets["small"].values["image_size"] == 384
    larger = RSNA.settings_of({"preset": "small", "image_size": 320})
    assert larger.training.image_size == 320


def test_demo_has_folders_and_a_preset_of_its_own():
    demo = RSNA.settings_of({"demo": True})
    assert demo.place.preset == "demo"
    assert demo.place.input == Path("input/demo")
    assert demo.place.working == Path("working/demo")
    assert RSNA.settings_of({"demo": True, "working": Path("x")}).place.working == Path("x")
    assert RSNA.settings_of({"demo": True, "preset": "small"}).place.run == "small"


@pytest.mark.parametrize(
    "values, sentence",
    [
        ({"preset": "big"}, "unknown --preset big of task rsna: choose from paper, modern, small"),
        ({"folds": 1}, "--folds must be at least 2"),
        ({"epochs": 0}, "--epochs must be above 0"),
        ({"batch_size": -1}, "--batch-size must be above 0"),
        ({"lr": 0.0}, "--lr must be above 0"),
        ({"dropout": 1.0}, "--dropout must be at least 0 and below 1"),
        ({"ema": 1.0}, "--ema must be at least 0 and below 1"),
        ({"ema": -0.1}, "--ema must be at least 0"),
        ({"paste": 1.5}, "--paste must be between 0 and 1"),
        ({"pretrain": 39}, "--pretrain must be 0 or at least 40"),
        ({"start": "a", "pretrain": 40}, "--start and --pretrain both say"),
        ({"cycle": 3}, "--cycle is only read with --schedule waves or restarts"),
        ({"ema_from": 3}, "--ema-from is only read with --ema"),
        ({"demo_images": 40}, "--demo-images is only read with --demo"),
        ({"out": Path("x")}, "--out is only read with --images"),
        ({"dicom_sr": True}, "--dicom-sr is only read with --images"),
        ({"watch": True}, "--watch is only read with --images"),
        ({"only_chest": True}, "--only-chest is only read with --images or --dicom-port"),
        ({"aet": "A"}, "--aet is only read with --dicom-port"),
        ({"token_file": "f"}, "--token-file is only read with --host"),
    ],
)
def test_what_cannot_be_used_is_refused(values, sentence):
    with pytest.raises(InputError, match=sentence):
        RSNA.settings_of(values)


@pytest.mark.parametrize(
    "values",
    [
        {"cycle": 3, "schedule": "waves"},
        {"ema_from": 3, "ema": 0.9},
        {"demo_images": 40, "demo": True},
        {"out": Path("x"), "images": ("a",)},
        {"out": Path("x"), "dicom_port": 11112},
    ],
)
def test_what_a_setting_needs_makes_it_welcome(values):
    RSNA.settings_of(values)


@pytest.mark.parametrize(
    "task, values, sentence",
    [
        ("lungs", {"positive_share": 0.5}, "only read with --sampling share"),
        ("pneumothorax", {"unlabelled_batch": 2}, "only read with --unlabelled"),
        ("covid", {"pseudo_ratio": 0.1}, "only read with --pseudo"),
        ("covid", {"aux_weight": -1.0}, "--aux-weight must be at least 0"),
        ("pneumothorax", {"positive_share": 0.0, "sampling": "share"}, "--positive-share must be"),
    ],
)
def test_the_same_for_other_methods(task, values, sentence):
    with pytest.raises(InputError, match=sentence):
        TASKS[task].settings_of(values)


@pytest.mark.parametrize(
    "task, values, sentence",
    [
        ("rsna", {"augmentation": "third"}, "--augmentation third is not for a detector"),
        ("rsna", {"tta": "flips"}, "--tta flips is not for a detector"),
        ("rsna", {"fit_on": "published"}, "--fit-on published is impossible"),
        ("rsna", {"levels": "1-3"}, "--levels 1-3"),
        ("rsna", {"image_size": 100}, "--image-size 100"),
        ("rsna", {"classes": 2}, "--classes 2 does not fit rsna"),
        ("pneumothorax", {"tta": "flips"}, "--tta flips is not for a segmenter"),
        ("pneumothorax", {"rule": "fourth"}, "--rule fourth reads the label head"),
        ("pneumothorax", {"mask_loss": "label=1"}, "needs a network with a --label-head"),
        ("pneumothorax", {"mask_loss": "hinge=1"}, "knows no term hinge"),
        ("pneumothorax", {"fit_on": "testlike"}, "--fit-on testlike is impossible"),
        ("covid", {"mask_loss": "label=1"}, "has the term label of a label head"),
        ("covid", {"tta": "flip+scale"}, "is not for a classifier"),
    ],
)
def test_method_and_data_set_refuse_what_they_cannot_use(task, values, sentence):
    settings = TASKS[task].settings_of(values)
    with pytest.raises(InputError, match=sentence.replace("+", r"\+")):
        TASKS[task].check(settings)


def test_run_names():
    assert RSNA.settings_of({}).place.run == "paper"
    named = RSNA.settings_of({"encoder": "resnet18", "epochs": 3})
    assert named.place.run == "paper-encoder=resnet18-epochs=3"
    assert RSNA.settings_of({"epochs": 12}).place.run == "paper"
    assert RSNA.settings_of({"run": "mine", "epochs": 3}).place.run == "mine"
    assert RSNA.settings_of({"weights": "/a/b/c.pth"}).place.run == "paper-weights=c.pth"


def test_a_name_that_no_folder_can_have():
    with pytest.raises(InputError, match="too long a name for the folder of the run: give one"):
        RSNA.settings_of({"weights": "w" * 200})
    assert RSNA.settings_of({"weights": "w" * 200, "run": "mine"}).place.run == "mine"


@pytest.mark.parametrize(
    "values",
    [
        {"workers": 0},
        {"fold": 1},
        {"max_hours": 2.0},
        {"tta": "none"},
        {"device": "cpu"},
        {"submit": "text"},
        {"nms_iou": 0.3},
    ],
)
def test_settings_that_do_not_change_the_weights_do_not_change_the_run(values):
    assert RSNA.settings_of(values).place.run == "paper"


OTHER_VALUES = {
    **{"pretrain": 40, "dropout": 0.25, "ema": 0.25, "paste": 0.25, "pseudo_score": 0.25},
    **{"positive_share": 0.25, "positive_share_end": 0.25, "edge_noise": 0.25},
}
# What must be given beside a setting for anybody to read it.
BESIDE = {
    "cycle": {"schedule": "waves"},
    "lr_min": {"schedule": "waves"},
    "ema_from": {"ema": 0.25},
    "positive_share": {"sampling": "share"},
    "positive_share_end": {"sampling": "share"},
    "pseudo_ratio": {"pseudo": "teacher"},
    "pseudo_score": {"pseudo": "teacher"},
    "external": {"pseudo": "teacher"},
    "external_labels": {"pseudo": "teacher", "external": ("folder",)},
    "external_columns": {
        "pseudo": "teacher",
        "external": ("folder",),
        "external_labels": ("file",),
    },
}


def other_value(name):
    """A value that differs from the default and can be used."""
    field = SETTINGS[name]
    if name in OTHER_VALUES:
        return OTHER_VALUES[name]
    if field.metadata["choices"]:
        return next(choice for choice in field.metadata["choices"] if choice != field.default)
    if isinstance(field.default, str):
        return "other"
    if isinstance(field.default, bool):
        return not field.default
    if isinstance(field.default, tuple):
        return ("one", "two")
    return field.default + 2


@pytest.mark.parametrize("name", RSNA_TRAINING)
def test_settings_that_change_the_weights_change_the_run(name):
    value = other_value(name)
    values = {name: value} | BESIDE.get(name, {})
    words = "one+two" if isinstance(value, tuple) else value
    assert f"-{name}={words}" in RSNA.settings_of(values).place.run


def test_replace_changes_single_settings_wherever_they_stand():
    settings = RSNA.settings_of({}).replace(epochs=3, levels="3-5", run="x")
    assert settings.training.epochs == 3
    assert settings.method.levels == "3-5"
    assert settings.place.run == "x"
    with pytest.raises(KeyError, match="decoder"):
        settings.replace(decoder="unet")


def test_records_are_plain_and_read_back_the_same():
    settings = RSNA.settings_of({"merge": ("a", "b"), "fold": 1})
    plain = settings.plain()
    assert plain["merge"] == ["a", "b"]
    assert plain["working"] == "working"
    again = make_settings(plain, DetectorSettings)
    assert again == dataclasses.replace(settings, given=())


def test_records_of_older_versions_hold_more_and_less():
    values = {"task": "rsna", "decoder": "unet", "epochs": 5}
    settings = make_settings(values, DetectorSettings)
    assert settings.training.epochs == 5
    assert settings.method == DetectorSettings()


def test_folds_that_are_wanted():
    assert RSNA.settings_of({}).wanted_folds() == [0, 1, 2, 3]
    assert RSNA.settings_of({"fold": 2}).wanted_folds() == [2]
    with pytest.raises(InputError, match="--fold 4 does not exist: there are 4 folds, 0 to 3"):
        RSNA.settings_of({"fold": 4}).wanted_folds()
    with pytest.raises(InputError, match="--fold -1 does not"):
        RSNA.settings_of({"fold": -1}).wanted_folds()


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PlaceSettings().task = "x"
