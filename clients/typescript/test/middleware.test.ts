import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, request as httpRequest, type IncomingHttpHeaders, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import { after, before, describe, mock, test } from "node:test";
import express, { type Request, type Response } from "express";
import Fastify from "fastify";
import { expressGate } from "../src/express.js";
import { type GateOptions, trustlayerPlugin } from "../src/fastify.js";
import { TrustLayerClient, ValidationMode } from "../src/index.js";
import { Pair } from "./pair.js";

const TOO_LONG = "x".repeat(200);
const PER_ROUTE = {
  "/strict": { mode: ValidationMode.STRICT },
  "/reader": { rolesAll: ["reader"] },
  "/admin": { rolesAll: ["reader", "admin"] },
  "/one-of": { rolesAny: ["admin", "reader"] },
  "/none-of": { rolesAny: ["admin", "editor"] },
  "/not-covered": { route: "nowhere" },
  "/wrong-question": { route: TOO_LONG },
} as const;

/** What the apps have logged. */
const logged: string[] = [];

/** Gives a server that listens, with the same routes for both frameworks, and what ends it. */
type MakeApp = (options: GateOptions) => Promise<{ server: Server; close: () => Promise<unknown> }>;

const makeExpress: MakeApp = async (options) => {
  const app = express();
  const gate = expressGate(options);
  const handle = (request: Request, response: Response) => {
    response.json({ handle: request.trustlayer?.session.handle ?? null });
  };
  app.get("/open", handle);
  app.get("/context", (request, response) =>
    response.json({ ...gate.contextOf(request), sessionId: gate.sessionIdOf(request) ?? null }),
  );
  app.get("/optional", gate.session({ session: "optional" }), handle);
  app.use(gate.session());
  app.get("/me", handle);
  for (const [path, demands] of Object.entries(PER_ROUTE)) {
    app.get(path, gate.session(demands), handle);
  }
  const server = createServer(app).listen(0, "127.0.0.1");
  await once(server, "listening");
  return { server, close: async () => server.close() };
};

const makeFastify: MakeApp = async (options) => {
  const logger = { level: "error", stream: { write: (line: string) => void logged.push(line) } };
  const app = Fastify({ logger });
  await app.register(trustlayerPlugin, options);
  const handle = async (request: { trustlayer: { session: { handle: string } } | undefined }) => ({
    handle: request.trustlayer?.session.handle ?? null,
  });
  app.get("/open", { config: { trustlayer: "none" } }, handle);
  app.get("/context", { config: { trustlayer: "none" } }, async (request) => ({
    ...app.trustlayer.contextOf(request),
    sessionId: app.trustlayer.sessionIdOf(request) ?? null,
  }));
  app.get("/optional", { config: { trustlayer: { session: "optional" } } }, handle);
  app.get("/me", handle);
  for (const [path, demands] of Object.entries(PER_ROUTE)) {
    app.get(path, { config: { trustlayer: demands } }, handle);
  }
  await app.listen({ port: 0, host: "127.0.0.1" });
  return { server: app.server, close: () => app.close() };
};

interface Answer {
  status: number;
  headers: IncomingHttpHeaders;
  body: Record<string, unknown>;
}

/** `headers`: names and values in turn, so that one may come twice. */
async function get(server: Server, path: string, headers: string[] = []): Promise<Answer> {
  const { port } = server.address() as AddressInfo;
  const pairs = ["host", "localhost", "connection", "close", ...headers];
  const sent = httpRequest({ host: "127.0.0.1", port, path, headers: pairs as never }).end();
  const [response] = await once(sent, "response");
  return { status: response.statusCode, headers: response.headers, body: JSON.parse(await text(response)) };
}

