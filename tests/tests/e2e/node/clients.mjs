// What applications do with the clients that others wrote for Node, against a gateway with a fake
// worker.
//
// The worker answers everything with a thought, a text and a call of `f`. Run with the names of what to
// try; prints one line for each that works, and an assertion ends it otherwise.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

const host = process.env.HEARTH_URL;
const require = createRequire(`${process.env.HEARTH_TEST_NODE_CLIENTS}/package.json`);
const OpenAI = require("openai");
const { Ollama } = require("ollama");

const messages = [{ role: "user", content: "hi" }];
const parameters = { type: "object", properties: { x: { type: "integer" } }, required: ["x"] };
const tool = { type: "function", function: { name: "f", description: "d", parameters } };
const ai = new OpenAI({ baseURL: `${host}/v1`, apiKey: "none", maxRetries: 0 });
const ollama = new Ollama({ host });

async function gathered(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
}

async function chat() {
  const { data: whole, request_id } = await ai.chat.completions
    .create({ model: "m", messages, tools: [tool], tool_choice: "auto" })
    .withResponse();
  const [choice] = whole.choices;
  assert.deepEqual([choice.finish_reason, choice.message.content], ["tool_calls", "Well. "]);
  assert.equal(choice.message.reasoning_content, "hm");
  assert.deepEqual(choice.message.tool_calls[0].function, { name: "f", arguments: '{"x": 1}' });
  assert.deepEqual([whole.usage.prompt_tokens, whole.usage.completion_tokens], [7, 4]);
  assert.match(request_id, /^req_/);

  const chunks = await gathered(
    await ai.chat.completions.create({
      model: "m", messages, stream: true, stream_options: { include_usage: true }, keep_alive: "1m",
    }),
  );
  assert.equal(chunks[0].choices[0].delta.role, "assistant");
  const texts = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "");
  assert.equal(texts.join(""), "Well. ");
  const last = chunks.at(-1);
  assert.deepEqual([last.choices, last.usage.total_tokens], [[], 11]);

  // The helper puts the chunks together by rules of its own.
  const put = await ai.chat.completions.stream({ model: "m", messages, tools: [tool] }).finalMessage();
  assert.equal(put.content, "Well. ");
  assert.deepEqual(put.tool_calls.map((call) => call.function), [{ name: "f", arguments: '{"x": 1}' }]);

  const tried = { messages, model: "m", n: 2, logprobs: true, top_logprobs: 2, seed: 1, stop: ["z"] };
  const two = await ai.chat.completions.create(tried);
  assert.equal(two.choices.length, 2);
  assert.equal(two.choices[0].logprobs.content[0].top_logprobs.length, 2);
}

// The client calls the tool itself and sends what came of it, until it has had enough.
async function runner() {
  const seen = [];
  const run = ai.chat.completions.runTools(
    {
      model: "m",
      messages,
      tools: [{
        type: "function",
        function: { name: "f", parameters, parse: JSON.parse, function: ({ x }) => (seen.push(x), "2") },
      }],
    },
    { maxChatCompletions: 2 },
  );
  await run.done();
  assert.deepEqual(seen, [1, 1]);
  assert.deepEqual(
    run.messages.map((message) => message.role),
    ["user", "assistant", "tool", "assistant", "tool"],
  );
}

async function completions() {
  const whole = await ai.completions.create({ model: "m", prompt: ["a", "b"], echo: true, n: 1 });
  assert.deepEqual(whole.choices.map((choice) => choice.text), ["ahmWell. ", "bhmWell. "]);
  const parts = await gathered(await ai.completions.create({ model: "m", prompt: "a", stream: true }));
  assert.equal(parts.map((part) => part.choices[0].text).join(""), "hmWell. ");
}

async function responses() {
  const first = await ai.responses.create({ model: "m", input: "hi", instructions: "be brief" });
  assert.deepEqual([first.status, first.output_text], ["completed", "Well. "]);
  assert.deepEqual(first.output.map((item) => item.type), ["reasoning", "message", "function_call"]);
  const stream = ai.responses.stream({ model: "m", input: "more", previous_response_id: first.id });
  const types = (await gathered(stream)).map((event) => event.type);
  assert.deepEqual([types[0], types.at(-1)], ["response.created", "response.completed"]);
  const second = await stream.finalResponse();
  assert.deepEqual([second.output_text, second.previous_response_id], ["Well. ", first.id]);
  const kept = await ai.responses.retrieve(second.id);
  assert.deepEqual([kept.id, kept.usage, kept.output_text], [second.id, second.usage, "Well. "]);
  const items = await gathered(await ai.responses.inputItems.list(first.id));
  assert.deepEqual(items.map((item) => item.content[0].text), ["hi"]);
  assert.equal((await ai.responses.cancel(first.id)).status, "completed");
  const again = await gathered(await ai.responses.retrieve(first.id, { stream: true, starting_after: 1 }));
  assert.deepEqual(again.at(-1).response.output, first.output);
  let made = await ai.responses.create({ model: "m", input: "hi", background: true });
  assert.equal(made.status, "queued");
  while (made.status !== "completed") made = await ai.responses.retrieve(made.id);
  assert.equal(made.output_text, "Well. ");
  await ai.responses.delete(first.id);
  await assert.rejects(ai.responses.retrieve(first.id), OpenAI.NotFoundError);
  const count = await ai.responses.inputTokens.count({ model: "m", input: "hi" });
  assert.deepEqual([count.object, count.input_tokens], ["response.input_tokens", 33]);
}

