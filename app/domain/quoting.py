"""Values as messages show them."""


def quote(value: object, limit: int = 60) -> str:
    """A value as messages show it: quoted, and cut so that a message stays a sentence."""
    text = str(value)
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")


def quote_all(values: list[str], limit: int = 5) -> str:
    """The first few of many values, and how many more there are."""
    shown = ", ".join(quote(value) for value in values[:limit])
    return shown if len(values) <= limit else f"{shown} and {len(values) - limit} more"
