"""What a person sees while a run trains: a bar on a terminal, plain lines elsewhere."""

import sys
import time

from tqdm import tqdm


class Progress:
    """Steps done, loss, accuracy, images a second (without compilation) and the time left."""

    def __init__(self, start_step: int, last_step: int, batch_size: int):
        self._batch_size = batch_size
        self._last_step = last_step
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=last_step,
            initial=start_step,
            unit="step",
            desc="training",
            dynamic_ncols=True,
            disable=not self._terminal,
        )
        self._busy_since = None
        self._timed_steps = 0

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()

    def step(self) -> None:
        """Counts a step; the first one compiles, so the clock starts after it."""
        self._bar.update()
        self._timed_steps += 1

    def start_clock(self) -> None:
        """Starts measuring the rate, from here on."""
        self._busy_since = time.perf_counter()
        self._timed_steps = 0

    def images_per_second(self) -> float:
        """The rate since the clock was started."""
        return self._timed_steps * self._batch_size / (time.perf_counter() - self._busy_since)

    def show(self, step: int, values: dict[str, float]) -> None:
        """Shows the latest metrics, in the bar or as a line."""
        text = f"loss {values['train_loss']:.3f}, accuracy {values['train_top1']:.1%}"
        text += f", {values['images_per_second']:.0f} images/s"
        if self._terminal:
            self._bar.set_postfix_str(text)
        else:
            self.say(f"step {step}/{self._last_step}: {text}")

    def close(self) -> None:
        """Leaves the bar as it is and ends it."""
        self._bar.close()
