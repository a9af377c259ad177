/**
 * Random rules as text: one to three states, each a product form or a recurrence, whose queries, keys, values and
 * gates may come from what other states gave, from vectors and scalars that no token changes, or from constants.
 *
 *   h1 = ((silu(q) @ k.T) * causal_decay(-softplus(g))) @ v
 *   o2 = recurrence S2: [K, V] reverse {
 *     S2 = sigmoid(h1) * S2 + outer(u, h1)
 *     ...
 *
 * What is read of a state is kept of moderate size, and keys that a delta rule erases by have length 1, so that rules
 * are as well conditioned as those that people write.
 */
import { Dice } from "./dice.ts";

export interface Rule {
  readonly text: string;
  readonly dims: Readonly<Record<"K" | "V", number>>;
}

type Dim = "K" | "V";

/** Every parameter a rule may have; those it uses are declared. */
const parameters = {
  q: "[T, K]",
  k: "[T, K]",
  v: "[T, V]",
  x: "[T, K]",
  y: "[T, V]",
  b: "[T]",
  g: "[T] in (-inf, 0]",
  gi: "[T] in [-inf, 0]",
  gk: "[T, K] in (-inf, 0]",
  gv: "[T, V] in (-inf, 0]",
  gc: "[T, K] in [-inf, 0]",
  a: "[T] in [0, 1]",
  ak: "[T, K] in [0, 1]",
  av: "[T, V] in (0, 1]",
  beta: "[T] in [0, 1]",
  gamma: "scalar per head in (0, 1]",
  gs: "scalar shared in (-inf, 0]",
  c: "scalar per head",
  s: "scalar shared",
  u: "[K] per head",
  w: "[V] shared",
  uv: "[V] per head",
  wk: "[K] shared",
} as const;
type Parameter = keyof typeof parameters;

const rowParameters: Readonly<Record<Dim, readonly Parameter[]>> = {
  K: ["q", "k", "x"],
  V: ["v", "y"],
};
const vectors: Readonly<Record<Dim, readonly Parameter[]>> = { K: ["u", "wk"], V: ["w", "uv"] };
const otherDim = { K: "V", V: "K" } as const;

/** Functions of a row, X, that keep its size about what it was; D is its dim. */
const rowFunctions = [
  "silu(X)",
  "elu(X) + 1",
  "l2norm(X)",
  "X * 0.5",
  "rmsnorm(X)",
  "relu(X) + softplus(X)",
  "tanh(X) - X",
  "cos(X)",
  "exp(-abs(X))",
  "exp(0.5 * tanh(X))",
  "sigmoid(X)",
  "1 - sigmoid(X)",
  "softmax(X)",
  "X / sqrt(D)",
];
/** Of one or two numbers a norm leaves a sign, and of its gradient only rounding. */
const norms = /norm|softmax/;
const fewest = 3;
const endings = [
  "O",
  "O",
  "O / sqrt(V)",
  "l2norm(O, 1)",
  "O / (1 + rowmax(abs(O)))",
  "tanh(O) + O",
];

/** Draws a rule. */
export function drawRule(seed: string | number): Rule {
  const dice = new Dice(`rule ${seed}`);
  const size = () => (dice.chance(0.2) ? dice.pick([1, 2, 16]) : 3 + dice.below(18));
  const dims = { K: size(), V: size() };
  return { text: new RuleWriter(dice, dims).write(), dims };
}

class RuleWriter {
  private readonly dice: Dice;
  private readonly dims: Rule["dims"];
  private readonly used = new Set<Parameter>();
  private readonly lines: string[] = [];
  /** Rows [T, dim] and numbers [T] that states gave, by name. */
  private readonly reads: Record<Dim, string[]> = { K: [], V: [] };
  private readonly numbers: string[] = [];
  /** How many states there are. */
  private count = 0;

  constructor(dice: Dice, dims: Rule["dims"]) {
    this.dice = dice;
    this.dims = dims;
  }

  write(): string {
    const states = this.dice.pick([1, 1, 1, 2, 2, 3]);
    for (let i = 0; i < states; i++) this.state(i === states - 1);
    const result = this.result();
    const signature = Object.entries(parameters)
      .filter(([name]) => this.used.has(name as Parameter))
      .map(([name, type]) => `  ${name}: ${type},\n`)
      .join("");
    const body = [...this.lines, result].map((line) => `  ${line}\n`).join("");
    return `attention rule(\n${signature}) -> [T, V] {\n${body}}\n`;
  }

  /** One of these templates that suits rows of a dim. */
  private template(list: readonly string[], dim: Dim): string {
    const isFew = this.dims[dim] < fewest;
    return this.dice.pick(isFew ? list.filter((one) => !norms.test(one)) : list);
  }

  private param(name: Parameter): string {
    this.used.add(name);
    return name;
  }

