"""U-Nets: shapes, gradients, frozen parts, over all decoders and label heads."""

import functools

import pytest
import torch
from torch import nn

from cxr.datasets.pneumothorax.presets import PRESETS
from cxr.method_settings import SegmenterSettings
from cxr.methods.segmenter.losses import mask_loss
from cxr.networks.decoders import DECODERS
from cxr.networks.network import batch_norms
from cxr.networks.unet import UNet
from cxr.system.errors import InputError

HEADS = {"unet": "double", "plain": "linear", "aspp": "narrow"}  # of some decoders; others: none
SMALL = {
    "encoder": "resnet18",
    "weights": "none",
    "decoder": "unet",
    "label_head": "none",
    "frozen_norm": False,
    "image_size": 64,
}


@functools.cache
def build(decoder, seed=3):
    torch.manual_seed(seed)
    settings = SMALL | {"decoder": decoder, "label_head": HEADS.get(decoder, "none")}
    return UNet(**settings)


def random_pictures(number=2, size=64):
    generator = torch.Generator().manual_seed(1)
    shape = (number, 1, size, size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("decoder", DECODERS)
def test_shapes_and_names(decoder):
    model = build(decoder).eval()
    with torch.inference_mode():
        outputs = model(random_pictures(2, 96))
    expected = {"mask": (2, 1, 96, 96)}
    if decoder in HEADS:
        expected["label"] = (2,)
    assert {name: tuple(value.shape) for name, value in outputs.items()} == expected
    for value in outputs.values():
        assert value.dtype == torch.float32
        assert value.isfinite().all()


def test_what_training_and_prediction_ask():
    model = build("unet")
    assert model.image_size == 64
    assert not model.pretrained
    assert model.cam_layer is None
    names = list(model.state_dict())
    model.prepare_for_prediction()
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_gradient_reaches_every_parameter(decoder):
    model = build(decoder).train()
    for weight in model.parameters():
        if len(weight) == 2:
            # The two hidden numbers of an attention of 32 channels are else 0 by chance.
            weight.data.abs_()
    outputs = model(random_pictures())
    sum((value - 1).square().mean() for value in outputs.values()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    model.zero_grad(set_to_none=True)
    assert not without


@pytest.mark.parametrize("decoder", DECODERS)
def test_batched_is_single_and_floats_are_bytes(decoder):
    model = build(decoder).eval()
    pictures = random_pictures()
    with torch.inference_mode():
        both = model(pictures)
        of_floats = model(pictures.float())
        single = [model(picture[None]) for picture in pictures]
    for name in both:
        joined = torch.cat([outputs[name] for outputs in single])
        assert torch.allclose(both[name], joined, atol=1e-4)
        assert torch.equal(both[name], of_floats[name])


def test_every_decoder_is_a_choice():
    fields = SegmenterSettings.__dataclass_fields__
    assert set(fields["decoder"].metadata["choices"]) == set(DECODERS)
    assert set(HEADS.values()) < set(fields["label_head"].metadata["choices"])


def test_the_seed_decides_the_weights():
    state = build("albunet").state_dict()
    build.cache_clear()
    again = build("albunet").state_dict()
    for name, value in state.items():
        if "running" not in name and "num_batches" not in name:
            assert torch.equal(value, again[name]), name


MILLIONS = {
    "first-albunet": 30,
    "first-resnet50": 35,
    "first-scse": 38,
    "second-classifier": 38,
    "second-segmenter": 33,
    "third": 105,
    "fourth": 26,
    "fifth": 34,
}
# Further networks of the second place: its preset with one more change, and their size.
FURTHER = {
    "efficientnet": ({"encoder": "efficientnet-b3"}, 13),
    "deeplab": ({"decoder": "deeplab"}, 40),
}


@pytest.mark.parametrize("name", [*MILLIONS, *FURTHER])
def test_the_places_networks_and_losses(name):
    """Only shapes, nothing computed: 512 pixels through each network, its outputs into its loss."""
    if name in MILLIONS:
        values = dict(PRESETS[name].values)
        millions = MILLIONS[name]
    else:
        change, millions = FURTHER[name]
        values = dict(PRESETS["second-segmenter"].values) | change
    with torch.device("meta"):
        model = UNet(
            encoder=values["encoder"],
            weights="imagenet",
            decoder=values["decoder"],
            label_head=values.get("label_head", "none"),
            frozen_norm=values.get("encoder_norm") == "frozen",
            image_size=512,
            load_weights=False,
        ).eval()
        outputs = model(torch.zeros(1, 1, 512, 512))
        masks = torch.zeros(1, 1, 512, 512)
        terms = mask_loss(outputs, masks, torch.zeros(1), values.get("mask_loss", "bce=1,dice=1"))
    assert outputs["mask"].shape == (1, 1, 512, 512)
    assert ("label" in outputs) == ("label" in terms)
    assert sum(terms.values()).shape == ()
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters / 1e6 == pytest.approx(millions, rel=0.15)


def test_frozen_norms_of_the_fourth():
    """Neither statistics nor scales move; in the encoder only, in weights worth keeping only."""
    torch.manual_seed(0)
    model = UNet(**SMALL | {"frozen_norm": True})
    assert all(norm.training for norm in batch_norms(model.train()))
    model.pretrained = True
    assert not any(norm.training for norm in batch_norms(model.train().encoder))
    assert all(norm.training for norm in batch_norms(model.decoder))

    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    model.freeze_encoder(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1.0)
    model(random_pictures())["mask"].mean().backward()
    optimizer.step()

    after = model.encoder.state_dict()
    moved = [name for name, value in after.items() if not torch.equal(value, before[name])]
    assert moved
    assert not any("bn" in name or "downsample.1" in name for name in moved)


def test_frozen_encoder():
    model = build("plain").train()
    model.freeze_encoder(True)
    assert not any(p.requires_grad for p in model.encoder.parameters())
    assert all(p.requires_grad for p in model.decoder.parameters())
    model.freeze_encoder(False)
    assert all(p.requires_grad for p in model.parameters())


def test_pretrained_follows_the_settings_even_without_loading():
    settings = SMALL | {"weights": "imagenet", "frozen_norm": True}
    model = UNet(**settings, load_weights=False)
    assert model.pretrained
    assert not any(norm.training for norm in batch_norms(model.train().encoder))


@pytest.mark.parametrize("size", [48, 32, 500])
def test_sizes_that_do_not_work(size):
    message = f"--image-size {size} does not work: take a multiple of 32"
    with pytest.raises(InputError, match=message):
        UNet(**SMALL | {"image_size": size})


def test_an_encoder_that_cannot_be_dilated():
    message = "--encoder densenet121 cannot be dilated for --decoder deeplab"
    with pytest.raises(InputError, match=message):
        UNet(**SMALL | {"encoder": "densenet121", "decoder": "deeplab"})


def test_label_heads_say_one_number_for_each_image():
    double = build("unet").label_head
    assert isinstance(double[2], nn.Linear)
    assert double[2].out_features == 512
    assert build("aspp").label_head[2].out_features == 64
    assert len(build("plain").label_head) == 4
    assert build("cbam").label_head is None
