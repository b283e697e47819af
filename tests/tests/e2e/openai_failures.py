"""What OpenAI's package makes of trouble: which of it a caller sees, and which it mends by itself.

Its one argument says what is wrong with the gateway's fake worker. Prints one line when everything
was as it should be; an assertion ends it otherwise.
"""

import sys

import openai

messages = [{"role": "user", "content": "hi"}]


def breaks():
    client, texts = openai.OpenAI(), []
    try:
        for chunk in client.chat.completions.create(model="m", messages=messages, stream=True):
            texts.append(chunk.choices[0].delta.content or "")
    except openai.APIError as error:
        assert error.code == "worker_exited", error
        assert "".join(texts) == "t0 t1 ", texts
        return
    raise AssertionError(f"it took a broken answer for a whole one: {texts}")


def fails_for_good():
    # Left to itself it would ask six times.
    client = openai.OpenAI(max_retries=5)
    try:
        client.chat.completions.create(model="m", messages=messages)
    except openai.InternalServerError as error:
        assert (error.status_code, error.code) == (502, "model_load_failed"), error
        return
    raise AssertionError("a model that can't be loaded answered")


def comes_back():
    whole = openai.OpenAI(max_retries=2).chat.completions.create(model="m", messages=messages)
    assert whole.choices[0].message.content == "t0 t1 t2 ", whole


{"breaks": breaks, "fails-for-good": fails_for_good, "comes-back": comes_back}[sys.argv[1]]()
print("all of it works")
