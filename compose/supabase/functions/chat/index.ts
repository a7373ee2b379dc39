// Answers an app with a recipe of the studio, streamed. The prompt stays in the studio's database: what is sent from
// here is the recipe's name, its variables and the user's message.
import OpenAI from "openai";

const LONGEST = 8_000; // characters of a message
const PROOF = ["x-run-id", "x-prompt-release", "x-messages-sha256", "x-policy"];
const CORS = {
  "access-control-allow-origin": Deno.env.get("ALLOWED_ORIGIN") ?? "*",
  "access-control-allow-headers": "authorization, apikey, content-type, x-client-info",
};

const studio = new OpenAI({
  baseURL: `${needed("SOUNDSTAGE_URL").replace(/\/+$/, "")}/v1`,
  apiKey: needed("SOUNDSTAGE_API_KEY"),
});
const recipe = Deno.env.get("SOUNDSTAGE_RECIPE") ?? "chat_conversation";

function needed(name: string): string {
  const value = Deno.env.get(name);
  if (!value) throw new Error(`${name} is not set`);
  return value;
}

function refused(status: number, message: string): Response {
  const error = { message, type: "invalid_request_error", param: null, code: null };
  return Response.json({ error }, { status, headers: CORS });
}

Deno.serve(async (request) => {
  if (request.method === "OPTIONS") return new Response(null, { headers: CORS });
  if (request.method !== "POST") return refused(405, "POST a JSON body {message, variables}.");
  const asked = await request.json().catch(() => null);
  const message = asked?.message;
  if (typeof message !== "string" || message.length === 0 || message.length > LONGEST) {
    return refused(400, `\`message\` is a text of 1 to ${LONGEST} characters.`);
  }
  const body = {
    prompt: { id: recipe, version: "production", variables: asked.variables ?? {} },
    messages: [{ role: "user", content: message }],
    stream: true,
  } as unknown as OpenAI.ChatCompletionCreateParamsStreaming; // `prompt` is the studio's own field
  try {
    // Who leaves here leaves there: the signal ends the studio's work too.
    const answer = await studio.chat.completions.create(body, { signal: request.signal }).asResponse();
    const headers = new Headers({ ...CORS, "content-type": "text/event-stream", "cache-control": "no-store" });
    for (const name of PROOF) headers.set(name, answer.headers.get(name) ?? "");
    return new Response(answer.body, { headers });
  } catch (error) {
    if (error instanceof OpenAI.APIError && error.status) return refused(error.status, error.message);
    console.error("the studio does not answer", error);
    return refused(502, "The studio does not answer.");
  }
});
