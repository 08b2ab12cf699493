"""How a service runs."""

from dataclasses import dataclass

from qwafer._checks import check_interval, check_positive_int, plain_numbers
from qwafer._errors import InputError

LOCAL = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class ServeOptions:
    """How a service runs, and what it refuses."""

    host: str = "127.0.0.1"
    """Address that it listens on; any other than this machine's own asks for a token."""
    port: int = 8000
    """Port; 0: any that is free."""
    token: str = ""
    """What clients send as `Authorization: Bearer TOKEN`; empty: none is asked for."""
    name: str = "qwafer"
    """Name of the model in the Open Inference Protocol."""
    largest_body: int = 8 << 20
    """Bytes of a request (413 beyond)."""
    most_maps: int = 256
    """Maps of a request (413 beyond)."""
    queue: int = 1024
    """Maps that wait (503 with Retry-After beyond)."""
    rate: float = 0.0
    """Requests per second and client address that may be sustained, with bursts of twice as many (429 beyond); 0: no
    limit."""
    body_seconds: float = 10.0
    """Seconds that a client may take to send a body (408 beyond), or the head of a request (beyond, the connection is
    closed)."""
    audit: float = 0.05
    """Share of the answers that are not flagged and are put before an engineer all the same."""
    keep_days: float = 0.0
    """Days after which answers are deleted; 0: never."""
    trial: str = ""
    """A version that answers a share of the wafers beside the champion."""
    trial_share: float = 0.25
    """That share, by the wafer's id."""
    log_maps: bool = False
    """Whether the log holds the maps."""

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_positive_int("port", self.port, minimum=0, maximum=65535)
        for name in ("largest_body", "most_maps", "queue"):
            check_positive_int(name, getattr(self, name))
        for name in ("rate", "keep_days"):
            check_interval(name, getattr(self, name), 0, 1e6)
        check_interval("body_seconds", self.body_seconds, 0, 3600, open_low=True)
        check_interval("audit", self.audit, 0, 1)
        check_interval("trial_share", self.trial_share, 0, 1)
        if self.host not in LOCAL and not self.token:
            raise InputError(f"`host` = {self.host} is open to other machines: give a token, or stay on 127.0.0.1")
