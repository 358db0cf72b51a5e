"""YAML and JSON in which a repeated key is an error; their usual readers keep only the last value."""

from collections.abc import Sequence
from typing import Any

import yaml

MERGE = "tag:yaml.org,2002:merge"  # the key "<<", which may occur several times


class RepeatedKeyError(ValueError):
    """A mapping has a key twice. The message names the key, and its lines if they are known."""


class UniqueKeyLoader(yaml.SafeLoader):
    """A `yaml.SafeLoader` that raises `RepeatedKeyError`. A key may still override one of a merged mapping (`<<`)."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Called by PyYAML for each mapping, before merged mappings are inserted into it."""
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
                continue
            line = key.start_mark.line + 1
            if (key.tag, key.value) in lines:
                first = lines[key.tag, key.value]
                raise RepeatedKeyError(f"the key {key.value!r} is in line {first} and again in line {line}")
            lines[key.tag, key.value] = line
        return node


def unique_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of a JSON text, as `object_pairs_hook` of `json.loads`.

    Raises:
        RepeatedKeyError: If two pairs have the same key.
    """
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise RepeatedKeyError(f"an object has the key {repeated!r} twice")
    return row
