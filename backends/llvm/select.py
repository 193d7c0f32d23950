"""Which kernels compute which op: one table."""

from __future__ import annotations

from qcc.backends.llvm.planner import Selector
from qcc.backends.llvm.selectors.arg_max import select_arg_max
from qcc.backends.llvm.selectors.binary import select_binary
from qcc.backends.llvm.selectors.boundary import select_dequantize, select_quantize
from qcc.backends.llvm.selectors.clip import select_clip
from qcc.backends.llvm.selectors.elementwise import (
    select_concat,
    select_lut,
    select_requantize,
)
from qcc.backends.llvm.selectors.float_linear import select_float_conv, select_float_product
from qcc.backends.llvm.selectors.float_pooling import select_float_pool
from qcc.backends.llvm.selectors.floats import (
    select_float_binary,
    select_float_matmul,
    select_float_reduction,
    select_float_softmax,
    select_float_unary,
    select_layer_norm,
    select_lookup,
)
from qcc.backends.llvm.selectors.images import select_resize, select_softmax
from qcc.backends.llvm.selectors.linear import select_conv, select_matmul
from qcc.backends.llvm.selectors.moving import (
    select_expand,
    select_gather,
    select_pad,
    select_reshape,
    select_slice,
    select_transpose,
)
from qcc.backends.llvm.selectors.pooling import (
    select_average_pool,
    select_max_pool,
    select_reduce_mean,
)
from qcc.backends.llvm.selectors.recurrent import select_recurrent

SELECTORS: dict[str, Selector] = {
    "q.quantize": select_quantize,
    "q.dequantize": select_dequantize,
    "q.conv": select_conv,
    "q.matmul": select_matmul,
    "q.add": select_binary,
    "q.sub": select_binary,
    "q.mul": select_binary,
    "q.max_pool": select_max_pool,
    "q.average_pool": select_average_pool,
    "q.reduce_mean": select_reduce_mean,
    "q.lut": select_lut,
    "q.requantize": select_requantize,
    "q.concat": select_concat,
    "q.reshape": select_reshape,
    "q.transpose": select_transpose,
    "q.slice": select_slice,
    "q.expand": select_expand,
    "q.pad": select_pad,
    "q.gather": select_gather,
    "q.resize": select_resize,
    "q.softmax": select_softmax,
    "q.float_conv": select_float_conv,
    "q.float_matmul": select_float_product,
    "q.float_max_pool": select_float_pool,
    "q.float_average_pool": select_float_pool,
    "Add": select_float_binary,
    "Sub": select_float_binary,
    "Mul": select_float_binary,
    "Div": select_float_binary,
    "Max": select_float_binary,
    "Min": select_float_binary,
    "Relu": select_float_unary,
    "Neg": select_float_unary,
    "Clip": select_clip,
    "Sigmoid": select_float_unary,
    "Softmax": select_float_softmax,
    "LayerNormalization": select_layer_norm,
    "Gather": select_lookup,
    "Pow": select_float_unary,
    "Sqrt": select_float_unary,
    "Reciprocal": select_float_unary,
    "Tanh": select_float_unary,
    "HardSigmoid": select_float_unary,
    "HardSwish": select_float_unary,
    "LeakyRelu": select_float_unary,
    "Gelu": select_float_unary,
    "ReduceSum": select_float_reduction,
    "ReduceMean": select_float_reduction,
    "ReduceL2": select_float_reduction,
    "MatMul": select_float_matmul,
    "ArgMax": select_arg_max,
    "Exp": select_float_unary,
    "LSTM": select_recurrent,
    "GRU": select_recurrent,
}
"""Op of the LOWERED graph to the function that plans its kernels."""
