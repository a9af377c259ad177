/** Files that a command writes together: all of them, or none and nothing else. */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { UserError } from "../../compiler/cli/arguments.ts";
import { writeTogether } from "../../compiler/cli/files.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "laspc-files-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const files = (...names: string[]) =>
  new Map(names.map((name) => [join(folder, name), `new ${name}`]));

describe("files that belong together", () => {
  test("take their places, in folders of their own", async () => {
    await writeTogether(files("a", "sub/b"));
    expect(readFileSync(join(folder, "a"), "utf8")).toBe("new a");
    expect(readFileSync(join(folder, "sub/b"), "utf8")).toBe("new sub/b");
    expect(readdirSync(folder, { recursive: true }).sort()).toEqual(["a", "sub", "sub/b"]);
  });

  test.each([
    ["is a folder", "taken", "it is a folder"],
    ["lies below a file", "a/b", "ENOTDIR|EEXIST"],
    ["has a name too long", "x".repeat(300), "ENAMETOOLONG"],
  ])("a member that %s: the others stay as they were", async (_, member, reason) => {
    await writeTogether(files("a"));
    mkdirSync(join(folder, "taken"));
    const written = writeTogether(new Map([[join(folder, "a"), "newer"], ...files("c", member)]));
    const error = (await written.catch((thrown: unknown) => thrown)) as Error;
    expect(error).toBeInstanceOf(UserError);
    expect(error.message).toMatch(new RegExp(`^cannot write ${join(folder, member)}: (${reason})`));
    expect(readFileSync(join(folder, "a"), "utf8")).toBe("new a");
    expect(existsSync(join(folder, "c"))).toBe(false);
    expect(readdirSync(folder).sort()).toEqual(["a", "taken"]);
  });
});
