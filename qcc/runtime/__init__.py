"""Executable, artifact file and threads."""
