// @ts-check
/** Starts the app and ends it in order: no new requests, then those under way, then the client. */
import { once } from "node:events";
import { TrustLayerClient } from "@trustlayer/client";
import { makeApp } from "./app.js";

const {
  TRUSTLAYER_SOCKET: socket = "/run/bridge-sidecar/bridge.sock",
  PORT = "8000",
  ORIGIN = `http://localhost:${PORT}`,
  TRUSTED_PROXIES = "",
} = process.env;

const client = new TrustLayerClient({ socket });
const trustedProxies = TRUSTED_PROXIES.split(",").filter((proxy) => proxy !== "");
const server = makeApp({ client, origin: ORIGIN, trustedProxies }).listen(Number(PORT), "127.0.0.1");
await once(server, "listening");
const address = server.address();
console.log(`listening on ${address !== null && typeof address === "object" ? address.port : PORT}`);

for (const signal of ["SIGINT", "SIGTERM"]) {
  process.once(signal, () => {
    server.close(() => void client.close());
    server.closeIdleConnections();
  });
}
