"""torchvision's side of `benchmarks.compare_input`: ImageFolder, RandomResizedCrop and PyTorch's DataLoader."""

from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader

from benchmarks.input_turns import Work, serve
from benchmarks.torchvision_import import torchvision


def open_batches(work: Work, _: list[str]) -> Iterator[list[torch.Tensor]]:
    """The usual pipeline of training on ImageNet, with our filter and without conversion to float."""
    from torchvision import datasets, transforms

    crop = transforms.RandomResizedCrop(work.size, work.area, work.aspects, transforms.InterpolationMode.BICUBIC)
    images = datasets.ImageFolder(str(work.folder), transforms.Compose([crop, transforms.PILToTensor()]))
    loader = DataLoader(
        images, work.batch, shuffle=True, num_workers=work.workers, persistent_workers=True, drop_last=True
    )
    while True:
        yield from loader


if __name__ == "__main__":
    assert torchvision
    serve(open_batches)
