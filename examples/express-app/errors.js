// @ts-check
/** The page for each way in which a request ends without what was asked for. */
import { CallFailed, Code } from "@trustlayer/client";
import { errorPage, loginPage } from "./pages.js";

/** Goes with every 401 (RFC 9110). Browsers do not know the scheme and show the page, with the form to log in. */
export const CHALLENGE = { "www-authenticate": "Cookie" };

/** @type {Record<string, string>} */
const DENIALS = {
  SESSION_MISSING: "",
  CONTEXT_MISSING: "That needs the device of the login. Log in from this one.",
  DEVICE_MISMATCH: "This is not the device of the login. Log in from this one.",
  IP_MISMATCH: "This is not the address of the login. Log in again.",
  USER_AGENT_MISMATCH: "This is not the browser of the login. Log in from this one.",
};

/**
 * Who may not pass.
 *
 * @type {NonNullable<import("@trustlayer/client/express").ExpressGateOptions["onRefused"]>}
 */
export const showRefusal = ({ status, body }, _request, response) => {
  if (status === 401) {
    response.set(CHALLENGE).send(loginPage(DENIALS[body.reason] ?? "You are logged out. Log in again."));
  } else if (status === 403) {
    response.send(errorPage("You may not see this."));
  } else {
    response.send(errorPage(status === 503 ? "Not now. Try again in a moment." : "That did not work."));
  }
};

/**
 * What failed.
 *
 * @type {import("express").ErrorRequestHandler}
 */
export const answerError = (error, request, response, _next) => {
  if (error instanceof CallFailed) {
    answerFailedCall(error, request, response);
    return;
  }
  // The request's own fault (a body that is too large), or the app's: what to log, and nothing to show.
  const status = error?.statusCode >= 400 && error?.statusCode < 500 ? error.statusCode : 500;
  if (status === 500) {
    console.error(error);
  }
  response.status(status).send(errorPage("That did not work."));
};

/**
 * @param {CallFailed} error
 * @param {import("express").Request} request
 * @param {import("express").Response} response
 */
function answerFailedCall(error, request, response) {
  console.error(`${error.reason || Code[error.code]}: ${error.message} (${error.requestId})`);
  if (error.reason === "TOO_MANY_ATTEMPTS") {
    response.status(429).set(retryAfter(error)).send(errorPage("Too many attempts. Wait a little."));
  } else if (error.code === Code.RESOURCE_EXHAUSTED) {
    response.status(503).set(retryAfter(error)).send(errorPage("Not now. Try again in a moment."));
  } else if (error.code === Code.UNAVAILABLE || error.code === Code.DEADLINE_EXCEEDED) {
    const doubt = request.method === "GET" ? "" : " It is not certain whether this was done.";
    response
      .status(503)
      .set(retryAfter(error))
      .send(errorPage(`Not now. Try again in a moment.${doubt}`));
  } else {
    // Another attempt would end in the same way.
    response.status(500).send(errorPage("That did not work."));
  }
}

/** @param {CallFailed} error */
function retryAfter({ retryAfterMs }) {
  return { "retry-after": String(Math.max(1, Math.ceil((retryAfterMs ?? 1000) / 1000))) };
}
