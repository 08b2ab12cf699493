"""Connections on which no request comes are closed: each of them takes one of those that there may be."""

from typing import Any


def prompt(seconds: float) -> type:
    """Return uvicorn's protocol of a connection, which is closed where the head of a request takes longer than
    `seconds`, or at the latest twice as long on a connection that has had one before.

    uvicorn counts connections and refuses those beyond its limit, and waits without end for the first bytes of a
    request: as many clients as there may be, each of which sends nothing, would keep everybody else out.
    """
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    class Prompt(AutoHTTPProtocol):  # type: ignore[misc]
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.loop.call_later(seconds, self._look, self._awaited())

        def _awaited(self) -> Any:
            """Return what came before the head that is awaited; None where none is."""
            if self.cycle is None:
                return self
            return self.cycle if self.cycle.response_complete and self.timeout_keep_alive_task is None else None

        def _look(self, before: Any) -> None:
            """Close the connection where a head was awaited at the last look, and is still."""
            if self.transport.is_closing():
                return
            awaited = self._awaited()
            if awaited is not None and awaited is before:
                self.transport.close()
            else:
                self.loop.call_later(seconds, self._look, awaited)

    return Prompt
