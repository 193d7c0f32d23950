"""What ``tools/bench.py`` is made of: nets, engines, workers that take turns, tables."""
