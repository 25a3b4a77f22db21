"""Weight files to model folders and back: `python convert_keras_weights.py SOURCE DEST`."""

import argparse
import logging
import textwrap
from pathlib import Path

from gcvit_flax.cli import program_name, run_cli
from gcvit_flax.references import FORWARD_PASSES, REFERENCES
from gcvit_flax.variants import VARIANTS
from gcvit_flax.weights.convert import convert
from gcvit_flax.weights.published import PUBLISHED
from gcvit_flax.weights.verify import verify
from gcvit_flax.weights.write import TARGETS, write_weights

_DESCRIPTION = """\
Converts GCViT weights of Keras, TensorFlow or PyTorch into a model folder, and back with --to, without any of these.

  SOURCE  a .keras, .weights.h5, .h5, .pth, .pth.tar or .safetensors file, its http(s) URL, or a published name
  DEST    the model folder to write
  with --to: SOURCE is a model folder, and DEST a .keras or .weights.h5 (keras_io, gcvit_tf), or a
           .safetensors, .pth or .pth.tar file (official, timm)
"""
_WIDTH = 120


def main(arguments: list[str] | None = None) -> None:
    """Runs one conversion; `arguments` default to those of the command line."""
    logging.basicConfig(format="%(message)s")
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.image_size is not None and len(options.image_size) > 2:
        parser.error("--image-size takes one side or a height and a width")
    if options.to is None:
        print(
            convert(
                options.source,
                options.dest,
                variant=options.variant,
                reference=options.reference or "official",
                num_classes=options.num_classes,
                image_size=_size(options.image_size),
                ema=options.ema,
                allow_nonfinite=options.allow_nonfinite,
                force=options.force,
            )
        )
        if options.verify is not None:
            print(verify(options.dest, options.verify))
    else:
        _refuse_import_options(parser, options)
        print(write_weights(options.source, options.dest, options.to, reference=options.reference, force=options.force))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program_name("convert_keras_weights.py"),
        description=_DESCRIPTION,
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("dest", metavar="DEST")
    parser.add_argument("--reference", choices=REFERENCES, help="the forward pass to compute (default: official)")
    parser.add_argument("--variant", choices=VARIANTS, help="fail unless SOURCE holds this variant")
    parser.add_argument("--num-classes", type=int, metavar="N", help="replace the head with a new one of N classes")
    parser.add_argument(
        "--image-size",
        type=int,
        nargs="+",
        metavar="PX",
        help="side, or height and width: resamples the position biases, or decides where the weights allow two",
    )
    parser.add_argument("--ema", action="store_true", help="use the averaged weights of a PyTorch file")
    parser.add_argument("--allow-nonfinite", action="store_true", help="accept NaN and infinity")
    parser.add_argument("--force", action="store_true", help="replace DEST if it exists")
    parser.add_argument("--to", choices=TARGETS, help="write the model folder SOURCE as a file for this program")
    parser.add_argument(
        "--verify",
        type=Path,
        metavar="IMAGE_OR_NPZ",
        help='print logits and the five best classes of an image, or of the normalized "images" in an .npz',
    )
    return parser


def _epilog() -> str:
    lines = ["Three public implementations share these weights but not their logits; --reference chooses one:", ""]
    for name, known in FORWARD_PASSES.items():
        difference = f"Logits differ by {known.difference}. " if known.difference else ""
        lines += [f"  {name:<10}{known.implementation}: {known.computes}.", f"{' ' * 12}{difference}{known.use}"]
    lines += ["", *textwrap.wrap(f"published names: {', '.join(PUBLISHED)}", _WIDTH, break_on_hyphens=False)]
    return "\n".join(lines)


def _refuse_import_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    for name in ("variant", "num_classes", "image_size", "ema", "allow_nonfinite", "verify"):
        if getattr(options, name) not in (None, False):
            parser.error(f"--{name.replace('_', '-')} does not go with --to: it is for writing a model folder")


def _size(sides: list[int] | None) -> int | tuple[int, int] | None:
    if sides is None:
        return None
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


if __name__ == "__main__":
    run_cli(main)
