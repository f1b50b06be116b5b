"""Pipelines of random networks for the tests of this folder."""

import pytest
from tiny_pipeline import make_pipeline

from latentsync.diffusion.pipeline import LipsyncPipeline


@pytest.fixture(scope="session")
def temporal_pipeline() -> LipsyncPipeline:
    return make_pipeline(temporal=True)


@pytest.fixture(scope="session")
def frame_pipeline() -> LipsyncPipeline:
    return make_pipeline(temporal=False)
