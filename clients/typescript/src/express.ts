/** Middleware for Express. */
import type { Request, RequestHandler, Response } from "express";
import type { Validation } from "./client.js";
import { checkedDemands, type Demands } from "./demands.js";
import { Gate, type GateOptions, type Refusal } from "./gate.js";

export type { Demands } from "./demands.js";
export type { GateOptions, Refusal } from "./gate.js";
export type { Place } from "./http-request.js";

declare global {
  namespace Express {
    interface Request {
      /** Whose request it is, behind the Trust Layer's middleware; `undefined` where it passed as nobody's. */
      trustlayer?: Validation | undefined;
    }
  }
}

/** How requests are read, and how people are told that they may not pass. */
export interface ExpressGateOptions extends GateOptions {
  /** Sends the answer to a request that may not pass, status and headers of which are set; JSON when left out. */
  onRefused?: (refusal: Refusal, request: Request, response: Response) => void;
}

/** Makes middleware for routes. */
export interface ExpressGate {
  /**
   * Middleware: what is mounted behind it needs a session, and may read it from `request.trustlayer`.
   *
   * Refused requests are answered with 401, 403 or 503 and JSON. A question that the sidecar cannot answer (a route name
   * that is too long, say) is the app's mistake: 500, and its log says what is wrong. Throws TypeError for demands that
   * cannot be meant.
   */
  session(demands?: Demands): RequestHandler;
  /** The request context as `session` would send it, for a login. */
  contextOf(request: Request): ReturnType<Gate["contextOf"]>;
  /** The session id as `session` would read it, for `logout`, `rotateSession` and `reauthenticate`. */
  sessionIdOf(request: Request): string | undefined;
}

/** Make a gate for an Express app. Throws TypeError for options that cannot be meant. */
export function expressGate({ onRefused = sendJson, ...options }: ExpressGateOptions): ExpressGate {
  if (typeof onRefused !== "function") {
    throw new TypeError("onRefused has to be a function");
  }
  const gate = new Gate(options);
  return {
    session: (demands = {}) => middleware(gate, checkedDemands(demands), onRefused),
    contextOf: (request) => gate.contextOf(request),
    sessionIdOf: (request) => gate.sessionIdOf(request),
  };
}

type SendRefusal = Required<ExpressGateOptions>["onRefused"];
const sendJson: SendRefusal = (refusal, _request, response) => void response.json(refusal.body);

function middleware(gate: Gate, demands: Demands, send: SendRefusal): RequestHandler {
  return (request, response, next) => {
    const gone = new AbortController();
    const giveUp = () => gone.abort();
    response.once("close", giveUp);
    // What an earlier middleware has found is no answer to this one's demands.
    request.trustlayer = undefined;
    gate
      .decide(request, demands, gone.signal)
      .finally(() => response.off("close", giveUp))
      .then((decision) => {
        if (decision.passes) {
          request.trustlayer = decision.validation;
          next();
          return;
        }
        if (decision.mistake !== undefined) {
          // As Express does with an error that nobody handles.
          console.error(decision.mistake);
        }
        response.status(decision.refusal.status).set(decision.refusal.headers);
        send(decision.refusal, request, response);
      })
      .catch((error: unknown) => {
        // Nobody waits any more.
        if (!gone.signal.aborted) {
          next(error);
        }
      });
  };
}
