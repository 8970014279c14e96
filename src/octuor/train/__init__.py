"""Training from a recipe. Beside ops/torch.py, the only place that imports torch."""
