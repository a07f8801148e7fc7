// The official Anthropic Node SDK against /v1/messages of a running Spectra.
import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({ baseURL: process.env.SPECTRA_BASE_URL.replace(/\/v1$/, ""), apiKey: "none", maxRetries: 0, timeout: 180_000 });
const messages = [{ role: "user", content: "Say hello." }];

const checks = {
  async unary() {
    const message = await client.messages.create({ model: "auto", max_tokens: 32, messages });
    assert.ok(message.content[0].text.trim() && message.usage.output_tokens > 0);
  },
  async streaming() {
    const final = await client.messages.stream({ model: "auto", max_tokens: 32, messages }).finalMessage();
    assert.ok(final.content[0].text.trim() && ["end_turn", "max_tokens"].includes(final.stop_reason));
  },
  async tools() {
    const tools = [{ name: "weather", input_schema: { type: "object", properties: { city: { type: "string" } } } }];
    const asked = [{ role: "user", content: "Weather in 'Lima'?" }];
    const final = await client.messages.stream({ model: "tool", max_tokens: 64, messages: asked, tools }).finalMessage();
    assert.equal(final.stop_reason, "tool_use");
    assert.deepEqual(final.content[0].input, { city: "Lima" });
    const result = { type: "tool_result", tool_use_id: final.content[0].id, content: "Sunny." };
    const told = await client.messages.create({ model: "tool", max_tokens: 64, tools, messages: [...asked, { role: "assistant", content: final.content }, { role: "user", content: [result] }] });
    assert.ok(told.content[0].text.trim());
  },
  async errors() {
    await assert.rejects(client.messages.create({ model: "no-such-model", max_tokens: 8, messages }), (error) => error.status === 404);
  },
};

// A 135M model calls no tools.
if (process.env.SPECTRA_REAL === "1") delete checks.tools;
for (const [name, check] of Object.entries(checks)) {
  await check();
  console.log("ok", name);
}
