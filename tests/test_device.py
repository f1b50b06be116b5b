"""What `auto` picks, and what is refused."""

import pytest
import torch

from latentsync import device as devices
from latentsync.device import pick_device, pick_dtype


@pytest.mark.parametrize(
    ("able", "wanted"),
    [({"amx_bf16": True}, torch.bfloat16), ({"avx512_bf16": True}, torch.bfloat16), ({}, torch.float32)],
)
def test_a_cpu_computes_in_bfloat16_where_it_can(monkeypatch, able, wanted):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert pick_dtype("auto", torch.device("cpu")) == wanted
    assert devices.cpu_multiplies_bfloat16() == (wanted == torch.bfloat16)


@pytest.mark.parametrize(("able", "warnings"), [({"avx512_fp16": True}, 0), ({"avx512_bf16": True}, 1)])
def test_float16_is_warned_of_in_one_line_where_a_cpu_is_slow_at_it(monkeypatch, caplog, able, warnings):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64", **able})
    assert pick_dtype("float16", torch.device("cpu")) == torch.float16
    assert [record.levelname for record in caplog.records] == ["WARNING"] * warnings
    assert all("100 times slower" in record.getMessage() for record in caplog.records)
    assert all(len(record.getMessage().splitlines()) == 1 for record in caplog.records)
    caplog.clear()
    pick_dtype("float32", torch.device("cpu"))
    assert not caplog.records


@pytest.mark.parametrize(("capability", "wanted"), [((6, 1), torch.float32), ((7, 0), torch.float16)])
def test_a_cuda_card_computes_in_float16_from_volta_on(monkeypatch, capability, wanted):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    assert pick_dtype("auto", torch.device("cuda")) == wanted


def test_mps_computes_in_float32():
    assert pick_dtype("auto", torch.device("mps")) == torch.float32


def test_what_was_asked_for_is_taken():
    assert pick_dtype("float16", torch.device("cpu")) == torch.float16
    named = [pick_dtype(name, torch.device("mps")) for name in ("fp32", "fp16", "bf16")]
    assert named == [torch.float32, torch.float16, torch.bfloat16]
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["warp", "cuda:99", "xpu"])
def test_an_unknown_device_is_named(name):
    with pytest.raises(ValueError, match=name.split(":")[0]):
        pick_device(name)


def test_an_unknown_dtype_is_named():
    with pytest.raises(ValueError, match="int3"):
        pick_dtype("int3", torch.device("cpu"))
