/** Random attentions of the family the compiler takes, as text: rules nobody wrote before. */
import fc from "fast-check";

export interface RandomRule {
  readonly text: string;
  readonly K: number;
  readonly V: number;
  readonly T: number;
  readonly seed: number;
}

const featureMaps = [
  "X",
  "silu(X)",
  "elu(X) + 1",
  "l2norm(X)",
  "X * 0.5",
  "rmsnorm(X)",
  "relu(X) + softplus(X)",
  "tanh(X) - X",
];
const values = ["v", "silu(v)", "v * sigmoid(g)", "w * v", "v - mean(v)"];
const logDecays = ["g", "-softplus(g)", "log(gamma)", "log(gamma) + g", "-exp(c) * softplus(g)"];
const factors = [
  "exp(g)",
  "gamma",
  "sigmoid(g)",
  "gamma * exp(g)",
  "exp(g) ** 0.5",
  "exp(gk)",
  "sigmoid(k) * exp(g)",
  "(1 - sigmoid(k))",
];
/** These decay the value axis, so the state may not be read by its own update. */
const valueFactors = [...factors, "exp(gv)", "sigmoid(v) ** 0.25"];
const endings = [
  "O",
  "O / sqrt(K)",
  "O + w",
  "w - O * c",
  "rmsnorm(O)",
  "O * silu(v)",
  "O + c * v",
  "where(g < -0.5, O, v)",
  "O / (1 + rowmax(abs(O)))",
];

const pick = (list: readonly string[]) => fc.constantFrom(...list);
const fill = (template: string, name: string) =>
  `(${template.replaceAll("X", name).replaceAll("O", name)})`;

const product = fc
  .record({
    q: pick(featureMaps),
    k: pick(featureMaps),
    decay: fc.option(pick(logDecays)),
    masked: fc.boolean(),
    twice: fc.boolean(),
  })
  .map(({ q, k, decay, masked, twice }) => {
    const mask = !masked ? "" : decay === null ? " * causal()" : ` * causal_decay(${decay})`;
    const one = `(${fill(q, "q")} @ ${fill(k, "k")}.T)${mask}`;
    const all = twice ? `${one} - 0.5 * (k @ q.T)${masked ? " * causal()" : ""}` : one;
    return `scores = ${all}\n  o = scores @ VALUE`;
  });

const recurrence = fc
  .record({
    q: pick(featureMaps),
    k: pick(featureMaps),
    factor: fc.option(pick(valueFactors)),
    order: fc.nat(3),
    read: fc.nat(2),
    reverse: fc.boolean(),
  })
  .map(({ q, k, factor, order, read, reverse }) => {
    const added = `outer(${fill(k, "k")}, value)`;
    const a = factor ?? "1";
    const update = [
      `S = ${a} * S + ${added}`,
      `S = ${a} * (S + ${added})`,
      `S = ${a} * S\n    S = S + ${added} * 0.5 + outer(k, v)`,
      `S = (${added} + S) * ${a}`,
    ][order]!;
    const query = fill(q, "q");
    const body = [
      `${update}\n    yield ${query} @ S`,
      `before = ${query} @ S\n    ${update}\n    yield before`,
      `before = q @ S\n    ${update}\n    yield ${query} @ S - 0.25 * before + c * (q @ k) * v`,
    ][read]!;
    const direction = reverse ? " reverse" : "";
    return `value = VALUE\n  o = recurrence S: [K, V]${direction} {\n    ${body}\n  }`;
  });

/** Rules whose update reads the state: one or more corrections, each somewhere among the decays. */
const delta = fc
  .record({
    q: pick(featureMaps),
    factor: fc.option(pick(factors)),
    steps: fc.array(fc.nat(5), { minLength: 1, maxLength: 3 }),
    place: fc.nat(3),
    read: fc.nat(2),
    reverse: fc.boolean(),
    normaliser: fc.boolean(),
  })
  .map(({ q, factor, steps, place, read, reverse, normaliser }) => {
    const corrections = [
      "S = S + beta * outer(key, value - key @ S)",
      "S = S - outer(key * erase, key @ S) + outer(key, value)",
      "S = S + 0.5 * outer(other, v - other @ S)",
      "S = S + outer(other, beta * (v - key @ S)) * 0.5",
      "S = S + outer(k, v)",
      "S = S - 0.25 * beta * outer(other, key @ S + 0.5 * (other @ S) - value)",
    ];
    const lines = steps.map((step) => corrections[step]!);
    if (factor !== null) lines.splice(place % (lines.length + 1), 0, `S = ${factor} * S`);
    const middle = read === 1 ? Math.floor(lines.length / 2) : 0;
    if (read > 0) lines.splice(middle, 0, "seen = q @ S");
    if (normaliser) lines.push("z = exp(g) * z + square(k)");
    const own = read > 0 ? `${fill(q, "q")} @ S - 0.5 * seen` : `${fill(q, "q")} @ S`;
    lines.push(`yield ${normaliser ? `(${own}) / (1 + square(q) @ z)` : own}`);
    const states = `S: [K, V]${normaliser ? ", z: [K]" : ""}${reverse ? " reverse" : ""}`;
    const names =
      "key = l2norm(k)\n  other = l2norm(q + gk)\n  erase = sigmoid(gk)\n  value = VALUE";
    return `${names}\n  o = recurrence ${states} {\n    ${lines.join("\n    ")}\n  }`;
  });

/** Every parameter is read, so that nothing is warned of. */
const signature = `q: [T, K], k: [T, K], v: [T, V], g: [T] in (-inf, 0], gamma: scalar per head in (0, 1], c: scalar per head, w: [V] shared, gk: [T, K] in (-inf, 0], gv: [T, V] in (-inf, 0], beta: [T] in [0, 1]`;

export const randomRule: fc.Arbitrary<RandomRule> = fc
  .record({
    form: fc.oneof(product, recurrence, delta),
    value: pick(values),
    ending: pick(endings),
    K: fc.integer({ min: 1, max: 20 }),
    V: fc.integer({ min: 1, max: 20 }),
    T: fc.integer({ min: 0, max: 40 }),
    seed: fc.nat(1000),
  })
  .map(({ form, value, ending, K, V, T, seed }) => {
    const body = form.replaceAll("VALUE", `(${value})`);
    const text = `attention rule(${signature}) -> [T, V] {\n  ${body}\n  return ${fill(ending, "o")}\n}\n`;
    return { text, K, V, T, seed };
  });
