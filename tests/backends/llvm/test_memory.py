"""The memory plan: buffers alive at the same time never share bytes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.backends.llvm.memory import ALIGNMENT, Lifetime, plan_memory


def test_a_chain_reuses_two_places() -> None:
    chain = [Lifetime(str(i), 640, i, i + 1) for i in range(10)]
    assert plan_memory(chain).size == 2 * 640


def test_the_smallest_gap_that_fits_is_taken() -> None:
    buffers = [
        Lifetime("large", 1024, 0, 9),
        Lifetime("middle", 512, 0, 4),
        Lifetime("last", 256, 0, 9),
        Lifetime("late", 512, 5, 9),
    ]
    plan = plan_memory(buffers)
    assert plan.offsets["late"] == plan.offsets["middle"]
    assert plan.size == 1024 + 512 + 256


def test_offsets_begin_after_the_base() -> None:
    assert plan_memory([Lifetime("a", 1, 0, 0)], base=512).offsets == {"a": 512}
    assert plan_memory([], base=512).size == 512


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 20), st.integers(0, 20)), max_size=30)
)
def test_lifetimes_that_overlap_are_disjoint(rows: list[tuple[int, int, int]]) -> None:
    buffers = [Lifetime(str(i), size, min(a, b), max(a, b)) for i, (size, a, b) in enumerate(rows)]
    plan = plan_memory(buffers)
    for one in buffers:
        begin = plan.offsets[one.name]
        assert begin % ALIGNMENT == 0
        assert begin + one.size <= plan.size
        for other in buffers:
            if other is not one and one.overlaps(other):
                start = plan.offsets[other.name]
                assert begin + one.size <= start or start + other.size <= begin
