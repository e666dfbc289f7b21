/** What is published, and that it works for who installs it. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { ROOT } from "./pair.js";

const run = promisify(execFile);
const PACKAGE = join(ROOT, "clients/typescript");

const APP = `
import express from "express";
import Fastify from "fastify";
import { SessionDenied, TrustLayerClient, ValidationMode, type Session } from "@trustlayer/client";
import { expressGate } from "@trustlayer/client/express";
import { trustlayerPlugin } from "@trustlayer/client/fastify";

const client: TrustLayerClient = new TrustLayerClient({ socket: "/nowhere" });
const gate = expressGate({ client });
express().get("/", gate.session({ mode: ValidationMode.STRICT }), (request, response) => {
  const session: Session | undefined = request.trustlayer?.session;
  response.json(session?.handle);
});
const app = Fastify();
await app.register(trustlayerPlugin, { client });
app.get("/", { config: { trustlayer: { roles: ["admin"] } } }, async (request) => request.trustlayer?.session.handle);
// @ts-expect-error: no such field, so the types do say something.
await client.sessions.logout({ session: "" }).catch((error: unknown) => error instanceof SessionDenied);
await app.close();
await client.close();
console.log("ok");
`;

test("the package holds what is needed and nothing else, and is typed", async (context) => {
  const directory = await mkdtemp(join(tmpdir(), "tl-pack-"));
  context.after(() => rm(directory, { recursive: true }));
  const npm = { cwd: PACKAGE, env: { ...process.env, npm_config_cache: join(directory, "cache") } };
  const packed = await run("npm", ["pack", "--json", "--offline", "--pack-destination", directory], npm);
  const [{ filename, files }] = JSON.parse(packed.stdout) as [{ filename: string; files: { path: string }[] }];
  const paths = files.map(({ path }) => path);
  const strange = paths.filter((path) => !/^(?:package\.json|README\.md|build\/src\/.+\.(?:js|d\.ts))$/.test(path));
  assert.deepEqual(strange, []);
  assert.ok(paths.includes("build/src/gen/trustlayer/v1/types_pb.d.ts"));
  assert.ok(!paths.some((path) => path.includes("conformance")));

  // As an install would lay it out; what it depends on, and the frameworks, from this directory's.
  const installed = join(directory, "node_modules/@trustlayer/client");
  await mkdir(installed, { recursive: true });
  await run("tar", ["-xzf", join(directory, filename), "--strip-components=1", "-C", installed]);
  for (const name of ["@bufbuild", "@grpc", "@types", "express", "fastify"]) {
    await symlink(join(PACKAGE, "node_modules", name), join(directory, "node_modules", name));
  }
  const { dependencies } = JSON.parse(await readFile(join(installed, "package.json"), "utf8"));
  assert.deepEqual(Object.keys(dependencies), ["@bufbuild/protobuf", "@grpc/grpc-js"]);
  await writeFile(join(directory, "package.json"), '{ "type": "module" }');
  await writeFile(join(directory, "app.ts"), APP);
  const strict = ["--strict", "--module", "nodenext", "--target", "es2022", "--types", "node"];
  await run(join(PACKAGE, "node_modules/.bin/tsc"), [...strict, "app.ts"], { cwd: directory }).catch((error) => {
    throw new Error(error.stdout);
  });
  const { stdout } = await run(process.execPath, ["app.js"], { cwd: directory });
  assert.equal(stdout.trim(), "ok");
});