  /** All that states gave [T, V] together, and what else a result is made of. */
  private result(): string {
    const { dice } = this;
    const [last, ...others] = [...this.reads.V].reverse();
    let text = last!;
    // What nothing reads is no part of the rule: some of it becomes part of the result.
    for (const other of others) if (dice.chance(0.4)) text = `${text} - 0.5 * ${other}`;
    for (const number of this.numbers) if (dice.chance(0.3)) text = `(${text}) * tanh(${number})`;
    const more = [
      () => text,
      () => text,
      () => `${text} + ${this.param("w")}`,
      () => `${this.param("uv")} - (${text}) * ${this.param("c")}`,
      () => `(${text}) * silu(${this.param("v")})`,
      () => `${text} + ${this.param("c")} * ${this.param("v")}`,
      () => `(${text}) * ${this.param("s")}`,
    ];
    return `return ${dice.pick(more)()}`;
  }

  private state(isLast: boolean): void {
    const { dice } = this;
    this.count++;
    const value = isLast || dice.chance(0.6) ? "V" : "K";
    const key = dice.chance(0.75) ? otherDim[value] : value;
    const name = `h${this.count}`;
    const text = dice.chance(0.4) ? this.product(key, value) : this.recurrence(key, value);
    this.lines.push(`${name} = ${text}`);
    const ending = this.template(endings, value);
    if (ending !== "O") {
      this.lines.push(`o${this.count} = ${ending.replaceAll("O", name)}`);
      this.reads[value].push(`o${this.count}`);
    } else {
      this.reads[value].push(name);
    }
  }

  /** A row [T, dim], or (not where `isToken` is asked for) a vector or number for all tokens. */
  private row(dim: Dim, isToken: boolean): string {
    const { dice } = this;
    const reads = this.reads[dim];
    if (reads.length > 0 && dice.chance(0.5)) {
      const read = dice.pick(reads);
      const bounded = this.template(["l2norm(X, 1)", "tanh(X)"], dim).replaceAll("X", read);
      return dice.chance(0.5) ? bounded : read;
    }
    if (dice.chance(0.15)) return this.tokenless(dim, isToken);
    const plain = this.param(dice.pick(rowParameters[dim]));
    if (dice.chance(0.4)) return plain;
    if (dice.chance(0.2)) return `${plain} * ${this.param(dice.pick(vectors[dim]))}`;
    return `(${this.template(rowFunctions, dim).replaceAll("X", plain).replaceAll("D", dim)})`;
  }

  /** What is the same for all tokens. */
  private tokenless(dim: Dim, isToken: boolean): string {
    const { dice } = this;
    const vector = this.param(dice.pick(vectors[dim]));
    const plain = dice.pick([vector, `sigmoid(${vector})`, `(${vector} / ${dim})`]);
    if (!isToken) return plain;
    // The mask of products takes rows: this is one, of the same numbers everywhere.
    const any = this.param(rowParameters[dim][0]!);
    return dice.pick([`exp(0 * ${any})`, `where(${any} < 100, ${plain}, 0)`]);
  }

  /** A number for each token, or one for all: not bounded. */
  private number(): string {
    const { dice } = this;
    const made = [
      () => this.param("b"),
      () => this.param("c"),
      () => `mean(${this.row("K", true)})`,
      () => (this.numbers.length > 0 ? dice.pick(this.numbers) : this.param("s")),
      () => `mean(${this.reads.V.at(-1) ?? this.param("v")})`,
    ];
    return dice.pick(made)();
  }

  /** The log of a decay, a number for each token or for all. */
  private logDecay(): string {
    const made = [
      () => this.param("g"),
      () => this.param("g"),
      () => this.param("gi"),
      () => this.param("gs"),
      () => `-softplus(${this.number()})`,
      () => `log(${this.param("gamma")})`,
      () => `(log(${this.param("gamma")}) + ${this.param("g")})`,
      () => `-exp(0.5 * ${this.param("c")}) * softplus(${this.param("b")})`,
      () => `-square(${this.number()})`,
    ];
    return this.dice.pick(made)();
  }

  /** The log of a decay for each channel of a dim. */
  private logDecays(dim: Dim): string {
    const made = [
      () => this.param(dim === "K" ? "gk" : "gv"),
      () => this.param(dim === "K" ? "gc" : "gv"),
      () => `-softplus(${this.row(dim, false)})`,
      () => `-abs(${this.row(dim, false)})`,
    ];
    return this.dice.pick(made)();
  }

  /** What a recurrence scales its state by: a number. */
  private factor(): string {
    const made = [
      () => `exp(${this.logDecay()})`,
      () => `exp(${this.logDecay()})`,
      () => this.param("gamma"),
      () => this.param("a"),
      () => `sigmoid(${this.number()})`,
      () => `${this.param("gamma")} * exp(${this.param("g")})`,
      () => "0.9",
      () => "(1 - 1 / (1 + V))",
    ];
    return this.dice.pick(made)();
  }

