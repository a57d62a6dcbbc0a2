"""--frozen-stages, and depthwise convolutions that train in fp32."""

import copy

import pytest
import torch
from torch import nn

from cxr.method_settings import DetectorSettings
from cxr.methods.base import Labels
from cxr.methods.detector.method import Detector
from cxr.networks.depthwise import train_depthwise_in_fp32
from cxr.networks.encoders import build_trunk, create_encoder
from cxr.networks.network import stage_parameters
from cxr.settings import make_settings
from cxr.system.errors import InputError
from cxr.tasks import TASKS

RSNA = TASKS["rsna"]


class Tower(nn.Module):
    """Maps at strides 1, 2 and 4; `aside` makes none of them."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.second = nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.aside = nn.Linear(2, 2)

    def forward(self, x):
        half = self.first(x)
        return [x, half, self.norm(self.second(half))]


def test_parameters_of_the_first_stages():
    tower = Tower().train()
    assert set(stage_parameters(tower, 8, 1)) == set(tower.first.parameters())
    of_two = [*tower.first.parameters(), *tower.second.parameters(), *tower.norm.parameters()]
    assert set(stage_parameters(tower, 8, 2)) == set(of_two)
    assert tower.norm.num_batches_tracked == 0  # no statistics were moved
    assert tower.norm.training
    with pytest.raises(InputError, match="--frozen-stages 3: the encoder has 2 stages"):
        stage_parameters(tower, 8, 3)


def test_the_first_stages_never_have_gradients():
    settings = make_settings(
        {
            "encoder": "tu-resnet10t",
            "weights": "none",
            "levels": "3-5",
            "channels": 16,
            "head_convs": 1,
            "image_size": 192,
        },
        DetectorSettings,
    )
    model = Detector().build_model(settings, Labels(("opacity",), ("no", "yes")))
    model.freeze_stages(2)
    model.freeze_encoder(True)
    model.freeze_encoder(False)  # after the epochs of --freeze-epochs
    frozen = [p for p in model.encoder.parameters() if not p.requires_grad]
    assert 0 < len(frozen) < len(list(model.encoder.parameters()))
    assert set(frozen) == set(model.first_stages)


@pytest.mark.parametrize("name", ["tu-tf_efficientnet_lite0", "tu-resnet10t", "tu-convnext_atto"])
def test_a_trunk_freezes_what_the_encoder_of_that_name_does(name):
    """A classifier without a decoder sees the last map alone."""
    trunk = build_trunk(name, "none")
    encoder = create_encoder(name)
    for stages in (2, 3):
        of_trunk = sum(p.numel() for p in stage_parameters(trunk, 64, stages))
        assert of_trunk == sum(p.numel() for p in stage_parameters(encoder, 64, stages)) > 0


def test_the_preset_of_classes_can_freeze_its_stages():
    task = TASKS["rsna-classes"]
    settings = task.settings_of({"preset": "small", "weights": "none"})
    model = task.method.build_model(settings, task.used_labels(settings))
    model.freeze_stages(task.presets["small"].values["frozen_stages"])
    assert model.first_stages


def test_refusals():
    with pytest.raises(InputError, match="--frozen-stages must be 0 to 5, not 9"):
        RSNA.settings_of({"frozen_stages": 9})
    with pytest.raises(InputError, match="keeps random weights as they are: leave it out"):
        RSNA.settings_of({"frozen_stages": 2, "weights": "none"})
    RSNA.settings_of({"preset": "small", "weights": "none"})  # the preset's, which then is moot


def test_depthwise_convolutions_have_the_gradients_of_fp32():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8, padding=1))
    changed = copy.deepcopy(plain)
    assert train_depthwise_in_fp32(changed) == 1
    assert train_depthwise_in_fp32(copy.deepcopy(plain)[0]) == 0
    assert changed.state_dict().keys() == plain.state_dict().keys()

    # A copy, such as the moving average, has weights of its own.
    other = copy.deepcopy(changed)
    with torch.no_grad():
        other[1].weight.zero_()
    assert changed[1].weight.abs().sum() > 0
    image = torch.randn(2, 3, 6, 6)
    assert torch.equal(other(image), other[1].bias[None, :, None, None].expand(2, 8, 6, 6))

    formats = []
    changed[1].register_forward_hook(lambda module, inputs, output: formats.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        middle = changed[0](image).detach().requires_grad_()
        changed[1](middle).float().square().sum().backward()
    exact = plain[1]
    exact(middle.float()).square().sum().backward()
    error = (changed[1].weight.grad - exact.weight.grad).abs().max()
    assert formats == [torch.bfloat16]  # as the layers behind it expect
    assert error < 0.02 * exact.weight.grad.abs().max()