async function models() {
  assert.deepEqual((await gathered(ai.models.list())).map((model) => model.id), ["m", "owner/n"]);
  assert.equal((await ai.models.retrieve("owner/n")).owned_by, "owner");
  await ollama.copy({ source: "m", destination: "owner/twin" });
  const deleted = await ai.models.delete("owner/twin");
  assert.deepEqual(deleted, { id: "owner/twin", object: "model", deleted: true });
}

async function embeddings() {
  // It asks for base64 where nobody says how.
  for (const encoding_format of [undefined, "float"]) {
    const body = { model: "m", input: ["a", "bb"], encoding_format };
    const { data, usage } = await ai.embeddings.create(body);
    assert.deepEqual(data.map((one) => one.embedding), [[1, 0.5, 0.25], [2, 0.5, 0.25]]);
    assert.equal(usage.prompt_tokens, 6);
  }
}

async function refusals() {
  const nope = ai.chat.completions.create({ model: "nope", messages });
  await assert.rejects(nope, (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError, error);
    assert.deepEqual([error.code, error.param, error.status], ["model_not_found", "model", 404]);
    return true;
  });
  const hot = ai.chat.completions.create({ model: "m", messages, temperature: 9 });
  await assert.rejects(hot, (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError, error);
    assert.equal(error.param, "temperature");
    return true;
  });
}

async function openai() {
  for (const check of [chat, runner, completions, responses, models, embeddings, refusals]) await check();
}

async function ollamaAnswers() {
  const whole = await ollama.chat({ model: "m", messages, tools: [tool], keep_alive: "1m" });
  assert.deepEqual([whole.message.content, whole.message.thinking], ["Well. ", "hm"]);
  assert.deepEqual(whole.message.tool_calls[0].function.arguments, { x: 1 });
  assert.deepEqual([whole.done_reason, whole.prompt_eval_count, whole.eval_count], ["stop", 7, 4]);
  const parts = await gathered(await ollama.chat({ model: "m", messages, stream: true }));
  assert.equal(parts.map((part) => part.message.content ?? "").join(""), "Well. ");
  assert.deepEqual(parts.map((part) => part.done).lastIndexOf(false), parts.length - 2);
  const followed = [...messages, whole.message, { role: "tool", tool_name: "f", content: "2" }];
  assert.equal((await ollama.chat({ model: "m", messages: followed })).message.content, "Well. ");
  const options = { temperature: 0, num_ctx: 4096, stop: ["z"] };
  const text = await ollama.generate({ model: "m", prompt: "hi", options });
  assert.deepEqual([text.response, text.thinking], ["Well. ", "hm"]);
  const pieces = await gathered(await ollama.generate({ model: "m", prompt: "hi", stream: true }));
  assert.equal(pieces.map((piece) => piece.response).join(""), "Well. ");
  const vectors = [[1, 0.5, 0.25], [2, 0.5, 0.25]];
  assert.deepEqual((await ollama.embed({ model: "m", input: ["a", "bb"] })).embeddings, vectors);
  assert.deepEqual((await ollama.embeddings({ model: "m", prompt: "a" })).embedding, vectors[0]);
}

async function ollamaModels() {
  const names = async () => (await ollama.list()).models.map((model) => model.name).sort();
  assert.deepEqual(await names(), ["m:latest", "owner/n:latest"]);
  const shown = await ollama.show({ model: "m" });
  assert.deepEqual(shown.model_info, { "general.architecture": "fake" });
  assert.match((await ollama.version()).version, /^\d+\.\d+/);
  await ollama.copy({ source: "m", destination: "twin" });
  assert.deepEqual(await names(), ["m:latest", "owner/n:latest", "twin:latest"]);
  const steps = await gathered(await ollama.pull({ model: "twin", stream: true }));
  assert.deepEqual(steps.map((step) => step.status), ["success"]);
  assert.equal((await ollama.create({ model: "made", from: "twin" })).status, "success");
  for (const model of ["twin", "made"]) {
    assert.equal((await ollama.delete({ model })).status, "success");
  }
  assert.deepEqual(await names(), ["m:latest", "owner/n:latest"]);
  await assert.rejects(ollama.chat({ model: "nope", messages }), (error) => {
    assert.equal(error.status_code, 404);
    assert.match(error.message, /does not exist/);
    return true;
  });
}

async function ollamaKeepAlive() {
  const minutes = async () => {
    const [process] = (await ollama.ps()).models;
    return (new Date(process.expires_at) - Date.now()) / 60_000;
  };
  await ollama.generate({ model: "m", prompt: "", keep_alive: "10m" });
  const ten = await minutes();
  assert.ok(ten > 5 && ten <= 10, `${ten}`);
  await ollama.generate({ model: "m", prompt: "hi", keep_alive: -1 });
  assert.ok((await minutes()) > 1_000_000);
  await ollama.generate({ model: "m", prompt: "", keep_alive: 0 });
  while ((await ollama.ps()).models.length > 0);
}

async function ollamaClient() {
  for (const check of [ollamaAnswers, ollamaModels, ollamaKeepAlive]) await check();
}

// The worker holds before the end of this answer: it only ends because nobody wants it.
async function abort() {
  const stream = await ollama.chat({ model: "m", messages, stream: true });
  const read = async () => {
    for await (const part of stream) {
      if (part.message.content) stream.abort();
    }
  };
  await assert.rejects(read(), { name: "AbortError" });
  const chunks = await ai.chat.completions.create({ model: "m", messages, stream: true });
  for await (const chunk of chunks) {
    if (chunk.choices[0].delta.content) break;
  }
}

const checks = { openai, ollama: ollamaClient, abort };
for (const name of process.argv.slice(2)) {
  await checks[name]();
  console.log(`${name} works`);
}
