"""Squeeze and excitation in one pass: the same outputs and gradients, the same state."""

import copy

import pytest
import torch
from segmentation_models_pytorch.base.modules import SCSEModule
from segmentation_models_pytorch.encoders import get_encoder

from cxr.networks.excitation import Excitation, train_excitation_in_one_pass


def senet_block():
    encoder = get_encoder("se_resnet50", weights=None)
    return encoder.layer1[0].se_module


BLOCKS = {"senet": senet_block, "scse": lambda: SCSEModule(256)}


@pytest.mark.parametrize("name", BLOCKS)
def test_outputs_and_gradients_stay(name):
    torch.manual_seed(0)
    plain = BLOCKS[name]()
    fast = copy.deepcopy(plain)
    assert train_excitation_in_one_pass(fast) == 1
    assert list(fast.state_dict()) == list(plain.state_dict())
    image = torch.randn(2, 256, 6, 5)
    found = []
    for block in (plain, fast):
        x = image.clone().requires_grad_()
        output = block(x)
        (output**2).sum().backward()
        found.append([output, x.grad, *(weight.grad for weight in block.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    with torch.no_grad():
        assert torch.equal(plain(image), fast(image))


def test_gradient_is_that_of_small_differences():
    torch.manual_seed(0)
    block = SCSEModule(32).double()
    train_excitation_in_one_pass(block)
    x = torch.randn(2, 32, 3, 2, dtype=torch.double, requires_grad=True)
    weights = [weight.detach().requires_grad_() for weight in block.cSE.parameters()]
    assert torch.autograd.gradcheck(Excitation.apply, (x, *weights))


def test_bf16_agrees_with_fp32():
    torch.manual_seed(0)
    block = senet_block()
    train_excitation_in_one_pass(block)
    x = torch.randn(2, 256, 8, 8)
    gradients = []
    for enabled in (False, True):
        image = x.clone().to(torch.bfloat16 if enabled else torch.float32).requires_grad_()
        block.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = block(image)
        assert output.dtype == image.dtype
        output.float().square().sum().backward()
        gradients.append([image.grad.float(), block.fc1.weight.grad.clone()])
    for exact, rounded in zip(*gradients, strict=True):
        assert (exact - rounded).norm() < 0.02 * exact.norm()


def test_weights_that_keep_still_get_no_gradient():
    block = senet_block()
    train_excitation_in_one_pass(block)
    block.fc1.requires_grad_(False)
    x = torch.randn(2, 256, 3, 3, requires_grad=True)
    block(x).sum().backward()
    assert block.fc1.weight.grad is None
    assert block.fc2.weight.grad is not None


def test_an_encoder_has_them_all():
    assert train_excitation_in_one_pass(get_encoder("se_resnext50_32x4d", weights=None)) == 16
    assert train_excitation_in_one_pass(get_encoder("resnet18", weights=None)) == 0
