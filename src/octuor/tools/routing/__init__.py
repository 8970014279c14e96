"""The Mixtral paper's analysis of routing, for any model and texts."""
