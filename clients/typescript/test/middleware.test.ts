import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, request as httpRequest, type IncomingHttpHeaders, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import { after, before, describe, test } from "node:test";
import express, { type NextFunction, type Request, type Response } from "express";
import Fastify from "fastify";
import { expressGate } from "../src/express.js";
import { type GateOptions, trustlayerPlugin } from "../src/fastify.js";
import { CallFailed, TrustLayerClient, ValidationMode } from "../src/index.js";
import { Pair } from "./pair.js";

const TOO_LONG = "x".repeat(200);
const PER_ROUTE = {
  "/strict": { mode: ValidationMode.STRICT },
  "/reader": { roles: ["reader"] },
  "/admin": { roles: ["reader", "admin"] },
  "/not-covered": { route: "nowhere" },
  "/wrong-question": { route: TOO_LONG },
} as const;

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
  app.get("/optional-admin", gate.session({ session: "optional", roles: ["admin"] }), handle);
  app.get("/optional-not-covered", gate.session({ session: "optional", route: "nowhere" }), handle);
  app.use(gate.session());
  app.get("/me", handle);
  for (const [path, demands] of Object.entries(PER_ROUTE)) {
    app.get(path, gate.session(demands), handle);
  }
  app.use((error: unknown, _request: Request, response: Response, _next: NextFunction) => {
    response.status(500).json({ isCallFailed: error instanceof CallFailed });
  });
  const server = createServer(app).listen(0, "127.0.0.1");
  await once(server, "listening");
  return { server, close: async () => server.close() };
};

const makeFastify: MakeApp = async (options) => {
  const app = Fastify();
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
  app.get("/optional-admin", { config: { trustlayer: { session: "optional", roles: ["admin"] } } }, handle);
  app.get("/optional-not-covered", { config: { trustlayer: { session: "optional", route: "nowhere" } } }, handle);
  app.get("/me", handle);
  for (const [path, demands] of Object.entries(PER_ROUTE)) {
    app.get(path, { config: { trustlayer: demands } }, handle);
  }
  app.setErrorHandler((error, _request, reply) =>
    reply.code(500).send({ isCallFailed: error instanceof CallFailed }),
  );
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

    test("an optional session passes nobody as nobody, and still asks for roles", async () => {
      assert.deepEqual((await get(app.server, "/optional")).body, { handle: null });
      assert.deepEqual((await get(app.server, "/optional", ["cookie", "session_id=x"])).body, { handle: null });
      assert.match(String((await get(app.server, "/optional", cookie)).body["handle"]), /^sh_/);
      assert.equal((await get(app.server, "/optional-admin", cookie)).status, 403);
      assert.equal((await get(app.server, "/optional-not-covered", cookie)).status, 403);
    });

    test("a wrong question goes to the app's error handling, and the request does not pass", async () => {
      const answer = await get(app.server, "/wrong-question", cookie);
      assert.deepEqual([answer.status, answer.body], [500, { isCallFailed: true }]);
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
      assert.equal(await clientIp(proxied.server, `203.0.113.9${", 10.0.0.1".repeat(40)}`), "");
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

test("options that cannot be meant are refused at the start", () => {
  const client = new TrustLayerClient({ socket: "/nowhere" });
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
});
