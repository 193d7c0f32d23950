"""Make a failing model smaller while it fails with the same message.

    python tools/reduce.py qcc-fuzz-4711                  # writes qcc-fuzz-4711-reduced
    python tools/reduce.py qcc-crash-ab12cd34 -o small --seconds 60

Takes a folder that ``tools/fuzz.py`` wrote or that ``qcc`` left (a command with an .onnx model) and
writes a smaller one of the same form for ``tools/replay.py``: fewer nodes, outputs, attributes and
feeds, smaller sizes.  Names and numbers in the message may change.
"""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import onnx

from tests.fuzzing.isolation import isolated
from tests.fuzzing.reduction import model_of, reduce_subject
from tests.fuzzing.subjects import fails, open_subject, save_subject


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="the folder, or a file in it")
    parser.add_argument("-o", "--output", type=Path, help="the folder to write")
    parser.add_argument("--seconds", type=float, default=300.0, help="stop then (default 300)")
    chosen = parser.parse_args(arguments)
    folder = chosen.file if chosen.file.is_dir() else chosen.file.parent
    output = chosen.output or folder.with_name(f"{folder.resolve().name}-reduced")
    try:
        small, failure = reduce_subject(
            open_subject(chosen.file),
            functools.partial(isolated, fails),
            seconds=chosen.seconds,
            say=lambda text: print(text, flush=True),
        )
    except (OSError, ValueError, KeyError) as error:
        print(f"{chosen.file} cannot be reduced: {error}", file=sys.stderr)
        return 1
    save_subject(small, output, failure)
    print(onnx.printer.to_text(model_of(small)))
    print(f"{output} fails: {failure.message}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
