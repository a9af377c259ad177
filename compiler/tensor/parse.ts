/** Tensor programs from text, as `print.ts` writes them. Throws IrSyntaxError on anything else. */
import { IrReader, numberOf } from "../support/ir-text.ts";
import { noSpan } from "../support/span.ts";
import {
  type Dim,
  type Dtype,
  type MapFn,
  type Op,
  type Output,
  type Per,
  type Program,
  type Range,
  type RegionKind,
  type RegionParam,
  type TensorType,
  type ValueId,
  binaryFns,
  unaryFns,
} from "./ir.ts";
import { chunkCountDim, chunkDim, pieceDim } from "./ir.ts";

export function parseTensor(text: string): Program {
  return new TensorParser(new IrReader(text)).program();
}

type Attributes = ReadonlyMap<string, string | Range>;

const dtypes: readonly Dtype[] = ["f32", "f16", "bf16"];
const pers: readonly Per[] = ["token", "head", "shared", "state", "chunk"];
const mapFns = new Set<string>([...unaryFns, ...binaryFns, "select"]);

class TensorParser {
  private readonly ids = new Map<string, ValueId>();
  private readonly dims = new Map<string, number | "runtime" | null>();
  private nextId = 0;
  private readonly reader: IrReader;

  constructor(reader: IrReader) {
    this.reader = reader;
  }

  program(): Program {
    const { reader } = this;
    reader.expect("program");
    const name = reader.next();
    reader.expect("{");
    if (reader.accept("dims")) {
      do this.dim();
      while (reader.accept(","));
    }
    const ops: Op[] = [];
    while (!reader.accept("return")) ops.push(this.op());
    const outputs: Output[] = [];
    do outputs.push(this.output());
    while (reader.accept(","));
    reader.expect("}");
    reader.end();
    return { name, dims: this.dims, ops, outputs };
  }

  private dim(): void {
    const { reader } = this;
    const dim = reader.next();
    reader.expect("=");
    if (reader.accept("runtime")) this.dims.set(dim, "runtime");
    else this.dims.set(dim, reader.accept("?") ? null : reader.number());
  }

  private output(): Output {
    const { reader } = this;
    const label = reader.next();
    reader.expect(":");
    const per = reader.oneOf(pers);
    const dtype = reader.oneOf(dtypes);
    reader.expect("=");
    return { label, per, dtype, value: this.value() };
  }

  private value(): ValueId {
    const word = this.reader.next();
    return this.ids.get(word) ?? this.reader.fail(`${word} is not defined`);
  }

  private define(word: string): ValueId {
    if (!word.startsWith("%") || this.ids.has(word)) this.reader.fail(`${word} cannot be defined`);
    const id = this.nextId++ as ValueId;
    this.ids.set(word, id);
    return id;
  }

  private type(): TensorType {
    const { reader } = this;
    reader.expect("f32");
    return {
      shape: reader.list("[", "]", (): Dim => {
        const word = reader.next();
        if (reader.accept("/")) {
          return reader.accept(chunkDim) ? chunkCountDim : pieceDim(reader.number());
        }
        return /^\d+$/.test(word) ? Number(word) : word;
      }),
    };
  }

  private op(): Op {
    const { reader } = this;
    const word = reader.next();
    if (word === "recurrence" || word === "chunks") return this.loop(word);
    reader.expect(":");
    const type = this.type();
    reader.expect("=");
    const kind = reader.next();
    const args: ValueId[] = [];
    // A name with a colon behind it is the next op, where this one has no operands.
    while (reader.peek()?.startsWith("%") && reader.peek(1) !== ":") {
      args.push(this.value());
      if (!reader.accept(",")) break;
    }
    const attributes = this.attributes();
    const span = this.span();
    const base = { id: this.define(word), name: nameOf(word), type, span };
    return this.make(kind, args, attributes, base);
  }

  private attributes(): Attributes {
    const { reader } = this;
    const attributes = new Map<string, string | Range>();
    if (!reader.accept("{")) return attributes;
    do {
      const name = reader.next();
      reader.expect("=");
      attributes.set(name, name === "range" ? this.range() : reader.next());
    } while (reader.accept(","));
    reader.expect("}");
    return attributes;
  }

  private range(): Range {
    const { reader } = this;
    const lowOpen = reader.next() === "(";
    const low = reader.number();
    reader.expect(",");
    const high = reader.number();
    return { low, high, lowOpen, highOpen: reader.next() === ")" };
  }

  private span() {
    const { reader } = this;
    if (!reader.accept("@")) return noSpan;
    const start = reader.number();
    reader.expect(":");
    return { start, end: reader.number() };
  }

  private loop(kind: RegionKind): Op {
    const { reader } = this;
    const reverse = reader.accept("reverse");
    const longest = reader.accept("longest") ? reader.number() : null;
    const piece = reader.accept("piece") ? reader.number() : null;
    const inits: (ValueId | null)[] = [];
    const params = reader.list("(", ")", (): RegionParam => {
      const word = reader.next();
      reader.expect(":");
      const type = this.type();
      reader.expect("=");
      inits.push(reader.accept("0") ? null : this.value());
      return { id: this.define(word), name: nameOf(word) ?? word.slice(1), type };
    });
    reader.expect("{");
    const ops: Op[] = [];
    const values = (): ValueId[] => {
      const list = [this.value()];
      while (reader.accept(",")) list.push(this.value());
      return list;
    };
    while (!["carry", "yield", "}"].includes(reader.peek() ?? "}")) ops.push(this.op());
    const carries = reader.accept("carry") ? values() : [];
    const yields = reader.accept("yield") ? values() : [];
    reader.expect("}");
    reader.expect("=");
    const word = reader.next();
    const span = this.span();
    const name = nameOf(word);
    const base = { id: this.define(word), name: name === "loop" ? null : name, span };
    const type: TensorType = { shape: [] };
    const rest = { ...base, type, reverse, inits, region: { params, ops }, carries, yields };
    return kind === "chunks" ? { ...rest, kind, longest, piece } : { ...rest, kind };
  }

