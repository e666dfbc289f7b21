/** What an app holds: one client for one sidecar, for as long as the app runs. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { status } from "@grpc/grpc-js";
import { type CallOptions, Calls } from "./calls.js";
import { CallFailed, type Failure, SessionDenied, ValidatorUnavailable } from "./errors.js";
import { IdentityService } from "./gen/trustlayer/v1/identity_pb.js";
import { SessionService } from "./gen/trustlayer/v1/session_pb.js";
import { TrustTokenService } from "./gen/trustlayer/v1/trust_token_pb.js";
import type { Freshness, RequestContextSchema, Session, ValidationMode } from "./gen/trustlayer/v1/types_pb.js";
import {
  type ValidateRequestSchema,
  type ValidateResponse,
  ValidatorService,
} from "./gen/trustlayer/v1/validator_pb.js";
import { type ServiceClient, serviceClient } from "./services.js";

/** Where the sidecar is, and how long to wait for it. */
export interface ClientOptions {
  /** Path of the sidecar's Unix socket. */
  socket: string;
  /** Default deadline of `validate` and of calls to the sidecar itself, in milliseconds. */
  timeoutMs?: number;
  /** Default deadline of calls that go on to Flowless, in milliseconds. */
  relayTimeoutMs?: number;
}

/** What is asked of a session, and for which request. Everything may be left out. */
export interface ValidateOptions extends CallOptions {
  /** How much of the request context is compared; the sidecar's default when left out. */
  mode?: ValidationMode | undefined;
  /** What the app knows about the request that it serves. */
  context?: MessageInitShape<typeof RequestContextSchema> | undefined;
  /** Revision that the answer has to take into account, from the answer to an earlier change. */
  minRevision?: bigint | undefined;
  /** Name of a rule of the sidecar's configuration. Not together with `httpMethod` and `path`. */
  route?: string | undefined;
  /** With `path`: the request that the app serves, for the sidecar to find the rule. */
  httpMethod?: string | undefined;
  /** See `httpMethod`. */
  path?: string | undefined;
}

/** A yes. */
export interface Validation {
  /** The session and its user. */
  readonly session: Session;
  /** How fresh the answer is. */
  readonly freshness: Freshness | undefined;
}

const TIMEOUT_MS = 2_000;
const RELAY_TIMEOUT_MS = 10_000;

/**
 * Talks to one sidecar. Any number of calls may be under way at once, over one connection, which is made with the
 * first call and made again by itself when the sidecar was away. It does not keep the process alive.
 */
export class TrustLayerClient {
  /** Users: register, look up, change, disable. */
  readonly identity: ServiceClient<typeof IdentityService>;
  /** Sessions: log in and out, list, revoke. */
  readonly sessions: ServiceClient<typeof SessionService>;
  /** Trust tokens: issue, check, redeem. */
  readonly trustTokens: ServiceClient<typeof TrustTokenService>;
  /** The sidecar itself. To validate a session use `validate`, which tells a no from an error. */
  readonly validator: ServiceClient<typeof ValidatorService>;
  readonly #calls: Calls;

  constructor({ socket, timeoutMs = TIMEOUT_MS, relayTimeoutMs = RELAY_TIMEOUT_MS }: ClientOptions) {
    this.#calls = new Calls(socket);
    this.identity = serviceClient(this.#calls, IdentityService, relayTimeoutMs);
    this.sessions = serviceClient(this.#calls, SessionService, relayTimeoutMs);
    this.trustTokens = serviceClient(this.#calls, TrustTokenService, relayTimeoutMs);
    this.validator = serviceClient(this.#calls, ValidatorService, timeoutMs);
  }

  /**
   * Say whether a session is active, for this request.
   *
   * Rejects with `SessionDenied` (a definite no), `ValidatorUnavailable` (nobody can know now), `CallFailed` (the
   * question is wrong; `fields` says where), or the signal's reason.
   */
  async validate(sessionId: string, options: ValidateOptions = {}): Promise<Validation> {
    const { timeoutMs, signal, metadata, mode, context, minRevision, route, httpMethod, path } = options;
    const request = { sessionId, mode, context, minRevision, route, httpMethod, path };
    // The types forbid what the generated code takes for "not set": a field that is there and undefined.
    const question = request as MessageInitShape<typeof ValidateRequestSchema>;
    return verdict(await this.validator.validate(question, { timeoutMs, signal, metadata }).catch(rejectAs));
  }

  /** Take no new calls, let those under way finish, which their deadlines see to, and close the connection. */
  close(): Promise<void> {
    return this.#calls.close();
  }
}

function verdict({ result, freshness }: ValidateResponse): Validation {
  switch (result.case) {
    case "session":
      if (result.value.handle === "" || (result.value.user?.id ?? "") === "") {
        throw new ValidatorUnavailable(unreadable("the answer holds a session of nobody"));
      }
      return { session: result.value, freshness };
    case "denial":
      throw new SessionDenied(result.value.reason, result.value.message, freshness);
    default:
      throw new ValidatorUnavailable(unreadable("the answer is neither a session nor a denial"));
  }
}

function unreadable(message: string): Failure {
  return { code: status.UNKNOWN, reason: "", message, retryAfterMs: undefined, fields: [], requestId: "" };
}

function rejectAs(error: unknown): never {
  if (!(error instanceof CallFailed)) {
    throw error;
  }
  const isWrongQuestion = error.code === status.INVALID_ARGUMENT && error.reason !== "";
  throw isWrongQuestion ? error : new ValidatorUnavailable(error);
}
