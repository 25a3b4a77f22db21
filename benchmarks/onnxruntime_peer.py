"""ONNX Runtime's side of `benchmarks.compare`: timm's network from an ONNX file, on the CPU, in float32."""

from benchmarks.timm_onnx import exported
from gcvit_flax.errors import UserError
from gcvit_flax.training.report.process_memory import peak_memory_of_process


class Side:
    """The optimized forward pass."""

    def __init__(self, options):
        if options.dtype != "float32":
            raise UserError(f"--peer onnxruntime computes in float32 on a CPU: leave out --dtype {options.dtype}")
        with exported(options) as (path, images):
            import onnxruntime

            self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.what = f"ONNX Runtime {onnxruntime.__version__}"
        self._inputs = {self._session.get_inputs()[0].name: images}

    def run(self) -> None:
        """One call."""
        self._session.run(None, self._inputs)

    def peak_memory(self) -> float:
        """GiB, of this process."""
        return peak_memory_of_process() / 2**30
