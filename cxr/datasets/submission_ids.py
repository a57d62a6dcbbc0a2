"""Where the sample submission is, and that the ids of a submission must be its, in its order."""

from pathlib import Path

import pandas as pd

from cxr.system.disk import InputError, read_json


def input_folder(config):
    """The data set's folder that step 02 read. Raises InputError where it is not there any more."""
    source = Path(read_json(config.task_dir / "preprocess.json")["input"])
    if not source.is_dir():
        raise InputError(
            f"{source} is missing, and the ids of a submission are in it: bring it back, or run step 02 "
            "with the --input where it is now"
        )
    return source


def check_ids(ids, expected):
    """InputError naming the first id that is missing, unknown, repeated or in another place than expected."""
    given, wanted = set(ids), set(expected)
    faults = [
        ("lacks", [i for i in expected if i not in given]),
        ("has more than the sample submission, such as", [i for i in ids if i not in wanted]),
        ("repeats", pd.Index(ids)[pd.Index(ids).duplicated()].tolist()),
        (
            "has another order than the sample submission from",
            [i for i, e in zip(ids, expected) if i != e],
        ),
    ]
    for words, found in faults:
        if found:
            raise InputError(f"the submission {words} {found[0]} ({len(found)} ids)")
