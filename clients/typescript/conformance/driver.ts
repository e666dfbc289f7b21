/** Driver of the conformance cases: uses the client as an app would. See conformance.proto. */
import { readFileSync } from "node:fs";
import { inspect } from "node:util";
import {
  create,
  type DescMethod,
  type DescMethodUnary,
  type DescService,
  fromBinary,
  type Message,
  type MessageInitShape,
  toBinary,
} from "@bufbuild/protobuf";
import type { Duration, DurationSchema } from "@bufbuild/protobuf/wkt";
import {
  CallFailed,
  type CallOptions,
  type Failure,
  IdentityService,
  SessionDenied,
  SessionService,
  TrustLayerClient,
  TrustTokenService,
  ValidatorService,
  ValidatorUnavailable,
} from "../src/index.js";
import { framed, messagesOf } from "./framing.js";
import {
  type DriverRequest,
  DriverRequestSchema,
  DriverResponseSchema,
  type FailureSchema,
} from "./gen/conformance/v1/conformance_pb.js";

type Result = NonNullable<MessageInitShape<typeof DriverResponseSchema>["result"]>;
type Answer = { result: Result; shown?: string };
type UnaryMethods = Record<string, (request: Message, options: CallOptions) => Promise<Message>>;

const clients = new Map<string, TrustLayerClient>();

function clientOf(socket: string): TrustLayerClient {
  const client = clients.get(socket) ?? new TrustLayerClient({ socket });
  clients.set(socket, client);
  return client;
}

async function answer(request: DriverRequest): Promise<Answer> {
  const givesUp = new AbortController();
  const timer =
    request.cancelAfter && setTimeout(() => givesUp.abort(), Math.max(0, milliseconds(request.cancelAfter)));
  const options: CallOptions = {
    timeoutMs: request.timeout && milliseconds(request.timeout),
    signal: givesUp.signal,
  };
  try {
    return { result: await outcome(request, options) };
  } catch (error) {
    return { result: outcomeOf(error, givesUp.signal), shown: shown(error) };
  } finally {
    clearTimeout(timer);
  }
}

async function outcome({ call, socket }: DriverRequest, options: CallOptions): Promise<Result> {
  switch (call.case) {
    case "describe": {
      const { version } = JSON.parse(readFileSync("clients/typescript/package.json", "utf8")) as { version: string };
      const value = { language: "typescript", clientVersion: version, runtime: `node ${process.version}` };
      return { case: "description", value };
    }
    case "validate": {
      const { sessionId, ...question } = call.value;
      const { session, freshness } = await clientOf(socket).validate(sessionId, { ...question, ...options });
      return { case: "active", value: freshness === undefined ? { session } : { session, freshness } };
    }
    case "rpc":
      return { case: "response", value: await rpc(clientOf(socket), call.value.method, call.value.request, options) };
    default:
      return { case: "broken", value: "nothing is asked" };
  }
}

async function rpc(
  client: TrustLayerClient,
  name: string,
  request: Uint8Array,
  options: CallOptions,
): Promise<Uint8Array> {
  const services: [DescService, object][] = [
    [ValidatorService, client.validator],
    [IdentityService, client.identity],
    [SessionService, client.sessions],
    [TrustTokenService, client.trustTokens],
  ];
  for (const [service, stub] of services) {
    const method = service.methods.find((one) => `${service.typeName}/${one.name}` === name);
    if (method !== undefined && isUnary(method)) {
      const call = (stub as UnaryMethods)[method.localName];
      if (call !== undefined) {
        return toBinary(method.output, await call(fromBinary(method.input, request), options));
      }
    }
  }
  throw new Error(`unknown method ${name}`);
}

function isUnary(method: DescMethod): method is DescMethod & DescMethodUnary {
  return method.methodKind === "unary";
}

function outcomeOf(error: unknown, givesUp: AbortSignal): Result {
  if (givesUp.aborted && error === givesUp.reason) {
    return { case: "cancelled", value: {} };
  }
  if (error instanceof SessionDenied) {
    return { case: "denied", value: { reason: error.reason, message: error.message } };
  }
  if (error instanceof ValidatorUnavailable) {
    return { case: "unavailable", value: failure(error) };
  }
  if (error instanceof CallFailed) {
    return { case: "failure", value: failure(error) };
  }
  return { case: "broken", value: String(error) };
}

/** All that Node.js prints of an error, with its causes and its fields. */
function shown(error: unknown): string {
  return [String(error), inspect(error, { depth: 10, showHidden: true }), JSON.stringify(error)].join("\n");
}

function failure(error: Failure): MessageInitShape<typeof FailureSchema> {
  const { code, reason, message, fields, requestId, retryAfterMs } = error;
  const known = { code, reason, message, fields: [...fields], requestId };
  return retryAfterMs === undefined ? known : { ...known, retryAfter: duration(retryAfterMs) };
}

function duration(ms: number): MessageInitShape<typeof DurationSchema> {
  const seconds = Math.floor(ms / 1000);
  return { seconds: BigInt(seconds), nanos: Math.round((ms - seconds * 1000) * 1e6) };
}

function milliseconds({ seconds, nanos }: Duration): number {
  return Number(seconds) * 1000 + nanos / 1e6;
}

for await (const bytes of messagesOf(process.stdin)) {
  const response = await answer(fromBinary(DriverRequestSchema, bytes));
  process.stdout.write(framed(toBinary(DriverResponseSchema, create(DriverResponseSchema, response))));
}
await Promise.all([...clients.values()].map((client) => client.close()));
