/** Starting the ranks of a run as processes of this machine, and being one of them. */
import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { createServer } from "node:net";
import { type Launch, launchOf, localRankOf } from "../../runtime/launch.ts";
import { inWorkFolder } from "../../runtime/temporary.ts";
import { UsageError } from "./arguments.ts";
import { say } from "./files.ts";

/** What the starter tells a rank: why the run is lost. */
interface Lost {
  readonly lost: string;
}

/** The rank that a launcher made this process; null where there is no launcher. */
export function launchHere(): Launch | null {
  try {
    return launchOf(process.env);
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

/** Which of its host's ranks this process is, where a launcher says so. */
export function localRankHere(): number | null {
  try {
    return localRankOf(process.env);
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

/** Starts `laspc run ...argv` once for each rank, waits for all, and gives the exit code. */
export function startRanks(ranks: number, argv: readonly string[]): Promise<number> {
  // Their devices are in threads, which hear of no signal: what they leave goes with this folder.
  return inWorkFolder((work) => startIn(work, ranks, argv));
}

async function startIn(work: string, ranks: number, argv: readonly string[]): Promise<number> {
  const env = {
    ...process.env,
    TMPDIR: work,
    WORLD_SIZE: String(ranks),
    MASTER_ADDR: "127.0.0.1",
    MASTER_PORT: String(await freePort()),
    TORCHELASTIC_USE_AGENT_STORE: "",
    LASPC_TOKEN: randomBytes(32).toString("hex"),
  };
  const children = Array.from({ length: ranks }, (_, rank) =>
    // Only rank 0 has a result to print.
    spawn(process.execPath, [...process.execArgv, process.argv[1]!, "run", ...argv], {
      env: { ...env, RANK: String(rank), LOCAL_RANK: String(rank) },
      stdio: ["ignore", rank === 0 ? "inherit" : "ignore", "inherit", "ipc"],
    }),
  );
  let ended: NodeJS.Signals | null = null;
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.once(signal, () => {
      ended = signal;
      children.forEach((child) => child.kill(signal));
    });
  }
  const codes = await Promise.all(
    children.map((child, rank) =>
      exitOf(child).then(({ code, how }) => {
        if (code !== 0) {
          if (child.signalCode) say(`laspc: rank ${rank} ${how}`);
          const lost: Lost = { lost: `rank ${rank} failed: its process ${how}` };
          for (const other of children) if (other.connected) other.send(lost, () => {});
        }
        return code;
      }),
    ),
  );
  // Whoever sent the signal learns that it did what it should.
  if (ended !== null) process.kill(process.pid, ended);
  return Math.max(...codes);
}

function exitOf(child: ChildProcess): Promise<{ code: number; how: string }> {
  return new Promise((resolve) => {
    child.once("error", (error) => resolve({ code: 70, how: error.message }));
    child.once("exit", (code, signal) =>
      resolve(
        signal === null
          ? { code: code ?? 70, how: `ended with code ${code}` }
          : { code: 1, how: `was ended by ${signal}` },
      ),
    );
  });
}

/** Aborted when the process that started this rank says that another is lost, or is gone itself. */
export function lostSignal(): AbortSignal {
  const controller = new AbortController();
  if (process.channel) {
    process.on("message", ({ lost }: Lost) => controller.abort(lost));
    process.on("disconnect", () => controller.abort("the process that started the ranks is gone"));
    process.channel.unref();
  }
  return controller.signal;
}

/** A port that nobody has, below those that systems give to callers. */
async function freePort(): Promise<number> {
  for (;;) {
    const port = 20_000 + (randomBytes(2).readUInt16BE() % 10_000);
    const server = createServer();
    const isFree = await new Promise<boolean>((resolve) => {
      server.once("error", () => resolve(false));
      server.listen(port, "127.0.0.1", () => resolve(true));
    });
    if (!isFree) continue;
    await new Promise((resolve) => server.close(resolve));
    return port;
  }
}
