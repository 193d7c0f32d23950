"""Run a failure again: a folder that ``tools/fuzz.py`` wrote, or one that ``qcc`` left.

    python tools/replay.py qcc-fuzz-4711
    python tools/replay.py qcc-crash-ab12cd34/command.txt

Prints what fails, with its traceback, and exits with 1, or says that it passes and exits with 0.
A command of ``qcc`` runs in an empty folder, on the files that were kept with it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.fuzzing.isolation import isolated
from tests.fuzzing.subjects import fails, open_subject


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="the folder, or a file in it")
    chosen = parser.parse_args(arguments)
    try:
        subject = open_subject(chosen.file)
    except (OSError, ValueError, KeyError) as error:
        parser.error(f"{chosen.file} cannot be replayed: {error}")
    failure = isolated(fails, subject)
    if failure is None:
        print(f"{chosen.file} passes")
        return 0
    print(failure.details or "(no traceback)")
    print(f"{chosen.file} fails: {failure.message}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
