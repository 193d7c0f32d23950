"""Selectors: for each op, which kernels compute a node and where their operands lie."""
