"""The installed version, for headers, metrics and traces."""

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    try:
        return version("stillhouse")
    except PackageNotFoundError:
        # Run from a checkout that was never installed.
        return "0.0.0"
