/** What people are told of a call that failed. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { mock, test } from "node:test";
import { CallFailed, Code } from "@trustlayer/client";
import express from "express";
import { answerError } from "../errors.js";

for (const [code, reason, retryAfterMs, status, retryAfter] of [
  [Code.RESOURCE_EXHAUSTED, "TOO_MANY_ATTEMPTS", 2500, 429, "3"],
  [Code.RESOURCE_EXHAUSTED, "HASHING_OVERLOADED", undefined, 503, "1"],
  [Code.UNAVAILABLE, "", undefined, 503, "1"],
  [Code.DEADLINE_EXCEEDED, "", undefined, 503, "1"],
  // Trying again would not help.
  [Code.PERMISSION_DENIED, "METHOD_NOT_RELAYED", undefined, 500, null],
  [Code.INTERNAL, "INTERNAL", undefined, 500, null],
  [Code.NOT_FOUND, "USER_NOT_FOUND", undefined, 500, null],
  [Code.INVALID_ARGUMENT, "INVALID_FIELD", undefined, 500, null],
]) {
  test(`${Code[code]} ${reason} is ${status}`, async () => {
    const failure = {
      code,
      reason,
      message: "a text for the log",
      retryAfterMs,
      fields: ["user_id"],
      requestId: "r",
    };
    const app = express();
    app.get("/", () => {
      throw new CallFailed(failure);
    });
    const server = app.use(answerError).listen(0, "127.0.0.1");
    await once(server, "listening");
    const log = mock.method(console, "error", () => undefined);
    const answer = await fetch(`http://127.0.0.1:${server.address().port}/`, { headers: { connection: "close" } });
    log.mock.restore();
    assert.deepEqual([answer.status, answer.headers.get("retry-after")], [status, retryAfter]);
    const text = await answer.text();
    assert.ok(!/Unknown name/.test(text) && !text.includes(failure.message));
    assert.match(log.mock.calls[0].arguments[0], /a text for the log \(r\)/);
    server.close();
  });
}
