import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import {
  CallFailed,
  Code,
  DenialReason,
  SessionDenied,
  Tier,
  TrustLayerClient,
  ValidationMode,
  ValidatorUnavailable,
} from "../src/index.js";
import { Pair } from "./pair.js";

const RECONNECT_MS = 1000;

describe("a client beside a real sidecar", () => {
  let pair: Pair;
  let client: TrustLayerClient;
  let sessionId: string;
  let context: { clientIp: string; deviceFingerprint: string; userAgent: string };

  before(async () => {
    pair = await Pair.start();
    client = new TrustLayerClient({ socket: pair.known.socket });
    sessionId = pair.known.session_id;
    context = {
      clientIp: pair.known.client_ip,
      deviceFingerprint: pair.known.device_fingerprint,
      userAgent: pair.known.user_agent,
    };
  });
  after(async () => {
    await client?.close();
    await pair?.stop();
  });

  async function logIn(): Promise<{ sessionId: string; handle: string; userId: string }> {
    const { login, password } = pair.known;
    const answer = await client.sessions.login({ login, password, context });
    assert.ok(answer.session?.user);
    return { sessionId: answer.sessionId, handle: answer.session.handle, userId: answer.session.user.id };
  }

  test("says whose an active session is, and how fresh the answer", async () => {
    await client.validate(sessionId, { context });
    const { session, freshness } = await client.validate(sessionId, { mode: ValidationMode.STRICT, context });
    assert.equal(session.user?.email, pair.known.login);
    assert.equal(freshness?.tier, Tier.LRU);
    assert.ok(!JSON.stringify(session.handle).includes(sessionId));
  });

  test("rejects with the reason of a denial", async () => {
    const elsewhere = { ...context, clientIp: "192.0.2.1" };
    await assert.rejects(client.validate(sessionId, { context: elsewhere }), (error) => {
      assert.ok(error instanceof SessionDenied && !(error instanceof ValidatorUnavailable));
      assert.equal(error.reason, DenialReason.IP_MISMATCH);
      assert.equal(error.reasonName, "IP_MISMATCH");
      const logged = JSON.parse(JSON.stringify(error)) as { reason?: string; freshness?: object };
      assert.equal(logged.reason, "IP_MISMATCH");
      assert.ok(logged.freshness !== undefined && !JSON.stringify(error).includes(sessionId));
      return true;
    });
    await assert.rejects(client.validate("nonsense"), { reason: DenialReason.MALFORMED });
    await assert.rejects(client.validate(""), { reason: DenialReason.MALFORMED });
  });

  test("a question that is itself wrong is a failed call that names the fields", async () => {
    await assert.rejects(client.validate(sessionId, { route: "x".repeat(200) }), (error) => {
      assert.ok(error instanceof CallFailed);
      assert.equal(error.reason, "INVALID_FIELD");
      assert.deepEqual(error.fields, ["route"]);
      return true;
    });
  });

  test("a value of the wrong type is refused here, without showing it", async () => {
    const swapped = { mode: sessionId as unknown as ValidationMode };
    await assert.rejects(client.validate(sessionId, swapped), (error) => {
      assert.ok(error instanceof TypeError);
      assert.match(error.message, /ValidateRequest\.mode/);
      assert.ok(!String(error.stack).includes(sessionId));
      return true;
    });
    await assert.rejects(client.validate(sessionId, { timeoutMs: Number.NaN }), RangeError);
  });

  test("a refused login says so, with the id to search the logs for", async () => {
    const request = { login: pair.known.login, password: "not the password", context };
    await assert.rejects(
      client.sessions.login(request, { metadata: { "x-request-id": "of-this-test" } }),
      (error) => {
        assert.ok(error instanceof CallFailed);
        assert.equal(error.code, Code.UNAUTHENTICATED);
        assert.equal(error.reason, "LOGIN_REFUSED");
        assert.equal(error.requestId, "of-this-test");
        assert.ok(!String(error.stack).includes(request.password));
        return true;
      },
    );
  });

  test("a revoked session is denied to a question that demands the revoke's revision", async () => {
    const mine = await logIn();
    await client.validate(mine.sessionId, { context });
    const { revision } = await client.sessions.revokeSession({ handle: mine.handle });
    await assert.rejects(client.validate(mine.sessionId, { context, minRevision: revision }), {
      reason: DenialReason.REVOKED,
    });
  });

  test("a revision that is never reached is unavailable, and says when to ask again", async () => {
    await assert.rejects(client.validate(sessionId, { context, minRevision: 2n ** 62n }), (error) => {
      assert.ok(error instanceof ValidatorUnavailable);
      assert.equal(error.reason, "REVISION_NOT_REACHED");
      assert.ok((error.retryAfterMs ?? 0) > 0);
      return true;
    });
  });

  test("a deadline that passes is unavailable", async () => {
    await pair.tell("pause-sidecar");
    try {
      const begun = performance.now();
      await assert.rejects(client.validate(sessionId, { context, timeoutMs: 100 }), (error) => {
        assert.ok(error instanceof ValidatorUnavailable);
        assert.equal(error.code, Code.DEADLINE_EXCEEDED);
        return true;
      });
      assert.ok(performance.now() - begun >= 95);
    } finally {
      await pair.tell("resume-sidecar");
    }
    await client.validate(sessionId, { context });
  });

  test("who gives up gets the signal's reason, at once", async () => {
    await pair.tell("pause-sidecar");
    try {
      const givesUp = new AbortController();
      const call = client.validate(sessionId, { context, timeoutMs: 60_000, signal: givesUp.signal });
      setTimeout(() => givesUp.abort(), 50);
      await assert.rejects(
        call,
        (error) => error === givesUp.signal.reason && (error as Error).name === "AbortError",
      );
      await assert.rejects(
        client.validate(sessionId, { signal: AbortSignal.abort("why") }),
        (error) => error === "why",
      );
    } finally {
      await pair.tell("resume-sidecar");
    }
  });

  test("comes back within a second of the socket's return", async () => {
    await pair.tell("stop-sidecar");
    await assert.rejects(client.validate(sessionId, { context }), (error) => {
      assert.ok(error instanceof ValidatorUnavailable);
      assert.equal(error.code, Code.UNAVAILABLE);
      assert.equal(error.reason, "");
      return true;
    });
    await pair.tell("start-sidecar");
    const returned = performance.now();
    for (;;) {
      try {
        await client.validator.getStatus({});
        break;
      } catch (error) {
        assert.ok(performance.now() - returned < RECONNECT_MS, String(error));
      }
    }
  });

  test("many calls at once go through one connection, each with its own answer", async () => {
    const sessions = await Promise.all(Array.from({ length: 5 }, logIn));
    const answers = await Promise.all(
      Array.from({ length: 200 }, (_, i) => client.validate(sessions[i % 5]?.sessionId ?? "", { context })),
    );
    answers.forEach(({ session }, i) => {
      assert.equal(session.handle, sessions[i % 5]?.handle);
    });
  });

  test("closing lets calls under way finish and takes no new ones", async () => {
    const closing = new TrustLayerClient({ socket: pair.known.socket });
    const underWay = closing.validate(sessionId, { context });
    const closed = closing.close();
    await assert.rejects(closing.validate(sessionId, { context }), ValidatorUnavailable);
    assert.equal((await underWay).session.user?.email, pair.known.login);
    await closed;
  });
});

test("without a sidecar, validation is unavailable", async () => {
  const client = new TrustLayerClient({ socket: "/nowhere/sidecar.sock" });
  const begun = performance.now();
  await assert.rejects(client.validate("sess_x"), ValidatorUnavailable);
  // 20 + 60 + 180 ms of repeats.
  assert.ok(performance.now() - begun >= 250);
  await client.close();
});
