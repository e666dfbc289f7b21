/** What an HTTP request carries for a validation, read from the headers as they came: Node's own view merges some. */
import type { IncomingMessage } from "node:http";

/** What is needed of a request; `http2.Http2ServerRequest` has it too. */
export type HttpRequest = Pick<IncomingMessage, "rawHeaders" | "socket">;

/** Where something stands in a request. */
export type Place = "bearer" | `cookie:${string}` | `header:${string}`;

const MAX_SESSION_ID_BYTES = 128;
const BEARER = /^bearer +([!-~]+)$/i;
const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;

/** Take the values of one header, in their order. */
export function headerValues(request: HttpRequest, name: string): string[] {
  const values: string[] = [];
  for (let i = 0; i + 1 < request.rawHeaders.length; i += 2) {
    if (request.rawHeaders[i]?.toLowerCase() === name) {
      values.push((request.rawHeaders[i + 1] ?? "").trim());
    }
  }
  return values;
}

/** Take the values of the cookies of one name; names differ by case. */
export function cookieValues(request: HttpRequest, name: string): string[] {
  const pairs = headerValues(request, "cookie").flatMap((line) => line.split(";"));
  return pairs.flatMap((pair) => {
    const [key = "", ...value] = pair.split("=");
    return key.trim() === name && value.length > 0 ? [unquoted(value.join("=").trim())] : [];
  });
}

function unquoted(value: string): string {
  return value.length > 1 && value.startsWith('"') && value.endsWith('"') ? value.slice(1, -1) : value;
}

/** Refuse what is no place. Throws TypeError. */
export function checkedPlace(place: Place): Place {
  const name = /^(?:cookie|header):(.*)$/s.exec(place)?.[1];
  if (place !== "bearer" && (name === undefined || !TOKEN.test(name))) {
    throw new TypeError("a place has to be bearer, cookie:NAME or header:NAME");
  }
  return place;
}

/** Take everything that was sent in this place. */
export function valuesAt(request: HttpRequest, place: Place): string[] {
  if (place === "bearer") {
    return headerValues(request, "authorization").flatMap((line) => BEARER.exec(line)?.[1] ?? []);
  }
  const name = place.slice(place.indexOf(":") + 1);
  return place.startsWith("cookie:") ? cookieValues(request, name) : headerValues(request, name.toLowerCase());
}

/**
 * Take the session id from the first place where anything was sent; `undefined` when nowhere.
 *
 * Two different values in one place (another site of the domain can set a cookie of this name) are no session id, nor
 * is what is longer than any of them: an empty text, which is malformed.
 */
export function sessionIdOf(request: HttpRequest, places: readonly Place[]): string | undefined {
  for (const place of places) {
    const [first, ...others] = valuesAt(request, place);
    if (first !== undefined) {
      const isOne = others.every((other) => other === first) && Buffer.byteLength(first) <= MAX_SESSION_ID_BYTES;
      return isOne ? first : "";
    }
  }
  return undefined;
}

/** Take the only value; nothing when it was sent twice, or is longer than a sidecar takes. */
export function only(values: readonly string[], maxBytes: number): string {
  const [value] = values;
  return values.length === 1 && value !== undefined && Buffer.byteLength(value) <= maxBytes ? value : "";
}
