"""The header of a model: C89 that C++ reads, too, and that says all there is to know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qcc import __version__
from qcc.backends.llvm.c_interface.c_text import c_string, comment, fill, in_comment
from qcc.backends.llvm.c_interface.description import (
    ELEMENT_TYPES,
    ERRORS,
    MOST_THREADS,
    Interface,
    Tensor,
)
from qcc.backends.llvm.c_interface.weights_file import HEAD_BYTES
from qcc.backends.llvm.kernels import STACK_LIMIT
from qcc.backends.llvm.memory import ALIGNMENT


def header_text(interface: Interface) -> str:
    """The text of ``PREFIX.h``."""
    capitals = interface.prefix.upper()
    guard = f"{capitals}_QCC_INTERFACE_H"
    return "".join(
        [
            comment(_preface(interface)),
            f"#ifndef {guard}\n#define {guard}\n\n#include <stddef.h>\n\n",
            '#ifdef __cplusplus\nextern "C" {\n#endif\n\n',
            "".join(f"{line}\n" for line in _constants(interface, capitals)),
            _types(interface.prefix, capitals),
            _functions(interface),
            "#ifdef __cplusplus\n}\n#endif\n\n",
            f"#endif /* {guard} */\n",
        ]
    )


def _preface(interface: Interface) -> Iterator[str]:
    yield f"{interface.prefix}: a neural network as native code, compiled by qcc {__version__}."
    yield ""
    yield f"Target: {interface.isa} ({interface.architecture}, Linux)"
    yield f"The CPU must have: {', '.join(interface.cpu_features)}"
    for side, tensors in (("Input", interface.inputs), ("Output", interface.outputs)):
        for index, tensor in enumerate(tensors):
            yield f"{side} {index}: {_c_declaration(tensor)}{_meaning(tensor)}"
    yield ""
    yield "The code allocates nothing and has no state of its own: all of it lies in the workspace"
    yield "that the caller gives.  Calls with different workspaces may run at the same time.  It"
    yield "uses the C library only."
    yield ""
    yield "Inputs and outputs are dense arrays in row-major order, aligned as C aligns their"
    yield "elements, of exactly the sizes below: nothing is read or written beside them.  Inputs"
    yield "are only read.  Outputs must not overlap each other, inputs or the workspace."


def _c_declaration(tensor: Tensor) -> str:
    sizes = "".join(f"[{size}]" for size in tensor.shape)
    bits = f" (bits of a {tensor.element.constant.lower()})" if _is_opaque(tensor) else ""
    return f'{tensor.element.c_type} "{in_comment(tensor.name)}"{sizes}{bits}'


def _is_opaque(tensor: Tensor) -> bool:
    return tensor.element.constant in ("FLOAT16", "BFLOAT16")


def _meaning(tensor: Tensor) -> str:
    if tensor.quantization is None:
        return ""
    scale, zero_point = tensor.quantization
    return f", which stand for (element - {zero_point}) * {scale!r}"


def _constants(interface: Interface, capitals: str) -> Iterator[str]:
    yield f"#define {capitals}_INPUT_COUNT {len(interface.inputs)}"
    yield f"#define {capitals}_OUTPUT_COUNT {len(interface.outputs)}"
    yield ""
    yield "/* Memory that a call needs, and what its address must be a multiple of. */"
    yield f"#define {capitals}_WORKSPACE_BYTES {interface.workspace_bytes}"
    yield f"#define {capitals}_WORKSPACE_ALIGNMENT {ALIGNMENT}"
    yield ""
    if interface.separate_weights:
        yield "/* Size of the file of weights; in memory it must be aligned as the workspace. */"
        yield f"#define {capitals}_WEIGHTS_BYTES {HEAD_BYTES + interface.weights_bytes}"
        yield ""
    yield "/* Stack that a call may need besides, in bytes. */"
    yield f"#define {capitals}_STACK_BYTES {STACK_LIMIT + (64 << 10)}"
    yield f"#define {capitals}_MOST_THREADS {MOST_THREADS}"
    yield f"#define {capitals}_CPU_FEATURES {c_string(' '.join(interface.cpu_features))}"
    yield ""
    for side, tensors in (("INPUT", interface.inputs), ("OUTPUT", interface.outputs)):
        for index, tensor in enumerate(tensors):
            yield from _tensor_constants(f"{capitals}_{side}_{index}", capitals, tensor)
            yield ""


def _tensor_constants(name: str, capitals: str, tensor: Tensor) -> Iterator[str]:
    yield f"#define {name}_NAME {c_string(tensor.name)}"
    yield f"#define {name}_DTYPE {capitals}_{tensor.element.constant}"
    yield f"#define {name}_RANK {len(tensor.shape)}"
    if tensor.shape:
        yield f"#define {name}_DIMS {{{', '.join(map(str, tensor.shape))}}}"
    yield f"#define {name}_ELEMENTS {tensor.elements}"
    yield f"#define {name}_BYTES {tensor.bytes}"
    if tensor.quantization is not None:
        scale, zero_point = tensor.quantization
        yield f"#define {name}_SCALE {scale!r}"
        yield f"#define {name}_ZERO_POINT {zero_point}"


def _enumeration(rows: Sequence[tuple[str, int, str]]) -> str:
    """Rows of constant, number and remark."""
    lines = []
    for index, (constant, number, remark) in enumerate(rows):
        comma = "," if index + 1 < len(rows) else ""
        note = f" /* {remark} */" if remark else ""
        lines.append(f"  {constant} = {number}{comma}{note}\n")
    return "".join(lines)


def _types(prefix: str, capitals: str) -> str:
    dtypes = _enumeration(
        [(f"{capitals}_{e.constant}", e.number, e.c_type) for e in ELEMENT_TYPES.values()]
    )
    codes = _enumeration([(f"{capitals}_{e.constant}", e.code, e.sentence) for e in ERRORS])
    return f"""/* What the elements of a tensor are; the numbers are those of ONNX. */
