// The official OpenAI Node SDK against a running Spectra: SPECTRA_BASE_URL, and SPECTRA_REAL=1 with a real model.
import assert from "node:assert/strict";
import OpenAI from "openai";

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

for (const [name, check] of Object.entries(checks)) {
  await check();
  console.log("ok", name);
}
