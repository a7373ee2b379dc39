// The official Node SDK against an image worker: node images.mjs BASE_URL KEY. Prints one line of JSON a check.
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.env.NODE_SDK, "package.json"));
const { default: OpenAI, toFile, BadRequestError, AuthenticationError } = require("openai");

const [baseURL, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const say = (check, facts) => console.log(JSON.stringify({ check, ...facts }));
const magic = (b64) => Buffer.from(b64, "base64").subarray(0, 8).toString("latin1");

const image = await client.images.generate({ prompt: "a boat", size: "64x64", seed: 1, steps: 4 });
const b64 = image.data[0].b64_json;
say("generate", { png: magic(b64) === "\x89PNG\r\n\x1a\n", output_tokens: image.usage.output_tokens });

const webp = await client.images.generate({ prompt: "a boat", size: "64x64", output_format: "webp", n: 2 });
say("formats", { webp: webp.data.map((d) => magic(d.b64_json).slice(0, 4)), format: webp.output_format });

const photo = await toFile(Buffer.from(b64, "base64"), "photo.png", { type: "image/png" });
const edited = await client.images.edit({ image: photo, prompt: "fog", strength: 0.5, steps: 4 });
say("edit", { size: edited.size, changed: edited.data[0].b64_json !== b64 });

const events = [];
const stream = await client.images.generate({ prompt: "a boat", size: "64x64", stream: true, partial_images: 2, steps: 6 });
for await (const event of stream) events.push([event.type, event.partial_image_index ?? null, magic(event.b64_json).slice(1, 4)]);
say("stream", { events });

const refused = async (asked, as) => {
  try {
    await client.images.generate(asked);
  } catch (error) {
    return { raised: error instanceof as, status: error.status, param: error.param, code: error.code };
  }
  return { raised: false };
};
say("size", await refused({ prompt: "x", size: "65x64" }, BadRequestError));
say("unknown", await refused({ prompt: "x", style: "vivid" }, BadRequestError));
const stranger = new OpenAI({ baseURL, apiKey: "wrong", maxRetries: 0 });
say("key", await stranger.images.generate({ prompt: "x" }).then(() => ({ raised: false }), (error) => ({ raised: error instanceof AuthenticationError, status: error.status })));
