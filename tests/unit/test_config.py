"""The command line: every setting is used, wrong words are refused, runs get names of their own."""

import ast
import dataclasses
import errno
import sys
from pathlib import Path

import pytest

from cxr.config import Config, build_parser, flags, resolve, run_step
from cxr.system.disk import InputError
from cxr.tasks import TASKS

ROOT = Path(__file__).resolve().parents[2]
PRESETS = {name: task.presets for name, task in TASKS.items()}
SHARES = (
    "dropout",
    "ema",
    "label_smoothing",
    "positive_share",
    "positive_share_end",
    "paste",
)  # below 1
TRAINING = [f.name for f in flags() if f.metadata["training"]]


def parse(*words):
    return resolve(vars(build_parser("").parse_args(words)), PRESETS)


def settings_read():
    """Names that are read as config.<name>, self.config.<name>, or self.<name> inside Config itself."""
    found = set()
    for path in [*(ROOT / "cxr").rglob("*.py"), *ROOT.glob("0*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                owner = getattr(node.value, "id", getattr(node.value, "attr", ""))
                if owner == "config" or owner == "self" and path.name == "config.py":
                    found.add(node.attr)
    return found


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Config)])
def test_every_setting_is_read_somewhere(name):
    assert name in settings_read()


def test_every_setting_has_a_reason():
    assert all(len(f.metadata["reason"]) > 10 for f in flags())
    assert len({f.metadata["reason"] for f in flags()}) == len(flags())


def test_every_default_is_a_choice():
    assert all(f.default in f.metadata["choices"] for f in flags() if f.metadata["choices"])


def test_help_shows_every_flag(capsys):
    with pytest.raises(SystemExit) as stop:
        parse("--help")
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert all("--" + f.name.replace("_", "-") in text for f in flags())


@pytest.mark.parametrize(
    "task, preset", [(task, preset) for task in PRESETS for preset in PRESETS[task]]
)
def test_presets_are_valid(task, preset):
    config = parse("--task", task, "--preset", preset)
    assert config.run == preset and config.explicit == ("task", "preset")
    chosen = {f.name: f.metadata["choices"] for f in flags() if f.metadata["choices"]}
    assert all(getattr(config, name) in choices for name, choices in chosen.items())
    types = {f.name: type(f.default) for f in flags()}
    assert all(isinstance(value, types[name]) for name, value in PRESETS[task][preset].items())


def test_every_task_has_the_presets_that_the_help_names():
    assert all({"paper", "small", "demo"} <= set(presets) for presets in PRESETS.values())


def test_flags_override_the_preset_which_overrides_the_default():
    assert Config().image_size == 512
    assert parse("--preset", "small").image_size == PRESETS["rsna"]["small"]["image_size"]
    assert parse("--preset", "small", "--image-size", "320").image_size == 320


def test_demo_has_folders_and_a_preset_of_its_own():
    config = parse("--demo")
    assert (config.preset, config.input, config.working) == (
        "demo",
        Path("input/demo"),
        Path("working/demo"),
    )
    assert parse("--demo", "--working", "x").working == Path("x")
    assert parse("--demo", "--preset", "small").run == "small"


@pytest.mark.parametrize(
    "words, value",
    [
        ((), False),
        (("--compile",), True),
        (("--no-compile",), False),
        (("--compile", "--no-compile"), False),
    ],
)
def test_switches(words, value):
    assert parse(*words).compile is value


