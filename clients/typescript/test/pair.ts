/** A real pair, Flowless and a sidecar, for tests and measurements. */
import { type ChildProcessByStdio, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { fileURLToPath } from "node:url";

/** Top of the repository; this file runs as clients/typescript/build/test/pair.js. */
export const ROOT = fileURLToPath(new URL("../../../../", import.meta.url));

/** What `python -m tools.pair` says of the pair. */
export interface Known {
  socket: string;
  session_id: string;
  login: string;
  other_login: string;
  password: string;
  client_ip: string;
  device_fingerprint: string;
  user_agent: string;
}

/** See `tools/pair.py`. */
export class Pair {
  readonly known: Known;
  readonly #process: ChildProcessByStdio<Writable, Readable, null>;
  readonly #lines: AsyncIterator<string>;

  private constructor(
    known: Known,
    process: ChildProcessByStdio<Writable, Readable, null>,
    lines: AsyncIterator<string>,
  ) {
    this.known = known;
    this.#process = process;
    this.#lines = lines;
  }

  static async start(...options: string[]): Promise<Pair> {
    const python = spawn(`${ROOT}.venv/bin/python`, ["-m", "tools.pair", ...options], {
      cwd: ROOT,
      stdio: ["pipe", "pipe", "inherit"],
    });
    const lines = createInterface({ input: python.stdout })[Symbol.asyncIterator]();
    return new Pair(await answer(lines), python, lines);
  }

  /** Have the pair do something, and wait until it is done. */
  async tell(command: string): Promise<void> {
    this.#process.stdin.write(`${command}\n`);
    const { error } = await answer<{ error?: string }>(this.#lines);
    if (error !== undefined) {
      throw new Error(error);
    }
  }

  /** End both programs. */
  async stop(): Promise<void> {
    if (this.#process.exitCode === null) {
      this.#process.stdin.end();
      await once(this.#process, "exit");
    }
  }
}

async function answer<T>(lines: AsyncIterator<string>): Promise<T> {
  const next = await lines.next();
  if (next.done === true) {
    throw new Error("tools.pair ended");
  }
  return JSON.parse(next.value) as T;
}
