"""The steps by which a random model grows: a function an op family, chosen by weight.

A step takes operands from the model's values, emits one node or a few that belong together, and
raises Unfit where nothing fits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.fuzzing.random_models import CHANNELS, SIDES, Made, RandomModel, Unfit

Grower = Callable[[RandomModel], None]


def random_model(seed: int, most_steps: int = 10) -> RandomModel:
    """A model of up to ``most_steps`` steps; equal seeds give equal models."""
    model = RandomModel(seed)
    kind = model.pick(("image", "image", "image", "image", "sequence", "matrix", "signal"))
    batch = model.pick((1, 1, 1, 2, 3))
    channels, side = model.pick(CHANNELS), model.pick(SIDES)
    shape = {
        "image": (batch, channels, side, model.pick(SIDES)),
        "sequence": (batch, side, channels),
        "signal": (batch, channels, side),
        "matrix": (batch, channels),
    }[kind]
    for _ in range(1 + model.chance(0.15)):
        model.input(*shape)
    wanted = model.integer(1, most_steps)
    while wanted:
        try:
            _STEPS[int(model.random.choice(len(_STEPS), p=_SHARES))](model)
            wanted -= 1
        except Unfit:
            continue
    return model


# -- weighted ops ----------------------------------------------------------------------------------


def _windows(m: RandomModel, sides: tuple[int, ...], dilated: bool) -> dict[str, Any]:
    """Kernel, strides, pads and dilations that fit the sides."""
    kernel = [m.pick((1, 1, 2, 3, 3, 3, 4, 5, 7)) for _ in sides]
    dilations = [m.pick((1, 1, 1, 2, 3)) if dilated else 1 for _ in sides]
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    half = [r // 2 for r in reach]
    pads = [*half, *half]
    if m.chance(0.5):
        pads = [m.integer(0, k - 1) for k in (*kernel, *kernel)]
    automatic = m.pick(("SAME_UPPER", "SAME_LOWER", "VALID")) if m.chance(0.1) else ""
    if automatic:
        pads = [0] * len(pads)
    count = len(sides)
    if any(s + pads[i] + pads[i + count] < reach[i] for i, s in enumerate(sides)):
        raise Unfit
    found: dict[str, Any] = {"kernel_shape": kernel}
    found["auto_pad" if automatic else "pads"] = automatic or pads
    found["strides"] = strides = [m.pick((1, 1, 1, 2, 2, 3)) for _ in sides]
    if automatic.startswith("SAME") and any(s > k for s, k in zip(strides, kernel, strict=True)):
        raise Unfit  # onnxruntime refuses the negative padding
    if any(d != 1 for d in dilations) and not automatic.startswith("SAME"):
        found["dilations"] = dilations
    return found


def _conv_groups(m: RandomModel, channels: int) -> tuple[int, int]:
    """Groups and output channels."""
    kind = m.pick(("full", "full", "depthwise", "groups"))
    if kind == "depthwise":
        return channels, channels * m.pick((1, 1, 1, 2))
    if kind == "groups":
        groups = m.pick([g for g in range(1, channels + 1) if channels % g == 0])
        return groups, groups * m.pick((1, 2, 3, 8))
    return 1, m.pick(CHANNELS)


def _conv(m: RandomModel) -> None:
    x = m.value(4, 4, 4, 3)
    groups, outputs = _conv_groups(m, x.shape[1])
    attributes = _windows(m, x.shape[2:], dilated=True)
    inner = x.shape[1] // groups
    fan_in = inner * int(np.prod(attributes["kernel_shape"]))
    weight = m.weight(outputs, inner, *attributes["kernel_shape"], fan_in=fan_in)
    bias = m.normal(outputs, scale=0.5) if m.chance(0.6) else None
    y = m.emit("Conv", x, weight, *([bias] if bias else []), group=groups, **attributes)
    if m.chance(0.2):
        y = _batchnorm(m, y)
    _residual_and_activation(m, y)


def _residual_and_activation(m: RandomModel, y: Made) -> None:
    if m.chance(0.3):
        y = m.emit("Add", *_either_way(m, y, m.like(y.shape)))
    if m.chance(0.5):
        _activation_of(m, y)


def _either_way(m: RandomModel, a: Made, b: Made | str) -> tuple[Made | str, Made | str]:
    return (a, b) if m.chance(0.5) else (b, a)


def _batchnorm(m: RandomModel, x: Made) -> Made:
    count = x.shape[1]
    variance = m.constant((0.5 + m.random.random(count)).astype(np.float32))
    scale = m.constant((0.5 + m.random.random(count)).astype(np.float32))
    mean = m.normal(count, scale=0.3)
    return m.emit("BatchNormalization", x, scale, m.normal(count, scale=0.3), mean, variance)


def _gemm(m: RandomModel) -> None:
    x = m.value(2)
    inner, outputs = x.shape[1], m.pick(CHANNELS)
    transposed = m.chance(0.5)
    shape = (outputs, inner) if transposed else (inner, outputs)
    weight = m.weight(*shape, fan_in=inner)
    bias = [m.normal(outputs, scale=0.5)] if m.chance(0.7) else []
    extra: dict[str, Any] = {"alpha": 0.5} if m.chance(0.05) else {}
    y = m.emit("Gemm", x, weight, *bias, transB=int(transposed), **extra)
    if m.chance(0.5):
        _activation_of(m, y)


def _matmul(m: RandomModel) -> None:
    x = m.value(2, 3, 4)
    inner, outputs = x.shape[-1], m.pick(CHANNELS)
    y = m.emit("MatMul", x, m.weight(inner, outputs, fan_in=inner))
    if m.chance(0.5):
        y = m.emit("Add", *_either_way(m, y, m.normal(outputs, scale=0.5)))
    if m.chance(0.4):
        _activation_of(m, y)


def _dynamic_matmul(m: RandomModel) -> None:
    a = m.value(3, 4)
    fitting = [b for b in m.pool if b.shape[:-2] == a.shape[:-2] and b.shape[-2:-1] == a.shape[-1:]]
    if fitting and m.chance(0.5):
        b = m.pick(fitting)
    else:
        order = [*range(a.rank - 2), a.rank - 1, a.rank - 2]
        b = m.emit("Transpose", m.like(a.shape), perm=order)
    scale = m.constant(np.float32(a.shape[-1] ** -0.5))
    m.emit("Mul", m.emit("MatMul", a, b), scale)


# -- elementwise -----------------------------------------------------------------------------------

_PLAIN = (
    *("Relu", "Relu", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "LeakyRelu", "Elu", "Selu"),
    *("Gelu", "Mish", "Softplus", "Softsign", "Erf", "Abs", "Neg", "Sin", "Floor", "Sign"),
)


def _activation_of(m: RandomModel, x: Made) -> Made:
    kind = m.pick(("relu", "clip", "silu", "prelu", "any"))
    if kind == "clip":
        low, high = m.pick(((0.0, 6.0), (0.0, 1.0), (-1.0, 1.0), (0.2, 2.0), (0.0, None)))
        limits = [None if v is None else m.constant(np.float32(v)) for v in (low, high)]
        return m.emit("Clip", x, *limits)
    if kind == "silu":
        return m.emit("Mul", x, m.emit("Sigmoid", x))
    if kind == "prelu" and x.rank > 1:
        tail = (1,) * (x.rank - 2)
        slope = m.pick(((1,), (x.shape[1], *tail)))
        return m.emit("PRelu", x, m.normal(*slope, scale=0.3))
    return m.emit("Relu" if kind == "relu" else m.pick(_PLAIN), x)


def _activation(m: RandomModel) -> None:
    _activation_of(m, m.value())


def _same_shapes(m: RandomModel) -> None:
    x = m.value()
    m.emit(m.pick(("Add", "Add", "Mul", "Sub", "Max")), x, m.like(x.shape))


def _with_constant(m: RandomModel) -> None:
    x = m.value()
    kind = m.pick(("scalar", "channel", "last", "whole"))
    shape: tuple[int, ...] = () if m.chance(0.5) else (1,)
    if kind == "channel" and x.rank > 1:
        shape = (x.shape[1], *(1,) * (x.rank - 2))
    elif kind == "last":
        shape = x.shape[-1:]
    elif kind == "whole":
        shape = x.shape
    op = m.pick(("Add", "Mul", "Sub", "Div", "Max", "Min"))
    if op == "Div":
        c = m.constant((0.5 + m.random.random(shape)).astype(np.float32))
        m.emit(op, x, c)
        return
    m.emit(op, *_either_way(m, x, m.normal(*shape)))


def _gate(m: RandomModel) -> None:
    """Squeeze and excite, and other broadcasts of a pooled value."""
    x = m.value(4)
    y = m.emit("GlobalAveragePool", x)
    if m.chance(0.5):
        y = m.emit("Conv", y, m.weight(x.shape[1], x.shape[1], 1, 1, fan_in=x.shape[1]))
    if m.chance(0.7):
        y = m.emit(m.pick(("Sigmoid", "HardSigmoid")), y)
    m.emit(m.pick(("Mul", "Mul", "Add", "Sub")), *_either_way(m, x, y))


# -- pools, reductions, normalizations -------------------------------------------------------------


def _pool(m: RandomModel) -> None:
    x = m.value(4, 4, 4, 3)
    op = m.pick(("MaxPool", "AveragePool"))
    attributes = _windows(m, x.shape[2:], dilated=m.chance(0.2))
    kernel = attributes["kernel_shape"]
    pads = attributes.get("pads", [])
    if any(pad >= size for pad, size in zip(pads, [*kernel, *kernel], strict=False)):
        raise Unfit
    if m.chance(0.25) and "pads" in attributes:
        attributes["ceil_mode"] = 1
        if any(_starts_in_the_end(i, size, attributes) for i, size in enumerate(x.shape[2:])):
            raise Unfit
    if op == "AveragePool" and m.chance(0.5):
        attributes["count_include_pad"] = 1
    m.emit(op, x, **attributes)


def _starts_in_the_end(axis: int, size: int, attributes: dict[str, Any]) -> bool:
    """Whether the last window would start in the end padding, if ceil_mode did not drop it.

    onnx's shape inference (1.23) counts it, so that onnxruntime refuses what follows.
    """
    begin, end = attributes["pads"][axis], attributes["pads"][axis + len(attributes["pads"]) // 2]
    stride = attributes["strides"][axis]
    dilation = attributes.get("dilations", [1] * len(attributes["strides"]))[axis]
    reach = dilation * (attributes["kernel_shape"][axis] - 1) + 1
    steps = -((size + begin + end - reach) // -stride)
    return bool(steps * stride >= size + begin)


def _global_pool(m: RandomModel) -> None:
    x = m.value(4, 3)
    y = m.emit(m.pick(("GlobalAveragePool", "GlobalAveragePool", "GlobalMaxPool")), x)
    if m.chance(0.6):
        m.emit("Flatten", y)


def _reduce_mean(m: RandomModel) -> None:
    x = m.value(2, 3, 4)
    axes = sorted({m.integer(0, x.rank - 1) for _ in range(2)})
    axes = [axis - x.rank for axis in axes] if m.chance(0.5) else axes
    m.emit("ReduceMean", x, m.ints(*axes), keepdims=int(m.chance(0.5)))


def _softmax(m: RandomModel) -> None:
    x = m.value(2, 3, 4)
    m.emit("Softmax", x, axis=m.pick((-1, -1, 1, x.rank - 1)))


def _layernorm(m: RandomModel) -> None:
    x = m.value(2, 3)
    size = x.shape[-1]
    scale = m.constant((0.5 + m.random.random(size)).astype(np.float32))
    m.emit("LayerNormalization", x, scale, m.normal(size, scale=0.3), axis=-1)


# -- movement --------------------------------------------------------------------------------------


def _concat(m: RandomModel) -> None:
    x = m.value(2, 3, 4)
    axis = m.pick((1, 1, 1, x.rank - 1, 0))

    def rest(shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:axis], *shape[axis + 1 :])

    fitting = [v for v in m.pool if v.rank == x.rank and rest(v.shape) == rest(x.shape)]
    others = [m.pick(fitting) for _ in range(m.integer(1, 3))]
    m.emit("Concat", x, *others, axis=axis - (x.rank if m.chance(0.2) else 0))


def _resize(m: RandomModel) -> None:
    x = m.value(4)
    mode = m.pick(("nearest", "nearest", "linear", "cubic"))
    ways = ["asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel"]
    attributes: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": m.pick(ways)}
    if mode == "nearest":
        attributes["nearest_mode"] = m.pick(
            ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
        )
    if m.chance(0.5):
        scales = np.array([1, 1, m.pick((1, 2, 3)), m.pick((0.5, 1, 1.5, 2))], np.float32)
        m.emit("Resize", x, None, m.constant(scales), **attributes)
        return
    sizes = (*x.shape[:2], m.integer(1, 12), m.integer(1, 12))
    m.emit("Resize", x, None, None, m.ints(*sizes), **attributes)


def _slice(m: RandomModel) -> None:
    x = m.value(2, 3, 4)
    axis = m.integer(0, x.rank - 1)
    size = x.shape[axis]
    start, stop = m.integer(0, size - 1), m.integer(1, size)
    step = m.pick((1, 1, 2, 3))
    if m.chance(0.15):
        start, stop, step = -1, -size - 1, -step
    m.emit("Slice", x, m.ints(start), m.ints(stop), m.ints(axis), m.ints(step))


def _transpose(m: RandomModel) -> None:
    x = m.value(2, 3, 4)
    m.emit("Transpose", x, perm=[int(a) for a in m.random.permutation(x.rank)])


def _shuffle(m: RandomModel) -> None:
    """A channel shuffle."""
    x = m.value(4)
    batch, channels, height, width = x.shape
    groups = m.pick([g for g in range(2, channels) if channels % g == 0])
    y = m.emit("Reshape", x, m.ints(batch, groups, channels // groups, height, width))
    y = m.emit("Transpose", y, perm=[0, 2, 1, 3, 4])
    m.emit("Reshape", y, m.ints(*x.shape))


def _reshape(m: RandomModel) -> None:
    x = m.value(2, 3, 4, 5)
    kind = m.pick(("flat", "tokens", "split", "join"))
    if kind == "flat":
        m.emit("Flatten", x, axis=1)
    elif kind == "tokens" and x.rank == 4:
        y = m.emit("Reshape", x, m.ints(0, x.shape[1], -1))
        m.emit("Transpose", y, perm=[0, 2, 1])
    elif kind == "split" and x.rank in (2, 3):
        last = x.shape[-1]
        inner = m.pick([d for d in range(1, last + 1) if last % d == 0])
        m.emit("Reshape", x, m.ints(*x.shape[:-1], last // inner, inner))
    elif x.rank >= 3:
        m.emit("Reshape", x, m.ints(*x.shape[:-2], -1))
    else:
        raise Unfit


def _unsqueeze(m: RandomModel) -> None:
    x = m.value(2, 3, 4)
    ones = [axis for axis, size in enumerate(x.shape) if size == 1 and axis > 0]
    if ones and m.chance(0.6):
        m.emit("Squeeze", x, m.ints(m.pick(ones)))
    elif x.rank < 4:
        m.emit("Unsqueeze", x, m.ints(m.integer(1, x.rank)))
    else:
        raise Unfit


def _pad(m: RandomModel) -> None:
    x = m.value(3, 4)
    low = [0, *(m.integer(0, 2) for _ in x.shape[1:])]
    high = [0, *(m.integer(0, 2) for _ in x.shape[1:])]
    mode = m.pick(("constant", "constant", "edge", "reflect"))
    if mode == "reflect" and any(max(p) >= s for *p, s in zip(low, high, x.shape, strict=True)):
        raise Unfit
    m.emit("Pad", x, m.ints(*low, *high), mode=mode)


def _split(m: RandomModel) -> None:
    x = m.value(2, 3, 4)
    axis = m.integer(1, x.rank - 1)
    if x.shape[axis] < 2:
        raise Unfit
    first = m.integer(1, x.shape[axis] - 1)
    m.emit("Split", x, m.ints(first, x.shape[axis] - first), axis=axis, outputs=2)


def _gather(m: RandomModel) -> None:
    x = m.value(2, 3, 4)
    axis = m.integer(1, x.rank - 1)
    indices = [m.integer(-x.shape[axis], x.shape[axis] - 1) for _ in range(m.integer(1, 4))]
    m.emit("Gather", x, m.ints(*indices), axis=axis)


def _repeat(m: RandomModel) -> None:
    x = m.value(2, 3, 4)
    if m.chance(0.5):
        m.emit("Tile", x, m.ints(1, *(m.pick((1, 1, 2)) for _ in x.shape[1:])))
        return
    wanted = [m.pick((2, 3)) if s == 1 and i else s for i, s in enumerate(x.shape)]
    m.emit("Expand", x, m.ints(*wanted))


def _blocks(m: RandomModel) -> None:
    x = m.value(4)
    if m.chance(0.5):
        mode = m.pick(("DCR", "CRD"))
        if x.shape[1] % 4:
            raise Unfit
        m.emit("DepthToSpace", x, blocksize=2, mode=mode)
        return
    if x.shape[2] % 2 or x.shape[3] % 2:
        raise Unfit
    m.emit("SpaceToDepth", x, blocksize=2)


GROWERS: tuple[tuple[float, Grower], ...] = (
    (6, _conv),
    (1.5, _gemm),
    (2, _matmul),
    (1, _dynamic_matmul),
    (2, _activation),
    (2, _same_shapes),
    (2, _with_constant),
    (1, _gate),
    (1.5, _pool),
    (0.7, _global_pool),
    (0.7, _reduce_mean),
    (0.7, _softmax),
    (0.4, _layernorm),
    (1.2, _concat),
    (0.8, _resize),
    (0.8, _slice),
    (0.8, _transpose),
    (0.5, _shuffle),
    (1, _reshape),
    (0.5, _unsqueeze),
    (0.6, _pad),
    (0.5, _split),
    (0.3, _gather),
    (0.3, _repeat),
    (0.4, _blocks),
)
"""Steps with their weights."""

_STEPS = [step for _, step in GROWERS]
_SHARES = np.array([weight for weight, _ in GROWERS]) / sum(weight for weight, _ in GROWERS)
