"""The published weight files: one table of names, addresses and known sizes and digests."""

from typing import NamedTuple

LICENSE = "CC-BY-NC-SA-4.0"  # NVIDIA's license of its weights; all files here are these or ports of them.

_NVIDIA = "https://huggingface.co/nvidia/GCViT/resolve/main"
_GCVIT_TF = "https://github.com/awsaf49/gcvit-tf/releases/download"
_TIMM = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights-morevit"


class Published(NamedTuple):
    """A published file: its address, its exact size in bytes and the start of its SHA-256, where known."""

    url: str
    size: int | None = None
    sha256: str = ""


_RELEASES = ("xtiny", "tiny", "tiny2", "small", "small2", "base", "large")

PUBLISHED = {
    # A variant's own name stands for NVIDIA's file; gcvit_xxtiny for the one that the Keras example loads.
    "gcvit_xxtiny": Published(f"{_GCVIT_TF}/v1.1.6/gcvitxxtiny.keras", size=48_767_519),
    **{f"gcvit_{name}": Published(f"{_NVIDIA}/gcvit_1k_{name}.pth.tar") for name in _RELEASES},
    "gcvit_large_384": Published(f"{_NVIDIA}/gcvit_21k_large_384.pth.tar"),
    "gcvit_large_512": Published(f"{_NVIDIA}/gcvit_21k_large_512.pth.tar"),
    "nvidia/gcvit_xxtiny": Published(f"{_NVIDIA}/gcvit_1k_xxtiny.pth.tar"),
    "nvidia/gcvit_large_21k": Published(f"{_NVIDIA}/gcvit_21k_large_224.pth.tar"),
    **{
        f"gcvit-tf/gcvit_{name}": Published(f"{_GCVIT_TF}/v1.1.1/gcvit_{name}_weights.h5")
        for name in ("xxtiny", "xtiny", "tiny", "small", "base", "large")
    },
    # timm's file names contain the first eight digits of the digest.
    **{
        f"timm/gcvit_{name}": Published(f"{_TIMM}/gcvit_{name}_224_nvidia-{digest}.pth", sha256=digest)
        for name, digest in {
            "xxtiny": "d1d86009",
            "xtiny": "274b92b7",
            "tiny": "ac783954",
            "small": "4e98afa2",
            "base": "f009139b",
        }.items()
    },
}


def find_published(name: str) -> Published | None:
    """The entry with this key, address or file name, given with or without the file's type; None without one."""
    if name in PUBLISHED:
        return PUBLISHED[name]
    for entry in PUBLISHED.values():
        file = entry.url.rsplit("/", 1)[-1]
        if name in (entry.url, file, file.removesuffix(".tar").rsplit(".", 1)[0]):
            return entry
    return None
