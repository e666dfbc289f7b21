/** A service of the standard as an object with a method for each of its unary RPCs. */
import type { DescMethodUnary, DescService, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import type { CallOptions, Calls } from "./calls.js";

/** Takes a request as a plain object with the fields that are set; gives the answer's message. */
export type UnaryCall<M> =
  M extends DescMethodUnary<infer I, infer O>
    ? (request: MessageInitShape<I>, options?: CallOptions) => Promise<MessageShape<O>>
    : never;

/** The unary RPCs of a service, by their names in camel case. */
export type ServiceClient<S extends DescService> = {
  readonly [N in keyof S["method"] as S["method"][N] extends DescMethodUnary ? N : never]: UnaryCall<S["method"][N]>;
};

/** Make one. `timeoutMs` is for calls that do not say their own. */
export function serviceClient<S extends DescService>(calls: Calls, service: S, timeoutMs: number): ServiceClient<S> {
  const methods = service.methods.filter((method) => method.methodKind === "unary");
  const unary = methods.map((method) => [
    method.localName,
    (request: MessageInitShape<typeof method.input>, options: CallOptions = {}) =>
      calls.unary(method as DescMethodUnary, request, { ...options, timeoutMs: options.timeoutMs ?? timeoutMs }),
  ]);
  return Object.freeze(Object.fromEntries(unary)) as ServiceClient<S>;
}
