"""What an application does with OpenAI's package, against a gateway with a fake worker.

Prints one line when everything was as it should be; an assertion ends it otherwise.
"""

import openai

client = openai.OpenAI(max_retries=0)
messages = [{"role": "user", "content": "hi"}]

whole = client.chat.completions.create(model="m", messages=messages)
assert whole.choices[0].message.content == "t0 t1 t2 ", whole
assert whole.choices[0].message.role == "assistant", whole
assert whole.choices[0].finish_reason == "stop", whole
assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (7, 3), whole
assert whole._request_id.startswith("req_"), whole._request_id

stream = client.chat.completions.create(
    model="m", messages=messages, stream=True, stream_options={"include_usage": True},
    extra_body={"keep_alive": "1m"},
)
chunks = list(stream)
assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "t0 t1 t2 ", chunks
assert chunks[0].choices[0].delta.role == "assistant", chunks[0]
assert chunks[-1].usage.total_tokens == 10 and chunks[-1].choices == [], chunks[-1]

with client.chat.completions.stream(model="m", messages=messages) as helper:
    assert helper.get_final_completion().choices[0].message.content == "t0 t1 t2 "

assert sorted(model.id for model in client.models.list()) == ["crashes", "m"]
assert client.models.retrieve("m").owned_by == "library"


def refused(expected, call):
    try:
        call()
    except expected as error:
        return error
    raise AssertionError(f"{expected.__name__} was expected")


def create(**fields):
    return lambda: client.chat.completions.create(**{"model": "m", "messages": messages, **fields})


error = refused(openai.NotFoundError, create(model="nope"))
assert (error.code, error.param) == ("model_not_found", "model"), error
error = refused(openai.BadRequestError, create(temperature=9))
assert error.param == "temperature", error
error = refused(openai.BadRequestError, create(messages=[]))
assert error.param == "messages", error
refused(openai.NotFoundError, lambda: client.models.retrieve("nope"))
stranger = openai.OpenAI(api_key="wrong", max_retries=0)
error = refused(openai.AuthenticationError, lambda: stranger.models.list())
assert error.code == "invalid_api_key", error

print("all of it works")
