/** A gRPC server on a Unix socket that answers as a test says: for what no real sidecar of this version can do. */
import { EventEmitter, once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { anyPack } from "@bufbuild/protobuf/wkt";
import {
  Metadata,
  Server,
  ServerCredentials,
  type ServerUnaryCall,
  type sendUnaryData,
  type status,
} from "@grpc/grpc-js";
import { ErrorInfoSchema } from "../src/gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "../src/gen/google/rpc/status_pb.js";
import { ValidateResponseSchema } from "../src/index.js";

/** What the server does with a call: answer with these bytes, fail, or nothing at all. */
export type Reply = Uint8Array | { code: status; reason?: string; domain?: string } | "never";

/** Bytes of an answer. */
export function validateResponse(response: MessageInitShape<typeof ValidateResponseSchema>): Uint8Array {
  return toBinary(ValidateResponseSchema, create(ValidateResponseSchema, response));
}

/** See the module. Counts what reaches it. */
export class Scripted {
  readonly socket: string;
  /** `/package.Service/Method` of each call, in order. */
  readonly called: string[] = [];
  /** What the next calls get; the last one is kept for all that follow. */
  replies: Reply[] = [];
  readonly #directory = mkdtempSync(join(tmpdir(), "tl-"));
  readonly #server = new Server();
  readonly #events = new EventEmitter();

  private constructor() {
    this.socket = join(this.#directory, "s.sock");
  }

  static async start(): Promise<Scripted> {
    const scripted = new Scripted();
    for (const path of ["trustlayer.v1.ValidatorService/Validate", "trustlayer.v1.SessionService/Logout"]) {
      const bytes = (value: Buffer) => value;
      const codec = {
        requestSerialize: bytes,
        requestDeserialize: bytes,
        responseSerialize: bytes,
        responseDeserialize: bytes,
      };
      const method = { path: `/${path}`, requestStream: false, responseStream: false, ...codec };
      scripted.#server.addService({ method }, { method: scripted.#handle.bind(scripted, `/${path}`) });
    }
    await new Promise<void>((resolve, reject) => {
      const bound = (error: Error | null) => (error === null ? resolve() : reject(error));
      scripted.#server.bindAsync(`unix:${scripted.socket}`, ServerCredentials.createInsecure(), bound);
    });
    return scripted;
  }

  #handle(path: string, call: ServerUnaryCall<Buffer, Buffer>, respond: sendUnaryData<Buffer>): void {
    this.called.push(path);
    const reply = (this.replies.length > 1 ? this.replies.shift() : this.replies[0]) ?? "never";
    call.on("cancelled", () => this.#events.emit("cancelled"));
    this.#events.emit("called");
    if (reply instanceof Uint8Array) {
      respond(null, Buffer.from(reply));
    } else if (reply !== "never") {
      respond({ code: reply.code, details: "scripted", metadata: detailsOf(reply) });
    }
  }

  /** Resolves when something next happens: a call arrives, or its client gives it up. */
  next(event: "called" | "cancelled"): Promise<unknown> {
    return once(this.#events, event);
  }

  stop(): void {
    this.#server.forceShutdown();
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

function detailsOf({ code, reason, domain = "trustlayer" }: Exclude<Reply, Uint8Array | "never">): Metadata {
  const metadata = new Metadata();
  if (reason !== undefined) {
    const unknown = { typeUrl: "type.googleapis.com/trustlayer.v9.Unheard", value: new Uint8Array([255]) };
    const details = [unknown, anyPack(ErrorInfoSchema, create(ErrorInfoSchema, { reason, domain }))];
    metadata.set(
      "grpc-status-details-bin",
      Buffer.from(toBinary(StatusSchema, create(StatusSchema, { code, details }))),
    );
  }
  return metadata;
}
