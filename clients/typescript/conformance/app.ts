/** The app of the middleware cases, in Express or Fastify: `node build/conformance/app.js express PORT`. */
import express, { type Request, type Response } from "express";
import Fastify from "fastify";
import { expressGate } from "../src/express.js";
import { type Demands, type GateOptions, trustlayerPlugin } from "../src/fastify.js";
import { TrustLayerClient, ValidationMode } from "../src/index.js";

const HOST = "127.0.0.1";
const ROUTES: Record<string, Demands> = {
  "/admin": { mode: ValidationMode.STRICT, rolesAny: ["admin"] },
  "/both": { rolesAll: ["reader", "admin"] },
  "/either": { rolesAny: ["reader", "admin"] },
  "/fresh": { route: "payments" },
  "/named": { route: "no-such-rule" },
  "/wrong": { route: "x".repeat(129) },
};

/** What a request carries where it has a session. */
interface Carrier {
  trustlayer?: { session: { user?: { email: string } | undefined } } | undefined;
}
const shown = (request: Carrier) => ({ email: request.trustlayer?.session.user?.email ?? null });

function serveExpress(options: GateOptions, port: number): void {
  const app = express();
  const gate = expressGate(options);
  const show = (request: Request, response: Response) => void response.json(shown(request));
  app.get("/public", show);
  app.get("/maybe", gate.session({ session: "optional" }), show);
  app.use(gate.session());
  app.get("/whoami", show);
  for (const [path, demands] of Object.entries(ROUTES)) {
    app.get(path, gate.session(demands), show);
  }
  app.listen(port, HOST);
}

async function serveFastify(options: GateOptions, port: number): Promise<void> {
  const app = Fastify();
  await app.register(trustlayerPlugin, options);
  const show = async (request: Carrier) => shown(request);
  app.get("/public", { config: { trustlayer: "none" } }, show);
  app.get("/maybe", { config: { trustlayer: { session: "optional" } } }, show);
  app.get("/whoami", show);
  for (const [path, demands] of Object.entries(ROUTES)) {
    app.get(path, { config: { trustlayer: demands } }, show);
  }
  await app.listen({ port, host: HOST });
}

const [framework, port] = process.argv.slice(2);
const client = new TrustLayerClient({ socket: String(process.env["APP_SIDECAR_SOCKET"]), timeoutMs: 10_000 });
const options: GateOptions = { client, trustedProxies: ["127.0.0.9"] };
await (framework === "express" ? serveExpress : serveFastify)(options, Number(port));
