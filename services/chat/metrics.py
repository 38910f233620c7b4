"""What Prometheus scrapes. One registry an app, so that two apps in one process do not meet."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tandem.schemas import Answer, Arm

SECONDS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 12.0, 25.0, 50.0, 100.0)
FAST = (0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5.0)


class Metrics:
    """Counters and histograms of the chat service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "tandem_requests_total",
            "Chat completions by arm and HTTP status.",
            ["arm", "status"],
            registry=self.registry,
        )
        self._responses = Counter(
            "tandem_http_responses_total", "All HTTP responses by status.", ["status"], registry=self.registry
        )
        self._first_token = Histogram(
            "tandem_first_token_seconds",
            "From request to first text.",
            ["arm"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._total = Histogram(
            "tandem_total_seconds",
            "From request to the whole answer.",
            ["arm"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._retrieval = Histogram(
            "tandem_retrieval_seconds", "Search, authorisation and evidence.", buckets=FAST, registry=self.registry
        )
        self._declines = Counter("tandem_declines_total", "Answers that declined.", ["arm"], registry=self.registry)
        self._removed = Counter(
            "tandem_removed_markers_total", "Citation markers without a source.", ["arm"], registry=self.registry
        )
        self._degraded = Counter(
            "tandem_degraded_total", "Answers made without a part that was wanted.", ["reason"], registry=self.registry
        )
        self._feedback = Counter(
            "tandem_feedback_total", "Thumbs by rating and subject.", ["rating", "about"], registry=self.registry
        )
        self.in_flight = Gauge("tandem_in_flight", "Answers being made now.", registry=self.registry)
        self.queued = Gauge("tandem_queued", "Requests that wait for their turn.", registry=self.registry)
        self._adapter = Gauge("tandem_adapter_info", "1 for the active adapter.", ["adapter"], registry=self.registry)

    def first_text(self, arm: Arm, seconds: float) -> None:
        """The caller got the first text."""
        self._first_token.labels(arm).observe(seconds)

    def answered(self, answer: Answer, seconds: float) -> None:
        """An answer was given whole, `seconds` after its request came."""
        self._total.labels(answer.arm).observe(seconds)
        if "retrieve" in answer.timings:
            self._retrieval.observe(answer.timings["retrieve"])
        if answer.declined:
            self._declines.labels(answer.arm).inc()
        if answer.removed_markers:
            self._removed.labels(answer.arm).inc(answer.removed_markers)
        if answer.degraded:
            self.degraded(answer.degraded)

    def degraded(self, reason: str) -> None:
        """An answer was made without a part that was wanted, or broke off."""
        self._degraded.labels(reason).inc()

    def ended(self, arm: Arm, status: int) -> None:
        """A chat completion ended with `status`; 499 is a client that went away."""
        self._requests.labels(arm, str(status)).inc()

    def responded(self, status: int) -> None:
        """Any response was begun."""
        self._responses.labels(str(status)).inc()

    def rated(self, rating: str, about: str) -> None:
        """Somebody gave a thumb."""
        self._feedback.labels(rating, about or "unsaid").inc()

    def adapter(self, served: str | None) -> None:
        """Which adapter is active."""
        self._adapter.clear()
        self._adapter.labels(served or "none").set(1)

    def exposition(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
