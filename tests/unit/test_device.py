"""Which device, number format and memory format are chosen, and what is refused."""

from types import SimpleNamespace

import pytest
import torch

from cxr.system import device
from cxr.system.device import choose_device, choose_precision, describe_device, training_format
from cxr.system.errors import InputError

CPU = torch.device("cpu")
CUDA = torch.device("cuda")
MPS = torch.device("mps")


@pytest.fixture
def machine(monkeypatch):
    """A function that makes a machine of so many CUDA devices, with or without MPS and bf16."""

    def make(cuda=0, mps=False, bf16=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
        monkeypatch.setattr(torch.backends, "mps", SimpleNamespace(is_available=lambda: mps))
        monkeypatch.setattr(device, "cpu_has_bf16", lambda: bf16)

    return make


@pytest.mark.parametrize(
    "cuda, mps, name, expected",
    [
        (0, False, "auto", "cpu"),
        (0, True, "auto", "mps"),
        (2, True, "auto", "cuda"),
        (2, False, "cpu", "cpu"),
        (2, False, "cuda:1", "cuda:1"),
        (0, True, "mps", "mps"),
    ],
)
def test_device(machine, cuda, mps, name, expected):
    machine(cuda, mps)
    assert choose_device(name) == torch.device(expected)


@pytest.mark.parametrize(
    "name, words",
    [
        ("cuda", "is not available"),
        ("cuda:0", "is not available"),
        ("mps", "is not available"),
        ("mps:0", "is not available"),
        ("xpu", "is unknown"),
        ("meta", "is unknown"),
        ("gpu", "is unknown"),
    ],
)
def test_devices_that_are_not_there(machine, name, words):
    machine()
    with pytest.raises(InputError, match=f"--device {name} {words}"):
        choose_device(name)


def test_a_gpu_too_many(machine):
    machine(cuda=2)
    with pytest.raises(InputError, match="--device cuda:2 is not available"):
        choose_device("cuda:2")


@pytest.mark.parametrize(
    "on, bf16, expected",
    [
        (CPU, True, "bf16"),
        (CPU, False, "fp32"),
        (CUDA, True, "bf16"),
        (CUDA, False, "fp16"),
        (MPS, True, "fp32"),
    ],
)
def test_number_format(machine, on, bf16, expected):
    machine(bf16=bf16)
    assert choose_precision("auto", on) == expected
    assert choose_precision("fp16", on) == "fp16"


@pytest.mark.parametrize(
    "on, precision, expected",
    [
        (CPU, "fp32", torch.contiguous_format),
        (CPU, "bf16", torch.channels_last),
        (CUDA, "fp32", torch.channels_last),
    ],
)
def test_memory_format_in_training(on, precision, expected):
    assert training_format(on, precision) == expected


def test_what_is_printed():
    assert describe_device(CPU, "bf16") == f"cpu ({torch.get_num_threads()} threads), bf16"
