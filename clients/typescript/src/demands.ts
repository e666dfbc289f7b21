/** What a route asks of a session, checked where it is said: a demand that is written wrong would be no demand. */
import { ValidationMode } from "./gen/trustlayer/v1/types_pb.js";

/** What a route asks of a session. */
export interface Demands {
  /** How much of the request context is compared; the sidecar's default when left out. */
  mode?: ValidationMode;
  /** Name of a rule of the sidecar's configuration. */
  route?: string;
  /** Roles of which the session's user needs all. */
  rolesAll?: readonly string[];
  /** Roles of which the session's user needs one. */
  rolesAny?: readonly string[];
  /**
   * `optional`: whoever sends no session id, or one that is denied, passes as nobody. Still refused is everybody when
   * nobody can know: who logged in would be shown as nobody. Not together with anything else: who drops the cookie
   * would pass where who is known may not.
   */
  session?: "required" | "optional";
}

type Check = (value: unknown) => boolean;

const CHECKS: Readonly<Record<string, readonly [Check, string]>> = {
  mode: [(value) => typeof value === "number" && value in ValidationMode, "a ValidationMode"],
  route: [isText, "the name of a rule"],
  rolesAll: [areTexts, "an array of roles"],
  // One of none is nobody; an empty list is a mistake rather than that.
  rolesAny: [(value) => areTexts(value) && (value as unknown[]).length > 0, "an array of at least one role"],
  session: [(value) => value === "required" || value === "optional", "required or optional"],
};

/** Copy what a route asks. Throws TypeError for a name that is none, a wrong type, and what cannot be meant. */
export function checkedDemands(demands: Demands): Demands {
  const given = entriesOf(demands, "a route's demands");
  for (const [name, value] of given) {
    const [isRight, expected] = checkOf(name);
    if (!isRight(value)) {
      throw new TypeError(`a route's ${name} has to be ${expected}`);
    }
  }
  if (demands.session === "optional" && given.length > 1) {
    throw new TypeError("a route whose session is optional cannot ask for anything else");
  }
  const copy = given.map(([name, value]) => [name, Array.isArray(value) ? [...value] : value]);
  return Object.fromEntries(copy) as Demands;
}

function checkOf(name: string): readonly [Check, string] {
  const found = Object.hasOwn(CHECKS, name) ? CHECKS[name] : undefined;
  if (found === undefined) {
    throw new TypeError(`a route can ask for ${Object.keys(CHECKS).join(", ")}, and not for ${name}`);
  }
  return found;
}

/** Take names and values of a plain object. Throws TypeError for anything else. */
export function entriesOf(value: unknown, what: string): [string, unknown][] {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new TypeError(`${what} have to be an object`);
  }
  return Object.entries(value);
}

function isText(value: unknown): boolean {
  return typeof value === "string" && value !== "";
}

/** Whether it is an array of texts, none of them empty. */
export function areTexts(value: unknown): boolean {
  return Array.isArray(value) && value.every(isText);
}
