"""The classifier with its auxiliary head, and its loss."""

import math

import pytest
import torch
from timm import create_model

from cxr.data.batch import Batch
from cxr.method_settings import ClassifierSettings
from cxr.methods.classifier.losses import classifier_loss
from cxr.networks import encoders
from cxr.networks.classifier import ImageClassifier
from cxr.networks.decoders import BlocksDecoder
from cxr.system.errors import InputError

SMALL = "tu-mobilenetv3_small_050"


def build(encoder="resnet18", decoder="blocks", auxiliary=True):
    torch.manual_seed(0)
    model = ImageClassifier(
        encoder=encoder,
        weights="none",
        decoder=decoder,
        auxiliary=auxiliary,
        classes=4,
        dropout=0.0,
        image_size=64,
    )
    return model.eval()


@pytest.fixture(scope="module")
def blocks():
    return build()


def random_pictures(count=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 1, 64, 64), dtype=torch.uint8, generator=generator)


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
    outputs = build(encoder, decoder)(random_pictures())
    assert outputs["label"].shape == (2, 4)
    assert outputs["mask"].shape == (2, 1, 64, 64)
    assert outputs["mask"].sigmoid().mean() < 0.3  # begins with little


def test_the_published_decoder():
    """768-512-256-256-128 channels above 1280, 14.46 million weights, 14 x 14 to 448 x 448."""
    decoder = BlocksDecoder([1280])
    assert [step[0][0].out_channels for step in decoder.steps] == [768, 512, 256, 256, 128]
    of_mask_head = 129
    parameters = sum(p.numel() for p in decoder.parameters()) + of_mask_head
    assert parameters == pytest.approx(14.46e6, rel=1e-3)
    assert BlocksDecoder([64]).eval()([torch.zeros(1, 64, 2, 2)]).shape == (1, 8, 64, 64)


def test_the_wide_convolution_of_timm_is_part_of_the_trunk():
    whole = create_model(SMALL.removeprefix("tu-"), pretrained=False, num_classes=4)
    trunk = encoders.build_trunk(SMALL, "none").eval()
    assert trunk.out_channels == [whole.num_features]
    assert trunk(torch.zeros(1, 3, 64, 64))[0].shape[:2] == (1, whole.num_features)

    name = "tu-tf_efficientnetv2_b0"
    assert encoders.build_trunk(name, "none").out_channels == [1280]
    assert encoders.build_encoder(name, "none").out_channels[-1] == 192


def test_without_the_auxiliary_head(blocks):
    images = random_pictures()
    before = blocks(images)["label"]
    twin = build()
    twin.prepare_for_prediction()
    after = twin(images)
    assert list(after) == ["label"]
    assert torch.equal(after["label"], before)

    never = build(auxiliary=False)
    assert list(never(images)) == ["label"]
    assert never.decoder is None


def test_the_map_that_the_class_head_pools(blocks):
    maps = []
    hook = blocks.cam_layer.register_forward_hook(
        lambda _module, _given, output: maps.append(output)
    )
    label = blocks(random_pictures())["label"]
    hook.remove()
    assert maps[0].shape == (2, 512, 2, 2)
    assert torch.allclose(blocks.label_head(maps[0].mean((2, 3))), label, atol=1e-6)


def test_a_frozen_encoder_leaves_both_heads_free():
    model = build()
    model.freeze_encoder(True)
    free = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert free == {"label_head", "decoder", "mask_head"}
    model.freeze_encoder(False)
    assert all(p.requires_grad for p in model.parameters())


def fail_offline(*_args, **_options):
    raise OSError("no network")


def test_weights_of_a_trunk(tmp_path, monkeypatch):
    trunk = encoders.build_trunk(SMALL, "none")
    torch.save(trunk.network.state_dict(), tmp_path / "timm.pth")
    again = encoders.build_trunk(SMALL, str(tmp_path / "timm.pth")).state_dict()
    for name, value in trunk.state_dict().items():
        assert torch.equal(value, again[name])
    with pytest.raises(InputError, match="unknown --encoder tu-nothing"):
        encoders.build_trunk("tu-nothing", "none")
    with pytest.raises(InputError, match="use --weights imagenet or a file"):
        encoders.build_trunk(SMALL, "pretrainedmodels")
    monkeypatch.setattr(encoders.timm, "create_model", fail_offline)
    with pytest.raises(InputError, match=r"could not be loaded from the hub .*--weights FILE"):
        encoders.build_trunk(SMALL, "imagenet")


SETTINGS = ClassifierSettings(mask_loss="bce=1", aux_weight=10.0, label_smoothing=0.05)
TWO_TERMS = "bce=1,dice=1"


def make_outputs_and_batch(known):
    """Two images of class 0, which has probability 1/2; masks of ones, logits of zeros."""
    outputs = {
        "label": torch.tensor([[math.log(3), 0, 0, 0]] * 2),
        "mask": torch.zeros(2, 1, 4, 4, requires_grad=True),
    }
    batch = Batch(
        images=torch.zeros(2, 1, 4, 4, dtype=torch.uint8),
        boxes=torch.zeros(2, 1, 4),
        labels=torch.full((2, 1), -1),
        image_labels=torch.tensor([0, 0]),
        rows=torch.tensor([0, 1]),
        masks=torch.ones(2, 1, 4, 4, dtype=torch.uint8),
        mask_known=torch.tensor(known),
    )
    return outputs, batch


def test_loss_by_hand():
    outputs, batch = make_outputs_and_batch([True, True])
    terms = classifier_loss(outputs, batch, SETTINGS)
    smoothed = -(0.9625 * math.log(1 / 2) + 3 * 0.0125 * math.log(1 / 6))
    assert terms["class"].item() == pytest.approx(smoothed)
    assert terms["bce"].item() == pytest.approx(10 * math.log(2))

    both = classifier_loss(outputs, batch, ClassifierSettings(mask_loss=TWO_TERMS, aux_weight=2.0))
    assert both["bce"].item() == pytest.approx(2 * math.log(2))
    assert both["dice"].item() == pytest.approx(2 / 3)


def test_an_unknown_mask_teaches_nothing():
    outputs, batch = make_outputs_and_batch([True, False])
    with torch.no_grad():
        outputs["mask"][1] = 50
    batch.masks[1] = 0  # it looks empty
    terms = classifier_loss(outputs, batch, SETTINGS)
    assert terms["bce"].item() == pytest.approx(10 * math.log(2))
    terms["bce"].backward()
    assert outputs["mask"].grad[0].abs().sum() > 0
    assert not outputs["mask"].grad[1].any()


def test_a_batch_without_a_known_mask():
    """It has the terms of all others, since the log and other processes add them up by name."""
    settings = ClassifierSettings(mask_loss=TWO_TERMS, aux_weight=10.0, label_smoothing=0.05)
    outputs, batch = make_outputs_and_batch([False, False])
    terms = classifier_loss(outputs, batch, settings)
    sum(terms.values()).backward()
    assert terms["bce"].item() == 0
    assert terms["dice"].item() == 0
    assert not outputs["mask"].grad.any()
    with_masks = classifier_loss(*make_outputs_and_batch([True, True]), settings)
    assert list(terms) == list(with_masks)


def test_without_masks_there_is_the_class_alone():
    outputs, batch = make_outputs_and_batch([True, True])
    del outputs["mask"]
    assert list(classifier_loss(outputs, batch, SETTINGS)) == ["class"]
