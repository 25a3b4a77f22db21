"""A run's progress: a bar on a terminal, plain lines elsewhere, and only from the first process."""

import sys

from tqdm import tqdm


class Progress:
    """Steps done, loss, accuracy, images per second and the time left."""

    def __init__(self, start_step: int, last_step: int, speaks: bool):
        self._last_step = last_step
        self._speaks = speaks
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=last_step,
            initial=start_step,
            unit="step",
            desc="training",
            dynamic_ncols=True,
            disable=not (self._terminal and speaks),
        )

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._speaks:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def step(self) -> None:
        """Counts a step."""
        self._bar.update()

    def show(self, step: int, values: dict[str, float]) -> None:
        """Shows the latest metrics, in the bar or as a line."""
        text = f"loss {values['train_loss']:.3f}, accuracy {values['train_top1']:.1%}"
        if "images_per_second" in values:  # Absent for a step that compiled.
            text += f", {values['images_per_second']:.0f} images/s"
        if values.get("input_share", 0) > 0.1:
            text += f", waiting for input {values['input_share']:.0%} of the time"
        if self._terminal:
            self._bar.set_postfix_str(text)
        else:
            self.say(f"step {step}/{self._last_step}: {text}")

    def close(self) -> None:
        """Ends the bar and leaves it on the screen."""
        self._bar.close()
