"""API keys, their limits, and what each has used: one SQLite database under OCTUOR_HOME, shared by all processes.

A server opens `Accounts`; every request goes through

    key = accounts.authenticate(secret)                       # who is it?
    admission = accounts.admit(key, model, prompt_tokens)     # may it, now?
    ...                                                       # the answer, but for its last byte
    await asyncio.wrap_future(admission.finish(completion_tokens=n))  # accounted for, on disk

and each of the first two raises AccountError with a `kind` that says why not. The command line opens a `Store`.
"""

from octuor.accounts.database import default_home
from octuor.accounts.keys import LOCAL, Key
from octuor.accounts.service import Accounts, Admission, Clock, open_accounts
from octuor.accounts.store import Outcome, Store, UsageRow, open_store

__all__ = [
    "LOCAL",
    "Accounts",
    "Admission",
    "Clock",
    "Key",
    "Outcome",
    "Store",
    "UsageRow",
    "default_home",
    "open_accounts",
    "open_store",
]
