"""What all tests share: repeatable random choices, and one rule for a missing browser."""

from __future__ import annotations

import os
import shutil

import pytest
from hypothesis import settings

# The same choices in every run. For new ones: pytest --hypothesis-profile=explore
settings.register_profile("fixed", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("explore", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile("fixed")

BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "microsoft-edge")


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of Chromium: PERCPU_LAB_CHROMIUM, or the first of BROWSERS on the search path."""
    named = os.environ.get("PERCPU_LAB_CHROMIUM")
    path = next(filter(None, map(shutil.which, (named,) if named else BROWSERS)), None)
    if path:
        return path
    why = f"no browser: {named or ', '.join(BROWSERS)} not found; install one, or set PERCPU_LAB_CHROMIUM to its path"
    if browser_is_promised():
        pytest.fail(why)
    pytest.skip(why)


def browser_is_promised() -> bool:
    """Say whether a missing browser is a failure, not a skip."""
    return os.environ.get("CI") == "true" or os.environ.get("PERCPU_LAB_REQUIRE_BROWSER") == "1"
