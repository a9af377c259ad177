/**
 * Divide-roles: some of the threads carry the state on, the others compute what comes of it, side by side.
 *
 *   loop t below T step 64 {                    loop t below T step 64 {
 *     copy S_bf16 = S                             @0 copy S_bf16 = S
 *     mma o += q_bf16 @ S_bf16                    @0 signal 0
 *     store o[t, 0] = o                  =>       @1 await 0
 *     map S = mul(S, decay)                       @1 mma o += q_bf16 @ S_bf16
 *     mma S += k_bf16^T @ v_bf16                  @1 store o[t, 0] = o
 *   }                                             @0 map S = mul(S, decay)
 *                                                 @0 mma S += k_bf16^T @ v_bf16
 *                                               }
 *
 * Threads that all go through one chain of products, conversions and barriers leave the tensor cores idle in
 * most of it, and the memory; two chains fill each other's gaps, and neither waits for the other's barriers.
 *
 * Role 0 is the backward slice of the states that the loop carries, role 1 that of all else that is stored.
 * Cheap work that both need both do; products, functions that are factors of products, and what is read of the
 * state's registers role 0 does and hands over in shared memory. So nothing flows back to role 0 and the roles
 * cannot wait for each other in a circle.
 * A kernel stays whole where a product would be done twice, where one role has nearly all the work, or where
 * registers or shared memory do not suffice.
 *
 * Needs: place-operands. Guarantees: the same values; each storage is written by one role, or by all alike.
 * Source: slices as of Weiser, "Program Slicing" (1981); roles of warps as in FlashAttention-3 (2024).
 */
import type { Pass } from "../../support/pass.ts";
import {
  clash,
  newName,
  ofRole,
  onStorages,
  onlyUsed,
  readsOf,
  threadsOf,
  writesOf,
} from "../accesses.ts";
import { callsOnly, cheapFns } from "../cost.ts";
import type { Copy, Kernel, Loop, Stmt, Storage, StorageId, Store, TileProgram } from "../ir.ts";
import { onKernels } from "../on-kernels.ts";
import { registerPressure } from "../pressure.ts";

/** How threads are divided: for each role how many, and registers of one that tiles may take. */
export type Sharing = readonly [RoleThreads, RoleThreads];
export interface RoleThreads {
  readonly threads: number;
  readonly registers: number;
}

export interface RoleLimits {
  /** Shared memory, in bytes. */
  readonly limitBytes: number;
  readonly bytesOf: (storage: Storage) => number;
  /** The ways to share out threads; of those that work out as well the first is taken. */
  readonly sharings: readonly Sharing[];
  /** Registers of a thread for a tile among so many threads. */
  readonly registersOf: (rows: number, cols: number, threads: number) => number;
  /** Numbers that signals may have. */
  readonly signals: number;
  /** Do so many threads fold rows of a tile without scratch? */
  readonly foldsRows: (rows: number, cols: number, threads: number) => boolean;
}

export const divideRoles = (limits: RoleLimits): Pass<TileProgram> => ({
  name: "divide-roles",
  summary: "let some of the threads carry the state on and the others use it",
  run: onKernels((kernel) => divided(kernel, limits) ?? kernel),
});

const [state, output] = [0, 1] as const;

/** A role may have this part of the work of the whole at most. */
const mostOfWork = 0.9;

