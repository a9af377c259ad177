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
const factors = ["exp(g)", "gamma", "sigmoid(g)", "gamma * exp(g)", "exp(g) ** 0.5"];
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
    factor: fc.option(pick(factors)),
    order: fc.nat(3),
    read: fc.nat(2),
  })
  .map(({ q, k, factor, order, read }) => {
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
    return `value = VALUE\n  o = recurrence S: [K, V] {\n    ${body}\n  }`;
  });

/** Every parameter is read, so that nothing is warned of. */
const signature = `q: [T, K], k: [T, K], v: [T, V], g: [T] in (-inf, 0], gamma: scalar per head in (0, 1], c: scalar per head, w: [V] shared`;

export const randomRule: fc.Arbitrary<RandomRule> = fc
  .record({
    form: fc.oneof(product, recurrence),
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
