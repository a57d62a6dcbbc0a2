"""Batch norms folded into convolutions: the same outputs, or nothing is changed."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from cxr.networks.fused import fold_frozen_norms, fuse_norms, read_gray
from cxr.networks.network import Network
from cxr.tasks import TASKS


def lively(model):
    """With statistics and outputs that are not those of the beginning."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_(std=0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return model.eval()


def network_and_image(name, encoder):
    task = TASKS[name]
    side = 192 if name == "rsna" else 64
    values = {"task": name, "preset": "small", "weights": "none", "encoder": encoder}
    settings = task.settings_of(values | {"image_size": side})
    model = lively(task.method.build_model(settings, task.used_labels(settings)))
    return model, torch.randint(0, 255, (2, 1, side, side), dtype=torch.uint8)


@pytest.mark.parametrize(
    "name, encoder", [("rsna", "tu-test_efficientnet"), ("pneumothorax", "resnet18")]
)
def test_outputs_stay(name, encoder):
    model, image = network_and_image(name, encoder)
    norms = sum(isinstance(module, _BatchNorm) for module in model.modules())
    with torch.inference_mode():
        expected = model(image)
        assert fuse_norms(model) == norms > 3
        found = model(image)
    assert not any(isinstance(module, _BatchNorm) for module in model.modules())
    for key, values in expected.items():
        torch.testing.assert_close(found[key], values, rtol=1e-3, atol=1e-4)


class TwoReaders(nn.Module):
    """The sum reads the convolution before its batch norm does."""

    image_size = 8

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.norm = nn.BatchNorm2d(2)

    def forward(self, images):
        x = self.conv(images)
        return {"sum": x + self.norm(x)}


class CalledTwice(TwoReaders):
    def forward(self, images):
        x = self.norm(self.conv(images))
        return {"sum": x + self.norm(self.conv(images.flip(-1)))}


@pytest.mark.parametrize("network", [TwoReaders, CalledTwice])
def test_what_cannot_be_folded_stays(network):
    model = lively(network())
    image = torch.rand(1, 1, 8, 8)
    with torch.inference_mode():
        expected = model(image)["sum"]
        assert fuse_norms(model) == 0
        assert torch.equal(model(image)["sum"], expected)
    assert isinstance(model.norm, nn.BatchNorm2d)


# --- one channel instead of three


@pytest.mark.parametrize(
    "name, encoder",
    [
        ("rsna", "tu-test_efficientnet"),
        ("pneumothorax", "resnet18"),
        ("covid", "densenet121"),
        ("rsna-classes", "dpn68"),
    ],
)
def test_the_gray_image_is_read_once(name, encoder):
    model, image = network_and_image(name, encoder)
    with torch.inference_mode():
        expected = model(image)
        assert read_gray(model)
        found = model(image)
    assert model.normalise(image).shape == image.shape
    channels = [module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert channels[0] == 1 and 3 not in channels
    for key, values in expected.items():
        torch.testing.assert_close(found[key], values, rtol=1e-3, atol=1e-4)


class LooksAtColours(Network):
    """Beside its convolution it uses the image itself, as many channels as there are."""

    def __init__(self, side):
        super().__init__(8, False)
        self.encoder = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1))
        self.side = side

    def forward(self, images):
        x = self.normalise(images)
        beside = x.reshape(len(x), 3, 8, 8) if self.side == "refuses" else x
        return {"sum": self.encoder(x).sum(1) + beside.sum(1)}


@pytest.mark.parametrize("side", ["refuses", "others"])
def test_an_encoder_that_uses_three_channels_keeps_them(side):
    model = LooksAtColours(side).eval()
    weight = model.encoder[0].weight.clone()
    image = torch.rand(1, 1, 8, 8) * 255
    with torch.inference_mode():
        expected = model(image)["sum"]
        assert not read_gray(model)
        assert torch.equal(model(image)["sum"], expected)
    assert torch.equal(model.encoder[0].weight, weight)
    assert model.encoder[0].in_channels == 3


# --- in training


def make_detector():
    task = TASKS["rsna"]
    values = {"task": "rsna", "preset": "small", "weights": "none", "encoder": "resnet18"}
    settings = task.settings_of(values | {"image_size": 192})
    torch.manual_seed(0)
    model = lively(task.method.build_model(settings, task.used_labels(settings)))
    for layer in (model.score_head[-1], model.box_head[-1]):
        nn.init.normal_(layer.weight, std=0.01)
    model.score_head[-2].p = model.global_head.dropout.p = 0.0
    model.pretrained = True
    return model


def gradients(model, image):
    outputs = model(image)
    sum((values * values).mean() for values in outputs.values()).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_frozen_norms_are_folded_in_each_step():
    """The same outputs, gradients and state; the weights of both go on learning."""
    plain = make_detector().train()
    folded = make_detector().train()
    names = list(folded.state_dict())
    assert fold_frozen_norms(folded) == 20
    assert folded.training
    assert list(folded.state_dict()) == names
    copied = deepcopy(folded)
    image = torch.randint(0, 255, (1, 1, 192, 192), dtype=torch.uint8)
    expected = gradients(plain, image)
    for model in (folded, copied):
        found = gradients(model, image)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            size = float(gradient.abs().max())
            torch.testing.assert_close(found[name], gradient, rtol=1e-2, atol=1e-3 * size)
    with torch.no_grad():
        copied.encoder.bn1.weight.fill_(0)  # reaches the copy's own convolution only
        assert torch.equal(copied(image)["scores"], folded(image)["scores"]) is False


def test_norms_that_learn_their_statistics_are_not_folded():
    plain = make_detector()
    folded = make_detector()
    for model in (plain, folded):
        model.pretrained = False
    fold_frozen_norms(folded)
    image = torch.randint(0, 255, (2, 1, 192, 192), dtype=torch.uint8)
    for model in (plain, folded):
        model.train()
    with torch.no_grad():
        expected = plain(image)["scores"]
        assert torch.equal(folded(image)["scores"], expected)
    assert torch.equal(folded.encoder.bn1.running_mean, plain.encoder.bn1.running_mean)
