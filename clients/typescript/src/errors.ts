/**
 * The errors that an app sees: denied, unavailable, and a call that failed. None of them holds a session id.
 */
import { type DescMessage, fromBinary, type MessageShape } from "@bufbuild/protobuf";
import { anyUnpack, type Duration } from "@bufbuild/protobuf/wkt";
import type { ServiceError, status } from "@grpc/grpc-js";
import {
  BadRequestSchema,
  ErrorInfoSchema,
  RequestInfoSchema,
  RetryInfoSchema,
} from "./gen/google/rpc/error_details_pb.js";
import { type Status, StatusSchema } from "./gen/google/rpc/status_pb.js";
import { DenialReason, type Freshness } from "./gen/trustlayer/v1/types_pb.js";

const DOMAIN = "trustlayer";
const DETAILS_KEY = "grpc-status-details-bin";

/** What all errors of this package are. */
export abstract class TrustLayerError extends Error {}

/** A definite no: the session is not valid, or not for this request. */
export class SessionDenied extends TrustLayerError {
  override readonly name = "SessionDenied";
  /** Why, for programs. A newer sidecar may give a number that this version's `DenialReason` does not name. */
  readonly reason: DenialReason;
  /** How fresh the answer is. */
  readonly freshness: Freshness | undefined;

  constructor(reason: DenialReason, message: string, freshness?: Freshness) {
    super(message);
    this.reason = reason;
    this.freshness = freshness;
  }

  /** The reason's name, for example `REVOKED`; `NOT_ACTIVE` for none, and for one that this version does not know. */
  get reasonName(): string {
    const name = this.reason === DenialReason.UNSPECIFIED ? undefined : DenialReason[this.reason];
    return name ?? "NOT_ACTIVE";
  }

  /**
   * For `JSON.stringify`, as loggers use it: it cannot write the `bigint` of a revision, and would throw. Protobuf's own
   * JSON would throw as well, for a duration that is out of its range.
   */
  toJSON(): Record<string, unknown> {
    const freshness = this.freshness && { tier: this.freshness.tier, revision: String(this.freshness.revision) };
    return { name: this.name, reason: this.reasonName, message: this.message, freshness };
  }
}

/** What is known of a call that failed. */
export interface Failure {
  /** gRPC's code. */
  readonly code: status;
  /** A name of `ErrorReason`; empty where no sidecar and no Flowless gave one. */
  readonly reason: string;
  /** For people; not stable. */
  readonly message: string;
  /** Milliseconds after which another attempt makes sense; `undefined` where nothing was said. */
  readonly retryAfterMs: number | undefined;
  /** Names of the request's fields that are wrong. */
  readonly fields: readonly string[];
  /** What to search the logs of sidecar and Flowless for; may be empty. */
  readonly requestId: string;
}

abstract class FailedError extends TrustLayerError implements Failure {
  readonly code: status;
  readonly reason: string;
  readonly retryAfterMs: number | undefined;
  readonly fields: readonly string[];
  readonly requestId: string;

  constructor(failure: Failure) {
    super(failure.message);
    this.code = failure.code;
    this.reason = failure.reason;
    this.retryAfterMs = failure.retryAfterMs;
    this.fields = failure.fields;
    this.requestId = failure.requestId;
  }
}

/** Nobody can know now whether the session is valid: never a yes, and never a no either. Only of `validate`. */
export class ValidatorUnavailable extends FailedError {
  override readonly name = "ValidatorUnavailable";
}

/** A call was refused, or could not be made. Of `validate` only for a question that is itself wrong. */
export class CallFailed extends FailedError {
  override readonly name = "CallFailed";
}

/** Read what a failed call says. Details that cannot be read, or that this version does not know, are passed over. */
export function readFailure(error: ServiceError): Failure {
  const details = statusDetails(error);
  const info = detail(details, ErrorInfoSchema);
  const delay = detail(details, RetryInfoSchema)?.retryDelay;
  return {
    code: error.code,
    reason: info?.domain === DOMAIN ? info.reason : "",
    message: error.details,
    retryAfterMs: delay === undefined ? undefined : milliseconds(delay),
    fields: detail(details, BadRequestSchema)?.fieldViolations.map((violation) => violation.field) ?? [],
    requestId: detail(details, RequestInfoSchema)?.requestId ?? "",
  };
}

function statusDetails(error: ServiceError): Status["details"] {
  const [packed] = error.metadata?.get(DETAILS_KEY) ?? [];
  try {
    return packed instanceof Uint8Array ? fromBinary(StatusSchema, packed).details : [];
  } catch {
    return [];
  }
}

function detail<D extends DescMessage>(details: Status["details"], schema: D): MessageShape<D> | undefined {
  for (const packed of details) {
    try {
      const found = anyUnpack(packed, schema);
      if (found !== undefined) {
        return found;
      }
    } catch {
      return undefined;
    }
  }
  return undefined;
}

function milliseconds(duration: Duration): number {
  return Number(duration.seconds) * 1000 + duration.nanos / 1e6;
}
