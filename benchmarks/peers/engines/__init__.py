"""Engines that can be measured: base.py says what one is, registry.py lists those that are packages."""
