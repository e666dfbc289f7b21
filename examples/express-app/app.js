// @ts-check
/** The app: what it serves, and to whom. */
import { randomBytes } from "node:crypto";
import { CallFailed, RevokeWait, TrustLayerError, ValidationMode } from "@trustlayer/client";
import { expressGate } from "@trustlayer/client/express";
import express from "express";
import { refuseOtherSites } from "./csrf.js";
import { answerError, CHALLENGE, showRefusal } from "./errors.js";
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
    onRefused: showRefusal,
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
      response.status(401).set(CHALLENGE).send(loginPage());
      return;
    }
    const newId = session.rotationDue ? await rotated(client, gate.sessionIdOf(request) ?? "") : "";
    if (newId !== "") {
      response.cookie(SESSION_COOKIE, newId, COOKIE);
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
    const sessionId = await loggedIn(client, { ...credentials, context, deviceName });
    if (sessionId === "") {
      response.status(401).set(CHALLENGE).send(loginPage("Unknown name, or wrong password."));
      return;
    }
    await ended(client, gate.sessionIdOf(request)).catch((error) => {
      // It ends by itself. Who has just logged in should not hear of it.
      if (!(error instanceof TrustLayerError)) {
        throw error;
      }
      console.error(`the session that this browser had before could not be ended: ${error.message}`);
    });
    response.cookie(SESSION_COOKIE, sessionId, COOKIE);
    response.cookie(DEVICE_COOKIE, context.deviceFingerprint, { ...COOKIE, maxAge: DEVICE_MS });
    response.redirect(303, "/");
  });

  // Who is denied (another address, say) or unknown for now can log out all the same.
  app.post("/logout", async (request, response) => {
    await ended(client, gate.sessionIdOf(request));
    response.clearCookie(SESSION_COOKIE, COOKIE);
    response.redirect(303, "/");
  });

  // From here on nobody passes without a session.
  app.use(gate.session());

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

  app.get("/admin", gate.session({ mode: ValidationMode.STRICT, rolesAll: ["admin"] }), (request, response) => {
    response.send(adminPage(request.trustlayer?.session.user?.email ?? ""));
  });

  app.use((_request, response) => {
    response.status(404).send(errorPage("There is no such page."));
  });
  app.use(answerError);
  return app;
}

/**
 * Log in; gives the new session id, or nothing for a name or password that is none.
 *
 * @param {import("@trustlayer/client").TrustLayerClient} client
 * @param {Parameters<import("@trustlayer/client").TrustLayerClient["sessions"]["login"]>[0]} credentials
 */
async function loggedIn(client, credentials) {
  try {
    return (await client.sessions.login(credentials)).sessionId;
  } catch (error) {
    const isWrong = error instanceof CallFailed && error.reason === "INVALID_FIELD";
    const isAboutTheForm = isWrong && error.fields.every((field) => field === "login" || field === "password");
    if (isAboutTheForm || (error instanceof CallFailed && error.reason === "LOGIN_REFUSED")) {
      return "";
    }
    throw error;
  }
}

/**
 * Give the session a new id, since the roles of its user have changed; nothing when another tab was first.
 *
 * @param {import("@trustlayer/client").TrustLayerClient} client
 * @param {string} sessionId
 */
async function rotated(client, sessionId) {
  try {
    return (await client.sessions.rotateSession({ sessionId })).sessionId;
  } catch (error) {
    if (error instanceof CallFailed && error.reason === "SESSION_NOT_ACTIVE") {
      return "";
    }
    throw error;
  }
}

/**
 * End a session, if this is one.
 *
 * @param {import("@trustlayer/client").TrustLayerClient} client
 * @param {string | undefined} sessionId
 */
async function ended(client, sessionId) {
  if (!sessionId) {
    return;
  }
  try {
    await client.sessions.logout({ sessionId });
  } catch (error) {
    // What is no session id names no session.
    if (!(error instanceof CallFailed && error.reason === "INVALID_FIELD")) {
      throw error;
    }
  }
}
