"""Native kernels: each a frozen specification that packs its constants and emits its LLVM IR.

A kernel's specification is its signature: equal specifications are emitted once and called with
different operands.  A kernel never synchronizes; whoever calls it on several threads puts a barrier
before whatever reads its output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from qcc.backends.llvm.isa import InstructionSet

Packed = dict[str, NDArray[np.uint8]]
"""Packed constants of a kernel: operand name to bytes, which are loaded at 64-byte alignment."""

READ_SLACK = 64
"""Bytes that can be read (never written) after the end of every activation buffer and constant."""

STACK_LIMIT = 256 * 1024
"""Most bytes of stack that one kernel may use for its scratch memory."""


@runtime_checkable
class Kernel(Protocol):
    """What every kernel specification offers.  Implementations are frozen dataclasses.

    ``pack`` takes the kernel's constants as numpy arrays by keyword (each kernel says which) and
    gives the bytes of those of its ``operands`` that are constants.  ``emit`` adds the function
    ``void symbol(ptr operand..., i32 tid, i32 nthreads)`` to ``module``; called once with every
    ``tid`` in ``range(nthreads)``, on any thread, it does that share of the work, for any
    ``nthreads``: a call may be cut into more shares than there are threads.
    """

    @property
    def name(self) -> str:
        """Stem of the symbol: the kind of kernel and the shape, readable in a profile."""
        ...

    @property
    def operands(self) -> tuple[str, ...]:
        """Names of the pointer parameters, in order."""
        ...

    @property
    def pack(self) -> Callable[..., Packed]:
        """``pack(isa, **constants)``: bytes of the constant operands for ``isa``."""
        ...

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        """Add the kernel's function to an ``llvmlite.ir.Module`` and return it."""
        ...


class WithoutConstants:
    """What kernels share that only read and write the model's own memory: nothing is packed.

    Their operands are ``source, target`` unless they say otherwise.
    """

    @property
    def operands(self) -> tuple[str, ...]:
        """Pointer parameters in order."""
        return ("source", "target")

    def pack(self, isa: InstructionSet) -> Packed:
        """No constants."""
        return {}
