"""Imports timm even if torchvision was built for another PyTorch."""

import benchmarks.torchvision_import  # noqa: F401, I001 - before timm, which imports torchvision.
import timm

__all__ = ["timm"]
