/** The app as its users meet it: its own process, beside a real pair, over HTTP. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { setTimeout } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { TrustLayerClient } from "@trustlayer/client";
import { Pair } from "../../../clients/typescript/build/test/pair.js";

const DIRECTORY = fileURLToPath(new URL("..", import.meta.url));
const ORIGIN = "http://localhost:8000";
const FROM_HERE = { "sec-fetch-site": "same-origin" };

let pair;
let server;
let base;
let log = "";

before(async () => {
  pair = await Pair.start("--role", "admin");
  const env = {
    ...process.env,
    TRUSTLAYER_SOCKET: pair.known.socket,
    PORT: "0",
    ORIGIN,
    TRUSTED_PROXIES: "127.0.0.1",
  };
  server = spawn(process.execPath, ["server.js"], { cwd: DIRECTORY, env, stdio: ["ignore", "pipe", "pipe"] });
  server.stderr.on("data", (text) => {
    log += text;
  });
  const [line] = await once(createInterface({ input: server.stdout }), "line");
  base = `http://127.0.0.1:${line.split(" ").at(-1)}`;
});
after(async () => {
  server?.kill("SIGKILL");
  await pair?.stop();
});

/** Keeps cookies as a browser does. */
class Browser {
  cookies = new Map();
  /** What the server said of its cookies. */
  said = [];

  /** As a proxy before the app would say. */
  address = "203.0.113.7";

  constructor(agent = "Firefox on Linux") {
    this.agent = agent;
  }

  async send(method, path, { form, headers = FROM_HERE } = {}) {
    const cookie = [...this.cookies].map(([name, value]) => `${name}=${value}`).join("; ");
    const response = await fetch(base + path, {
      method,
      redirect: "manual",
      headers: { "user-agent": this.agent, "x-forwarded-for": this.address, cookie, ...headers },
      body: form && new URLSearchParams(form),
    });
    for (const line of response.headers.getSetCookie()) {
      this.said.push(line);
      const [, name, value] = /^([^=]+)=([^;]*)/.exec(line);
      if (value === "") {
        this.cookies.delete(name);
      } else {
        this.cookies.set(name, value);
      }
    }
    return { status: response.status, headers: response.headers, text: await response.text() };
  }

  logIn(login = pair.known.login) {
    return this.send("POST", "/login", { form: { login, password: pair.known.password } });
  }
}

test("whoever logs in sees the devices, this one marked", async () => {
  const browser = new Browser("Firefox <b>on</b> Linux");
  const nobody = await browser.send("GET", "/");
  assert.deepEqual([nobody.status, nobody.headers.get("www-authenticate")], [401, "Cookie"]);
  const answer = await browser.logIn();
  assert.deepEqual([answer.status, answer.headers.get("location")], [303, "/"]);
  const { status, text, headers } = await browser.send("GET", "/");
  assert.equal(status, 200);
  assert.match(text, /Firefox &lt;b&gt;on&lt;\/b&gt; Linux \(this one\)<\/td><td>203\.0\.113\.7<\/td>/);
  assert.equal(headers.get("cache-control"), "no-store");
  assert.match(headers.get("content-security-policy"), /default-src 'none'/);
  assert.ok(!text.includes("sess_"));
});

test("cookies are for this host, this site and no script", async () => {
  const browser = new Browser();
  await browser.logIn();
  assert.deepEqual([...browser.cookies.keys()], ["__Host-session", "__Host-device"]);
  for (const line of browser.said) {
    for (const attribute of ["; Path=/", "; HttpOnly", "; Secure", "; SameSite=Lax"]) {
      assert.ok(line.includes(attribute), line.replace(/=[^;]*/, "=…"));
    }
    assert.ok(!/domain/i.test(line));
  }
});

test("a wrong password says no more than that, and a form without fields neither", async () => {
  for (const form of [{ login: pair.known.login, password: "wrong" }, { login: "nobody", password: "wrong" }, {}]) {
    const answer = await new Browser().send("POST", "/login", { form });
    assert.equal(answer.status, 401);
    assert.match(answer.text, /Unknown name, or wrong password\./);
    assert.equal(answer.headers.get("www-authenticate"), "Cookie");
    assert.deepEqual(answer.headers.getSetCookie(), []);
  }
});

test("log out everywhere else ends the others at once, and not this one", async () => {
  const [here, there] = [new Browser(), new Browser("A telephone")];
  await here.logIn();
  await there.logIn();
  assert.equal((await there.send("GET", "/")).status, 200);
  assert.equal((await here.send("POST", "/logout-everywhere-else")).status, 303);
  assert.equal((await there.send("GET", "/")).status, 401);
  const { status, text } = await here.send("GET", "/");
  assert.equal(status, 200);
  assert.ok(!text.includes("A telephone"));
});

test("who logs out is out, also with the cookie that the browser has dropped", async () => {
  const browser = new Browser();
  await browser.logIn();
  const kept = browser.cookies.get("__Host-session");
  assert.equal((await browser.send("POST", "/logout")).status, 303);
  assert.equal(browser.cookies.has("__Host-session"), false);
  browser.cookies.set("__Host-session", kept);
  // Another sidecar may take until the guarantee's bound; this one relayed the logout.
  assert.equal((await browser.send("GET", "/admin")).status, 401);
});