@pytest.mark.parametrize(
    "words",
    [
        ("--no-such-flag",),
        ("--compile", "True"),
        ("--epochs", "many"),
        ("--epochs",),
        ("--optimizer", "lion"),
        ("--epoch", "3"),
        ("--tta", "rotate"),
        ("stray",),
    ],
)
def test_wrong_words_end_with_2_and_say_which(words, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(*words)
    assert stop.value.code == 2
    assert words[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, sentence",
    [
        (("--preset", "big"), "unknown --preset big"),
        (("--task", "bones"), "unknown --task bones"),
        (("--fold", "4"), "--fold 4 does not exist: there are 4 folds, 0 to 3"),
        (("--fold", "-1"), "--fold -1 does not"),
        (("--folds", "1"), "--folds must be at least 2"),
        (("--epochs", "0"), "--epochs must be above 0"),
        (("--batch-size", "-1"), "--batch-size must be above 0"),
    ],
)
def test_wrong_values_are_explained(words, sentence):
    with pytest.raises(InputError, match=sentence):
        parse(*words)


def test_presets_with_unknown_settings_are_refused():
    with pytest.raises(InputError, match="unknown settings: epoch$"):
        resolve({}, {"rsna": {"paper": {"epoch": 3}}})


def test_run_names():
    assert parse().run == "paper"
    assert parse("--encoder", "resnet18", "--epochs", "3").run == "paper-encoder=resnet18-epochs=3"
    assert parse("--epochs", str(Config.epochs)).run == "paper"
    assert parse("--run", "mine", "--epochs", "3").run == "mine"
    assert parse("--weights", "/a/b/c.pth").run == "paper-weights=c.pth"


def test_a_name_that_no_folder_can_have():
    with pytest.raises(
        InputError,
        match="the settings make too long a name for the folder of the run: give one with --run",
    ):
        parse("--weights", "w" * 200)
    assert parse("--weights", "w" * 200, "--run", "mine").run == "mine"


@pytest.mark.parametrize(
    "words",
    [
        ("--workers", "0"),
        ("--fold", "1"),
        ("--max-hours", "2"),
        ("--tta", "none"),
        ("--device", "cpu"),
        ("--submit", "text"),
    ],
)
def test_settings_that_do_not_change_the_weights_do_not_change_the_run(words):
    assert parse(*words).run == "paper"


@pytest.mark.parametrize("name", TRAINING)
def test_settings_that_change_the_weights_change_the_run(name):
    setting = next(f for f in flags() if f.name == name)
    choices = [c for c in setting.metadata["choices"] or () if c != setting.default]
    other = (
        choices[0]
        if choices
        else "other"
        if isinstance(setting.default, str)
        else setting.default + 2
    )
    other = 0.25 if name in SHARES else other
    other = 40 if name == "pretrain" else other
    assert parse("--" + name.replace("_", "-"), str(other)).run == f"paper-{name}={other}"


def test_explicit_names_what_was_given():
    assert parse("--epochs", "3", "--no-demo").explicit == ("epochs", "demo")
    assert parse().explicit == ()


def test_folders_and_folds():
    config = parse("--working", "w", "--run", "r")
    assert (config.task_dir, config.run_dir) == (Path("w/rsna"), Path("w/rsna/r"))
    assert config.fold_dir(2) == Path("w/rsna/r/fold2")
    assert config.wanted_folds() == [0, 1, 2, 3] and parse("--fold", "2").wanted_folds() == [2]


def test_compare_takes_several_names():
    assert parse("--compare", "a", "b").compare == ("a", "b")


def test_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse().epochs = 3


def end_of(monkeypatch, step, *words):
    """The SystemExit code of a step."""
    monkeypatch.setattr(sys, "argv", ["step.py", *words])
    with pytest.raises(SystemExit) as stop:
        run_step(step, "A step.", TASKS)
    return stop.value.code


def fail(error):
    def step(task, config):
        raise error

    return step


def test_steps_get_the_task_and_pass_their_status_on(monkeypatch):
    seen = []
    assert (
        end_of(
            monkeypatch, lambda task, config: seen.append((task, config.epochs)), "--epochs", "3"
        )
        == 0
    )
    assert seen == [(TASKS["rsna"], 3)]
    assert end_of(monkeypatch, lambda task, config: 75) == 75


@pytest.mark.parametrize("words", [("--preset", "big"), ("--task", "bones"), ("--fold", "9")])
def test_wrong_settings_end_a_step_with_one_sentence(monkeypatch, words):
    message = end_of(monkeypatch, fail(AssertionError("not reached")), *words)
    assert (
        message.startswith("error: ") and "\n" not in message
    )  # a text as exit code is printed, the status is 1


@pytest.mark.parametrize(
    "error, words",
    [
        (InputError("a.csv is missing: run step 02"), "error: a.csv is missing: run step 02"),
        (OSError(errno.ENOSPC, "No space left on device", "a.pt"), "cannot write a.pt"),
        (OSError(errno.EFBIG, "File too large", "a.pt"), "cannot write a.pt"),
        (OSError(errno.EROFS, "Read-only file system", "a.pt"), "cannot write a.pt"),
        (PermissionError(errno.EACCES, "Permission denied", "a.pt"), "cannot write a.pt"),
        (KeyboardInterrupt(), "stopped by Ctrl-C"),
    ],
)
def test_what_a_user_can_repair_is_one_sentence(monkeypatch, error, words):
    message = end_of(monkeypatch, fail(error))
    assert words in message and "\n" not in message


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError(errno.EIO, "Input/output error")])
def test_other_errors_keep_their_traceback(monkeypatch, error):
    monkeypatch.setattr(sys, "argv", ["step.py"])
    with pytest.raises(type(error)):
        run_step(fail(error), "A step.", TASKS)


@pytest.mark.parametrize(
    "words", [("--dropout", "1"), ("--ema", "1"), ("--ema", "-0.1"), ("--lr", "0")]
)
def test_numbers_outside_their_range_are_refused(words):
    with pytest.raises(InputError, match=words[0]):
        parse(*words)
