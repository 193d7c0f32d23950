"""Backends: a BackendConfig each, and the shared code generation."""
