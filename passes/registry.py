"""The modules whose passes ``qcc opt`` knows by name, in the order in which they usually run.

A new pass is a module here and one line below.  Packages outside the project use the entry-point
group ``qcc.passes`` instead.
"""

from __future__ import annotations

PASS_MODULES = (
    "qcc.passes.specialize",
    "qcc.passes.canonicalize",
    "qcc.passes.fold_constants",
    "qcc.passes.refuse_layernorm",
    "qcc.passes.refuse_gelu",
    "qcc.passes.refuse_softmax",
    "qcc.passes.refuse_hardsigmoid",
    "qcc.passes.refuse_hardswish",
    "qcc.passes.refuse_leakyrelu",
    "qcc.passes.fold_batchnorm",
    "qcc.passes.use_lookups",
    "qcc.passes.expand_conv_transpose",
    "qcc.passes.eliminate_dead",
    "qcc.passes.import_clips",
    "qcc.passes.import_packed",
    "qcc.passes.import_dynamic",
    "qcc.passes.import_qdq",
    "qcc.passes.quantize_movements",
    "qcc.passes.absorb_affine",
    "qcc.passes.absorb_channel_scales",
    "qcc.passes.suit_onnxruntime",
    "qcc.passes.share_dequantize",
    "qcc.passes.bare_movements",
    "qcc.passes.name_nodes",
    "qcc.passes.float_weights",
    "qcc.passes.use_float16",
    "qcc.backends.graph_passes",
)
