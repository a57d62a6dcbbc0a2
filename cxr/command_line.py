"""The command line of all scripts: a task's flags, grouped help, errors as sentences, exit codes.

Every step accepts the flags of all steps of its task, so that `run_all.sh FLAGS` hands the same
words to each, and refuses those that the task does not read, naming who does. PyTorch is not
imported before the flags are understood.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import errno
import io
import json
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from cxr.inference.run_archive import (
    STARTER,
    archive_task,
    names_archive,
    starter_path,
    unpack_run,
)
from cxr.run_folder import TaskFolder
from cxr.settings import AREAS, PlaceSettings, Settings, flag, setting_fields, setting_types
from cxr.system.disk import atomic
from cxr.system.errors import InputError
from cxr.tasks import METHODS, TASKS, Task

Step = Callable[[Task, Settings], int | None]

# What each step reads, and so what its --help lists. "method" and "dataset" are the task's own.
READS = {
    "download": ("place", "data"),
    "preprocess": ("place", "data", "dataset", "machine"),
    "train": ("place", "data", "training", "method", "machine"),
    "predict": ("place", "prediction", "images", "method", "machine"),
    "postprocess": ("place", "judging", "prediction", "method"),
    "export": ("place", "prediction", "extra"),
    "grad_cam": ("place", "extra", "images", "prediction", "machine"),
    "serve": ("place", "prediction", "extra", "hospital", "images", "machine"),
    "inspect": ("place", "prediction"),
}
READS_ARCHIVES = ("predict", "export", "serve")  # --run may be a file
# They take from a run what it was made with.
AFTER_TRAINING = ("predict", "postprocess", "export", "grad_cam", "serve", "inspect")
TITLES = {
    "place": "which data set and run, and where they are",
    "data": "from files to stored pictures and folds",
    "training": "how a network learns",
    "machine": "how it runs on this machine",
    "prediction": "networks and views that answer",
    "images": "any X-rays instead of the data set's",
    "judging": "how answers are judged",
    "extra": "further steps",
    "hospital": "other machines",
}
# Not taken from a --config file that is a run's own record: they say where and what that run was.
OF_THE_RECORD = ("run", "fold")
GLOSS_INDENT = 12  # spaces before a line that goes on with what stands right of an example
METAVARS = {int: "N", float: "X", str: "TEXT", Path: "FOLDER"}
OWN = "own"  # as --task: the one of three tasks that the labels are of
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)


def run_step(
    name: str, step: Step, description: str, arguments: Sequence[str] | None = None
) -> None:
    """Read the command line, call step(task, settings) and exit with its status.

    What a user can repair becomes one sentence and exit status 1.
    """
    tolerate_other_encodings()
    try:
        task, settings = read_command_line(name, description, arguments)
        if needs_check(name, task, settings):
            task.check(settings)
        status = step(task, settings)
    except InputError as error:
        sys.exit(f"error: {plain_sentence(error)}")
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        sys.exit(
            f"error: cannot write {error.filename or 'a file'} ({error.strerror}): free space or "
            "choose another --working folder, then run the same command again"
        )
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, without importing it
            raise
        sys.exit(
            "error: the memory of the GPU is full: lower --batch-size (and raise --accumulate as "
            "much), --image-size or --channels, then run the same command again"
        )
    except KeyboardInterrupt:
        sys.exit("stopped by Ctrl-C: finished parts are kept, the same command continues")
    sys.exit(status or 0)


def tolerate_other_encodings() -> None:
    """Write what the console's encoding does not know as escapes, in place of a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def read_command_line(
    step: str, description: str, arguments: Sequence[str] | None = None
) -> tuple[Task, Settings]:
    """(task, settings) of the flags, checked. Raises InputError for what cannot be used."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    first = _first_parser().parse_known_args(words)[0]
    values = read_config_file(Path(first.config)) if first.config else {}
    task_name = first.task or values.get("task")
    run_name = str(first.run or values.get("run") or "")
    if names_archive(run_name):
        refuse_archive(step, run_name)
        task_name = archive_task(run_name, None if task_name == OWN else task_name)
    if task_name == OWN:
        task_name = find_own_task(words, values)
    task_name = task_name or "rsna"
    if task_name not in TASKS:
        raise InputError(f"unknown --task {task_name}: choose from {', '.join(TASKS)}")
    task = TASKS[task_name]

    parser = build_parser(step, description, task)
    given, unknown = parser.parse_known_args(words)
    refuse_unknown(task, unknown)
    flags = {
        key: value for key, value in vars(given).items() if key not in ("config", "save_config")
    }
    is_record = bool(first.config) and Path(first.config).suffix == ".json"
    settings = task.settings_of(flags, keep_known(task, values, is_record))
    working = settings.place.working
    if step == "serve":
        settings = starter_where_nothing_is_trained(task, settings)
    if names_archive(settings.place.run):
        settings = unpack_named_run(step, task, settings)
    if step in AFTER_TRAINING:
        settings = task.follow_run(task.follow_search(settings))
    settings.wanted_folds()
    if "save_config" in given:
        save_config(Path(given.save_config), settings.replace(working=working))
    return task, settings


def find_own_task(words: Sequence[str], values: dict[str, Any]) -> str:
    """The task that --task own stands for. Raises InputError where nothing tells."""
    from cxr.datasets.own.source import find_task_name  # reads images' formats

    if {"-h", "--help"} & set(words):
        return "own-boxes"
    parser = _first_parser()
    for name in ("--input", "--working", "--labels"):
        parser.add_argument(name)
    parser.add_argument("--demo", action="store_true")
    first = parser.parse_known_args(words)[0]
    is_demo = first.demo or bool(values.get("demo"))
    place = PlaceSettings()
    folder = first.input or values.get("input") or place.input
    usual = "working/demo" if is_demo else place.working
    working = first.working or values.get("working") or usual
    labels = first.labels or values.get("labels") or ""
    return find_task_name(Path(folder), Path(working), labels, is_demo)


def refuse_archive(step: str, run: str) -> None:
    """Raises InputError where a step cannot use a run that is a file."""
    if step not in READS_ARCHIVES:
        raise InputError(
            f"--run {run} is a finished run in a file, which predicts images of one's own: give it "
            "to 04_predict.py --images, 06_export.py or serve.py, and this step the name of a run"
        )


def unpack_named_run(step: str, task: Task, settings: Settings) -> Settings:
    """The settings with the place where the run of --run FILE.zip is unpacked."""
    run = settings.place.run
    if step == "predict" and not settings.images.images:
        raise InputError(
            f"--run {run} is a run in a file, without the images it was trained with: say by "
            "--images which ones it shall predict"
        )
    unpacked = unpack_run(run, settings.place.working, task.name)
    return settings.replace(working=unpacked.task.path.parent, run=unpacked.name)


def starter_where_nothing_is_trained(task: Task, settings: Settings) -> Settings:
    """The settings with --run starter where no run is named and none is there."""
    folder = TaskFolder.of(settings.place)
    path = starter_path(task.name)
    if "run" in settings.given or folder.run_names() or not path.exists():
        return settings
    print(f"no run was trained in {folder.path}: the starter answers, {path}")
    return settings.replace(run=STARTER)


def needs_check(step: str, task: Task, settings: Settings) -> bool:
    """Whether method and data set have to look at the settings before the step begins.

    Steps 01 and 02 read little that these know, and spare a user the seconds that PyTorch takes to
    load, unless a flag was given that a later step would refuse.
    """
    if step not in ("download", "preprocess"):
        return True
    later = [*setting_fields(task.method_settings)]
    for area in ("training", "prediction", "judging"):
        later += setting_fields(AREAS[area])
    return any(name in later for name in settings.given)


def _first_parser() -> argparse.ArgumentParser:
    """Only what decides which flags there are."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--task")
    parser.add_argument("--run")
    parser.add_argument("--config")
    return parser


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Leaves the lines of a description as they are where they fit into the terminal.

    In a narrower one, what stands to the right of an example goes below it.
    """

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = text.splitlines()
        if max(map(len, lines), default=0) <= width:
            return super()._fill_text(text, width, indent)
        return "\n".join(fit_lines(lines, width))


def fit_lines(lines: Sequence[str], width: int) -> list[str]:
    """Paragraphs, and examples with glosses to their right, in lines of at most `width` letters.

    An example itself stays one line, so that it can be copied.
    """
    # First (indent, text) of whole paragraphs, examples and glosses.
    pieces: list[tuple[int, str]] = []
    examples = set()  # their places among the pieces
    goes_on = False  # whether the next line may belong to the last piece
    for line in lines:
        text = line.lstrip()
        indent = len(line) - len(text)
        if not text:
            pieces.append((0, ""))
            goes_on = False
        elif goes_on and (indent == 0 or indent >= GLOSS_INDENT):
            last_indent, last = pieces.pop()
            pieces.append((last_indent, f"{last} {text}"))
        elif indent >= GLOSS_INDENT and len(pieces) - 1 in examples:
            pieces.append((pieces[-1][0] + 4, text))
            goes_on = True
        elif indent:
            example, _, gloss = text.partition("  ")
            examples.add(len(pieces))
            pieces.append((indent, example))
            if gloss:
                pieces.append((indent + 4, gloss.strip()))
            goes_on = bool(gloss)
        else:
            pieces.append((0, text))
            goes_on = not text.endswith(":")

    fitted = []
    for number, (indent, text) in enumerate(pieces):
        margin = " " * indent
        if not text or number in examples:
            fitted.append(margin + text)
        else:
            fitted += textwrap.wrap(
                text, width, initial_indent=margin, subsequent_indent=margin, break_on_hyphens=False
            )
    return fitted


def build_parser(step: str, description: str, task: Task) -> argparse.ArgumentParser:
    """The parser of a step and task: what the step reads is listed, the rest accepted silently."""
    parser = argparse.ArgumentParser(
        description=description,
        epilog=describe_tasks(task),
        formatter_class=HelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        usage="%(prog)s [flags]",
    )
    areas = AREAS | {"dataset": task.dataset_settings, "method": task.method_settings}
    titles = TITLES | {
        "method": f"how a {task.method_name} learns and answers",
        "dataset": f"the data set of {task.name}",
    }
    for area, settings_class in areas.items():
        listed = area in READS[step]
        group = parser.add_argument_group(titles[area]) if listed else parser
        types = setting_types(settings_class)
        for name, setting_field in setting_fields(settings_class).items():
            _add_flag(group, name, setting_field, types[name], listed)
    files = parser.add_argument_group("settings in files")
    files.add_argument(
        "--config",
        metavar="FILE",
        help="settings from a YAML file, or from a run's config.json; flags override them",
    )
    files.add_argument("--save-config", metavar="FILE", help="write all settings to a YAML file")
    return parser


def _add_flag(
    group: Any, name: str, setting_field: dataclasses.Field, wanted: Any, listed: bool
) -> None:
    text: str = argparse.SUPPRESS
    if listed:
        text = setting_field.metadata["reason"].replace("%", "%%")
        default = setting_field.default
        if default is not False and default not in (None, "", ()):
            text += f" [{default}]"
    if wanted is bool:
        group.add_argument(flag(name), action=argparse.BooleanOptionalAction, help=text)
    elif wanted == tuple[str, ...]:
        words = "PATH" if name == "images" else "NAME"
        group.add_argument(flag(name), nargs="+", metavar=words, help=text)
    else:
        value_type = int if wanted == (int | None) else wanted
        choices = setting_field.metadata["choices"]
        metavar = None if choices else METAVARS[value_type]
        group.add_argument(flag(name), type=value_type, choices=choices, metavar=metavar, help=text)


def describe_tasks(task: Task) -> str:
    """The end of --help: tasks and the presets of this one."""
    lines = ["tasks (--task NAME):"]
    lines += [f"  {each.name:<14} {each.gloss}" for each in TASKS.values()]
    lines += ["", f"presets of {task.name} (--preset NAME):"]
    lines += [f"  {name:<18} {preset.gloss}" for name, preset in task.presets.items()]
    lines += ["", "Flags of the other steps are accepted, too: each step's --help lists its own."]
    return "\n".join(lines)


def refuse_unknown(task: Task, unknown: list[str]) -> None:
    """Raises InputError for words that are no flags of this task, saying who reads them."""
    if not unknown:
        return
    word = unknown[0].split("=")[0]
    readers = tasks_that_read(word)
    if readers:
        raise InputError(
            f"{word} is read by --task {', '.join(readers)} and not by {task.name}: leave it out, "
            "or choose another --task"
        )
    if word.startswith("--"):
        near = difflib.get_close_matches(word, [flag(name) for name in known_settings()], n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InputError(f"{word} is no flag of any step: {hint}see --help")
    raise InputError(f"{word!r} is no flag, and no flag before it takes it: see --help")


def tasks_that_read(word: str) -> list[str]:
    """Names of the tasks that have a flag."""
    name = word.removeprefix("--").removeprefix("no-").replace("-", "_")
    readers = []
    for task in TASKS.values():
        if name in {
            **setting_fields(task.method_settings),
            **setting_fields(task.dataset_settings),
        }:
            readers.append(task.name)
    return readers


def read_config_file(path: Path) -> dict[str, Any]:
    """{setting: value} of a YAML file or a run's config.json. Raises InputError."""
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except FileNotFoundError:
        raise InputError(f"--config {path} does not exist") from None
    except (ValueError, yaml.YAMLError, OSError) as error:
        reason = str(error).replace("\n", " ")
        raise InputError(f"--config {path} is not readable ({reason})") from None
    if not isinstance(content, dict):
        raise InputError(f"--config {path} must hold settings, one `name: value` a line")
    values = {str(name).replace("-", "_"): value for name, value in content.items()}
    known = known_settings()
    if path.suffix == ".json":  # a record, perhaps of an older version: what nobody reads is past
        return {k: v for k, v in values.items() if k in known and k not in OF_THE_RECORD}
    for name in values:
        if name not in known:
            raise InputError(f"--config {path} has the unknown setting {name}: see --help")
    return values


