"""A trained run, made once for all tests of stored documents, answers and the server."""

from __future__ import annotations

import pytest

from tests.recipes.dynamic_prefix.reading_run import Reading, make


@pytest.fixture(scope="session")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Reading:
    return make(tmp_path_factory.mktemp("reading"))
