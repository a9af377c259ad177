/** Words of PyTorch, JAX, Triton, Python and papers, and what is written here in their place. */

/** Functions: `{0}` and `{1}` are the arguments of the call. */
const functions: Readonly<Record<string, string>> = {
  diag: "a vector scales a state by itself: write `{0} * S`",
  transpose: "write `{0}.T`",
  permute: "write `{0}.T`",
  swapaxes: "write `{0}.T`",
  t: "write `{0}.T`",
  tril: "write `{0} * causal()`",
  triu: "a mask of later tokens is a recurrence with `reverse`; of earlier ones write `causal()`",
  masked_fill: "linear attention has zeros there: write `{0} * causal()`",
  ones: "write `1`: a number spreads over every axis",
  zeros: "write `0`: a number spreads over every axis, and a state starts at zero by itself",
  ones_like: "write `1`: a number spreads over every axis",
  zeros_like: "write `0`: a number spreads over every axis",
  full: "write the number: it spreads over every axis",
  eye: "write the product out: `(eye(K) - beta * outer(k, k)) @ S` is `S - beta * outer(k, k @ S)`",
  identity: "write the product out: `(I - beta * outer(k, k)) @ S` is `S - beta * outer(k, k @ S)`",
  matmul: "write `{0} @ {1}`",
  mm: "write `{0} @ {1}`",
  bmm: "write `{0} @ {1}`",
  dot: "write `{0} @ {1}`",
  einsum: "write products as `q @ k.T`, `q @ S` and `outer(k, v)`",
  ger: "write `outer({0}, {1})`",
  outer_product: "write `outer({0}, {1})`",
  mul: "write `{0} * {1}`",
  multiply: "write `{0} * {1}`",
  div: "write `{0} / {1}`",
  add: "write `{0} + {1}`",
  sub: "write `{0} - {1}`",
  neg: "write `-{0}`",
  reciprocal: "write `1 / {0}`",
  cumsum: "a mask sums up its decays by itself: write `causal_decay({0})`",
  cumprod: "a mask multiplies up its decays by itself: write `causal_decay(log({0}))`",
  segsum: "a mask sums up its decays by itself: write `causal_decay({0})`",
  scan: "write `recurrence S: [K, V] { ... }`",
  associative_scan: "write `recurrence S: [K, V] { ... }`",
  normalize: "write `l2norm({0})`",
  norm: "write `sqrt(sum(square({0})))`",
  rms_norm: "write `rmsnorm({0})`",
  layernorm: "write `rmsnorm({0} - mean({0}))`",
  layer_norm: "write `rmsnorm({0} - mean({0}))`",
  swish: "write `silu({0})`",
  rope: "write `rotary({0})`",
  apply_rotary: "write `rotary({0})`",
  apply_rotary_emb: "write `rotary({0})`",
  ln: "write `log({0})`",
  logsigmoid: "write `log(sigmoid({0}))`",
  log_sigmoid: "write `log(sigmoid({0}))`",
  log1p: "write `log(1 + {0})`",
  expm1: "write `exp({0}) - 1`",
  exp2: "write `2 ** {0}`",
  clamp: "write `min(max({0}, {1}), high)`",
  clip: "write `min(max({0}, {1}), high)`",
  maximum: "write `max({0}, {1})`",
  minimum: "write `min({0}, {1})`",
  amax: "write `rowmax({0})`",
  power: "write `{0} ** {1}`",
  phi: "define it: `def phi(x) = elu(x) + 1`",
  mask: "write `causal()`",
  decay_mask: "write `causal_decay(log_a)`",
  scaled_dot_product_attention: "write the formula: `((q @ k.T) * causal()) @ v`",
  ...Object.fromEntries(
    ["cat", "concat", "concatenate", "stack"].map((name) => [
      name,
      "axes are not joined: add up the products of the parts, `q @ a + k @ b`",
    ]),
  ),
  arange: "tokens have no numbers: a mask of decays is `causal_decay(log_a)`",
  range: "tokens have no numbers: a loop over them is `recurrence S: [K, V] { ... }`",
  ...Object.fromEntries(
    ["contiguous", "float", "half", "to", "detach", "clone"].map((name) => [
      name,
      "write `{0}`: how values are stored follows from their types",
    ]),
  ),
  ...Object.fromEntries(
    ["unsqueeze", "squeeze", "view", "reshape", "expand", "rearrange", "repeat"].map((name) => [
      name,
      "write `{0}`: axes spread over one another by name",
    ]),
  ),
};

/** What is written instead of a call; null: nothing is known of this name. */
export function insteadOfCall(name: string, args: readonly string[]): string | null {
  if (name === "tril" && args[0]?.startsWith("ones")) return "write `causal()`";
  if (!Object.hasOwn(functions, name)) return null;
  const text = (i: number) => args[i] ?? "xy"[i]!;
  return functions[name]!.replace(/\(\{(\d)\}/g, (_, i) => `(${text(Number(i))}`).replace(
    /\{(\d)\}/g,
    (_, i) => grouped(text(Number(i))),
  );
}

/** An expression in brackets, where an operator behind it would take a part of it. */
export function grouped(text: string): string {
  return /^[\w.]+(?:\([^()]*\))?(?:\.T)?$/.test(text) ? text : `(${text})`;
}

/** Modules whose functions are written without them. */
export const modules: ReadonlySet<string> = new Set(
  "torch F nn np numpy jnp jax lax tl triton math tf mx fla".split(" "),
);

/** Signs of other alphabets, and what is typed for them. */
const signs: Readonly<Record<string, string>> = {
  "−": "-",
  "–": "-",
  "—": "-",
  "×": "*",
  "·": "*",
  "⋅": "*",
  "⊙": "*",
  "∘": "*",
  "∗": "*",
  "÷": "/",
  "→": "->",
  "←": "=",
  "≤": "<=",
  "≥": ">=",
  ᵀ: ".T",
  "⊤": ".T",
  "²": "** 2",
  "√": "sqrt(x)",
  "∑": "sum(x)",
  "⊗": "outer(a, b)",
  "∞": "inf",
  "∈": "in",
  "，": ",",
  "：": ":",
  "（": "(",
  "）": ")",
};

const greek = (
  "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu " +
  "nu xi omicron pi rho sigma sigma tau upsilon phi chi psi omega"
).split(" ");

/** What is typed for a sign of another alphabet; null: nothing is known of it. */
export function typed(sign: string): string | null {
  if (Object.hasOwn(signs, sign)) return signs[sign]!;
  const code = sign.codePointAt(0)!;
  const small = greek[code - 0x3b1];
  if (small !== undefined) return small;
  const capital = greek[code - 0x391];
  return capital === undefined ? null : capital[0]!.toUpperCase() + capital.slice(1);
}
