"""What a set of tensors is, read off their names and shapes, for file names say little."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Family:
    """A network that a tensor of one name tells: `marker`. `title` is what sentences call one that is there,
    `published` what they ask for.
    """

    name: str
    marker: str
    title: str
    published: str = ""


FAMILIES = (
    Family(
        "stable_syncnet",
        marker="visual_encoder.conv_in.weight",
        title="a StableSyncNet",
        published="a StableSyncNet (stable_syncnet.pt)",
    ),
    Family("wav2lip_syncnet", marker="visual_encoder.0.conv_block.0.weight", title="a Wav2Lip SyncNet"),
    Family(
        "syncnet_v2",
        marker="netcnnlip.0.weight",
        title="the original SyncNet",
        published="the original SyncNet (syncnet_v2.model)",
    ),
    Family("synchformer", marker="transformer.OFF_tok", title="a Synchformer"),
    Family(
        "synchformer segments",
        marker="v_encoder.temp_embed",
        title="a Synchformer of stage I (Segment AVCLIP)",
    ),
    Family(
        "vae",
        marker="decoder.conv_in.weight",
        title="a Stable Diffusion autoencoder",
        published="a Stable Diffusion autoencoder (stabilityai/sd-vae-ft-mse)",
    ),
    Family(
        "vgg16",
        marker="features.28.weight",
        title="a VGG16",
        published="torchvision's VGG16 (vgg16-397923af.pth)",
    ),
    Family(
        "lpips",
        marker="lin0.model.1.weight",
        title="the 1x1 layers of LPIPS",
        published="the 1x1 layers of LPIPS (vgg.pth)",
    ),
    Family(
        "videomae",
        marker="blocks.0.attn.q_bias",
        title="a fine-tuned VideoMAE",
        published="VideoMAEv2's ViT-g (vit_g_hybrid_pt_1200e_ssv2_ft.pth)",
    ),
)


@dataclass(frozen=True)
class Identity:
    """What a set of tensors is: its family, and the numbers that decide which configuration fits.

    `family` is one of "unet" (LatentSync's, in upstream's names), "unet (ours)", "stable-diffusion unet",
    "whisper" (openai's names), "whisper (transformers)", one of FAMILIES, or "unknown". Fields that a family
    lacks are None.
    """

    family: str
    in_channels: int | None = None
    audio_width: int | None = None  # of the U-Net's audio attention, or of a Whisper encoder
    block_out_channels: tuple[int, ...] | None = None
    has_motion: bool | None = None
    is_decoder_only: bool | None = None  # motion modules in the up blocks alone
    layers: int | None = None  # of a Whisper encoder
    examples: tuple[str, ...] = ()  # tensor names, where nothing fits

    @property
    def stage(self) -> int | None:
        """Training stage of a U-Net: 1 has no motion modules."""
        return None if self.has_motion is None else 2 if self.has_motion else 1

    def __str__(self) -> str:
        if self.family in ("unet", "unet (ours)"):
            where = " in the up blocks only" if self.is_decoder_only else ""
            motion = f"with motion modules{where}" if self.has_motion else "without motion modules"
            hears = f"audio width {self.audio_width}" if self.audio_width else "no audio layers"
            return (
                f"a LatentSync U-Net of stage {self.stage} ({motion}), {hears}, "
                f"widths {list(self.block_out_channels or ())}, {self.in_channels} input channels"
            )
        if self.family.startswith("whisper"):
            return f"a Whisper encoder of width {self.audio_width} with {self.layers} layers"
        if self.family == "stable-diffusion unet":
            return f"a Stable Diffusion U-Net ({self.in_channels} input channels)"
        titles = {family.name: family.title for family in FAMILIES}
        return titles.get(self.family) or f"unknown tensors ({', '.join(self.examples) or 'none at all'})"


def wanted(family: str) -> str:
    """How a sentence asks for weights of a family, and where they are published."""
    asked = {
        "unet": "a LatentSync U-Net (latentsync_unet.pt)",
        "whisper": "an openai Whisper (whisper/tiny.pt)",
        **{known.name: known.published or known.title for known in FAMILIES},
    }
    return asked.get(family, family)


def identify(tensors: Mapping[str, Tensor]) -> Identity:
    """What these tensors are, by their names and shapes."""
    names = tensors.keys()
    if "conv_in.weight" in names and "time_embedding.linear_1.weight" in names:
        return _identify_unet(tensors)
    if "encoder.conv1.weight" in names and "encoder.blocks.0.attn.query.weight" in names:
        return _whisper("whisper", tensors, "encoder.blocks.")
    if "encoder.conv1.weight" in names and "encoder.layers.0.self_attn.q_proj.weight" in names:
        return _whisper("whisper (transformers)", tensors, "encoder.layers.")
    for family in FAMILIES:
        if family.marker in names:
            return Identity(family.name)
    return Identity("unknown", examples=tuple(sorted(names)[:3]))


def _identify_unet(tensors: Mapping[str, Tensor]) -> Identity:
    names = tensors.keys()
    motion = [name for name in names if ".motion_modules." in name]
    is_upstream = not motion or any(".temporal_transformer." in name for name in motion)
    audio = next((t.shape[1] for n, t in tensors.items() if _is_audio_key(n)), None)
    in_channels = int(tensors["conv_in.weight"].shape[1])
    widths = []
    while (first := f"down_blocks.{len(widths)}.resnets.0.conv1.weight") in names:
        widths.append(int(tensors[first].shape[0]))
    family = "unet" if is_upstream else "unet (ours)"
    if in_channels in (4, 9) and not motion and audio in (768, 1024, 2048):
        family = "stable-diffusion unet"
    return Identity(
        family,
        in_channels=in_channels,
        audio_width=None if audio is None else int(audio),
        block_out_channels=tuple(widths),
        has_motion=bool(motion),
        is_decoder_only=bool(motion) and not any(name.startswith("down_blocks.") for name in motion),
    )


def _is_audio_key(name: str) -> bool:
    return name.endswith(".attn2.to_k.weight") and ".motion_modules." not in name


def _whisper(family: str, tensors: Mapping[str, Tensor], blocks: str) -> Identity:
    numbers = {int(name[len(blocks) :].split(".")[0]) for name in tensors if name.startswith(blocks)}
    return Identity(family, audio_width=int(tensors["encoder.conv1.weight"].shape[0]), layers=len(numbers))
