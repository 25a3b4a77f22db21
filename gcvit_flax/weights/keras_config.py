"""The config.json of a .keras file: how Keras builds the network that the weights belong to."""

from typing import Any

from gcvit_flax.config import GCViTConfig
from gcvit_flax.variants import variant_name


def keras_config(config: GCViTConfig, target: str) -> dict[str, Any]:
    """What the class GCViT of `target` ("keras_io" or "gcvit_tf") needs to build `config`, whose windows are square.

    The head has no activation, as here: the file's model returns logits.
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
    own = {
        "keras_io": {
            "embed_dim": config.embed_dim,
            "attention_dropout": config.attention_dropout_rate,
            "head_activation": None,
        },
        "gcvit_tf": {"dim": config.embed_dim, "attn_drop": config.attention_dropout_rate, "head_act": None},
    }
    # The example's class lives in its user's program, who names it in custom_objects.
    where = {
        "keras_io": {"module": None, "registered_name": "GCViT"},
        "gcvit_tf": {"module": "gcvit.models.gcvit", "registered_name": "gcvit>GCViT"},
    }
    return {
        "class_name": "GCViT",
        **where[target],
        "config": arguments | own[target],
        "build_config": {"input_shape": [1, *config.image_size, 3]},
    }
