"""The running server, as commands see it."""

import json
from collections.abc import Iterator
from typing import Any

import httpx

from services.address import read_address
from tandem.errors import InputError, TandemError, Unavailable
from tandem.settings import Settings


class ServerError(TandemError):
    """The server refused; its own sentence is the message."""

    code = "server_error"


class Server:
    """Speaks HTTP to a running Tandem.

    Args:
        url: Its address, without a path.
        key: API key, where the server wants one.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(base_url=self.url, headers=headers, timeout=httpx.Timeout(600.0, connect=3.0))

    def alive(self) -> bool:
        """Whether a Tandem answers at the address."""
        try:
            response = self._client.get("/healthz", timeout=3.0)
            return response.status_code == 200 and response.json().get("service") == "tandem"
        except (httpx.HTTPError, ValueError):
            return False

    def get(self, path: str, **params: Any) -> Any:
        return self._call("GET", path, params=params)

    def post(self, path: str, body: Any = None) -> Any:
        return self._call("POST", path, json=body if body is not None else {})

    def delete(self, path: str) -> Any:
        return self._call("DELETE", path)

    def stream(self, path: str, body: Any) -> Iterator[dict[str, Any]]:
        """Events of an answer, parsed; ends at `[DONE]`."""
        yield from self._events("POST", path, json=body)

    def events(self, path: str) -> Iterator[dict[str, Any]]:
        """Events of a stream that only reads."""
        yield from self._events("GET", path)

    def _events(self, method: str, path: str, **arguments: Any) -> Iterator[dict[str, Any]]:
        try:
            with self._client.stream(method, path, **arguments) as response:
                if response.status_code >= 400:
                    response.read()
                    raise _refusal(response)
                for line in response.iter_lines():
                    if line.startswith("data: ") and line != "data: [DONE]":
                        event = json.loads(line[6:])
                        if "error" in event:
                            raise ServerError(str(event["error"].get("message", event["error"])))
                        yield event
        except httpx.HTTPError as exc:
            raise _gone(self.url, exc) from exc

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        try:
            response = self._client.request(method, path, **arguments)
        except httpx.HTTPError as exc:
            raise _gone(self.url, exc) from exc
        if response.status_code >= 400:
            raise _refusal(response)
        return response.json() if response.content else None


def running_server(settings: Settings, *, data_dir_given: bool) -> Server | None:
    """Finds the server that commands should speak to.

    The one that runs on the data directory is asked first. Without `--data-dir`, the one at `TANDEM_URL` comes next.
    """
    key = settings.api_key.get_secret_value() if settings.api_key else None
    urls: list[str] = []
    written = read_address(settings.data_dir)
    if written:
        urls.append(written)
    if not data_dir_given:
        urls.append(settings.url)
    for url in urls:
        server = Server(url, key)
        if server.alive():
            return server
    return None


def need_server(settings: Settings, *, data_dir_given: bool, command: str) -> Server:
    """As `running_server`, but a missing server is an error that says what to do."""
    server = running_server(settings, data_dir_given=data_dir_given)
    if server is None:
        raise Unavailable(
            f"No Tandem server answers at {settings.url}, and `tandem {command}` needs one. "
            "Start it with `tandem up` (or `make up`), or name another with TANDEM_URL."
        )
    return server


def _gone(url: str, exc: Exception) -> Unavailable:
    return Unavailable(
        f"The Tandem server at {url} does not answer: {exc or type(exc).__name__}. Is `tandem up` running?"
    )


def _refusal(response: httpx.Response) -> TandemError:
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"The server answered with status {response.status_code}: {response.text[:200]!r}."
    return InputError(message) if response.status_code in (400, 404, 413, 422) else ServerError(message)
