"""OpenVINO's side of `benchmarks.compare`: timm's network from an ONNX file, on the CPU, for the lowest latency."""

from benchmarks.timm_onnx import exported
from gcvit_flax.training.report.process_memory import peak_memory_of_process

_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


class Side:
    """The compiled forward pass; its products have the precision asked for, not the CPU's default of bfloat16."""

    def __init__(self, options):
        with exported(options) as (path, self._images):
            import openvino

            wanted = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": _PRECISIONS[options.dtype]}
            self._model = openvino.Core().compile_model(path, "CPU", wanted)
        precision = self._model.get_property("INFERENCE_PRECISION_HINT").to_string()
        self.what = f"OpenVINO {openvino.__version__.split('-')[0]}, {precision}"

    def run(self) -> None:
        """One call."""
        self._model(self._images)

    def peak_memory(self) -> float:
        """GiB, of this process."""
        return peak_memory_of_process() / 2**30