function divided(kernel: Kernel, limits: RoleLimits): Kernel | null {
  const shape = shapeOf(kernel);
  if (shape === null) return null;
  const { storages } = kernel;
  const carried = carriedTiles(shape, storages);
  if (carried.size === 0) return null;
  const handed = handedOver(shape, storages, carried);
  if (handed === null) return null;
  const { cuts, pulled } = handed;

  const isOwnStore = (stmt: Stmt) => stmt.kind === "store" && carried.has(stmt.src);
  const own = slice(
    shape,
    (stmt) => (isOwnStore(stmt) && !cuts.has(stmt)) || pulled.has(stmt),
    carried,
    noStatements,
  );
  for (const stmt of productsInTiles(kernel, shape, carried, own)) cuts.add(stmt);
  const outputOf = () =>
    slice(
      shape,
      (stmt) => stmt.kind === "store" && (!isOwnStore(stmt) || cuts.has(stmt)),
      noStorages,
      cuts,
    );
  for (const stmt of functionsInTiles(shape, storages, own, outputOf())) cuts.add(stmt);
  const slices = [own, outputOf()];
  const both = (stmt: Stmt) => slices.every((one) => one.has(stmt)) && !cuts.has(stmt);
  if (all(shape).some((stmt) => both(stmt) && isDear(stmt))) return null;
  const isCarriedOn = (stmt: Stmt) => writesOf(stmt).some((id) => carried.has(id));
  if (all(shape).some((stmt) => slices[output]!.has(stmt) && isCarriedOn(stmt))) return null;

  const [whole, ...parts] = [noStatements, ...slices].map((part, n) =>
    shape.loop.body
      .filter((stmt) => n === 0 || part.has(stmt))
      .reduce((sum, stmt) => sum + workOf(stmt, storages), 0),
  ) as [number, number, number];
  if (Math.max(...parts) > mostOfWork * whole) return null;

  const division = new Division(kernel, shape, slices, cuts).kernel();
  if (division === null || count(division.body, "signal") > limits.signals) return null;
  // The longest of the roles' chains decides.
  const length = (sharing: Sharing) =>
    Math.max(...sharing.map(({ threads }, role) => parts[role]! / threads));
  const best = [...limits.sharings].sort((one, other) => length(one) - length(other));
  for (const sharing of best) {
    const found = shared(division, sharing, limits);
    if (found !== null) return found;
  }
  return null;
}

/** The divided kernel with threads shared out, where that fits. */
function shared(division: Kernel, sharing: Sharing, limits: RoleLimits): Kernel | null {
  const roles = sharing.map(({ threads }) => threads);
  const threads = roles.reduce((sum, one) => sum + one, 0);
  const whole = onlyUsed(withoutScratch({ ...division, threads, roles }, limits));
  const tiles = whole.storages.filter(({ memory }) => memory === "shared");
  const bytes = tiles.reduce((sum, one) => sum + limits.bytesOf(one), 0);
  if (bytes > limits.limitBytes || sharesScratch(whole)) return null;
  const fits = (kernel: Kernel) =>
    sharing.every(({ threads: own, registers }, role) => {
      const held = (rows: number, cols: number) => limits.registersOf(rows, cols, own);
      return registerPressure({ ...kernel, body: ofRole(kernel.body, role) }, held) <= registers;
    });
  const later = {
    ...whole,
    body: whole.body.map((stmt) => (stmt.kind === "loop" ? awaitLate(stmt) : stmt)),
  };
  return [later, whole].find(fits) ?? null;
}

/** Do both roles fold by way of the same scratch? */
function sharesScratch({ body }: Kernel): boolean {
  const users = new Set<number | undefined>();
  const see = (stmts: readonly Stmt[]): void => {
    for (const stmt of stmts) {
      if (stmt.kind === "loop") see(stmt.body);
      else if (stmt.kind === "reduce" && stmt.scratch !== null) users.add(stmt.role);
    }
  };
  see(body);
  return users.size > 1;
}

