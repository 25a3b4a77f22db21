"""Our side of `benchmarks.compare_input`: the trainer's batches."""

from collections.abc import Iterator

from benchmarks.input_turns import Work, serve
from gcvit_flax.config import Preprocessing
from gcvit_flax.data.batches import training_batches
from gcvit_flax.data.folders import open_folder
from gcvit_flax.data.spec import Parts


def open_batches(work: Work, _: list[str]) -> Iterator[dict]:
    """Batches as the presets finetune and imagenet draw them."""
    return training_batches(
        open_folder(work.folder, 0.01, Parts()).train,
        Preprocessing((work.size, work.size)),
        batch_size=work.batch,
        seed=0,
        start_step=0,
        crop_area=work.area,
        workers=work.workers,
    )


if __name__ == "__main__":
    serve(open_batches)
