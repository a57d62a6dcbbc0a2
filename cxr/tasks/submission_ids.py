"""The ids of a submission must be those of the sample submission, in its order."""

import pandas as pd

from cxr.disk import InputError


def check_ids(ids, expected):
    """InputError naming the first id that is missing, unknown, repeated or in another place than expected."""
    given, wanted = set(ids), set(expected)
    faults = [
        ("lacks", [i for i in expected if i not in given]),
        ("has more than the sample submission, such as", [i for i in ids if i not in wanted]),
        ("repeats", pd.Index(ids)[pd.Index(ids).duplicated()].tolist()),
        ("has another order than the sample submission from", [i for i, e in zip(ids, expected) if i != e]),
    ]
    for words, found in faults:
        if found:
            raise InputError(f"the submission {words} {found[0]} ({len(found)} ids)")
