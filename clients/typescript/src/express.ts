/** Middleware for Express. */
import type { Request, RequestHandler } from "express";
import type { Validation } from "./client.js";
import { type Demands, Gate, type GateOptions } from "./gate.js";

export type { Demands, GateOptions } from "./gate.js";
export type { Place } from "./http-request.js";

declare global {
  namespace Express {
    interface Request {
      /** Whose request it is, behind the Trust Layer's middleware; `undefined` where it passed as nobody's. */
      trustlayer?: Validation | undefined;
    }
  }
}

/** Makes middleware for routes. */
export interface ExpressGate {
  /**
   * Middleware: what is mounted behind it needs a session, and may read it from `request.trustlayer`.
   *
   * Refused requests are answered with 401, 403 or 503 and JSON. An error of the app's own (a route name that is too
   * long, say) goes to Express' error handling.
   */
  session(demands?: Demands): RequestHandler;
  /** The request context as `session` would send it, for a login. */
  contextOf(request: Request): ReturnType<Gate["contextOf"]>;
  /** The session id as `session` would read it, for `logout`, `rotateSession` and `reauthenticate`. */
  sessionIdOf(request: Request): string | undefined;
}

/** Make a gate for an Express app. Throws TypeError for options that cannot be meant. */
export function expressGate(options: GateOptions): ExpressGate {
  const gate = new Gate(options);
  return {
    session: (demands = {}) => middleware(gate, demands),
    contextOf: (request) => gate.contextOf(request),
    sessionIdOf: (request) => gate.sessionIdOf(request),
  };
}

function middleware(gate: Gate, demands: Demands): RequestHandler {
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
        } else {
          const { status, headers, body } = decision.refusal;
          response.status(status).set(headers).json(body);
        }
      })
      .catch((error: unknown) => {
        // Nobody waits any more.
        if (!gone.signal.aborted) {
          next(error);
        }
      });
  };
}
