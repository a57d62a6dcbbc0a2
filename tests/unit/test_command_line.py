"""The command line: wrong words are refused with who reads them, files of settings, exit codes."""

import ast
import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from cxr.command_line import READS, read_command_line, run_step
from cxr.run_folder import RunFolder
from cxr.settings import AREAS, setting_fields
from cxr.system.errors import InputError
from cxr.tasks import TASKS

ROOT = Path(__file__).resolve().parents[2]


def parse(*words, step="train"):
    return read_command_line(step, "A step.", [str(word) for word in words])[1]


def help_of(capsys, *words, step="train"):
    with pytest.raises(SystemExit) as stop:
        parse("--help", *words, step=step)
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_every_area_is_listed_by_a_step():
    listed = {area for areas in READS.values() for area in areas}
    assert listed == {*AREAS, "method", "dataset"}


def test_help_is_grouped_and_lists_tasks_and_presets(capsys):
    text = help_of(capsys)
    assert "how a detector learns and answers:" in text
    assert "--levels" in text
    assert "--decoder" not in text
    for task in TASKS.values():
        assert task.gloss in text
    for name, preset in TASKS["rsna"].presets.items():
        assert name in text
        assert preset.gloss in text


@pytest.mark.parametrize("script", ["03_train", "05_postprocess", "07_grad_cam", "serve"])
def test_help_fits_a_narrow_terminal(capsys, monkeypatch, script):
    """All but examples, which stay one line to be copied; what stood beside them goes below."""
    description = ast.get_docstring(ast.parse((ROOT / f"{script}.py").read_text()))
    monkeypatch.setenv("COLUMNS", "60")
    with pytest.raises(SystemExit):
        read_command_line("train", description, ["--help"])
    lines = capsys.readouterr().out.splitlines()
    too_long = [line for line in lines if len(line) > 60]
    assert all(line.startswith("    python ") for line in too_long), too_long
    examples = [line for line in lines if line.startswith("    python ")]
    assert not any("  " in line.strip() for line in examples)
    assert len(examples) == description.count("    python ")

    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit):
        read_command_line("train", description, ["--help"])
    assert description in capsys.readouterr().out, "as it was written"


def test_help_of_another_task_and_step(capsys):
    assert "--decoder" in help_of(capsys, "--task", "lungs")
    assert "--cleaning" in help_of(capsys, "--task", "covid", step="preprocess")
    text = help_of(capsys, step="download")
    assert "--epochs" not in text
    assert "--demo-images" in text


