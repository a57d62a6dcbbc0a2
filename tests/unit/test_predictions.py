"""Files of predictions: they give back what was written, and are whole or refused."""

import numpy as np
import pytest
from candidates import assert_same_candidates, read_candidates

from cxr.data import predictions
from cxr.data.predictions import part_count, part_path, write_part
from cxr.methods.detector.records import Candidates
from cxr.system.errors import InputError

LENGTHS = ("centre", "size20", "size80")


def make_candidates(image_id, count, seed=0):
    rng = np.random.default_rng(seed)
    lengths = {name: rng.uniform(1, 500, (count, 2)).astype(np.float32) for name in LENGTHS}
    return Candidates(
        image_id=image_id,
        width=640,
        height=480 + seed,
        category=rng.dirichlet([1, 1, 1]).astype(np.float32),
        score=np.sort(rng.random(count))[::-1].astype(np.float32),
        label=rng.integers(0, 3, count).astype(np.int16),
        **lengths,
    )


def test_files_return_what_was_written(tmp_path):
    written = [make_candidates("a", 3), make_candidates("ü/0", 0, 1), make_candidates("007", 5, 2)]
    write_part(tmp_path, 0, written[:2])
    write_part(tmp_path, 1, written[2:])
    for a, b in zip(written, read_candidates(tmp_path), strict=True):
        assert_same_candidates(a, b)


def test_a_file_of_images_without_candidates(tmp_path):
    write_part(tmp_path, 0, [make_candidates("a", 0), make_candidates("b", 0)])
    assert [candidates.image_id for candidates in read_candidates(tmp_path)] == ["a", "b"]


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.9, 0.999])
def test_files_that_are_cut_off_are_refused(tmp_path, share):
    write_part(tmp_path, 0, [make_candidates("a", 40)])
    path = part_path(tmp_path, 0)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    sentence = r"part-00000.npz is not a whole prediction file.*run step 04 again"
    with pytest.raises(InputError, match=sentence):
        read_candidates(tmp_path)


@pytest.mark.parametrize("images, parts", [(0, 0), (1, 1), (3, 1), (4, 2)])
def test_number_of_files(monkeypatch, images, parts):
    monkeypatch.setattr(predictions, "PART", 3)
    assert part_count(images) == parts


def test_parts_come_in_the_order_of_their_numbers(tmp_path):
    """Also where a number is longer than the others."""
    for number in (100_000, 99_999, 7):
        write_part(tmp_path, number, [make_candidates(str(number), 1)])
    ids = [candidates.image_id for candidates in read_candidates(tmp_path)]
    assert ids == ["7", "99999", "100000"]
