// @ts-check
/** `make example-express`: a pair of its own, and the app beside it, until Ctrl-C. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { Pair } from "../../clients/typescript/build/test/pair.js";

const PORT = process.env["PORT"] ?? "8000";
console.log("Starting Flowless and a sidecar …");
const pair = await Pair.start("--role", "admin");
const { socket, login, other_login: other, password } = pair.known;
const env = { ...process.env, PORT, TRUSTLAYER_SOCKET: socket };
const app = spawn(process.execPath, ["server.js"], { cwd: import.meta.dirname, env, stdio: "inherit" });
console.log(`
  http://localhost:${PORT}

  ${login} (may see the admin page) or ${other}, password ${password}

Log in with two browsers, and log out everywhere else in one. Ctrl-C ends all of it.
`);
for (const signal of ["SIGINT", "SIGTERM"]) {
  process.on(signal, () => app.kill("SIGTERM"));
}
const [code] = await once(app, "exit");
await pair.stop();
process.exitCode = code ?? 1;