  private make(
    kind: string,
    args: readonly ValueId[],
    attributes: Attributes,
    base: Pick<Op, "id" | "name" | "type" | "span">,
  ): Op {
    const text = (name: string): string => {
      const value = attributes.get(name);
      return typeof value === "string" ? value : this.reader.fail(`${kind} needs ${name}`);
    };
    const oneOf = <W extends string>(name: string, words: readonly W[]): W => {
      const word = words.find((candidate) => candidate === text(name));
      return word ?? this.reader.fail(`${name} is one of ${words.join(", ")}`);
    };
    const flag = (name: string) => oneOf(name, ["true", "false"]) === "true";
    const number = (name: string) => numberOf(text(name)) ?? this.reader.fail(`${name} = number`);
    const numberOr = (name: string) => (attributes.has(name) ? number(name) : null);
    const arg = (i: number): ValueId => args[i] ?? this.reader.fail(`${kind} needs more operands`);
    if (mapFns.has(kind)) return { ...base, kind: "map", fn: kind as MapFn, args };
    switch (kind) {
      case "input": {
        const range = (attributes.get("range") as Range | undefined) ?? null;
        const [per, dtype] = [oneOf("per", pers), oneOf("dtype", dtypes)];
        return { ...base, kind, label: text("label"), per, dtype, range };
      }
      case "const":
        return { ...base, kind, value: number("value") };
      case "dim-size":
        return { ...base, kind, dim: text("dim") };
      case "token-index":
      case "iota":
        return { ...base, kind };
      case "reduce":
        return {
          ...base,
          kind,
          fn: oneOf("fn", ["sum", "max"]),
          arg: arg(0),
          axis: number("axis"),
        };
      case "rotate-half":
      case "transpose":
      case "invert":
      case "rows":
        return { ...base, kind, arg: arg(0) };
      case "cumsum":
        return {
          ...base,
          kind,
          arg: arg(0),
          reverse: flag("reverse"),
          exclusive: attributes.has("exclusive") && flag("exclusive"),
          block: numberOr("block"),
          ...(attributes.has("earlier_reverse") && {
            earlier: { reverse: flag("earlier_reverse"), exclusive: flag("earlier_exclusive") },
          }),
        };
      case "matmul":
      case "outer":
        return { ...base, kind, lhs: arg(0), rhs: arg(1) };
      case "causal":
        return {
          ...base,
          kind,
          logDecay: args[0] ?? null,
          strict: flag("strict"),
          reverse: attributes.has("reverse") && flag("reverse"),
        };
      case "block-mask":
        return {
          ...base,
          kind,
          block: number("block"),
          reverse: flag("reverse"),
          ...(attributes.has("within_strict") ? { within: { strict: flag("within_strict") } } : {}),
        };
      case "solve":
        return { ...base, kind, matrix: arg(0), rhs: arg(1), upper: flag("upper") };
      case "result":
        return {
          ...base,
          kind,
          of: arg(0),
          part: oneOf("part", ["yield", "carry", "checkpoint"]),
          index: number("index"),
        };
      case "scan":
      case "scan-state":
      case "delta": {
        const rest = [...args];
        const take = (wanted: boolean) =>
          wanted ? (rest.shift() ?? this.reader.fail(`${kind} needs more operands`)) : null;
        const axis = oneOf("axis", ["none", "scalar", "key", "value"]);
        const q = take(kind === "scan");
        const erases = (i: number) => kind === "delta" && text("erase").includes(`w${i}`);
        const writes = Array.from({ length: numberOr("writes") ?? 1 }, (_, i) => ({
          k: take(true)!,
          v: take(true)!,
          erase: take(erases(i)),
        }));
        const pairs = kind === "delta" && attributes.has("couplings") ? text("couplings") : "";
        const couplings = [...pairs.matchAll(/w(\d+)w(\d+)/g)].map(([, to, from]) => ({
          to: Number(to),
          from: Number(from),
          scale: take(true)!,
        }));
        const logDecay = take(axis !== "none");
        const initial = take(flag("initial"));
        const shared = { state: text("state"), logDecay, initial, axis, reverse: flag("reverse") };
        if (kind === "delta")
          return { ...base, ...shared, kind, writes, couplings, index: number("index") };
        const common = { ...base, ...shared, writes: writes.map(({ k, v }) => ({ k, v })) };
        if (kind === "scan-state") return { ...common, kind, every: numberOr("every") };
        const read = oneOf("read", ["after", "before"]);
        return { ...common, kind, q: q!, read, causal: flag("causal") };
      }
      default:
        return this.reader.fail(`there is no op \`${kind}\``);
    }
  }
}

/** %q and %q.2 are both called q; %3 has no name. */
function nameOf(word: string): string | null {
  const name = word.slice(1).replace(/\.\d+$/, "");
  return /^\d+$/.test(name) ? null : name;
}
