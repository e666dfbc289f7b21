/** Measure a hit through the socket beside this language's usual alternatives. One JSON object in, one a line out. */
import { text } from "node:stream/consumers";
import jwt from "jsonwebtoken";
import { createClient } from "redis";
import { TrustLayerClient } from "../src/index.js";

interface Task {
  socket: string;
  session_id: string;
  client_ip: string;
  redis_socket: string;
  redis_key: string;
  jwt: string;
  jwt_public_key_pem: string;
  seconds: number;
  warmup_seconds: number;
  concurrency: number[];
}

type Call = () => Promise<void> | void;

function insist(holds: unknown, what: string): void {
  if (!holds) {
    throw new Error(`not what was to be measured: ${what}`);
  }
}

/** Call again and again, as many at once as asked; return what each took, in microseconds. */
async function times(call: Call, concurrency: number, seconds: number): Promise<number[]> {
  const taken: number[] = [];
  const end = performance.now() + seconds * 1000;
  async function caller(): Promise<void> {
    for (let start = performance.now(); start < end; ) {
      await call();
      const now = performance.now();
      taken.push((now - start) * 1000);
      start = now;
    }
  }
  await Promise.all(Array.from({ length: concurrency }, caller));
  return taken;
}

async function measure(task: Task, what: string, call: Call, concurrency: number): Promise<void> {
  await times(call, concurrency, task.warmup_seconds);
  const begun = performance.now();
  const taken = (await times(call, concurrency, task.seconds)).sort((a, b) => a - b);
  const seconds = (performance.now() - begun) / 1000;
  const at = (share: number) => taken[Math.min(taken.length - 1, Math.floor(taken.length * share))] ?? 0;
  const result = { p50_us: at(0.5), p99_us: at(0.99), per_second: taken.length / seconds };
  console.log(JSON.stringify({ what, concurrency, calls: taken.length, ...result }));
}

// A session id comes by standard input: a command line is everybody's to read.
const task = JSON.parse(await text(process.stdin)) as Task;
const client = new TrustLayerClient({ socket: task.socket });
const redis = createClient({ socket: { path: task.redis_socket, tls: false } });
await redis.connect();

const context = { clientIp: task.client_ip };
async function validate(): Promise<void> {
  const { session } = await client.validate(task.session_id, { context });
  insist(session.handle, "an active session");
}
async function redisGet(): Promise<void> {
  const found = await redis.get(task.redis_key);
  insist(typeof JSON.parse(found ?? "null") === "object" && found !== null, "a session in Redis");
}
function jwtVerify(): void {
  // Throws for a token that has expired.
  insist(jwt.verify(task.jwt, task.jwt_public_key_pem, { algorithms: ["RS256"] }), "a valid token");
}

for (const concurrency of task.concurrency) {
  await measure(task, "validate", validate, concurrency);
  await measure(task, "redis_get", redisGet, concurrency);
}
await measure(task, "jwt_verify", jwtVerify, 1);
redis.destroy();
await client.close();
