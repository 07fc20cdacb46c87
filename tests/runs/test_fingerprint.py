"""Comparison of two runs: equal, different or damaged records are described in text, never by an error."""

import copy

import pytest

from eigenjax.runs.fingerprint import difference

WHOLE = {
    "arguments": {"k": 5, "which": "SA", "key": [0, 7], "v0": None},
    "structure": "f00d",
    "sketch": [0.5, -2.0, 3.0],
    "epsilon": 2.2e-16,
    "devices": "4 x cpu",
}


def test_the_same_run():
    assert difference(copy.deepcopy(WHOLE), WHOLE) is None
    nearly = WHOLE | {"sketch": [0.5, -2.0, 3.0 * (1 + 1e-15)]}
    assert difference(nearly, WHOLE) is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"arguments": WHOLE["arguments"] | {"k": 4}}, "k=4, where this call has 5"),
        ({"arguments": {}}, "k=None, where this call has 5"),
        ({"arguments": WHOLE["arguments"] | {"more": 1}}, "another version"),
        ({"structure": "beef"}, "another structure"),
        ({"sketch": [0.5, -2.0, 3.1]}, "another result"),
        ({"sketch": [0.5, float("nan"), 3.0]}, "another result"),
        ({"sketch": [0, -2, 4]}, "another result"),
        ({"epsilon": 1.2e-7, "sketch": [0.5, -2.0, 3.0 * (1 + 1e-15)]}, "another result"),
    ],
)
def test_another_run(change, text):
    assert text in difference(WHOLE | change, WHOLE)


@pytest.mark.parametrize("damaged", [None, 3, "text", [], [WHOLE], {}, *({n: WHOLE[n]} for n in WHOLE)])
def test_something_else_than_a_record(damaged):
    assert "is damaged" in difference(damaged, WHOLE)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize(
    "value", [None, True, 3, 10**400, "x", [], [1.0], ["a", "b", "c"], [[], {}, None], {"sketch": 1}]
)
def test_a_part_of_another_type(name, value):
    text = difference(WHOLE | {name: value}, WHOLE)
    # Another text can be valid for `devices`: a run on other devices.
    assert isinstance(text, str) or (name, value) == ("devices", "x")
    if type(value) is not type(WHOLE[name]):
        assert f"is damaged ({name} " in text
