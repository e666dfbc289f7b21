/**
 * Whose request is it, by address? A header is believed only as far as trusted proxies vouch for it.
 *
 * Each proxy adds, at the right end, the address from which the request reached it. So the list is read from the
 * right, up to the first address that is no trusted proxy. What stands left of it the client wrote itself. Where the
 * client's address should stand and cannot be read, or where more addresses stand than any path has, there is no client
 * IP, never a guess.
 */
import { BlockList, isIP, isIPv4, isIPv6 } from "node:net";
import { type HttpRequest, headerValues } from "./http-request.js";

const MAX_ELEMENTS = 32;
const MAPPED = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i;
const WITH_PORT = /^(?:\[([0-9a-f:.]+)\](?::\d{1,5})?|([0-9.]+)(?::\d{1,5})?)$/i;

/** Finds the client IP of requests. */
export class ClientIp {
  readonly #trusted = new BlockList();

  /** `trustedProxies`: addresses, and networks such as `10.1.0.0/16`. Throws TypeError. */
  constructor(trustedProxies: readonly string[]) {
    for (const text of trustedProxies) {
      this.#trust(text);
    }
  }

  #trust(text: string): void {
    const [address = "", prefix, ...more] = text.split("/");
    const bits = prefix === undefined ? undefined : /^\d{1,3}$/.test(prefix) ? Number(prefix) : Number.NaN;
    const longest = isIPv4(address) ? 32 : 128;
    // A network of everything would make every client a proxy.
    if (isIP(address) === 0 || more.length > 0 || (bits !== undefined && !(bits >= 1 && bits <= longest))) {
      throw new TypeError(`a trusted proxy has to be an address or a network like 10.1.0.0/16: ${text}`);
    }
    if (bits === undefined) {
      this.#trusted.addAddress(address, family(address));
    } else {
      this.#trusted.addSubnet(address, bits, family(address));
    }
  }

  /** Return the client IP; empty when there is none. */
  of(request: HttpRequest): string {
    let current = readAddress(request.socket.remoteAddress ?? "");
    if (current === "" || !this.#isTrusted(current)) {
      return current;
    }
    const elements = headerValues(request, "x-forwarded-for").join(",").split(",");
    if (elements.length > MAX_ELEMENTS) {
      return "";
    }
    while (current !== "" && this.#isTrusted(current)) {
      current = readAddress((elements.pop() ?? "").trim());
    }
    return current;
  }

  #isTrusted(address: string): boolean {
    return this.#trusted.check(address, family(address));
  }
}

function family(address: string): "ipv4" | "ipv6" {
  return isIPv6(address) ? "ipv6" : "ipv4";
}

/** Read an address, with a port or without; empty for all else. */
function readAddress(text: string): string {
  const found = WITH_PORT.exec(text);
  const address = found?.[1] ?? found?.[2] ?? text;
  const bare = MAPPED.exec(address)?.[1] ?? address;
  // A zone (`fe80::1%eth0`) means something on that machine only.
  return isIP(bare) !== 0 && !bare.includes("%") ? bare : "";
}
