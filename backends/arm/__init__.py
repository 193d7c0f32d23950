"""The ARM backend."""
