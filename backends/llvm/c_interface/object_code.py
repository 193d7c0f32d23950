"""One relocatable object of a model and its C interface."""

from __future__ import annotations

from qcc.backends.llvm import machine
from qcc.backends.llvm.c_interface.description import Interface
from qcc.backends.llvm.c_interface.elf import fill_section
from qcc.backends.llvm.c_interface.module import (
    WEIGHTS_SECTION,
    exported_symbols,
    interface_text,
)
from qcc.backends.llvm.model import CompiledModel, NativeStep


def interface_object(model: CompiledModel, interface: Interface) -> bytes:
    """Position independent ELF code in which only the interface's own functions can be seen.

    ``interface`` describes ``model`` (:func:`description.describe`).
    """
    calls = max((len(s.calls) for s in model.steps if isinstance(s, NativeStep)), default=0)
    text = model.source + interface_text(interface, calls)
    compiled = machine.compile_module(text, model.isa, exported=exported_symbols(interface))
    if interface.separate_weights:
        return compiled.object_code
    return fill_section(compiled.object_code, WEIGHTS_SECTION, model.weights.tobytes())
