"""timm's side of `benchmarks.compare`: PyTorch, channels last."""

import importlib.metadata
import importlib.util

import numpy as np

from benchmarks.timm_network import INSTALL, create
from gcvit_flax.config import Preprocessing
from gcvit_flax.errors import UserError
from gcvit_flax.training.report.process_memory import peak_memory_of_process


class Side:
    """timm's forward pass in inference mode, or its training step."""

    def __init__(self, options):
        if importlib.util.find_spec("torch") is None or importlib.util.find_spec("timm") is None:
            raise UserError(f"--peer timm needs timm and PyTorch, which are not installed here: {INSTALL}")
        import torch

        self._torch = torch
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._dtype = getattr(torch, options.dtype)
        model = create(options.variant, options.image_size, train=options.task == "train")
        self._model = model.to(self._device, memory_format=torch.channels_last)
        how = ("torch.compile" if options.compile_peer else "eager") + ", channels_last"
        self.what = f"timm {importlib.metadata.version('timm')}, PyTorch {torch.__version__} {how}, {self._device.type}"
        self._start = (self._inference if options.task == "infer" else self._training)(options)

    def run(self, calls: int = 1) -> None:
        """Starts so many calls and waits for the last."""
        for _ in range(calls):
            self._start()
        if self._device.type == "cuda":
            self._torch.cuda.synchronize()

    def _inference(self, options):
        torch, model = self._torch, self._model.eval().to(self._dtype)
        shape = (options.batch, options.image_size, options.image_size, 3)
        images = torch.from_numpy(np.random.default_rng(0).normal(size=shape)).permute(0, 3, 1, 2)
        images = images.to(self._device, self._dtype, memory_format=torch.channels_last)
        call = torch.compile(model) if options.compile_peer else model

        def forward():
            with torch.inference_mode():
                call(images)

        return forward

    def _training(self, options):
        from benchmarks.ours import CLASSES, training_config  # JAX, whose memory inference does without.

        torch, model, config = self._torch, self._model.train(), training_config(options)
        rng = np.random.default_rng(0)
        side = options.image_size
        pixels = torch.from_numpy(rng.integers(0, 256, (options.batch, side, side, 3), dtype=np.uint8)).to(self._device)
        labels = torch.from_numpy(rng.integers(0, CLASSES, options.batch)).to(self._device)
        mean, std = (
            torch.tensor(values, device=self._device).view(1, 3, 1, 1) * 255
            for values in (Preprocessing().mean, Preprocessing().std)
        )
        fused = self._device.type == "cuda" or None
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=config.weight_decay, fused=fused)
        loss_of = torch.nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
        mixed = self._dtype != torch.float32

        def forward(images, labels):
            with torch.autocast(self._device.type, self._dtype, enabled=mixed):
                return loss_of(model(images), labels)

        forward = torch.compile(forward) if options.compile_peer else forward

        def step():
            images = (pixels.permute(0, 3, 1, 2).float() - mean) / std
            optimizer.zero_grad()
            loss = forward(images.contiguous(memory_format=torch.channels_last), labels)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimizer.step()

        return step

    def peak_memory(self) -> float:
        """Peak memory in GiB."""
        if self._device.type == "cuda":
            return self._torch.cuda.max_memory_allocated() / 2**30
        return peak_memory_of_process() / 2**30
