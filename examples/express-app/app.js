// @ts-check
/** The app: what it serves, and to whom. */
import { randomBytes } from "node:crypto";
import { CallFailed, Code, RevokeWait, ValidationMode } from "@trustlayer/client";
import { expressGate } from "@trustlayer/client/express";
import express from "express";
import { refuseOtherSites } from "./csrf.js";
import { adminPage, devicesPage, errorPage, loginPage } from "./pages.js";

/** `__Host-`: over TLS only (or on localhost), for this host only, and no other site of the domain can set one. */
const SESSION_COOKIE = "__Host-session";
/** What STRICT compares: a random name of this browser, which outlives its sessions. */
const DEVICE_COOKIE = "__Host-device";
/** @type {import("express").CookieOptions} */
const COOKIE = { httpOnly: true, secure: true, sameSite: "lax", path: "/" };
const DEVICE_MS = 400 * 24 * 3600 * 1000;
const MAX_DEVICES = 500;

const HEADERS = {
  "cache-control": "no-store",
  "content-security-policy": "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
  "referrer-policy": "same-origin",
  "x-content-type-options": "nosniff",
};

/**
 * @param {object} options
 * @param {import("@trustlayer/client").TrustLayerClient} options.client
 * @param {string} options.origin where browsers find this app, for example `https://app.example.org`
 * @param {string[]} options.trustedProxies
 */
export function makeApp({ client, origin, trustedProxies }) {
  const gate = expressGate({
    client,
    trustedProxies,
    sessionIdFrom: [`cookie:${SESSION_COOKIE}`],
    deviceFingerprintFrom: `cookie:${DEVICE_COOKIE}`,
  });
  const app = express();
  app.disable("x-powered-by");
  app.use((_request, response, next) => {
    response.set(HEADERS);
    next();
  });
  app.use(refuseOtherSites(origin));
  app.use(express.urlencoded({ extended: false, limit: "4kb", parameterLimit: 10 }));

  // Before the gate: what is open to everybody.
  app.get("/", gate.session({ session: "optional" }), async (request, response) => {
    const session = request.trustlayer?.session;
    if (session?.user === undefined) {
      response.status(401).send(loginPage());
      return;
    }
    if (session.rotationDue) {
      const sessionId = gate.sessionIdOf(request) ?? "";
      response.cookie(SESSION_COOKIE, (await client.sessions.rotateSession({ sessionId })).sessionId, COOKIE);
    }
    const { sessions } = await client.sessions.listSessions({ userId: session.user.id, pageSize: MAX_DEVICES });
    response.send(devicesPage(session, session.user, sessions));
  });

  app.post("/login", async (request, response) => {
    const { login = "", password = "" } = request.body ?? {};
    const found = gate.contextOf(request);
    const context = { ...found, deviceFingerprint: found.deviceFingerprint || randomBytes(32).toString("base64url") };
    // A list of devices is for people: the first words of the browser's name will do.
    const deviceName = found.userAgent.slice(0, 100);
    const credentials = { login: String(login), password: String(password) };
    const { sessionId } = await client.sessions.login({ ...credentials, context, deviceName });
    response.cookie(SESSION_COOKIE, sessionId, COOKIE);
    response.cookie(DEVICE_COOKIE, context.deviceFingerprint, { ...COOKIE, maxAge: DEVICE_MS });
    response.redirect(303, "/");
  });

  // From here on nobody passes without a session.
  app.use(gate.session());

  app.post("/logout", async (request, response) => {
    await client.sessions.logout({ sessionId: gate.sessionIdOf(request) ?? "" });
    response.clearCookie(SESSION_COOKIE, COOKIE);
    response.redirect(303, "/");
  });

  app.post("/logout-everywhere-else", async (request, response) => {
    const session = request.trustlayer?.session;
    await client.sessions.revokeUserSessions({
      userId: session?.user?.id ?? "",
      exceptHandle: session?.handle ?? "",
      // When the page is back, no sidecar says yes to the others any more.
      wait: RevokeWait.ALL_SIDECARS,
    });
    response.redirect(303, "/");
  });

  app.get("/admin", gate.session({ mode: ValidationMode.STRICT, roles: ["admin"] }), (request, response) => {
    response.send(adminPage(request.trustlayer?.session.user?.email ?? ""));
  });

  app.use((_request, response) => {
    response.status(404).send(errorPage("There is no such page."));
  });
  app.use(answerError);
  return app;
}

/** @type {import("express").ErrorRequestHandler} */
const answerError = (error, _request, response, _next) => {
  if (!(error instanceof CallFailed)) {
    // The request's own fault (a body that is too large), or the app's: what to log, and nothing to show.
    const status = error?.statusCode >= 400 && error?.statusCode < 500 ? error.statusCode : 500;
    if (status === 500) {
      console.error(error);
    }
    response.status(status).send(errorPage("That did not work."));
  } else if (error.reason === "LOGIN_REFUSED" || error.reason === "INVALID_FIELD") {
    response.status(401).send(loginPage("Unknown name, or wrong password."));
  } else {
    const tooMany = error.code === Code.RESOURCE_EXHAUSTED;
    console.error(`${error.reason || Code[error.code]}: ${error.message} (${error.requestId})`);
    response.set("retry-after", String(Math.max(1, Math.ceil((error.retryAfterMs ?? 1000) / 1000))));
    response
      .status(tooMany ? 429 : 503)
      .send(errorPage(tooMany ? "Too many attempts. Wait a little." : "Not now. Try again in a moment."));
  }
};
