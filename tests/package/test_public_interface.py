"""Public names and their parameters: an unintended change of the interface fails."""

import dataclasses
import inspect
import json
from pathlib import Path

import eigenjax

INTERFACE = Path(__file__).parents[1] / "reference" / "public_interface.json"


def interface():
    """Map each public name to its parameters, or to its fields."""
    found = {}
    for name in eigenjax.__all__:
        thing = getattr(eigenjax, name)
        if dataclasses.is_dataclass(thing):
            found[name] = [field.name for field in dataclasses.fields(thing)]
        elif hasattr(thing, "_fields"):
            found[name] = list(thing._fields)
        elif inspect.isclass(thing):
            found[name] = [member.name for member in thing] if hasattr(thing, "__members__") else []
        else:
            parameters = inspect.signature(thing).parameters.values()
            found[name] = [f"{'*' if p.kind is p.KEYWORD_ONLY else ''}{p.name}{default(p)}" for p in parameters]
    return found


def default(parameter):
    """Write the default as in a signature."""
    return "" if parameter.default is parameter.empty else f"={parameter.default!r}"


def test_public_names_and_parameters_are_as_recorded():
    assert interface() == json.loads(INTERFACE.read_text())
