"""Kernels for AArch64 in tests of the code generator: see :mod:`tests.emulation`."""

from __future__ import annotations

from tests.emulation.kernels import KernelRun, run_in_emulator, run_kernels
from tests.emulation.programs import LEAST_CPU, require_emulator

__all__ = ["LEAST_CPU", "KernelRun", "require_emulator", "run_in_emulator", "run_kernels"]
