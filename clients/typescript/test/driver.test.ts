/** The driver of the conformance cases, as its runner talks to it. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { after, before, test } from "node:test";
import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { framed, messagesOf } from "../conformance/framing.js";
import {
  DriverRequestSchema,
  type DriverResponse,
  DriverResponseSchema,
} from "../conformance/gen/conformance/v1/conformance_pb.js";
import { ListSessionsRequestSchema, ListSessionsResponseSchema } from "../src/index.js";
import { Pair, ROOT } from "./pair.js";

let pair: Pair;
before(async () => {
  pair = await Pair.start();
});
after(() => pair?.stop());

test("answers each request in order and ends with its input", async () => {
  const { socket, session_id: sessionId, client_ip: clientIp } = pair.known;
  const driver = spawn(process.execPath, ["clients/typescript/build/conformance/driver.js"], {
    cwd: ROOT,
    stdio: ["pipe", "pipe", "inherit"],
  });
  const answers = messagesOf(driver.stdout);
  async function ask(request: MessageInitShape<typeof DriverRequestSchema>): Promise<DriverResponse["result"]> {
    driver.stdin.write(framed(toBinary(DriverRequestSchema, create(DriverRequestSchema, { socket, ...request }))));
    const next = await answers.next();
    return fromBinary(DriverResponseSchema, next.value as Uint8Array).result;
  }

  const description = await ask({ call: { case: "describe", value: {} } });
  assert.ok(description.case === "description" && description.value.clientVersion !== "");
  const active = await ask({ call: { case: "validate", value: { sessionId, context: { clientIp } } } });
  assert.ok(active.case === "active");
  const userId = active.value.session?.user?.id ?? "";
  const denied = await ask({ call: { case: "validate", value: { sessionId } } });
  assert.ok(denied.case === "denied" && denied.value.message !== "");
  const never = { sessionId, context: { clientIp }, minRevision: 2n ** 60n };
  const unavailable = await ask({ call: { case: "validate", value: never } });
  assert.ok(unavailable.case === "unavailable" && unavailable.value.retryAfter !== undefined);

  const request = toBinary(ListSessionsRequestSchema, create(ListSessionsRequestSchema, { userId }));
  const listed = await ask({
    call: { case: "rpc", value: { method: "trustlayer.v1.SessionService/ListSessions", request } },
  });
  assert.ok(listed.case === "response");
  assert.equal(fromBinary(ListSessionsResponseSchema, listed.value).sessions.length, 1);
  const empty = new Uint8Array();
  const failed = await ask({
    call: { case: "rpc", value: { method: "trustlayer.v1.SessionService/Login", request: empty } },
  });
  assert.ok(failed.case === "failure");
  assert.ok(failed.value.reason === "INVALID_FIELD" && failed.value.fields.length > 0);
  const unknown = await ask({ call: { case: "rpc", value: { method: "trustlayer.v1.Nothing/At", request: empty } } });
  assert.equal(unknown.case, "broken");

  await pair.tell("pause-sidecar");
  const validate = { case: "validate", value: { sessionId, context: { clientIp } } } as const;
  const cancelled = await ask({ cancelAfter: { nanos: 50_000_000 }, call: validate });
  assert.equal(cancelled.case, "cancelled");
  const late = await ask({ timeout: { nanos: 50_000_000 }, call: validate });
  assert.ok(late.case === "unavailable" && late.value.code === 4);
  await pair.tell("resume-sidecar");

  driver.stdin.end();
  const [code] = await once(driver, "exit");
  assert.equal(code, 0);
});