/** What role 1 can do before it waits for role 0 it does before. */
function awaitLate(loop: Loop): Loop {
  let body = [...loop.body];
  // What role 0 hands over is read behind awaits only, this one's or another's.
  const theirs = new Set(
    body.flatMap((stmt) =>
      stmt.role === state && stmt.kind !== "copy-async" ? writesOf(stmt) : [],
    ),
  );
  for (let at = body.length - 1; at >= 0; at--) {
    const await_ = body[at]!;
    if (await_.kind !== "await") continue;
    // What is waited for is read by the next statement of the role.
    const reader = body.slice(at + 1).find(({ role }) => role === output)!;
    const late: Stmt[] = [await_, reader];
    const early: Stmt[] = [];
    for (const stmt of body.slice(at + 1)) {
      if (stmt === reader) continue;
      const isTied =
        stmt.role !== output ||
        readsOf(stmt).some((id) => theirs.has(id)) ||
        stmt.kind === "await" ||
        late.some((one) => clash(one, stmt));
      (isTied ? late : early).push(stmt);
    }
    body = [...body.slice(0, at), ...early, ...late];
  }
  return { ...loop, body };
}

// --- what a kernel is made of -----------------------------------------------------------------

/** One loop over the tokens and what stands before and behind it. */
interface Shape {
  readonly before: readonly Stmt[];
  readonly loop: Loop;
  readonly after: readonly Stmt[];
}

function shapeOf({ body, threads }: Kernel): Shape | null {
  const at = body.findIndex(({ kind }) => kind === "loop");
  const loop = body[at];
  if (loop?.kind !== "loop" || loop.extent !== "T" || loop.within !== null) return null;
  if (threads % 64 !== 0 || body.some((stmt, i) => stmt.kind === "loop" && i !== at)) return null;
  // Where nothing is waited for the roles would never meet.
  if (loop.body.some(({ kind }) => kind === "loop" || kind === "barrier")) return null;
  if (!loop.body.some(({ kind }) => kind === "wait")) return null;
  return { before: body.slice(0, at), loop, after: body.slice(at + 1) };
}

function all({ before, loop, after }: Shape): readonly Stmt[] {
  return [...before, ...loop.body, ...after];
}

const noStorages: ReadonlySet<StorageId> = new Set();
const noStatements: ReadonlySet<Stmt> = new Set();

function isTile(storage: Storage): boolean {
  return storage.memory === "register" && storage.shape.length === 2;
}

/** Register tiles that a turn of the loop takes over from the one before, summing up products. */
function carriedTiles(shape: Shape, storages: readonly Storage[]): ReadonlySet<StorageId> {
  const { loop, before } = shape;
  const summed = new Set(
    loop.body.flatMap((stmt) => (stmt.kind === "mma" ? [stmt.dst.storage] : [])),
  );
  const first = new Set(before.flatMap(writesOf));
  const written = new Set<StorageId>();
  const carried = new Set<StorageId>();
  for (const stmt of loop.body) {
    const reads = stmt.kind === "mma" ? [...readsOf(stmt), stmt.dst.storage] : readsOf(stmt);
    for (const id of reads) {
      const isKept = summed.has(id) && first.has(id) && !written.has(id);
      if (isKept && isTile(storages[id]!)) carried.add(id);
    }
    if (replaces(stmt, storages)) for (const id of writesOf(stmt)) written.add(id);
  }
  return carried;
}

/** Is nothing left of what a statement writes? */
function replaces(stmt: Stmt, storages: readonly Storage[]): boolean {
  switch (stmt.kind) {
    case "mma":
    case "solve":
    case "invert":
      return false;
    case "copy":
      return storages[stmt.dst.storage]!.shape.join() === [stmt.dst.rows, stmt.dst.cols].join();
    case "map":
    case "cumsum":
      return !readsOf(stmt).includes(stmt.dst);
    default:
      return true;
  }
}

/** Statements that are not done twice. */
function isDear({ kind }: Stmt): boolean {
  return kind === "mma" || kind === "solve" || kind === "invert";
}

