"""The x86 backend."""
