"""What the tests call of jsonschema, which brings no types."""

from collections.abc import Mapping

class ValidationError(Exception): ...

def validate(instance: object, schema: Mapping[str, object]) -> None: ...