test("who is denied can log out, and then is out", async () => {
  const browser = new Browser();
  await browser.logIn();
  const kept = browser.cookies.get("__Host-session");
  browser.address = "198.51.100.9";
  const denied = await browser.send("GET", "/admin");
  assert.equal(denied.status, 401);
  assert.match(denied.text, /not the address of the login/);
  assert.equal((await browser.send("POST", "/logout")).status, 303);
  assert.equal(browser.cookies.has("__Host-session"), false);
  browser.cookies.set("__Host-session", kept);
  browser.address = "203.0.113.7";
  assert.equal((await browser.send("GET", "/")).status, 401);
});

test("nobody, and who sends what is no session id, can log out as well", async () => {
  const browser = new Browser();
  assert.equal((await browser.send("POST", "/logout")).status, 303);
  browser.cookies.set("__Host-session", "nonsense");
  assert.equal((await browser.send("POST", "/logout")).status, 303);
  assert.equal(browser.cookies.has("__Host-session"), false);
});

test("a login ends the session that the browser had before", async () => {
  const browser = new Browser();
  await browser.logIn();
  const before = browser.cookies.get("__Host-session");
  assert.equal((await browser.logIn()).status, 303);
  assert.equal((await browser.send("GET", "/")).status, 200);
  browser.cookies.set("__Host-session", before);
  assert.equal((await browser.send("GET", "/")).status, 401);
});

test("the admin page asks for the role, and for the device and browser of the login", async () => {
  const admin = new Browser();
  await admin.logIn();
  assert.match((await admin.send("GET", "/admin")).text, /may see this/);

  const elsewhere = new Browser();
  elsewhere.cookies.set("__Host-session", admin.cookies.get("__Host-session"));
  const noDevice = await elsewhere.send("GET", "/admin");
  assert.deepEqual([noDevice.status, noDevice.headers.get("www-authenticate")], [401, "Cookie"]);
  assert.match(noDevice.text, /needs the device of the login/);
  elsewhere.cookies.set("__Host-device", "another");
  assert.match((await elsewhere.send("GET", "/admin")).text, /not the device of the login/);
  admin.agent = "another browser";
  assert.match((await admin.send("GET", "/admin")).text, /not the browser of the login/);

  const reader = new Browser();
  await reader.logIn(pair.known.other_login);
  const refused = await reader.send("GET", "/admin");
  assert.equal(refused.status, 403);
  assert.match(refused.text, /You may not see this/);
});

test("a session whose user got other roles goes on under a new id", async () => {
  const browser = new Browser();
  await browser.logIn(pair.known.other_login);
  const before = browser.cookies.get("__Host-session");
  const client = new TrustLayerClient({ socket: pair.known.socket });
  const { user } = await client.identity.lookUpUser({ login: pair.known.other_login });
  await client.identity.updateUser({
    userId: user.id,
    user: { roles: ["editor"] },
    updateMask: { paths: ["roles"] },
  });
  await client.close();
  // Two tabs at once: one gets the new id, the other is no error.
  const tabs = await Promise.all([1, 2, 3].map(() => browser.send("GET", "/")));
  assert.deepEqual(
    tabs.map(({ status }) => status),
    [200, 200, 200],
  );
  const after = browser.cookies.get("__Host-session");
  assert.notEqual(after, before);
  assert.equal((await browser.send("GET", "/")).status, 200);
  browser.cookies.set("__Host-session", before);
  assert.equal((await browser.send("GET", "/")).status, 401);
});

test("what another site makes a browser send is refused and does nothing", async () => {
  const [browser, other] = [new Browser(), new Browser("A telephone")];
  await browser.logIn();
  await other.logIn();
  for (const headers of [
    {},
    { "sec-fetch-site": "cross-site" },
    { "sec-fetch-site": "same-site", origin: ORIGIN },
    { origin: "http://localhost:8000.evil.example" },
    { origin: "null" },
  ]) {
    for (const path of ["/logout-everywhere-else", "/logout", "/login"]) {
      assert.equal((await browser.send("POST", path, { headers })).status, 403, JSON.stringify(headers));
    }
  }
  assert.equal((await browser.send("GET", "/")).status, 200);
  assert.equal((await other.send("GET", "/")).status, 200);
  // Browsers before Sec-Fetch-Site.
  assert.equal((await browser.send("POST", "/logout", { headers: { origin: ORIGIN } })).status, 303);
});

test("without a session nothing but the login is served", async () => {
  for (const [method, path] of [
    ["GET", "/admin"],
    ["POST", "/logout-everywhere-else"],
    ["GET", "/no-such-page"],
  ]) {
    assert.equal((await new Browser().send(method, path)).status, 401, path);
  }
});

test("while nobody can know, nobody passes, and the app says so", async () => {
  const browser = new Browser();
  await browser.logIn();
  await pair.tell("stop-sidecar");
  try {
    const answer = await browser.send("GET", "/");
    assert.equal(answer.status, 503);
    assert.ok(Number(answer.headers.get("retry-after")) >= 1);
    const login = await new Browser().logIn();
    assert.equal(login.status, 503);
    assert.equal((await browser.send("POST", "/logout")).status, 503);
    assert.ok(browser.cookies.has("__Host-session"));
  } finally {
    await pair.tell("start-sidecar");
  }
  // The app connects anew within a second of the socket's return.
  let back = await browser.send("GET", "/");
  for (let tries = 0; back.status === 503 && tries < 50; tries++) {
    await setTimeout(100);
    back = await browser.send("GET", "/");
  }
  assert.equal(back.status, 200);
});

test("ends in order when told to, and its log holds no secret", async () => {
  const ended = once(server, "exit");
  server.kill("SIGTERM");
  assert.deepEqual(await ended, [0, null]);
  assert.match(log, /UNAVAILABLE/);
  assert.ok(!log.includes("sess_") && !log.includes(pair.known.password));
});
