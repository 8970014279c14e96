"""Evaluations that are ours, a module each; registry.py lists them."""
