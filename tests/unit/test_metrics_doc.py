"""The tables of docs/operations/metrics.md are what the programs declare, and every declaration is whole."""

import pytest

import bridge_sidecar.metrics
import flowless.adapters.metrics
from tools import metrics_doc
from trust_core.metric_families import Family

FAMILIES = [*flowless.adapters.metrics.CATALOGUE.families, *bridge_sidecar.metrics.CATALOGUE.families]


def test_the_document_is_up_to_date() -> None:
    assert metrics_doc.main(["--check"]) == 0, "make metrics-doc"


def test_no_metric_is_declared_twice() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_metric_says_what_it_is_and_names_its_unit(family: Family) -> None:
    assert family.text.endswith(".")
    assert not family.name.endswith("_total")  # added to samples of counters
    assert family.kind != "histogram" or family.name.endswith("_seconds")
