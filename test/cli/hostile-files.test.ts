/** Files that are none, disks that are full, readers that leave and signals: a line and a code, and nothing left. */
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, truncateSync } from "node:fs";
import { writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

const root = join(import.meta.dirname, "../..");
const entry = join(root, "dist/laspc.js");
const retention = join(root, "dsl-examples/retention.lasp");
const small = ["--device", "reference", "--dim", "T=8,K=4,V=4"];

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "laspc-hostile-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function laspc(...args: string[]) {
  return spawnSync(process.execPath, [entry, ...args], { encoding: "utf8", timeout: 30_000 });
}

/** A shell's own words about what it ran; its exit code is the last command's. */
function shell(command: string) {
  const env = { ...process.env, LASPC: `${process.execPath} ${entry}`, FILE: retention };
  const options = { encoding: "utf8", timeout: 30_000, env, cwd: folder } as const;
  return spawnSync("bash", ["-c", `set -o pipefail; ${command}`], options);
}

describe("inputs that are no files of numbers", () => {
  const at = (name: string) => join(folder, name);
  const make: Readonly<Record<string, (path: string) => void>> = {
    "it is not a regular file": (path) => execFileSync("mkfifo", [path]),
    "/dev/zero": (path) => symlinkSync("/dev/zero", path),
    "it is a folder": (path) => mkdirSync(path),
    "not a .npy file": (path) => {
      writeFileSync(path, "");
      truncateSync(path, 2 ** 40);
    },
  };
  test.each(Object.entries(make))("%s", (why, create) => {
    const path = at(`${why.replace(/\W/g, "")}.npy`);
    create(path);
    const run = laspc("run", retention, ...small, "--input", `q=${path}`);
    expect(run.status, run.stderr).toBe(1);
    expect(run.stderr).toMatch(
      /^laspc: .*(is not a regular file|it is a folder|not a .npy file)\n$/,
    );
  });

  test("a source without an end, and one from a pipe", () => {
    expect(laspc("check", "/dev/zero").stderr).toBe("laspc: /dev/zero is larger than 16 MiB\n");
    expect(shell("cat $FILE | $LASPC check /dev/stdin").stdout).toBe(
      "/dev/stdin: ok (retention)\n",
    );
  });
});

describe("outputs", () => {
  test("a reader that leaves changes neither the code nor the files", () => {
    expect(shell("$LASPC explain $FILE --dim K=8,V=8 | head -1").status).toBe(0);
    const out = `$LASPC run $FILE ${small.join(" ")} --output pipe 2>&1 | true`;
    expect(shell(out).status).toBe(0);
    expect(readdirSync(join(folder, "pipe")).sort()).toEqual(["final_S.npy", "o.npy"]);
    expect(shell("$LASPC check missing.lasp 2>&1 | true").status).toBe(1);
  });

  test.runIf(process.platform === "linux")("a full disk behind the result is a line and 1", () => {
    const run = shell("$LASPC explain $FILE --dim K=8,V=8 > /dev/full");
    expect([run.status, run.stderr]).toEqual([1, "laspc: cannot write the result: ENOSPC\n"]);
    expect(shell("$LASPC check $FILE > /dev/full 2> /dev/full").status).toBe(1);
  });

  test("a device is not replaced", () => {
    const run = laspc("plan", retention, "--devices", "2", "--svg", "/dev/null");
    expect([run.status, run.stderr]).toEqual([
      1,
      "laspc: cannot write /dev/null: it is not a regular file\n",
    ]);
  });

  test("what is too large for the system's limit leaves neither files nor folders", () => {
    // A limit of 64 KiB a file stands for a full disk, which needs root to be made.
    const command = `trap '' XFSZ; ulimit -f 64; $LASPC run $FILE --device reference --dim T=4096,K=8,V=8 --output a/b/c`;
    const run = shell(command);
    expect(run.status, run.stderr).toBe(1);
    expect(run.stderr).toMatch(/laspc: cannot write .*\.npy: EFBIG\n$/);
    expect(readdirSync(folder)).not.toContain("a");
  });
});

test.each([
  ["one process", ["--device", "reference", "--dim", "T=60000,K=64,V=64"]],
  ["ranks in processes", ["--transport", "tcp", "--devices", "2", "--dim", "T=100000,K=64,V=64"]],
])("SIGTERM ends %s at once, by the signal and without a word", async (_, args) => {
  const child = spawn(process.execPath, [entry, "run", retention, ...args], { cwd: folder });
  let said = "";
  const begun = new Promise<void>((resolve) => {
    child.stderr.on("data", (text) => {
      said += text;
      if (said.includes("right-product")) resolve();
    });
    child.once("exit", () => resolve());
  });
  await begun;
  const sent = performance.now();
  child.kill("SIGTERM");
  const by = await new Promise((resolve) =>
    child.once("exit", (code, signal) => resolve(signal ?? code)),
  );
  expect(by, said).toBe("SIGTERM");
  expect(performance.now() - sent).toBeLessThan(5000);
  expect(said).not.toMatch(/^ {4}at /m);
});
