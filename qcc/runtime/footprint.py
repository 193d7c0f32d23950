"""How much memory a loaded model takes: measured in a process of its own."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

from qcc.errors import DataError

MAPPINGS = Path("/proc/self/smaps")
"""Where Linux says what each piece of a process's memory is and how much of it is resident."""

_LIBRARIES = {".onnx": "onnxruntime", ".qcc": "qcc.backends.llvm.machine"}


def footprint_bytes(path: Path, inputs: Path | None = None, threads: int = 1) -> int | None:
    """Bytes that opening a model and running it once adds to a process.

    Resident pages without a file and those of the model's own file count, libraries do not; what
    the inputs take (``inputs``, an .npz file, or random ones) is subtracted.  None where the system
    does not say.  Raises DataError where the process fails.
    """
    if not MAPPINGS.exists():
        return None
    command = [sys.executable, "-m", __name__, str(path), str(threads)]
    command += [str(inputs)] if inputs else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise DataError(f"the memory of {path} cannot be measured: {lines[-1]}")
    return int(done.stdout)


def _own_bytes(model: Path) -> int:
    """Resident bytes of this process that belong to no file, or to the model's."""
    total, counts = 0, False
    for line in MAPPINGS.read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            name = " ".join(words[5:])
            counts = not name.startswith("/") or name == str(model.resolve())
        elif counts and words[0] == "Rss:":
            total += 1024 * int(words[1])
    return total


def _measured(path: Path, threads: int, inputs: Path | None) -> int:
    from qcc.runtime.benchmark import random_inputs
    from qcc.runtime.files import load_arrays
    from qcc.runtime.runnable import open_runnable

    importlib.import_module(_LIBRARIES.get(path.suffix, "onnxruntime"))
    before = _own_bytes(path)
    model = open_runnable(path, threads=threads)
    feeds = load_arrays(inputs, model.input_names) if inputs else random_inputs(model)
    outputs = model.run(feeds)
    after = _own_bytes(path)
    del outputs
    return max(0, after - before - sum(array.nbytes for array in feeds.values()))


def main() -> None:
    """``python -m qcc.runtime.footprint MODEL THREADS [IN.npz]`` prints the bytes."""
    path, threads, *rest = sys.argv[1:]
    print(_measured(Path(path), int(threads), Path(rest[0]) if rest else None))


if __name__ == "__main__":
    main()
