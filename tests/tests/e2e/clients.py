"""What applications do with the clients that others wrote, against a gateway with a fake worker.

The worker answers everything with a thought, a text and a call of `f`. Prints one line for each client
that works; an assertion ends it otherwise.
"""

import os
import sys

HOST = os.environ["HEARTH_URL"]
MESSAGES = [{"role": "user", "content": "hi"}]
PARAMETERS = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": PARAMETERS}}


def ollama_client():
    import ollama

    client = ollama.Client(host=HOST)
    whole = client.chat(model="m", messages=MESSAGES, tools=[TOOL], keep_alive="1m")
    assert whole.message.content == "Well. ", whole
    assert whole.message.thinking == "hm", whole
    assert whole.message.tool_calls[0].function.arguments == {"x": 1}, whole
    assert (whole.done_reason, whole.prompt_eval_count) == ("stop", 7), whole
    parts = list(client.chat(model="m", messages=MESSAGES, stream=True))
    assert "".join(part.message.content or "" for part in parts) == "Well. ", parts
    assert [call.function.name for part in parts for call in part.message.tool_calls or []] == ["f"], parts
    followed = MESSAGES + [whole.message, {"role": "tool", "tool_name": "f", "content": "2"}]
    assert client.chat(model="m", messages=followed).message.content == "Well. "
    text = client.generate(model="m", prompt="hi", options={"temperature": 0, "num_ctx": 4096})
    assert (text.response, text.thinking) == ("Well. ", "hm"), text
    process = client.ps().models[0]
    assert (process.name, process.context_length) == ("m:latest", 512), process
    assert client.embed(model="m", input=["a", "bb"]).embeddings == [[1.0, 0.5, 0.25], [2.0, 0.5, 0.25]]
    assert client.embeddings(model="m", prompt="a").embedding == [1.0, 0.5, 0.25]
    assert [model.model for model in client.list().models] == ["m:latest"]
    shown = client.show("m")
    assert shown.modelinfo == {"general.architecture": "fake"}, shown
    client.copy("m", "twin")
    assert client.delete("twin").status == "success"
    assert client.create("made", from_="m").status == "success"
    assert [step.status for step in client.pull("made", stream=True)] == ["success"]
    assert client.delete("made").status == "success"
    try:
        client.chat(model="nope", messages=MESSAGES)
    except ollama.ResponseError as error:
        assert error.status_code == 404 and "does not exist" in error.error, error
    else:
        raise AssertionError("a model that is not there answered")
    client.generate(model="m", prompt="", keep_alive=0)
    while client.ps().models:
        pass


def langchain_ollama_client():
    from langchain_ollama import ChatOllama, OllamaEmbeddings

    chat = ChatOllama(model="m", base_url=HOST, validate_model_on_init=True, num_predict=9)
    whole = chat.bind_tools([TOOL]).invoke("hi")
    assert whole.content == "Well. ", whole
    assert [(call["name"], call["args"]) for call in whole.tool_calls] == [("f", {"x": 1})], whole
    assert whole.usage_metadata["input_tokens"] == 7, whole
    assert "".join(part.text for part in chat.stream("hi")) == "Well. "
    vectors = OllamaEmbeddings(model="m", base_url=HOST).embed_documents(["a", "bb"])
    assert vectors == [[1.0, 0.5, 0.25], [2.0, 0.5, 0.25]], vectors


def langchain_openai_client():
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

    at = {"base_url": f"{HOST}/v1", "api_key": "none"}
    chat = ChatOpenAI(model="m", stream_usage=True, **at)
    whole = chat.bind_tools([TOOL]).invoke("hi")
    assert [(call["name"], call["args"]) for call in whole.tool_calls] == [("f", {"x": 1})], whole
    assert "".join(part.text for part in chat.stream("hi")) == "Well. "
    embeddings = OpenAIEmbeddings(model="m", check_embedding_ctx_length=False, **at)
    assert embeddings.embed_query("bb") == [2.0, 0.5, 0.25]


def litellm_client():
    import litellm

    whole = litellm.completion(
        model="ollama_chat/m", api_base=HOST, messages=MESSAGES, tools=[TOOL]
    )
    call = whole.choices[0].message.tool_calls[0].function
    assert (call.name, call.arguments) == ("f", '{"x": 1}'), whole
    parts = litellm.completion(model="ollama_chat/m", api_base=HOST, messages=MESSAGES, stream=True)
    assert "".join(part.choices[0].delta.content or "" for part in parts) == "Well. "
    vectors = litellm.embedding(model="ollama/m", api_base=HOST, input=["a"])
    assert vectors.data[0]["embedding"] == [1.0, 0.5, 0.25], vectors
    at = {"api_base": f"{HOST}/v1", "api_key": "none"}
    whole = litellm.completion(model="openai/m", messages=MESSAGES, **at)
    assert whole.choices[0].message.content == "Well. ", whole
    assert whole.choices[0].message.reasoning_content == "hm", whole
    ranked = litellm.rerank(
        model="hosted_vllm/m", query="q", documents=["a", "bbb"], top_n=1, api_base=HOST
    )
    assert ranked.results[0]["index"] == 1, ranked


def llm_client():
    import pathlib
    import subprocess
    import tempfile

    def f(x: int) -> int:
        return x

    with tempfile.TemporaryDirectory() as user:
        entry = f"- model_id: hearth\n  model_name: m\n  api_base: {HOST}/v1\n  supports_tools: true\n"
        pathlib.Path(user, "extra-openai-models.yaml").write_text(entry)
        command = [sys.executable, "-m", "llm", "-m", "hearth", "--key", "none", "--no-log", "hi"]
        environment = os.environ | {"LLM_USER_PATH": user}
        answer = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert "Well." in answer.stdout, answer
        os.environ["LLM_USER_PATH"] = user
        import llm

        model = llm.get_model("hearth")
        model.key = "none"
        for stream in (False, True):
            [call] = model.prompt("hi", tools=[f], stream=stream).tool_calls()
            assert (call.name, call.arguments) == ("f", {"x": 1}), call


CLIENTS = {
    "ollama": ollama_client,
    "langchain-ollama": langchain_ollama_client,
    "langchain-openai": langchain_openai_client,
    "litellm": litellm_client,
    "llm": llm_client,
}

for name in sys.argv[1:]:
    CLIENTS[name]()
    print(f"{name} works")
