"""Asynchronous Redis clients, whose connections belong to the event loop that opened them."""

import asyncio
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary


class ClientPerLoop:
    """One client for every event loop that asks."""

    def __init__(self, open_client: Callable[[], Any]) -> None:
        self._open = open_client
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = WeakKeyDictionary()

    def client(self) -> Any:
        """The client of the running loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            self._clients[loop] = self._open()
        return self._clients[loop]

    async def close(self) -> None:
        """Closes the client of the running loop, if it has one."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()
