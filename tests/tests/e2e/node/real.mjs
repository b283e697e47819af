// The clients for Node against real workers.
//
// Tiny models say nonsense: of them it is structure, counts and vectors that are looked at. Where there is
// a model that knows something, it is asked. Prints one line when everything was as it should be; an
// assertion ends it otherwise.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

const host = process.env.HEARTH_URL;
const require = createRequire(`${process.env.HEARTH_TEST_NODE_CLIENTS}/package.json`);
const OpenAI = require("openai");
const { Ollama } = require("ollama");
const { z } = require("zod");
const { zodFunction, zodResponseFormat, zodTextFormat } = require("openai/helpers/zod");

const ai = new OpenAI({ baseURL: `${host}/v1`, apiKey: "none", maxRetries: 0 });
const ollama = new Ollama({ host });
const messages = [{ role: "user", content: "What is a licence?" }];
// A schema holds for a model that knows nothing of it.
const Licence = z.object({ name: z.enum(["a", "b"]), sure: z.boolean() });

async function gathered(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
}

async function structure() {
  const limits = { model: "tiny", temperature: 1, max_tokens: 300, seed: 1 };
  const response_format = zodResponseFormat(Licence, "licence");
  const parsed = await ai.chat.completions.parse({ ...limits, messages, response_format });
  Licence.parse(parsed.choices[0].message.parsed);
  const tools = [zodFunction({ name: "license", parameters: Licence })];
  const asked = { ...limits, messages, tools, tool_choice: "required", parallel_tool_calls: false };
  const called = await ai.chat.completions.parse(asked);
  const [call] = called.choices[0].message.tool_calls;
  assert.equal(call.function.name, "license");
  Licence.parse(call.function.parsed_arguments);
  const said = { model: "tiny", input: "What?", text: { format: zodTextFormat(Licence, "licence") } };
  Licence.parse((await ai.responses.parse({ ...said, max_output_tokens: 300, seed: 1 })).output_parsed);
  const options = { num_predict: 300, seed: 1 };
  const format = z.toJSONSchema(Licence);
  const whole = await ollama.chat({ model: "tiny", messages, format, options });
  Licence.parse(JSON.parse(whole.message.content));
  assert.equal(whole.done_reason, "stop");
  // Nobody can insist on a call here, but the model is told of the tools.
  const tool = { type: "function", function: { name: "licence", description: "d", parameters: format } };
  const short = { model: "tiny", messages, options: { num_predict: 1 } };
  const told = await ollama.chat({ ...short, tools: [tool] });
  const untold = await ollama.chat(short);
  assert.ok(told.prompt_eval_count > untold.prompt_eval_count + 20);
}

// Read in one run or only its last token, a prompt is the same to a model without quantised products.
async function greedy() {
  const asked = { model: "tiny", messages, temperature: 0, max_tokens: 12 };
  const whole = await ai.chat.completions.create(asked);
  const text = whole.choices[0].message.content;
  const chunks = await gathered(await ai.chat.completions.create({ ...asked, stream: true }));
  assert.equal(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join(""), text);
  const options = { temperature: 0, num_predict: 12 };
  const theirs = await ollama.chat({ model: "tiny", messages, options });
  assert.equal(theirs.message.content, text);
  assert.equal(theirs.prompt_eval_count, whole.usage.prompt_tokens);
  assert.equal(theirs.eval_count, whole.usage.completion_tokens);
}

// How long each loaded model is kept, in seconds, is told beside what Ollama tells.
async function kept() {
  const seconds = async () => {
    const { models } = await (await fetch(`${host}/api/ps`)).json();
    return models.find((model) => model.name === "tiny:latest").keep_alive;
  };
  const limits = { model: "tiny", messages };
  await ai.chat.completions.create({ ...limits, max_tokens: 1, keep_alive: "10m" });
  assert.equal(await seconds(), 600);
  await ollama.chat({ ...limits, options: { num_predict: 1 }, keep_alive: "20m" });
  assert.equal(await seconds(), 1200);
}

function cosine(one, other) {
  const product = (x, y) => x.reduce((sum, value, place) => sum + value * y[place], 0);
  return product(one, other) / Math.sqrt(product(one, one) * product(other, other));
}

async function vectors() {
  const input = ["this software is free", "you may copy it"];
  const { data, usage } = await ai.embeddings.create({ model: "embed", input });
  const theirs = await ollama.embed({ model: "embed", input });
  assert.equal(theirs.prompt_eval_count, usage.prompt_tokens);
  for (const [place, { embedding }] of data.entries()) {
    assert.ok(Math.abs(cosine(embedding, theirs.embeddings[place]) - 1) < 1e-6);
  }
  const loaded = (await ollama.ps()).models.map((model) => model.name);
  assert.deepEqual(loaded.sort(), ["embed:latest", "tiny:latest"]);
}

async function knowledge(model) {
  const asked = [{ role: "user", content: "What is the capital of France?" }];
  const body = { model, messages: asked, temperature: 0, max_tokens: 24 };
  assert.match((await ai.chat.completions.create(body)).choices[0].message.content, /Paris/);
  const options = { temperature: 0, num_predict: 24 };
  const parts = await gathered(await ollama.chat({ model, messages: asked, options, stream: true }));
  assert.match(parts.map((part) => part.message.content).join(""), /Paris/);
  const long = { model, prompt: "Once upon a time", options: { num_predict: 4000 }, stream: true };
  const stream = await ollama.generate(long);
  const read = async () => {
    for await (const part of stream) {
      if (part.response) stream.abort();
    }
  };
  await assert.rejects(read(), { name: "AbortError" });
  await ollama.generate({ model, prompt: "", keep_alive: 0 });
  while ((await ollama.ps()).models.some((loaded) => loaded.model.startsWith(model)));
}

for (const check of [structure, greedy, kept, vectors]) await check();
for (const model of process.argv.slice(2)) await knowledge(model);
console.log("all of it works");
