"""The kit under its earlier name."""

from tests.kit import *  # noqa: F403
from tests.kit import Run as Result  # noqa: F401
