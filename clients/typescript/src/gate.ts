/** May this request pass, and as whose? What the middleware of every framework asks. */
import type { TrustLayerClient, Validation } from "./client.js";
import { ClientIp } from "./client-ip.js";
import { areTexts, type Demands, entriesOf } from "./demands.js";
import { CallFailed, SessionDenied, ValidatorUnavailable } from "./errors.js";
import { DenialReason } from "./gen/trustlayer/v1/types_pb.js";
import { checkedPlace, type HttpRequest, only, type Place, sessionIdOf, valuesAt } from "./http-request.js";

/** How requests are read. */
export interface GateOptions {
  /** Who is asked. */
  client: TrustLayerClient;
  /** Where session ids stand: the first place counts in which anything was sent. */
  sessionIdFrom?: readonly Place[];
  /** Addresses and networks of the proxies before this app. Without them nothing but the peer's address counts. */
  trustedProxies?: readonly string[];
  /** Where the device fingerprint stands, for `ADVANCED` and `STRICT`; the header `x-device-fingerprint` when left out. */
  deviceFingerprintFrom?: Place;
}

/** The answer to a request that may not pass. */
export interface Refusal {
  /** 401, 403 or 503; 500 for a question that is wrong. */
  readonly status: number;
  /** With names in lower case. */
  readonly headers: Readonly<Record<string, string>>;
  /** To be sent as JSON. */
  readonly body: { readonly reason: string; readonly message: string };
}

/** What to do. Passing without a validation is passing as nobody. */
export type Decision = { readonly passes: true; readonly validation: Validation | undefined } | Refused;
type Refused = {
  readonly passes: false;
  readonly refusal: Refusal;
  /** The app's own mistake, for its log. */
  readonly mistake?: CallFailed;
};

const MAX_DEVICE_BYTES = 512;
const MAX_USER_AGENT_BYTES = 1024;
const FORBIDDEN: ReadonlySet<number> = new Set([DenialReason.ROLE_MISSING, DenialReason.ROUTE_NOT_COVERED]);
const NOBODY: Decision = { passes: true, validation: undefined };

/** Decides. Holds nothing between requests. */
export class Gate {
  readonly #client: TrustLayerClient;
  readonly #places: readonly Place[];
  readonly #device: Place;
  readonly #clientIp: ClientIp;

  /** Throws TypeError for options that cannot be meant. */
  constructor(options: GateOptions) {
    checkOptions(options);
    this.#client = options.client;
    this.#places = (options.sessionIdFrom ?? ["cookie:session_id", "bearer"]).map(checkedPlace);
    this.#device = checkedPlace(options.deviceFingerprintFrom ?? "header:x-device-fingerprint");
    this.#clientIp = new ClientIp(options.trustedProxies ?? []);
  }

  /** Read the session id; `undefined` when none was sent, empty when what was sent is none. */
  sessionIdOf(request: HttpRequest): string | undefined {
    return sessionIdOf(request, this.#places);
  }

  /** Collect the request context, also for a login. */
  contextOf(request: HttpRequest): { clientIp: string; deviceFingerprint: string; userAgent: string } {
    return {
      clientIp: this.#clientIp.of(request),
      deviceFingerprint: only(valuesAt(request, this.#device), MAX_DEVICE_BYTES),
      userAgent: only(valuesAt(request, "header:user-agent"), MAX_USER_AGENT_BYTES),
    };
  }

  /** Decide; `demands` are checked ones. Rejects when the signal says so. */
  async decide(request: HttpRequest, demands: Demands, signal: AbortSignal): Promise<Decision> {
    const sessionId = this.sessionIdOf(request);
    const isOptional = demands.session === "optional";
    if (sessionId === undefined) {
      return isOptional ? NOBODY : refused(401, "SESSION_MISSING", "no session id was sent", CHALLENGE);
    }
    if (sessionId === "") {
      return isOptional ? NOBODY : MALFORMED;
    }
    const { mode, route } = demands;
    try {
      const context = this.contextOf(request);
      const validation = await this.#client.validate(sessionId, { mode, route, context, signal });
      return lacksRole(validation, demands) ? ROLE_MISSING : { passes: true, validation };
    } catch (error) {
      if (error instanceof SessionDenied) {
        return isOptional && !FORBIDDEN.has(error.reason) ? NOBODY : denied(error);
      }
      if (error instanceof ValidatorUnavailable) {
        return unavailable(error);
      }
      if (error instanceof CallFailed) {
        return { ...refused(500, "INTERNAL", "the app asks the sidecar what it cannot answer"), mistake: error };
      }
      throw error;
    }
  }
}

const CHALLENGE = { "www-authenticate": "Bearer" };
const INVALID_TOKEN = { "www-authenticate": 'Bearer error="invalid_token"' };
const MALFORMED = refused(401, "MALFORMED", "what was sent is no session id", INVALID_TOKEN);
const ROLE_MISSING = refused(403, "ROLE_MISSING", "the user does not have the roles that the route asks for");
const OPTIONS = ["client", "sessionIdFrom", "trustedProxies", "deviceFingerprintFrom"];

/** An option that is written wrong would be one that was left out. */
function checkOptions(options: GateOptions): void {
  const wrong = entriesOf(options, "the options").find(([name]) => !OPTIONS.includes(name));
  if (wrong !== undefined) {
    throw new TypeError(`there is no option ${wrong[0]}, only ${OPTIONS.join(", ")}`);
  }
  const { client, sessionIdFrom, trustedProxies } = options;
  if (typeof client?.validate !== "function") {
    throw new TypeError("client has to be a TrustLayerClient");
  }
  if (sessionIdFrom !== undefined && (!areTexts(sessionIdFrom) || sessionIdFrom.length === 0)) {
    throw new TypeError("sessionIdFrom has to be an array of at least one place");
  }
  if (trustedProxies !== undefined && !areTexts(trustedProxies)) {
    throw new TypeError("trustedProxies has to be an array of addresses and networks");
  }
}

function lacksRole({ session }: Validation, { rolesAll = [], rolesAny }: Demands): boolean {
  const has = new Set(session.user?.roles);
  const hasOne = rolesAny === undefined || rolesAny.some((role) => has.has(role));
  return !hasOne || rolesAll.some((role) => !has.has(role));
}

function denied(error: SessionDenied): Refused {
  if (FORBIDDEN.has(error.reason)) {
    return refused(403, error.reasonName, error.message);
  }
  // RFC 9470 and RFC 6750.
  const isTooOld = error.reason === DenialReason.AUTHENTICATION_TOO_OLD;
  const challenge = isTooOld
    ? { "www-authenticate": 'Bearer error="insufficient_user_authentication"' }
    : INVALID_TOKEN;
  return refused(401, error.reasonName, error.message, challenge);
}

function unavailable(error: ValidatorUnavailable): Refused {
  const seconds = Math.max(1, Math.ceil((error.retryAfterMs ?? 1000) / 1000));
  const message = "whether the session is valid cannot be known now";
  return refused(503, error.reason || "UNAVAILABLE", message, { "retry-after": String(seconds) });
}

function refused(status: number, reason: string, message: string, more: Record<string, string> = {}): Refused {
  return {
    passes: false,
    refusal: { status, headers: { "cache-control": "no-store", ...more }, body: { reason, message } },
  };
}