  /** Factors for each channel; a number where both axes of the state have one name. */
  private factors(dim: Dim, isSquare: boolean): string {
    if (isSquare) return this.factor();
    const made = [
      () => `exp(${this.logDecays(dim)})`,
      () => `exp(${this.logDecays(dim)})`,
      () => this.param(dim === "K" ? "ak" : "av"),
      () => `sigmoid(${this.row(dim, false)})`,
      () => `sigmoid(${this.row(dim, true)}) * exp(${this.param("g")})`,
    ];
    return this.dice.pick(made)();
  }

  private product(key: Dim, value: Dim): string {
    const { dice } = this;
    const masks = [
      () => "",
      () => " * causal()",
      () => " * causal()",
      () => ` * causal_decay(${this.logDecay()})`,
      () => ` * causal_decay(${this.logDecay()})`,
    ];
    const mask = dice.pick(masks)();
    const scores = () => `(${this.row(key, true)} @ (${this.row(key, true)}).T)${mask}`;
    const all = dice.chance(0.15) ? `(${scores()} - 0.5 * ${scores()})` : `(${scores()})`;
    const values = this.row(value, true);
    if (!dice.chance(0.15)) return `${all} @ ${values}`;
    // The sum of scores is one more state, of value 1.
    const name = `scores${this.count}`;
    this.lines.push(`${name} = ${all}`);
    return `(${name} @ ${values}) / (1 + square(sum(${name})))`;
  }

  private recurrence(key: Dim, value: Dim): string {
    const { dice } = this;
    const S = `S${this.count}`;
    const z = `z${this.count}`;
    const isDelta = dice.chance(0.3);
    const body = isDelta ? this.deltaUpdates(S, key, value) : this.updates(S, key, value);
    const query = this.row(key, false);
    const when = dice.pick(["after", "after", "before", "both", "middle"] as const);
    let out = `${query} @ ${S}`;
    if (when !== "after") {
      const at = when === "middle" ? Math.floor(body.length / 2) : 0;
      body.splice(at, 0, `seen = ${this.row(key, false)} @ ${S}`);
      out = when === "both" ? `${out} - 0.25 * seen` : "seen";
    }
    let states = `${S}: [${key}, ${value}]`;
    if (dice.chance(0.25)) {
      states += `, ${z}: [${key}]`;
      body.push(`${z} = ${this.factor()} * ${z} + square(${this.row(key, false)})`);
      out = `(${out}) / (1 + square(${this.row(key, false)}) @ ${z})`;
    }
    const direction = dice.chance(0.25) ? " reverse" : "";
    const lines = [...body, `yield ${out}`].map((line) => `    ${line}\n`).join("");
    return `recurrence ${states}${direction} {\n${lines}  }`;
  }

  /** A write of a state: a key and a value, one of which may be the same for all tokens. */
  private written(key: Dim, value: Dim): string {
    const { dice } = this;
    const product = `outer(${this.row(key, false)}, ${this.row(value, false)})`;
    const scales = [() => this.param("beta"), () => "0.5", () => `tanh(${this.number()})`];
    return dice.chance(0.3) ? `${dice.pick(scales)()} * ${product}` : product;
  }

  private updates(S: string, key: Dim, value: Dim): string[] {
    const { dice } = this;
    const decays = [
      () => null,
      () => this.factor(),
      () => this.factor(),
      () => this.factors(key, key === value),
      () => this.factors(key, key === value),
      () => this.factors(value, key === value),
    ];
    const a = dice.pick(decays)();
    const added = this.written(key, value);
    if (a === null) return [`${S} = ${S} + ${added}`];
    const forms = [
      () => [`${S} = ${a} * ${S} + ${added}`],
      () => [`${S} = ${a} * (${S} + ${added})`],
      () => [`${S} = ${a} * ${S}`, `${S} = ${S} + ${added} + 0.5 * ${this.written(key, value)}`],
    ];
    return dice.pick(forms)();
  }

  /** One or two corrections of rank one, and a decay somewhere among them. */
  private deltaUpdates(S: string, key: Dim, value: Dim): string[] {
    const { dice } = this;
    const strength = () =>
      dice.pick([() => this.param("beta"), () => "0.5", () => `sigmoid(${this.number()})`])();
    const correction = () => {
      const k = this.template(["l2norm(X)", "(0.6 * tanh(X))"], key).replace(
        "X",
        this.row(key, false),
      );
      const forms = [
        () => `${S} = ${S} + ${strength()} * outer(${k}, ${this.row(value, false)} - ${k} @ ${S})`,
        () =>
          `${S} = ${S} - ${strength()} * outer(${k}, ${k} @ ${S}) + ${this.written(key, value)}`,
      ];
      return dice.pick(forms)();
    };
    const lines = dice.chance(0.6) ? [correction()] : [correction(), correction()];
    if (dice.chance(0.7)) {
      const a = dice.chance(0.5) ? this.factor() : this.factors(key, key === value);
      lines.splice(dice.below(lines.length + 1), 0, `${S} = ${a} * ${S}`);
    }
    return lines;
  }
}
