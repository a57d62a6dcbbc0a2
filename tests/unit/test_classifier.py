"""The classifier with its auxiliary head, and its loss."""

import math
from dataclasses import replace

import pytest
import torch
from timm import create_model

from cxr.config import Config
from cxr.methods.classifier.losses import classifier_loss
from cxr.networks import encoders
from cxr.networks.classifier import Classifier, build_classifier, gray_constants
from cxr.networks.decoders import BlocksDecoder
from cxr.system.errors import InputError

SMALL = "tu-mobilenetv3_small_050"


def network(encoder="resnet18", decoder="blocks", auxiliary=True):
    torch.manual_seed(0)
    return Classifier(encoder, "none", decoder, auxiliary, 4, 0.0, 64).eval()


@pytest.fixture(scope="module")
def blocks():
    return network()


def pictures(count=2):
    return torch.randint(
        0, 256, (count, 1, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


@pytest.mark.parametrize(
    "encoder, decoder",
    [
        ("resnet18", "blocks"),
        ("resnet18", "unet"),
        ("tu-resnet10t", "blocks"),
        ("tu-resnet10t", "unet"),
    ],
)
def test_outputs(encoder, decoder):
    outputs = network(encoder, decoder)(pictures())
    assert outputs["label"].shape == (2, 4) and outputs["mask"].shape == (2, 1, 64, 64)
    assert outputs["mask"].sigmoid().mean() < 0.3  # begins with little


def test_the_published_decoder():
    """768-512-256-256-128 channels above 1280, 14.46 million weights, 14 x 14 to 448 x 448."""
    decoder = BlocksDecoder([1280])
    assert [step[0][0].out_channels for step in decoder.steps] == [768, 512, 256, 256, 128]
    assert sum(p.numel() for p in decoder.parameters()) + 129 == pytest.approx(14.46e6, rel=1e-3)
    assert BlocksDecoder([64]).eval()([torch.zeros(1, 64, 2, 2)]).shape == (1, 8, 64, 64)


def test_the_wide_convolution_of_timm_is_part_of_the_trunk():
    whole, cut = (
        create_model(SMALL[3:], pretrained=False, num_classes=4),
        encoders.build_trunk(SMALL, "none"),
    )
    assert cut.out_channels == [whole.num_features] and cut.eval()(torch.zeros(1, 3, 64, 64))[
        0
    ].shape[:2] == (1, whole.num_features)
    assert encoders.build_trunk("tu-tf_efficientnetv2_b0", "none").out_channels == [1280]
    assert encoders.build_encoder("tu-tf_efficientnetv2_b0", "none").out_channels[-1] == 192


def test_without_the_auxiliary_head(blocks):
    images = pictures()
    before = blocks(images)["label"]
    twin = network()
    twin.prepare_for_prediction()
    after = twin(images)
    assert list(after) == ["label"] and torch.equal(after["label"], before)
    assert list(network(auxiliary=False)(images)) == ["label"]
    assert (
        build_classifier(
            Config(
                encoder="resnet18", weights="none", decoder="blocks", image_size=64, aux_weight=0.0
            ),
            4,
        ).decoder
        is None
    )


def test_the_map_that_the_class_head_pools(blocks):
    seen = []
    hook = blocks.cam_layer.register_forward_hook(lambda module, given, output: seen.append(output))
    label = blocks(pictures())["label"]
    hook.remove()
    assert seen[0].shape == (2, 512, 2, 2)
    assert torch.allclose(blocks.label_head(seen[0].mean((2, 3))), label, atol=1e-6)


def test_gray_constants():
    assert gray_constants("tu-tf_efficientnetv2_l.in21k_ft_in1k") == (0.5, 0.5)
    assert gray_constants("resnet18") == (0.449, 0.226)
    assert gray_constants("tu-resnet18") == pytest.approx((0.449, 0.226), abs=1e-3)


def test_a_frozen_encoder_leaves_both_heads_free():
    model = network()
    model.freeze_encoder(True)
    free = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert free == {"label_head", "decoder", "mask_head"}
    model.freeze_encoder(False)
    assert all(p.requires_grad for p in model.parameters())


def offline(*args, **options):
    raise OSError("no network")


def test_weights_of_a_trunk(tmp_path, monkeypatch):
    trunk = encoders.build_trunk(SMALL, "none")
    torch.save(trunk.network.state_dict(), tmp_path / "own.pth")
    again = encoders.build_trunk(SMALL, str(tmp_path / "own.pth"))
    assert all(
        torch.equal(a, b) for a, b in zip(trunk.state_dict().values(), again.state_dict().values())
    )
    with pytest.raises(InputError, match="unknown --encoder tu-nothing"):
        encoders.build_trunk("tu-nothing", "none")
    with pytest.raises(InputError, match="use --weights imagenet or a file"):
        encoders.build_trunk(SMALL, "pretrainedmodels")
    monkeypatch.setattr(encoders.timm, "create_model", offline)
    with pytest.raises(InputError, match="could not be loaded from the hub .*--weights FILE"):
        encoders.build_trunk(SMALL, "imagenet")


SETTINGS = Config(mask_loss="bce=1", aux_weight=10.0, label_smoothing=0.05)


def outputs_and_batch(known):
    outputs = {
        "label": torch.tensor([[math.log(3), 0, 0, 0]] * 2),
        "mask": torch.zeros(2, 1, 4, 4, requires_grad=True),
    }
    batch = {
        "label": torch.tensor([0, 0]),
        "mask": torch.ones(2, 1, 4, 4, dtype=torch.uint8),
        "mask_known": torch.tensor(known),
    }
    return outputs, batch


def test_loss_by_hand():
    outputs, batch = outputs_and_batch([True, True])
    terms = {
        name: term.detach() for name, term in classifier_loss(outputs, batch, SETTINGS).items()
    }
    smoothed = -(0.9625 * math.log(1 / 2) + 3 * 0.0125 * math.log(1 / 6))
    assert float(terms["class"]) == pytest.approx(smoothed) and float(
        terms["bce"]
    ) == pytest.approx(10 * math.log(2))
    outputs["mask"] = outputs["mask"].detach()
    both = classifier_loss(outputs, batch, Config(mask_loss="bce=1,dice=1", aux_weight=2.0))
    assert float(both["bce"]) == pytest.approx(2 * math.log(2)) and float(
        both["dice"]
    ) == pytest.approx(2 / 3)


def test_an_unknown_mask_teaches_nothing():
    outputs, batch = outputs_and_batch([True, False])
    with torch.no_grad():
        outputs["mask"][1] = 50
    batch["mask"][1] = 0  # it looks empty
    terms = classifier_loss(outputs, batch, SETTINGS)
    assert terms["bce"].item() == pytest.approx(10 * math.log(2))
    terms["bce"].backward()
    assert outputs["mask"].grad[0].abs().sum() > 0 and not outputs["mask"].grad[1].any()


def test_a_batch_without_a_known_mask():
    """It has the terms of all others, since the log and other processes add them up by name."""
    outputs, batch = outputs_and_batch([False, False])
    both = replace(SETTINGS, mask_loss="bce=1,dice=1")
    terms = classifier_loss(outputs, batch, both)
    sum(terms.values()).backward()
    assert terms["bce"].item() == 0 == terms["dice"].item() and not outputs["mask"].grad.any()
    assert list(terms) == list(classifier_loss(*outputs_and_batch([True, True]), both))


def test_without_masks_there_is_the_class_alone():
    outputs, batch = outputs_and_batch([True, True])
    assert list(classifier_loss({"label": outputs["label"]}, batch, SETTINGS)) == ["class"]