/** About how long a thread works, of so many elements: products of 16 at a time cost little. */
function workOf(stmt: Stmt, storages: readonly Storage[]): number {
  const size = (id: StorageId) => storages[id]!.shape.reduce((product, n) => product * n, 1);
  switch (stmt.kind) {
    case "mma": {
      const depth = stmt.transposeLhs ? stmt.lhs.rows : stmt.lhs.cols;
      return (stmt.dst.rows * stmt.dst.cols * depth) / 32;
    }
    case "invert":
      return size(stmt.dst) * 8;
    case "cumsum":
      return size(stmt.dst) * 4;
    case "store":
      return size(stmt.src) * 2;
    default:
      return writesOf(stmt).reduce((sum, id) => sum + size(id), 0);
  }
}

// --- slices -----------------------------------------------------------------------------------

/**
 * The statements that what is `wanted`, and the storages `kept` through the loop, depend on. What a statement
 * of `given` writes comes from elsewhere: it is in the slice where it is needed, what it reads is not.
 */
function slice(
  shape: Shape,
  wanted: (stmt: Stmt) => boolean,
  kept: ReadonlySet<StorageId>,
  given: ReadonlySet<Stmt>,
): Set<Stmt> {
  const found = new Set<Stmt>();
  const live = new Set<StorageId>();
  const walk = (stmts: readonly Stmt[]) => {
    for (const stmt of [...stmts].reverse()) {
      const writes = writesOf(stmt);
      if (!wanted(stmt) && !writes.some((id) => live.has(id))) continue;
      found.add(stmt);
      if (given.has(stmt)) {
        for (const id of writes) live.delete(id);
        continue;
      }
      if (replacesAll(stmt)) for (const id of writes) live.delete(id);
      else for (const id of writes) live.add(id);
      for (const id of readsOf(stmt)) live.add(id);
    }
  };
  walk(shape.after);
  for (const id of kept) live.add(id);
  for (let size = -1; size !== found.size + live.size;) {
    size = found.size + live.size;
    const next = [...live];
    walk(shape.loop.body);
    for (const id of next) live.add(id);
  }
  walk(shape.before);
  return found;
}

/** As `replaces`; what is copied is copied whole here. */
function replacesAll(stmt: Stmt): boolean {
  return !isDear(stmt) && !readsOf(stmt).some((id) => writesOf(stmt).includes(id));
}

interface HandedOver {
  /** What role 0 writes to shared memory, or would store itself, for role 1. */
  readonly cuts: Set<Stmt>;
  /** What role 0 does since it reads registers of the state. */
  readonly pulled: ReadonlySet<Stmt>;
}

/** What is read of the states otherwise than to carry them on; null where it cannot be handed over. */
function handedOver(
  { loop, before, after }: Shape,
  storages: readonly Storage[],
  carried: ReadonlySet<StorageId>,
): HandedOver | null {
  const cuts = new Set<Stmt>();
  const pulled = new Set<Stmt>();
  const held = new Set(carried);
  const isHeld = (id: StorageId) => held.has(id);
  if (
    before.some(
      (stmt) => readsOf(stmt).some((id) => carried.has(id)) && !writesOf(stmt).some(isHeld),
    )
  )
    return null;
  if (after.some((stmt) => stmt.kind !== "store" && readsOf(stmt).some(isHeld))) return null;
  for (const stmt of loop.body) {
    const writes = writesOf(stmt);
    if (writes.some((id) => carried.has(id))) continue;
    if (!readsOf(stmt).some(isHeld)) {
      for (const id of writes) held.delete(id);
      continue;
    }
    const isShared = (id: StorageId) => storages[id]!.memory === "shared";
    if (stmt.kind === "store") cuts.add(stmt);
    else if (stmt.kind === "map" && isTile(storages[stmt.dst]!)) held.add(stmt.dst);
    else if (
      (stmt.kind === "copy" && isShared(stmt.dst.storage)) ||
      (stmt.kind === "reduce" && isShared(stmt.dst))
    )
      cuts.add(stmt);
    else return null;
    if (stmt.kind !== "store") pulled.add(stmt);
  }
  // A tile that is stored is handed over as it is stored, in 16 bits.
  for (const cut of cuts) if (cut.kind === "store" && !carried.has(cut.src)) return null;
  return { cuts, pulled };
}

