/**
 * LLVM IR to a native library of this machine: llvm-link, opt -O3, llc, cc -shared. A library is kept in
 * the user's cache folder by its content and by the machine it was made for.
 */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { access, readFile, writeFile } from "node:fs/promises";
import { cpus } from "node:os";
import { delimiter, join } from "node:path";
import { promisify } from "node:util";
import { withKept } from "../cache.ts";
import { FolderError } from "../temporary.ts";

export type Tools = Readonly<Record<"llvm-link" | "opt" | "llc" | "cc", string>>;

const run = promisify(execFile);

/** Changes whenever the way libraries are made does, so that older ones are not taken for new. */
const recipe = "4";

/**
 * The LLVM tools, version 14 where several are there. They are looked for, not started: this runs
 * often. Throws an Error that names the one that is missing.
 */
export async function findTools(): Promise<Tools> {
  const folders = (process.env["PATH"] ?? "").split(delimiter).filter((folder) => folder !== "");
  const find = async (name: keyof Tools): Promise<string> => {
    const names = name === "cc" ? ["cc", "gcc", "clang"] : [`${name}-14`, name];
    const debian = name === "cc" ? [] : [`/usr/lib/llvm-14/bin/${name}`];
    const found = names.flatMap((own) => folders.map((folder) => join(folder, own)));
    const places = [...debian, ...found];
    for (const place of places) if (await isProgram(place)) return place;
    const packages = name === "cc" ? "a C compiler" : "LLVM 14 (the Debian package llvm-14)";
    throw new Error(`the cpu device needs ${packages}: \`${name}\` was not found`);
  };
  const names = ["llvm-link", "opt", "llc", "cc"] as const;
  const found = await Promise.all(names.map(async (name) => [name, await find(name)] as const));
  return Object.fromEntries(found) as Tools;
}

/**
 * What `load` makes of the path of a library with everything the sources define, and `laspc_run` (see `machineCode`).
 * Sources come before those they call: the linker leaves out what nothing before it calls.
 * `cpu` names the processor to make it for, as llc does: "native", "haswell", "x86-64".
 * Throws an Error with the tool's own words when one of them fails, a FolderError where there is no room for files.
 */
export async function nativeLibrary<T>(
  sources: readonly Uint8Array[],
  tools: Tools,
  cpu: string,
  load: (path: string) => T,
): Promise<T> {
  const hash = createHash("sha256");
  for (const source of sources) hash.update(source).update("\0");
  for (const fact of [recipe, cpu, process.arch, cpus()[0]?.model ?? ""]) hash.update(`${fact}\0`);
  const name = `${hash.digest("hex").slice(0, 32)}.so`;
  return withKept(name, (work) => compiled(sources, tools, cpu, work), load);
}

/** The library's bytes; files on the way to it go into the folder `work`. */
async function compiled(
  sources: readonly Uint8Array[],
  tools: Tools,
  cpu: string,
  work: string,
): Promise<Uint8Array> {
  try {
    await compile(sources, tools, cpu, work);
    return await readFile(join(work, "all.so"));
  } catch (error) {
    const { stderr, message, code } = error as NodeJS.ErrnoException & { stderr?: string };
    const isFull = code === "ENOSPC" || /No space left on device/i.test(stderr ?? "");
    if (isFull) throw new FolderError(`no space is left in ${work}: name another folder in TMPDIR`);
    throw new Error(`compiling for the cpu failed: ${stderr || message}`);
  }
}

/** Leaves `all.so` in the folder `work`. */
async function compile(
  sources: readonly Uint8Array[],
  tools: Tools,
  cpu: string,
  work: string,
): Promise<void> {
  const at = (name: string) => join(work, name);
  const files = [...sources.map((_, i) => at(`${i}.ll`)), at("machine.ll")];
  await Promise.all(sources.map((source, i) => writeFile(files[i]!, source)));
  await writeFile(at("machine.ll"), machineCode(await hasWideRegisters(tools.cc, cpu)));
  const level = ["-O3", `-mcpu=${cpu}`];
  await run(tools["llvm-link"], [...files, "-o", at("all.bc")]);
  await run(tools.opt, [...level, `-mtriple=${triple()}`, at("all.bc"), "-o", at("fast.bc")]);
  const generate = [...level, "-filetype=obj", "-relocation-model=pic", at("fast.bc")];
  await run(tools.llc, [...generate, "-o", at("all.o")]);
  await run(tools.cc, ["-shared", at("all.o"), "-o", at("all.so"), "-lm", "-lpthread"]);
}

/** LLVM's name for this machine; without it the optimiser knows no vector registers. */
function triple(): string {
  const machine = { x64: "x86_64", arm64: "aarch64" }[process.arch as string] ?? process.arch;
  return `${machine}-unknown-${process.platform === "darwin" ? "darwin" : "linux-gnu"}`;
}