for (const [framework, makeApp] of Object.entries({ Express: makeExpress, Fastify: makeFastify })) {
  describe(`middleware for ${framework}`, () => {
    let pair: Pair;
    let client: TrustLayerClient;
    let app: Awaited<ReturnType<MakeApp>>;
    let proxied: Awaited<ReturnType<MakeApp>>;
    let cookie: string[];
    let browser: string[];

    before(async () => {
      pair = await Pair.start();
      client = new TrustLayerClient({ socket: pair.known.socket });
      app = await makeApp({ client, deviceFingerprintFrom: "cookie:device" });
      proxied = await makeApp({ client, trustedProxies: ["127.0.0.1", "10.0.0.0/8", "2001:db8::/32"] });
      const { session_id: sessionId, device_fingerprint: device, user_agent: agent } = pair.known;
      cookie = ["cookie", `session_id=${sessionId}`];
      browser = ["cookie", `a=b; session_id=${sessionId}; device=${device}`, "user-agent", agent];
    });
    after(async () => {
      await app?.close();
      await proxied?.close();
      await client?.close();
      await pair?.stop();
    });

    test("passes a session on to the handler, from the cookie or as a bearer", async () => {
      const answer = await get(app.server, "/me", cookie);
      assert.equal(answer.status, 200);
      assert.match(String(answer.body["handle"]), /^sh_/);
      const bearer = ["authorization", `bearer ${pair.known.session_id}`];
      assert.equal((await get(app.server, "/me", bearer)).status, 200);
      // The first place in which anything was sent counts.
      const both = await get(app.server, "/me", ["cookie", "session_id=nonsense", ...bearer]);
      assert.deepEqual([both.status, both.body["reason"]], [401, "MALFORMED"]);
    });

    test("denies by default what sends no session id, also where there is no route", async () => {
      for (const path of ["/me", "/no-such-route"]) {
        const answer = await get(app.server, path, ["authorization", "Basic eDp5"]);
        assert.equal(answer.status, 401);
        assert.equal(answer.headers["www-authenticate"], "Bearer");
        assert.equal(answer.headers["cache-control"], "no-store");
        assert.deepEqual(answer.body, { reason: "SESSION_MISSING", message: "no session id was sent" });
      }
      assert.equal((await get(app.server, "/open")).status, 200);
    });

    test("says why a session is denied", async () => {
      const answer = await get(app.server, "/me", ["cookie", "session_id=nonsense"]);
      assert.equal(answer.status, 401);
      assert.equal(answer.headers["www-authenticate"], 'Bearer error="invalid_token"');
      assert.equal(answer.headers["cache-control"], "no-store");
      assert.equal(answer.body["reason"], "MALFORMED");
    });

    test("two different values in one place are malformed, the same twice is not", async () => {
      const { session_id: sessionId } = pair.known;
      for (const headers of [
        ["cookie", `session_id=${sessionId}; session_id=other`],
        ["cookie", `session_id=${sessionId}`, "cookie", "session_id=other"],
        ["authorization", `Bearer ${sessionId}`, "authorization", "Bearer other"],
      ]) {
        const answer = await get(app.server, "/me", headers);
        assert.deepEqual([answer.status, answer.body["reason"]], [401, "MALFORMED"], headers.join(" ").slice(0, 12));
      }
      const twice = ["cookie", `session_id=${sessionId}; session_id=${sessionId}`];
      assert.equal((await get(app.server, "/me", twice)).status, 200);
    });

    test("a route can ask for a mode, which needs the context that was bound at login", async () => {
      assert.equal((await get(app.server, "/strict", browser)).status, 200);
      const missing = await get(app.server, "/strict", cookie);
      assert.deepEqual([missing.status, missing.body["reason"]], [401, "CONTEXT_MISSING"]);
      const twice = await get(app.server, "/strict", [...browser, "user-agent", "another"]);
      assert.deepEqual([twice.status, twice.body["reason"]], [401, "CONTEXT_MISSING"]);
      const other = await get(app.server, "/strict", [...browser.slice(0, 2), "user-agent", "another"]);
      assert.deepEqual([other.status, other.body["reason"]], [401, "USER_AGENT_MISMATCH"]);
    });

    test("a route can ask for roles, of which the user needs all", async () => {
      assert.equal((await get(app.server, "/reader", cookie)).status, 200);
      const answer = await get(app.server, "/admin", cookie);
      assert.deepEqual([answer.status, answer.body["reason"]], [403, "ROLE_MISSING"]);
      assert.equal(answer.headers["www-authenticate"], undefined);
    });

    test("a rule that the sidecar does not have covers nothing", async () => {
      const answer = await get(app.server, "/not-covered", cookie);
      assert.deepEqual([answer.status, answer.body["reason"]], [403, "ROUTE_NOT_COVERED"]);
    });

    test("a route can ask for one of several roles", async () => {
      assert.equal((await get(app.server, "/one-of", cookie)).status, 200);
      const answer = await get(app.server, "/none-of", cookie);
      assert.deepEqual([answer.status, answer.body["reason"]], [403, "ROLE_MISSING"]);
    });

    test("an optional session passes nobody as nobody", async () => {
      assert.deepEqual((await get(app.server, "/optional")).body, { handle: null });
      assert.deepEqual((await get(app.server, "/optional", ["cookie", "session_id=x"])).body, { handle: null });
      assert.match(String((await get(app.server, "/optional", cookie)).body["handle"]), /^sh_/);
    });

    test("a wrong question is the app's mistake, which its log names, and the request does not pass", async () => {
      logged.length = 0;
      const error = mock.method(console, "error", (line: unknown) => void logged.push(String(line)));
      const answer = await get(app.server, "/wrong-question", cookie).finally(() => error.mock.restore());
      const message = "the app asks the sidecar what it cannot answer";
      assert.deepEqual([answer.status, answer.body], [500, { reason: "INTERNAL", message }]);
      assert.equal(answer.headers["cache-control"], "no-store");
      assert.match(logged.join(""), /CallFailed/);
      assert.ok(!logged.join("").includes(pair.known.session_id));
    });

    test("reads the device fingerprint from a header when nothing else is said", async () => {
      const headers = ["x-device-fingerprint", "a device"];
      assert.equal((await get(proxied.server, "/context", headers)).body["deviceFingerprint"], "a device");
    });

    test("reads session id and context of any request, for a login and what follows it", async () => {
      const { session_id: sessionId, device_fingerprint: deviceFingerprint, user_agent: userAgent } = pair.known;
      const expected = { clientIp: "127.0.0.1", deviceFingerprint, userAgent, sessionId };
      assert.deepEqual((await get(app.server, "/context", browser)).body, expected);
      assert.equal((await get(app.server, "/context")).body["sessionId"], null);
    });

    test("believes X-Forwarded-For of trusted proxies only, from the right", async () => {
      const clientIp = async (server: Server, ...lines: string[]) => {
        const headers = lines.flatMap((line) => ["x-forwarded-for", line]);
        return (await get(server, "/context", headers)).body["clientIp"];
      };
      assert.equal(await clientIp(app.server, "203.0.113.9"), "127.0.0.1");
      assert.equal(await clientIp(proxied.server, "203.0.113.9"), "203.0.113.9");
      assert.equal(await clientIp(proxied.server, "198.51.100.1, 203.0.113.9, 10.2.3.4"), "203.0.113.9");
      assert.equal(
        await clientIp(proxied.server, "198.51.100.1", "203.0.113.9:4711, [2001:db8::1]:80"),
        "203.0.113.9",
      );
      assert.equal(await clientIp(proxied.server, "::ffff:203.0.113.9, ::ffff:10.1.1.1"), "203.0.113.9");
      // What cannot be read is no client IP, and a trusted proxy is never a client.
      assert.equal(await clientIp(proxied.server, "203.0.113.9, unknown"), "");
      assert.equal(await clientIp(proxied.server, "10.1.1.1"), "");
      assert.equal(await clientIp(proxied.server), "");
      // At most 32 addresses in all, whichever of them would count.
      assert.equal(await clientIp(proxied.server, `203.0.113.9${", 10.0.0.1".repeat(31)}`), "203.0.113.9");
      assert.equal(await clientIp(proxied.server, `203.0.113.9${", 10.0.0.1".repeat(32)}`), "");
      assert.equal(
        await clientIp(proxied.server, `${"1.1.1.1, ".repeat(16)}1.1.1.1`, "203.0.113.9, ".repeat(16)),
        "",
      );
    });

    test("refuses with 503 while nobody can know, also where a session is optional", async () => {
      await pair.tell("stop-sidecar");
      try {
        for (const path of ["/me", "/optional"]) {
          const answer = await get(app.server, path, cookie);
          assert.equal(answer.status, 503);
          assert.match(String(answer.headers["retry-after"]), /^[1-9]\d*$/);
          assert.equal(answer.headers["cache-control"], "no-store");
          assert.equal(answer.body["reason"], "UNAVAILABLE");
        }
      } finally {
        await pair.tell("start-sidecar");
      }
    });
  });
}