enum {prefix}_dtype {{
{dtypes}}};

/* What functions return; {prefix}_error gives the sentence. */
enum {prefix}_code {{
{codes}}};

typedef struct {prefix}_tensor {{
  const char *name;
  int dtype; /* one of enum {prefix}_dtype */
  int rank;
  const size_t *dims; /* rank of them */
  size_t bytes;
  double scale;   /* 0, or elements stand for (element - zero_point) * scale */
  int zero_point;
}} {prefix}_tensor;

"""


def _functions(interface: Interface) -> str:
    initialize = _INITIALIZE_WITH_WEIGHTS if interface.separate_weights else _INITIALIZE
    text = initialize + _RUN + _QUESTIONS
    if interface.separate_weights:
        text += "size_t PREFIX_weights_bytes(void);\n"
    return fill(text, {"PREFIX": interface.prefix}) + "\n"


_INITIALIZE = """/* Prepares a workspace: once, before the first run in it. */
int PREFIX_init(void *workspace);

"""

_INITIALIZE_WITH_WEIGHTS = """/* Prepares a workspace: once, before the first run in it.
 * `weights` is the file of weights, mapped or read to an aligned address; it must stay there as
 * long as the workspace is used, and any number of workspaces may share it.
 */
int PREFIX_init_with_weights(void *workspace, const void *weights, size_t bytes);

"""

_RUN = """/* Computes all outputs from all inputs on the calling thread. */
int PREFIX_run(const void *const inputs[], void *const outputs[], void *workspace);

/* The same on several threads: each of the `nthreads` threads calls this with the same arguments
 * but its own `tid` from 0 to nthreads - 1.  They wait for each other at the beginning, so that
 * any of them may write the inputs before its own call, and at the end: when a call returns, the
 * outputs are complete, and all calls of one run return the same code.  Where threads give
 * different arguments, or one does not call at all, the others wait for ever.
 */
int PREFIX_run_part(const void *const inputs[], void *const outputs[], void *workspace, int tid,
                    int nthreads);

"""

_QUESTIONS = """/* The sentence of a code; never NULL. */
const char *PREFIX_error(int code);

/* What the constants above say, for who does not know the model beforehand: NULL for an index that
 * is out of range.
 */
int PREFIX_input_count(void);
int PREFIX_output_count(void);
const PREFIX_tensor *PREFIX_input(int index);
const PREFIX_tensor *PREFIX_output(int index);
size_t PREFIX_workspace_bytes(void);
size_t PREFIX_workspace_alignment(void);
const char *PREFIX_cpu_features(void);
"""
