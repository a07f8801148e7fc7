// The official OpenAI Node SDK against a running Spectra: SPECTRA_BASE_URL, and SPECTRA_REAL=1 with a real model.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const client = new OpenAI({ baseURL: process.env.SPECTRA_BASE_URL, apiKey: process.env.SPECTRA_KEY ?? "none", maxRetries: 0, timeout: 180_000 });
const real = process.env.SPECTRA_REAL === "1";
const messages = [{ role: "user", content: "Say hello." }];
const schema = {
  type: "object",
  properties: { city: { type: "string" }, people: { type: "integer" } },
  required: ["city", "people"],
  additionalProperties: false,
};

const checks = {
  async unary() {
    const { data, response } = await client.chat.completions.create({ model: "auto", messages, max_tokens: 32 }).withResponse();
    assert.ok(data.choices[0].message.content.trim());
    assert.equal(data._request_id, response.headers.get("x-request-id"));
    assert.ok(["local", "strong"].includes(response.headers.get("x-spectra-route")));
  },
  async streaming() {
    const stream = await client.chat.completions.create({ model: "auto", messages, max_tokens: 32, stream: true, stream_options: { include_usage: true } });
    let text = "", usage = null;
    const ids = new Set();
    for await (const chunk of stream) {
      ids.add(chunk.id);
      usage = chunk.usage ?? usage;
      text += chunk.choices[0]?.delta?.content ?? "";
    }
    assert.ok(text.trim() && ids.size === 1 && usage.completion_tokens > 0);
  },
  async json_schema() {
    const response_format = { type: "json_schema", json_schema: { name: "city", schema, strict: true } };
    const question = [{ role: "user", content: "Name one large city and how many people live there. Answer in JSON." }];
    const answer = await client.chat.completions.create({ model: real ? "auto" : "json", messages: question, response_format, max_tokens: 64 });
    const value = JSON.parse(answer.choices[0].message.content);
    assert.deepEqual(Object.keys(value).sort(), ["city", "people"]);
  },
  async models() {
    const names = [];
    for await (const model of client.models.list()) names.push(model.id);
    assert.ok(names.includes("auto"));
  },
  async errors() {
    await assert.rejects(client.chat.completions.create({ model: "no-such-model", messages }), (error) => error.status === 404 && error.code === "model_not_found");
    await assert.rejects(client.chat.completions.create({ model: "auto", messages: [] }), (error) => error.status === 400 && error.type === "invalid_request_error");
  },
};

// What a small model calls of its own accord has no sense: these are for the scripted one.
const scripted = {
  async tools() {
    const tools = [{ type: "function", function: { name: "weather", parameters: { type: "object", properties: { city: { type: "string" } } } } }];
    const asked = [{ role: "user", content: "What is the weather in 'Lima'?" }];
    const stream = client.chat.completions.stream({ model: "auto", messages: asked, tools });
    const final = await stream.finalChatCompletion();
    assert.deepEqual(JSON.parse(final.choices[0].message.tool_calls[0].function.arguments), { city: "Lima" });
    const calls = [];
    const runner = client.chat.completions.runTools({
      model: "auto", messages: asked,
      tools: [{ type: "function", function: { name: "weather", parse: JSON.parse, parameters: tools[0].function.parameters, function: ({ city }) => { calls.push(city); return "Sunny."; } } }],
    });
    assert.ok((await runner.finalContent()).trim());
    assert.deepEqual(calls, ["Lima"]);
  },
  async parsed() {
    const City = z.object({ city: z.string(), people: z.number().int() });
    const question = [{ role: "user", content: "The city of 'Lima' and its 10 people." }];
    const answer = await client.chat.completions.parse({ model: "auto", messages: question, response_format: zodResponseFormat(City, "city") });
    assert.deepEqual(answer.choices[0].message.parsed, { city: "Lima", people: 10 });
  },
  async embeddings() {
    const answer = await client.embeddings.create({ model: "embed", input: ["one", "two"] });
    assert.deepEqual(answer.data.map((item) => [...item.embedding]), [[0.5, -1], [0.5, -1]]);
  },
};

for (const [name, check] of Object.entries(real ? checks : { ...checks, ...scripted })) {
  await check();
  console.log("ok", name);
}
