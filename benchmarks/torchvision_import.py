"""Imports torchvision even if it was built for another PyTorch."""

import sys

import torch

try:
    import torchvision
except RuntimeError:
    # Built for CUDA beside a PyTorch without it: its import asks for two operators that nothing here uses.
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    _library = torch.library.Library("torchvision", "DEF")  # Its operators live as long as it does.
    for name in ("nms", "qnms"):
        _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

__all__ = ["torchvision"]