/** Has the processor 32 registers of 16 floats (AVX-512)? The C compiler knows; silence is no. */
async function hasWideRegisters(cc: string, cpu: string): Promise<boolean> {
  const macros = run(cc, [`-march=${cpu}`, "-dM", "-E", "-x", "c", "/dev/null"]);
  return macros.then(
    ({ stdout }) => stdout.includes("__AVX512F__"),
    () => false,
  );
}

/**
 * What kernels ask about the machine, and what runs them:
 *
 *   void laspc_run(job *job, task *tasks, int64_t n)
 *
 * calls job.entry for every point in [job.next, job.total) from n threads, which take the next point
 * when they have finished one; task i holds thread i's scratch memory. Thread 0 is the caller. A thread
 * that cannot be started is one less.
 */
function machineCode(wideRegisters: boolean): string {
  return `define linkonce_odr hidden i1 @laspc_has_wide_registers() alwaysinline { ret i1 ${wideRegisters} }

%entry = type void (i8**, i64*, float*, i64, i64)
; entry, buffers, scalars, total, next
%job = type { %entry*, i8**, i64*, i64, i64 }
; job, scratch, the thread and whether it was started
%task = type { %job*, float*, i64, i64 }

declare i32 @pthread_create(i64*, i8*, i8* (i8*)*, i8*)
declare i32 @pthread_join(i64, i8**)

define internal i8* @laspc_worker(i8* %raw) {
  %task = bitcast i8* %raw to %task*
  %job_at = getelementptr %task, %task* %task, i32 0, i32 0
  %job = load %job*, %job** %job_at
  %scratch_at = getelementptr %task, %task* %task, i32 0, i32 1
  %scratch = load float*, float** %scratch_at
  %entry_at = getelementptr %job, %job* %job, i32 0, i32 0
  %entry = load %entry*, %entry** %entry_at
  %buffers_at = getelementptr %job, %job* %job, i32 0, i32 1
  %buffers = load i8**, i8*** %buffers_at
  %scalars_at = getelementptr %job, %job* %job, i32 0, i32 2
  %scalars = load i64*, i64** %scalars_at
  %total_at = getelementptr %job, %job* %job, i32 0, i32 3
  %total = load i64, i64* %total_at
  %next_at = getelementptr %job, %job* %job, i32 0, i32 4
  br label %take
take:
  %point = atomicrmw add i64* %next_at, i64 1 seq_cst
  %after = add i64 %point, 1
  %more = icmp slt i64 %point, %total
  br i1 %more, label %work, label %done
work:
  call void %entry(i8** %buffers, i64* %scalars, float* %scratch, i64 %point, i64 %after)
  br label %take
done:
  ret i8* null
}

define void @laspc_run(%job* %job, %task* %tasks, i64 %n) {
  br label %start
start:
  %i = phi i64 [ 1, %0 ], [ %i1, %begin ]
  %some = icmp slt i64 %i, %n
  br i1 %some, label %begin, label %own
begin:
  %task = getelementptr %task, %task* %tasks, i64 %i
  %raw = bitcast %task* %task to i8*
  %thread_at = getelementptr %task, %task* %task, i32 0, i32 2
  %failed = call i32 @pthread_create(i64* %thread_at, i8* null, i8* (i8*)* @laspc_worker, i8* %raw)
  %ok = icmp eq i32 %failed, 0
  %started = zext i1 %ok to i64
  %started_at = getelementptr %task, %task* %task, i32 0, i32 3
  store i64 %started, i64* %started_at
  %i1 = add i64 %i, 1
  br label %start
own:
  %first = bitcast %task* %tasks to i8*
  %ignored = call i8* @laspc_worker(i8* %first)
  br label %finish
finish:
  %j = phi i64 [ 1, %own ], [ %j1, %next ]
  %left = icmp slt i64 %j, %n
  br i1 %left, label %check, label %end
check:
  %other = getelementptr %task, %task* %tasks, i64 %j
  %was_started_at = getelementptr %task, %task* %other, i32 0, i32 3
  %was_started = load i64, i64* %was_started_at
  %is_there = icmp ne i64 %was_started, 0
  br i1 %is_there, label %join, label %next
join:
  %other_thread_at = getelementptr %task, %task* %other, i32 0, i32 2
  %other_thread = load i64, i64* %other_thread_at
  %joined = call i32 @pthread_join(i64 %other_thread, i8** null)
  br label %next
next:
  %j1 = add i64 %j, 1
  br label %finish
end:
  ret void
}
`;
}

async function isProgram(path: string): Promise<boolean> {
  return access(path, constants.X_OK).then(
    () => true,
    () => false,
  );
}
