"""The functions of the C interface as LLVM text, around the function of the model.

``PREFIX_run_part`` is the whole of a run: threads meet, so that whoever prepares the inputs may do
so before its own call; they compute; they meet again, and thread 0 copies what no kernel writes,
zeroes the claim counters and turns the words of a fault into a code; at a third meeting all take
that code.  Only then may a thread begin the next run, or a counter be claimed.  One thread alone
passes the meetings without waiting, which is ``PREFIX_run``.

All functions but the interface's own are made internal when the text is compiled.  What is written
here is compiled for any CPU (attributes #0): it runs before the model's own functions are called,
and finds out whether they can be.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from qcc.backends.llvm.c_interface import weights_file
from qcc.backends.llvm.c_interface.cpu_check import ANY_CPU, cpu_check_text
from qcc.backends.llvm.c_interface.description import (
    ERROR_CODES,
    ERRORS,
    MOST_THREADS,
    UNKNOWN_ERROR,
    Interface,
    Tensor,
)
from qcc.backends.llvm.memory import ALIGNMENT
from qcc.backends.llvm.model import ArraySource
from qcc.backends.llvm.sync import CONTROL_BYTES, FAULT_OFFSET, claims_bytes

_STATE = FAULT_OFFSET + 16
"""Where the interface keeps its state in the control block, behind the words of a fault: identity
of the model (8 bytes), where the weights are (8 bytes), code of the last run (4 bytes)."""

IDENTITY_OFFSET, WEIGHTS_OFFSET, CODE_OFFSET = _STATE, _STATE + 8, _STATE + 16

WEIGHTS_SYMBOL = "qcc_weights"
WEIGHTS_SECTION = ".rodata.qcc_weights"
"""Where the weights are; they are zeros in the text (:mod:`object_code` fills them in), of which
``externally_initialized`` keeps the compiler from drawing conclusions."""

_CHECKS = """
define internal i32 @qcc_check_memory(ptr %workspace) #0 {
  %address = ptrtoint ptr %workspace to i64
  %odd = and i64 %address, <LOW_BITS>
  %misaligned = icmp ne i64 %odd, 0
  %code = select i1 %misaligned, i32 <ERROR_WORKSPACE_ALIGNMENT>, i32 0
  %null = icmp eq ptr %workspace, null
  %found = select i1 %null, i32 <ERROR_NULL>, i32 %code
  ret i32 %found
}

define internal i32 @qcc_check_start(ptr %workspace) #0 {
entry:
  %memory = call i32 @qcc_check_memory(ptr %workspace)
  %fits = icmp eq i32 %memory, 0
  br i1 %fits, label %ask, label %done
ask:
  %cpu = call i32 @qcc_check_cpu()
  br label %done
done:
  %code = phi i32 [%memory, %entry], [%cpu, %ask]
  ret i32 %code
}

define internal i32 @qcc_check_workspace(ptr %workspace) #0 {
entry:
  %code = call i32 @qcc_check_memory(ptr %workspace)
  %fits = icmp eq i32 %code, 0
  br i1 %fits, label %look, label %done
look:
  %place = getelementptr i8, ptr %workspace, i64 <IDENTITY_OFFSET>
  %identity = load i64, ptr %place, align 8
  %known = icmp eq i64 %identity, <IDENTITY>
  %state = select i1 %known, i32 0, i32 <ERROR_NOT_INITIALIZED>
  br label %done
done:
  %found = phi i32 [%code, %entry], [%state, %look]
  ret i32 %found
}

; A table of %count pointers, whose low bits under %masks must be 0.
define internal i32 @qcc_check_table(ptr %table, ptr %masks, i64 %count) #0 {
entry:
  %none = icmp eq i64 %count, 0
  br i1 %none, label %good, label %some
some:
  %missing = icmp eq ptr %table, null
  br i1 %missing, label %null, label %look
look:
  %i = phi i64 [0, %some], [%following, %aligned]
  %place = getelementptr ptr, ptr %table, i64 %i
  %pointer = load ptr, ptr %place, align 8
  %absent = icmp eq ptr %pointer, null
  br i1 %absent, label %null, label %present
