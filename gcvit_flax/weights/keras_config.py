"""The config.json of a .keras file, from which Keras builds the network."""

from typing import Any

from gcvit_flax.config import GCViTConfig
from gcvit_flax.variants import variant_name


def keras_config(config: GCViTConfig, target: str) -> dict[str, Any]:
    """The serialized class GCViT of `target` ("keras_io" or "gcvit_tf") for `config`, whose windows are square.

    The head has no activation, so that the model returns logits, as it does here.
    """
    arguments = {
        "name": variant_name(config) or "gcvit",
        "window_size": [height for height, _ in config.window_size],
        "depths": list(config.depths),
        "num_heads": list(config.num_heads),
        "drop_rate": config.dropout_rate,
        "mlp_ratio": config.mlp_ratio,
        "qkv_bias": config.qkv_bias,
        "qk_scale": config.qk_scale,
        "path_drop": config.drop_path_rate,
        "layer_scale": config.layer_scale,
        "num_classes": config.num_classes,
    }
    own: dict[str, dict[str, Any]] = {
        "keras_io": {
            "embed_dim": config.embed_dim,
            "attention_dropout": config.attention_dropout_rate,
            "head_activation": None,
        },
        "gcvit_tf": {"dim": config.embed_dim, "attn_drop": config.attention_dropout_rate, "head_act": None},
    }
    # The example's class is not in any package: the user passes it in custom_objects.
    location: dict[str, dict[str, Any]] = {
        "keras_io": {"module": None, "registered_name": "GCViT"},
        "gcvit_tf": {"module": "gcvit.models.gcvit", "registered_name": "gcvit>GCViT"},
    }
    return {
        "class_name": "GCViT",
        **location[target],
        "config": arguments | own[target],
        "build_config": {"input_shape": [1, *config.image_size, config.in_channels]},
    }
