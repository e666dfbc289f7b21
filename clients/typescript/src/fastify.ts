/** Plugin for Fastify. */
import type { FastifyContextConfig, FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import type { Validation } from "./client.js";
import { checkedDemands, type Demands } from "./demands.js";
import { Gate, type GateOptions } from "./gate.js";

export type { Demands } from "./demands.js";
export type { GateOptions } from "./gate.js";
export type { Place } from "./http-request.js";

declare module "fastify" {
  interface FastifyContextConfig {
    /** What this route asks of a session; `none`: nothing at all. Without it: that there is one. */
    trustlayer?: Demands | "none";
  }
  interface FastifyRequest {
    /** Whose request it is; `undefined` where it passed as nobody's. */
    trustlayer: Validation | undefined;
  }
  interface FastifyInstance {
    /** Reads requests as the plugin does. */
    trustlayer: {
      /** The request context as it is sent with a validation, for a login. */
      contextOf(request: FastifyRequest): ReturnType<Gate["contextOf"]>;
      /** The session id, for `logout`, `rotateSession` and `reauthenticate`. */
      sessionIdOf(request: FastifyRequest): string | undefined;
    };
  }
}

/**
 * Plugin: every route of the instance that it is registered on, also one that does not exist, needs a session, unless
 * its `config.trustlayer` says otherwise. A handler may read it from `request.trustlayer`.
 *
 * Refused requests are answered with 401, 403 or 503 and JSON. A question that the sidecar cannot answer (a route name
 * that is too long, say) is the app's mistake: 500, and its log says what is wrong. A route whose demands cannot be meant
 * is refused with a TypeError when it is added.
 */
export async function trustlayerPlugin(fastify: FastifyInstance, options: GateOptions): Promise<void> {
  const gate = new Gate(withoutFastifysOwn(options));
  fastify.decorateRequest("trustlayer", undefined);
  fastify.decorate("trustlayer", {
    contextOf: (request: FastifyRequest) => gate.contextOf(request.raw),
    sessionIdOf: (request: FastifyRequest) => gate.sessionIdOf(request.raw),
  });
  fastify.addHook("onRoute", (route) => void demandsOf(route.config));
  fastify.addHook("onRequest", (request, reply) => admit(gate, request, reply));
}

/** What `register` itself takes comes along. */
function withoutFastifysOwn(options: GateOptions): GateOptions {
  const own = ["prefix", "logLevel", "logSerializers"];
  return Object.fromEntries(
    Object.entries(options).filter(([name]) => !own.includes(name)),
  ) as unknown as GateOptions;
}

// Also of routes that were added before the plugin was there, which `onRoute` did not see.
const checked = new WeakMap<object, Demands>();

function demandsOf(config: FastifyContextConfig | undefined): Demands | "none" {
  const demands = config?.trustlayer === undefined ? {} : config.trustlayer;
  if (demands === "none") {
    return demands;
  }
  const known = typeof demands === "object" && demands !== null ? checked.get(demands) : undefined;
  if (known !== undefined) {
    return known;
  }
  const right = checkedDemands(demands);
  checked.set(demands, right);
  return right;
}

// For the instance that registers it, not for a child of its own.
Object.assign(trustlayerPlugin, {
  [Symbol.for("skip-override")]: true,
  [Symbol.for("fastify.display-name")]: "trustlayer",
});

async function admit(gate: Gate, request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply | undefined> {
  const demands = demandsOf(request.routeOptions.config);
  if (demands === "none") {
    return undefined;
  }
  const gone = new AbortController();
  const giveUp = () => gone.abort();
  reply.raw.once("close", giveUp);
  try {
    const decision = await gate.decide(request.raw, demands, gone.signal);
    if (decision.passes) {
      request.trustlayer = decision.validation;
      return undefined;
    }
    if (decision.mistake !== undefined) {
      request.log.error(decision.mistake);
    }
    const { status, headers, body } = decision.refusal;
    return reply.code(status).headers(headers).send(body);
  } finally {
    reply.raw.off("close", giveUp);
  }
}
