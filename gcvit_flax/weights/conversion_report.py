"""The report of a conversion, for the terminal and for the model folder's config.json."""

import dataclasses
from typing import Any

from gcvit_flax.config import GCViTConfig
from gcvit_flax.references import FORWARD_PASSES
from gcvit_flax.variants import variant_name

FAMILIES = {
    "official": "the official PyTorch release",
    "timm": "timm",
    "keras_io": "the Keras example",
    "gcvit_tf": "the package gcvit",
    "keras_subclass": "Keras classes of other names, matched by position and shape",
    "keras2": "the package gcvit under Keras 2",
}
TRAINED_NOTICE = (
    "this file has the Keras example's layout: if the model was *trained* with that example, it is right only under "
    "--reference keras_io"
)


@dataclasses.dataclass(frozen=True)
class ConversionReport:
    """One conversion: the source of the weights, the model, and each change to it."""

    source: str
    size: int
    sha256: str
    container: str
    family: str
    tensors: int
    skipped: int
    parameters: int
    config: GCViTConfig
    license: str | None
    changes: tuple[str, ...]
    notice: str | None
    dest: str

    def provenance(self) -> dict[str, Any]:
        """The entries of config.json's "provenance"."""
        return {
            "source": self.source,
            "size_bytes": self.size,
            "sha256": self.sha256,
            "format": self.container,
            "written_by": FAMILIES[self.family],
            "tensor_count": self.tensors,
            "skipped_tensor_count": self.skipped,
            "changes": list(self.changes),
        }

    def __str__(self) -> str:
        skipped = f", {self.skipped} skipped (buffers, optimizer)" if self.skipped else ""
        lines = {
            "source": f"{self.source} ({self.size:,} bytes, sha256 {self.sha256})",
            "format": f"{self.container}, written by {FAMILIES[self.family]}",
            "tensors": f"{self.tensors} used{skipped}",
            "model": describe(self.config),
            "parameters": f"{self.parameters:,}",
            "reference": _forward_pass(self.config),
            "license": self.license or "unknown",
            "changes": "; ".join(self.changes) or "none",
            "written": self.dest,
        }
        text = "\n".join(f"{key:<11}{value}" for key, value in lines.items())
        return text + (f"\nnotice: {self.notice}" if self.notice else "")


def describe(config: GCViTConfig) -> str:
    """A configuration in one line: its variant's name, or the fields that set it apart from every variant."""
    size = "{}x{}".format(*config.image_size)
    name = variant_name(config)
    channels = "" if config.in_channels == 3 else f", {config.in_channels} channels"
    if name is not None:
        return f"{name}, {size} px{channels}, {config.num_classes} classes"
    windows = ", ".join(f"{height}x{width}" for height, width in config.window_size)
    return (
        f"no published variant: {size} px{channels}, {config.num_classes} classes, embed_dim {config.embed_dim}, "
        f"depths {config.depths}, num_heads {config.num_heads}, windows {windows}, mlp_ratio {config.mlp_ratio:g}, "
        f"layer_scale {config.layer_scale}"
    )


def _forward_pass(config: GCViTConfig) -> str:
    name = config.reference
    return "none, a mixture of their settings" if name is None else f"{name}: {FORWARD_PASSES[name].computes}"
