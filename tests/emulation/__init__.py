"""Code for AArch64 run on this machine: linked by a cross compiler, executed by qemu."""
