"""Connections on which no request comes are closed: each of them takes one of those that there may be."""

from typing import Any


def prompt(seconds: float) -> type:
    """Return uvicorn's protocol of a connection, which is closed where the head of a request takes longer than
    `seconds`.

    uvicorn counts connections and refuses those beyond its limit, and waits without end for the first bytes of a
    request: as many clients as there may be, each of which sends nothing, would keep everybody else out.
    """
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    class Prompt(AutoHTTPProtocol):  # type: ignore[misc]
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.loop.call_later(seconds, self._look, None)

        def _look(self, before: Any) -> None:
            """Close the connection where a request has begun, or none has yet, and its head did not come since."""
            if self.transport.is_closing():
                return
            between = self.cycle is None or (self.cycle.response_complete and self.timeout_keep_alive_task is None)
            if between and self.cycle is before:
                self.transport.close()
            else:
                self.loop.call_later(seconds, self._look, self.cycle)

    return Prompt
