"""LSTM and GRU over float32 sequences (contracts 17 and 18).

The products with the input do not wait for one another: they are computed first, for as many steps
as ``AHEAD_BYTES`` holds, in tiles of rows and columns.  Then the steps follow one another.
Vector lanes are hidden units.  The units are cut into blocks of a few vectors; a block holds the
sums of all its gates in registers, multiplies the state with its weights, which lie side by side
in the order in which they are read, and goes on to the block's new state.  So every sum is one
chain of fused multiply-adds in ascending order, as the contracts want it.

Directions are independent: threads share them out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcc.backends.llvm.builder import (
    F32,
    Index,
    LoopBuilder,
    Value,
    constant,
    declare_kernel,
    vector,
)
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels import Packed
from qcc.backends.llvm.kernels.curves import tanh
from qcc.backends.llvm.kernels.exponential import nan_where_unordered, side_by_side, sigmoid
from qcc.backends.llvm.kernels.lanes import fused_multiply_add, load_floats, store_floats
from qcc.backends.llvm.kernels.recurrent_plan import Block, Plan
from qcc.errors import ConfigError
from qcc.ref.recurrent import Recurrence


@dataclass(frozen=True)
class RecurrentKernel:
    """All steps of an LSTM or GRU in all its directions.

    ``states`` says whether initial states are given (else they are 0), ``outputs`` which of ``y``,
    ``h`` and ``c`` are wanted.  ``wanted`` are the first steps of each direction (in its own order
    of time) that are computed; the rest of ``y`` is not written.  Empty: all.

    Operands: ``x`` [T, B, I], ``initial_h`` and ``initial_c`` [D, B, H], ``weights``, ``hidden``
    and ``bias`` as :meth:`pack` lays them out, ``output_scratch`` (:meth:`scratch_bytes`),
    ``output_y`` [T, D, B, H], ``output_h`` and ``output_c`` [D, B, H].
    """

    sizes: Recurrence
    states: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ("y",)
    wanted: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.wanted and len(self.wanted) != len(self.sizes.backward):
            raise ConfigError("Every direction needs its number of steps.")
        if self.wanted and self.outputs != ("y",):
            raise ConfigError("The last states need all steps.")
        sizes = self.sizes
        if min(sizes.steps, sizes.batch, sizes.inputs, sizes.hidden) < 1:
            raise ConfigError(f"{sizes.kind} needs steps, a batch, inputs and hidden units.")
        known = {"h", "c"} if sizes.kind == "LSTM" else {"h"}
        if not set(self.states) <= known or not set(self.outputs) <= known | {"y"}:
            raise ConfigError(f"{sizes.kind} has no such state: {self.states}, {self.outputs}.")

    @property
    def name(self) -> str:
        """Such as ``gru_28x1x128_64_bidirectional``."""
        sizes = self.sizes
        way = "bidirectional" if len(sizes.backward) > 1 else ""
        way = way or ("reverse" if sizes.backward[0] else "")
        stem = f"{sizes.kind.lower()}_{sizes.steps}x{sizes.batch}x{sizes.inputs}_{sizes.hidden}"
        cut = "_".join(map(str, self.wanted))
        return "_".join(part for part in (stem, way, cut) if part)

    @property
    def operands(self) -> tuple[str, ...]:
        """Pointer parameters in order."""
        initial = tuple(f"initial_{name}" for name in self.states)
        results = tuple(f"output_{name}" for name in self.outputs)
        return ("x", *initial, "weights", "hidden", "bias", "output_scratch", *results)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one call."""
        sizes = self.sizes
        rows = sum(self.wanted or [sizes.steps] * len(sizes.backward)) * sizes.batch
        return rows * sizes.gates * sizes.hidden * (sizes.inputs + sizes.hidden)

    def scratch_bytes(self, isa: InstructionSet) -> int:
        """Bytes of the operand ``output_scratch``."""
        return Plan(self.sizes, isa).scratch * len(self.sizes.backward)

    def pack(
        self,
        isa: InstructionSet,
        *,
        weights: NDArray[Any],
        hidden: NDArray[Any],
        bias: NDArray[Any] | None,
    ) -> Packed:
        """ONNX's ``W`` [D, G H, I], ``R`` [D, G H, H] and ``B`` [D, 2 G H] (None: zeros)."""
        sizes, plan = self.sizes, Plan(self.sizes, isa)
        count = sizes.gates * sizes.hidden
        if bias is None:
            bias = np.zeros((len(sizes.backward), 2 * count), np.float32)
        packed: dict[str, list[NDArray[np.float32]]] = {"weights": [], "hidden": [], "bias": []}
        for d in range(len(sizes.backward)):
            outer, inner = np.asarray(bias[d, :count]), np.asarray(bias[d, count:])
            start, after = outer + inner, np.zeros(0, np.float32)
            if sizes.reset_after:
                start[-sizes.hidden :] = outer[-sizes.hidden :]
                after = plan.columns(inner[-sizes.hidden :, None], 1).ravel()
            packed["weights"].append(plan.input_panels(np.asarray(weights[d])))
            packed["hidden"].append(plan.hidden_panels(np.asarray(hidden[d])))
            packed["bias"] += [plan.columns(start[:, None], sizes.gates).ravel(), after]
        return {name: np.concatenate(p).view(np.uint8) for name, p in packed.items()}

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        """Add the kernel's function; threads share out the directions."""
        return _Writer(self, isa, declare_kernel(module, symbol, self.operands)).write()


