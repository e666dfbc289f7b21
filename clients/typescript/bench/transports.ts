/**
 * Compare two transports for the same call to a real sidecar, a hit: docs/decisions/0013-typescript-transport.md.
 *
 * They take turns, so that what else the machine does falls on both. `cpu_us` is this process's own time per call, which
 * says most on a machine that does other things too.
 */
import { connect } from "node:net";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { ValidatorService } from "../src/gen/trustlayer/v1/validator_pb.js";
import { TrustLayerClient } from "../src/index.js";
import { Pair } from "../test/pair.js";

const SECONDS = Number(process.argv[2] ?? 2);
const ROUNDS = 3;

type Call = () => Promise<boolean>;

async function times(call: Call, concurrency: number): Promise<number[]> {
  const taken: number[] = [];
  const end = performance.now() + SECONDS * 1000;
  async function caller(): Promise<void> {
    for (let start = performance.now(); start < end; start = performance.now()) {
      if (!(await call())) {
        throw new Error("not active");
      }
      taken.push((performance.now() - start) * 1000);
    }
  }
  await Promise.all(Array.from({ length: concurrency }, caller));
  return taken.sort((a, b) => a - b);
}

const pair = await Pair.start();
const { socket, session_id: sessionId, client_ip: clientIp } = pair.known;
const ours = new TrustLayerClient({ socket });
const transport = createGrpcTransport({
  baseUrl: "http://localhost",
  nodeOptions: { createConnection: () => connect(socket) },
});
const theirs = createClient(ValidatorService, transport);
const calls: Record<string, Call> = {
  "grpc-js": async () => (await ours.validate(sessionId, { context: { clientIp } })).session.handle !== "",
  connect: async () => {
    const answer = await theirs.validate({ sessionId, context: { clientIp } }, { timeoutMs: 2000 });
    return answer.result.case === "session";
  },
};
try {
  for (let round = 0; round <= ROUNDS; round++) {
    for (const concurrency of [1, 8]) {
      for (const [name, call] of Object.entries(calls)) {
        const before = process.cpuUsage();
        const taken = await times(call, concurrency);
        const { user, system } = process.cpuUsage(before);
        const at = (share: number) => Math.round(taken[Math.floor(taken.length * share)] ?? 0);
        const line = {
          transport: name,
          concurrency,
          p50_us: at(0.5),
          p99_us: at(0.99),
          per_second: Math.round(taken.length / SECONDS),
          cpu_us: Math.round((user + system) / taken.length),
        };
        // The first round warms up.
        if (round > 0) {
          console.log(JSON.stringify(line));
        }
      }
    }
  }
} finally {
  await ours.close();
  await pair.stop();
}
process.exit(0);
