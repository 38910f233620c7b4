"""Who asks, and whether a browser on another site made them ask."""

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from tandem.errors import Forbidden, SettingsError, Unauthenticated
from tandem.schemas import EVERYONE, Principal
from tandem.settings import ApiKey, Settings

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Authenticator:
    """Turns the Authorization header into a principal.

    Without keys everyone is the local admin; then only the Host and Origin checks of `LocalOnly` stand before the API.
    """

    def __init__(self, api_keys: Mapping[str, ApiKey]) -> None:
        # Digests have one length, so that a comparison tells nothing about a key, its length included.
        self._keys = [
            (_digest(key), Principal(user=who.user, groups=frozenset(who.groups), admin=who.admin))
            for key, who in api_keys.items()
        ]

    @property
    def single_user(self) -> bool:
        """Whether there are no keys."""
        return not self._keys

    def principal(self, authorization: str | None) -> Principal:
        """Returns whom the header stands for.

        Raises:
            Unauthenticated: There are keys, and the header carries none of them.
        """
        if self.single_user:
            return Principal(user="local", groups=frozenset({EVERYONE}), admin=True)
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Unauthenticated("This server needs an API key: send the header Authorization: Bearer KEY.")
        given, found = _digest(key.strip()), None
        for digest, principal in self._keys:  # all of them, so that the time does not tell which one matched
            if hmac.compare_digest(digest, given):
                found = principal
        if found is None:
            raise Unauthenticated("The API key is not known here: check it, or ask the operator for one.")
        return found


class LocalOnly:
    """Guards single-user mode, where reaching the server is all the authority one needs.

    A page on another site may resolve its own name to 127.0.0.1 (DNS rebinding) or post a form to it (CSRF). The first
    shows in the Host header, the second in Origin.
    """

    def __init__(self, settings: Settings) -> None:
        server = settings.server
        self._remote = settings.auth.single_user_remote
        self._public = urlsplit(server.public_url or "").netloc.lower()
        self._names = {"localhost", urlsplit(f"//{self._public}").hostname or ""} - {""}
        if not self._remote and not _loopback(server.host):
            raise SettingsError(
                f"Tandem has no API keys and would listen on {server.host!r}, where others could reach it as its "
                "admin. Set TANDEM_AUTH__API_KEYS, or TANDEM_SERVER__HOST=127.0.0.1, or, if the network is yours "
                "alone, TANDEM_AUTH__SINGLE_USER_REMOTE=true."
            )

    def check(self, method: str, host: str, origin: str | None, fetch_site: str | None) -> None:
        """Raises Forbidden for a request that another site's page may have made.

        Args:
            method: HTTP method.
            host: The Host header.
            origin: The Origin header, if any; `curl` and the openai client send none.
            fetch_site: The Sec-Fetch-Site header, if any.
        """
        if not self._known_host(host):
            raise Forbidden(
                f"The address {host!r} is not one of this server's: open it as http://127.0.0.1, "
                "or set TANDEM_SERVER__PUBLIC_URL to the address you use."
            )
        if method in SAFE_METHODS:
            return
        foreign = origin is not None and urlsplit(origin).netloc.lower() not in {host.lower(), self._public} - {""}
        if foreign or fetch_site == "cross-site":
            raise Forbidden("A page of another site may not change anything here; use Tandem's own page or an API key.")

    def _known_host(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        if name in self._names or _loopback(name):
            return True
        # An address or a name without a dot cannot be rebound by a stranger's DNS server.
        return self._remote and bool(name) and (_is_address(name) or "." not in name)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _loopback(name: str) -> bool:
    return name == "localhost" or (_is_address(name) and ipaddress.ip_address(name).is_loopback)


_bearer = HTTPBearer(auto_error=False, description="One of the server's API keys; none is needed in single-user mode.")


def current_principal(
    request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Principal:
    """The principal that the gate found before the body was read; the Bearer scheme is named for OpenAPI."""
    principal: Principal = request.state.principal
    return principal


def admin_principal(principal: Annotated[Principal, Depends(current_principal)]) -> Principal:
    """The principal, if it is an admin.

    Raises:
        Forbidden: It is not.
    """
    if not principal.admin:
        raise Forbidden(f"Only admins may do this, and {principal.user!r} is none: ask the operator.")
    return principal


CurrentUser = Annotated[Principal, Depends(current_principal)]
Admin = Annotated[Principal, Depends(admin_principal)]
