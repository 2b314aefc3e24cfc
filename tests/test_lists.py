"""README.md and docs/ list what the registries hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from l2a_transfer.data.registry import DATASETS, FORMATS
from l2a_transfer.evaluation.probes.registry import PROBES
from l2a_transfer.evaluation.protocols import PROTOCOLS
from l2a_transfer.explain.registry import METHODS
from l2a_transfer.features.backends.registry import REGISTERED_BACKENDS
from l2a_transfer.models.config import COMPATIBILITIES, FAMILIES
from l2a_transfer.models.normalizers import NORMALIZERS
from l2a_transfer.models.selection import SELECTIONS
from l2a_transfer.registry import Registry
from tests.conftest import script

REGISTRIES: dict[str, Registry[object]] = {
    "families": FAMILIES,
    "compatibilities": COMPATIBILITIES,
    "normalizers": NORMALIZERS,
    "selections": SELECTIONS,
    "methods": METHODS,
    "backends": REGISTERED_BACKENDS,
    "formats": FORMATS,
    "datasets": DATASETS,
    "protocols": PROTOCOLS,
    "probes": PROBES,
}  # type: ignore[assignment]


@pytest.fixture(scope="module")
def lists() -> ModuleType:
    return script("write_lists")


def test_every_page_lists_what_is_registered(lists: ModuleType) -> None:
    assert lists.stale() == []
    assert lists.LISTS.keys() == REGISTRIES.keys()


@pytest.fixture(params=sorted(REGISTRIES))
def added(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a registry that has one more entry, a copy of one that is there."""
    registry = REGISTRIES[request.param]
    first = next(iter(registry.values()))
    named = {"prefix": "newcomer"} if request.param == "formats" else {"name": "newcomer"}
    has_name = dataclasses.is_dataclass(first) and set(named) <= {field.name for field in dataclasses.fields(first)}
    registry.add("newcomer", dataclasses.replace(first, **named) if has_name else first)  # type: ignore[type-var]
    yield request.param
    registry.remove("newcomer")


def test_an_entry_that_no_page_lists_is_found(added: str, lists: ModuleType) -> None:
    assert "newcomer" in lists.LISTS[added]()
    assert len(lists.stale()) >= 1


def test_the_page_on_protocols_describes_each() -> None:
    page = (Path(__file__).parents[1] / "docs" / "protocols.md").read_text()
    assert [name for name in PROTOCOLS if f"| `{name}` |" not in page] == []
