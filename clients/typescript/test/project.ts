/** An empty project of somebody's, in a temporary directory, as an install would lay it out. */
import { execFile } from "node:child_process";
import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { ROOT } from "./pair.js";

/** Where this package is. */
export const PACKAGE = join(ROOT, "clients/typescript");
/** Run a program; reject when it fails. */
export const run = promisify(execFile);

const DEPENDENCIES = ["@bufbuild", "@grpc", "@types", "express", "fastify"];
const STRICT = ["--strict", "--module", "nodenext", "--target", "es2022", "--types", "node"];

/** See the module. */
export class Project {
  readonly directory: string;

  private constructor(directory: string) {
    this.directory = directory;
  }

  static async make(): Promise<Project> {
    const project = new Project(await mkdtemp(join(tmpdir(), "tl-project-")));
    await mkdir(project.path("node_modules/@trustlayer"), { recursive: true });
    for (const name of DEPENDENCIES) {
      await symlink(join(PACKAGE, "node_modules", name), project.path("node_modules", name));
    }
    await writeFile(project.path("package.json"), '{ "type": "module" }');
    return project;
  }

  path(...parts: string[]): string {
    return join(this.directory, ...parts);
  }

  /** Compile files strictly, the declarations of what they import included; reject with what is wrong. */
  async compile(sources: Record<string, string>): Promise<void> {
    for (const [name, text] of Object.entries(sources)) {
      await writeFile(this.path(name), text);
    }
    const tsc = join(PACKAGE, "node_modules/.bin/tsc");
    await run(tsc, [...STRICT, ...Object.keys(sources)], { cwd: this.directory }).catch((error) => {
      throw new Error(error.stdout);
    });
  }

  remove(): Promise<void> {
    return rm(this.directory, { recursive: true });
  }
}
