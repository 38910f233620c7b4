"""Every error Tandem raises on purpose.

    TandemError
    |- SettingsError          a setting is wrong
    |- InputError             the caller's request or file is wrong
    |  |- NotFound            the thing named does not exist (or may not be seen)
    |  |- DocumentError       one document cannot be ingested; carries a reason from REASONS
    |  `- ExampleError        one style example is refused
    |- Forbidden              the caller may not do this
    |- Busy                   too many requests, or another run holds the lock
    |- Unavailable            a part that is needed does not answer
    |  |- ModelUnavailable    vLLM is down or warming
    |  |- IndexUnavailable    Qdrant is down, or its folder is held by another process
    |  `- DatabaseUnavailable the state database is down
    `- AdapterError           an adapter is missing, broken or foreign

A message is a sentence for the person who reads it: what happened, with the value, and what to do next.
Third-party errors are mapped where the third party is called, with `raise ... from exc`.
"""

from typing import Literal, get_args

Reason = Literal[
    "unsupported",
    "encrypted",
    "no_text",
    "too_large",
    "timeout",
    "corrupt",
    "unreadable",
    "metadata",
    "conflict",
    "hostile",
]
REASONS: tuple[str, ...] = get_args(Reason)


class TandemError(Exception):
    """Base of all deliberate errors. `code` is machine-readable; `status` is the HTTP status it maps to.

    Attributes:
        degraded: Of an answer that this error broke off, what its receipt says; None for other errors.
    """

    code = "internal_error"
    status = 500
    degraded: str | None = None

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class SettingsError(TandemError):
    code = "invalid_settings"


class InputError(TandemError):
    code = "invalid_request"
    status = 400

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class NotFound(InputError):
    code = "not_found"
    status = 404


class DocumentError(InputError):
    """One document that cannot be ingested; the run goes on without it.

    Args:
        reason: One of `REASONS`.
        message: The sentence for the owner of the document.
    """

    code = "document_refused"
    status = 422

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


class ExampleError(InputError):
    code = "example_refused"
    status = 422


class Forbidden(TandemError):
    code = "forbidden"
    status = 403


class Unauthenticated(TandemError):
    code = "invalid_api_key"
    status = 401


class Busy(TandemError):
    code = "busy"
    status = 429
    retry_after = 2


class Unavailable(TandemError):
    code = "unavailable"
    status = 503
    retry_after = 5


class ModelUnavailable(Unavailable):
    code = "model_unavailable"


class IndexUnavailable(Unavailable):
    code = "index_unavailable"


class DatabaseUnavailable(Unavailable):
    code = "database_unavailable"


class AdapterError(TandemError):
    code = "adapter_error"
    status = 409


class Overtaken(AdapterError):
    """What was to be changed has been changed meanwhile, by somebody else."""
