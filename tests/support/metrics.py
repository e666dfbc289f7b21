"""What a program's metrics port says, taken apart by prometheus_client's own parser."""

import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Scrape:
    """One answer of a metrics port."""

    text: str
    families: Mapping[str, Metric]

    @classmethod
    def of(cls, address: str) -> Self:
        """Ask the port."""
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=SECONDS) as answer:
            text = answer.read().decode()
        return cls(text, {family.name: family for family in text_string_to_metric_families(text)})

    @property
    def series(self) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
        """Name and labels of each sample."""
        return {
            (sample.name, tuple(sorted(sample.labels.items())))
            for family in self.families.values()
            for sample in family.samples
        }

    @property
    def label_values(self) -> set[str]:
        """Every value of every label."""
        return {value for _, labels in self.series for _, value in labels}

    def value(self, name: str, **labels: str) -> float:
        """The one sample with this name and these labels; 0 where there is none yet."""
        found = [
            sample.value
            for family in self.families.values()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert len(found) < 2, found
        return found[0] if found else 0.0
