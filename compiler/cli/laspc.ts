#!/usr/bin/env node
/**
 * The command line: picks a command, runs it, turns what it throws into an exit code.
 * stdout is the result, stderr is talk. 0 fine, 1 the program or data is wrong or a file cannot be read or written,
 * 2 the command is wrong, 70 a bug of ours; a signal ends it as it ends any process, 128 + its number in a shell.
 */
import { CompilerBug, Unsupported } from "../support/never.ts";
import { UsageError, UserError } from "./arguments.ts";

interface Command {
  readonly summary: string;
  readonly usage: string;
  /** Loaded when asked for: `laspc check` should not wait for devices. */
  readonly load: () => Promise<{ run: (argv: readonly string[]) => Promise<number> | number }>;
}

const commands: Readonly<Record<string, Command>> = {
  check: {
    summary: "report every mistake of the files",
    usage: "check FILE... [--dim K=64] [--json]",
    load: () => import("./commands/check.ts"),
  },
  compile: {
    summary: "write an artifact (kernels, manifest, plans), or a package for PyTorch",
    usage:
      "compile FILE [--entry NAME] [--target cuda,wgsl,cpu] [--emit torch] [--dim K=64,V=64] [--devices N] [--dtype bf16] [--arch sm_80] [--cache-states every=256] [--out DIR]",
    load: () => import("./commands/compile.ts"),
  },
  run: {
    summary: "compile and execute, on one device or several",
    usage:
      "run FILE [--entry NAME] [--device reference|cpu|webgpu|cuda[,...]] [--devices N] [--mesh seq=4,data=2] [--schedule auto|ring|allgather|allscan|tree|ulysses|megatron|ring-attention] [--dim T=4096,...] " +
      "[--dtype f32] [--arch sm_80] [--input q=q.npy] [--output DIR] [--seed N] [--threads N] [--segment auto|never|1024] [--transport in-process|worker|tcp|nccl|nccl-in-process] [--bind ADDR] [--connect-timeout SECONDS] [--link latency=20ms,bandwidth=1GB/s] [--timeout SECONDS] [--warmup N] [--timeline F.svg] [--check-inputs] [--backward] [--overlap] [--cache-states every=256] [--steps N] [--deterministic] [--cu-seqlens 0,5,70] [--verify] [--json]",
    load: () => import("./commands/run.ts"),
  },
  verify: {
    summary: "check every form and target available here against the reference",
    usage: "verify FILE [--entry NAME] [--dim K=64] [--cache-states every=256] [--json]",
    load: () => import("./commands/verify.ts"),
  },
  explain: {
    summary:
      "the derivation: forms, flops, bytes, what is fused, what crosses devices; or a code's page",
    usage: "explain FILE|CODE [--entry NAME] [--dim T=4096,K=64] [--cache-states every=256]",
    load: () => import("./commands/explain.ts"),
  },
  plan: {
    summary: "the communication schedule for N devices",
    usage:
      "plan FILE --devices N [--mesh seq=4,data=2] [--schedule auto|ring|allgather|allscan|tree|ulysses|megatron|ring-attention] [--backward] [--overlap] [--entry NAME] [--dim ...] [--svg F] [--simulate nvlink|infiniband|dgx-a100|ethernet|loopback|latency=MS,bandwidth=RATE] [--device-speed h200|a100|F.json] [--sweep T=2K..4096K,devices=16..128] [--model parameters=N,layers=N,hidden=N,vocabulary=N] [--json]",
    load: () => import("./commands/plan.ts"),
  },
  bench: {
    summary: "time on a device, or (--compile) of the compiler",
    usage:
      "bench FILE [--device cpu] [--dim T=4096,...] [--threads N] [--segment auto|never|1024] [--repeat N] [--backward] [--cache-states every=256] [--reference] [--compile] [--json]",
    load: () => import("./commands/bench.ts"),
  },
  dump: {
    summary: "any level as text",
    usage:
      "dump FILE --level ast|tensor|tile|plan [--after PASS] [--form forward] [--target cpu] [--devices N]",
    load: () => import("./commands/dump.ts"),
  },
  fmt: {
    summary: "format files in place; --check only looks",
    usage: "fmt FILE... [--check]",
    load: () => import("./commands/fmt.ts"),
  },
  opt: {
    summary: "tensor IR through passes, as text",
    usage: "opt FILE.ir --passes right-product,chunk",
    load: () => import("./commands/opt.ts"),
  },
  passes: {
    summary: "every pass with its summary",
    usage: "passes",
    load: () => import("./commands/passes.ts"),
  },
};

function help(): string {
  const lines = Object.entries(commands).map(
    ([name, { summary }]) => `  ${name.padEnd(9)}${summary}`,
  );
  return `laspc: attention as a paper writes it, compiled to LASP kernels and a schedule\n\n${lines.join("\n")}\n\nlaspc COMMAND --help tells more\n`;
}

async function main(argv: readonly string[]): Promise<number> {
  const [name, ...rest] = argv;
  if (name === undefined || name === "help" || name === "--help" || name === "-h") {
    process.stdout.write(help());
    return name === undefined ? 2 : 0;
  }
  const command = Object.hasOwn(commands, name) ? commands[name] : undefined;
  if (!command) throw new UsageError(`there is no command \`${name}\`; laspc --help lists them`);
  if (rest.includes("--help") || rest.includes("-h")) {
    process.stdout.write(`laspc ${command.usage}\n\n${command.summary}\n`);
    return 0;
  }
  const { run } = await command.load();
  return await run(rest);
}

// A reader that has seen enough (`| head`) is no mistake, and the command goes on to its end.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") return;
  process.stderr.write(`laspc: cannot write the result: ${error.code ?? error.message}\n`);
  process.once("exit", () => (process.exitCode ||= 1));
});
// Nobody is left to tell.
process.stderr.on("error", () => {});

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  if (error instanceof UsageError || error instanceof UserError || error instanceof Unsupported) {
    process.stderr.write(`laspc: ${error.message}\n`);
    process.exitCode = error instanceof UsageError ? 2 : 1;
  } else if (error instanceof CompilerBug) {
    process.stderr.write(`laspc: a bug of the compiler: ${error.message}\n${error.context}\n`);
    process.stderr.write("please report it, with the file that made it happen\n");
    process.exitCode = 70;
  } else {
    process.stderr.write(
      `laspc: ${error instanceof Error ? (error.stack ?? error.message) : error}\n`,
    );
    process.exitCode = 70;
  }
}
