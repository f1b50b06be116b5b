"""A chart at every checkpoint takes longer than the tests' steps: only the tests of charts draw any."""

import pytest

from latentsync.training import loop


@pytest.fixture(autouse=True)
def charts(request, monkeypatch):
    if "draws" not in request.node.name:
        monkeypatch.setattr(loop, "draw_if_possible", lambda folder: None)