@pytest.mark.slow
def test_help_is_there_before_pytorch():
    """Its time is measured by benchmarks; here: what it does not load."""
    code = (
        "import sys, runpy; sys.argv = ['03_train.py', '--help']\n"
        "try: runpy.run_path('03_train.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'pandas', 'cv2', 'sklearn'} & set(sys.modules)\n"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - start < 20


def test_every_step_takes_the_flags_of_all_steps():
    words = ["--epochs", "3", "--tta", "none", "--fit-on", "folds", "--size", "256"]
    for step in READS:
        assert parse(*words, step=step).training.epochs == 3


def test_every_flag_of_a_task_is_understood():
    for task in TASKS.values():
        settings = parse("--task", task.name, "--preset", "demo", "--fold", "1")
        names = [name for area in settings.areas().values() for name in setting_fields(type(area))]
        assert set(names) == set(settings.flat())


@pytest.mark.parametrize(
    "words, sentence",
    [
        (
            ("--decoder", "scse"),
            "--decoder is read by --task rsna-classes, pneumothorax, lungs, covid, own-masks",
        ),
        (("--cleaning", "A"), "--cleaning is read by --task covid, covid-boxes and not by rsna"),
        (("--task", "lungs", "--paste", "0.1"), "--paste is read by --task rsna, chestxdet"),
        (("--task", "bones"), "unknown --task bones: choose from rsna"),
        (("--no-such-flag",), "--no-such-flag is no flag of any step: see --help"),
        (("--epoch", "3"), "--epoch is no flag of any step: did you mean --epochs"),
        (("stray",), "'stray' is no flag"),
        (("--compile", "True"), "'True' is no flag, and no flag before it takes it"),
        (("--fold", "4"), "--fold 4 does not exist"),
    ],
)
def test_words_that_nobody_reads_are_refused(words, sentence):
    with pytest.raises(InputError, match=sentence):
        parse(*words)


@pytest.mark.parametrize(
    "words",
    [("--epochs", "many"), ("--epochs",), ("--optimizer", "lion"), ("--tta", "rotate")],
)
def test_values_of_the_wrong_kind_end_with_2_and_say_which(words, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(*words)
    assert stop.value.code == 2
    assert words[0] in capsys.readouterr().err


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
    assert parse(*words).machine.compile is value


def test_given_names_what_was_given():
    assert set(parse("--epochs", "3", "--no-demo").given) == {"epochs", "demo"}
    assert parse().given == ()


def test_several_names():
    assert parse("--compare", "a", "b").judging.compare == ("a", "b")


def test_settings_from_a_yaml_file_are_overridden_by_flags(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("task: lungs\npreset: small\nepochs: 3\naugmentation: 10\nlr: 1\n")
    settings = parse("--config", path, "--epochs", "4")
    assert settings.place.task == "lungs"
    assert settings.training.epochs == 4
    assert settings.training.augmentation == "10"
    assert settings.training.lr == 1.0
    assert settings.place.run == "small-epochs=4-lr=1.0-augmentation=10"


def test_settings_are_saved_and_give_the_same_run_again(tmp_path, capsys):
    path = tmp_path / "saved.yaml"
    first = parse("--preset", "small", "--lr", "0.001", "--save-config", path)
    assert str(path) in capsys.readouterr().out
    again = parse("--config", path)
    assert again.flat() == first.flat()
    assert yaml.safe_load(path.read_text())["lr"] == 0.001


def test_a_run_is_repeated_from_its_own_record(tmp_path):
    first = parse("--preset", "small", "--fold", "2", "--epochs", "5")
    path = tmp_path / "config.json"
    record = first.plain() | {"decoder": "unet", "explicit": []}  # as an older version wrote it
    path.write_text(json.dumps(record))
    again = parse("--config", path)
    assert again.place.fold is None
    assert again.place.run == "small-epochs=5"
    assert again.training == first.training


@pytest.mark.parametrize(
    "content, sentence",
    [
        ("epoch: 3", "has the unknown setting epoch"),
        ("decoder: unet", "--decoder is read by --task"),
        ("optimizer: lion", "optimizer in --config is 'lion': choose from adam"),
        ("- a\n- b", "must hold settings"),
        ("a: [", "is not readable"),
    ],
)
def test_files_that_cannot_be_meant(tmp_path, content, sentence):
    path = tmp_path / "settings.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=sentence):
        parse("--config", path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        parse("--config", tmp_path / "a.yaml")


@pytest.fixture
def trained(tmp_path):
    """The record of a run of five folds, with a rule and views of its own."""
    values = {"preset": "second-segmenter", "run": "r", "folds": 5, "tta": "flip"}
    settings = TASKS["pneumothorax"].settings_of(values | {"working": tmp_path})
    RunFolder.of(settings.place).fold(0).write_config(settings.plain())
    return ("--task", "pneumothorax", "--run", "r", "--working", tmp_path)


def test_steps_after_the_training_follow_the_run(trained, capsys):
    settings = parse(*trained, step="postprocess")
    assert settings.method.rule == "second"
    assert settings.data.folds == 5
    assert settings.prediction.tta == "flip"
    assert settings.training.image_size == 1024
    assert settings.wanted_folds() == [0, 1, 2, 3, 4]
    assert parse(*trained, "--fold", "4", step="predict").place.fold == 4
    assert capsys.readouterr().out == ""


def test_a_flag_that_disagrees_with_the_run_is_said(trained, capsys):
    settings = parse(*trained, "--rule", "third", "--tta", "none", step="postprocess")
    assert settings.method.rule == "third"
    text = capsys.readouterr().out
    assert "note: --rule third in place of the run's second" in text
    assert "note: --tta none in place of the run's flip" in text


def test_the_training_itself_follows_its_flags(trained):
    assert parse(*trained, step="train").method.rule == "first"


def end_of(step, *words, name="download"):
    """The SystemExit code of a step."""
    with pytest.raises(SystemExit) as stop:
        run_step(name, step, "A step.", words)
    return stop.value.code


def fail(error):
    def step(task, settings):
        raise error

    return step


def test_steps_get_the_task_and_pass_their_status_on():
    calls = []
    status = end_of(lambda task, settings: calls.append((task, settings.place.fold)), "--fold", "3")
    assert status == 0
    assert calls == [(TASKS["rsna"], 3)]
    assert end_of(lambda task, settings: 75) == 75


@pytest.mark.parametrize("words", [("--preset", "big"), ("--task", "bones"), ("--fold", "9")])
def test_wrong_settings_end_a_step_with_one_sentence(words):
    message = end_of(fail(AssertionError("not reached")), *words)
    # A text as exit code is printed, and the status is 1.
    assert message.startswith("error: ")
    assert "\n" not in message


@pytest.mark.parametrize("name", ["download", "preprocess", "train"])
def test_what_a_later_step_would_refuse_is_refused_by_the_first(name):
    message = end_of(fail(AssertionError("not reached")), "--augmentation", "third", name=name)
    assert message.startswith("error: --augmentation third is not for a detector")


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
def test_what_a_user_can_repair_is_one_sentence(error, words):
    message = end_of(fail(error))
    assert words in message
    assert "\n" not in message


class OutOfMemoryError(RuntimeError):
    """As torch's is called."""


def test_a_full_gpu_is_one_sentence():
    message = end_of(fail(OutOfMemoryError("CUDA out of memory. Tried to allocate ...")))
    assert message.startswith("error: the memory of the GPU is full: lower --batch-size")


def test_words_that_the_console_does_not_know_are_no_traceback():
    code = "from cxr.command_line import run_step\n"
    code += "run_step('download', lambda task, settings: print('Röntgen \\u2192'), '', [])"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, env=environment)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == rb"R\xf6ntgen \u2192"


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError(errno.EIO, "Input/output error")])
def test_other_errors_keep_their_traceback(error):
    with pytest.raises(type(error)):
        run_step("download", fail(error), "A step.", [])


@pytest.mark.parametrize(
    "content, sentence",
    [
        ("epochs: ten", "epochs must be a whole number, not 'ten'"),
        ("epochs: 2.5", "epochs must be a whole number, not 2.5"),
        ("merge: runA", "merge must be a list of names, not 'runA'"),
        ('demo: "no"', "demo must be true or false, not 'no'"),
        ("lr: [1]", r"lr must be a number, not \[1\]"),
    ],
)
def test_values_of_the_wrong_type_in_a_file(tmp_path, content, sentence):
    path = tmp_path / "settings.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=sentence):
        parse("--config", path)


def test_numbers_as_yaml_has_them(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("lr: 1e-4\nepochs: 3.0\nmerge: [a, 2]\n")
    settings = parse("--config", path)
    assert settings.training.lr == 1e-4
    assert settings.training.epochs == 3
    assert settings.prediction.merge == ("a", "2")