class _Writer:
    """The code of one kernel."""

    def __init__(self, kernel: RecurrentKernel, isa: InstructionSet, function: Any) -> None:
        self.kernel, self.isa, self.sizes = kernel, isa, kernel.sizes
        self.plan = Plan(kernel.sizes, isa)
        self.k = LoopBuilder(function)
        self.type = vector(F32, isa.lanes)

    def write(self) -> Any:
        """All directions of this thread."""
        begin, end = self.k.thread_range(len(self.sizes.backward))
        self.k.loop(begin, end, self._direction, name="direction")
        return self.k.finish()

    # -- one direction ----------------------------------------------------------------------------

    def _direction(self, d: Value) -> None:
        k, sizes, plan = self.k, self.sizes, self.plan
        units = plan.padded * sizes.hidden * sizes.gates
        self.weights = k.at(k.operand("weights"), k.mul(d, 4 * plan.width * sizes.inputs))
        self.hidden = k.at(k.operand("hidden"), k.mul(d, 4 * units))
        after = plan.padded if sizes.reset_after else 0
        self.bias = k.at(k.operand("bias"), k.mul(d, 4 * (plan.width + after)))
        self.ahead = k.at(k.operand("output_scratch"), k.mul(d, plan.scratch))
        states = k.at(self.ahead, plan.ahead)
        self.state, self.cell, self.update, self.reset = (
            k.at(states, n * plan.state) for n in (0, 2, 3, 4)
        )
        self._begin(d)
        # Time runs from ``start`` in steps of 1 or -1.
        back: Index = d if len(sizes.backward) > 1 else int(sizes.backward[0])
        start, towards = k.mul(back, sizes.steps - 1), k.sub(1, k.mul(back, 2))
        steps = self._steps(d)

        def chunk(first: Index) -> None:
            last = k.minimum(k.add(first, plan.chunk), steps)
            count = k.sub(last, first)
            edges = [k.add(start, k.mul(towards, i)) for i in (first, k.sub(last, 1))]
            earliest = k.minimum(*edges)
            self._project(earliest, k.mul(count, sizes.batch))

            def step(index: Value) -> None:
                time = k.add(start, k.mul(towards, index))
                self._step(d, index, time, k.sub(time, earliest))

            k.loop(first, last, step, name="step")

        k.loop(0, steps, chunk, step=plan.chunk, name="chunk")
        self._end(d)

    def _steps(self, d: Value) -> Index:
        """The steps that direction ``d`` computes."""
        k, wanted = self.k, self.kernel.wanted
        if not wanted or len(set(wanted)) == 1:
            return wanted[0] if wanted else self.sizes.steps
        first, second = wanted
        return k.add(first, k.mul(d, second - first))

    def _begin(self, d: Index) -> None:
        """The states before the first step."""
        for name, target in (("h", self.state), ("c", self.cell)):
            self._zero(target)
            if name in self.kernel.states:
                source = self.k.at(self.k.operand(f"initial_{name}"), self._items(d))
                self._copy(source, 4 * self.sizes.hidden, target, 4 * self.plan.padded)

    def _end(self, d: Index) -> None:
        """The states after the last step."""
        last = self.k.at(self.state, self.sizes.steps % 2 * self.plan.state)
        for name, source in (("h", last), ("c", self.cell)):
            if name in self.kernel.outputs:
                target = self.k.at(self.k.operand(f"output_{name}"), self._items(d))
                self._copy(source, 4 * self.plan.padded, target, 4 * self.sizes.hidden)

    def _items(self, d: Index) -> Index:
        return self.k.mul(d, 4 * self.sizes.batch * self.sizes.hidden)

    def _zero(self, target: Value) -> None:
        k, size = self.k, self.isa.vector_bytes
        zero = constant(self.type, 0.0)
        k.loop(0, self.plan.state, lambda at: k.store(zero, target, at), step=size, name="zero")

    def _copy(self, source: Value, pitch: int, target: Value, target_pitch: int) -> None:
        """The units of every item of the batch."""
        k, isa, hidden = self.k, self.isa, self.sizes.hidden
        whole = hidden // isa.lanes * isa.lanes

        def item(b: Index) -> None:
            a, z = k.at(source, k.mul(b, pitch)), k.at(target, k.mul(b, target_pitch))

            def some(first: Index, count: int) -> None:
                place = k.mul(first, 4)
                store_floats(k, load_floats(k, isa, a, place, count), z, place, count)

            k.loop(0, whole, lambda i: some(i, isa.lanes), step=isa.lanes, name="units")
            if hidden > whole:
                some(whole, hidden - whole)

        k.loop(0, self.sizes.batch, item, name="item")

    # -- the products of the input ----------------------------------------------------------------

    def _project(self, time: Index, rows: Index) -> None:
        """``rows`` rows of the input from ``time`` on, multiplied with all weights."""
        k, plan, sizes = self.k, self.plan, self.sizes
        x = k.at(k.operand("x"), k.mul(time, 4 * sizes.batch * sizes.inputs))
        whole = k.mul(k.div(rows, plan.tile_rows), plan.tile_rows)
        step, vectors = plan.tile_vectors, plan.width // plan.lanes
        full = vectors // step * step

        def panel(first: Index, count: int) -> None:
            weights = k.at(self.weights, k.mul(first, 4 * plan.lanes * sizes.inputs))
            place = k.mul(first, self.isa.vector_bytes)

            def tile(row: Index, height: int) -> None:
                source = k.at(x, k.mul(row, 4 * sizes.inputs))
                target = k.at(k.at(self.ahead, place), k.mul(row, 4 * plan.width))
                self._tile(source, weights, k.at(self.bias, place), target, height, count)

            k.loop(0, whole, lambda row: tile(row, plan.tile_rows), step=plan.tile_rows)
            if plan.tile_rows > 1:
                k.loop(whole, rows, lambda row: tile(row, 1))

        k.loop(0, full, lambda first: panel(first, step), step=step, name="panel")
        if vectors > full:
            panel(full, vectors - full)

    def _tile(
        self, x: Value, weights: Value, bias: Value, target: Value, height: int, vectors: int
    ) -> None:
        k, size = self.k, self.isa.vector_bytes
        start = [k.load(self.type, bias, v * size) for v in range(vectors)]

        def step(index: Index, *sums: Value) -> list[Value]:
            place = k.mul(index, vectors * size)
            columns = [k.load(self.type, weights, k.add(place, v * size)) for v in range(vectors)]
            result = []
            for i in range(height):
                at = k.add(k.mul(index, 4), 4 * i * self.sizes.inputs)
                one = k.splat(k.load(F32, x, at, align=4), self.isa.lanes)
                for v, column in enumerate(columns):
                    result.append(fused_multiply_add(k, one, column, sums[i * vectors + v]))
            return result

        sums = k.loop(0, self.sizes.inputs, step, carried=start * height, name="inputs")
        for i in range(height):
            for v in range(vectors):
                place = 4 * i * self.plan.width + v * size
                k.store(sums[i * vectors + v], target, place)

    # -- one step ---------------------------------------------------------------------------------

    def _step(self, d: Index, index: Value, time: Index, row: Index) -> None:
        """All units, from the state of ``index % 2`` to the other one."""
        k, sizes, plan = self.k, self.sizes, self.plan
        odd = k.mod(index, 2)
        self.before = k.at(self.state, k.mul(odd, plan.state))
        self.now = k.at(self.state, k.mul(k.sub(1, odd), plan.state))
        self.row = k.at(self.ahead, k.mul(row, 4 * plan.width * sizes.batch))
        self.y: Value | None = None
        if "y" in self.kernel.outputs:
            item = k.add(k.mul(time, len(sizes.backward)), d)
            self.y = k.at(k.operand("output_y"), self._items(item))
        updates: dict[str, Sequence[Callable[[Block, Index], None]]] = {
            "LSTM": (self._lstm,),
            "GRU": (self._gru,) if sizes.reset_after else (self._gates, self._candidate),
        }
        for update in updates[sizes.kind]:
            self._each_block(update)

    def _each_block(self, update: Callable[[Block, Index], None]) -> None:
        k, plan = self.k, self.plan
        units = plan.block * plan.lanes

        def block(chosen: Block) -> None:
            k.loop(0, self.sizes.batch, lambda b: update(chosen, b), name="item")

        def whole(i: Index) -> None:
            block(Block(i, k.mul(i, units), plan.block, units))

        k.loop(0, plan.whole, whole, name="block")
        if plan.rest:
            first = plan.whole * units
            block(Block(plan.whole, first, plan.rest, self.sizes.hidden - first))

    def _starts(self, block: Block, b: Index, gates: range) -> list[Value]:
        """What the input gives for some gates, gate by gate."""
        k, plan = self.k, self.plan
        place = k.add(k.mul(b, 4 * plan.width), k.mul(block.first, 4 * self.sizes.gates))
        size = self.isa.vector_bytes
        return [
            k.load(self.type, self.row, k.add(place, (gate * block.vectors + v) * size))
            for gate in gates
            for v in range(block.vectors)
        ]

    def _sums(
        self, block: Block, b: Index, phase: int, state: Value, starts: list[Value]
    ) -> list[list[Value]]:
        """``starts`` and the products of the state with a phase's weights, gate by gate."""
        k, plan, hidden = self.k, self.plan, self.sizes.hidden
        gates, size = plan.phases[phase], self.isa.vector_bytes
        skipped = 4 * plan.padded * hidden * sum(plan.phases[:phase])
        panel = k.at(self.hidden, k.add(skipped, k.mul(block.first, 4 * gates * hidden)))
        source = k.at(state, k.mul(b, 4 * plan.padded))
        count = gates * block.vectors

        def step(index: Index, *sums: Value) -> list[Value]:
            one = k.splat(k.load(F32, source, k.mul(index, 4), align=4), self.isa.lanes)
            place = k.mul(index, count * size)
            columns = [k.load(self.type, panel, k.add(place, n * size)) for n in range(count)]
            return [
                fused_multiply_add(k, one, column, sum_)
                for column, sum_ in zip(columns, sums, strict=True)
            ]

        sums = k.loop(0, hidden, step, carried=starts, name="state")
        return [sums[g * block.vectors : (g + 1) * block.vectors] for g in range(gates)]

    def _open(self, gates: Sequence[Sequence[Value]]) -> list[list[Value]]:
        """Sigmoids of the sums of some gates."""
        width = len(gates[0])
        flat = side_by_side(self.k, [value for gate in gates for value in gate], sigmoid)
        return [flat[i : i + width] for i in range(0, len(flat), width)]

    def _load(self, place: Value, block: Block, b: Index) -> list[Value]:
        """A block of a state in the scratch memory."""
        k, size = self.k, self.isa.vector_bytes
        at = k.add(k.mul(b, 4 * self.plan.padded), k.mul(block.first, 4))
        return [k.load(self.type, place, k.add(at, v * size)) for v in range(block.vectors)]

    def _store(self, values: Sequence[Value], place: Value, block: Block, b: Index) -> None:
        k, size = self.k, self.isa.vector_bytes
        at = k.add(k.mul(b, 4 * self.plan.padded), k.mul(block.first, 4))
        for v, value in enumerate(values):
            k.store(value, place, k.add(at, v * size))

    def _new_state(self, values: list[Value], block: Block, b: Index) -> None:
        k = self.k
        values = [nan_where_unordered(k, value, value) for value in values]
        self._store(values, self.now, block, b)
        if self.y is not None:
            place = k.add(k.mul(b, 4 * self.sizes.hidden), k.mul(block.first, 4))
            store_floats(k, values, self.y, place, block.valid)

    def _lstm(self, block: Block, b: Index) -> None:
        k = self.k
        starts = self._starts(block, b, range(4))
        *gates, candidate = self._sums(block, b, 0, self.before, starts)
        entering, leaving, kept = self._open(gates)
        news = side_by_side(k, candidate, tanh)
        cells = []
        old = self._load(self.cell, block, b)
        for i, f, g, c in zip(entering, kept, news, old, strict=True):
            cell = fused_multiply_add(k, f, c, k.ir.fmul(i, g))
            cells.append(nan_where_unordered(k, cell, cell))
        self._store(cells, self.cell, block, b)
        bounded = side_by_side(k, cells, tanh)
        self._new_state([k.ir.fmul(o, c) for o, c in zip(leaving, bounded, strict=True)], block, b)

    def _gru(self, block: Block, b: Index) -> None:
        """The reset gate after the product: all three products at once."""
        k, size = self.k, self.isa.vector_bytes
        starts, ahead = self._starts(block, b, range(2)), self._starts(block, b, range(2, 3))
        place = k.add(4 * self.plan.width, k.mul(block.first, 4))
        starts += [
            k.load(self.type, self.bias, k.add(place, v * size)) for v in range(block.vectors)
        ]
        *gates, product = self._sums(block, b, 0, self.before, starts)
        update, reset = self._open(gates)
        sums = [
            fused_multiply_add(k, r, p, a) for r, p, a in zip(reset, product, ahead, strict=True)
        ]
        self._mix(update, sums, block, b)

    def _gates(self, block: Block, b: Index) -> None:
        """Update gates, and the state behind the reset gates."""
        k = self.k
        sums = self._sums(block, b, 0, self.before, self._starts(block, b, range(2)))
        update, reset = self._open(sums)
        self._store(update, self.update, block, b)
        old = self._load(self.before, block, b)
        self._store(
            [k.ir.fmul(r, h) for r, h in zip(reset, old, strict=True)], self.reset, block, b
        )

    def _candidate(self, block: Block, b: Index) -> None:
        starts = self._starts(block, b, range(2, 3))
        (sums,) = self._sums(block, b, 1, self.reset, starts)
        self._mix(self._load(self.update, block, b), sums, block, b)

    def _mix(self, update: list[Value], sums: list[Value], block: Block, b: Index) -> None:
        """``z h + (1 - z) tanh(sums)``."""
        k, one = self.k, constant(self.type, 1.0)
        news, old = side_by_side(k, sums, tanh), self._load(self.before, block, b)
        values = [
            fused_multiply_add(k, z, h, k.ir.fmul(k.ir.fsub(one, z), g))
            for z, h, g in zip(update, old, news, strict=True)
        ]
        self._new_state(values, block, b)
