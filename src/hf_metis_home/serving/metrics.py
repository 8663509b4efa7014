"""Metrics of the router for Prometheus."""

from collections import defaultdict
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric


COUNTERS = {  # name: help text, then labels
    "requests": ("Answered requests, by branch and by who chose it.", "branch", "source"),
    "fallbacks": ("Requests that the router did not decide, by reason.", "reason"),
    "refused": ("Refused requests, by reason.", "reason"),
    "routed_prompts": ("Prompts that the router read.",),
    "router_batches": ("Batches that the router read.",),
    "router_seconds": ("Seconds that the router spent on them.",),
}


class Metrics:
    """
    Counters of one middleware since it started, and the length of its router's queue.

    A Prometheus collector that keeps its own numbers: with several API servers, vLLM makes the client write all
    counters to shared files, so vLLM would report ours a second time.

    Attributes:
        pending (`Callable[[], int]`): Number of requests that wait for the router; set by the router.
    """

    def __init__(self) -> None:
        self.pending: Callable[[], int] = lambda: 0
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self._values: dict[tuple[str, ...], float] = defaultdict(float)

    def add(self, name: str, *labels: str, value: float = 1) -> None:
        """Labels are words of this program, never of a client: each new one is a new time series."""
        self._values[name, *labels] += value

    def collect(self) -> Iterator[Metric]:
        values = self._values.copy()  # the router's thread goes on counting
        for name, (help_text, *label_names) in COUNTERS.items():
            family = CounterMetricFamily(f"metis_home_{name}", help_text, labels=label_names)
            for key in [key for key in values if key[0] == name] if label_names else [(name,)]:
                family.add_metric(key[1:], values[key])
            yield family
        yield GaugeMetricFamily("metis_home_router_pending", "Requests that wait for the router.", self.pending())

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
