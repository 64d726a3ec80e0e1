"""Options in an encoder's name: ``NAME?key=value&key=value``."""

from __future__ import annotations

from collections.abc import Mapping

from embeddings.errors import InputError


def split_options(
    arg: str, allowed: Mapping[str, tuple[str, ...]], family: str
) -> tuple[str, dict[str, str]]:
    """Split ``NAME?key=value&...`` into the name and its options.

    ``allowed`` gives each option's values; an empty tuple allows any. Raises InputError.
    """
    name, _, text = arg.partition("?")
    options: dict[str, str] = {}
    for part in text.split("&") if text else []:
        key, equals, value = part.partition("=")
        if key not in allowed or not equals or not value:
            there = [f"{name}={'|'.join(values) or '...'}" for name, values in allowed.items()]
            raise InputError(
                f"'{family}:{arg}' has an option '{part}' that {family} does not know. Options: "
                f"{', '.join(there) or 'none'}."
            )
        if allowed[key] and value not in allowed[key]:
            raise InputError(
                f"'{family}:{arg}' has {key}={value}; allowed are {', '.join(allowed[key])}."
            )
        options[key] = value
    return name, options
