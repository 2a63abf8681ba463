"""What holds for attacks: nothing but our own rules keeps them off, as where a user runs a command."""

from collections.abc import Iterator

import jaxtyping
import pytest


@pytest.fixture(autouse=True)
def no_checks_of_types() -> Iterator[None]:
    """A wrong type in a hostile file raises TypeError under the tests' checks of calls, which a user does not have."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
