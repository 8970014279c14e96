"""The load test: many requests to an OpenAI-compatible server, and how fast it answers them."""