def known_settings() -> set[str]:
    """Names of the settings of all tasks."""
    classes = [*AREAS.values(), *(settings_class for _, settings_class in METHODS.values())]
    classes += [task.dataset_settings for task in TASKS.values()]
    return {name for settings_class in classes for name in setting_fields(settings_class)}


def keep_known(task: Task, values: dict[str, Any], is_record: bool) -> dict[str, Any]:
    """The values of a file, checked like flags: choices, and whether the task reads them.

    is_record: of a run, perhaps of an older version, which also holds what the task does not read.
    """
    areas = [*AREAS.values(), task.method_settings, task.dataset_settings]
    known: dict[str, dataclasses.Field] = {}
    for area in areas:
        known |= setting_fields(area)
    if is_record:
        values = {name: value for name, value in values.items() if name in known}
    for name, value in values.items():
        if name not in known:
            refuse_unknown(task, [flag(name)])
        choices = known[name].metadata["choices"]
        if choices and str(value) not in choices:
            raise InputError(f"{name} in --config is {value!r}: choose from {', '.join(choices)}")
    return values


def save_config(path: Path, settings: Settings) -> None:
    """All settings as YAML, in the order of --help."""
    content = {k: v for k, v in settings.plain().items() if k not in OF_THE_RECORD}
    with atomic(path) as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    print(f"settings written to {path}: --config {path} repeats them")


def plain_sentence(error: InputError) -> str:
    """The words of an InputError, also where PyTorch's loader has put a traceback before them."""
    name = f"{InputError.__module__}.{InputError.__name__}: "
    return str(error).rpartition(name)[2].strip()