present:
  %wanted = getelementptr i64, ptr %masks, i64 %i
  %mask = load i64, ptr %wanted, align 8
  %address = ptrtoint ptr %pointer to i64
  %odd = and i64 %address, %mask
  %misaligned = icmp ne i64 %odd, 0
  br i1 %misaligned, label %bad, label %aligned
aligned:
  %following = add i64 %i, 1
  %more = icmp ult i64 %following, %count
  br i1 %more, label %look, label %good
null:
  ret i32 <ERROR_NULL>
bad:
  ret i32 <ERROR_TENSOR_ALIGNMENT>
good:
  ret i32 0
}
"""

_INIT = """
define i32 @<PREFIX>_init(ptr %workspace) #0 {
entry:
  %code = call i32 @qcc_check_start(ptr %workspace)
  %fits = icmp eq i32 %code, 0
  br i1 %fits, label %clear, label %done
clear:
  call void @qcc_clear(ptr %workspace)
  br label %done
done:
  ret i32 %code
}
"""

_INIT_WITH_WEIGHTS = """
define i32 @<PREFIX>_init_with_weights(ptr %workspace, ptr %weights, i64 %bytes) #0 {
entry:
  %started = call i32 @qcc_check_start(ptr %workspace)
  %fits = icmp eq i32 %started, 0
  br i1 %fits, label %look, label %done
look:
  %absent = icmp eq ptr %weights, null
  br i1 %absent, label %done, label %align
align:
  %address = ptrtoint ptr %weights to i64
  %odd = and i64 %address, <LOW_BITS>
  %misaligned = icmp ne i64 %odd, 0
  br i1 %misaligned, label %done, label %measure
measure:
  %short = icmp ult i64 %bytes, <FILE_BYTES>
  br i1 %short, label %done, label %read
read:
  %magic = load i64, ptr %weights, align 8
  %place = getelementptr i8, ptr %weights, i64 8
  %identity = load i64, ptr %place, align 8
  %format = icmp eq i64 %magic, <MAGIC>
  %model = icmp eq i64 %identity, <IDENTITY>
  %right = and i1 %format, %model
  br i1 %right, label %clear, label %done
clear:
  call void @qcc_clear(ptr %workspace)
  %kept = getelementptr i8, ptr %workspace, i64 <WEIGHTS_OFFSET>
  %packed = getelementptr i8, ptr %weights, i64 <FILE_HEAD>
  store ptr %packed, ptr %kept, align 8
  br label %done
done:
  %code = phi i32 [%started, %entry], [<ERROR_NULL>, %look], [<ERROR_WEIGHTS_ALIGNMENT>, %align],
                  [<ERROR_WEIGHTS>, %measure], [<ERROR_WEIGHTS>, %read], [0, %clear]
  ret i32 %code
}
"""

_CLEAR = """
; The workspace as a first run may find it: kernels read nothing that no kernel wrote.
define internal void @qcc_clear(ptr %workspace) #0 {
  call void @llvm.memset.p0.i64(ptr align <ALIGNMENT> %workspace, i8 0, i64 <ZEROED_BYTES>, i1 0)
  %place = getelementptr i8, ptr %workspace, i64 <IDENTITY_OFFSET>
  store i64 <IDENTITY>, ptr %place, align 8
  ret void
}
"""

_RUN = """
define i32 @<PREFIX>_run(ptr %inputs, ptr %outputs, ptr %workspace) #0 {
  %code = call i32 @<PREFIX>_run_part(ptr %inputs, ptr %outputs, ptr %workspace, i32 0, i32 1)
  ret i32 %code
}

define i32 @<PREFIX>_run_part(ptr %inputs, ptr %outputs, ptr %workspace, i32 %tid,
                             i32 %nthreads) #0 {
entry:
  %state = call i32 @qcc_check_workspace(ptr %workspace)
  %ready = icmp eq i32 %state, 0
  br i1 %ready, label %number, label %done
