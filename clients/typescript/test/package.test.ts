/** What is published, and that it works for who installs it. */
import assert from "node:assert/strict";
import { mkdir, readFile } from "node:fs/promises";
import { test } from "node:test";
import { PACKAGE, Project, run } from "./project.js";

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
app.get("/", { config: { trustlayer: { rolesAll: ["admin"] } } }, async (request) => request.trustlayer?.session.handle);
// @ts-expect-error: no such field, so the types do say something.
await client.sessions.logout({ session: "" }).catch((error: unknown) => error instanceof SessionDenied);
await app.close();
await client.close();
console.log("ok");
`;

test("the package holds what is needed and nothing else, and is typed", async (context) => {
  const project = await Project.make();
  context.after(() => project.remove());
  const npm = { cwd: PACKAGE, env: { ...process.env, npm_config_cache: project.path("cache") } };
  const packed = await run("npm", ["pack", "--json", "--offline", "--pack-destination", project.directory], npm);
  const [{ filename, files }] = JSON.parse(packed.stdout) as [{ filename: string; files: { path: string }[] }];
  const paths = files.map(({ path }) => path);
  const strange = paths.filter((path) => !/^(?:package\.json|README\.md|build\/src\/.+\.(?:js|d\.ts))$/.test(path));
  assert.deepEqual(strange, []);
  assert.ok(paths.includes("build/src/gen/trustlayer/v1/types_pb.d.ts"));
  assert.ok(!paths.some((path) => path.includes("conformance")));

  const installed = project.path("node_modules/@trustlayer/client");
  await mkdir(installed);
  await run("tar", ["-xzf", project.path(filename), "--strip-components=1", "-C", installed]);
  const { dependencies } = JSON.parse(await readFile(`${installed}/package.json`, "utf8"));
  assert.deepEqual(Object.keys(dependencies), ["@bufbuild/protobuf", "@grpc/grpc-js"]);
  await project.compile({ "app.ts": APP });
  const { stdout } = await run(process.execPath, ["app.js"], { cwd: project.directory });
  assert.equal(stdout.trim(), "ok");
});
