"""Calibration: sample data, the streaming run of the float model, and what it measures."""

from __future__ import annotations
