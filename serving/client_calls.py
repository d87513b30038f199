"""One HTTP connection of a client, with the service's refusals as errors."""

from typing import Any

import httpx

from core.errors import InputError, StoreUnavailableError
from serving.security import KEY_HEADER


class Calls:
    """Sends requests. Raises InputError for a refused one, StoreUnavailableError for a service without answer."""

    def __init__(self, base_url: str, api_key: str | None = None, timeout_seconds: float = 5.0) -> None:
        headers = {KEY_HEADER: api_key} if api_key else {}
        self._http = httpx.Client(base_url=base_url, headers=headers, timeout=timeout_seconds)

    def close(self) -> None:
        """Closes the connection."""
        self._http.close()

    def _call(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        query: dict[str, Any] | None = None,
        key: str | None = None,
    ) -> Any:
        """The JSON of the reply, None where it has no body."""
        params = {name: value for name, value in (query or {}).items() if value is not None}
        headers = {"Idempotency-Key": key} if key else {}
        reply = self._send(method, path, json=body, params=params, headers=headers)
        return reply.json() if reply.content else None

    def _send(self, method: str, path: str, **given: Any) -> httpx.Response:
        try:
            reply = self._http.request(method, path, **given)
        except httpx.HTTPError as error:
            raise StoreUnavailableError(f"{self._http.base_url} does not answer: {error}") from error
        return _checked(method, path, reply)

    def _lines(self, path: str, query: dict[str, Any]) -> Any:
        """Lines of a streamed reply, as they come."""
        try:
            with self._http.stream("GET", path, params=query) as reply:
                if reply.status_code >= 400:
                    reply.read()
                _checked("GET", path, reply)
                yield from reply.iter_lines()
        except httpx.HTTPError as error:
            raise StoreUnavailableError(f"{self._http.base_url} does not answer: {error}") from error


def _checked(method: str, path: str, reply: httpx.Response) -> httpx.Response:
    if reply.status_code >= 500:
        raise StoreUnavailableError(f"{method} {path} answered {reply.status_code}; try again later")
    if reply.status_code >= 400:
        raise InputError(f"{method} {path} was refused with {reply.status_code}: {reply.text[:500]}")
    return reply
