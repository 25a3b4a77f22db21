"""The forward passes of the public implementations, which share weights and disagree in two settings."""

from typing import Literal, NamedTuple


class ForwardPass(NamedTuple):
    """A public implementation's forward pass: its two settings of a GCViTConfig, and when to choose it."""

    relative_position_bias: Literal["per_head", "flattened"]
    query_pool_padding: Literal["-inf", "zero"]
    implementation: str
    computes: str
    difference: str | None  # Of the logits from the official ones, over the largest, for the same weights.
    use: str


FORWARD_PASSES = {
    "official": ForwardPass(
        "per_head",
        "-inf",
        implementation="the PyTorch release and timm >= 1.0.31",
        computes="one position bias per head, pooling padded with -inf",
        difference=None,
        use="The default, for all published ImageNet weights, which were trained with it.",
    ),
    "gcvit_tf": ForwardPass(
        "per_head",
        "zero",
        implementation="the package gcvit 1.1.6 for TensorFlow",
        computes="one position bias per head, pooling padded with zeros",
        difference="0.2 to 1.1 %",
        use="For models trained with that package, or to reproduce its numbers.",
    ),
    "keras_io": ForwardPass(
        "flattened",
        "zero",
        implementation="the Keras 3 example",
        computes="one flattened position bias for all heads, pooling padded with zeros",
        difference="10 to 16 %",
        use="For models *trained* with that example; any other gives them wrong logits.",
    ),
}

# Name -> (relative_position_bias, query_pool_padding).
REFERENCES = {name: (known.relative_position_bias, known.query_pool_padding) for name, known in FORWARD_PASSES.items()}
