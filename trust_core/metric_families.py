"""What each metric of a program is called, and means: declared once, shown to Prometheus and in the documents.

Imported only where metrics are on, like everything of prometheus_client.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from trust_core.call_figures import CallFigures
from trust_core.clock import NS_PER_SECOND
from trust_core.histogram import Histogram

PROCESS: Final = (
    ("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes."),
    ("process_resident_memory_bytes", "gauge", "Resident memory size in bytes."),
    ("process_start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds."),
    ("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds."),
    ("process_open_fds", "gauge", "Number of open file descriptors."),
    ("process_max_fds", "gauge", "Maximum number of open file descriptors."),
)
"""What prometheus_client says of the process by itself, on Linux; `metrics_server` asks it to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One metric. `labels` are names; what their values may be belongs into the text if the name does not say it."""

    name: str
    kind: str
    text: str
    labels: tuple[str, ...] = ()

    @property
    def shown_name(self) -> str:
        """Name of its samples: those of counters end with `_total`."""
        return f"{self.name}_total" if self.kind == "counter" else self.name

    def of(self, value: float | None) -> Metric:
        """Make it, without labels; without a sample for what is not known, rather than with a zero."""
        return self.by([] if value is None else [((), value)])

    def by(self, samples: Iterable[tuple[str | Sequence[str], float]]) -> Metric:
        """Make it from values of its labels (one, or one for each) and numbers."""
        make = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        metric = make(self.name, self.text, labels=self.labels)
        for labels, value in samples:
            metric.add_metric([labels] if isinstance(labels, str) else labels, value)
        return metric

    def of_histograms(self, histograms: Mapping[str, Histogram]) -> Metric:
        """Make it from histograms by the value of its label, in seconds."""
        metric = HistogramMetricFamily(self.name, self.text, labels=self.labels)
        for label, histogram in tuple(histograms.items()):
            counts, sum_ns = histogram.read()
            bounds = [f"{bound / NS_PER_SECOND:g}" for bound in histogram.bounds_ns]
            total, buckets = 0, []
            for bound, count in zip((*bounds, "+Inf"), counts, strict=True):
                total += count
                buckets.append((bound, float(total)))
            metric.add_metric([label] if self.labels else [], buckets, sum_ns / NS_PER_SECOND)
        return metric

    def of_histogram(self, histogram: Histogram) -> Metric:
        """Make it from one histogram, without labels."""
        return self.of_histograms({"": histogram})


@dataclass(slots=True)
class Catalogue:
    """All metrics of a program, whose names begin alike."""

    prefix: str
    families: list[Family] = field(default_factory=list)

    def gauge(self, name: str, text: str, *labels: str) -> Family:
        """Declare what goes up and down."""
        return self._declare(name, "gauge", text, labels)

    def counter(self, name: str, text: str, *labels: str) -> Family:
        """Declare what only grows, since the start of the process; its samples' names end with `_total`."""
        return self._declare(name, "counter", text, labels)

    def histogram(self, name: str, text: str, *labels: str) -> Family:
        """Declare durations by buckets."""
        return self._declare(name, "histogram", text, labels)

    def _declare(self, name: str, kind: str, text: str, labels: tuple[str, ...]) -> Family:
        family = Family(name=f"{self.prefix}{name}", kind=kind, text=text, labels=labels)
        self.families.append(family)
        return family


class CallFamilies:
    """The metrics of a program's calls, which both programs have."""

    def __init__(self, catalogue: Catalogue, *, timed: bool) -> None:
        """Declare them; `timed` says whether durations are kept at all."""
        self._ended = catalogue.counter(
            "calls",
            "Calls that ended, by RPC and gRPC code. `other` stands for names that are not served.",
            *("rpc", "code"),
        )
        self._in_flight = catalogue.gauge("calls_in_flight", "Calls under way, open streams included.")
        self._errors = catalogue.counter(
            "call_errors",
            "Calls that ended with an error of ours, by its reason (`trustlayer.v1.ErrorReason`).",
            "reason",
        )
        self._seconds = (
            catalogue.histogram("call_seconds", "How long calls took that are no streams, by RPC.", "rpc")
            if timed
            else None
        )

    def of(self, figures: CallFigures) -> Iterator[Metric]:
        """Make all of them."""
        yield self._ended.by(tuple(figures.ended.items()))
        yield self._in_flight.of(figures.in_flight)
        yield self._errors.by(tuple(figures.errors.items()))
        if self._seconds is not None:
            yield self._seconds.of_histograms(figures.durations)
