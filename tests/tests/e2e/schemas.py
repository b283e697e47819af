"""Sends every schema of JSON Schema's test suite to a model, and holds the answers against it.

Prints one JSON object: how many schemas there are, how many were refused and why, how many answers were
valid, and how many `max_tokens` cut. An answer that is not what its schema says is told whole.
"""

import collections
import concurrent.futures
import json
import os
import pathlib
import re
import sys

import jsonschema
import openai
import referencing

TOKENS_MAX = 64
AT_ONCE = 8

client = openai.OpenAI(base_url=os.environ["HEARTH_URL"] + "/v1", api_key="none", max_retries=0)

# Shown that values are short, a model ends most of them before it is cut.
QUESTION = "A short value as JSON, please."
SHOWN = ["12", '{"a": 1}', "[]", '"ab"', "{}", "[3, 4]", '{"a": "b", "c": null}']
MESSAGES = [
    message
    for value in SHOWN
    for message in ({"role": "user", "content": QUESTION}, {"role": "assistant", "content": value})
] + [{"role": "user", "content": QUESTION}]


def schemas(folder):
    """Each schema that is an object, once, in the order of the files."""
    found = {}
    for path in sorted(pathlib.Path(folder).glob("*.json")):
        for group in json.loads(path.read_text()):
            if isinstance(group["schema"], dict):
                found.setdefault(json.dumps(group["schema"], sort_keys=True), group["schema"])
    return list(found.values())


def ask(numbered):
    """What became of one schema: a word for it, and what there is to say."""
    number, schema = numbered
    shape = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": True}}
    try:
        # A refusal can only be a status before anything has come.
        stream = client.chat.completions.create(
            model="model",
            messages=MESSAGES,
            temperature=1.0,
            seed=number,
            max_tokens=TOKENS_MAX,
            response_format=shape,
            stream=True,
        )
    except openai.BadRequestError as error:
        assert (error.code, error.param) == ("invalid_constraint", "response_format"), error
        return "refused", error.body["message"]
    text, reason = "", None
    for chunk in stream:
        text += chunk.choices[0].delta.content or ""
        reason = chunk.choices[0].finish_reason or reason
    if reason == "length":
        return "cut", text
    assert reason == "stop", (schema, reason)
    validator = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    try:
        # What lies elsewhere is not fetched: such a schema should not have been enforced.
        elsewhere = {"registry": referencing.Registry()}
        check = validator(schema, format_checker=validator.FORMAT_CHECKER, **elsewhere)
        check.validate(json.loads(text))
    except (ValueError, jsonschema.ValidationError, referencing.exceptions.Unresolvable) as error:
        return "invalid", f"{json.dumps(schema)}: {text}: {error}"
    return "valid", text


def reason_of(message):
    """A refusal without what it says of this schema alone."""
    for pattern, reason in [
        (r"`\$ref` must be a plain path", "`$ref` to elsewhere"),
        (r"`multipleOf` ", "`multipleOf` of too many digits"),
        (r"`oneOf` can't be enforced unless", "`oneOf` whose options overlap"),
        (r"the format `", "a format"),
        (r"nothing can satisfy the schema", "nothing can satisfy it"),
        (r"patternProperty regexes .* are not disjoint", "`patternProperties` that overlap"),
        (r"(`[$\w]+`) can't be enforced", None),
    ]:
        if match := re.match(pattern, message):
            return reason or match[1]
    raise AssertionError(f"an unclear refusal: {message}")


asked = schemas(sys.argv[1])
with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
    outcomes = list(pool.map(ask, enumerate(asked)))
counts = collections.Counter(outcome for outcome, _ in outcomes)
reasons = collections.Counter(reason_of(said) for outcome, said in outcomes if outcome == "refused")
told = {
    "schemas": len(asked),
    "refused": counts["refused"],
    "valid": counts["valid"],
    "cut": counts["cut"],
    "invalid": [said for outcome, said in outcomes if outcome == "invalid"],
    "reasons": [f"| {reason} | {count} |" for reason, count in reasons.most_common()],
}
print(json.dumps(told))
