"""Grouped convolutions in fewer groups: the same outputs and gradients, the same state."""

import pytest
import torch
from torch import nn

from cxr.networks.grouped import has_small_groups, train_in_merged_groups


@pytest.mark.parametrize("channels, groups, stride", [(64, 16, 1), (64, 8, 2)])
def test_outputs_and_gradients_stay(channels, groups, stride):
    torch.manual_seed(0)
    plain = nn.Conv2d(channels, 2 * channels, 3, stride, padding=1, groups=groups)
    merged = nn.Conv2d(channels, 2 * channels, 3, stride, padding=1, groups=groups)
    merged.load_state_dict(plain.state_dict())
    assert train_in_merged_groups(merged) == 1
    assert list(merged.state_dict()) == ["weight", "bias"]
    image = torch.randn(2, channels, 12, 12)
    found = []
    for conv in (plain, merged):
        x = image.clone().requires_grad_()
        output = conv(x)
        (output**2).sum().backward()
        found.append([output, x.grad, conv.weight.grad, conv.bias.grad])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert torch.equal(plain(image), merged(image))


@pytest.mark.parametrize(
    "channels, groups, is_small",
    [
        (64, 1, False),
        (64, 64, False),
        (64, 16, True),
        (64, 4, False),
        (24, 8, False),
        (4, 2, False),
    ],
)
def test_which_are_merged(channels, groups, is_small):
    conv = nn.Conv2d(channels, channels, 3, groups=groups)
    assert has_small_groups(conv) == is_small