const client = new TrustLayerClient({ socket: "/nowhere" });

test("options that cannot be meant are refused at the start", async () => {
  for (const trustedProxies of [
    ["0.0.0.0/0"],
    ["::/0"],
    ["10.0.0.0/33"],
    ["proxy.example"],
    ["10.0.0.0/8/8"],
    ["10.0.0.0/"],
  ]) {
    assert.throws(() => expressGate({ client, trustedProxies }), TypeError, String(trustedProxies));
  }
  for (const place of ["cookie:", "cookie:a b", "query:session_id", "header:"] as never[]) {
    assert.throws(() => expressGate({ client, sessionIdFrom: [place] }), TypeError, place);
  }
  for (const wrong of [
    { trustedProxy: ["10.0.0.0/8"] },
    { trustedProxies: "10.0.0.1" },
    { sessionIDFrom: ["bearer"] },
    { sessionIdFrom: "bearer" },
    { sessionIdFrom: [] },
    { deviceFingerprintFrom: "cookie" },
    { client: undefined },
    { client: "/run/bridge-sidecar/bridge.sock" },
  ]) {
    const options = { client, ...wrong } as never;
    assert.throws(() => expressGate(options), TypeError, JSON.stringify(wrong));
    await assert.rejects(async () => Fastify().register(trustlayerPlugin, options), TypeError, JSON.stringify(wrong));
  }
  assert.throws(() => expressGate({ client, onRefused: "page" } as never), TypeError);
  await Fastify().register(trustlayerPlugin, { client, prefix: "/api", logLevel: "error" } as never);
});

