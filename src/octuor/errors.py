"""Every exception that bad input can raise. Messages are one line: expected, found, where, what to do.

    OctuorError
    ├── ConfigError        a model or recipe description that cannot be right
    ├── CheckpointError    files: missing, truncated, of an unknown kind, no room to write
    ├── ShapeError         an array whose shape or dtype does not fit its place
    ├── FormatError        a number format that is unknown or cannot be used here
    ├── TokenizerError     a tokenizer file or a conversation that cannot be encoded
    ├── RequestError       parameters, prompts or token ids outside what the model takes
    ├── CapacityError      the key/value cache is full or has let go of what was asked for
    └── BackendError       an instruction set, library or device that is not there

The command line prints the message alone and exits 1; a traceback means a bug in Octuor.
"""


class OctuorError(Exception):
    """Base of all errors that a user can cause and mend."""


class ConfigError(OctuorError):
    """A model or recipe description with a missing, unknown or impossible field."""


class CheckpointError(OctuorError):
    """A checkpoint that cannot be read or written as it is."""


class ShapeError(OctuorError):
    """An array with another shape or dtype than its place needs."""


class FormatError(OctuorError):
    """A number format that is unknown or cannot be used where it was asked for."""


class TokenizerError(OctuorError):
    """A tokenizer file that cannot be read, or text and messages it cannot encode."""


class RequestError(OctuorError):
    """A prompt, token id or sampling parameter outside what the model takes."""


class CapacityError(OctuorError):
    """The key/value cache has no room, or no longer holds the positions asked for."""


class BackendError(OctuorError):
    """An instruction set, library or device that this machine does not have."""
