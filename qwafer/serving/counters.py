"""`Counters`: what a service counts, in Prometheus' text form."""

from qwafer.serving.packages import prometheus

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.045, 0.05, 0.1, 0.25, 1.0)
"""Edges of the histogram of latency; 45 and 50 ms are those of the alerts."""


class Counters:
    """Counters of one service; every service has its own registry of them."""

    def __init__(self) -> None:
        client = prometheus()
        self.registry = client.CollectorRegistry()
        own = {"registry": self.registry}
        self.answers = client.Counter(
            "qwafer_answers", "Answers by version and prediction", ("version", "label"), **own
        )
        self.flagged = client.Counter("qwafer_flagged", "Answers flagged for review", ("version",), **own)
        self.reviewed = client.Counter("qwafer_reviews", "Reviews by engineers", **own)
        self.requests = client.Counter("qwafer_requests", "Requests by status", ("status",), **own)
        self.waiting = client.Gauge("qwafer_waiting_maps", "Maps that wait to be computed", **own)
        self.latency = client.Histogram(
            "qwafer_latency_seconds", "From the whole request to the stored answer", buckets=SECONDS, **own
        )

    def answered(self, prediction: str, version: str, seconds: float, *, flagged: bool) -> None:
        """Count an answer."""
        self.answers.labels(version, prediction).inc()
        self.latency.observe(seconds)
        if flagged:
            self.flagged.labels(version).inc()

    def text(self) -> bytes:
        """Return all counters in Prometheus' text form."""
        return bytes(prometheus().generate_latest(self.registry))