const WRONG_DEMANDS: unknown[] = [
  null,
  "optional",
  ["admin"],
  { role: ["admin"] },
  { requireRoles: ["admin"] },
  { Mode: ValidationMode.STRICT },
  { toString: 1 },
  { rolesAll: "admin" },
  { rolesAll: undefined },
  { rolesAll: [""] },
  { rolesAll: [["admin"]] },
  { rolesAny: "admin" },
  { rolesAny: [] },
  { mode: "STRICT" },
  { mode: undefined },
  { mode: 99 },
  { route: "" },
  { route: 7 },
  { session: "none" },
  { session: true },
  // Who drops the cookie would pass where who is known may not.
  { session: "optional", rolesAll: ["admin"] },
  { session: "optional", rolesAny: ["admin"] },
  { session: "optional", mode: ValidationMode.STRICT },
  { session: "optional", route: "billing" },
];

test("demands that cannot be meant are refused where they are made", async () => {
  const gate = expressGate({ client });
  const app = Fastify();
  await app.register(trustlayerPlugin, { client });
  for (const [i, demands] of WRONG_DEMANDS.entries()) {
    const shown = JSON.stringify(demands);
    assert.throws(() => gate.session(demands as never), TypeError, shown);
    const config = { trustlayer: demands as never };
    assert.throws(() => app.get(`/${i}`, { config }, async () => "passed"), TypeError, shown);
  }
});

test("what is demanded does not change after it was checked", async () => {
  const demands = { session: "required" as "required" | "optional" };
  const app = express().use(expressGate({ client }).session(demands), (_request, response) => void response.json({}));
  demands.session = "optional";
  const server = createServer(app).listen(0, "127.0.0.1");
  await once(server, "listening");
  assert.equal((await get(server, "/")).status, 401);
  server.close();
});

test("Fastify: a route that was there before the plugin is refused with the first request", async () => {
  const app = Fastify();
  app.get("/", { config: { trustlayer: { role: ["admin"] } as never } }, async () => "passed");
  await app.register(trustlayerPlugin, { client });
  assert.equal((await app.inject({ url: "/", cookies: { session_id: "sess_x" } })).statusCode, 500);
  await app.close();
});

test("Express: an app can show a page of its own to whom it refuses", async () => {
  const gate = expressGate({
    client,
    onRefused: ({ body }, request, response) => void response.json({ page: request.path, why: body.reason }),
  });
  const server = createServer(express().use(gate.session())).listen(0, "127.0.0.1");
  await once(server, "listening");
  const answer = await get(server, "/me");
  assert.deepEqual(answer.body, { page: "/me", why: "SESSION_MISSING" });
  assert.deepEqual([answer.status, answer.headers["www-authenticate"]], [401, "Bearer"]);
  server.close();
});
