"""What a training run takes on TPUs or GPUs that need not be there: `python -m gcvit_flax.plan PRESET --topology NAME`.

The trainer's own step is compiled for them on this machine's processor, which takes minutes; nothing is computed.
"""

import json
import sys
from collections.abc import Sequence

from gcvit_flax.cli import run_cli
from gcvit_flax.planning.environment import prepare_environment


def main(arguments: Sequence[str] | None = None) -> None:
    """Compiles and prints; a step that does not fit is an answer, not an error."""
    from gcvit_flax.planning.options import parse_plan  # Needs the extra [plan] or [train].

    request = parse_plan(sys.argv[1:] if arguments is None else arguments)
    prepare_environment()
    # Imported after that, since JAX reads the environment, and after parsing, so that usage errors are immediate.
    from gcvit_flax.planning.planner import make_plan
    from gcvit_flax.planning.table import as_table

    report = make_plan(request, say=lambda line: print(line, file=sys.stderr, flush=True))
    print(json.dumps(report) if request.json else as_table(report, request.preset))


if __name__ == "__main__":
    run_cli(main)
