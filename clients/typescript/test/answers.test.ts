/** What the client makes of answers that no real sidecar of this version gives, and when it asks again. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, request as httpRequest } from "node:http";
import type { AddressInfo } from "node:net";
import { after, afterEach, before, describe, test } from "node:test";
import express from "express";
import Fastify from "fastify";
import { expressGate } from "../src/express.js";
import { trustlayerPlugin } from "../src/fastify.js";
import {
  CallFailed,
  Code,
  DenialReason,
  SessionDenied,
  type Tier,
  TrustLayerClient,
  type ValidationMode,
  ValidatorUnavailable,
} from "../src/index.js";
import { Scripted, validateResponse } from "./scripted.js";

const ACTIVE = validateResponse({ result: { case: "session", value: { handle: "sh_1", user: { id: "u_1" } } } });
const NO_ANSWER = { code: Code.UNAVAILABLE };

describe("a client beside a scripted sidecar", () => {
  let sidecar: Scripted;
  let client: TrustLayerClient;
  /** Whose own deadline is no reason to give up. */
  let patient: TrustLayerClient;

  before(async () => {
    sidecar = await Scripted.start();
    client = new TrustLayerClient({ socket: sidecar.socket });
    patient = new TrustLayerClient({ socket: sidecar.socket, timeoutMs: 60_000 });
  });
  afterEach(() => {
    sidecar.called.length = 0;
  });
  after(async () => {
    await client?.close();
    await patient?.close();
    sidecar?.stop();
  });

  test("asks again when no sidecar has answered, after 20, 60 and 180 ms, then gives up", async () => {
    sidecar.replies = [NO_ANSWER];
    const begun = performance.now();
    await assert.rejects(client.validate("sess_x"), ValidatorUnavailable);
    const taken = performance.now() - begun;
    assert.equal(sidecar.called.length, 4);
    assert.ok(taken >= 255, String(taken));
    sidecar.called.length = 0;
    sidecar.replies = [NO_ANSWER, NO_ANSWER, ACTIVE];
    assert.equal((await client.validate("sess_x")).session.handle, "sh_1");
    assert.equal(sidecar.called.length, 3);
  });

  test("does not ask again what a sidecar has answered", async () => {
    sidecar.replies = [{ code: Code.UNAVAILABLE, reason: "A_REASON_TO_COME" }];
    await assert.rejects(client.validate("sess_x"), (error) => {
      assert.ok(error instanceof ValidatorUnavailable);
      assert.equal(error.reason, "A_REASON_TO_COME");
      return true;
    });
    assert.equal(sidecar.called.length, 1);
  });

  test("a reason of somebody else is no answer of ours", async () => {
    sidecar.replies = [{ code: Code.UNAVAILABLE, reason: "OVERLOADED", domain: "proxy.example" }, ACTIVE];
    await client.validate("sess_x");
    assert.equal(sidecar.called.length, 2);
  });

  test("never makes a call again that has side effects", async () => {
    sidecar.replies = [NO_ANSWER];
    await assert.rejects(client.sessions.logout({ sessionId: "sess_x" }), (error) => {
      assert.ok(error instanceof CallFailed);
      assert.equal(error.code, Code.UNAVAILABLE);
      return true;
    });
    assert.deepEqual(sidecar.called, ["/trustlayer.v1.SessionService/Logout"]);
  });

  test("never asks again past the deadline", async () => {
    sidecar.replies = [NO_ANSWER];
    // The fourth attempt would be made after 260 ms, and end as DEADLINE_EXCEEDED.
    await assert.rejects(client.validate("sess_x", { timeoutMs: 255 }), (error) => {
      assert.ok(error instanceof ValidatorUnavailable);
      assert.equal(error.code, Code.UNAVAILABLE);
      return true;
    });
  });

  test("who gives up during a pause between two attempts gets the signal's reason", async () => {
    sidecar.replies = [NO_ANSWER];
    const givesUp = new AbortController();
    const call = client.validate("sess_x", { signal: givesUp.signal });
    setTimeout(() => givesUp.abort(), 120);
    await assert.rejects(call, (error) => error === givesUp.signal.reason);
  });

  test("tells the sidecar when its caller gives up", { timeout: 20_000 }, async () => {
    sidecar.replies = ["never"];
    const givesUp = new AbortController();
    const call = patient.validate("sess_x", { signal: givesUp.signal });
    call.catch(() => undefined);
    await sidecar.next("called");
    const cancelled = sidecar.next("cancelled");
    givesUp.abort();
    await cancelled;
    await assert.rejects(call, { name: "AbortError" });
  });

  test("a reason for a denial that it does not know is a denial", async () => {
    sidecar.replies = [
      validateResponse({ result: { case: "denial", value: { reason: 99 as DenialReason, message: "new" } } }),
    ];
    await assert.rejects(client.validate("sess_x"), (error) => {
      assert.ok(error instanceof SessionDenied);
      assert.deepEqual([error.reason, error.reasonName, error.message], [99, "NOT_ACTIVE", "new"]);
      return true;
    });
  });

  test("a denial can be logged as JSON, whatever came with it", async () => {
    const odd = { tier: 77 as Tier, revision: 2n ** 60n, age: { seconds: 10n ** 15n } };
    sidecar.replies = [
      validateResponse({ result: { case: "denial", value: { reason: DenialReason.REVOKED } }, freshness: odd }),
    ];
    await assert.rejects(client.validate("sess_x"), (error) => {
      const freshness = { tier: 77, revision: "1152921504606846976" };
      const expected = { name: "SessionDenied", reason: "REVOKED", message: "", freshness };
      assert.deepEqual(JSON.parse(JSON.stringify(error)), expected);
      return true;
    });
  });

  test("passes over fields and values that it does not know", async () => {
    // Field 99, a text; and a tier of tomorrow.
    const unknownField = Buffer.from([0x9a, 0x06, 0x03, 0x61, 0x62, 0x63]);
    const value = { handle: "sh_2", user: { id: "u_2" }, satisfiableModes: [1, 42 as ValidationMode] };
    const known = validateResponse({ result: { case: "session", value }, freshness: { tier: 77 as Tier } });
    sidecar.replies = [Buffer.concat([known, unknownField])];
    const { session, freshness } = await client.validate("sess_x");
    assert.deepEqual([session.handle, session.satisfiableModes, freshness?.tier], ["sh_2", [1, 42], 77]);
  });

  test("what is neither a session nor a denial, or no message at all, is unavailable", async () => {
    for (const reply of [new Uint8Array(), Uint8Array.from([0x9a, 0x06, 0x01, 0x61]), Uint8Array.from([255, 255])]) {
      sidecar.replies = [reply];
      await assert.rejects(client.validate("sess_x"), ValidatorUnavailable);
    }
  });

  test("a session of nobody is unavailable", async () => {
    const nobodies = [{}, { handle: "sh_1" }, { handle: "sh_1", user: {} }, { user: { id: "u_1" } }];
    for (const value of nobodies) {
      sidecar.replies = [validateResponse({ result: { case: "session", value } })];
      await assert.rejects(client.validate("sess_x"), (error) => {
        assert.ok(error instanceof ValidatorUnavailable, JSON.stringify(value));
        assert.deepEqual([error.code, error.message], [Code.UNKNOWN, "the answer holds a session of nobody"]);
        return true;
      });
    }
  });

  test("whatever other error there is, nobody can know", async () => {
    for (const code of [Code.INTERNAL, Code.UNIMPLEMENTED, Code.PERMISSION_DENIED, Code.CANCELLED, Code.UNKNOWN]) {
      sidecar.replies = [{ code, reason: "SOMETHING" }];
      await assert.rejects(client.validate("sess_x"), ValidatorUnavailable, Code[code]);
    }
    sidecar.replies = [{ code: Code.INVALID_ARGUMENT }];
    await assert.rejects(client.validate("sess_x"), ValidatorUnavailable);
  });

  test("a middleware asks nobody about what is no session id, and is as strict with an optional one", async () => {
    const gate = expressGate({ client });
    const app = express().get("/optional", gate.session({ session: "optional" }), (request, response) => {
      response.json({ handle: request.trustlayer?.session.handle ?? null });
    });
    app.use(gate.session(), (_request, response) => void response.json({}));
    const server = createServer(app).listen(0, "127.0.0.1");
    await once(server, "listening");
    const get = async (path: string, sessionId: string) => {
      const { port } = server.address() as AddressInfo;
      const headers = { cookie: `session_id=${sessionId}`, connection: "close" };
      const answer = await fetch(`http://127.0.0.1:${port}${path}`, { headers });
      const { reason } = (await answer.json()) as { reason?: string };
      return [answer.status, reason, answer.headers.get("www-authenticate")];
    };
    sidecar.replies = [ACTIVE];
    const invalid = 'Bearer error="invalid_token"';
    assert.deepEqual(await get("/", "x".repeat(129)), [401, "MALFORMED", invalid]);
    assert.deepEqual(await get("/optional", "x".repeat(129)), [200, undefined, null]);
    assert.deepEqual(sidecar.called, []);
    assert.deepEqual(await get("/", "x".repeat(128)), [200, undefined, null]);
    const denial = (reason: DenialReason) => validateResponse({ result: { case: "denial", value: { reason } } });
    sidecar.replies = [denial(0 as DenialReason)];
    assert.deepEqual(await get("/", "sess_x"), [401, "NOT_ACTIVE", invalid]);
    sidecar.replies = [denial(99 as DenialReason)];
    assert.deepEqual(await get("/", "sess_x"), [401, "NOT_ACTIVE", invalid]);
    sidecar.replies = [denial(DenialReason.AUTHENTICATION_TOO_OLD)];
    const tooOld = 'Bearer error="insufficient_user_authentication"';
    assert.deepEqual(await get("/", "sess_x"), [401, "AUTHENTICATION_TOO_OLD", tooOld]);
    // No rule covers it: of that an optional session is not spared.
    sidecar.replies = [denial(DenialReason.ROUTE_NOT_COVERED)];
    assert.deepEqual(await get("/optional", "sess_x"), [403, "ROUTE_NOT_COVERED", null]);
    sidecar.replies = [{ code: Code.INTERNAL }];
    assert.deepEqual(await get("/", "sess_x"), [503, "UNAVAILABLE", null]);
    server.close();
  });

  async function hangUpDuring(port: number): Promise<void> {
    sidecar.replies = ["never"];
    const cancelled = sidecar.next("cancelled");
    const called = sidecar.next("called");
    const headers = { cookie: "session_id=sess_x" };
    const sent = httpRequest({ host: "127.0.0.1", port, headers })
      .on("error", () => undefined)
      .end();
    await called;
    sent.destroy();
    await cancelled;
  }

  test("Express: gives the call up when the browser does", { timeout: 20_000 }, async () => {
    const app = express().use(expressGate({ client: patient }).session());
    const server = createServer(app).listen(0, "127.0.0.1");
    await once(server, "listening");
    await hangUpDuring((server.address() as AddressInfo).port);
    server.close();
  });

  test("Fastify: gives the call up when the browser does", { timeout: 20_000 }, async () => {
    const app = Fastify();
    await app.register(trustlayerPlugin, { client: patient });
    await app.listen({ port: 0, host: "127.0.0.1" });
    await hangUpDuring((app.server.address() as AddressInfo).port);
    await app.close();
  });
});
