// The Vercel AI SDK (`ai` with `@ai-sdk/openai-compatible`) against a running Spectra.
import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const provider = createOpenAICompatible({ name: "spectra", baseURL: process.env.SPECTRA_BASE_URL, includeUsage: true });
const model = provider("auto");
const structured = createOpenAICompatible({ name: "spectra", baseURL: process.env.SPECTRA_BASE_URL, supportsStructuredOutputs: true })("auto");

const real = process.env.SPECTRA_REAL === "1";

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
  async object() {
    const schema = z.object({ city: z.string(), people: z.number().int() });
    const { output } = await generateText({ model: structured, output: Output.object({ schema }), prompt: "The city of 'Lima' and its 10 people.", maxRetries: 0 });
    assert.deepEqual(output, { city: "Lima", people: 10 });
    const result = streamText({ model: structured, output: Output.object({ schema }), prompt: "The city of 'Lima' and its 10 people.", maxRetries: 0 });
    let last;
    for await (const piece of result.partialOutputStream) last = piece;
    assert.deepEqual(last, { city: "Lima", people: 10 });
  },
  async tools() {
    const calls = [];
    const weather = tool({ inputSchema: z.object({ city: z.string() }), execute: async ({ city }) => { calls.push(city); return "Sunny."; } });
    const { text, steps } = await generateText({ model, tools: { weather }, prompt: "Weather in 'Lima'?", stopWhen: stepCountIs(3), maxRetries: 0 });
    assert.ok(text.trim() && steps.length === 2);
    assert.deepEqual(calls, ["Lima"]);
  },
  async streamed_parallel_tools() {
    const calls = {};
    const note = (name) => async (input) => { calls[name] = input; return "done"; };
    const weather = tool({ inputSchema: z.object({ city: z.string() }), execute: note("weather") });
    const clock = tool({ inputSchema: z.object({ hours: z.number().int() }), execute: note("clock") });
    const result = streamText({ model, tools: { weather, clock }, prompt: "Call both: the weather in 'Lima', and a clock for 5 hours.", stopWhen: stepCountIs(3), maxRetries: 0 });
    assert.ok((await result.text).trim());
    assert.deepEqual(calls, { weather: { city: "Lima" }, clock: { hours: 5 } });
  },
  async embeddings() {
    const { embeddings } = await embedMany({ model: provider.embeddingModel("embed"), values: ["one", "two"], maxRetries: 0 });
    assert.deepEqual(embeddings, [[0.5, -1], [0.5, -1]]);
  },
  async errors() {
    await assert.rejects(generateText({ model: provider("no-such-model"), prompt: "x", maxRetries: 0 }), (error) => error.statusCode === 404);
  },
};

// What is held to a schema is of its form whoever answers; the rest needs a model that understands.
const form = {
  async object() {
    const schema = z.object({ size: z.enum(["small", "large"]), count: z.number().int() });
    const ask = { model: structured, output: Output.object({ schema }), prompt: "A size and a count.", maxOutputTokens: 64, maxRetries: 0 };
    schema.parse((await generateText(ask)).output);
    let last;
    for await (const piece of streamText(ask).partialOutputStream) last = piece;
    schema.parse(last);
  },
};
const all = real ? { unary: checks.unary, streaming: checks.streaming, ...form, errors: checks.errors } : checks;
for (const [name, check] of Object.entries(all)) {
  await check();
  console.log("ok", name);
}
