"""What hypothesis does to files and JSON. ``FUZZ_EXAMPLES=10000 pytest tests/fuzz`` looks longer than a plain run."""

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st


def examples(number):
    """So many examples of a test, or as many as are asked for."""
    return settings(
        max_examples=int(os.environ.get("FUZZ_EXAMPLES", number)),
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def damaged(draw, data):
    """Bytes with some of them changed, left out or put in, or cut short."""
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        position = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(["flip", "cut", "insert", "remove"]))
        if kind == "flip" and data:
            data[position] = draw(st.integers(0, 255))
        elif kind == "cut":
            del data[position:]
        elif kind == "insert":
            data[position:position] = draw(st.binary(max_size=8))
        else:
            del data[position : position + draw(st.integers(1, 16))]
    return bytes(data)


@st.composite
def altered(draw, value):
    """A JSON value with something in it replaced by something else, renamed or left out."""
    if isinstance(value, dict) and value and draw(st.integers(0, 3)):
        key = draw(st.sampled_from(sorted(value)))
        rest = {name: item for name, item in value.items() if name != key}
        kind = draw(st.integers(0, 9))
        if kind == 0:
            return rest
        if kind == 1:
            return {**rest, draw(st.text(max_size=8)): value[key]}
        return {**rest, key: draw(altered(value[key]))}
    if isinstance(value, list) and value and draw(st.booleans()):
        index = draw(st.integers(0, len(value) - 1))
        return [*value[:index], draw(altered(value[index])), *value[index + 1 :]]
    return draw(json_values)
