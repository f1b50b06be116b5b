"""Which device and number type a job runs on: flags in, `torch.device` and `torch.dtype` out."""

import logging

import torch

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
SHORT_NAMES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name` ("auto", "cpu", "cuda", "cuda:1", "mps"); auto prefers CUDA, then MPS, then
    CPU.

    Raises: ValueError for a name torch does not know or a device that this machine does not have.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"unknown device {name!r}; expected auto, cpu, cuda, cuda:N or mps") from error
    missing = (device.type == "cuda" and not torch.cuda.is_available()) or (
        device.type == "mps" and not torch.backends.mps.is_available()
    )
    if missing or device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"device {name!r} is not available here; pass --device auto or --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA device(s)")
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The number type called `name`, in full or as fp32, fp16, bf16; auto is the fastest that keeps the
    picture.

    That is float16 on CUDA from capability 7.0 (bfloat16 is no faster there), bfloat16 on a CPU that
    multiplies it (docs/performance.md: twice as fast, 58 dB), float32 elsewhere. float16 is
    warned of on a CPU without instructions for it. Raises: ValueError for an unknown name.
    """
    if name == "auto":
        if device.type == "cuda":
            return torch.float16 if torch.cuda.get_device_capability(device) >= (7, 0) else torch.float32
        return torch.bfloat16 if device.type == "cpu" and cpu_multiplies_bfloat16() else torch.float32
    name = SHORT_NAMES.get(name, name)
    if name not in DTYPES:
        raise ValueError(f"unknown dtype {name!r}; expected auto, {', '.join(DTYPES)}")
    if name == "float16" and device.type == "cpu" and cpu_is_slow_at_float16():
        logging.getLogger(__name__).warning(
            "float16 is about 100 times slower than float32 on this CPU; leave --dtype out, or pass float32"
        )
    return DTYPES[name]


def cpu_multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for it (Intel AMX or AVX-512 BF16); without, it is slower than
    float32.
    """
    able = torch.cpu.get_capabilities()
    return bool(able.get("amx_bf16") or able.get("avx512_bf16"))


def cpu_is_slow_at_float16() -> bool:
    """Whether this is an x86 CPU without instructions for it (AVX-512 FP16, AMX FP16): there a convolution
    took 170 times as long as in float32, with them 1.3 times.
    """
    able = torch.cpu.get_capabilities()
    return able.get("architecture") == "x86_64" and not (able.get("amx_fp16") or able.get("avx512_fp16"))
