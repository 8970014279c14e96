"""The chat page: what it asks of a model, in this process or at an address, and the page over it (extra `ui`)."""
