"""Packing to a budget: measure what rounding costs where, choose formats, write, report."""
