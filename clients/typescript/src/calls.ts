/**
 * Unary calls through one channel: each with a deadline, each to be given up by an `AbortSignal`, and made again only
 * where no sidecar has answered and nothing can have happened.
 */
import { setTimeout as delay } from "node:timers/promises";
import {
  create,
  type DescMessage,
  type DescMethodUnary,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import { MethodOptions_IdempotencyLevel } from "@bufbuild/protobuf/wkt";
import { type ChannelOptions, Client, credentials, Metadata, type ServiceError, status } from "@grpc/grpc-js";
import { CallFailed, type Failure, readFailure } from "./errors.js";

/** How one call is made. */
export interface CallOptions {
  /** Milliseconds after which the call has failed, repeats included. */
  timeoutMs?: number | undefined;
  /** Gives the call up. It then rejects with the signal's reason, and the sidecar is told. */
  signal?: AbortSignal | undefined;
  /** Sent along, for example `x-request-id` and `traceparent`. */
  metadata?: Readonly<Record<string, string>> | undefined;
}

const CHANNEL_OPTIONS: ChannelOptions = {
  // gRPC's own backoff starts at a second. The socket is on this machine: asking often costs nothing.
  "grpc.initial_reconnect_backoff_ms": 20,
  "grpc.max_reconnect_backoff_ms": 500,
  // No repeats but those below; what never left this process is still sent anew.
  "grpc.enable_retries": 0,
  "grpc.enable_http_proxy": 0,
  "grpc.service_config_disable_resolution": 1,
};

const REPEAT_AFTER_MS = [20, 60, 180] as const;
const MAX_TIMEOUT_MS = 2 ** 31 - 1;

/** One channel to one sidecar. Connects with the first call, and again by itself. */
export class Calls {
  readonly #client: Client;
  readonly #underWay = new Set<Promise<unknown>>();
  #closed = false;

  constructor(socket: string) {
    this.#client = new Client(`unix:${socket}`, credentials.createInsecure(), CHANNEL_OPTIONS);
  }

  /**
   * Make a call. Rejects with `CallFailed`, or with the signal's reason.
   *
   * Repeated are only calls without side effects that failed as UNAVAILABLE without a reason of ours: no sidecar has
   * taken them. An UNAVAILABLE with a reason is an answer.
   */
  async unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
    options: CallOptions & { timeoutMs: number },
  ): Promise<MessageShape<O>> {
    const deadline = performance.now() + checkedTimeout(options.timeoutMs);
    const bytes = serialized(method.input, request);
    if (this.#closed) {
      throw new CallFailed({ ...NOTHING_KNOWN, code: status.UNAVAILABLE, message: "the client is closed" });
    }
    const call = this.#repeated(method, bytes, deadline, options);
    this.#underWay.add(call);
    try {
      return await call;
    } finally {
      this.#underWay.delete(call);
    }
  }

  async #repeated<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    bytes: Buffer,
    deadline: number,
    options: CallOptions,
  ): Promise<MessageShape<O>> {
    for (let made = 0; ; made++) {
      options.signal?.throwIfAborted();
      const outcome = await this.#once(method, bytes, deadline, options);
      if ("response" in outcome) {
        return outcome.response;
      }
      options.signal?.throwIfAborted();
      const pause = mayRepeat(method, outcome.failure) ? REPEAT_AFTER_MS[made] : undefined;
      if (pause === undefined || performance.now() + pause >= deadline) {
        throw new CallFailed(outcome.failure);
      }
      await pauseFor(pause, options.signal);
    }
  }

  #once<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: Buffer,
    deadline: number,
    { signal, metadata }: CallOptions,
  ): Promise<{ response: MessageShape<O> } | { failure: Failure }> {
    return new Promise((resolve) => {
      const giveUp = () => call.cancel();
      const call = this.#client.makeUnaryRequest<Buffer, MessageShape<O>>(
        `/${method.parent.typeName}/${method.name}`,
        (bytes) => bytes,
        (bytes) => fromBinary(method.output, bytes),
        request,
        metadataOf(metadata),
        // gRPC counts from here, so a clock that is set meanwhile does no harm.
        { deadline: Date.now() + Math.max(0, deadline - performance.now()) },
        (error: ServiceError | null, response?: MessageShape<O>) => {
          signal?.removeEventListener("abort", giveUp);
          resolve(error === null && response !== undefined ? { response } : { failure: failureOf(error) });
        },
      );
      signal?.addEventListener("abort", giveUp, { once: true });
    });
  }

  /** Take no new calls, let those under way finish, which their deadlines see to, and close the connection. */
  async close(): Promise<void> {
    this.#closed = true;
    await Promise.allSettled(this.#underWay);
    this.#client.close();
  }
}

const NOTHING_KNOWN = { reason: "", retryAfterMs: undefined, fields: [], requestId: "" };

/** Throws TypeError. Not the library's error: its text shows the value, which may be a secret. */
function serialized<I extends DescMessage>(schema: I, request: MessageInitShape<I>): Buffer {
  try {
    return Buffer.from(toBinary(schema, create(schema, request)));
  } catch (error) {
    const where = /field (trustlayer\.[\w.]+)/.exec(String(error))?.[1] ?? schema.typeName;
    throw new TypeError(`a value of the wrong type in ${where}`);
  }
}

function failureOf(error: ServiceError | null): Failure {
  return error === null
    ? { ...NOTHING_KNOWN, code: status.INTERNAL, message: "an answer without a message" }
    : readFailure(error);
}

function mayRepeat(method: { idempotency: MethodOptions_IdempotencyLevel }, failure: Failure): boolean {
  const harmless = method.idempotency === MethodOptions_IdempotencyLevel.NO_SIDE_EFFECTS;
  return harmless && failure.code === status.UNAVAILABLE && failure.reason === "";
}

async function pauseFor(ms: number, signal: AbortSignal | undefined): Promise<void> {
  try {
    await delay(ms, undefined, signal === undefined ? {} : { signal });
  } catch (error) {
    signal?.throwIfAborted();
    throw error;
  }
}

function checkedTimeout(ms: number): number {
  if (!(ms > 0 && ms <= MAX_TIMEOUT_MS)) {
    throw new RangeError("timeoutMs has to be more than 0, and at most 2147483647");
  }
  return ms;
}

function metadataOf(entries: Readonly<Record<string, string>> | undefined): Metadata {
  const metadata = new Metadata();
  for (const [name, value] of Object.entries(entries ?? {})) {
    metadata.set(name, value);
  }
  return metadata;
}
