"""Reading configuration from JSON text with errors that say where and what."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from qcc.errors import ConfigError


def read_object(text: str, what: str, version: int = 1) -> dict[str, Any]:
    """The JSON object in ``text``, whose ``"format"`` must be ``what`` in this ``version``.

    Raises ConfigError, with line and column for malformed text.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"the {what} is not valid JSON: {error.msg} at line {error.lineno}, "
            f"column {error.colno}"
        ) from None
    if not isinstance(data, dict):
        raise ConfigError(f"the {what} must be a JSON object, not {type(data).__name__}")
    if data.pop("format", None) != what:
        raise ConfigError(f'the text is no {what}: it must say "format": "{what}"')
    found = data.pop("version", None)
    if found != version:
        raise ConfigError(
            f"the {what} is of version {found}, but this qcc reads version {version}: "
            f"write it again with this qcc"
        )
    return data


def write_object(data: Mapping[str, Any], what: str, version: int = 1) -> str:
    """``data`` as JSON text that :func:`read_object` accepts."""
    return json.dumps({"format": what, "version": version, **data}, indent=2) + "\n"


def check_keys(data: Any, allowed: Mapping[str, Any] | tuple[str, ...], what: str) -> None:
    """Raise ConfigError unless ``data`` is a JSON object whose keys are all ``allowed``."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{what} must be a JSON object, got {data!r}")
    unknown = [key for key in data if key not in allowed]
    if unknown:
        raise ConfigError(f"{what} has no entry '{unknown[0]}': it has {', '.join(allowed)}")


def list_of(data: Any, length: int, what: str) -> list[Any]:
    """``data`` as a list of lists with ``length`` entries each; raises ConfigError otherwise."""
    if not isinstance(data, list) or any(
        not isinstance(item, list) or len(item) != length for item in data
    ):
        raise ConfigError(f"{what} must be a list of lists with {length} entries each")
    return data
