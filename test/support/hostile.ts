/** Hostile texts: examples and rules with words deleted, swapped and repeated, odd names, depth, sizes, controls, bytes. */
import { exampleNames, exampleSource, ruleNames } from "./examples.ts";

const oddNames = [
  ..."o __proto__ constructor toString d_q initial_S final_S cu_seqlens summary_S T B H C K V S".split(
    " ",
  ),
  ..."float class lambda return in per q k v exp outer NULL main packed x2 _ local_0 a".split(" "),
];
const oddWords = [
  ..."( ) [ ] { } , : = + - * / @ ** .T -> < <= == 1e999 0 1e-400 1.5. -1 inf recurrence yield def".split(
    " ",
  ),
  ..."\r \v \f \u0085 \u2028 \u2029 \0 \u001b \ud800 \u202e // /* */ \\ ??/ ``` \"\"\" ''' #".split(
    " ",
  ),
];

type Choose = <T>(list: readonly T[]) => T;
type Mutation = (words: string[], below: (n: number) => number, choose: Choose) => void;

const mutations: readonly Mutation[] = [
  (words, below) => void words.splice(below(words.length), 1 + below(4)),
  (words, below) => {
    const [a, b] = [below(words.length), below(words.length)];
    [words[a], words[b]] = [words[b]!, words[a]!];
  },
  (words, below) => {
    const from = below(words.length);
    words.splice(below(words.length), 0, ...words.slice(from, from + 1 + below(12)));
  },
  (words, below, choose) => void words.splice(below(words.length), 0, choose(oddWords)),
  (words, below, choose) => void (words[below(words.length)] = choose(oddWords)),
  // One name for another, everywhere: what still checks is compiled.
  (words, _, choose) => {
    const names = words.filter((word) => /^[A-Za-z_]\w*$/.test(word));
    const [old, name] = [names.length > 0 ? choose(names) : "q", choose([...oddNames, ...names])];
    words.forEach((word, i) => word === old && (words[i] = name));
  },
  (words, below, choose) => {
    const [open, close] = choose([
      ["(", ")"],
      ["[", "]"],
      ["exp(", ")"],
      ["-", ""],
    ] as const);
    const [at, depth] = [below(words.length), 1 + below(300)];
    words.splice(at, 1, open.repeat(depth), words[at]!, close.repeat(depth));
  },
  (words, below, choose) => {
    const comment = `// ${choose(oddWords)}${choose(oddWords)} x ${choose(oddWords)}\n`;
    words.splice(below(words.length), 0, comment);
  },
  (words, below) => void words.splice(below(words.length), 0, " + q".repeat(below(600))),
  (words, below) => {
    words.splice(
      below(words.length),
      0,
      String.fromCharCode(...Array.from({ length: 8 }, () => below(65536))),
    );
  },
  (words, below, choose) =>
    void words.splice(below(words.length), 0, "z".repeat(choose([63, 65, 5000]))),
  (words, below) => void (words.length = below(words.length + 1)),
];

/** The hostile text of a number, always the same. */
export function hostileText(seed: number): { readonly name: string; readonly text: string } {
  const random = generator(seed);
  const below = (n: number) => Math.floor(random() * Math.max(1, n));
  const choose: Choose = (list) => list[below(list.length)]!;
  const { text } = exampleSource(choose([...exampleNames, ...ruleNames]));
  const words = text
    .split(/(\s+|\/\/[^\n]*|[A-Za-z_]\w*|[\d.]+|->|\*\*|.)/)
    .filter((word) => word !== "");
  // Half of them by renaming alone, which leaves most of them whole.
  const few = seed % 2 === 0 ? [mutations[5]!, mutations[7]!] : mutations;
  for (let n = 1 + below(3); n > 0; n--) choose(few)(words, below, choose);
  return { name: `${choose(oddWords)}${seed}.lasp`, text: words.join("") };
}

/** mulberry32, by Tommy Ettinger: numbers in [0, 1). */
function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
