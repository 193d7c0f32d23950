"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from qcc.errors import OutputError


@contextmanager
def atomic_file(path: Path | str, mode: str = "wb") -> Iterator[IO[Any]]:
    """A file object whose content replaces ``path`` when the block ends without an error.

    What stood at ``path`` is untouched until then.  Raises OutputError with one sentence when the
    folder is missing or not writable, or ``path`` is a folder.
    """
    target = Path(path)
    check_writable(target)
    try:
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror}") from None
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(_permissions(target))
        os.replace(temporary, target)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write several files that belong together: none appears before all are on the disk.

    Raises OutputError as :func:`atomic_file` does; whatever stood at the paths is untouched then.
    """
    with ExitStack() as files:
        for path, content in contents.items():
            file = files.enter_context(atomic_file(path))
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            except OSError as error:
                raise OutputError(f"cannot write {path}: {error.strerror}") from None


def check_writable(path: Path | str) -> None:
    """Raise OutputError unless a file can be made at ``path`` (checked before long work)."""
    target = Path(path)
    if target.is_dir():
        raise OutputError(f"cannot write {target}: it is a folder; give a file name")
    if not target.parent.is_dir():
        raise OutputError(f"cannot write {target}: the folder {target.parent} does not exist")
    if not os.access(target.parent, os.W_OK):
        raise OutputError(f"cannot write {target}: no permission in the folder {target.parent}")
    if target.exists() and not os.access(target, os.W_OK):
        raise OutputError(f"cannot write {target}: the file is not writable")


def _permissions(target: Path) -> int:
    """Those of the file that is replaced, else what the umask leaves of 0666."""
    if target.exists():
        return target.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
