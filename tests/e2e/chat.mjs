// The official Node SDK against the gateway: node chat.mjs BASE_URL KEY. Prints one line of JSON a check.
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.env.NODE_SDK, "package.json"));
const { default: OpenAI, NotFoundError, AuthenticationError, BadRequestError } = require("openai");

const [baseURL, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const say = (check, facts) => console.log(JSON.stringify({ check, ...facts }));
const model = "qwen_instruct";
const messages = [{ role: "user", content: "What is the capital of France?" }];
const asked = { model, messages, max_tokens: 20, temperature: 0 };

const answer = await client.chat.completions.create(asked);
say("answer", { text: answer.choices[0].message.content, finish: answer.choices[0].finish_reason });

let text = "", usage = null;
const stream = await client.chat.completions.create({ ...asked, stream: true, stream_options: { include_usage: true } });
for await (const chunk of stream) {
  text += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
say("stream", { text, tokens: usage.completion_tokens });

const left = await client.chat.completions.create({ ...asked, max_tokens: 2000, ignore_eos: true, stream: true });
for await (const chunk of left) break;
say("left", { aborted: left.controller.signal.aborted });

const response = await client.responses.create({ model, input: "What is the capital of France?", max_output_tokens: 20, temperature: 0 });
say("responses", { text: response.output_text });

const parameters = { type: "object", properties: { age: { type: "integer", maximum: 120 } }, required: ["age"], additionalProperties: false };
const tools = [{ type: "function", function: { name: "save_age", strict: true, parameters } }];
const called = await client.chat.completions.create({ ...asked, max_tokens: 60, tools, tool_choice: { type: "function", function: { name: "save_age" } } });
const call = called.choices[0].message.tool_calls[0].function;
say("tool", { name: call.name, keys: Object.keys(JSON.parse(call.arguments)) });

const names = [];
for await (const each of client.models.list()) names.push(each.id);
say("models", { there: names.includes(model) });

const refused = (work, as) =>
  work.then(() => ({ raised: false }), (error) => ({ raised: error instanceof as, status: error.status, code: error.code }));
say("unknown", await refused(client.chat.completions.create({ ...asked, model: "nope" }), NotFoundError));
say("refused", await refused(client.chat.completions.create({ ...asked, chat_template: "x" }), BadRequestError));
const stranger = new OpenAI({ baseURL, apiKey: "wrong", maxRetries: 0 });
say("key", await refused(stranger.chat.completions.create(asked), AuthenticationError));
