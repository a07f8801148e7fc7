// The Vercel AI SDK (`ai` with `@ai-sdk/openai-compatible`) against a running Spectra.
import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";

const provider = createOpenAICompatible({ name: "spectra", baseURL: process.env.SPECTRA_BASE_URL, includeUsage: true });
const model = provider("auto");

const checks = {
  async unary() {
    const { text, finishReason, usage } = await generateText({ model, prompt: "Say hello.", maxOutputTokens: 32, maxRetries: 0 });
    assert.ok(text.trim() && ["stop", "length"].includes(finishReason) && usage.outputTokens > 0);
  },
  async streaming() {
    const result = streamText({ model, prompt: "Say hello.", maxOutputTokens: 32, maxRetries: 0 });
    let text = "";
    for await (const piece of result.textStream) text += piece;
    assert.ok(text.trim() && (await result.usage).outputTokens > 0);
  },
  async errors() {
    await assert.rejects(generateText({ model: provider("no-such-model"), prompt: "x", maxRetries: 0 }), (error) => error.statusCode === 404);
  },
};

for (const [name, check] of Object.entries(checks)) {
  await check();
  console.log("ok", name);
}
