"""API keys, their limits, and what each has used."""
