"""Octuor inside other libraries, a package each; imported by nothing else here."""
