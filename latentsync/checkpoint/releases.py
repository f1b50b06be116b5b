"""The published U-Nets, and how a file is known to be one of them: its tensors do not tell."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Release:
    """A published U-Net file: which it is, and how to tell."""

    name: str
    hub_id: str
    revision: str
    resolution: int
    file_bytes: int
    sha256: str


# file sizes and hashes: the Hub's LFS records of the named revisions, as other projects quote them
RELEASES = (
    Release(
        "LatentSync 1.5",
        "ByteDance/LatentSync-1.5",
        "32a20d29aead0498e3e885e90dbbe8027da1b61b",
        256,
        5_072_348_184,
        "6440b49a7ccceff56cdc001f5f17605216337f5bbd66fa360139768926e23f51",
    ),
    Release(
        "LatentSync 1.6",
        "ByteDance/LatentSync-1.6",
        "c42c7e6c8e9c213626389fa7d9a3c444b8536353",
        512,
        5_072_222_488,
        "0a478e89eb660f82da4c35dbdde8a5adfb27f99d1b4e50edd03729e1e98316d3",
    ),
)


def known_release(path: Path) -> Release | None:
    """The published U-Net that `path` is, by the hash that names it in the Hub's cache, its Hub id in the
    path, or its exact size.
    """
    path = path.absolute()
    target = path.resolve()
    for release in RELEASES:
        cached = release.hub_id.replace("/", "--")
        if target.name == release.sha256 or any(
            part in (f"models--{cached}", release.hub_id.split("/")[1]) for part in path.parts[:-1]
        ):
            return release
    size = target.stat().st_size if target.is_file() else -1
    return next((release for release in RELEASES if release.file_bytes == size), None)
