"""The part of SARIF 2.1.0 that we write, as strict as the standard and closed for the rest.

Required properties, enumerations and value ranges after the OASIS standard, sections 3.13 to 3.58.
Unknown keys are refused, which the standard's own schema does as well.
"""

from typing import Any


def _closed(required: list[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": required,
        "properties": properties,
    }


def _list(item: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": item, **more}


TEXT = {"type": "string"}
BAG = {"type": "object"}
LEVEL = {"enum": ["none", "note", "warning", "error"]}
MOMENT = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$"}
REFERENCE = {"type": "string", "pattern": r"^[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+$"}
MESSAGE = _closed(["text"], text=TEXT)
LOCATION = _closed(["uri"], uri=REFERENCE)
RULE = _closed(
    ["id"],
    id=TEXT,
    shortDescription=MESSAGE,
    fullDescription=MESSAGE,
    defaultConfiguration=_closed([], level=LEVEL),
)
RESULT = _closed(
    ["message"],
    ruleId=TEXT,
    level=LEVEL,
    message=MESSAGE,
    locations=_list(
        _closed(
            ["physicalLocation"],
            physicalLocation=_closed(["artifactLocation"], artifactLocation=LOCATION),
        )
    ),
    partialFingerprints={"type": "object", "additionalProperties": TEXT},
    properties=BAG,
)
RUN = _closed(
    ["tool"],
    tool=_closed(
        ["driver"],
        driver=_closed(
            ["name"],
            name=TEXT,
            version=TEXT,
            semanticVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+"},
            rules=_list(RULE, uniqueItems=True),
        ),
    ),
    invocations=_list(
        _closed(
            ["executionSuccessful"],
            executionSuccessful={"type": "boolean"},
            startTimeUtc=MOMENT,
            endTimeUtc=MOMENT,
        )
    ),
    artifacts=_list(
        _closed([], location=LOCATION, hashes={"type": "object", "additionalProperties": TEXT}),
        uniqueItems=True,
    ),
    results=_list(RESULT),
    columnKind={"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
    properties=BAG,
)
SARIF = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    **_closed(
        ["version", "runs"],
        **{"$schema": {"type": "string", "format": "uri"}},
        version={"const": "2.1.0"},
        runs=_list(RUN),
    ),
}
