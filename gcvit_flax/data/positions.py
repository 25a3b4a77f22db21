"""The order of examples: which one comes at which place of which batch."""


def global_position(position: int, batch_size: int, process: tuple[int, int]) -> int:
    """The position among all processes' examples of the example at `position` among this process's."""
    number, count = process
    step, position = divmod(position, batch_size // count)
    return step * batch_size + number * (batch_size // count) + position


def repeated_position(position: int, repeats: int) -> int:
    """Which of the examples in order comes at `position` if each comes `repeats` times.

    Two take turns, so that Mixup and CutMix, which mix neighbors, never mix an image with itself.
    """
    pair, position = divmod(position, 2 * repeats)
    return 2 * pair + position % 2
