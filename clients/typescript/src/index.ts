/** The Trust Layer for apps on Node.js. */
export { status as Code } from "@grpc/grpc-js";
export type { CallOptions } from "./calls.js";
export { type ClientOptions, TrustLayerClient, type ValidateOptions, type Validation } from "./client.js";
export { CallFailed, type Failure, SessionDenied, TrustLayerError, ValidatorUnavailable } from "./errors.js";
export * from "./gen/trustlayer/v1/errors_pb.js";
export * from "./gen/trustlayer/v1/identity_pb.js";
export * from "./gen/trustlayer/v1/session_pb.js";
export * from "./gen/trustlayer/v1/trust_token_pb.js";
export * from "./gen/trustlayer/v1/types_pb.js";
export * from "./gen/trustlayer/v1/validator_pb.js";
export type { ServiceClient } from "./services.js";
