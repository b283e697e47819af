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

two = client.chat.completions.create(model="m", messages=messages, n=2, logprobs=True, top_logprobs=2)
assert [c.message.content for c in two.choices] == ["t0 t1 t2 ", "1:t0 1:t1 1:t2 "], two
assert [t.token for t in two.choices[0].logprobs.content] == ["t0 ", "t1 ", "t2 "], two
assert len(two.choices[0].logprobs.content[0].top_logprobs) == 2, two

text = client.completions.create(model="m", prompt=["a", "b"], echo=True)
assert [c.text for c in text.choices] == ["at0 t1 t2 ", "bt0 t1 t2 "], text
pieces = client.completions.create(model="m", prompt="a", stream=True)
assert "".join(p.choices[0].text for p in pieces) == "t0 t1 t2 "

response = client.responses.create(model="m", input="hi", instructions="be brief")
assert (response.status, response.output_text) == ("completed", "t0 t1 t2 "), response
assert response.usage.input_tokens_details.cache_write_tokens == 7, response
with client.responses.stream(model="m", input="more", previous_response_id=response.id) as events:
    types = [event.type for event in events]
    assert types[0] == "response.created" and types[-1] == "response.completed", types
    assert events.get_final_response().output_text == "t0 t1 t2 "
assert client.responses.retrieve(response.id).id == response.id
assert client.responses.input_items.list(response.id).data[0].content[0].text == "hi"
client.responses.delete(response.id)
count = client.responses.input_tokens.count(model="m", input="hi")
assert count.input_tokens == 33, count

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
refused(openai.NotFoundError, lambda: client.responses.retrieve(response.id))
error = refused(openai.BadRequestError, create(temperature=9))
assert error.param == "temperature", error
error = refused(openai.BadRequestError, create(messages=[]))
assert error.param == "messages", error
refused(openai.NotFoundError, lambda: client.models.retrieve("nope"))
stranger = openai.OpenAI(api_key="wrong", max_retries=0)
error = refused(openai.AuthenticationError, lambda: stranger.models.list())
assert error.code == "invalid_api_key", error

print("all of it works")
