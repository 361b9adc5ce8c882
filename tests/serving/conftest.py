"""What all tests of serving share."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _vllms_log_is_heard() -> Iterator[None]:
    """vLLM, once it is loaded, keeps its log to itself, from a level on that the environment names."""
    logger = logging.getLogger("vllm")
    before = logger.propagate, logger.level
    logger.propagate = True
    logger.setLevel(logging.INFO)
    yield
    logger.propagate = before[0]
    logger.setLevel(before[1])
