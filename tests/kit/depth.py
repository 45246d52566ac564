"""The depth of the tests: `make test` has a few minutes, `make check-deep` has all night."""

from __future__ import annotations

from hypothesis import settings

#: The share of a property test's examples that a quick run tries.
QUICK_SHARE = 0.2
#: In a quick run, only each fourth change of a disk fails.
QUICK_STEP = 4


class _Depth:
    is_deep = False


def set_depth(*, deep: bool) -> None:
    """Set the depth, before modules of tests are imported."""
    _Depth.is_deep = deep
    settings.load_profile("deep" if deep else "quick")


def examples(number: int) -> settings:
    """Let a property test try `number` examples, or in a quick run a share of them."""
    return settings(max_examples=count_of(number))


def count_of(number: int, least: int = 3) -> int:
    """Return `number`, or in a quick run a share of it, but at least `least`."""
    return number if _Depth.is_deep else max(min(least, number), round(number * QUICK_SHARE))


def changes(most: int) -> range:
    """Return the changes of a disk at which the test interferes: each change, or each fourth.

    The caller stops at the first number that no change reaches.
    """
    return range(1, most, 1 if _Depth.is_deep else QUICK_STEP)


def of_changes(number: int) -> int:
    """Return how many of `number` changes the test interferes at, or one less."""
    return number if _Depth.is_deep else number // QUICK_STEP
