"""The AArch64 backends."""