/**
 * Copies to shared memory of what role 0 has from products, and stores of it in 16 bits: role 1 takes them from
 * there.
 */
function productsInTiles(
  { params, storages }: Kernel,
  { loop }: Shape,
  carried: ReadonlySet<StorageId>,
  own: ReadonlySet<Stmt>,
): readonly Stmt[] {
  const computed = new Set<StorageId>();
  const isNarrow = (name: string) => params.find((param) => param.name === name)!.dtype !== "f32";
  return loop.body.filter((stmt) => {
    if (stmt.kind === "store") {
      const isOwn = computed.has(stmt.src) && isTile(storages[stmt.src]!);
      return isOwn && !carried.has(stmt.src) && isNarrow(stmt.view.param);
    }
    const from = readsOf(stmt).some((id) => computed.has(id)) || isDear(stmt);
    const [dst] = writesOf(stmt);
    if (dst === undefined || carried.has(dst) || !own.has(stmt)) return false;
    if (from) computed.add(dst);
    else if (replaces(stmt, storages)) computed.delete(dst);
    return from && stmt.kind === "copy" && storages[dst]!.memory === "shared";
  });
}

/**
 * Copies to shared memory, factors of products, of a function that both roles would compute: role 0 does. It makes them for role 1
 * also where it takes something else of the function itself.
 */
function functionsInTiles(
  { loop }: Shape,
  storages: readonly Storage[],
  ...slices: readonly ReadonlySet<Stmt>[]
): readonly Stmt[] {
  const called = new Set<StorageId>();
  return loop.body.filter((stmt) => {
    const [dst] = writesOf(stmt);
    if (stmt.kind === "copy" && called.has(stmt.src.storage)) {
      return slices[output]!.has(stmt) && storages[stmt.dst.storage]!.memory === "shared";
    }
    if (dst === undefined) return false;
    const isCalled =
      stmt.kind === "map" && isTile(storages[dst]!) && !callsOnly(stmt.expr, cheapFns);
    if (isCalled && slices.every((one) => one.has(stmt))) called.add(dst);
    else called.delete(dst);
    return false;
  });
}

// --- the divided kernel -----------------------------------------------------------------------

class Division {
  private readonly storages: Storage[];
  /** Of what both roles write, role 0's own. */
  private readonly twins = new Map<StorageId, StorageId>();
  /** What is handed over lies in a storage of its own as long as it is read. */
  private readonly renamed = new Map<StorageId, StorageId>();
  /** Numbers of signals that role 1 has not waited for, by the storage. */
  private readonly awaited = new Map<StorageId, number>();
  private readonly alike: ReadonlySet<Stmt>;
  private readonly prepared: ReadonlySet<Stmt>;
  private signals = 0;
  private isBroken = false;

  constructor(
    private readonly whole: Kernel,
    private readonly shape: Shape,
    private readonly slices: readonly ReadonlySet<Stmt>[],
    private readonly cuts: ReadonlySet<Stmt>,
  ) {
    this.storages = [...whole.storages];
    this.alike = this.doneAlike();
    this.prepared = this.doneBefore();
    for (const id of this.writtenByBoth()) this.twins.set(id, this.fresh(id, "of_state"));
  }

  kernel(): Kernel | null {
    const { before, loop, after } = this.shape;
    const turn = loop.body;
    const body = [
      ...before.flatMap((stmt) => this.statement(stmt)),
      { ...loop, body: turn.flatMap((stmt) => this.statement(stmt)) },
      ...after.flatMap((stmt) => this.statement(stmt)),
    ];
    return this.isBroken
      ? null
      : onlyUsed({ ...this.whole, roles: [0, 0], storages: this.storages, body });
  }

