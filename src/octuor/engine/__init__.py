"""Many answers at once: continuous batching over the flat token axis."""
