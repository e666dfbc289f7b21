/** The README's snippets: the first runs as it stands, and all of them are typed. */
import assert from "node:assert/strict";
import { readFile, symlink } from "node:fs/promises";
import { test } from "node:test";
import { Pair } from "./pair.js";
import { PACKAGE, Project, run } from "./project.js";

test("the README's first snippet runs as it stands, and all of them are typed", async (context) => {
  const project = await Project.make();
  context.after(() => project.remove());
  // What `npm install` does with the path of a directory.
  await symlink(PACKAGE, project.path("node_modules/@trustlayer/client"));
  const text = await readFile(`${PACKAGE}/README.md`, "utf8");
  const snippets = [...text.matchAll(/^```ts\n(.*?)^```/gms)].map((match) => match[1] ?? "");
  assert.equal(snippets.length, 3);
  await project.compile(Object.fromEntries(snippets.map((snippet, number) => [`snippet${number}.ts`, snippet])));

  const pair = await Pair.start();
  context.after(() => pair.stop());
  const { socket, session_id: sessionId, login } = pair.known;
  const said = async (SESSION_ID: string) => {
    const env = { ...process.env, TRUSTLAYER_SOCKET: socket, SESSION_ID };
    return (await run(process.execPath, ["snippet0.js"], { cwd: project.directory, env })).stdout;
  };
  assert.equal(await said(sessionId), `active: ${login}\n`);
  assert.equal(await said("nonsense"), "denied: MALFORMED\n");
  await pair.tell("stop-sidecar");
  assert.match(await said(sessionId), /^cannot know now/);
});