  private statement(stmt: Stmt): Stmt[] {
    if (stmt.kind === "wait" || this.alike.has(stmt)) return [stmt];
    if (this.prepared.has(stmt)) return [{ ...stmt, role: state }];
    const needed = this.slices.map((one) => one.has(stmt));
    if (stmt.kind === "copy-async") {
      if (!needed.some(Boolean)) return [];
      return [{ ...stmt, role: needed[state] ? state : output }];
    }
    if (this.cuts.has(stmt)) return this.handOver(stmt as Copy | Store, needed);
    const writes = writesOf(stmt);
    const waits = needed[output] ? this.waitsFor(stmt) : [];
    if (needed.some(Boolean)) {
      // What was handed over is what a tile held until now; it is not changed in its place.
      const reads = readsOf(stmt);
      this.isBroken ||= writes.some((id) => this.renamed.has(id) && reads.includes(id));
      for (const id of writes) this.renamed.delete(id);
      for (const [tile, from] of this.copied) if (writes.includes(from)) this.copied.delete(tile);
    }
    const own = needed[state] ? [onStorages({ ...stmt, role: state }, this.inState)] : [];
    const mine = needed[output] ? [onStorages({ ...stmt, role: output }, this.inOutput)] : [];
    return [...own, ...waits, ...mine];
  }

  private readonly inState = (id: StorageId) => this.renamed.get(id) ?? this.twins.get(id) ?? id;
  private readonly inOutput = (id: StorageId) => this.renamed.get(id) ?? id;

  private handOver(stmt: Stmt, needed: readonly boolean[]): Stmt[] {
    if (stmt.kind === "store") return this.storedByOutput(stmt);
    const [dst] = writesOf(stmt) as [StorageId];
    if (!needed[output]) {
      if (!needed[state]) return [];
      this.renamed.delete(dst);
      return [onStorages({ ...stmt, role: state }, this.inState)];
    }
    const tile = this.fresh(dst, "handed");
    this.renamed.set(dst, tile);
    if (stmt.kind === "copy") this.copied.set(tile, stmt.src.storage);
    return [onStorages({ ...stmt, role: state }, this.inState), this.signal(tile, stmt)];
  }

  /** The state of this turn goes to its buffer by way of a tile of the buffer's type. */
  private storedByOutput(stmt: Store): Stmt[] {
    const param = this.whole.params.find(({ name }) => name === stmt.view.param)!;
    const from = this.storages[stmt.src]!;
    const known = [...this.copied.keys()].find(
      (id) => this.copied.get(id) === stmt.src && this.storages[id]!.dtype === param.dtype,
    );
    const tile =
      known ??
      this.fresh(stmt.src, "handed", { memory: "shared", dtype: param.dtype as Storage["dtype"] });
    const store: Store = { ...stmt, role: output, src: tile };
    if (known !== undefined) return [...this.waitsFor(store), store];
    const copy: Copy = {
      kind: "copy",
      role: state,
      dst: wholeOf(this.storages[tile]!),
      src: wholeOf(from),
      transpose: false,
      note: stmt.note,
    };
    const signal = this.signal(tile, stmt);
    return [copy, signal, ...this.waitsFor(store), store];
  }

  /** The state that a tile is a copy of. */
  private readonly copied = new Map<StorageId, StorageId>();

  private signal(tile: StorageId, { note }: Stmt): Stmt {
    const number = this.signals++;
    this.awaited.set(tile, number);
    return { kind: "signal", role: state, number, note };
  }

  private waitsFor(stmt: Stmt): Stmt[] {
    return readsOf(stmt).flatMap((id): Stmt[] => {
      const tile = this.inOutput(id);
      const number = this.awaited.get(tile);
      if (number === undefined) return [];
      this.awaited.delete(tile);
      return [{ kind: "await", role: output, number, note: stmt.note }];
    });
  }

