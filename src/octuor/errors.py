"""Every exception that bad input can raise. Messages are one line: expected, found, where, what to do.

    OctuorError
    ├── ConfigError        a model or recipe description that cannot be right
    ├── CheckpointError    files: missing, truncated, of an unknown kind, no room to write
    ├── ShapeError         an array whose shape or dtype does not fit its place
    ├── FormatError        a number format that is unknown or cannot be used here
    ├── TokenizerError     a tokenizer file or a conversation that cannot be encoded
    ├── RequestError       parameters, prompts or token ids outside what the model takes
    ├── CapacityError      the key/value cache is full or has let go of what was asked for
    ├── OverloadError      a server with a full queue, or one that is about to stop
    ├── EngineError        a fault of ours while answering: a bug, which ends one request and not the server
    ├── GrammarError       a schema, expression or tool list that answers cannot be held to
    ├── AccountError       a key that is unknown, expired or beyond its limits
    ├── UiError            a line for the reader of the chat page
    └── BackendError       an instruction set, library or device that is not there

The command line prints the message alone and exits 1; a traceback means a bug in Octuor.
"""

from typing import Literal

AccountErrorKind = Literal["invalid", "expired", "revoked", "model_not_allowed", "rate_limited", "state"]


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


class OverloadError(OctuorError):
    """A full queue, or a server that is about to stop; is_draining tells which.

    retry_after_s  when to try again
    """

    def __init__(self, message: str, *, retry_after_s: float = 1.0, is_draining: bool = False) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.is_draining = is_draining


class EngineError(OctuorError):
    """An answer that failed for a reason of ours; the log has the traceback."""


class GrammarError(OctuorError):
    """A JSON schema, regular expression or list of tools that answers cannot be held to."""


class AccountError(OctuorError):
    """An API key that does not exist or may not do what was asked, or accounts that cannot be read or written.

    kind           "invalid": no key, or none that was ever made; "expired" and "revoked": a key that once was good;
                   "model_not_allowed"; "rate_limited"; "state": nothing a caller did, but the operator's to mend,
                   such as a damaged database, a full disk or a name that is taken
    retry_after_s  when the same request can pass; set where kind is "rate_limited", else None
    """

    def __init__(self, message: str, *, kind: AccountErrorKind, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.retry_after_s = retry_after_s


class UiError(OctuorError):
    """Something that the chat page cannot do, in one line for whoever reads the page."""


class BackendError(OctuorError):
    """An instruction set, library or device that this machine does not have."""
