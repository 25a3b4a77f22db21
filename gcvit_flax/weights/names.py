"""The one table of parameter names: ours against the official release's, timm's and Keras 3's.

Placeholders: {i} is the level, {j} the block and {k} the query stage, counted from 0; {next_i} and {next_k} are one
more. In a Keras 3 path, a member of a list is named by its class and a suffix: {_i}, {_j} and {_k} are "", "_1", "_2"
and so on. The class names {patch_embed}, {level}, {block}, {feature}, {se} and {norm} differ between programs.
`keras_file` gives the weights of Keras 2 files their official names.
"""

from typing import NamedTuple


class Row(NamedTuple):
    """One parameter: its name here and in each family of files, and its kind, which determines the axes."""

    ours: str
    official: str
    timm: str
    keras: str
    kind: str  # "plain", "dense", "se", "conv", "depthwise" or "pointwise"; see tensors.py


# The class names in the Keras 3 paths of each program.
KERAS_CLASSES = {
    "keras_io": {
        "patch_embed": "patch_embed",
        "level": "level",
        "block": "block",
        "feature": "feature_extraction",
        "se": "squeeze_and_excitation",
        "norm": "layer_normalization",
    },
    "gcvit_tf": {
        "patch_embed": "stem",
        "level": "gc_vi_t_level",
        "block": "gc_vi_t_block",
        "feature": "feat_extract",
        "se": "se",
        "norm": "layer_normalization",
    },
}


def _layer(ours: str, official: str, timm: str, keras: str, kind: str, bias: bool = True) -> list[Row]:
    weight = "scale" if kind == "plain" else "kernel"
    rows = [Row(f"{ours}/{weight}", f"{official}.weight", f"{timm}.weight", f"{keras}/vars/0", kind)]
    if bias:
        rows.append(Row(f"{ours}/bias", f"{official}.bias", f"{timm}.bias", f"{keras}/vars/1", "plain"))
    return rows


def _mbconv(ours: str, official: str, timm: str, keras: str) -> list[Row]:
    dw, pw, fc1, fc2 = "depthwise_conv2d", "conv2d", "{se}/fc/dense", "{se}/fc/dense_1"
    return [
        *_layer(f"{ours}/depthwise", f"{official}.0", f"{timm}.conv_dw", f"{keras}/{dw}", "depthwise", bias=False),
        *_layer(f"{ours}/se/fc1", f"{official}.2.fc.0", f"{timm}.se.fc1", f"{keras}/{fc1}", "se", bias=False),
        *_layer(f"{ours}/se/fc2", f"{official}.2.fc.2", f"{timm}.se.fc2", f"{keras}/{fc2}", "se", bias=False),
        *_layer(f"{ours}/pointwise", f"{official}.3", f"{timm}.conv_pw", f"{keras}/{pw}", "pointwise", bias=False),
    ]


def _reduce_size(ours: str, official: str, timm: str, keras: str) -> list[Row]:
    def same(name: str, kind: str, bias: bool = True) -> list[Row]:
        return _layer(f"{ours}/{name}", f"{official}.{name}", f"{timm}.{name}", f"{keras}/{name}", kind, bias)

    return [
        *same("norm1", "plain"),
        *_mbconv(f"{ours}/conv", f"{official}.conv", f"{timm}.conv_block", f"{keras}/conv"),
        *same("reduction", "conv", bias=False),
        *same("norm2", "plain"),
    ]


def _block() -> list[Row]:
    ours, official, timm = "levels_{i}/blocks_{j}", "levels.{i}.blocks.{j}", "stages.{i}.blocks.{j}"
    keras = "layers/{level}{_i}/blocks/{block}{_j}"

    def same(name: str, kind: str) -> list[Row]:
        dotted = name.replace("/", ".")
        return _layer(f"{ours}/{name}", f"{official}.{dotted}", f"{timm}.{dotted}", f"{keras}/{name}", kind)

    table = "relative_position_bias_table"
    return [
        *same("norm1", "plain"),
        Row(f"{ours}/attn/{table}", f"{official}.attn.{table}", f"{timm}.attn.rel_pos.{table}", *_vars(keras, "attn/")),
        *same("attn/qkv", "dense"),
        *same("attn/proj", "dense"),
        *same("norm2", "plain"),
        *same("mlp/fc1", "dense"),
        *same("mlp/fc2", "dense"),
        Row(f"{ours}/gamma1", f"{official}.gamma1", f"{timm}.ls1.gamma", *_vars(keras)),
        Row(f"{ours}/gamma2", f"{official}.gamma2", f"{timm}.ls2.gamma", *_vars(keras, index=1)),
    ]


def _vars(keras: str, part: str = "", index: int = 0) -> tuple[str, str]:
    return f"{keras}/{part}vars/{index}", "plain"


TABLE: tuple[Row, ...] = (
    *_layer("patch_embed/proj", "patch_embed.proj", "stem.conv1", "layers/{patch_embed}/proj", "conv"),
    *_reduce_size("patch_embed/conv_down", "patch_embed.conv_down", "stem.down", "layers/{patch_embed}/conv_down"),
    *_mbconv(
        "levels_{i}/q_global_gen/to_q_global_{k}/conv",
        "levels.{i}.q_global_gen.to_q_global.{k}.conv",
        "stages.{i}.global_block.blocks.conv{next_k}",
        "layers/{level}{_i}/q_global_gen/to_q_global/{feature}{_k}/conv",
    ),
    *_block(),
    # timm downsamples at the start of the next stage.
    *_reduce_size(
        "levels_{i}/downsample", "levels.{i}.downsample", "stages.{next_i}.downsample", "layers/{level}{_i}/down"
    ),
    *_layer("norm", "norm", "stages.3.norm", "layers/{norm}", "plain"),
    *_layer("head", "head", "head.fc", "head", "dense"),
)