  /** Scalars of registers that depend on nothing but such: all threads compute them. */
  private doneAlike(): ReadonlySet<Stmt> {
    const stmts = all(this.shape);
    const isScalar = (id: StorageId) => this.storages[id]!.shape.length === 0;
    const alike = new Set(
      stmts.filter(
        (stmt) =>
          (stmt.kind === "map" || stmt.kind === "load") &&
          isScalar(stmt.dst) &&
          this.slices.every((one) => one.has(stmt)),
      ),
    );
    for (let size = -1; size !== alike.size;) {
      size = alike.size;
      const other = new Set(stmts.filter((stmt) => !alike.has(stmt)).flatMap(writesOf));
      for (const stmt of alike) {
        if ([...readsOf(stmt), ...writesOf(stmt)].some((id) => other.has(id))) alike.delete(stmt);
      }
    }
    return alike;
  }

  /** Shared storages that are filled before the loop, and read in it: one role does that for both. */
  private doneBefore(): ReadonlySet<Stmt> {
    const { before, loop, after } = this.shape;
    // Without a turn the roles never meet.
    const later = new Set([...loop.body.flatMap(writesOf), ...after.flatMap(readsOf)]);
    const isShared = (id: StorageId) => this.storages[id]!.memory === "shared" && !later.has(id);
    const prepared = new Set(
      before.filter(
        (stmt) => this.slices.every((one) => one.has(stmt)) && writesOf(stmt).every(isShared),
      ),
    );
    for (let size = -1; size !== prepared.size;) {
      size = prepared.size;
      const others = before.filter((stmt) => !prepared.has(stmt) && !this.alike.has(stmt));
      for (const stmt of prepared) {
        if (others.some((other) => clash(other, stmt))) prepared.delete(stmt);
      }
    }
    return prepared;
  }

  private writtenByBoth(): readonly StorageId[] {
    const written = (slice: ReadonlySet<Stmt>, role: number) =>
      [...slice].flatMap((stmt) => {
        if (stmt.kind === "copy-async" || this.alike.has(stmt) || this.prepared.has(stmt))
          return [];
        if (!this.cuts.has(stmt)) return writesOf(stmt);
        // What is handed over goes to a storage of its own.
        const isHanded = this.slices[output]!.has(stmt);
        return role === output ? [] : writesOf(stmt).slice(isHanded ? 1 : 0);
      });
    const others = new Set(written(this.slices[output]!, output));
    return [...new Set(written(this.slices[state]!, state))].filter((id) => others.has(id));
  }

  private fresh(id: StorageId, why: string, as: Partial<Storage> = {}): StorageId {
    const like = this.storages[id]!;
    const name = newName(`${like.name}_${why}`, this.storages);
    const fresh = { ...like, ...as, id: this.storages.length as StorageId, name };
    this.storages.push(fresh);
    return fresh.id;
  }
}

/** Where one warp has whole rows it folds them alone. */
function withoutScratch(kernel: Kernel, { foldsRows }: RoleLimits): Kernel {
  const alone = (stmt: Stmt): Stmt => {
    if (stmt.kind === "loop") return { ...stmt, body: stmt.body.map(alone) };
    if (stmt.kind !== "reduce" || stmt.scratch === null || stmt.axis !== "col") return stmt;
    const [rows, cols] = kernel.storages[stmt.src]!.shape as [number, number];
    const threads = threadsOf(kernel, stmt);
    return foldsRows(rows, cols, threads) ? { ...stmt, scratch: null } : stmt;
  };
  return { ...kernel, body: kernel.body.map(alone) };
}

function wholeOf({ id, shape }: Storage): Copy["dst"] {
  const [rows, cols] = shape as [number, number];
  const start = { base: null, offset: 0 };
  return { storage: id, row: start, col: start, rows, cols };
}

function count(body: readonly Stmt[], kind: Stmt["kind"]): number {
  return body.reduce(
    (sum, stmt) =>
      sum + (stmt.kind === kind ? 1 : 0) + (stmt.kind === "loop" ? count(stmt.body, kind) : 0),
    0,
  );
}
