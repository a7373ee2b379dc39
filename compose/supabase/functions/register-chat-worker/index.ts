// Chat workers tell this function where they are; it registers them with the orchestrator, by their address. For pods
// that reach Supabase and not the orchestrator: one that reaches both needs only ORCHESTRATOR_URL.
import { timingSafeEqual } from "node:crypto";

const LONGEST_URL = 500;

function needed(name: string): string {
  const value = Deno.env.get(name);
  if (!value) throw new Error(`${name} is not set`);
  return value;
}

const serviceKey = needed("SUPABASE_SERVICE_ROLE_KEY");
const orchestrator = needed("SOUNDSTAGE_URL").replace(/\/+$/, "");
const adminKey = needed("SOUNDSTAGE_ADMIN_KEY");
const workerKey = needed("WAN_WORKER_API_KEY");

function isServiceKey(given: string): boolean {
  const [one, other] = [given, serviceKey].map((text) => new TextEncoder().encode(text));
  return one.length === other.length && timingSafeEqual(one, other);
}

/** The worker's address without a path, or null for what is none. */
function address(given: unknown): URL | null {
  if (typeof given !== "string" || given.length > LONGEST_URL || !URL.canParse(given)) return null;
  const url = new URL(given);
  const plain = !url.username && !url.password && !url.search && !url.hash;
  return plain && ["http:", "https:"].includes(url.protocol) ? url : null;
}

/** A name that stays the same for one address. */
function nameOf(url: URL): string {
  return `chat-${url.host}`.toLowerCase().replace(/[^a-z0-9_.-]/g, "-").slice(0, 63);
}

Deno.serve(async (request) => {
  if (request.method !== "POST") return Response.json({ error: "POST only" }, { status: 405 });
  const given = request.headers.get("authorization")?.replace(/^Bearer /, "") ?? "";
  if (!isServiceKey(given)) return Response.json({ error: "the service key is wrong" }, { status: 401 });
  const asked = await request.json().catch(() => null);
  const url = address(asked?.worker_url);
  if (url === null || asked.worker_type !== "pure_inference_engine") {
    return Response.json({ error: "worker_url or worker_type is wrong" }, { status: 400 });
  }
  const wanted = { name: nameOf(url), url: url.origin, kind: "chat", api_key: workerKey };
  try {
    const answer = await fetch(`${orchestrator}/v1/workers`, {
      method: "POST",
      headers: { authorization: `Bearer ${adminKey}`, "content-type": "application/json" },
      body: JSON.stringify(wanted),
      signal: AbortSignal.timeout(8_000),
    });
    const told = await answer.json();
    return Response.json(answer.ok ? { success: true, worker: told } : told, { status: answer.status });
  } catch (error) {
    console.error("the orchestrator does not answer", error);
    return Response.json({ error: "the orchestrator does not answer" }, { status: 502 });
  }
});
