"""Clients that others wrote, against real workers with tiny models.

What such models say is nonsense, so it is structure, counts and vectors that are looked at: a schema and a
call that is required hold for a model that knows nothing of them. Prints one line for each client that
works; an assertion ends it otherwise.
"""

import json
import math
import os
import sys
import urllib.request

HOST = os.environ["HEARTH_URL"]
OPENAI = {"base_url": f"{HOST}/v1", "api_key": "none"}
SCHEMA = {
    "title": "Licence",
    "type": "object",
    "properties": {"name": {"enum": ["a", "b"]}, "sure": {"type": "boolean"}},
    "required": ["name", "sure"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}
SHAPE = {"type": "json_schema", "json_schema": {"name": "licence", "schema": SCHEMA}}
MESSAGES = [{"role": "user", "content": "What is a licence?"}]
TEXTS = ["this software is free", "you may copy it"]


def is_licence(value):
    assert value["name"] in ("a", "b") and isinstance(value["sure"], bool) and len(value) == 2, value


def cosine(one, other):
    dot = sum(x * y for x, y in zip(one, other))
    return dot / math.hypot(*one) / math.hypot(*other)


def same_vectors(mine, theirs):
    assert len(mine) == len(theirs) == len(TEXTS)
    for one, other in zip(mine, theirs):
        assert abs(cosine(one, other) - 1) < 1e-6


def post(path, body):
    data = json.dumps(body).encode()
    head = {"content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(HOST + path, data, head)) as answer:
        return json.load(answer)


def loaded():
    """How long each loaded model is kept, in seconds."""
    with urllib.request.urlopen(HOST + "/api/ps") as answer:
        return {model["name"]: model["keep_alive"] for model in json.load(answer)["models"]}


def vectors():
    return post("/api/embed", {"model": "embed", "input": TEXTS})["embeddings"]


def ollama_client():
    import ollama

    client = ollama.Client(host=HOST)
    answer = client.chat(
        model="tiny", messages=MESSAGES, format=SCHEMA, options={"num_predict": 64, "seed": 1}
    )
    is_licence(json.loads(answer.message.content))
    assert answer.done_reason == "stop", answer
    # Raw, greedy and streamed are the same text.
    options = {"temperature": 0, "num_predict": 12}
    asked = {"model": "tiny", "prompt": "The licence", "raw": True, "options": options}
    whole = client.generate(**asked)
    parts = client.generate(**asked, stream=True)
    assert "".join(part.response for part in parts) == whole.response, whole
    assert whole.eval_count <= 12 and whole.prompt_eval_count > 0, whole
    likely = client.generate(**asked, logprobs=True, top_logprobs=2)
    assert len(likely.logprobs) == likely.eval_count, likely
    assert all(told.logprob <= 0 and len(told.top_logprobs) == 2 for told in likely.logprobs), likely
    # Nobody can insist on a call here, but the model is told of the tools.
    short = {"model": "tiny", "messages": MESSAGES, "options": {"num_predict": 1}}
    told = client.chat(**short, tools=[TOOL]).prompt_eval_count
    assert told > client.chat(**short).prompt_eval_count + 20, told
    ours = client.embed(model="embed", input=TEXTS, keep_alive="10m")
    assert all(abs(math.hypot(*vector) - 1) < 1e-5 for vector in ours.embeddings)
    assert sorted(process.name for process in client.ps().models) == ["embed:latest", "tiny:latest"]
    assert loaded()["embed:latest"] == 600, loaded()
    ranked = post("/v1/rerank", {"model": "rerank", "query": "free software", "documents": TEXTS})
    scores = [result["relevance_score"] for result in ranked["results"]]
    assert scores == sorted(scores, reverse=True) and all(0 <= score <= 1 for score in scores), ranked
    tokens = post("/tokenize", {"model": "tiny", "content": "The licence"})["tokens"]
    assert post("/detokenize", {"model": "tiny", "tokens": tokens})["content"] == "The licence", tokens


def openai_client():
    import openai

    client = openai.OpenAI(max_retries=0, **OPENAI)
    limits = {"model": "tiny", "messages": MESSAGES, "temperature": 1, "seed": 1, "max_tokens": 300}
    shaped = client.chat.completions.create(response_format=SHAPE, **limits)
    is_licence(json.loads(shaped.choices[0].message.content))
    called = client.chat.completions.create(
        tools=[TOOL], tool_choice="required", parallel_tool_calls=False, **limits
    )
    [call] = called.choices[0].message.tool_calls
    assert (called.choices[0].finish_reason, call.function.name) == ("tool_calls", "f"), called
    is_licence(json.loads(call.function.arguments))
    greedy = {"model": "tiny", "messages": MESSAGES, "temperature": 0, "max_tokens": 12}
    whole = client.chat.completions.create(**greedy).choices[0].message.content
    parts = client.chat.completions.create(**greedy, stream=True)
    assert "".join(part.choices[0].delta.content or "" for part in parts) == whole, whole
    # Base64, as it asks by default.
    theirs = client.embeddings.create(model="embed", input=TEXTS, extra_body={"keep_alive": "10m"})
    same_vectors([told.embedding for told in theirs.data], vectors())
    assert loaded()["embed:latest"] == 600, loaded()
    client.chat.completions.create(**greedy, extra_body={"keep_alive": 0})
    while "tiny:latest" in loaded():
        pass


def langchain_openai_client():
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

    chat = ChatOpenAI(model="tiny", temperature=1, seed=1, max_tokens=300, **OPENAI)
    is_licence(chat.with_structured_output(SCHEMA, method="json_schema").invoke("What?"))
    called = chat.bind_tools([TOOL], tool_choice="any", parallel_tool_calls=False).invoke("What?")
    [call] = called.tool_calls
    assert call["name"] == "f", called
    is_licence(call["args"])
    kept = {"extra_body": {"keep_alive": "10m"}}
    greedy = ChatOpenAI(model="tiny", temperature=0, max_tokens=12, **kept, **OPENAI)
    whole = greedy.invoke("What?")
    assert whole.usage_metadata["output_tokens"] <= 12, whole
    assert "".join(part.text for part in greedy.stream("What?")) == whole.content, whole
    assert loaded()["tiny:latest"] == 600, loaded()
    embeddings = OpenAIEmbeddings(model="embed", check_embedding_ctx_length=False, **OPENAI)
    same_vectors(embeddings.embed_documents(TEXTS), vectors())


def langchain_ollama_client():
    from langchain_ollama import ChatOllama, OllamaEmbeddings

    chat = ChatOllama(model="tiny", base_url=HOST, seed=1, num_predict=300, keep_alive="10m")
    is_licence(chat.with_structured_output(SCHEMA, method="json_schema").invoke("What?"))
    assert loaded()["tiny:latest"] == 600, loaded()
    greedy = ChatOllama(model="tiny", base_url=HOST, temperature=0, num_predict=12)
    whole = greedy.invoke("What?")
    assert whole.usage_metadata["output_tokens"] <= 12, whole
    assert "".join(part.text for part in greedy.stream("What?")) == whole.content, whole
    told = greedy.bind_tools([TOOL]).invoke("What?").usage_metadata["input_tokens"]
    assert told > whole.usage_metadata["input_tokens"] + 20, told
    embeddings = OllamaEmbeddings(model="embed", base_url=HOST, keep_alive=1200)
    same_vectors(embeddings.embed_documents(TEXTS), vectors())
    assert loaded()["embed:latest"] == 1200, loaded()


def litellm_client():
    import litellm

    at = {"api_base": f"{HOST}/v1", "api_key": "none"}
    limits = {"messages": MESSAGES, "temperature": 1, "seed": 1, "max_tokens": 300}
    for provider in [{"model": "openai/tiny", **at}, {"model": "ollama_chat/tiny", "api_base": HOST}]:
        shaped = litellm.completion(**provider, **limits, response_format=SHAPE)
        is_licence(json.loads(shaped.choices[0].message.content))
        greedy = {**provider, "messages": MESSAGES, "temperature": 0, "max_tokens": 12}
        whole = litellm.completion(**greedy)
        text = whole.choices[0].message.content
        assert whole.usage.completion_tokens <= 12, whole
        parts = litellm.completion(**greedy, stream=True)
        assert "".join(part.choices[0].delta.content or "" for part in parts) == text, text
    forced = {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False}
    called = litellm.completion(model="openai/tiny", **forced, **limits, **at)
    [call] = called.choices[0].message.tool_calls
    is_licence(json.loads(call.function.arguments))
    kept = {"model": "ollama_chat/tiny", "api_base": HOST, "keep_alive": "10m"}
    litellm.completion(messages=MESSAGES, max_tokens=1, **kept)
    assert loaded()["tiny:latest"] == 600, loaded()
    as_numbers = {"model": "openai/embed", "encoding_format": "float", **at}
    for provider in [as_numbers, {"model": "ollama/embed", "api_base": HOST}]:
        theirs = litellm.embedding(input=TEXTS, **provider)
        same_vectors([told["embedding"] for told in theirs.data], vectors())


def llm_client():
    import pathlib

    entry = f"- model_id: hearth\n  model_name: tiny\n  api_base: {HOST}/v1\n"
    abilities = "  supports_schema: true\n  supports_tools: true\n"
    user = pathlib.Path(os.environ["HOME"])
    (user / "extra-openai-models.yaml").write_text(entry + abilities)
    os.environ["LLM_USER_PATH"] = str(user)
    import llm

    model = llm.get_model("hearth")
    model.key = "none"
    options = {"temperature": 1, "seed": 1, "max_tokens": 300}
    is_licence(json.loads(model.prompt("What?", schema=SCHEMA, **options).text()))
    greedy = {"temperature": 0, "max_tokens": 12}
    whole = model.prompt("What?", stream=False, **greedy).text()
    parts = list(model.prompt("What?", stream=True, **greedy))
    assert len(parts) > 1 and "".join(parts) == whole, (parts, whole)


CLIENTS = {
    "ollama": ollama_client,
    "openai": openai_client,
    "langchain-openai": langchain_openai_client,
    "langchain-ollama": langchain_ollama_client,
    "litellm": litellm_client,
    "llm": llm_client,
}

for name in sys.argv[1:]:
    CLIENTS[name]()
    print(f"{name} works")
