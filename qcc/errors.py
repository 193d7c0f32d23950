"""The error family of qcc.

Every error that a user can cause derives from :class:`QccError` and carries one sentence that says
what is wrong and what to do.  Anything else that escapes is a bug in qcc.
"""

from __future__ import annotations


class QccError(Exception):
    """The input is wrong: a model, data, an option or an output path.

    ``node`` names the node (or the ``.qir`` source span) that the sentence speaks of, if any.
    """

    def __init__(self, message: str, *, node: str | None = None) -> None:
        super().__init__(message if node is None else f"{message} (at node '{node}')")
        self.message = message
        self.node = node


class ModelError(QccError):
    """The model cannot be read, is not valid ONNX, or uses something that cannot be represented."""


class DataError(QccError):
    """Calibration or inference data do not fit the model."""


class ConfigError(QccError):
    """A QConfig, QConfigMapping, BackendConfig or pass option is not valid."""


class ParseError(QccError):
    """A ``.qir`` text or a pass list is not well formed; ``line`` and ``column`` count from 1."""

    def __init__(self, message: str, *, line: int = 0, column: int = 0) -> None:
        super().__init__(f"line {line}, column {column}: {message}" if line else message)
        self.line = line
        self.column = column


class ArtifactError(QccError):
    """A ``.qcc`` file is damaged, too new, or made for another CPU."""


class OutputError(QccError):
    """An output file cannot be written; whatever stood there before is untouched."""


class VerifyError(Exception):
    """A graph breaks a rule of its stage: a bug in the pass that made it, never in the input.

    ``node`` is the printed node that the sentence speaks of; ``text`` the graph with the message
    drawn under that node.
    """

    def __init__(self, message: str, *, node: str | None = None, text: str = "") -> None:
        super().__init__(message + (f"\n{text}" if text else ""))
        self.message = message
        self.node = node
        self.text = text


class PassError(VerifyError):
    """A pass failed, or left an invalid graph behind: a bug in the pass.

    The message names the pass and the ``qcc opt`` command that reproduces the failure; ``text`` is
    the graph as the pass left it.
    """