number:
  ; As unsigned numbers: a negative one is too large.
  %member = icmp ult i32 %tid, %nthreads
  %bounded = icmp ule i32 %nthreads, <MOST_THREADS>
  %counted = and i1 %member, %bounded
  br i1 %counted, label %meet, label %done
meet:
  call void @qcc_barrier(ptr %workspace, i32 %nthreads)
  %in = call i32 @qcc_check_table(ptr %inputs, ptr @qcc_input_masks, i64 <INPUTS>)
  %given = icmp eq i32 %in, 0
  br i1 %given, label %check, label %done
check:
  %out = call i32 @qcc_check_table(ptr %outputs, ptr @qcc_output_masks, i64 <OUTPUTS>)
  %taken = icmp eq i32 %out, 0
  br i1 %taken, label %compute, label %done
compute:
  <WEIGHTS>
  <CALL>
  call void @qcc_barrier(ptr %workspace, i32 %nthreads)
  %result = getelementptr i8, ptr %workspace, i64 <CODE_OFFSET>
  %first = icmp eq i32 %tid, 0
  br i1 %first, label %finish, label %leave
finish:
  <COPIES>
  %claims = getelementptr i8, ptr %workspace, i64 <CLAIMS_OFFSET>
  call void @llvm.memset.p0.i64(ptr align 64 %claims, i8 0, i64 <CLAIMS_BYTES>, i1 0)
  %place = getelementptr i8, ptr %workspace, i64 <FAULT_OFFSET>
  %fault = load i64, ptr %place, align 8
  store i64 0, ptr %place, align 8
  %faulty = icmp ne i64 %fault, 0
  %found = select i1 %faulty, i32 <ERROR_INDEX>, i32 0
  store i32 %found, ptr %result, align 4
  br label %leave
leave:
  call void @qcc_barrier(ptr %workspace, i32 %nthreads)
  %last = load i32, ptr %result, align 4
  br label %done
done:
  %code = phi i32 [%state, %entry], [<ERROR_THREADS>, %number], [%in, %meet], [%out, %check],
                  [%last, %leave]
  ret i32 %code
}
"""

_QUESTIONS = """
define i32 @<PREFIX>_input_count() #0 {
  ret i32 <INPUTS>
}

define i32 @<PREFIX>_output_count() #0 {
  ret i32 <OUTPUTS>
}

define ptr @<PREFIX>_input(i32 %index) #0 {
  %there = icmp ult i32 %index, <INPUTS>
  %wide = zext i32 %index to i64
  %place = getelementptr %qcc_tensor, ptr @qcc_inputs, i64 %wide
  %found = select i1 %there, ptr %place, ptr null
  ret ptr %found
}

define ptr @<PREFIX>_output(i32 %index) #0 {
  %there = icmp ult i32 %index, <OUTPUTS>
  %wide = zext i32 %index to i64
  %place = getelementptr %qcc_tensor, ptr @qcc_outputs, i64 %wide
  %found = select i1 %there, ptr %place, ptr null
  ret ptr %found
}

define i64 @<PREFIX>_workspace_bytes() #0 {
  ret i64 <WORKSPACE_BYTES>
}

define i64 @<PREFIX>_workspace_alignment() #0 {
  ret i64 <ALIGNMENT>
}

define ptr @<PREFIX>_cpu_features() #0 {
  ret ptr @qcc_cpu_feature_names
}

define ptr @<PREFIX>_error(i32 %code) #0 {
entry:
  %known = icmp ult i32 %code, <ERRORS>
  br i1 %known, label %look, label %unknown
look:
  %wide = zext i32 %code to i64
  %place = getelementptr ptr, ptr @qcc_errors, i64 %wide
  %found = load ptr, ptr %place, align 8
  ret ptr %found
