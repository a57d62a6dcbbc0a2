"""What a detector sees beside the plain picture: equalised contrast, numbers of the header."""

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from test_models import build, random_pictures
from tiny_data import write_tiny_data

from cxr.data.batch import SampleContent, collate
from cxr.data.dataset import XrayDataset
from cxr.data.tables import read_table
from cxr.images.equalize import equalize
from cxr.images.header_numbers import HEADER_NUMBERS, header_numbers
from cxr.inference.run import predict_batch
from cxr.methods.base import VIEW_SETS, Labels
from cxr.methods.detector.export import refuse_inputs
from cxr.system.errors import InputError
from cxr.system.runtime import Runtime
from cxr.tasks import TASKS

RSNA = TASKS["rsna"]
NAN = float("nan")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    working = tmp_path_factory.mktemp("inputs")
    write_tiny_data(working)
    return working / "tiny"


# --- contrast


def test_contrast_of_a_flat_picture_is_spread_out():
    picture = np.random.default_rng(0).integers(100, 130, (64, 64), dtype=np.uint8)
    assert equalize(picture, 0.0) is picture
    equalised = equalize(picture, 4.0)
    assert equalised.std() > 2 * picture.std()
    assert equalised.shape == picture.shape
    assert equalised.dtype == np.uint8


def test_the_stored_picture_is_equalised_before_it_is_resized(tiny):
    table = read_table(tiny / "train.csv")
    content = SampleContent(annotated=False)
    sample = XrayDataset(table, tiny / "images", 32, content, clahe=2.0)[(0, 1)]
    stored = cv2.imread(str(tiny / "images" / "train001.png"), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(tiny / "images" / "equalised.png"), equalize(stored, 2.0))
    again = pd.DataFrame({"image_id": ["equalised"]})
    expected = XrayDataset(again, tiny / "images", 32, content)[(0, 0)]
    assert torch.equal(sample.image, expected.image)
    plain = XrayDataset(table, tiny / "images", 32, content)[(0, 1)]
    assert not torch.equal(sample.image, plain.image)


# --- header


@pytest.mark.parametrize(
    "age, sex, view, numbers",
    [
        (50.0, "M", "AP", [0, 1, 1, 1]),
        (100, "F", "PA", [1, 1, -1, -1]),
        (0.0, "", "LL", [-1, 1, 0, 0]),
        (NAN, NAN, NAN, [0, 0, 0, 0]),
        (None, None, None, [0, 0, 0, 0]),
        (148.0, "O", "", [0, 0, 0, 0]),
    ],
)
def test_a_header_in_numbers(age, sex, view, numbers):
    assert header_numbers(age, sex, view).tolist() == numbers


def test_headers_of_a_batch_are_those_of_the_table(tiny):
    """The second image's age is missing; a table without the columns says nothing."""
    table = read_table(tiny / "train.csv")
    content = SampleContent(header=True)
    known = table.assign(age=[25.0, NAN] * 8, sex="F", view=["AP", "PA"] * 8)
    dataset = XrayDataset(known, tiny / "images", 64, content)
    batch = collate([dataset[(0, 0)], dataset[(0, 1)]])
    assert batch.headers.tolist() == [[-0.5, 1, -1, 1], [0, 0, -1, -1]]
    unknown = XrayDataset(table, tiny / "images", 64, content)[(0, 0)]
    assert unknown.header.tolist() == [0, 0, 0, 0]
    assert collate([XrayDataset(known, tiny / "images", 64)[(0, 0)]]).headers is None


@pytest.fixture(scope="module")
def network():
    """Whose last layer says (1, 2, 3) times the view, the last of the numbers, to the classes."""
    network = build(header_numbers=HEADER_NUMBERS).eval()
    with torch.no_grad():
        assert not network.global_head.of_header.weight.any()
        network.global_head.of_header.weight[:, 3] = torch.tensor([1.0, 2, 3])
    return network


def test_what_a_header_adds(network):
    images = random_pictures()
    headers = torch.tensor([[0.0, 0, 0, -1]])
    with torch.no_grad():
        plain = network(images)
        added = network(images, None, headers)
        later = RSNA.method.add_headers(plain, headers, network)
    moved = added["category"] - plain["category"]
    assert moved[0].tolist() == pytest.approx([-1, -2, -3], abs=1e-5)
    assert torch.equal(added["category"], later["category"])
    assert torch.equal(added["scores"], plain["scores"])


def test_unknown_headers_add_nothing(network):
    images = random_pictures()
    with torch.no_grad():
        plain = network(images)["category"]
        assert torch.equal(network(images, None, torch.zeros(1, HEADER_NUMBERS))["category"], plain)
    without = build().eval()
    assert without.add_headers({"category": plain}, torch.ones(1, 4)) == {"category": plain}


def settings_of(**values):
    return RSNA.settings_of({"image_size": 192, "levels": "3-6", "header_inputs": True} | values)


def test_predictions_know_the_header(network):
    images = random_pictures()
    runtime = Runtime(torch.device("cpu"), "fp32")
    views = VIEW_SETS["flip"]
    categories = []
    for headers in (None, torch.tensor([[0.0, 0, 0, 1]])):
        [merged] = predict_batch(
            [network], RSNA.method, views, images, settings_of(), runtime, headers=headers
        )
        categories.append(merged.category)
    ratios = (categories[1] / categories[0]).log()
    assert (ratios[1:] - ratios[:-1]).tolist() == pytest.approx([1, 1], abs=0.05)


def test_the_network_is_built_and_told_as_the_settings_say(tiny):
    table = read_table(tiny / "train.csv").assign(age=30.0, sex="M", view="AP")
    settings = settings_of(encoder="tu-test_resnet", weights="none", channels=16, head_convs=1)
    labels = Labels(("box",), ("a", "b", "c"))
    model = RSNA.method.build_model(settings, labels)
    assert model.global_head.of_header.weight.shape == (3, HEADER_NUMBERS)
    content = RSNA.method.sample_content(settings)
    make_target = RSNA.method.make_target(settings)
    dataset = XrayDataset(table, tiny / "images", 192, content, make_target=make_target)
    batch = collate([dataset[(0, 0)], dataset[(0, 1)]])
    outputs = model(batch.images, *RSNA.method.network_inputs(batch, settings))
    sum(RSNA.method.loss(outputs, batch, model, settings).values()).backward()
    assert model.global_head.of_header.weight.grad.abs().sum() > 0
    compiled = settings.replace(compile=True)
    assert RSNA.method.network_inputs(batch, compiled)[0] is None


def test_what_cannot_be(tiny):
    with pytest.raises(InputError, match="which --global-weight 0 does not train"):
        RSNA.check(settings_of(global_weight=0.0))
    with pytest.raises(InputError, match="--clahe must be at least 0, not -1"):
        settings_of(clahe=-1.0)
    with pytest.raises(InputError, match="a run with --header-inputs cannot be a file of step 06"):
        refuse_inputs(settings_of())
    with pytest.raises(InputError, match="a run with --clahe cannot be a file of step 06"):
        refuse_inputs(settings_of(clahe=2.0))
