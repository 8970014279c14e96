"""Work on whole checkpoints: convert them, make random ones."""
