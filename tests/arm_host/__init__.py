"""qcc itself on an emulated ARM machine (``tools/arm_host.py``)."""
