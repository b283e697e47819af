"""Clients that others wrote, against real workers with tiny models.

What such models say is nonsense, so it is structure, counts and vectors that are looked at.
Prints one line when everything was as it should be; an assertion ends it otherwise.
"""

import json
import math
import os

import ollama
import openai

HOST = os.environ["HEARTH_URL"]
client = ollama.Client(host=HOST)
ai = openai.OpenAI(base_url=f"{HOST}/v1", api_key="none", max_retries=0)

# A schema holds for a model that knows nothing of it.
schema = {
    "type": "object",
    "properties": {"name": {"enum": ["a", "b"]}, "sure": {"type": "boolean"}},
    "required": ["name", "sure"],
    "additionalProperties": False,
}
messages = [{"role": "user", "content": "What is a licence?"}]
answer = client.chat(
    model="tiny", messages=messages, format=schema, options={"num_predict": 64, "seed": 1}
)
value = json.loads(answer.message.content)
assert value["name"] in ("a", "b") and isinstance(value["sure"], bool), value
assert answer.done_reason == "stop", answer

# Raw, greedy and streamed are the same text.
options = {"temperature": 0, "num_predict": 12}
whole = client.generate(model="tiny", prompt="The licence", raw=True, options=options)
parts = client.generate(model="tiny", prompt="The licence", raw=True, options=options, stream=True)
assert "".join(part.response for part in parts) == whole.response, whole
assert whole.eval_count <= 12 and whole.prompt_eval_count > 0, whole
likely = client.generate(
    model="tiny", prompt="The licence", raw=True, options=options, logprobs=True, top_logprobs=2
)
assert len(likely.logprobs) == likely.eval_count, likely
assert all(told.logprob <= 0 and len(told.top_logprobs) == 2 for told in likely.logprobs), likely


def cosine(one, other):
    dot = sum(x * y for x, y in zip(one, other))
    return dot / math.hypot(*one) / math.hypot(*other)


texts = ["this software is free", "you may copy it"]
ours = client.embed(model="embed", input=texts)
theirs = ai.embeddings.create(model="embed", input=texts)  # base64, as they ask by default
for mine, other in zip(ours.embeddings, theirs.data):
    assert abs(cosine(mine, other.embedding) - 1) < 1e-6
    assert abs(math.hypot(*mine) - 1) < 1e-5, mine
assert ours.prompt_eval_count == theirs.usage.prompt_tokens, (ours, theirs.usage)
assert sorted(p.name for p in client.ps().models) == ["embed:latest", "tiny:latest"]

import urllib.request


def post(path, body):
    data = json.dumps(body).encode()
    head = {"content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(HOST + path, data, head)) as answer:
        return json.load(answer)


ranked = post("/v1/rerank", {"model": "rerank", "query": "free software", "documents": texts})
scores = [result["relevance_score"] for result in ranked["results"]]
assert scores == sorted(scores, reverse=True) and all(0 <= score <= 1 for score in scores), ranked
tokens = post("/tokenize", {"model": "tiny", "content": "The licence"})["tokens"]
assert post("/detokenize", {"model": "tiny", "tokens": tokens})["content"] == "The licence", tokens

print("all of it works")