unknown:
  ret ptr @qcc_unknown_error
}
"""

_QUESTION_ABOUT_WEIGHTS = """
define i64 @<PREFIX>_weights_bytes() #0 {
  ret i64 <FILE_BYTES>
}
"""


def interface_text(interface: Interface, calls: int) -> str:
    """The interface's functions and constants; ``calls`` is the number of calls of the model.

    To be joined to the model's module, whose ``qcc_barrier`` and ``llvm.memset`` they use.
    """
    initialize = _INIT_WITH_WEIGHTS if interface.separate_weights else _INIT
    questions = _QUESTIONS + (_QUESTION_ABOUT_WEIGHTS if interface.separate_weights else "")
    cpu_check = cpu_check_text(interface.architecture, interface.cpu_features)
    text = "".join([cpu_check, _CHECKS, _CLEAR, initialize, _RUN, questions])
    filled = {
        **_numbers(interface, calls),
        **{name: str(code) for name, code in ERROR_CODES.items()},
        "PREFIX": interface.prefix,
        "WEIGHTS": _weights_address(interface),
        "CALL": _call(interface),
        "COPIES": _copies(interface),
    }
    for name, value in filled.items():
        text = text.replace(f"<{name}>", value)
    return _constants(interface) + text


def exported_symbols(interface: Interface) -> list[str]:
    """The functions that C code may call, without which nothing can be called."""
    names = ["init", "run", "run_part", "input_count", "output_count", "input", "output"]
    names += ["workspace_bytes", "workspace_alignment", "cpu_features", "error"]
    if interface.separate_weights:
        names[0] = "init_with_weights"
        names.append("weights_bytes")
    return [f"{interface.prefix}_{name}" for name in names]


def _numbers(interface: Interface, calls: int) -> dict[str, str]:
    numbers = {
        "ALIGNMENT": ALIGNMENT,
        "LOW_BITS": ALIGNMENT - 1,
        "IDENTITY": _signed(interface.identity),
        "IDENTITY_OFFSET": IDENTITY_OFFSET,
        "WEIGHTS_OFFSET": WEIGHTS_OFFSET,
        "CODE_OFFSET": CODE_OFFSET,
        "FAULT_OFFSET": FAULT_OFFSET,
        "CLAIMS_OFFSET": CONTROL_BYTES,
        "CLAIMS_BYTES": claims_bytes(calls),
        "ZEROED_BYTES": CONTROL_BYTES + claims_bytes(calls),
        "WORKSPACE_BYTES": interface.workspace_bytes,
        "FILE_HEAD": weights_file.HEAD_BYTES,
        "FILE_BYTES": weights_file.HEAD_BYTES + interface.weights_bytes,
        "MAGIC": _signed(int.from_bytes(weights_file.MAGIC, "little")),
        "MOST_THREADS": MOST_THREADS,
        "INPUTS": len(interface.inputs),
        "OUTPUTS": len(interface.outputs),
        "ERRORS": len(ERRORS),
    }
    return {name: str(number) for name, number in numbers.items()}


def _signed(word: int) -> int:
    """64 bits as LLVM prints them."""
    return word - (1 << 64) if word >> 63 else word


def _weights_address(interface: Interface) -> str:
    if not interface.separate_weights:
        return f"%weights = getelementptr i8, ptr @{WEIGHTS_SYMBOL}, i64 0"
    return (
        f"%kept = getelementptr i8, ptr %workspace, i64 {WEIGHTS_OFFSET}\n"
        "  %weights = load ptr, ptr %kept, align 8"
    )


def _call(interface: Interface) -> str:
    if interface.step is None:
        return "; Nothing is computed."
    arguments = "ptr %workspace, ptr %weights, ptr %inputs, ptr %outputs, i32 %tid, i32 %nthreads"
    return f"call void @{interface.step}({arguments})"


def _copies(interface: Interface) -> str:
    """What puts constants and inputs that pass through into the outputs."""
    lines = []
    for index, (tensor, source) in enumerate(
        zip(interface.outputs, interface.sources, strict=True)
    ):
        if source.place != "output":
            lines += _copy(index, tensor, source)
    return "\n  ".join(lines)


def _copy(index: int, tensor: Tensor, source: ArraySource) -> list[str]:
    lines = [
        f"%out{index}.at = getelementptr ptr, ptr %outputs, i64 {index}",
        f"%out{index} = load ptr, ptr %out{index}.at, align 8",
    ]
    base = "%weights"
    if source.place in ("slot", "input"):
        base = f"%in{index}"
        lines += [
            f"%in{index}.at = getelementptr ptr, ptr %inputs, i64 {source.index}",
            f"%in{index} = load ptr, ptr %in{index}.at, align 8",
        ]
    elif source.place != "weights":
        raise RuntimeError(f"output '{tensor.name}' lies in '{source.place}'")
    lines += [
        f"%from{index} = getelementptr i8, ptr {base}, i64 {source.offset}",
        f"call void @llvm.memmove.p0.p0.i64(ptr %out{index}, ptr %from{index}, "
        f"i64 {tensor.bytes}, i1 0)",
    ]
    return lines


# -- constants -------------------------------------------------------------------------------------


def _constants(interface: Interface) -> str:
    lines = [
        f"attributes #0 = {{ nounwind {ANY_CPU[interface.architecture]} }}",
        "declare void @llvm.memmove.p0.p0.i64(ptr, ptr, i64, i1)",
        "%qcc_tensor = type { ptr, i32, i32, ptr, i64, double, i32 }",
        _text("qcc_cpu_feature_names", " ".join(interface.cpu_features)),
        _text("qcc_unknown_error", UNKNOWN_ERROR),
    ]
    if not interface.separate_weights:
        lines.append(
            f"@{WEIGHTS_SYMBOL} = internal externally_initialized constant "
            f"[{embedded_bytes(interface)} x i8] zeroinitializer, "
            f'section "{WEIGHTS_SECTION}", align {ALIGNMENT}'
        )
    lines += [_text(f"qcc_error_{error.code}", error.sentence) for error in ERRORS]
    lines.append(_table("qcc_errors", "ptr", [f"@qcc_error_{error.code}" for error in ERRORS]))
    for side, tensors in (("input", interface.inputs), ("output", interface.outputs)):
        lines += _tensors(side, tensors)
    return "\n" + "\n".join(lines) + "\n"


def embedded_bytes(interface: Interface) -> int:
    """Bytes of the section of the weights, which is never empty."""
    return max(interface.weights_bytes, ALIGNMENT)


def _tensors(side: str, tensors: Sequence[Tensor]) -> list[str]:
    lines, rows = [], []
    for index, tensor in enumerate(tensors):
        name, dims = f"qcc_{side}_{index}_name", f"qcc_{side}_{index}_dims"
        lines.append(_text(name, tensor.name))
        lines.append(_table(dims, "i64", [str(size) for size in tensor.shape]))
        scale, zero_point = tensor.quantization or (0.0, 0)
        rows.append(
            f"{{ ptr @{name}, i32 {tensor.element.number}, i32 {len(tensor.shape)}, ptr @{dims}, "
            f"i64 {tensor.bytes}, double {_double(scale)}, i32 {zero_point} }}"
        )
    masks = [str(tensor.element.bytes - 1) for tensor in tensors]
    return [
        *lines,
        _table(f"qcc_{side}s", "%qcc_tensor", rows),
        _table(f"qcc_{side}_masks", "i64", masks),
    ]


def _table(symbol: str, type_: str, entries: Sequence[str]) -> str:
    content = ", ".join(f"{type_} {entry}" for entry in entries)
    value = f"[{content}]" if entries else "zeroinitializer"
    return f"@{symbol} = internal constant [{len(entries)} x {type_}] {value}, align 8"


def _text(symbol: str, text: str) -> str:
    """A C string."""
    data = text.encode() + b"\0"
    escaped = "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:02X}" for byte in data
    )
    return f'@{symbol} = internal constant [{len(data)} x i8] c"{escaped}", align 1'


def _double(value: float) -> str:
    """A double as LLVM reads it, bit by bit."""
    return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"
